"""net.ipv4.conf.all.src_valid_mark: without it the reverse path filter, if it is strict, drops what comes
back to a tunnel whose packets bear a mark.

It is everybody's in the network namespace. Whether it was us who switched it on is noted in a file, so that
whoever takes the last such tunnel down can switch it off again.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from wgfast.quick.errors import QuickError

SRC_VALID_MARK: Final = "net.ipv4.conf.all.src_valid_mark"
_PATH: Final = "/proc/sys/net/ipv4/conf/all/src_valid_mark"
_NOTES: Final = "/run/wgfast"


def is_on() -> bool:
    try:
        with open(_PATH) as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def switch_on(others: bool) -> None:
    """`others`: whether other tunnels here need it already. QuickError if it cannot be written."""
    if not others:
        _forget()  # of another namespace, which had the number of this one
    if is_on():
        return
    try:
        _write("1")
    except OSError as error:
        raise QuickError(
            f"{SRC_VALID_MARK}: cannot be set to 1: {error.strerror}: where /proc/sys is read-only, start "
            f"the container with --sysctl {SRC_VALID_MARK}=1"
        ) from error
    with contextlib.suppress(OSError):
        os.makedirs(_NOTES, mode=0o700, exist_ok=True)
        os.close(os.open(_note(), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def was_ours() -> bool:
    return os.path.exists(_note())


def switch_off() -> None:
    """Only if it was us who switched it on, and no tunnel here is left that needs it: the caller knows."""
    if was_ours():
        _forget()
        with contextlib.suppress(OSError):
            _write("0")


def _write(value: str) -> None:
    with open(_PATH, "w") as file:
        file.write(value)


def _note() -> str:
    return f"{_NOTES}/src_valid_mark.{os.stat('/proc/thread-self/ns/net').st_ino}"


def _forget() -> None:
    with contextlib.suppress(OSError):
        os.unlink(_note())
        os.rmdir(_NOTES)
