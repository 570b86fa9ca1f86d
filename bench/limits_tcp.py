"""How much of a rate limit does one TCP stream get, and how does that depend on the burst?

    python bench/limits_tcp.py                      # as root, with iperf3

A tunnel between two network namespaces; the sending end limits its peer, or the receiving end does. Rates and
bursts (in seconds at the rate; auto: as when none is given) take turns in an order that is drawn anew each
round. What the receiver got in Mbit/s of TCP payload, medians; of 1420 bytes in the tunnel 1368 are that, and
the burst comes on top of the rate once.
"""

from __future__ import annotations

import argparse
import random
import statistics

from compare_contestants import Contestant, parse_implementations
from compare_lab import Lab, terminated_as_interrupted, wait_until
from compare_measures import parse_iperf

from wgfast import client
from wgfast.client import PeerBlock, SetRequest

RATES = (10**7, 10**8, 10**9)
BURSTS = (None, 0.1, 0.5, 1.0)
PORT = 5201
Case = tuple[str, int, float | None]


def limit(lab: Lab, way: str, rate: int, burst: float | None) -> None:
    """At the end that sends, or the one that receives; nowhere else."""
    for interface, limits_here in zip(lab.interfaces, (way == "send", way == "receive"), strict=True):
        (peer,) = client.get(interface).peers
        known = rate if limits_here else 0
        size = 0 if burst is None else round(known / 8 * burst)
        said = {f"{way}_rate": known, f"{way}_burst": size}
        other = dict.fromkeys(("send_rate", "receive_rate"), 0)
        client.set(interface, SetRequest(peers=[PeerBlock(peer.public_key, limits={**other, **said})]))


def stream(lab: Lab, seconds: int) -> float:
    server = lab.right.spawn("iperf3", "-s", "-1", "-p", str(PORT))
    try:
        wait_until(lambda: f":{PORT} " in lab.right.run("ss", "-ltn"), "iperf3: its server", 5)
        command = ["iperf3", "-J", "-i", "0", "-t", str(seconds), "-p", str(PORT), "-c", lab.addresses[1]]
        gbps: float = parse_iperf(lab.left.run(*command, timeout=seconds + 30))["gbps"]
        return gbps * 1000
    finally:
        server.kill()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    implementation = parse_implementations(["wgfast"])["wgfast"]()
    cases: list[Case] = [
        (way, rate, burst) for way in ("send", "receive") for rate in RATES for burst in BURSTS
    ]
    found: dict[Case, list[float]] = {case: [] for case in cases}
    with terminated_as_interrupted(), Lab(Contestant("wgfast", implementation, implementation)) as lab:
        for _ in range(options.rounds):
            for case in random.sample(cases, len(cases)):
                limit(lab, *case)
                found[case].append(stream(lab, options.seconds))
    for way, rate in dict.fromkeys(case[:2] for case in cases):
        each = (
            f"{'auto' if burst is None else f'{burst:g} s'} {statistics.median(found[way, rate, burst]):7.1f}"
            for burst in BURSTS
        )
        print(f"{way:8} {rate / 1e6:6.0f} Mbit/s   burst " + "   ".join(each))


if __name__ == "__main__":
    main()
