"""What does a flood of messages that are no handshakes cost?

    python bench/flood.py                          wgfast, wireguard-go, and a program that throws them away
    python bench/flood.py --rate 100000 --rounds 7

As root. Sends initiations with a wrong mac1 at a constant rate over a veth pair to each in turn and reports
the processor time it spends on one, by its own count of those that came, beside that of a bare recvmmsg loop
(bench/flood.c). The kernel charges part of the way of a datagram to whoever runs at that moment, which is the
same for all. Medians, and the ratio to the loop within each round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from compare_contestants import Implementation, parse_implementations
from compare_lab import OUTSIDE, PORT, QUIET, Namespace, run, terminated_as_interrupted, wait_until
from compare_usage import thread_seconds

from wgfast import client, generate_private_key

RATE = 200_000  # a third of what a gigabit carries; half of that hardly troubles a quick machine
SETTLED = 0.1  # seconds after which all that was sent has been dealt with
SOURCE = Path(__file__).with_suffix(".c")
LOOP = "recvmmsg loop"


class Field:
    """A sender's and a receiver's namespace, joined."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.sender, self.receiver = (Namespace(f"wgfast-flood-{os.getpid()}{side}") for side in "ab")

    def __enter__(self) -> Field:
        try:
            for each in (self.sender, self.receiver):
                each.make()
            self.sender.ip(
                "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", self.receiver.name
            )
            for each, address in zip((self.sender, self.receiver), OUTSIDE, strict=True):
                each.ip("address", "add", f"{address}/24", "dev", "wire")
                each.ip("link", "set", "wire", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *failure: object) -> None:
        for each in (self.sender, self.receiver):
            each.close()

    def flood(self, rate: int, seconds: float) -> int:
        """How many were sent."""
        command = (self.program, "send", OUTSIDE[1], str(PORT), str(rate), str(seconds))
        sent = int(self.sender.run(*command, timeout=seconds + 10))
        time.sleep(SETTLED)
        return sent


def loop(field: Field, rate: int, seconds: float) -> float:
    """Nanoseconds of processor time for each."""
    child = field.receiver.spawn(
        field.program, "sink", OUTSIDE[1], str(PORT), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin
    assert child.stdout
    assert child.stdout.readline() == "ready\n"
    before = thread_seconds([child.pid])
    field.flood(rate, seconds)
    cost = thread_seconds([child.pid]) - before
    child.stdin.close()
    return cost / int(child.stdout.readline()) * 1e9


def responder(implementation: Implementation) -> Callable[[Field, int, float], float]:
    def measure(field: Field, rate: int, seconds: float) -> float:
        interface = f"wgf{os.getpid()}"
        path = Path("/var/run/wireguard", f"{interface}.sock")
        environment = {**QUIET, **implementation.environment}
        # Not where we were called from: `python -m wgfast` would prefer a checkout there.
        command = implementation.argv(interface)
        child = field.receiver.spawn(*command, environment=environment, directory="/")
        try:
            wait_until(path.exists, f"{implementation.name}: its socket", 15)
            key = str(generate_private_key())
            run("wg", "set", interface, "listen-port", str(PORT), "private-key", "/dev/stdin", stdin=key)
            field.receiver.ip("link", "set", interface, "up")
            before = thread_seconds([child.pid])
            sent = field.flood(rate, seconds)
            cost = thread_seconds([child.pid]) - before
            # Another implementation does not tell what came: all that was sent, for all we know.
            told = client.statistics(interface)
            return cost / (told.drops["handshake_mac1"] if told else sent) * 1e9
        finally:
            field.receiver.end_processes()
            path.unlink(missing_ok=True)

    return measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--impl", action="append", help="default: wgfast,wireguard-go")
    parser.add_argument("--rate", type=int, default=RATE, help="messages a second")
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    ways: dict[str, Callable[[Field, int, float], float]] = {LOOP: loop}
    for make in parse_implementations(options.impl or ["wgfast,wireguard-go"]).values():
        implementation = make()
        ways[implementation.name] = responder(implementation)
    costs: dict[str, list[float]] = {name: [] for name in ways}
    with terminated_as_interrupted(), tempfile.TemporaryDirectory() as directory:
        program = os.path.join(directory, "flood")
        run("gcc", "-O2", "-D_GNU_SOURCE", "-o", program, str(SOURCE))
        with Field(program) as field:
            for _ in range(options.rounds):
                for name, way in ways.items():
                    costs[name].append(way(field, options.rate, options.seconds))
                    time.sleep(0.1)
    for name, mine in costs.items():
        ratio = statistics.median(a / b for a, b in zip(mine, costs[LOOP], strict=True))
        print(f"{name:24}{statistics.median(mine):8.0f} ns each, {ratio:.2f} x")


if __name__ == "__main__":
    main()
