"""Going to the background so that the command returns when, and only when, there is something to use.

The process is split before anything is opened: a device's memory does not survive a fork, nor do threads.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable
from typing import Final

_READY: Final = b"\0"
_LISTED_DESCRIPTORS: Final = "/proc/self/fd"


class Report:
    """How the daemon tells the waiting command, or the terminal in the foreground, how its start went."""

    def __init__(self, pipe: int | None = None) -> None:
        self._pipe = pipe

    def ready(self) -> None:
        """The command returns 0."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            _say(pipe, _READY)
            os.close(pipe)

    def failed(self, message: str) -> None:
        """The command prints the message and returns 1, when this process has ended: that closes the pipe."""
        if self._pipe is None:
            print(f"wgfast: {message}", file=sys.stderr)
        else:
            _say(self._pipe, message.encode(errors="replace"))


def _say(pipe: int, text: bytes) -> None:
    with contextlib.suppress(OSError):  # the command was interrupted; the daemon goes on
        os.write(pipe, text)


def detach(keep: Iterable[int], keep_output: bool) -> Report | int:
    """Splits off a daemon: a session of its own, the root directory, no descriptors but `keep` and, if
    `keep_output`, standard output and error. Returns a Report in the daemon; in the command, its exit status,
    once the daemon has reported or died."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        os.waitpid(child, 0)
        return _await_report(reader)
    try:
        os.close(reader)
        os.setsid()
        if os.fork():
            os._exit(0)  # so that the daemon is no session leader and can never get a terminal
        os.chdir("/")
        _close_others({writer, *keep})
        _redirect(keep_output)
    except BaseException as error:
        os.write(writer, f"cannot go to the background: {error}".encode())
        os._exit(1)
    return Report(writer)


def _await_report(reader: int) -> int:
    with os.fdopen(reader, "rb") as pipe:
        message = pipe.read()
    if message == _READY:
        return 0
    text = message.decode(errors="replace") or "the daemon died while it started; run it with -f to see why"
    print(f"wgfast: {text}", file=sys.stderr)
    return 1


def _close_others(keep: set[int]) -> None:
    # What was inherited by accident, say a lock of the script that started us, would be held for ever.
    try:
        entries = os.listdir(_LISTED_DESCRIPTORS)
    except FileNotFoundError:
        return  # /proc is not mounted
    for entry in entries:
        fd = int(entry)
        if fd > 2 and fd not in keep:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(fd)


def _redirect(keep_output: bool) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0,) if keep_output else (0, 1, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
