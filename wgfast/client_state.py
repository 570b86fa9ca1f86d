"""What an interface answers when it is asked for its state; the same for every implementation."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from dataclasses import dataclass, field
from typing import Final, Literal

from wgfast._core import Endpoint
from wgfast.uapi import Prefix

KEY_SIZE: Final = 32
ZERO_KEY: Final = bytes(KEY_SIZE)
NEVER: Final = (0, 0)
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(slots=True)
class PeerState:
    """One peer. `last_handshake` is the wall clock's seconds and nanoseconds, (0, 0): there was none."""

    public_key: bytes
    preshared_key: bytes = ZERO_KEY  # zeros: none
    endpoint: Endpoint | None = None
    allowed_ips: list[Prefix] = field(default_factory=list)  # in the implementation's order
    last_handshake: tuple[int, int] = NEVER
    received_bytes: int = 0
    sent_bytes: int = 0
    persistent_keepalive: int = 0  # seconds, 0: off
    limits: dict[str, int] | None = None  # by name (limits.py), those that are set, if it is wgfast's
    extra: dict[str, str] = field(default_factory=dict)  # what an implementation says beyond the protocol

    def __repr__(self) -> str:
        # The generated one would print the preshared key.
        return f"<PeerState {self.public_key.hex()[:8]} at {self.endpoint and endpoint_text(self.endpoint)}>"


@dataclass(slots=True)
class DeviceState:
    """One interface and its peers, in the implementation's order."""

    name: str
    private_key: bytes | None = None
    public_key: bytes | None = None
    listen_port: int = 0  # 0: none
    fwmark: int = 0  # 0: none
    peers: list[PeerState] = field(default_factory=list)
    kind: Literal["userspace", "kernel"] = "userspace"
    extra: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<DeviceState {self.name} ({self.kind}), {len(self.peers)} peers>"


@dataclass(slots=True)
class PeerStatistics:
    """What only wgfast tells of a peer."""

    sent_packets: int = 0
    received_packets: int = 0
    staged: int = 0  # packets that wait for a session
    endpoint_host: str | None = None  # NAME:PORT, which the daemon resolves again when need be


@dataclass(slots=True)
class Statistics:
    """What only wgfast tells of an interface; `peers` by public key."""

    version: str = ""
    threads: int = 0
    queues: int = 0  # of the interface
    sessions: int = 0
    staged: int = 0  # packets that wait for a session, of all peers
    packet_memory_ceiling: int = 0  # bytes
    aead_kernel: str = ""
    drops: dict[str, int] = field(default_factory=dict)  # reason to packets
    offloads: dict[str, str] = field(default_factory=dict)  # name to state
    peers: dict[bytes, PeerStatistics] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)


def prefix_text(prefix: Prefix) -> str:
    family, address, length = prefix
    return f"{socket.inet_ntop(_FAMILIES[family], address)}/{length}"


def endpoint_text(endpoint: Endpoint) -> str:
    """`1.2.3.4:port` or `[v6%scope]:port`. As getnameinfo() does, a link-local address shows the name of its
    interface where it has one here, and the number where it has not."""
    host, percent, scope = endpoint.host.partition("%")
    if percent and scope.isascii() and scope.isdigit() and _is_link_local(host):
        with contextlib.suppress(OSError, OverflowError):
            scope = socket.if_indextoname(int(scope))
    if ":" in host:
        return f"[{host}{percent}{scope}]:{endpoint.port}"
    return f"{host}:{endpoint.port}"


def _is_link_local(host: str) -> bool:
    packed = ipaddress.ip_address(host).packed
    return (packed[0] == 0xFE and packed[1] >> 6 == 2) or (packed[0] == 0xFF and packed[1] & 15 == 2)
