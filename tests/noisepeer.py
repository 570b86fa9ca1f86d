"""A WireGuard peer from other people's code: handshake by noiseprotocol, packets by cryptography, macs by
hashlib.

It shares nothing with wgfast but the whitepaper, so it can judge what wgfast sends and receives.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from noise.connection import Keypair, NoiseConnection

PROTOCOL = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
PROLOGUE = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
NO_PSK = bytes(32)


class DataMessage(NamedTuple):
    receiver: int
    counter: int
    inner: bytes  # padding included


def public_of(private: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(private).public_key()
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def mac1(message: bytes, public: bytes) -> bytes:
    """Whitepaper 5.4.4, of a message without its macs, for whoever has this public key."""
    key = hashlib.blake2s(b"mac1----" + public).digest()
    return hashlib.blake2s(message, key=key, digest_size=16).digest()


def mac2(message: bytes, cookie: bytes) -> bytes:
    """Of a message without its mac2."""
    return hashlib.blake2s(message, key=cookie, digest_size=16).digest()


def tai64n(seconds: float) -> bytes:
    whole, part = divmod(round(seconds * 10**9), 10**9)
    return struct.pack(">QI", (1 << 62) + 10 + whole, part)


class NoisePeer:
    """One side of one tunnel, in either role; the transport keys are those of its last handshake."""

    def __init__(self, remote_public: bytes, psk: bytes = NO_PSK, private: bytes | None = None) -> None:
        self.private = private or os.urandom(32)
        self.public = public_of(self.private)
        self.remote_public = remote_public
        self.psk = psk
        self.send_key = self.receive_key = b""
        self.sent = 0
        self.index = 0  # ours
        self.remote_index = 0

    def _noise(self) -> NoiseConnection:
        noise = NoiseConnection.from_name(PROTOCOL)
        noise.set_prologue(PROLOGUE)
        noise.set_psks(psk=self.psk)
        noise.set_keypair_from_private_bytes(Keypair.STATIC, self.private)
        return noise

    def _finish(self) -> None:
        assert self.noise.handshake_finished
        self.send_key = self.noise.noise_protocol.cipher_state_encrypt.k
        self.receive_key = self.noise.noise_protocol.cipher_state_decrypt.k
        self.sent = 0

    def _signed(self, body: bytes) -> bytes:
        return body + mac1(body, self.remote_public) + bytes(16)

    # As initiator

    def initiation(self, index: int = 1, stamp: bytes | None = None) -> bytes:
        self.noise = self._noise()
        self.noise.set_as_initiator()
        self.noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, self.remote_public)
        self.noise.start_handshake()
        self.index = index
        noise = self.noise.write_message(tai64n(time.time()) if stamp is None else stamp)
        return self._signed(struct.pack("<II", 1, index) + noise)

    def read_response(self, message: bytes) -> None:
        kind, self.remote_index, receiver = struct.unpack_from("<III", message)
        assert (len(message), kind, receiver) == (92, 2, self.index)
        assert message[60:76] == mac1(message[:60], self.public)
        assert self.noise.read_message(message[12:60]) == b""
        self._finish()

    # As responder

    def read_initiation(self, message: bytes) -> bytes:
        """Returns the time stamp."""
        self.noise = self._noise()
        self.noise.set_as_responder()
        self.noise.start_handshake()
        kind, self.remote_index = struct.unpack_from("<II", message)
        assert (len(message), kind) == (148, 1)
        assert message[116:132] == mac1(message[:116], self.public)
        stamp = bytes(self.noise.read_message(message[8:116]))
        assert self.noise.noise_protocol.handshake_state.rs.public_bytes == self.remote_public
        return stamp

    def response(self, index: int = 2) -> bytes:
        self.index = index
        body = struct.pack("<III", 2, index, self.remote_index) + self.noise.write_message(b"")
        self._finish()
        return self._signed(body)

    # Afterwards

    def seal(self, inner: bytes, counter: int | None = None) -> bytes:
        """A data message; `inner` is padded to 16 bytes by nobody but the caller."""
        if counter is None:
            counter, self.sent = self.sent, self.sent + 1
        nonce = bytes(4) + struct.pack("<Q", counter)
        header = struct.pack("<IIQ", 4, self.remote_index, counter)
        return header + ChaCha20Poly1305(self.send_key).encrypt(nonce, inner, b"")

    def open(self, message: bytes) -> DataMessage | None:
        """None: it does not verify."""
        kind, receiver, counter = struct.unpack_from("<IIQ", message)
        assert kind == 4
        nonce = bytes(4) + struct.pack("<Q", counter)
        try:
            inner = ChaCha20Poly1305(self.receive_key).decrypt(nonce, message[16:], b"")
        except InvalidTag:
            return None
        return DataMessage(receiver, counter, inner)
