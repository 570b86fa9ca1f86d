"""Other programs, found and run to their end within a time limit."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from wgfast.quick.errors import NOT_FOUND, TIMED_OUT, QuickError

TIMEOUT: Final = 30.0
# Where they are, even for who is called from cron or has a user's PATH.
_SYSTEM: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")


def find(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM)))


def run(argv: Sequence[str], stdin: str = "", timeout: float = TIMEOUT) -> str:
    """Its standard output. QuickError if it is not there, hangs or fails: with its own words and status."""
    path = find(argv[0])
    if path is None:
        raise QuickError(f"{argv[0]}: there is no such program", NOT_FOUND)
    try:
        done = subprocess.run(
            [path, *argv[1:]],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, "LC_ALL": "C"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise QuickError(f"{' '.join(argv)}: no end within {timeout:.0f} s: stopped", TIMED_OUT) from None
    except OSError as error:
        raise QuickError(f"{path}: {error.strerror}", NOT_FOUND) from None
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        status = done.returncode if done.returncode > 0 else 128 - done.returncode
        raise QuickError(f"{' '.join(argv)}: {said or f'exit status {status}'}", status)
    return done.stdout
