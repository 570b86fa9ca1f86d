"""How fast is the path in memory, without the system: routing, counters and sealing; or the whole of it, with
opening, replay window and the check of the source?"""

from __future__ import annotations

from typing import Any

import pytest
from rates import SIZES, THREADS, Crew

from wgfast import Batch, Engine, generate_private_key
from wgfast.engine import OVERHEAD
from wgfast.testing import ManualClock, Network, packet

N = 256
HEADERS = 28  # IPv4 and UDP, of the inner packets


class Tunnel:
    """Two engines with a session that does not age: its clock stands still."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        network = Network(self.clock)
        self.engines = [Engine(generate_private_key()) for _ in range(2)]
        for i, engine in enumerate(self.engines, 1):
            network.attach(engine, f"192.0.2.{i}:{i}")
            other = self.engines[2 - i].public_key
            assert other
            engine.add_peer(other, allowed_ips=f"10.0.0.{3 - i}/32", endpoint=f"192.0.2.{3 - i}:{3 - i}")
        sender = self.engines[0]
        sender.handshake(sender.core.peers()[0], self.clock.now, self.clock.wall)
        network.settle()


class Work:
    """The arrays of one thread."""

    def __init__(self, tunnel: Tunnel, size: int) -> None:
        self.sender, self.receiver = tunnel.engines
        self.now = tunnel.clock.now
        self.inner = Batch.of([packet("10.0.0.1", "10.0.0.2", bytes(size - HEADERS))] * N)
        self.outer = Batch.empty(N, size + OVERHEAD + 16)
        self.delivered = Batch.empty(N, size + 16)
        self.sources = Batch.of([b""] * N, "192.0.2.1:1").endpoints

    def send(self) -> None:
        self.sender.send(self.inner.data, self.inner.lengths, self.now, self.outer)

    def carry(self) -> None:
        self.send()
        self.receiver.receive(self.outer.data, self.outer.lengths, self.sources, self.now, self.delivered)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("verb", ["send", "carry"])
def test_engine(benchmark: Any, verb: str, size: int, threads: int) -> None:
    tunnel = Tunnel()
    works = [Work(tunnel, size) for _ in range(threads)]
    crew = Crew([getattr(work, verb) for work in works])
    benchmark.group = f"{verb} {N} packets of {size} bytes"
    crew.measure(benchmark, N, size)
    for work in works:
        assert (work.outer.status == Batch.OK).all()
        if verb == "carry":
            assert work.delivered.packets() == work.inner.packets()
