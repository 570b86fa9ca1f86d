"""For tests of tunnels that take no time: a clock that is moved by hand, a network in memory between
Engines, and somebody who listens to all of it.

    clock = ManualClock()
    network = Network(clock)
    alice = network.attach(alice_engine, "192.0.2.1:1")
    bob = network.attach(bob_engine, "192.0.2.2:2")
    alice.send(packet("10.0.0.1", "10.0.0.2", b"hello"))
    network.run(seconds=130)
    assert bob.received and network.heard.of("initiation")
"""

from __future__ import annotations

import heapq
import ipaddress
import itertools
import random
import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ._core import Endpoint
from .engine import HANDSHAKE_MAX, OVERHEAD, Batch, Engine, pack_endpoint
from .settings import EndpointArgument, parse_endpoint

SECOND = 1_000_000_000
_ROWS = 64
_ROUNDS = 10_000


class ManualClock:
    """`now` in ns, and the wall clock beside it; neither moves by itself."""

    def __init__(self, now: int = 1000 * SECOND, wall: int = 1_700_000_000 * SECOND) -> None:
        self.now = now
        self.wall_offset = wall - now

    @property
    def wall(self) -> int:
        """ns since 1970."""
        return self.now + self.wall_offset

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * SECOND)

    def step_wall(self, seconds: float) -> None:
        """Somebody sets the wall clock, back if negative."""
        self.wall_offset += round(seconds * SECOND)


class Datagram(NamedTuple):
    at: int  # when it was sent, ns
    source: Endpoint
    destination: Endpoint
    data: bytes
    tos: int = 0

    @property
    def kind(self) -> str:
        """initiation, response, cookie, keepalive, data, or junk."""
        first = self.data[:4]
        if first == b"\4\0\0\0":
            return "keepalive" if len(self.data) == OVERHEAD else "data"
        return {b"\1\0\0\0": "initiation", b"\2\0\0\0": "response", b"\3\0\0\0": "cookie"}.get(first, "junk")


class Eavesdropper:
    """Records every datagram that anybody sends, lost ones included."""

    def __init__(self) -> None:
        self.datagrams: list[Datagram] = []

    def of(self, *kinds: str, source: EndpointArgument | None = None) -> list[Datagram]:
        """Those of these kinds (all, if none is given), in the order they were sent."""
        where = None if source is None else parse_endpoint(source)[:2]
        return [
            datagram
            for datagram in self.datagrams
            if (not kinds or datagram.kind in kinds) and (where is None or datagram.source[:2] == where)
        ]

    def forget(self) -> None:
        self.datagrams.clear()


# What becomes of a datagram on its way: any number of (delay in ns, datagram).
Fate = Iterable[tuple[int, Datagram]]
Weather = Callable[[Datagram], Fate]


def loss(rng: random.Random, rate: float) -> Weather:
    """Some are lost."""
    return lambda datagram: () if rng.random() < rate else ((0, datagram),)


def duplication(rng: random.Random, rate: float) -> Weather:
    """Some arrive twice."""
    return lambda datagram: ((0, datagram),) * (2 if rng.random() < rate else 1)


def delay(seconds: float) -> Weather:
    """All take this long."""
    return lambda datagram: ((round(seconds * SECOND), datagram),)


def reordering(rng: random.Random, seconds: float) -> Weather:
    """Each takes a time of its own, up to this long."""
    return lambda datagram: ((rng.randrange(round(seconds * SECOND) + 1), datagram),)


class Node:
    """An Engine at an address. `received` collects (handle of the peer, inner packet)."""

    def __init__(self, network: Network, engine: Engine, address: Endpoint) -> None:
        self.network = network
        self.engine = engine
        self.address = address  # assign another one to roam
        self.received: list[tuple[int, bytes]] = []
        self.statuses: list[int] = []  # of every datagram received

    def send(self, *packets: bytes) -> list[int]:
        """Hands inner packets to the engine; returns the statuses. What leaves is on its way at once; `run`
        delivers."""
        batch = Batch.of(packets)
        out = Batch.empty(len(packets), batch.data.shape[1] + OVERHEAD + 16)
        self.engine.send(batch.data, batch.lengths, self.network.clock.now, out)
        self._post(out, len(packets))
        return [int(status) for status in out.status]

    def receive(self, datagrams: list[Datagram]) -> None:
        """What arrived."""
        batch = Batch.of([datagram.data for datagram in datagrams])
        batch.tos[:] = [datagram.tos for datagram in datagrams]
        for i, datagram in enumerate(datagrams):
            batch.endpoints[i] = pack_endpoint(datagram.source)
        out = Batch.empty(len(batch), batch.data.shape[1])
        now = self.network.clock.now
        self.engine.receive(batch.data, batch.lengths, batch.endpoints, now, out, batch.tos)
        self.statuses += [int(status) for status in out.status]
        self.received += [(int(out.peers[i]), out.packet(i)) for i in np.flatnonzero(out.lengths)]

    def due(self) -> bool:
        deadline = self.engine.next_timeout()
        return deadline is not None and deadline <= self.network.clock.now

    def work(self) -> bool:
        """Does what is due now and sends what there is to send. True if anything happened."""
        clock = self.network.clock
        busy = self.due()
        if busy:
            self.engine.process(clock.now, clock.wall)
        out = Batch.empty(_ROWS, max(HANDSHAKE_MAX, 1 << 16))
        while count := self.engine.drain(clock.now, out):
            self._post(out, count)
            busy = True
        # What was to be sent may have found that it needs a handshake first.
        return busy or self.due()

    def _post(self, out: Batch, count: int) -> None:
        for i in range(count):
            to = out.endpoint(i)
            if out.lengths[i] and to is not None:
                self.network.post(
                    Datagram(self.network.clock.now, self.address, to, out.packet(i), int(out.tos[i]))
                )


class Network:
    """Carries datagrams between nodes by address and port. `weather` functions are applied one after the
    other, each to what the one before let through; `heard` has recorded everything before that.
    Deterministic: whoever wants chance brings a seeded random.Random."""

    def __init__(self, clock: ManualClock, *weather: Weather) -> None:
        self.clock = clock
        self.weather = list(weather)
        self.heard = Eavesdropper()
        self.nodes: list[Node] = []
        self.undeliverable: list[Datagram] = []
        self._under_way: list[tuple[int, int, Datagram]] = []
        self._count = itertools.count()

    def attach(self, engine: Engine, address: EndpointArgument) -> Node:
        node = Node(self, engine, parse_endpoint(address))
        self.nodes.append(node)
        return node

    def post(self, datagram: Datagram) -> None:
        """Sends a datagram, also one that no engine made."""
        self.heard.datagrams.append(datagram)
        fates: list[tuple[int, Datagram]] = [(0, datagram)]
        for weather in self.weather:
            fates = [(before + more, out) for before, each in fates for more, out in weather(each)]
        for wait, each in fates:
            heapq.heappush(self._under_way, (self.clock.now + wait, next(self._count), each))

    def settle(self) -> None:
        """Lets happen what happens without time passing."""
        for _ in range(_ROUNDS):
            arrived = self._deliver()
            worked = [node.work() for node in self.nodes]
            if not arrived and not any(worked):
                return
        raise AssertionError(f"after {_ROUNDS} rounds at one moment there is still something to do")

    def run(self, seconds: float) -> None:
        """Lets time pass, moment by moment: each delivery and each deadline at its own time."""
        end = self.clock.now + round(seconds * SECOND)
        while True:
            self.settle()
            moments = [at for node in self.nodes if (at := node.engine.next_timeout()) is not None]
            if self._under_way:
                moments.append(self._under_way[0][0])
            following = min(moments, default=end + 1)
            if following > end:
                break
            self.clock.now = max(self.clock.now, following)
        self.clock.now = end
        self.settle()

    def _deliver(self) -> bool:
        arrived: dict[tuple[str, int], list[Datagram]] = {}
        while self._under_way and self._under_way[0][0] <= self.clock.now:
            datagram = heapq.heappop(self._under_way)[2]
            arrived.setdefault(datagram.destination[:2], []).append(datagram)
        for address, datagrams in arrived.items():
            node = next((node for node in self.nodes if node.address[:2] == address), None)
            if node is None:
                self.undeliverable += datagrams
                continue
            for some in range(0, len(datagrams), _ROWS):
                node.receive(datagrams[some : some + _ROWS])
        return bool(arrived)


def packet(source: str, destination: str, payload: bytes = b"", *, tos: int = 0) -> bytes:
    """An inner UDP packet, IPv4 or IPv6, between two ports 9 (discard), with right lengths and checksums left
    zero."""
    from_, to = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    udp = struct.pack(">HHHH", 9, 9, 8 + len(payload), 0) + payload
    if from_.version == 4:
        header = struct.pack(">BBHIBBH", 0x45, tos, 20 + len(udp), 0, 64, 17, 0)
    else:
        header = struct.pack(">IHBB", 6 << 28 | tos << 20, len(udp), 17, 64)
    return header + from_.packed + to.packed + udp
