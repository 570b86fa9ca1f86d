"""A deadline that a selector can wait for, on the clock that also counts while the machine is suspended.

A selector's own timeout stands still in suspend: a peer that was owed a keepalive would get it late.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from typing import Final

_CLOCK_BOOTTIME: Final = 7
_TFD_TIMER_ABSTIME: Final = 1
_ITIMERSPEC: Final = struct.Struct("@llll")  # interval, then value: seconds, nanoseconds


class Alarm:
    """A timer descriptor, readable from the deadline on (timerfd_create(2))."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = int(self._libc.timerfd_create(_CLOCK_BOOTTIME, os.O_CLOEXEC | os.O_NONBLOCK))
        if self._fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), "timerfd")
        self._deadline: int | None = None

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def set(self, deadline: int | None) -> None:
        """ns of CLOCK_BOOTTIME; past ones are due at once, None: never. It is unreadable until then."""
        if deadline == self._deadline:
            return
        self._deadline = deadline
        seconds, nanoseconds = (0, 0) if deadline is None else divmod(max(deadline, 1), 10**9)
        self._libc.timerfd_settime(
            self._fd, _TFD_TIMER_ABSTIME, _ITIMERSPEC.pack(0, 0, seconds, nanoseconds), None
        )

    def ring(self) -> None:
        """It is readable: takes note, so that it is not."""
        self._deadline = None
        with contextlib.suppress(BlockingIOError):  # set anew meanwhile
            os.read(self._fd, 8)
