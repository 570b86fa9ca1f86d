"""Bounded processes and bounded waiting.

Nothing in the lab waits without a deadline and nothing is ended by name: a process is known by
its pid, or by a token that only its own environment carries.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

TOKEN_VARIABLE = "WGFAST_LAB_TOKEN"


class LabError(AssertionError):
    """A command of the lab failed, or something did not come about in time."""


def wait_until(condition: Callable[[], T], what: str, deadline: float = 5.0) -> T:
    """Polls until `condition()` is truthy and returns its value; `what` names it if it never is."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {deadline} s (last answer: {value!r})")
        time.sleep(0.01)


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    timeout: float = 10.0,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; with `check`, a non-zero exit raises and shows its output."""
    done = subprocess.run(
        list(argv),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        check=False,
    )
    if check and done.returncode != 0:
        raise LabError(
            f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return done


class Process:
    """A long-running program whose output goes to a file, ended by its pid.

    Of our descriptors it inherits those in `keep` only.
    """

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        env: Mapping[str, str] | None = None,
        keep: Sequence[int] = (),
    ) -> None:
        self.argv = list(argv)
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                pass_fds=keep,
            )
        self.pid = self._popen.pid

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, timeout: float = 5.0) -> int:
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"{' '.join(self.argv)}: still running after {timeout} s") from None

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def stop(self, timeout: float = 3.0) -> int:
        """SIGTERM, then SIGKILL; returns the exit status."""
        if self.returncode is None:
            self.signal(signal.SIGTERM)
            try:
                return self._popen.wait(timeout)
            except subprocess.TimeoutExpired:
                self._popen.kill()
        return self._popen.wait(timeout)


def pids_with_token(token: str) -> list[int]:
    """Processes that were started with `token` in their environment, daemonised ones included."""
    needle = f"{TOKEN_VARIABLE}={token}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if needle in environment:
            found.append(int(entry.name))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time a process has used so far."""
    # The command name may contain blanks and parentheses: fields are counted after the last ")".
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")
