"""Trials at a constant rate of datagrams: compare_udp.c, built and run in the lab."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

from compare_lab import Lab, LabError, run
from compare_search import Trial

SOURCE = Path(__file__).with_name("compare_udp.c")
PORT = "5001"


def build(directory: Path) -> Path:
    """The program, in `directory`. LabError says what the compiler said."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise LabError("missing: gcc, to build compare_udp.c")
    program = directory / "compare_udp"
    flags = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra")
    run(compiler, *flags, str(SOURCE), "-o", str(program), timeout=60)
    return program


def trial(lab: Lab, program: Path, size: int, rate: float, seconds: float) -> Trial:
    """Datagrams of `size` bytes from the left end to the right one."""
    number = str(random.getrandbits(32))
    at = (lab.addresses[1], PORT)
    receiver = lab.right.spawn(
        str(program), "receive", *at, number, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert receiver.stdout is not None
    if receiver.stdout.readline() != "ready\n":
        raise LabError(f"compare_udp: its receiver ended with status {receiver.wait(5)}")
    command = (str(program), "send", *at, str(size), f"{rate:.0f}", f"{seconds:.3f}", number)
    sent = json.loads(lab.left.run(*command, timeout=seconds + 30))
    try:
        received = json.loads(receiver.communicate(timeout=30)[0])
    except subprocess.TimeoutExpired:
        raise LabError("compare_udp: its receiver does not end") from None
    return Trial(rate, sent["sent"], received["received"], sent["seconds"])
