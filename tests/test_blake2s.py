"""BLAKE2s and the KDF built on it, against hashlib and hmac of the standard library."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wgfast import _core


def blake2s(data: bytes = b"") -> hashlib._Hash:
    return hashlib.blake2s(data)


def kdf(key: bytes, data: bytes, n: int) -> tuple[bytes, ...]:
    """KDF_n of the WireGuard paper, section 5.4, from HMAC."""
    extracted = hmac.new(key, data, blake2s).digest()
    outputs: list[bytes] = []
    for i in range(n):
        before = outputs[-1] if outputs else b""
        outputs.append(hmac.new(extracted, before + bytes([i + 1]), blake2s).digest())
    return tuple(outputs)


def test_rfc7693_appendix_b() -> None:
    digest = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
    assert _core.blake2s(b"abc").hex() == digest


@pytest.mark.parametrize("length", range(260))
def test_every_length_across_blocks(length: int) -> None:
    data = bytes(i % 251 for i in range(length))
    assert _core.blake2s(data) == hashlib.blake2s(data).digest()


@given(st.binary(max_size=1000), st.integers(1, 32), st.binary(max_size=32))
def test_sizes_and_keys(data: bytes, size: int, key: bytes) -> None:
    assert _core.blake2s(data, size, key) == hashlib.blake2s(data, digest_size=size, key=key).digest()


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300), st.integers(1, 3))
def test_kdf(key: bytes, data: bytes, n: int) -> None:
    assert _core.kdf(key, data, n) == kdf(key, data, n)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _core.blake2s(b"", 0), "size: 0: expected 1 to 32"),
        (lambda: _core.blake2s(b"", 33), "size: 33: expected 1 to 32"),
        (lambda: _core.blake2s(b"", 32, bytes(33)), "key: 33 bytes: expected at most 32"),
        (lambda: _core.kdf(bytes(31), b"", 1), "key: 31 bytes: expected 32"),
        (lambda: _core.kdf(bytes(32), b"", 0), "n: 0: expected 1 to 3"),
        (lambda: _core.kdf(bytes(32), b"", 4), "n: 4: expected 1 to 3"),
    ],
)
def test_what_is_refused(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()


def test_text_is_refused() -> None:
    with pytest.raises(TypeError, match="data: str: expected a bytes-like object"):
        _core.blake2s("abc")  # type: ignore[arg-type]
