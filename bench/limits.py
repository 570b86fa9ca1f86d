"""What do limits of a peer cost where there are none, and what where there are?

    python bench/limits.py                          without, beside each kind and all of them
    python bench/limits.py --before ../other        also beside another checkout, built in its own .venv

Engines in memory seal batches of 256 packets and open them again; sealing is what `send` counts, both is
`carry`. `in turn`: neighbours go to different peers, so that every packet is a run of its own. Limits are so
large that nothing is dropped. All take turns in an order that is drawn anew each round; nanoseconds of
processor time a packet, medians, and the median of the ratios to `none` within a round.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from wgfast import Batch, Engine, generate_private_key
from wgfast.engine import OVERHEAD
from wgfast.testing import ManualClock, Network, packet

N = 256
HEADERS = 28  # IPv4 and UDP, of the inner packets
LOTS = 10**12
KINDS: dict[str, tuple[str, ...]] = {
    "none": (),
    "rate": ("send_rate", "receive_rate"),
    "quota": ("send_quota", "receive_quota"),
    "all": tuple(f"{way}_{name}" for way in ("send", "receive") for name in ("rate", "packet_rate", "quota")),
}


class Work:
    """One sender and its peers; its clock goes on by a millisecond each time, as far as sessions last."""

    def __init__(self, peers: int, size: int, kind: str) -> None:
        self.clock = ManualClock()
        network = Network(self.clock)
        self.sender = Engine(generate_private_key())
        network.attach(self.sender, "192.0.2.250:1")
        self.receivers = []
        mine = self.sender.public_key
        assert mine
        for i in range(1, peers + 1):
            engine = Engine(generate_private_key())
            network.attach(engine, f"192.0.2.{i}:1")
            key = engine.public_key
            assert key
            to = self.sender.add_peer(key, allowed_ips=f"10.0.0.{i}/32", endpoint=f"192.0.2.{i}:1")
            back = engine.add_peer(mine, allowed_ips="10.0.1.0/24")
            self.sender.handshake(to, self.clock.now, self.clock.wall)
            if KINDS[kind]:
                # Rates of packets have a smaller bound.
                limits = {name: LOTS // (1000 if "packet" in name else 1) for name in KINDS[kind]}
                self.sender.core.peer_set_limits(to, limits, self.clock.now)
                engine.core.peer_set_limits(back, limits, self.clock.now)
            self.receivers.append(engine)
        network.settle()
        tell = [packet("10.0.1.1", f"10.0.0.{1 + i % peers}", bytes(size - HEADERS)) for i in range(N)]
        self.inner = Batch.of(tell)
        self.outer = Batch.empty(N, size + OVERHEAD + 16)
        self.delivered = Batch.empty(N, size + 16)
        self.sources = Batch.of([b""] * N, "192.0.2.250:1").endpoints
        self.end = self.clock.now + 100 * 10**9

    def send(self) -> None:
        self.clock.now = min(self.clock.now + 10**6, self.end)
        self.sender.send(self.inner.data, self.inner.lengths, self.clock.now, self.outer)

    def carry(self) -> None:
        self.send()
        self.receivers[0].receive(
            self.outer.data, self.outer.lengths, self.sources, self.clock.now, self.delivered
        )

    def measure(self, verb: str, calls: int) -> float:
        act = getattr(self, verb)
        act()
        began = time.thread_time_ns()
        for _ in range(calls):
            act()
        took = time.thread_time_ns() - began
        assert (self.outer.status == Batch.OK).all()
        if verb == "carry":
            assert (self.delivered.status == Batch.OK).all()
        return took / calls / N


def serve(said: IO[str], answers: IO[str]) -> None:
    """A line `peers size kind verb calls` is answered by ns a packet."""
    works: dict[tuple[int, int, str], Work] = {}
    for line in said:
        peers, size, kind, verb, calls = line.split()
        key = int(peers), int(size), kind
        work = works[key] = works.get(key) or Work(*key)
        print(work.measure(verb, int(calls)), file=answers, flush=True)


class Worker:
    def __init__(self, checkout: Path) -> None:
        here = Path(__file__).resolve()
        python = checkout / ".venv/bin/python"
        self.process = subprocess.Popen(
            [str(python if python.exists() else sys.executable), str(here), "--worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
        )

    def ask(self, *words: Any) -> float:
        assert self.process.stdin
        assert self.process.stdout
        print(*words, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def compare(workers: dict[str, Worker], peers: int, size: int, verb: str, rounds: int, calls: int) -> None:
    found: dict[str, list[float]] = {name: [] for name in workers}
    order = list(workers)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            kind = name if name in KINDS else "none"
            found[name].append(workers[name].ask(peers, size, kind, verb, calls))
    title = f"{verb}, {size} bytes, {'one peer' if peers == 1 else f'{peers} peers in turn'}"
    parts = []
    for name, times in found.items():
        ratio = statistics.median(a / b for a, b in zip(times, found["none"], strict=True))
        parts.append(f"{name} {statistics.median(times):7.1f} ns ({ratio:.3f})")
    print(f"{title:34} " + "   ".join(parts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--calls", type=int, default=150, help="batches a round")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        serve(sys.stdin, sys.stdout)
        return
    here = Path(__file__).resolve().parent.parent
    workers = {kind: Worker(here) for kind in KINDS}
    if options.before:
        workers["before"] = Worker(options.before.resolve())
    for verb, peers in (("send", 1), ("send", 8), ("carry", 1)):
        for size in (64, 1420):
            compare(workers, peers, size, verb, options.rounds, options.calls)
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    main()
