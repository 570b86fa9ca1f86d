"""What a measurement costs: processor time and memory, read from /proc, and who else was busy meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
MIB = 1024  # of the kB that /proc counts in
# Strangers who take more than this share of one processor make a measurement doubtful.
DISTURBING = 0.05

# By pid: seconds of a process itself, and of the children it has waited for.
Spent = dict[int, tuple[float, float]]


def parse_stat(text: str) -> tuple[int, float, float]:
    """Of /proc/PID/stat: the parent's pid, and the seconds of processor time of the process with all its
    threads, and of the children it has waited for."""
    # The command's name may contain blanks and parentheses: fields are counted after the last ")".
    fields = text.rpartition(")")[2].split()
    user, system, waited_user, waited_system = map(int, fields[11:15])
    return int(fields[1]), (user + system) / TICK, (waited_user + waited_system) / TICK


def parse_machine(text: str) -> tuple[float, float]:
    """Of /proc/stat: seconds in which processors worked (also for interrupts), and that were stolen."""
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, text.split(None, 9)[1:9])
    return (user + nice + system + irq + softirq) / TICK, steal / TICK


def parse_memory(text: str) -> tuple[float, float]:
    """Of /proc/PID/status: resident MiB now, and at their highest."""
    found = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", text, re.MULTILINE))
    return int(found.get("VmRSS", 0)) / MIB, int(found.get("VmHWM", 0)) / MIB


def machine_seconds() -> tuple[float, float]:
    with open("/proc/stat") as file:
        return parse_machine(file.readline())


def process_seconds(pids: Iterable[int]) -> float:
    """Processor time so far of these processes; one that has ended counts nothing."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += parse_stat(Path(f"/proc/{pid}/stat").read_text())[1]
    return total


def thread_seconds(pids: Iterable[int]) -> float:
    """Processor time of the threads that these processes have, as the scheduler counts it: to the nanosecond,
    where ticks tell little of what works for some microseconds at a time. What ended threads used is lost."""
    tasks = (task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir())
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def memory(pids: Iterable[int]) -> tuple[float, float]:
    """Resident MiB of these processes together, now and at their highest."""
    now = highest = 0.0
    for pid in pids:
        with contextlib.suppress(OSError):
            each = parse_memory(Path(f"/proc/{pid}/status").read_text())
            now, highest = now + each[0], highest + each[1]
    return now, highest


def forget_peak(pids: Iterable[int]) -> None:
    """The highest resident size is counted anew from here (proc(5), clear_refs)."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


@dataclass(frozen=True)
class Usage:
    """What was used from the making of a Meter to its stop(); the tunnel's ends in the order left, right."""

    seconds: float
    machine: float
    stolen: float
    strangers: float
    tunnel: tuple[float, float]
    peak: tuple[float, float]

    @property
    def disturbed(self) -> bool:
        """Whether processes outside the lab, or the hypervisor, took what may have been missed."""
        return max(self.strangers, self.stolen) > DISTURBING * self.seconds


class Meter:
    """Counts for the tunnel processes `pids` (left's, right's) and for the machine around them."""

    def __init__(self, pids: Sequence[Sequence[int]], namespaces: Sequence[str]) -> None:
        self._pids = pids
        self._ours = {os.stat(f"/run/netns/{name}").st_ino for name in namespaces}
        for each in pids:
            forget_peak(each)
        self._strangers = self._strangers_seconds()
        self._tunnel = [process_seconds(each) for each in pids]
        self._machine, self._stolen = machine_seconds()
        self._begin = time.monotonic()

    def stop(self) -> Usage:
        seconds = time.monotonic() - self._begin
        machine, stolen = machine_seconds()
        left, right = (
            process_seconds(pids) - before for pids, before in zip(self._pids, self._tunnel, strict=True)
        )
        strangers = spent_between(self._strangers, self._strangers_seconds())
        peaks = [memory(pids)[1] for pids in self._pids]
        return Usage(
            seconds,
            machine - self._machine,
            stolen - self._stolen,
            strangers,
            (left, right),
            (peaks[0], peaks[1]),
        )

    def _strangers_seconds(self) -> Spent:
        """Of each process that is not this one, not in the lab and not a thread of the kernel. What its
        children used counts when they have ended, but not for init, who inherits anybody's."""
        found: Spent = {}
        own = os.getpid()
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == own:
                continue
            with contextlib.suppress(OSError):
                parent, spent, waited = parse_stat(Path(f"/proc/{entry}/stat").read_text())
                if parent not in (2, own) and os.stat(f"/proc/{entry}/ns/net").st_ino not in self._ours:
                    found[int(entry)] = spent, (waited if int(entry) != 1 else 0.0)
        return found


def spent_between(before: Spent, after: Spent) -> float:
    """Processor seconds by all of these processes. What one that has ended had used is its parent's now, and
    no loss; if nobody waited for it, only what those used who are still there can be told."""
    everything = sum(map(sum, after.values())) - sum(map(sum, before.values()))
    still_there = sum(spent - before.get(pid, (0.0, 0.0))[0] for pid, (spent, _) in after.items())
    return max(everything, still_there, 0.0)


def wait_quiet(timeout: float, share: float = DISTURBING) -> bool:
    """Waits until all processors together work less than `share` of one; False if they never do."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        before = sum(machine_seconds())
        time.sleep(0.3)
        if sum(machine_seconds()) - before <= share * 0.3 + 1 / TICK:
            return True
    return False
