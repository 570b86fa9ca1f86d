"""PreUp, PostUp, PreDown and PostDown: run by bash, as wg-quick runs them, but not for ever.

A hook sees what it would see in wg-quick: `set -e -o pipefail`, extglob, LC_ALL=C, and the shell variables
INTERFACE, CONFIG_FILE and those of the configuration, none of which is exported.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from wgfast.quick.errors import NOT_FOUND, TIMED_OUT, QuickError
from wgfast.quick.journal import Report
from wgfast.quick.programs import find

TIMEOUT_VARIABLE: Final = "WGFAST_HOOK_TIMEOUT"
TIMEOUT: Final = 120.0
_MERCY: Final = 2.0  # seconds between one signal and the next
_LOOK: Final = 0.01
# Hooks are written for wg(8). Where it is not installed, we have its commands.
_WG: Final = 'type -P wg >/dev/null || wg() { wgfast "$@"; }\n'

Variables = Mapping[str, str | Sequence[str]]


def timeout() -> float | None:
    """Seconds a hook may take, from WGFAST_HOOK_TIMEOUT; 0 is for ever, which is None here. QuickError if it
    is no number."""
    text = os.environ.get(TIMEOUT_VARIABLE, "")
    if not text:
        return TIMEOUT
    try:
        seconds = float(text)
        if not 0 <= seconds < 1e9:
            raise ValueError
    except ValueError:
        raise QuickError(f"{TIMEOUT_VARIABLE}={text!r}: seconds were expected, 0 for no limit") from None
    return seconds or None


def execute(
    key: str,
    hooks: Sequence[str],
    interface: str,
    variables: Variables,
    report: Report,
    limit: float | None = TIMEOUT,
) -> None:
    """Runs them in order. QuickError names the hook by `key` and place, not by its text, which may hold a
    secret; its status is the hook's own."""
    for number, hook in enumerate(hooks, 1):
        text = hook.replace("%i", interface)
        report("#", text)
        which = f"{interface}: {key}" + (f" ({number} of {len(hooks)})" if len(hooks) > 1 else "")
        _execute(which, _declared({"INTERFACE": interface, **variables}) + _WG + text, limit)


def _declared(variables: Variables) -> str:
    """Assignments for bash."""
    lines = []
    for name, value in variables.items():
        if isinstance(value, str):
            lines.append(f"{name}={shlex.quote(value)}\n")
        else:
            lines.append(f"{name}=({' '.join(map(shlex.quote, value))})\n")
    return "".join(lines)


def _execute(which: str, program: str, limit: float | None) -> None:
    bash = find("bash")
    if bash is None:
        raise QuickError(f"{which}: there is no bash to run it: install it", NOT_FOUND)
    with _script(program) as script:
        # Not an argument: everybody may read those. `read` ends with the file, which is a failure for -e.
        command = f'IFS= read -r -d "" -u {script} hook || exec {script}<&-; eval "$hook"'
        child = subprocess.Popen(
            [bash, "-e", "-o", "pipefail", "-O", "extglob", "-c", command, "wgfast"],
            pass_fds=[script],
            env=environment(),
        )
    try:
        status = child.wait(limit)
    except subprocess.TimeoutExpired:
        raise QuickError(
            f"{which} has not ended within {limit:g} s and was stopped: mend it, or set {TIMEOUT_VARIABLE} "
            "to more seconds (0: no limit)",
            TIMED_OUT,
        ) from None
    finally:
        if child.returncode is None:
            _end(child)
    if status < 0:
        raise QuickError(f"{which} was ended by {_signal_name(-status)}", 128 - status)
    if status:
        raise QuickError(f"{which} failed with exit status {status}", status)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time one


@contextlib.contextmanager
def _script(program: str) -> Iterator[int]:
    """A descriptor to read the program from, without a file that others see."""
    fd = os.memfd_create("hook")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(os.fsencode(program))
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def environment() -> dict[str, str]:
    """wg-quick puts its own directory first, so that hooks find wg; ours comes last: it may be a virtual
    environment with a Python of its own, which hooks have not asked for."""
    path = os.environ.get("PATH", os.defpath)
    return {**os.environ, "LC_ALL": "C", "PATH": f"{path}{os.pathsep}{os.path.dirname(sys.executable)}"}


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ends a hook and what it waits for. No process group of its own: it may ask on the terminal. What it
    left in the background on purpose, no longer its descendant, stays."""
    born = {pid: _birth(pid) for pid in _descendants(child.pid)}
    for number, patience in ((signal.SIGTERM, _MERCY), (signal.SIGKILL, _MERCY)):
        child.send_signal(number)  # to nobody, once it was waited for
        for pid, birth in born.items():
            # Its number may be another's by now.
            if birth and _birth(pid) == birth:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        deadline = time.monotonic() + patience
        while child.poll() is None or any(birth and _birth(pid) == birth for pid, birth in born.items()):
            if time.monotonic() > deadline:
                break
            time.sleep(_LOOK)
        else:
            return


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    entries: list[str] = []
    with contextlib.suppress(OSError):  # /proc is not mounted
        entries = os.listdir("/proc")
    for entry in entries:
        if entry.isdigit() and (parent := _stat(int(entry))):
            children.setdefault(int(parent[1]), []).append(int(entry))
    found = list(children.get(pid, ()))
    for each in found:  # grows as it goes
        found += children.get(each, ())
    return found


def _birth(pid: int) -> str:
    """When the process began; empty if it has ended."""
    state = _stat(pid)
    return state[19] if state and state[0] not in "ZX" else ""


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on, the parent next; none if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", errors="replace") as file:
            # The name before may hold blanks and parentheses.
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []
