"""What `top` shows, computed from two readings of the same interfaces. No clock, no terminal.

Counters begin again at zero when a daemon starts anew or a peer is added again; a number that went back is
therefore what came since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wgfast.client_state import PeerState, PeerStatistics
from wgfast.reading import Reading


@dataclass(slots=True)
class Snapshot:
    """`at` is in seconds of a clock that nobody sets, `wall` in seconds since 1970."""

    at: float
    wall: float
    readings: list[Reading]


@dataclass(slots=True)
class Rates:
    """Bytes in a second; None: there is nothing to compare with yet."""

    received: float | None = None
    sent: float | None = None

    @property
    def total(self) -> float:
        return (self.received or 0.0) + (self.sent or 0.0)


@dataclass(slots=True)
class PeerView:
    state: PeerState
    statistics: PeerStatistics | None
    rates: Rates
    handshake_age: float | None  # seconds; None: there was none


@dataclass(slots=True)
class Drop:
    reason: str
    count: int
    rate: float | None  # packets in a second


@dataclass(slots=True)
class InterfaceView:
    reading: Reading
    rates: Rates = field(default_factory=Rates)
    peers: list[PeerView] = field(default_factory=list)  # the busiest first, then by handshake
    drops: list[Drop] = field(default_factory=list)  # those there are, by rate, then by count


def compare(before: Snapshot | None, now: Snapshot) -> list[InterfaceView]:
    """`before` None: no rates."""
    seconds = now.at - before.at if before else 0.0
    older = {reading.name: reading for reading in before.readings} if before and seconds > 0 else {}
    return [_interface(older.get(reading.name), reading, now.wall, seconds) for reading in now.readings]


def _interface(before: Reading | None, reading: Reading, wall: float, seconds: float) -> InterfaceView:
    if reading.state is None:
        return InterfaceView(reading)
    old = before.state if before else None
    known = {peer.public_key: peer for peer in old.peers} if old else {}
    more = reading.statistics.peers if reading.statistics else {}
    peers = [
        PeerView(
            peer,
            more.get(peer.public_key),
            _rates(known.get(peer.public_key), peer, seconds) if old else Rates(),
            _age(peer, wall),
        )
        for peer in reading.state.peers
    ]
    peers.sort(key=_rank)
    return InterfaceView(reading, _sum(peers) if old else Rates(), peers, _drops(before, reading, seconds))


def _rates(old: PeerState | None, new: PeerState, seconds: float) -> Rates:
    return Rates(
        _since(old.received_bytes if old else 0, new.received_bytes) / seconds,
        _since(old.sent_bytes if old else 0, new.sent_bytes) / seconds,
    )


def _sum(peers: Sequence[PeerView]) -> Rates:
    return Rates(
        sum(peer.rates.received or 0.0 for peer in peers), sum(peer.rates.sent or 0.0 for peer in peers)
    )


def _since(old: int, new: int) -> int:
    return new - old if new >= old else new


def _age(peer: PeerState, wall: float) -> float | None:
    seconds, nanoseconds = peer.last_handshake
    # The clock may have been set back since.
    return max(wall - seconds - nanoseconds / 1e9, 0.0) if seconds else None


def _rank(peer: PeerView) -> tuple[float, float, bytes]:
    age = float("inf") if peer.handshake_age is None else peer.handshake_age
    return -peer.rates.total, age, peer.state.public_key


def _drops(before: Reading | None, reading: Reading, seconds: float) -> list[Drop]:
    counts = reading.statistics.drops if reading.statistics else {}
    old: Mapping[str, int] | None = before.statistics.drops if before and before.statistics else None
    found = [
        Drop(reason, count, None if old is None else _since(old.get(reason, 0), count) / seconds)
        for reason, count in counts.items()
        if count
    ]
    return sorted(found, key=lambda drop: (-(drop.rate or 0.0), -drop.count, drop.reason))
