"""What does one peer feel of ten thousand others, and what does their traffic cost?

    python bench/crowd.py                              wgfast, beside wireguard-go
    python bench/crowd.py --peers 1000 --rounds 3

As root. Each implementation in turn gets a tunnel of two ends of it, and one of them so many further peers,
each with a session of its own (crowd_sessions.py plays them, from one address). Then

    beside    iperf3 from the end with the peers to the other, while every peer sends a packet of 64 bytes a
              second, relative to the same before there were others
    spread    packets of 1,372 bytes of payload, evenly from all peers, as fast as they can be sent: how many
              are delivered a second, and what one costs the daemon in processor time

The senders run on the same processors. Medians; the ratio to the last implementation within each round.
"""

from __future__ import annotations

import argparse
import base64
import json
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from compare_contestants import Contestant, Implementation, parse_implementations
from compare_lab import OUTSIDE, PORT, Lab, run, terminated_as_interrupted
from compare_usage import thread_seconds
from crowd_sessions import Crowd
from handshakes import AT_ONCE, PATIENCE, inside

SOURCE = Path(__file__).with_suffix(".c")
ELSEWHERE = "203.0.113.1"  # nobody's: what is sent there ends behind the interface
HEADERS = 28
SMALL, LARGE = 64 - HEADERS, 1372
SPREAD_SECONDS = 1.5
SPREAD_ROUNDS = 20  # messages of each peer, more than can be sent in that time


class Scene:
    """A lab whose right end has a crowd."""

    def __init__(self, lab: Lab, program: str, directory: Path) -> None:
        self.lab = lab
        self._program = program
        self._file = directory / "messages"

    def invite(self, peers: int) -> None:
        """Peers, each with a session."""
        interface = self.lab.interfaces[1]
        public = run("wg", "show", interface, "public-key").strip()
        self.crowd = Crowd(peers, base64.b64decode(public))
        run("wg", "addconf", interface, "/dev/stdin", stdin=self.crowd.configuration(), timeout=60)
        with inside(self.lab.left), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.settimeout(PATIENCE)
            end.connect((OUTSIDE[1], PORT))
            for first in range(1, peers + 1, AT_ONCE):
                waiting = set(range(first, min(first + AT_ONCE, peers + 1)))
                for number in sorted(waiting):
                    end.send(self.crowd.initiation(number))
                while waiting:
                    waiting.discard(self.crowd.take(end.recv(200)))

    def prepare(self, payload: int, each: int) -> int:
        """Writes so many messages of each peer; returns their size."""
        size = 0
        with self._file.open("wb") as file:
            for messages in self.crowd.messages(ELSEWHERE, payload, each):
                size = messages.shape[1]
                file.write(messages.tobytes())
        return size

    def speak(self, size: int, rate: int, seconds: float) -> subprocess.Popen[str]:
        """The crowd sends what was prepared."""
        command = (self._program, OUTSIDE[1], str(PORT), str(self._file), str(size), str(rate), str(seconds))
        return self.lab.left.spawn(*command, stdout=subprocess.PIPE)

    def tcp(self, seconds: int) -> float:
        """Gbit/s to the other end."""
        server = self.lab.left.spawn("iperf3", "-s", "-1")
        time.sleep(0.3)
        try:
            command = ("iperf3", "-J", "-i", "0", "-c", self.lab.addresses[0], "-t", str(seconds), "-O", "1")
            told = json.loads(self.lab.right.run(*command, timeout=seconds + 20))
            return float(told["end"]["sum_received"]["bits_per_second"]) / 1e9
        finally:
            server.kill()
            server.wait()

    def delivered(self) -> int:
        told = json.loads(self.lab.right.ip("-j", "-s", "link", "show", self.lab.interfaces[1]))
        return int(told[0]["stats64"]["rx"]["packets"])


def beside(scene: Scene, seconds: int) -> float:
    size = scene.prepare(SMALL, seconds + 2)
    crowd = scene.speak(size, len(scene.crowd), seconds + 2)
    try:
        return scene.tcp(seconds)
    finally:
        crowd.kill()
        crowd.wait()


def spread(scene: Scene) -> tuple[float, float]:
    """Packets delivered a second, and nanoseconds of processor time for each."""
    size = scene.prepare(LARGE, SPREAD_ROUNDS)
    pids = scene.lab.tunnel_pids[1]
    cost, before = thread_seconds(pids), scene.delivered()
    crowd = scene.speak(size, 0, SPREAD_SECONDS)
    assert crowd.stdout
    began = time.perf_counter()
    crowd.stdout.readline()
    seconds = time.perf_counter() - began
    crowd.wait()
    came = scene.delivered() - before
    return came / seconds, (thread_seconds(pids) - cost) / max(came, 1) * 1e9


def sample(implementation: Implementation, options: argparse.Namespace, program: str) -> dict[str, float]:
    contestant = Contestant(implementation.name, implementation, implementation)
    with Lab(contestant) as lab:
        scene = Scene(lab, program, Path(lab.directory))
        alone = scene.tcp(options.seconds)
        scene.invite(options.peers)
        among = beside(scene, options.seconds)
        rate, cost = spread(scene)
    return {"alone": alone, "beside": among / alone, "spread": rate, "cost": cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--impl", default="wgfast,wireguard-go")
    parser.add_argument("--peers", type=int, default=9_999)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of iperf3")
    options = parser.parse_args()
    implementations = [make() for make in parse_implementations([options.impl]).values()]
    figures: dict[str, list[dict[str, float]]] = {each.name: [] for each in implementations}
    with terminated_as_interrupted(), tempfile.TemporaryDirectory() as directory:
        program = str(Path(directory) / "crowd")
        run("gcc", "-O2", "-D_GNU_SOURCE", "-o", program, str(SOURCE))
        for _ in range(options.rounds):
            for each in implementations:
                figures[each.name].append(sample(each, options, program))
    last = figures[implementations[-1].name]
    print(f"{'':16}{'alone Gbit/s':>14}{'beside':>8}{'spread /s':>12}{'':8}{'ns each':>9}")
    for each in implementations:
        mine = figures[each.name]
        alone, among, rate, cost = (statistics.median(row[name] for row in mine) for name in mine[0])
        ratio = statistics.median(a["spread"] / b["spread"] for a, b in zip(mine, last, strict=True))
        print(f"{each.name:16}{alone:14.2f}{among:8.2f}{rate:12.0f}{ratio:6.2f} x{cost:9.0f}")


if __name__ == "__main__":
    main()
