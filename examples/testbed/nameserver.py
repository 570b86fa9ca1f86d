"""An authoritative name server for a handful of names: A and AAAA over UDP (RFC 1035), nothing more.

It runs in a thread of this program with its socket inside a host, so that a claim can change a record and
see who asked for what.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import threading
from dataclasses import dataclass
from typing import Final

from .host import Host

_PORT: Final = 53
_TYPES: Final = {1: 4, 28: 6}  # A, AAAA -> IP version
_HEADER: Final = struct.Struct("!6H")
_ANSWER: Final = struct.Struct("!HHHIH")
_AUTHORITATIVE: Final = 0x8400
_RECURSION_DESIRED: Final = 0x0100
_NO_SUCH_NAME: Final = 3
# Stub resolvers do not cache; a caching one should notice a change at once.
_TTL: Final = 1


@dataclass(frozen=True)
class Query:
    client: str
    name: str
    type: int


class NameServer:
    """`zone` maps names to addresses; it may be changed while the server runs."""

    def __init__(self, host: Host, zone: dict[str, list[str]]) -> None:
        self.zone = zone
        self.queries: list[Query] = []
        with host.entered():
            self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._socket.bind(("::", _PORT))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        # Wakes the thread; an unconnected socket calls it an error, and does it.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                request, client = self._socket.recvfrom(512)
            except OSError:
                return
            if not request:
                return
            with contextlib.suppress(IndexError, UnicodeDecodeError, struct.error, OSError):
                self._socket.sendto(self._answer(request, client[0].removeprefix("::ffff:")), client)

    def _answer(self, request: bytes, client: str) -> bytes:
        number, flags = _HEADER.unpack_from(request)[:2]
        name, end = _name(request, _HEADER.size)
        kind = struct.unpack_from("!H", request, end)[0]
        self.queries.append(Query(client, name, kind))
        records = self.zone.get(name)
        found = [ipaddress.ip_address(record) for record in records or ()]
        found = [address for address in found if address.version == _TYPES.get(kind)]
        flags = _AUTHORITATIVE | flags & _RECURSION_DESIRED | (_NO_SUCH_NAME if records is None else 0)
        answer = _HEADER.pack(number, flags, 1, len(found), 0, 0) + request[_HEADER.size : end + 4]
        for address in found:
            # The name is a pointer to that of the question.
            answer += _ANSWER.pack(0xC000 | _HEADER.size, kind, 1, _TTL, len(address.packed)) + address.packed
        return answer


def _name(message: bytes, start: int) -> tuple[str, int]:
    """A question's name, which is never compressed, and where it ends."""
    labels = []
    while length := message[start]:
        labels.append(message[start + 1 : start + 1 + length].decode("ascii").lower())
        start += 1 + length
    return ".".join(labels), start + 1
