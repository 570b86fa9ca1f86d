"""What bench/compare.py says of the machine, so that figures of two reports can be told apart."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from pathlib import Path


def describe(mtu: int) -> dict[str, str]:
    """By what it is about: a line of the report."""
    found = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{processor()}, {len(os.sched_getaffinity(0))} of {os.cpu_count()} usable",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB",
        "link": f"veth, MTU {mtu}",
    }
    for program, option in (
        ("iperf3", "--version"),
        ("wg", "--version"),
        ("ping", "-V"),
    ):
        found[program] = first_line(program, option)
    return found


def processor() -> str:
    """The model's name; not every architecture has one in /proc/cpuinfo."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^(?:model name|Model|cpu)\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1].strip() if model else platform.machine()


def first_line(program: str, option: str) -> str:
    if shutil.which(program) is None:
        return "missing"
    done = subprocess.run([program, option], capture_output=True, text=True, timeout=10, check=False)
    return (done.stdout + done.stderr).strip().partition("\n")[0].partition(" - ")[0]
