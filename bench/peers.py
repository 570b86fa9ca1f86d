"""Many peers in one daemon: what loading, showing and keeping them costs, beside wireguard-go.

For each plan (so many peers with so many allowed IPs each) the daemons take turns. Each is started anew in a
network namespace of its own, its interface is set up, and then

    load      `wg setconf` of all peers: seconds until it returns, and of CPU in the daemon
    again     the same file once more
    dump      `wg show INTERFACE dump`, whose lines are counted; `show`: `wg show INTERFACE`, read by people
    memory    the daemon's resident set when it is empty, at its peak, and when all is done
    idle      CPU per second in the seconds that follow, in which nothing happens; in per cent of one core

Medians of the rounds are printed, and how many times the rival's figure ours is.
As root. wireguard-go has room for 65,536 peers.

    python bench/peers.py [--quick] [--plan PEERSxPREFIXES ...] [--rounds 5] [--alone]
        [--wgfast PATH] [--rival PATH] [--json FILE]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from compare_usage import thread_seconds

RIVALS = ("build/peers/bin/wireguard", "build/peers/bin/wireguard-go")
QUIET = {"LOG_LEVEL": "error", "WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1"}
SOCKETS = Path("/var/run/wireguard")
OURS = "wgfast"
FIGURES = {
    "load": "setconf, s",
    "load_cpu": "its CPU in the daemon, s",
    "again_cpu": "the same again, CPU, s",
    "dump": "show dump, s",
    "dump_cpu": "its CPU in the daemon, s",
    "show": "show, s",
    "empty": "memory empty, MiB",
    "peak": "memory at its peak, MiB",
    "memory": "memory then, MiB",
    "idle": "idle CPU, % of a core",
}


def run(*command: str, timeout: float = 300) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=timeout).stdout


def configuration(peers: int, prefixes: int) -> str:
    """Peers with random keys; allowed IPs of both families, all different."""
    source = random.Random(f"{peers} {prefixes}")
    lines = []
    for i in range(peers):
        nets = []
        for j in range(prefixes):
            n = i * prefixes + j
            four = f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}/32"
            nets.append(four if n % 2 == 0 else f"fd00:{n >> 16:x}:{n & 0xFFFF:x}::/64")
        key = base64.b64encode(source.randbytes(32)).decode()
        endpoint = f"192.0.2.{1 + i % 250}:{1000 + i // 250}"
        lines.append(f"[Peer]\nPublicKey = {key}\nAllowedIPs = {', '.join(nets)}\nEndpoint = {endpoint}\n")
    return "".join(lines)


class Daemon:
    """One daemon in a namespace of its own."""

    def __init__(self, program: list[str], name: str) -> None:
        self.name = name
        run("ip", "netns", "add", name)
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", name, *program, "-f", name], env={**os.environ, **QUIET}
        )
        self.pid = self._process.pid  # `ip netns exec` becomes the program
        self._wait()
        key = base64.b64encode(random.randbytes(32)).decode()
        subprocess.run(["wg", "set", name, "private-key", "/dev/stdin"], input=key, text=True, check=True)
        run("ip", "-n", name, "link", "set", name, "up")

    def _wait(self) -> None:
        deadline = time.monotonic() + 20
        while subprocess.run(["wg", "show", self.name], capture_output=True, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name}: the daemon does not answer")
            time.sleep(0.05)

    def cpu(self) -> float:
        """Seconds of all its threads."""
        return thread_seconds([self.pid])

    def memory(self, field: str) -> float:
        """MiB: VmRSS now, VmHWM at its peak."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) / 1024
        raise SystemExit(f"{self.name}: no {field}")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        (SOCKETS / f"{self.name}.sock").unlink(missing_ok=True)
        run("ip", "netns", "del", self.name)


@contextlib.contextmanager
def timed(daemon: Daemon, into: dict[str, float], name: str) -> Iterator[None]:
    began, cpu = time.monotonic(), daemon.cpu()
    yield
    into[name] = time.monotonic() - began
    into[f"{name}_cpu"] = daemon.cpu() - cpu


def measure(program: list[str], name: str, file: str, peers: int, idle: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    daemon = Daemon(program, name)
    try:
        figures["empty"] = daemon.memory("VmRSS")
        with timed(daemon, figures, "load"):
            run("wg", "setconf", name, file)
        with timed(daemon, figures, "again"):
            run("wg", "setconf", name, file)
        with timed(daemon, figures, "dump"):
            lines = run("wg", "show", name, "dump").count("\n")
        if lines != peers + 1:
            raise SystemExit(f"{name}: {lines - 1} peers are shown, not {peers}")
        with timed(daemon, figures, "show"):
            run("wg", "show", name)
        figures["peak"] = daemon.memory("VmHWM")
        figures["memory"] = daemon.memory("VmRSS")
        time.sleep(1)
        cpu, began = daemon.cpu(), time.monotonic()
        time.sleep(idle)
        figures["idle"] = 100 * (daemon.cpu() - cpu) / (time.monotonic() - began)
    finally:
        daemon.close()
    return figures


def compare(daemons: dict[str, list[str]], peers: int, prefixes: int, rounds: int, idle: float) -> dict:
    found: dict[str, list[dict[str, float]]] = {label: [] for label in daemons}
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(configuration(peers, prefixes))
        file.flush()
        for _ in range(rounds):
            for label, program in list(daemons.items()):
                name = f"wgp{os.getpid() % 100000}{label[-1]}"
                try:
                    found[label].append(measure(program, name, file.name, peers, idle))
                except subprocess.CalledProcessError as error:
                    if label == OURS:
                        raise
                    print(f"\n{label} refuses {peers} peers: {error.stderr.strip()[-200:]}")
                    daemons = {OURS: daemons[OURS]}
    return {
        label: {name: statistics.median(each[name] for each in found[label]) for name in FIGURES}
        for label in daemons
    }


def show(peers: int, prefixes: int, rounds: int, medians: dict[str, dict[str, float]]) -> None:
    print(f"\n{peers} peers with {prefixes} allowed IPs each, medians of {rounds}")
    labels = list(medians)
    print(
        f"{'':26}"
        + "".join(f"{label:>14}" for label in labels)
        + ("    ours/rival" if len(labels) > 1 else "")
    )
    for name, text in FIGURES.items():
        row = [medians[label][name] for label in labels]
        ratio = f"{row[0] / row[1]:14.3f}" if len(row) > 1 and row[1] else ""
        print(f"{text:26}" + "".join(f"{value:14.3f}" for value in row) + ratio)
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one round, few peers: that it works")
    parser.add_argument("--plan", nargs="+", default=["10000x1", "10000x6", "100000x1"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle", type=float, default=5.0, help="seconds in which nothing happens")
    parser.add_argument("--wgfast", default=str(Path(sys.executable).parent / "wgfast"), help="which one")
    parser.add_argument("--rival", help="a wireguard-go; default: the one of bench/compare.py")
    parser.add_argument("--alone", action="store_true", help="without a rival")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench/peers.py makes network namespaces: it takes root")
    daemons = {OURS: [options.wgfast]}
    rivals = [options.rival] if options.rival else [path for path in RIVALS if Path(path).exists()]
    if not options.alone:
        if rivals:
            daemons["wireguard-go"] = [str(Path(rivals[0]).resolve())]
        else:
            print("no wireguard-go here (`python bench/compare.py --get-peers` gets it): wgfast alone")
    plans = ["1000x1"] if options.quick else options.plan
    rounds, idle = (1, 1.0) if options.quick else (options.rounds, options.idle)
    results = {}
    for plan in plans:
        peers, prefixes = (int(part) for part in plan.split("x"))
        results[plan] = compare(daemons, peers, prefixes, rounds, idle)
        show(peers, prefixes, rounds, results[plan])
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
