"""The cross-platform userspace interface (https://www.wireguard.com/xplatform/): what `wg` speaks.

A request is lines of key=value that end with an empty line. `get=1` is answered by the device and its
peers, `set=1` changes them; every answer ends with errno=N and an empty line. A set is read and checked
whole (parse_set) before any of it is done (uapi_apply.py): a refused one changes nothing. It may be of a
hundred thousand peers, so the core reads it (core/setting_parse.c); what a line means is written down here
once more, and that is what words a refusal. Nothing here touches a socket; uapi_server.py does.

Some things are wgfast's own. `wgfast=1` is answered by what `get=1` has no keys for (statistics). Of a peer,
what follows is also shown by get=1, where tools pass over what they do not know. endpoint_host=NAME:PORT in a
set is resolved here, again and again; an empty one, and an endpoint line after it, drop the name. Limits
(limits.py) are numbers, 0: none; what is not mentioned stays. For send_ and for receive_ there are

    rate, burst                 bits a second; how many bytes at once
    packet_rate, packet_burst   packets a second; how many at once
    quota, used                 bytes in all; those that passed, which may be set as well
"""

from __future__ import annotations

import errno
import functools
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from wgfast import __version__, _core, limits, settings
from wgfast._core import Endpoint
from wgfast.errors import ConfigError, PeerRemovedError
from wgfast.resolve import format_name

if TYPE_CHECKING:
    from wgfast.device import Device

Prefix = tuple[int, bytes, int]  # family 4 or 6, address in network order with host bits zero, length

KEY_SIZE: Final = 32
_PIECE: Final = 1 << 16
_ZERO_KEY: Final = bytes(KEY_SIZE)
_WORD: Final = re.compile(r"[a-z_]{1,32}")
_MAPPED: Final = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}
# Looked up, not computed: "08", "+8" and "8 " are no lengths. The masks clear host bits.
_LENGTHS: Final = {
    4: {str(n): (n, (1 << 32) - (1 << (32 - n))) for n in range(33)},
    6: {str(n): (n, (1 << 128) - (1 << (128 - n))) for n in range(129)},
}


class UapiError(ConfigError):
    """A request that cannot be done; `errno` is what the client is told."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.errno = code


@dataclass(slots=True)
class PeerBlock:
    """What one public_key line and the lines after it ask for; None: not mentioned."""

    public_key: bytes
    remove: bool = False
    update_only: bool = False
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: Endpoint | None = None
    endpoint_host: str | None = None  # "": its name is dropped, as by an endpoint alone
    persistent_keepalive: int | None = None
    replace_allowed_ips: bool = False
    allowed_ips: dict[Prefix, bool] = field(default_factory=dict)  # True: add, False: take away
    limits: dict[str, int] | None = None  # by name, those that are mentioned


@dataclass(slots=True)
class SetRequest:
    """A whole set, every value of it valid. None: not mentioned; a private key of zeros: none."""

    private_key: bytes | None = field(default=None, repr=False)
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers: bool = False
    peers: list[PeerBlock] = field(default_factory=list)


@dataclass(slots=True)
class Changes:
    """A set as the core has it, every value of it valid."""

    setting: _core.Setting
    hosts: dict[int, str]  # the name of an endpoint, by number of the peer in the setting; "": it has none


def parse_set(body: bytes | memoryview) -> Changes:
    """The lines after `set=1`, without the empty one. UapiError names key, value and what was expected."""
    setting = _core.Setting(body)
    # Those before the line that was refused: the first mistake is the one to be named.
    hosts = {} if setting.fault and not setting.fault[0] else _check_hosts(setting)
    if setting.fault:
        raise _refusal(body, *setting.fault)
    return Changes(setting, hosts)


def _check_hosts(setting: _core.Setting) -> dict[int, str]:
    return {peer: check_endpoint_host(value) if value else "" for peer, value in setting.hosts}


def _refusal(body: bytes | memoryview, number: int, offset: int, length: int, of_peer: bool) -> UapiError:
    if not number:
        return UapiError(errno.EINVAL, f"byte {body[offset]:#04x}: a request is ASCII text")
    request = SetRequest(peers=[PeerBlock(_ZERO_KEY)] if of_peer else [])
    try:
        read_line(request, number, str(body[offset : offset + length], "ascii"))
    except UapiError as error:
        return error
    return UapiError(errno.EINVAL, f"line {number}: refused")  # an interface it names has come since


def read_line(request: SetRequest, number: int, line: str) -> None:
    """Takes one line into what those before it have asked for, as the core does."""
    key, equals, value = line.partition("=")
    if not equals:
        # Not shown: it may hold a secret.
        raise UapiError(errno.EPROTO, f"line {number}, {len(line)} characters: a line is key=value")
    if key == "public_key":
        request.peers.append(PeerBlock(parse_key(key, value)))
    elif request.peers:
        (_PEER_KEYS.get(key) or _unknown(key, "peer"))(request.peers[-1], value)
    else:
        (_DEVICE_KEYS.get(key) or _unknown(key, "device"))(request, value)


def _unknown(key: str, where: str) -> Callable[[object, str], None]:
    other = _DEVICE_KEYS if where == "peer" else _PEER_KEYS
    remedy = "device keys come before the first public_key" if where == "peer" else "public_key comes first"
    # What is no word may be a piece of a secret.
    shown = _quote(key) if _WORD.fullmatch(key) else f"{len(key)} characters before ="
    message = f"{shown}: no {where} key" + (f"; {remedy}" if key in other else "")
    raise UapiError(errno.EINVAL, message)


def _quote(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")


# ---- values ----


def parse_key(name: str, value: str) -> bytes:
    """64 hexadecimal digits. The message never shows the value, which may be most of a secret."""
    if len(value) == 2 * KEY_SIZE:
        try:
            key = bytes.fromhex(value)
        except ValueError:
            key = b""
        if len(key) == KEY_SIZE:  # fromhex skips blanks: then it is shorter
            return key
        raise UapiError(errno.EINVAL, f"{name}: not all of it is hexadecimal digits, 64 were expected")
    raise UapiError(errno.EINVAL, f"{name}: {len(value)} characters, 64 hexadecimal digits were expected")


def parse_number(name: str, value: str, most: int) -> int:
    # int() takes signs, blanks and underscores, and refuses very long strings.
    if value.isascii() and value.isdigit():
        digits = value.lstrip("0") or "0"
        if len(digits) <= 20 and int(digits) <= most:
            return int(digits)
    raise UapiError(errno.EINVAL, f"{name}: {_quote(value)}: a number from 0 to {most} was expected")


def _parse_true(name: str, value: str) -> bool:
    if value != "true":
        raise UapiError(errno.EINVAL, f"{name}: {_quote(value)}: only 'true' can be said")
    return True


def parse_prefix(value: str) -> Prefix:
    """ADDRESS/LENGTH; host bits are masked, as every WireGuard does."""
    address, slash, length = value.partition("/")
    family = 6 if ":" in address else 4
    try:
        raw = socket.inet_pton(_FAMILIES[family], address)
    except (OSError, ValueError):
        raise UapiError(
            errno.EINVAL,
            f"allowed_ip: {_quote(value)}: an IPv4 or IPv6 address was expected before the slash",
        ) from None
    try:
        bits, mask = _LENGTHS[family][length]
    except KeyError:
        most = 32 if family == 4 else 128
        what = f"prefix length must be 0 to {most}" if slash else f"/LENGTH is missing, 0 to {most}"
        raise UapiError(errno.EINVAL, f"allowed_ip: {_quote(value)}: {what}") from None
    if bits != 8 * len(raw):
        raw = (int.from_bytes(raw, "big") & mask).to_bytes(len(raw), "big")
    return family, raw, bits


def parse_endpoint(value: str) -> Endpoint:
    """1.2.3.4:port, [v6]:port or [v6%scope]:port; the scope is an interface's name or number."""
    if value.startswith("["):
        host, bracket, rest = value[1:].partition("]")
        port = rest.removeprefix(":") if bracket and rest.startswith(":") else ""
    else:
        host, _, port = value.rpartition(":")
        if ":" in host:
            raise UapiError(
                errno.EINVAL, f"endpoint: {_quote(value)}: an IPv6 address stands in brackets: [v6]:port"
            )
    number = parse_number("endpoint's port", port, 0xFFFF)
    if number == 0:
        raise UapiError(errno.EINVAL, f"endpoint: {_quote(value)}: port must be 1 to 65535")
    address, percent, scope = host.partition("%")
    bracketed = value.startswith("[")
    try:
        raw = socket.inet_pton(socket.AF_INET6 if bracketed else socket.AF_INET, address)
    except (OSError, ValueError):
        raise UapiError(
            errno.EINVAL,
            f"endpoint: {_quote(value)}: expected numbers, 1.2.3.4:51820 or [2001:db8::1]:51820",
        ) from None
    if percent and not bracketed:
        raise UapiError(errno.EINVAL, f"endpoint: {_quote(value)}: only IPv6 addresses have a scope")
    if not bracketed:
        return Endpoint(socket.inet_ntop(socket.AF_INET, raw), number)
    if raw.startswith(_MAPPED):
        # Our IPv6 socket carries IPv6 only.
        return Endpoint(socket.inet_ntop(socket.AF_INET, raw[12:]), number)
    host = socket.inet_ntop(socket.AF_INET6, raw)
    index = _scope_index(value, scope) if percent else 0
    return Endpoint(f"{host}%{index}" if index else host, number)


def check_endpoint_host(value: str) -> str:
    """NAME:port or [v6]:port; that the name exists is not asked here."""
    if len(value) > 2 * settings.HOST_MAX:
        raise UapiError(errno.EINVAL, f"endpoint_host: {len(value)} characters: a name is shorter")
    try:
        return format_name(*settings.parse_endpoint_host(value))
    except ConfigError as error:
        raise UapiError(errno.EINVAL, str(error)) from None


def _scope_index(endpoint: str, scope: str) -> int:
    if scope.isascii() and scope.isdigit():
        return parse_number("endpoint's scope", scope, 0xFFFFFFFF)
    try:
        return socket.if_nametoindex(scope)
    except (OSError, ValueError):
        raise UapiError(
            errno.EINVAL, f"endpoint: {_quote(endpoint)}: there is no interface {_quote(scope)} here"
        ) from None


# ---- keys ----


def _private_key(request: SetRequest, value: str) -> None:
    request.private_key = parse_key("private_key", value)


def _listen_port(request: SetRequest, value: str) -> None:
    request.listen_port = parse_number("listen_port", value, 0xFFFF)


def _fwmark(request: SetRequest, value: str) -> None:
    request.fwmark = parse_number("fwmark", value, 0xFFFFFFFF)


def _replace_peers(request: SetRequest, value: str) -> None:
    request.replace_peers = _parse_true("replace_peers", value)


def _remove(peer: PeerBlock, value: str) -> None:
    peer.remove = _parse_true("remove", value)


def _update_only(peer: PeerBlock, value: str) -> None:
    peer.update_only = _parse_true("update_only", value)


def _preshared_key(peer: PeerBlock, value: str) -> None:
    peer.preshared_key = parse_key("preshared_key", value)


def _endpoint(peer: PeerBlock, value: str) -> None:
    peer.endpoint = parse_endpoint(value)
    peer.endpoint_host = None


def _endpoint_host(peer: PeerBlock, value: str) -> None:
    peer.endpoint_host = check_endpoint_host(value) if value else ""


def _persistent_keepalive(peer: PeerBlock, value: str) -> None:
    peer.persistent_keepalive = parse_number("persistent_keepalive_interval", value, 0xFFFF)


def _replace_allowed_ips(peer: PeerBlock, value: str) -> None:
    peer.replace_allowed_ips = _parse_true("replace_allowed_ips", value)
    peer.allowed_ips.clear()  # what was said before it is replaced as well


def _allowed_ip(peer: PeerBlock, value: str) -> None:
    if value[:1] == "-":
        peer.allowed_ips[parse_prefix(value[1:])] = False
    else:
        peer.allowed_ips[parse_prefix(value)] = True


def _protocol_version(_: PeerBlock, value: str) -> None:
    if value != "1":
        raise UapiError(errno.EINVAL, f"protocol_version: {_quote(value)}: only version 1 exists")


def _limit(peer: PeerBlock, value: str, *, name: str) -> None:
    peer.limits = {**(peer.limits or {}), name: parse_number(name, value, limits.MOST[name])}


_DEVICE_KEYS: Final[dict[str, Callable[[SetRequest, str], None]]] = {
    "private_key": _private_key,
    "listen_port": _listen_port,
    "fwmark": _fwmark,
    "replace_peers": _replace_peers,
}
_PEER_KEYS: Final[dict[str, Callable[[PeerBlock, str], None]]] = {
    "remove": _remove,
    "update_only": _update_only,
    "preshared_key": _preshared_key,
    "endpoint": _endpoint,
    "endpoint_host": _endpoint_host,
    "persistent_keepalive_interval": _persistent_keepalive,
    "replace_allowed_ips": _replace_allowed_ips,
    "allowed_ip": _allowed_ip,
    "protocol_version": _protocol_version,
    **{name: functools.partial(_limit, name=name) for name in limits.NAMES},
}


# ---- get ----


def dump(device: Device) -> Iterator[bytes]:
    """The answer to `get=1` without its errno, in pieces. Each peer is seen as it is when its turn comes; one
    that is removed meanwhile is left out."""
    lines: list[str] = []
    private_key = device.core.private_key()
    if private_key:
        lines.append(f"private_key={private_key.hex()}\n")
    if device.listen_port:
        lines.append(f"listen_port={device.listen_port}\n")
    if device.fwmark:
        lines.append(f"fwmark={device.fwmark}\n")
    yield "".join(lines).encode()
    peers = _core.Dump(device.core, device.names.all(), device.wall_of(0))
    while piece := peers.take():
        yield piece


# ---- wgfast ----


def statistics(device: Device) -> Iterator[bytes]:
    """The answer to `wgfast=1` without its errno: numbers of the device, why packets were dropped, what the
    offloads do, then the peers. In pieces, and each peer in its turn, as in dump."""
    stats = device.statistics()
    lines = [
        f"version={__version__}\n",
        f"threads={stats.threads}\n",
        f"queues={stats.queues}\n",
        f"sessions={stats.sessions}\n",
        f"staged={stats.staged}\n",
        f"packet_memory_ceiling={stats.packet_memory_ceiling}\n",
        f"aead_kernel={_core.aead_kernel()}\n",
    ]
    lines += [f"drop_{reason}={count}\n" for reason, count in stats.drops.items()]
    lines += [f"offload_{name}={state}\n" for name, state in device.offloads().items()]
    size = 0
    for handle in device.core.peers():
        try:
            text = _peer_statistics(device, handle)
        except PeerRemovedError:
            continue
        lines.append(text)
        size += len(text)
        if size >= _PIECE:
            yield "".join(lines).encode()
            lines.clear()
            size = 0
    yield "".join(lines).encode()


def _peer_statistics(device: Device, handle: int) -> str:
    info = device.core.peer_info(handle)
    host = device.names.of(handle)
    named = f"endpoint_host={host}\n" if host else ""
    values = device.core.peer_limits(handle)
    known = limits.shown(values) if any(values) else {}
    limited = "".join(f"{name}={value}\n" for name, value in known.items())
    return (
        f"public_key={info.public_key.hex()}\n"
        f"sent_packets={info.sent_packets}\n"
        f"received_packets={info.received_packets}\n"
        f"staged={info.staged}\n"
        f"{named}{limited}"
    )
