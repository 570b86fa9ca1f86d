"""A file that is watched without being looked at: a descriptor that becomes readable when it may be gone."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Final

_IN_ATTRIB: Final = 0x4  # unlinking a file that is open changes its link count, no more
_IN_DELETE_SELF: Final = 0x400
_IN_MOVE_SELF: Final = 0x800
_RECEIVE: Final = 1 << 12


class FileWatch:
    """Watches the file that `path` names now. OSError if it cannot be watched."""

    def __init__(self, path: str) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = int(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        if self._fd < 0:
            raise _error(path)
        if (
            libc.inotify_add_watch(self._fd, os.fsencode(path), _IN_ATTRIB | _IN_DELETE_SELF | _IN_MOVE_SELF)
            < 0
        ):
            error = _error(path)
            os.close(self._fd)
            raise error

    def fileno(self) -> int:
        """Readable when the file was changed, moved or removed."""
        return self._fd

    def close(self) -> None:
        os.close(self._fd)

    def take(self) -> None:
        """Takes note, so that it is no longer readable."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, _RECEIVE)


def _error(path: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), path)
