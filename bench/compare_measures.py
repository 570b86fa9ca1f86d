"""What bench/compare.py measures of a tunnel, each by its name:

tcp1 tcp4          iperf3, one and four streams from left to right: Gbit/s, processor seconds per
                   GB (10^9 bytes) of each tunnel process and of the whole machine, highest memory
udp64 udp1372      the highest rate of datagrams with that payload that is carried without loss
ping ping-loaded   echo times, on an idle tunnel and beside one TCP stream
idle               memory and processor time of a tunnel that has only shaken hands
soak               one TCP stream, held for long, and the memory over time (--soak)

-back              (tcp) from right to left
-segmented         (all but idle) over a link that takes packets one by one, as a network card without
                   offloads for UDP
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compare_udp
from compare_contestants import CommandLineError, Contestant
from compare_lab import Lab, LabError, wait_until
from compare_search import search
from compare_usage import Meter, Usage, memory, wait_quiet

DEFAULT = ("tcp1", "tcp4", "tcp1-back", "tcp4-back", "udp64", "udp1372", "ping", "ping-loaded", "idle")
SOAK = "soak"
_NAME = re.compile(r"(tcp|udp|ping|idle|soak)(\d*)(-loaded)?(-back)?(-segmented)?")
_IPERF_PORT = 5201
_RAMP = 0.7  # seconds after which a TCP stream counts as a load
# At less than 10 ms, ping(8) would spin from the answer to the next echo and keep a processor awake.
_PING_INTERVAL = 0.02
_PING_SPANS = 2  # times the seconds of other measures, for there are only 50 echoes in one
_UDP_MOST = 65507

Values = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How long and how exactly to measure."""

    seconds: int = 5  # of TCP and idle; ping takes twice as long
    trial_seconds: float = 1.5
    trials: int = 8
    tolerance: float = 0.001
    congestion: str = "cubic"
    mtu: int = 1500
    soak: int = 0
    quiet_timeout: float = 5.0  # to wait for a machine that does nothing else
    attempts: int = 2  # at a sample that fails or is disturbed
    udp_program: Path | None = None


@dataclass(frozen=True)
class Measure:
    name: str
    kind: str
    number: int = 1  # streams, or bytes
    loaded: bool = False
    back: bool = False
    segmented: bool = False

    @classmethod
    def of(cls, name: str) -> Measure:
        """CommandLineError if there is no such measure."""
        found = _NAME.fullmatch(name)
        kind, number = (found[1], found[2]) if found else ("", "")
        fits = {"tcp": (1, 128), "udp": (8, _UDP_MOST)}.get(kind)
        if (
            not found
            or (fits is None) != (number == "")
            or (fits and not fits[0] <= int(number) <= fits[1])
            or (found[3] and kind != "ping")
            or (found[4] and kind != "tcp")
            or (found[5] and kind == "idle")
        ):
            raise CommandLineError(
                f"--measures: there is no {name!r}; there are {', '.join(DEFAULT)}, other numbers of streams "
                f"(tcp8) and bytes (udp512), and tcp1-segmented and so on"
            )
        return cls(name, kind, int(number or 1), bool(found[3]), bool(found[4]), bool(found[5]))

    @property
    def tools(self) -> tuple[str, ...]:
        """The programs it takes, beyond what the lab itself needs."""
        iperf = self.kind in ("tcp", "soak") or self.loaded
        return (
            *(("iperf3",) if iperf else ()),
            *(("gcc",) if self.kind == "udp" else ()),
            *(("ethtool",) if self.segmented else ()),
        )

    def fits(self, contestant: Contestant) -> bool:
        """Whether it says anything of this contestant: without a tunnel there is none to be idle."""
        return contestant.has_tunnel or self.kind not in ("idle", "soak")

    def duration(self, settings: Settings) -> float:
        """About how many seconds it takes, the lab included."""
        spent = {
            "udp": (settings.trials + 1) * (settings.trial_seconds + 0.3),
            "soak": settings.soak,
            "ping": _PING_SPANS * settings.seconds + (2 * _RAMP if self.loaded else 0),
        }.get(self.kind, settings.seconds)
        return spent + 1.5

    def make(self, contestant: Contestant, settings: Settings) -> tuple[Values, Usage]:
        """Builds a lab, measures once, and takes the lab down."""
        with Lab(contestant, segmenting=self.segmented, mtu=settings.mtu) as lab:
            wait_quiet(settings.quiet_timeout)
            meter = Meter(lab.tunnel_pids, [side.name for side in lab.sides])
            take = {
                "tcp": self._tcp,
                "udp": self._udp,
                "ping": self._ping,
                "idle": self._idle,
                SOAK: self._soak,
            }
            values = take[self.kind](lab, settings)
            return self._finish(lab, values, meter.stop())

    def _finish(self, lab: Lab, values: Values, usage: Usage) -> tuple[Values, Usage]:
        """Adds what it cost. A row's sender and receiver are the tunnel's ends by the way of the data."""
        order = (1, 0) if self.back else (0, 1)
        gigabytes = values.get("gigabytes", 0.0)
        if gigabytes:
            values["machine_cpu_per_gb"] = usage.machine / gigabytes
        for role, index in zip(("sender", "receiver"), order, strict=True):
            if not lab.tunnel_pids[index]:
                continue
            if gigabytes:
                values[f"{role}_cpu_per_gb"] = usage.tunnel[index] / gigabytes
            values[f"{role}_peak_mib"] = usage.peak[index]
            if self.kind == "idle":
                values[f"{role}_mib"] = memory(lab.tunnel_pids[index])[0]
                values[f"{role}_cpu_share"] = usage.tunnel[index] / usage.seconds
        if any(set(pids) - set(side.pids()) for pids, side in zip(lab.tunnel_pids, lab.sides, strict=True)):
            raise LabError(f"{lab.contestant.name}: a tunnel process ended during {self.name}")
        return values, usage

    def _tcp(self, lab: Lab, settings: Settings) -> Values:
        with iperf(lab, settings, settings.seconds, self.number, self.back) as client:
            return iperf_values(client, settings.seconds)

    def _udp(self, lab: Lab, settings: Settings) -> Values:
        program = settings.udp_program
        if program is None:
            raise LabError("compare_udp.c was not built")
        found = search(
            lambda rate: compare_udp.trial(lab, program, self.number, rate, settings.trial_seconds),
            tolerance=settings.tolerance,
            steps=settings.trials,
        )
        return {
            "kpps": found.rate / 1000,
            "loss": found.loss,
            "limit": found.limit,
            "trials": found.trials,
            "gbps": found.rate * self.number * 8 / 1e9,
        }

    def _ping(self, lab: Lab, settings: Settings) -> Values:
        seconds = _PING_SPANS * settings.seconds
        if not self.loaded:
            return _ping(lab, seconds)
        with iperf(lab, settings, seconds + 2 * _RAMP, 1, False) as client:
            time.sleep(_RAMP)
            values = _ping(lab, seconds)
            values["gbps"] = iperf_values(client, seconds)["gbps"]
        return values

    def _idle(self, lab: Lab, settings: Settings) -> Values:
        time.sleep(settings.seconds)
        return {}

    def _soak(self, lab: Lab, settings: Settings) -> Values:
        """Looks at the memory a hundred times, but not more often than twice a second."""
        begin = time.monotonic()
        samples = []
        with iperf(lab, settings, settings.soak, 1, False) as client:
            while client.poll() is None:
                resident = [round(memory(pids)[0], 2) for pids in lab.tunnel_pids]
                samples.append([round(time.monotonic() - begin, 2), *resident])
                with contextlib.suppress(subprocess.TimeoutExpired):
                    client.wait(max(0.5, settings.soak / 100))
                if time.monotonic() - begin > settings.soak + 30:
                    raise LabError(f"iperf3 was still running {settings.soak + 30:.0f} s after its start")
            return {**iperf_values(client, 0), "samples": samples}


@contextlib.contextmanager
def iperf(
    lab: Lab, settings: Settings, seconds: float, streams: int, back: bool
) -> Iterator[subprocess.Popen[str]]:
    """An iperf3 client on the left, at work; its server serves this one and ends."""
    server = lab.right.spawn("iperf3", "-s", "-1", "-p", str(_IPERF_PORT))
    wait_until(lambda: _listens(server), "iperf3: its server", 5)
    command = ["iperf3", "-J", "-c", lab.addresses[1], "-p", str(_IPERF_PORT)]
    # Without reports in between: a soak's would fill the pipe, which is read at the end.
    command += ["-i", "0", "-t", str(math.ceil(seconds)), "-P", str(streams), "-C", settings.congestion]
    client = lab.left.spawn(*command, *(["-R"] if back else []), stdout=subprocess.PIPE)
    try:
        yield client
    finally:
        for process in (client, server):
            process.kill()
            process.wait()


def _listens(server: subprocess.Popen[str]) -> bool:
    if server.poll() is not None:
        raise LabError(f"iperf3: its server ended with status {server.returncode}")
    with contextlib.suppress(OSError):
        for table in ("tcp", "tcp6"):
            lines = Path(f"/proc/{server.pid}/net/{table}").read_text().splitlines()
            if any(f":{_IPERF_PORT:04X} " in line and line.split()[3] == "0A" for line in lines):
                return True
    return False


def iperf_values(client: subprocess.Popen[str], seconds: float) -> Values:
    try:
        return parse_iperf(client.communicate(timeout=seconds + 30)[0])
    except subprocess.TimeoutExpired:
        raise LabError("iperf3: its client does not end") from None


def parse_iperf(text: str) -> Values:
    """Of iperf3's JSON for TCP: what arrived. LabError if it is a report of an error."""
    try:
        report = json.loads(text)
    except json.JSONDecodeError:
        raise LabError(f"iperf3 printed no report: {text[-300:]!r}") from None
    if "error" in report:
        raise LabError(f"iperf3: {report['error']}")
    received, sent = report["end"]["sum_received"], report["end"]["sum_sent"]
    return {
        "gbps": received["bits_per_second"] / 1e9,
        "gigabytes": received["bytes"] / 1e9,
        "retransmits": sent.get("retransmits", 0),
    }


def _ping(lab: Lab, seconds: float) -> Values:
    """Echoes for so long; one that is late does not hold up the next."""
    count = str(round(seconds / _PING_INTERVAL))
    command = ("ping", "-n", "-c", count, "-i", str(_PING_INTERVAL), "-W", "1", lab.addresses[1])
    return parse_ping(lab.left.run(*command, timeout=2 * seconds + 30, check=False))


def parse_ping(text: str) -> Values:
    """Of what ping prints: median and 99th percentile of the times in microseconds, and the share lost."""
    times = [float(found) * 1000 for found in re.findall(r"\btime=([\d.]+) ms", text)]
    counts = re.search(r"(\d+) packets transmitted", text)
    if not times or not counts:
        raise LabError(f"ping got no answer: {text[-300:]!r}")
    sent = int(counts[1])
    return {
        "median_us": statistics.median(times),
        "p99_us": percentile(times, 0.99),
        "echoes": len(times),
        "lost": max(0, sent - len(times)) / sent,
    }


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that at least `share` of them do not exceed (the nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
