"""`wg show` for scripts: one thing of an interface, as lines of fields between tabs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from wgfast.cli.show_pretty import key_text
from wgfast.client_state import ZERO_KEY, DeviceState, PeerState, endpoint_text, prefix_text

Rows = Iterator[tuple[str, ...]]
_NONE: Final = "(none)"


def field_lines(state: DeviceState, field: str, *, with_name: bool) -> str:
    """All lines of one of `wg show`'s fields; with the interface's name first if several are shown. KeyError
    if there is no such field."""
    name = (state.name,) if with_name else ()
    return "".join("\t".join((*name, *row)) + "\n" for row in _rows(state, field))


def _rows(state: DeviceState, field: str) -> Rows:
    if field == "dump":
        yield (*(read(state) for read in _DEVICE.values()),)
        for peer in state.peers:
            yield _dumped(peer)
    elif field in _DEVICE:
        yield (_DEVICE[field](state),)
    else:
        read_peer = _PEER[field]
        for peer in state.peers:
            yield (key_text(peer.public_key), *read_peer(peer))


def _key(key: bytes | None) -> str:
    return _NONE if key is None else key_text(key)


def _fwmark(state: DeviceState) -> str:
    return f"{state.fwmark:#x}" if state.fwmark else "off"


def _preshared_key(peer: PeerState) -> str:
    return _NONE if peer.preshared_key == ZERO_KEY else key_text(peer.preshared_key)


def _endpoint(peer: PeerState) -> str:
    return endpoint_text(peer.endpoint) if peer.endpoint else _NONE


def _allowed_ips(peer: PeerState, separator: str) -> str:
    return separator.join(map(prefix_text, peer.allowed_ips)) or _NONE


def _handshake(peer: PeerState) -> str:
    return str(peer.last_handshake[0])


def _transfer(peer: PeerState) -> tuple[str, str]:
    return str(peer.received_bytes), str(peer.sent_bytes)


def _keepalive(peer: PeerState) -> str:
    return str(peer.persistent_keepalive or "off")


def _dumped(peer: PeerState) -> tuple[str, ...]:
    return (
        key_text(peer.public_key),
        _preshared_key(peer),
        _endpoint(peer),
        _allowed_ips(peer, ","),
        _handshake(peer),
        *_transfer(peer),
        _keepalive(peer),
    )


# In the order of a dump's first line.
_DEVICE: Final[dict[str, Callable[[DeviceState], str]]] = {
    "private-key": lambda state: _key(state.private_key),
    "public-key": lambda state: _key(state.public_key),
    "listen-port": lambda state: str(state.listen_port),
    "fwmark": _fwmark,
}
_PEER: Final[dict[str, Callable[[PeerState], tuple[str, ...]]]] = {
    "peers": lambda _: (),
    "preshared-keys": lambda peer: (_preshared_key(peer),),
    "endpoints": lambda peer: (_endpoint(peer),),
    "allowed-ips": lambda peer: (_allowed_ips(peer, " "),),
    "latest-handshakes": lambda peer: (_handshake(peer),),
    "transfer": _transfer,
    "persistent-keepalive": lambda peer: (_keepalive(peer),),
}
