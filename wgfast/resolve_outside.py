"""Names of endpoints, asked for around the tunnel.

Where all traffic goes into a tunnel, so do the system's questions for names. A tunnel that is dead because
its server has another address now would never hear of it. What is asked here bears the tunnel's mark, as its
own datagrams do, and goes to the name servers there were before the tunnel. Only the name of an endpoint is
ever asked for, and only when the system could not resolve it: it was asked for on the same way when the
tunnel was set up.

Messages are those of RFC 1035, section 4; one datagram each, as short answers are.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from ._core import Endpoint

# The second has what the stub of systemd-resolved, on loopback, asks itself.
_FILES: Final = ("/etc/resolv.conf", "/run/systemd/resolve/resolv.conf")
_SERVER: Final = re.compile(r"^nameserver[ \t]+(\S+)", re.MULTILINE)
_SERVERS: Final = 6  # at most
PATIENCE: Final = 2.0  # seconds for one server
_PORT: Final = 53
_HEADER: Final = struct.Struct(">HHHHHH")
_RECORD: Final = struct.Struct(">HHIH")
_RECURSION_DESIRED: Final = 0x0100
_IS_ANSWER: Final = 0x8000
_ERROR: Final = 0x000F
_INTERNET: Final = 1
_LENGTHS: Final = {1: 4, 28: 16}  # of the addresses in A and AAAA records (RFC 3596)
_POINTER: Final = 0xC0
_MESSAGE_MAX: Final = 4096

# Sets the mark of a socket. OSError: it cannot be set.
Mark = Callable[[socket.socket], None]


def name_servers() -> list[str]:
    """Those of the system now, but for programs on this machine, which would ask on without a mark."""
    found: dict[str, None] = {}
    for path in _FILES:
        with contextlib.suppress(OSError), open(path, errors="replace") as file:
            found.update(dict.fromkeys(_servers(file.read(1 << 16))))
    return list(found)[:_SERVERS]


def _servers(text: str) -> Iterator[str]:
    for server in _SERVER.findall(text):
        with contextlib.suppress(ValueError):
            if not ipaddress.ip_address(server).is_loopback:
                yield server


def lookup(host: str, port: int, servers: Iterable[str], mark: Mark) -> list[Endpoint]:
    """The addresses of a name as the first server that has any says, IPv4 first. OSError: none has. It waits
    for the network."""
    failure = OSError("there is no name server to ask")
    for server in servers:
        try:
            found = _ask(server, host, mark)
        except OSError as error:
            failure = error
        else:
            if found:
                return [Endpoint(address, port) for address in found]
    raise failure


def _ask(server: str, host: str, mark: Mark) -> list[str]:
    number = int.from_bytes(os.urandom(2), "big")
    questions = {number ^ kind: (kind, question(number ^ kind, host, kind)) for kind in _LENGTHS}
    found: dict[int, list[str]] = {}
    (family, _, _, _, where), *_ = socket.getaddrinfo(
        server, _PORT, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
    )
    end = time.monotonic() + PATIENCE
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        mark(client)
        client.connect(where)  # from now on nobody else's answer is heard
        for _, message in questions.values():
            client.send(message)
        while len(found) < len(questions) and (left := end - time.monotonic()) > 0:
            client.settimeout(left)
            try:
                message = client.recv(_MESSAGE_MAX)
            except TimeoutError:
                break
            with contextlib.suppress(ValueError, KeyError):  # nothing that was asked for
                kind, asked = questions[int.from_bytes(message[:2], "big")]
                found[kind] = answers(asked, message)
    if not found:
        raise TimeoutError(f"{server} does not answer")
    return [address for kind in sorted(found) for address in found[kind]]


def question(number: int, host: str, kind: int) -> bytes:
    """For the records of that type. OSError: no name can look like this."""
    try:
        labels = [label.encode("ascii") for label in host.rstrip(".").encode("idna").decode().split(".")]
    except UnicodeError as error:
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from None
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    if not all(0 < len(label) < 64 for label in labels) or len(name) > 255:
        raise socket.gaierror(socket.EAI_NONAME, "a label has 1 to 63 bytes, a name up to 255")
    header = _HEADER.pack(number, _RECURSION_DESIRED, 1, 0, 0, 0)
    return header + name + struct.pack(">HH", kind, _INTERNET)


def answers(asked: bytes, message: bytes) -> list[str]:
    """The addresses in an answer to that question: none if there is no such name, or the server could not
    tell. ValueError if it answers something else, or is malformed."""
    try:
        number, flags, questions, records, _, _ = _HEADER.unpack_from(message)
        end = len(asked)
        same = message[_HEADER.size : end].lower() == asked[_HEADER.size :].lower()
        if number != int.from_bytes(asked[:2], "big") or not flags & _IS_ANSWER or questions != 1 or not same:
            raise ValueError("answers another question")
        if flags & _ERROR:
            return []
        kind = int.from_bytes(asked[-4:-2], "big")
        return list(_addresses(message, end, records, kind))
    except (struct.error, IndexError):
        raise ValueError("ends too early") from None


def _addresses(message: bytes, at: int, records: int, kind: int) -> Iterator[str]:
    """Whatever name a record has: the server has followed the aliases."""
    for _ in range(records):
        at = _after_name(message, at)
        found, network, _, length = _RECORD.unpack_from(message, at)
        at += _RECORD.size
        data = message[at : at + length]
        if len(data) < length:
            raise IndexError
        if (found, network, length) == (kind, _INTERNET, _LENGTHS[kind]):
            yield str(ipaddress.ip_address(data))
        at += length


def _after_name(message: bytes, at: int) -> int:
    while length := message[at]:
        if length & _POINTER:
            return at + 2  # to the rest of the name, which ends it
        at += 1 + length
    return at + 1
