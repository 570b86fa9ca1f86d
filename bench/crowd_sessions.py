"""A crowd of initiators, each with a key of its own, that shake hands with one responder and then have
something to say: what benches with thousands of peers send."""

from __future__ import annotations

import base64
import hashlib
import struct
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from wgfast import _core, generate_private_key, noise, public_key, seal
from wgfast.testing import packet

_HEADER = struct.Struct("<IIQ")


def address(number: int) -> str:
    """The inner address of a member."""
    return ".".join(map(str, (number + (10 << 24)).to_bytes(4, "big")))


class Crowd:
    """`size` peers of the responder with this public key, numbered from 1 on: the index by which each is
    called. One handshake each."""

    def __init__(self, size: int, responder: bytes) -> None:
        self.keys = [bytes(generate_private_key()) for _ in range(size)]
        self._mac_key = hashlib.blake2s(b"mac1----" + responder).digest()
        # One core plays them all, one after the other.
        self._core = _core.Core(0)
        self._peer = self._core.add_peer(responder)
        self._stamper = noise.Tai64n()
        self._running: dict[int, noise.Initiation] = {}
        self._send_keys = np.zeros((size, 32), np.uint8)
        self._indices = np.zeros(size, np.uint32)
        self._said = 0  # messages of each

    def __len__(self) -> int:
        return len(self.keys)

    def configuration(self) -> str:
        """The [Peer] sections of the responder."""
        lines = []
        for number, key in enumerate(self.keys, 1):
            public = base64.b64encode(bytes(public_key(key))).decode()
            lines.append(f"[Peer]\nPublicKey = {public}\nAllowedIPs = {address(number)}/32\n")
        return "".join(lines)

    def initiation(self, number: int) -> bytes:
        self._be(number)
        stamp = self._stamper.stamp(number, _core.clock_now(), time.time_ns())
        made = noise.create_initiation(self._core, self._peer, stamp)
        assert not isinstance(made, int)
        begun, message = made
        self._running[number] = noise.Initiation(begun.peer, number, begun.handshake)
        struct.pack_into("<I", message, 4, number)
        body = bytes(message[:116])
        return body + hashlib.blake2s(body, key=self._mac_key, digest_size=16).digest() + bytes(16)

    def take(self, response: bytes) -> int:
        """The member whose session this response began; 0: nobody's."""
        if len(response) != noise.RESPONSE_SIZE or response[0] != 2:
            return 0
        number = struct.unpack_from("<I", response, 8)[0]
        running = self._running.pop(number, None)
        if running is None:
            return 0
        self._be(number)
        done = noise.consume_response(self._core, running, response)
        assert not isinstance(done, int)
        self._indices[number - 1] = done.remote_index
        self._send_keys[number - 1] = np.frombuffer(done.handshake.split()[0], np.uint8)
        return number

    def _be(self, number: int) -> None:
        key = self.keys[number - 1]
        self._core.set_identity(key, bytes(public_key(key)))

    def messages(self, destination: str, payload: int, each: int) -> Iterator[NDArray[np.uint8]]:
        """So many times a data message from everybody, (size, bytes) uint8: an inner UDP packet. None of them
        has been before."""
        inner = [packet(address(number), destination, bytes(payload)) for number in range(1, len(self) + 1)]
        length = -(-len(inner[0]) // 16) * 16
        texts = np.zeros((len(self), length), np.uint8)
        texts[:, : len(inner[0])] = np.frombuffer(b"".join(inner), np.uint8).reshape(len(self), -1)
        sealed = np.empty((len(self), length + 16), np.uint8)
        for counter in range(self._said, self._said + each):
            numbers = np.full(len(self), counter, np.uint64)
            seal(texts, np.full(len(self), length, np.uint32), self._send_keys, numbers, sealed)
            headers = b"".join(_HEADER.pack(4, int(index), counter) for index in self._indices)
            yield np.hstack([np.frombuffer(headers, np.uint8).reshape(-1, _HEADER.size), sealed])
        self._said += each
