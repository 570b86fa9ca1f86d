"""How many handshakes does a responder answer, and what does each cost it?

    python bench/handshakes.py                       wgfast beside wireguard-go
    python bench/handshakes.py --impl wgfast,boringtun --rounds 7

As root. Each round starts every implementation anew in a network namespace, gives it so many peers, and sends
each peer's initiation, made beforehand, over loopback, with a few on their way at once, so that nobody is
under load and asks for cookies. What counts is a response for the right initiator; the daemon's processor
time is that of all its threads. Then all do it again: a peer's first handshake includes the static-static
Diffie-Hellman, if that was not computed when the peer was configured. Medians, and the ratio to the last
implementation within each round.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import socket
import statistics
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from compare_contestants import Implementation, parse_implementations
from compare_lab import QUIET, Namespace, run, terminated_as_interrupted, wait_until
from compare_usage import thread_seconds
from crowd_sessions import Crowd

from wgfast import generate_private_key, public_key

PORT = 51820
AT_ONCE = 8
PATIENCE = 2.0  # seconds without any response
TURNS = ("first", "again")
Sample = tuple[float, float]  # handshakes a second, microseconds of processor time for each
_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def inside(namespace: Namespace) -> Iterator[None]:
    """This thread's new sockets are in there."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace.name}", os.O_RDONLY)
    try:
        assert libc.setns(there, _CLONE_NEWNET) == 0
        yield
    finally:
        libc.setns(before, _CLONE_NEWNET)
        os.close(there)
        os.close(before)


def exchange(messages: list[bytes]) -> tuple[int, float]:
    """How many were answered, and in what time. Those that are not are not sent again."""
    answered: set[int] = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.settimeout(PATIENCE)
        end.connect(("127.0.0.1", PORT))
        begin = time.perf_counter()
        for message in messages[:AT_ONCE]:
            end.send(message)
        following = AT_ONCE
        try:
            while len(answered) < len(messages):
                answer = end.recv(200)
                if len(answer) == 92 and answer[0] == 2:
                    answered.add(struct.unpack_from("<I", answer, 8)[0])
                if following < len(messages):
                    end.send(messages[following])
                    following += 1
        except TimeoutError:
            pass
        return len(answered), time.perf_counter() - begin


def timed(name: str, messages: list[bytes], pids: list[int]) -> Sample:
    before = thread_seconds(pids)
    answered, seconds = exchange(messages)
    cost = thread_seconds(pids) - before
    if answered < len(messages) * 0.99:
        raise SystemExit(f"{name}: {answered} of {len(messages)} initiations were answered")
    return answered / seconds, cost / answered * 1e6


def sample(implementation: Implementation, peers: int) -> list[Sample]:
    """Of each turn."""
    interface = f"wgh{os.getpid()}"
    own = generate_private_key()
    crowd = Crowd(peers, bytes(public_key(own)))
    settings = f"[Interface]\nPrivateKey = {own}\nListenPort = {PORT}\n" + crowd.configuration()
    namespace = Namespace(f"wgfast-handshakes-{os.getpid()}")
    path = Path("/var/run/wireguard", f"{interface}.sock")
    try:
        namespace.make()
        namespace.spawn(
            *implementation.argv(interface),
            environment={**QUIET, **implementation.environment},
            directory="/",
        )
        wait_until(path.exists, f"{implementation.name}: its socket", 15)
        run("wg", "setconf", interface, "/dev/stdin", stdin=settings, timeout=60)
        namespace.ip("link", "set", interface, "up")
        turns = [[crowd.initiation(number) for number in range(1, peers + 1)] for _ in TURNS]
        pids = namespace.pids()
        with inside(namespace):
            return [timed(implementation.name, messages, pids) for messages in turns]
    finally:
        namespace.close()
        path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--impl", default="wgfast,wireguard-go")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=int, default=3000)
    options = parser.parse_args()
    contestants = [make() for make in parse_implementations([options.impl]).values()]
    figures: dict[str, list[list[Sample]]] = {each.name: [] for each in contestants}
    with terminated_as_interrupted():
        for _ in range(options.rounds):
            for each in contestants:
                figures[each.name].append(sample(each, options.peers))
    last = figures[contestants[-1].name]
    print(f"{'':32}{'handshakes/s':>14}{'us of CPU each':>16}{'handshakes per CPU second':>28}")
    for turn, what in enumerate(TURNS):
        for each in contestants:
            mine = figures[each.name]
            ratio = statistics.median(b[turn][1] / a[turn][1] for a, b in zip(mine, last, strict=True))
            rate, cost = (statistics.median(column) for column in zip(*(s[turn] for s in mine), strict=True))
            print(f"{what:8}{each.name:24}{rate:14.0f}{cost:16.0f}{1e6 / cost:20.0f}, {ratio:.2f} x")


if __name__ == "__main__":
    main()
