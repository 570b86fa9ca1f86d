"""The client's side of the cross-platform userspace interface (https://www.wireguard.com/xplatform/).

The words go over a stream socket named after the interface. uapi.py is the daemon's side of the same words.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from wgfast import limits
from wgfast._core import Endpoint
from wgfast.client_state import (
    KEY_SIZE,
    DeviceState,
    PeerState,
    PeerStatistics,
    Statistics,
    endpoint_text,
    prefix_text,
)
from wgfast.keys import public_key
from wgfast.uapi import PeerBlock, SetRequest, parse_prefix
from wgfast.uapi_socket import DIRECTORY, socket_path

# Whoever asks may be privileged, and the daemon one that was taken over by what it carried: it must not hang
# whoever asks it, nor fill his memory, nor write to his terminal.
TIMEOUT: Final = 30.0  # for each step of an exchange
_SLOWEST: Final = 1 << 20  # bytes a second, after that
ANSWER_MAX: Final = 256 << 20  # a million allowed IPs are 40 MB
_ERRNO: Final = re.compile(r"-?[0-9]{1,9}")
# Of UTF-8, control characters but the line's end.
_CONTROL: Final = re.compile(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]")
_SCOPE: Final = re.compile(r"[^\s/:%]{1,15}")
_SUFFIX: Final = ".sock"
_RECEIVE: Final = 1 << 18
_U64: Final = (1 << 64) - 1
_I64: Final = (1 << 63) - 1

Lines = list[tuple[str, str]]


def failure(code: int, name: str) -> OSError:
    """The OSError of this errno; `name` is the interface's."""
    return OSError(code, os.strerror(code), name)


# ---- sockets ----


def interfaces() -> list[str]:
    """Whoever answers here, in the directory's order. OSError if it cannot be read."""
    try:
        names = os.listdir(DIRECTORY)
    except FileNotFoundError:
        return []
    candidates = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
    return [name for name in candidates if name and _listens(name)]


def _listens(name: str) -> bool:
    try:
        client = connect(name)
    except OSError:
        return True  # somebody may listen: asking him will tell
    if client is None:
        return False
    client.close()
    return True


def connect(name: str) -> socket.socket | None:
    """A connection to the interface's daemon; None if there is none. A socket without a daemon is removed,
    as `wg` does. OSError for what else refuses it."""
    path = socket_path(name)
    try:
        if "/" in name or "\0" in name or not stat.S_ISSOCK(os.stat(path).st_mode):
            return None
    except OSError:
        return None
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(TIMEOUT)
    try:
        client.connect(path)
    except ConnectionRefusedError:
        client.close()
        _remove_abandoned(path)
        return None
    except OSError as error:
        client.close()
        raise failure(error.errno or errno.EIO, name) from None
    return client


def _remove_abandoned(path: str) -> None:
    # A daemon of ours that begins holds this lock between bind and listen, when its socket refuses as well.
    with contextlib.suppress(OSError):
        lock = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as again:
                again.setblocking(False)
                try:
                    again.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)
        finally:
            os.close(lock)


def exchange(client: socket.socket, request: str, name: str) -> Lines:
    """One operation; its answer's lines without the errno. OSError is the answer's errno, EPROTO for one that
    is none, EMSGSIZE for one without end, ETIMEDOUT for none."""
    try:
        client.sendall(request.encode())
        answer = _receive(client)
    except TimeoutError:
        raise failure(errno.ETIMEDOUT, name) from None
    except OSError as error:
        raise failure(error.errno or errno.EIO, name) from None
    lines = [(key, value) for key, equals, value in (line.partition("=") for line in answer) if equals]
    code = lines.pop()[1] if lines and lines[-1][0] == "errno" else ""
    if len(lines) + 1 != len(answer) or not _ERRNO.fullmatch(code):
        raise failure(errno.EPROTO, name)
    if int(code):
        # wireguard-go says a set's negative.
        raise failure(abs(int(code)), name)
    return lines


def _receive(client: socket.socket) -> list[str]:
    """The answer's lines up to the empty one; none if it ends before that, or holds what no answer does."""
    answer = bytearray()
    began = time.monotonic()
    while True:
        searched = max(len(answer) - 1, 0)
        piece = client.recv(_RECEIVE)
        answer += piece
        end = answer.find(b"\n\n", searched)
        if end >= 0:
            text = answer[:end]
            return [] if _CONTROL.search(text) else text.decode("utf-8", "replace").split("\n")
        if not piece:
            return []
        if len(answer) > ANSWER_MAX:
            raise OSError(errno.EMSGSIZE, "an answer without end")
        if time.monotonic() - began > TIMEOUT + len(answer) / _SLOWEST:
            raise TimeoutError


# ---- get ----


def get(client: socket.socket, name: str) -> DeviceState:
    """OSError as exchange() raises it; EPROTO as well for a value that cannot be one."""
    lines = exchange(client, "get=1\n\n", name)
    try:
        return parse_device(name, lines)
    except ValueError:
        raise failure(errno.EPROTO, name) from None


def parse_device(name: str, lines: Iterable[tuple[str, str]]) -> DeviceState:
    """ValueError for a value that cannot be one; what is unknown goes to `extra`."""
    device = DeviceState(name)
    peer: PeerState | None = None
    for key, value in lines:
        if key == "public_key":
            peer = PeerState(_key(value))
            device.peers.append(peer)
        elif peer is None:
            _read_device_line(device, key, value)
        elif key in _PEER_READERS:
            _PEER_READERS[key](peer, value)
        else:
            peer.extra[key] = value
    return device


def _read_device_line(device: DeviceState, key: str, value: str) -> None:
    if key == "private_key":
        device.private_key = _key(value)
        device.public_key = bytes(public_key(device.private_key))
    elif key == "listen_port":
        device.listen_port = _number(value, 0xFFFF)
    elif key == "fwmark":
        device.fwmark = _number(value, 0xFFFFFFFF)
    else:
        device.extra[key] = value


def _key(value: str) -> bytes:
    key = bytes.fromhex(value)
    if len(value) != 2 * KEY_SIZE or len(key) != KEY_SIZE:
        raise ValueError
    return key


def _number(value: str, most: int) -> int:
    if not (value.isascii() and value.isdigit()) or len(value) > 20 or int(value) > most:
        raise ValueError
    return int(value)


def _endpoint(value: str) -> Endpoint:
    """Numbers only. An IPv4 address inside IPv6 stays there: it is shown as it was said."""
    host, colon, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    address, percent, scope = host.partition("%")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        shortest = socket.inet_ntop(family, socket.inet_pton(family, address))
    except OSError:
        raise ValueError from None
    if not colon or (":" in address and not bracketed) or (percent and not bracketed):
        raise ValueError
    if percent and not _SCOPE.fullmatch(scope):
        raise ValueError
    return Endpoint(shortest + percent + scope, _number(port, 0xFFFF))


def _read_preshared_key(peer: PeerState, value: str) -> None:
    peer.preshared_key = _key(value)


def _read_endpoint(peer: PeerState, value: str) -> None:
    peer.endpoint = _endpoint(value)


def _read_allowed_ip(peer: PeerState, value: str) -> None:
    peer.allowed_ips.append(parse_prefix(value))


def _read_handshake_seconds(peer: PeerState, value: str) -> None:
    peer.last_handshake = _number(value, _I64), peer.last_handshake[1]


def _read_handshake_nanoseconds(peer: PeerState, value: str) -> None:
    peer.last_handshake = peer.last_handshake[0], _number(value, _I64)


def _read_received_bytes(peer: PeerState, value: str) -> None:
    peer.received_bytes = _number(value, _U64)


def _read_sent_bytes(peer: PeerState, value: str) -> None:
    peer.sent_bytes = _number(value, _U64)


def _read_keepalive(peer: PeerState, value: str) -> None:
    peer.persistent_keepalive = _number(value, 0xFFFF)


def _read_limit(peer: PeerState, value: str, *, name: str) -> None:
    peer.limits = {**(peer.limits or {}), name: _number(value, limits.MOST[name])}


def _pass_over(_: PeerState, value: str) -> None:
    """protocol_version: there is one."""


_PEER_READERS: Final[dict[str, Callable[[PeerState, str], None]]] = {
    "preshared_key": _read_preshared_key,
    "endpoint": _read_endpoint,
    "allowed_ip": _read_allowed_ip,
    "last_handshake_time_sec": _read_handshake_seconds,
    "last_handshake_time_nsec": _read_handshake_nanoseconds,
    "rx_bytes": _read_received_bytes,
    "tx_bytes": _read_sent_bytes,
    "persistent_keepalive_interval": _read_keepalive,
    "protocol_version": _pass_over,
    **{name: functools.partial(_read_limit, name=name) for name in limits.NAMES},
}


# ---- set ----


def set_text(request: SetRequest) -> str:
    """The whole `set=1`, with its empty line."""
    return "".join(f"{line}\n" for line in ("set=1", *_set_lines(request))) + "\n"


def _set_lines(request: SetRequest) -> Iterator[str]:
    if request.private_key is not None:
        yield f"private_key={request.private_key.hex()}"
    if request.listen_port is not None:
        yield f"listen_port={request.listen_port}"
    if request.fwmark is not None:
        yield f"fwmark={request.fwmark}"
    if request.replace_peers:
        yield "replace_peers=true"
    for block in request.peers:
        yield f"public_key={block.public_key.hex()}"
        if block.remove:
            yield "remove=true"
        else:
            yield from _peer_lines(block)


def _peer_lines(block: PeerBlock) -> Iterator[str]:
    if block.update_only:
        yield "update_only=true"
    if block.preshared_key is not None:
        yield f"preshared_key={block.preshared_key.hex()}"
    if block.endpoint is not None:
        yield f"endpoint={endpoint_text(block.endpoint)}"
    if block.endpoint_host is not None:
        yield f"endpoint_host={block.endpoint_host}"  # after the endpoint, which drops a name
    if block.persistent_keepalive is not None:
        yield f"persistent_keepalive_interval={block.persistent_keepalive}"
    if block.replace_allowed_ips:
        yield "replace_allowed_ips=true"
    if block.limits:
        yield from (f"{name}={value}" for name, value in block.limits.items())
    for prefix, add in block.allowed_ips.items():
        yield f"allowed_ip={'' if add else '-'}{prefix_text(prefix)}"


# ---- wgfast's own ----


def statistics(client: socket.socket, name: str) -> Statistics | None:
    """None if the other side does not know the operation: it refuses, or hangs up."""
    try:
        lines = exchange(client, "wgfast=1\n\n", name)
        return parse_statistics(lines)
    except (OSError, ValueError):
        return None


def parse_statistics(lines: Iterable[tuple[str, str]]) -> Statistics:
    """ValueError for a number that is none."""
    found = Statistics()
    peer: PeerStatistics | None = None
    for key, value in lines:
        if key == "public_key":
            peer = found.peers[_key(value)] = PeerStatistics()
        elif peer is not None:
            _read_peer_statistic(peer, key, value)
        elif key in ("version", "aead_kernel"):
            setattr(found, key, value)
        elif key in ("threads", "queues", "sessions", "staged", "packet_memory_ceiling"):
            setattr(found, key, _number(value, _U64))
        elif key.startswith("drop_"):
            found.drops[key.removeprefix("drop_")] = _number(value, _U64)
        elif key.startswith("offload_"):
            found.offloads[key.removeprefix("offload_")] = value
        else:
            found.extra[key] = value
    return found


def _read_peer_statistic(peer: PeerStatistics, key: str, value: str) -> None:
    if key == "endpoint_host":
        peer.endpoint_host = value or None
    elif key in ("sent_packets", "received_packets", "staged"):
        setattr(peer, key, _number(value, _U64))
