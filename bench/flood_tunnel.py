"""What does an established tunnel feel of strangers' handshakes?

    python bench/flood_tunnel.py                   wgfast beside wireguard-go
    python bench/flood_tunnel.py --rounds 7 --flood junk --junk 100000

As root. In every round each implementation gets a tunnel between two network namespaces, and one TCP stream
(iperf3) is timed through it four times: undisturbed, and while there come to the receiving end

    junk     200,000 initiations a second with a wrong mac1, or as many as --junk says
    good     20,000 a second whose mac1 is right, from 1,000 addresses that do not answer cookies; all but
             mac1 is random: anybody can make them who knows the public key
    peers    the handshakes of peers that come back: 8 of them on their way at any time, as many a second as
             are answered, each another peer's first

Who sends them (bench/flood.c; for `peers` this program) and iperf3 share the processors with the tunnel,
which is the same for all. Medians of Gbit/s, what part of its own undisturbed throughput each keeps in the
same round, how many times the rival's part that is, and handshakes answered a second.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import os
import select
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from compare_contestants import Contestant, parse_implementations
from compare_lab import OUTSIDE, PORT, Lab, run, terminated_as_interrupted
from compare_measures import Settings, iperf, iperf_values
from crowd_sessions import Crowd
from flood import RATE
from handshakes import AT_ONCE, inside

SOURCE = Path(__file__).with_name("flood.c")
RATES = {"junk": RATE, "good": 20_000}
KINDS = (*RATES, "peers")
SOURCES = ("10.9.0.0/22", "10.9.0.1", "1000")
MESSAGES = 4000
PEERS_A_SECOND = 4000  # for so many there are peers
LEAD = 0.7  # seconds for TCP to find its pace, and the flood with it


def forged(responder: bytes, n: int) -> bytes:
    """Initiations of which only mac1 is right (whitepaper, section 5.4.4)."""
    key = hashlib.blake2s(b"mac1----" + responder).digest()
    bodies = (b"\1\0\0\0" + os.urandom(112) for _ in range(n))
    return b"".join(b + hashlib.blake2s(b, key=key, digest_size=16).digest() + bytes(16) for b in bodies)


def key_of(lab: Lab) -> bytes:
    return base64.b64decode(lab.right.run("wg", "show", lab.interfaces[1], "public-key"))


@contextlib.contextmanager
def flooded(lab: Lab, program: str, kind: str, seconds: float) -> Iterator[None]:
    """The receiving end's port, from the sending end's namespace."""
    command = (OUTSIDE[1], str(PORT), str(RATES[kind]), str(seconds))
    if kind == "junk":
        child = lab.left.spawn(program, "send", *command, stdout=subprocess.PIPE)
    else:
        network, first, count = SOURCES
        lab.left.ip("route", "replace", "local", network, "dev", "lo")
        lab.right.ip("route", "replace", network, "via", OUTSIDE[0])
        file = Path(lab.directory, "initiations")
        file.write_bytes(forged(key_of(lab), MESSAGES))
        shell = ("sh", "-c", 'file=$1; shift; exec "$@" <"$file"', "sh", str(file))
        spread = (program, "spread", *command, first, count)
        child = lab.left.spawn(*shell, *spread, stdout=subprocess.PIPE)
    try:
        yield
        sent = int(child.communicate(timeout=seconds + 10)[0])
        if sent < 0.9 * RATES[kind] * seconds:
            print(f"{lab.contestant.name}: only {sent / seconds:.0f} a second could be sent", flush=True)
    finally:
        child.kill()
        child.wait()


class Returning:
    """Peers that come back, one after the other; a context manager."""

    def __init__(self, lab: Lab, seconds: float) -> None:
        crowd = Crowd(int(PEERS_A_SECOND * seconds), key_of(lab))
        peers = crowd.configuration()
        lab.right.run("wg", "addconf", lab.interfaces[1], "/dev/stdin", stdin=peers, timeout=120)
        self._messages = iter([crowd.initiation(number) for number in range(1, len(crowd) + 1)])
        with inside(lab.left):
            self._end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._end.connect((OUTSIDE[1], PORT))
        self._stop = False
        self._thread = threading.Thread(target=self._send)
        self.answered = 0

    def __enter__(self) -> Returning:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop = True
        self._thread.join()
        self._end.close()

    def _send(self) -> None:
        for _ in range(AT_ONCE):
            self._end.send(next(self._messages))
        while not self._stop:
            # What a full buffer has lost is not waited for.
            if select.select([self._end], [], [], 0.2)[0]:
                self.answered += self._end.recv(200)[0] == 2
            message = next(self._messages, None)
            if message is None:
                print("there were too few peers", flush=True)
                return
            self._end.send(message)


def sample(contestant: Contestant, program: str, kind: str, seconds: int) -> tuple[float, float]:
    """Gbit/s, and handshakes answered a second."""
    with Lab(contestant) as lab, contextlib.ExitStack() as stack:
        whole = seconds + 2 * LEAD
        peers = stack.enter_context(Returning(lab, whole)) if kind == "peers" else None
        if kind in RATES:
            stack.enter_context(flooded(lab, program, kind, whole))
        time.sleep(LEAD)
        before, begin = peers.answered if peers else 0, time.monotonic()
        with iperf(lab, Settings(), seconds, 1, False) as client:
            gbps = float(iperf_values(client, seconds)["gbps"])
        answered = peers.answered - before if peers else 0
        return gbps, answered / (time.monotonic() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--impl", action="append", help="the last is the rival; wgfast,wireguard-go")
    parser.add_argument("--flood", choices=KINDS, action="append", help="only this one")
    parser.add_argument("--junk", type=int, default=RATES["junk"], help="messages a second with a wrong mac1")
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    RATES["junk"] = options.junk
    wanted = parse_implementations(options.impl or ["wgfast,wireguard-go"])
    contestants = [Contestant(name, made, made) for name, made in ((n, make()) for n, make in wanted.items())]
    kinds = ["", *(options.flood or KINDS)]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with terminated_as_interrupted(), tempfile.TemporaryDirectory() as directory:
        program = os.path.join(directory, "flood")
        run("gcc", "-O2", "-D_GNU_SOURCE", "-o", program, str(SOURCE))
        for number in range(options.rounds):
            for kind in kinds:
                for each in contestants if number % 2 == 0 else contestants[::-1]:
                    taken = sample(each, program, kind, options.seconds)
                    found.setdefault((each.name, kind), []).append(taken)
    rival = contestants[-1].name
    for kind in kinds:
        kept = {
            each.name: statistics.median(
                a[0] / b[0] for a, b in zip(found[each.name, kind], found[each.name, ""], strict=True)
            )
            for each in contestants
        }
        for each in contestants:
            gbps, answered = (
                statistics.median(column) for column in zip(*found[each.name, kind], strict=True)
            )
            line = f"{kind or 'undisturbed':12}{each.name:16}{gbps:6.2f} Gbit/s"
            if kind:
                share = kept[each.name]
                line += f", {share:.2f} of its own, {share / kept[rival]:.2f} x {rival}"
            print(line + (f", {answered:.0f} handshakes a second" if answered else ""))


if __name__ == "__main__":
    main()
