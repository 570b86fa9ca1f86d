"""The numbers of a device and of a peer, at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import _core

if TYPE_CHECKING:
    from .control import Control


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """Numbers of a device at one moment."""

    peers: int
    sessions: int  # keypairs in use
    threads: int
    queues: int  # of the interface
    staged: int  # packets waiting for a session
    events_waiting: int
    handshakes_waiting: int
    packet_memory_ceiling: int  # bytes
    handler_errors: int  # exceptions of event handlers
    drops: dict[str, int]


def statistics_of(core: _core.Core, control: Control) -> DeviceStats:
    info = core.info()
    return DeviceStats(
        peers=info.peers,
        sessions=info.keypairs,
        threads=info.threads,
        queues=info.queues,
        staged=info.staged,
        events_waiting=info.events_waiting,
        handshakes_waiting=info.handshakes_waiting,
        packet_memory_ceiling=info.packet_memory_ceiling,
        handler_errors=control.handler_errors,
        drops=dict(zip(_core.DROP_NAMES, core.drops(), strict=True)),
    )


@dataclass(frozen=True, slots=True)
class PeerStats:
    """Numbers of one peer at one moment."""

    received_bytes: int  # of UDP payload, handshakes and keepalives included
    sent_bytes: int
    received_packets: int  # inner packets
    sent_packets: int
    last_handshake: float | None  # seconds since 1970, as time.time(); None: never
    session_age: float | None  # seconds; None: no session to send with
    staged: int  # packets waiting for a session
