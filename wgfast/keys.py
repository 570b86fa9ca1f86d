"""Keys: making, reading and deriving them, and where X25519 comes from.

A key is 32 bytes. It may be given as base64 (what `wg genkey` prints), as hexadecimal (what the UAPI
speaks), or as the bytes themselves.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import TYPE_CHECKING, Final

from nacl._sodium import ffi, lib

from .errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

KEY_SIZE = 32
_EXPECTED = "44 characters of base64, 64 of hexadecimal, or 32 bytes"

lib.sodium_init()


class Key(bytes):
    """32 bytes that print as base64: `str(key)` is what `wg` shows, `repr(key)` says what it is.

    A key is a `bytes` and compares and hashes as one. ConfigError when it is made from anything but 32 bytes.
    """

    __slots__ = ()

    def __new__(cls, raw: Buffer) -> Self:
        key = super().__new__(cls, raw)
        if len(key) != KEY_SIZE:
            raise ConfigError(f"{cls.__name__}: {len(key)} bytes: expected {KEY_SIZE}")
        return key

    def __str__(self) -> str:
        return base64.b64encode(self).decode("ascii")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)

    @property
    def short(self) -> str:
        """The form for logs, as other implementations print it: `AbCd…WxYz`."""
        text = str(self)
        return f"{text[:4]}…{text[39:43]}"


class PublicKey(Key):
    """An X25519 public key."""

    __slots__ = ()


class _SecretKey(Key):
    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, hidden>"

    @property
    def short(self) -> str:
        return "(hidden)"


class PrivateKey(_SecretKey):
    """An X25519 private key. `str()` tells it, `repr()` does not."""

    __slots__ = ()


class PresharedKey(_SecretKey):
    """A key mixed into the handshake against a future that can break X25519. `str()` tells it, `repr()` does
    not."""

    __slots__ = ()


def generate_private_key() -> PrivateKey:
    """A new private key, clamped, from the system's randomness."""
    return PrivateKey(clamp(os.urandom(KEY_SIZE)))


def generate_preshared_key() -> PresharedKey:
    """A new preshared key from the system's randomness."""
    return PresharedKey(os.urandom(KEY_SIZE))


def public_key(private_key: str | Buffer) -> PublicKey:
    """The public key that belongs to a private one. ConfigError if that is no key."""
    out = bytearray(KEY_SIZE)
    lib.crypto_scalarmult_base(ffi.from_buffer(out), parse_key(private_key, "private_key"))
    return PublicKey(out)


def clamp(private_key: Buffer) -> bytes:
    """Sets the bits of a scalar as X25519 wants them (RFC 7748, section 5), so that what is shown is what is
    used."""
    scalar = bytearray(private_key)
    scalar[0] &= 248
    scalar[31] = (scalar[31] & 127) | 64
    return bytes(scalar)


def parse_key(value: str | Buffer, field: str) -> bytes:
    """Reads a key in any of its three forms.

    Raises ConfigError naming `field`, the form of what was given (never the value: it may be a secret) and
    what was expected. Base64 must be canonical, as `wg` demands: one key has one spelling."""
    if isinstance(value, str):
        return _parse_text(value, field)
    try:
        raw = bytes(memoryview(value))
    except TypeError:
        raise ConfigError(f"{field}: {type(value).__name__}: expected {_EXPECTED}") from None
    if len(raw) != KEY_SIZE:
        raise ConfigError(f"{field}: {len(raw)} bytes: expected {_EXPECTED}")
    return raw


def _parse_text(text: str, field: str) -> bytes:
    try:
        if len(text) == 64:
            # Not bytes.fromhex, which would skip blanks.
            return binascii.unhexlify(text)
        if len(text) == 44:
            raw = base64.b64decode(text, validate=True)
            if len(raw) == KEY_SIZE and base64.b64encode(raw) == text.encode("ascii"):
                return raw
    except ValueError:
        pass
    kind = {64: "that are not hexadecimal", 44: "that are not base64 of 32 bytes"}.get(len(text), "of text")
    raise ConfigError(f"{field}: {len(text)} characters {kind}: expected {_EXPECTED}")


# X25519. PyNaCl's public functions take and return bytes objects, which cannot be wiped and which the garbage
# collector may keep for ever, and its cffi layer would have Python hold views of secrets. So the C core is
# given libsodium's functions themselves: what they read and write is memory that it owns, keeps out of core
# dumps and wipes.

X25519: Final = tuple(
    int(ffi.cast("uintptr_t", ffi.addressof(lib, name)))
    for name in ("crypto_scalarmult", "crypto_scalarmult_base")
)
"""The addresses that `_core.use_x25519` takes."""
