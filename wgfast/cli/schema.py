"""The JSON that wgfast prints: one shape for every command that shows interfaces.

A document is

    {"schema": 1, "time": 1764000000.5, "interfaces": [INTERFACE, ...]}

`schema` (integer) grows when a name's meaning changes or a name goes; names may be added without. `time` is
the wall clock in seconds since 1970 when the state was read. A command that was asked for one thing (`show
wg0 endpoints`) leaves out the names that are not of it. Keys are base64; null: there is none.

INTERFACE
    name                  string
    kind                  "userspace" or "kernel"
    public_key            string or null
    private_key           string or null; only with --secrets
    listen_port           integer, 0: no socket
    fwmark                integer, 0: no mark
    peers                 list of PEER, in the implementation's order
    wgfast                DAEMON; only if it is wgfast's

PEER
    public_key            string
    name                  string; only if /etc/wireguard/INTERFACE.conf has `# Name = ...` for it
    has_preshared_key     boolean
    preshared_key         string or null; only with --secrets
    endpoint              string, "192.0.2.1:51820" or "[2001:db8::1%eth0]:51820", or null
    endpoint_host         string, "vpn.example.org:51820", that the daemon resolves again; only if it has one
    allowed_ips           list of strings, "10.0.0.0/24"
    latest_handshake      number, seconds since 1970, or null: never
    received_bytes        integer, since the peer was added, as all counters
    sent_bytes            integer
    persistent_keepalive  integer, seconds, 0: off
    limits                object, name (wgfast.limits) to integer, those that are set; only if there are any
    received_packets      integer; only if it is wgfast's, as the next two
    sent_packets          integer
    staged                integer, packets that wait for a session

DAEMON
    version               string
    threads               integer
    queues                integer, of the interface
    sessions              integer, peers that have a session
    staged                integer, packets that wait for a session, of all peers
    packet_memory_ceiling integer, bytes
    aead_kernel           string
    drops                 object, reason to packets dropped since the start
    offloads              object, name to its state as text

`wgfast top --json` prints one document per interval and adds, once there are two to compare,

    received_rate         number, bytes a second, in an INTERFACE and in a PEER, as the next one
    sent_rate             number
    drop_rates            object, reason to packets a second, in DAEMON
    problem               string, in an INTERFACE that could not be asked: why; it has only this and a name

What shows no interfaces has objects of its own: genkey, genpsk and pubkey `{"private_key": KEY}`,
`{"preshared_key": KEY}` and `{"public_key": KEY}`; doctor `{"version": STRING, "findings": [FINDING, ...]}`,
where a FINDING has the strings `what`, `state`, `reason` and `remedy` ("": none is needed) and the boolean
`fine`.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

from wgfast.client_state import (
    NEVER,
    ZERO_KEY,
    DeviceState,
    PeerState,
    PeerStatistics,
    Statistics,
    endpoint_text,
    prefix_text,
)

VERSION: Final = 1

# What is left of an interface and of a peer when one thing is asked for, in the words of `wg show`.
INTERFACE_FIELDS: Final = {
    "public-key": "public_key",
    "private-key": "private_key",
    "listen-port": "listen_port",
    "fwmark": "fwmark",
}
PEER_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "peers": (),
    "preshared-keys": ("has_preshared_key", "preshared_key"),
    "endpoints": ("endpoint", "endpoint_host"),
    "allowed-ips": ("allowed_ips",),
    "latest-handshakes": ("latest_handshake",),
    "transfer": ("received_bytes", "sent_bytes"),
    "persistent-keepalive": ("persistent_keepalive",),
}
_SETTINGS: Final = ("preshared-keys", "endpoints", "allowed-ips", "persistent-keepalive")


def document(interfaces: Iterable[Mapping[str, Any]], now: float | None = None) -> dict[str, Any]:
    return {
        "schema": VERSION,
        "time": time.time() if now is None else now,
        "interfaces": list(interfaces),
    }


def text(value: Mapping[str, Any]) -> str:
    """As it is printed, without the newline."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def interface_object(
    state: DeviceState,
    statistics: Statistics | None = None,
    *,
    secrets: bool = False,
    names: Mapping[bytes, str] | None = None,
) -> dict[str, Any]:
    """INTERFACE; `names` are peers' names by public key."""
    known = statistics.peers if statistics else {}
    found: dict[str, Any] = {
        "name": state.name,
        "kind": state.kind,
        "public_key": _key(state.public_key),
        **({"private_key": _key(state.private_key)} if secrets else {}),
        "listen_port": state.listen_port,
        "fwmark": state.fwmark,
        "peers": [
            peer_object(
                peer,
                known.get(peer.public_key),
                secrets=secrets,
                name=names.get(peer.public_key) if names else None,
            )
            for peer in state.peers
        ],
    }
    if statistics is not None:
        found["wgfast"] = daemon_object(statistics)
    return found


def peer_object(
    peer: PeerState,
    statistics: PeerStatistics | None = None,
    *,
    secrets: bool = False,
    name: str | None = None,
) -> dict[str, Any]:
    """PEER."""
    psk = peer.preshared_key if peer.preshared_key != ZERO_KEY else None
    host = peer.extra.get("endpoint_host") or (statistics.endpoint_host if statistics else None)
    found: dict[str, Any] = {
        "public_key": _key(peer.public_key),
        **({"name": name} if name is not None else {}),
        "has_preshared_key": psk is not None,
        **({"preshared_key": _key(psk)} if secrets else {}),
        "endpoint": endpoint_text(peer.endpoint) if peer.endpoint else None,
        **({"endpoint_host": host} if host else {}),
        "allowed_ips": [prefix_text(prefix) for prefix in peer.allowed_ips],
        "latest_handshake": _seconds(peer.last_handshake),
        "received_bytes": peer.received_bytes,
        "sent_bytes": peer.sent_bytes,
        "persistent_keepalive": peer.persistent_keepalive,
        **({"limits": peer.limits} if peer.limits else {}),
    }
    if statistics is not None:
        found["received_packets"] = statistics.received_packets
        found["sent_packets"] = statistics.sent_packets
        found["staged"] = statistics.staged
    return found


def daemon_object(statistics: Statistics) -> dict[str, Any]:
    """DAEMON."""
    return {
        "version": statistics.version,
        "threads": statistics.threads,
        "queues": statistics.queues,
        "sessions": statistics.sessions,
        "staged": statistics.staged,
        "packet_memory_ceiling": statistics.packet_memory_ceiling,
        "aead_kernel": statistics.aead_kernel,
        "drops": dict(statistics.drops),
        "offloads": dict(statistics.offloads),
    }


def only(interface: Mapping[str, Any], field: str) -> dict[str, Any]:
    """What one of `wg show`'s words asks of an INTERFACE. KeyError if it is none of them."""
    if field in INTERFACE_FIELDS:
        return _pick(interface, ("name", INTERFACE_FIELDS[field]))
    return {
        "name": interface["name"],
        "peers": [_pick(peer, ("public_key", "name", *PEER_FIELDS[field])) for peer in interface["peers"]],
    }


def settings(interface: Mapping[str, Any]) -> dict[str, Any]:
    """What of an INTERFACE is configuration, without state and counters."""
    kept = ("public_key", "name", *(name for word in _SETTINGS for name in PEER_FIELDS[word]))
    return {
        **_pick(interface, ("name", *INTERFACE_FIELDS.values())),
        "peers": [_pick(peer, kept) for peer in interface["peers"]],
    }


def _pick(whole: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    wanted = set(names)
    return {name: value for name, value in whole.items() if name in wanted}


def _key(key: bytes | None) -> str | None:
    return None if key is None else base64.b64encode(key).decode("ascii")


def _seconds(stamp: tuple[int, int]) -> float | None:
    return None if stamp == NEVER else stamp[0] + stamp[1] / 1e9
