"""Where the UAPI socket lives: /var/run/wireguard/INTERFACE.sock, made, taken over, watched, removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from typing import Final

from wgfast.errors import InterfaceError

DIRECTORY: Final = "/var/run/wireguard"
_BACKLOG: Final = 128


def socket_path(interface: str) -> str:
    return f"{DIRECTORY}/{interface}.sock"


def refuse_live(interface: str) -> None:
    """InterfaceError if another daemon answers on the interface's socket."""
    path = socket_path(interface)
    if _is_live(path):
        raise InterfaceError(
            f"{interface}: another daemon answers on {path}: choose another name, or remove that to end it"
        )


class UapiSocket:
    """A listening socket. `path` is where it can be removed from the outside, None if that is not known."""

    def __init__(self, listener: socket.socket, path: str | None) -> None:
        self.listener = listener
        self.path = path
        # Held open, so that the number of its inode cannot become another file's.
        self._file = -1 if path is None else os.open(path, os.O_PATH | os.O_CLOEXEC)

    @classmethod
    def open(cls, interface: str) -> UapiSocket:
        """Makes the socket, taking over one that nobody answers on. InterfaceError says why it cannot."""
        path = socket_path(interface)
        try:
            os.makedirs(DIRECTORY, mode=0o700, exist_ok=True)
            with _directory_lock():
                refuse_live(interface)
                _remove_stale(path)
                return cls(_listen(path), path)
        except InterfaceError:
            raise
        except OSError as error:
            raise InterfaceError(
                f"{interface}: cannot make {path}: {error.strerror}: run wgfast as root"
            ) from error

    @classmethod
    def adopt(cls, fd: int) -> UapiSocket:
        """Takes a listening socket that the process was given (WG_UAPI_FD)."""
        try:
            listener = socket.socket(fileno=fd)
            if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM:
                raise InterfaceError(f"WG_UAPI_FD={fd}: not a Unix stream socket")
            listener.listen(_BACKLOG)
            name = listener.getsockname()
        except InterfaceError:
            raise
        except OSError as error:
            raise InterfaceError(f"WG_UAPI_FD={fd}: not a listening Unix socket: {error.strerror}") from error
        path = name if isinstance(name, str) and name.startswith("/") and os.path.exists(name) else None
        return cls(listener, path)

    def is_in_place(self) -> bool:
        """Whether `path` still names this socket, not another or none."""
        if self.path is None:
            return True
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._file))
        except PermissionError:
            # Privileges were dropped, and the directory is closed to others.
            return os.fstat(self._file).st_nlink > 0
        except OSError:
            return False

    def close(self) -> None:
        """Unlinks the socket, unless its place was taken by another. The listener's server closes that."""
        if self.path is None:
            return
        if self.is_in_place():
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        os.close(self._file)
        self.path = None


@contextlib.contextmanager
def _directory_lock() -> Iterator[None]:
    # Between bind and listen a socket looks stale: two daemons that start at once would take each other's.
    fd = os.open(DIRECTORY, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _is_live(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # its queue is full: somebody listens
        except OSError:
            return False
        return True


def _remove_stale(path: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise InterfaceError(f"{path}: is there and is no socket: remove it")
    os.unlink(path)


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o077)  # whoever can connect can read the private key
    try:
        listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener
