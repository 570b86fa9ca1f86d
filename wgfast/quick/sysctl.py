"""net.ipv4.conf.all.src_valid_mark: without it the reverse path filter, if it is strict, drops what comes
back to a tunnel whose packets bear a mark.

It is everybody's in the network namespace. Whether it was us who switched it on is noted in a file, so that
whoever takes the last such tunnel down can switch it off again.
"""

from __future__ import annotations

import contextlib
import glob
import os
from typing import Final

from wgfast.quick.errors import QuickError

SRC_VALID_MARK: Final = "net.ipv4.conf.all.src_valid_mark"
_PATH: Final = "/proc/sys/net/ipv4/conf/all/src_valid_mark"
_FILTERS: Final = "/proc/sys/net/ipv4/conf/*/rp_filter"
_NOTES: Final = "/run/wgfast"


def is_on() -> bool:
    try:
        return _read(_PATH) == "1"
    except OSError:
        return False


def switch_on(others: bool) -> None:
    """`others`: whether other tunnels here need it already. QuickError if it cannot be written
    and a strict filter makes it needed."""
    if not others:
        _forget()  # of another namespace, which had the number of this one
    if is_on():
        return
    try:
        _write("1")
    except OSError as error:
        if not _is_strict():
            return
        raise QuickError(
            f"{SRC_VALID_MARK}: cannot be set to 1: {error.strerror}: where /proc/sys is read-only, start "
            f"the container with --sysctl {SRC_VALID_MARK}=1"
        ) from error
    with contextlib.suppress(OSError):
        os.makedirs(_NOTES, mode=0o700, exist_ok=True)
        os.close(os.open(_note(), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _is_strict() -> bool:
    """Whether any link's reverse path filter is the strict one; what counts is the larger of the link's and
    all's (kernel, ip-sysctl). Those that come later take default's."""
    try:
        values = {path: int(_read(path)) for path in glob.glob(_FILTERS)}
    except (OSError, ValueError):
        return True
    least = max((value for path, value in values.items() if "/all/" in path), default=1)
    return any(max(value, least) == 1 for path, value in values.items() if "/lo/" not in path)


def was_ours() -> bool:
    return os.path.exists(_note())


def switch_off() -> None:
    """Only if it was us who switched it on, and no tunnel here is left that needs it: the caller knows."""
    if was_ours():
        _forget()
        with contextlib.suppress(OSError):
            _write("0")


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


def _write(value: str) -> None:
    with open(_PATH, "w") as file:
        file.write(value)


def _note() -> str:
    return f"{_NOTES}/src_valid_mark.{os.stat('/proc/thread-self/ns/net').st_ino}"


def _forget() -> None:
    with contextlib.suppress(OSError):
        os.unlink(_note())
        os.rmdir(_NOTES)
