"""Giving way to packets: handshakes are computed at a lower priority than anything else is done.

The threads that carry packets never run Python and never wait for the control plane, so all that an
established tunnel can feel of a thousand handshakes is that they want its processor. Therefore the thread
that drives a device lowers its priority for as long as it computes some, and so does as well as a thread of
its own would. That would need the device's lock and Python's just the same, held at a low priority while
others wait, and handshakes taken apart so that a key that changes meanwhile is noticed.

Who has lowered its priority may not always raise it again (that takes CAP_SYS_NICE, or RLIMIT_NICE): then it
stays as it is. On an asyncio loop it stays, too: there it would be the loop that gives way.
"""

from __future__ import annotations

import contextlib
import os
import threading
from types import TracebackType

LESS = 5  # of nice: where all processors are wanted, a third of what others get
_LOWEST = 19


class Courtesy:
    """`with courtesy:` the calling thread has a lower priority, if it may have its own back afterwards.
    Blocks may lie within each other."""

    __slots__ = ("_before", "_depth", "_may")

    def __init__(self) -> None:
        self._may: bool | None = None
        self._before = 0
        self._depth = 0

    def __enter__(self) -> None:
        self._depth += 1
        if self._depth == 1:
            self._lower()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0 and self._may:
            try:
                os.setpriority(os.PRIO_PROCESS, 0, self._before)
            except OSError:  # the privilege is gone since
                self._may = False

    def _lower(self) -> None:
        if self._may is None:
            self._may = may_come_back()
        if not self._may:
            return
        try:
            self._before = os.getpriority(os.PRIO_PROCESS, 0)  # 0: the thread, on Linux
            os.setpriority(os.PRIO_PROCESS, 0, min(self._before + LESS, _LOWEST))
        except OSError:  # somebody has forbidden the call
            self._may = False


def may_come_back() -> bool:
    """Whether a thread of this process that has lowered its priority may raise it again: tried by one that
    has nothing else to do."""
    done: list[bool] = []

    def attempt() -> None:
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        try:
            os.setpriority(os.PRIO_PROCESS, 0, min(nice + 1, _LOWEST))
            os.setpriority(os.PRIO_PROCESS, 0, nice)
            done.append(True)
        except OSError:
            pass

    thread = threading.Thread(target=attempt, daemon=True)
    try:
        thread.start()
    except RuntimeError:  # there are too many
        return False
    thread.join()
    return bool(done)


def keep_way_back() -> None:
    """Before privileges are dropped: priorities may be lowered and raised as before, up to that of now."""
    import resource

    limit = 20 - os.getpriority(os.PRIO_PROCESS, 0)
    with contextlib.suppress(OSError, ValueError):  # it was not ours to give
        resource.setrlimit(resource.RLIMIT_NICE, (limit, limit))
