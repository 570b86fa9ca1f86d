"""Privileges in one small process, packets in another.

What touches packets needs CAP_NET_ADMIN only to open its interface and, later, for two things: the mark of
new sockets, and buffers for them beyond what the system gives everybody. So it drops all privileges once the
interface is open, and hands new sockets to a process that has kept them (`Keeper`), which does just that. The
two speak over a pair of Unix sockets: a request is a number, a mark and one or two UDP sockets, its answer
that number and an errno. Whoever asks may have been taken over: it gets this done and nothing else.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import pwd
import socket
import struct
import threading
from typing import Final

from wgfast.errors import InterfaceError
from wgfast.priority import keep_way_back

BUFFER: Final = 4 << 20  # bytes, as the core wishes for (core/udp.c)
_REQUEST: Final = struct.Struct("=II")
_ANSWER: Final = struct.Struct("=Ii")
# Not all that is a datagram's: a socket of SOCK_DGRAM may be one for ICMP.
_UDP: Final = {
    (family, socket.SOCK_DGRAM, socket.IPPROTO_UDP) for family in (socket.AF_INET, socket.AF_INET6)
}
_PATIENCE: Final = 5.0  # seconds, for what takes microseconds
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_LAST_CAPABILITY: Final = 63


# ---- with privileges ----


class Keeper:
    """The side that has kept them. `theirs` goes to the other process, by fork and exec."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def fileno(self) -> int:
        return self._ours.fileno()

    def hand_over(self) -> None:
        """The other process has its end: from now on its death can be seen here."""
        self.theirs.close()

    def serve(self) -> bool:
        """Answers one request. False: the other process is gone."""
        data, fds = _receive(self._ours)
        if not data:
            return False
        number, code = 0, 0
        try:
            if len(data) != _REQUEST.size:
                raise OSError(errno.EPROTO, "a request is a number and a mark")
            number, mark = _REQUEST.unpack(data)
            if not fds:
                # Also what is left of them where this process has no descriptor free.
                raise OSError(errno.EBADF, "a request comes with sockets")
            for fd in fds:
                _prepare(fd, mark)
        except OSError as error:
            code = error.errno or errno.EIO
        finally:
            for fd in fds:
                os.close(fd)
        with contextlib.suppress(OSError):  # the next request tells that nobody is there
            self._ours.send(_ANSWER.pack(number, code))
        return True

    def close(self) -> None:
        """Also ends a serve() that waits in another thread."""
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        self._ours.close()
        self.theirs.close()


def _receive(end: socket.socket) -> tuple[bytes, list[int]]:
    """A request and its descriptors, of whatever kind; none of them if some did not arrive."""
    numbers = array.array("i")
    try:
        data, ancillary, flags, _ = end.recvmsg(
            64, socket.CMSG_SPACE(2 * numbers.itemsize), socket.MSG_CMSG_CLOEXEC
        )
    except OSError:  # closed, here or there
        return b"", []
    for level, kind, value in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers.frombytes(value[: len(value) // numbers.itemsize * numbers.itemsize])
    if flags & socket.MSG_CTRUNC or not data:
        while numbers:
            os.close(numbers.pop())
    return data, list(numbers)


def _prepare(fd: int, mark: int) -> None:
    """OSError for what is no UDP socket."""
    end = socket.socket(fileno=fd)  # which stays the caller's to close
    try:
        if (end.family, end.type, end.proto) not in _UDP:
            raise OSError(errno.EPROTOTYPE, "not a UDP socket")
        end.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, struct.pack("=I", mark))
        end.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER)
        end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, BUFFER)
    finally:
        end.detach()


# ---- without ----


class Kept:
    """The side without. `prepare` is what `Core.set_keeper` takes; `fileno()` is readable once the keeper is
    gone. Any thread may call any method."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._lock = threading.Lock()  # of whoever reads
        self._end.settimeout(_PATIENCE)
        self._asked = 0

    def fileno(self) -> int:
        return self._end.fileno()

    def is_gone(self) -> bool:
        """`fileno()` is readable: takes note, so that it is not."""
        if not self._lock.acquire(blocking=False):
            return False  # prepare() reads it, in another thread
        try:
            # Not recv(), which waits. What there is to read is an answer that came too late, or the end.
            return not os.read(self._end.fileno(), _ANSWER.size)
        except BlockingIOError:
            return False  # prepare() has read it
        except OSError:
            return True
        finally:
            self._lock.release()

    def prepare(self, fd4: int, fd6: int, mark: int) -> None:
        """Asks, and waits. OSError: it was refused, or nobody answers."""
        with self._lock:
            self._prepare(fd4, fd6, mark)

    def _prepare(self, fd4: int, fd6: int, mark: int) -> None:
        fds = [fd for fd in (fd4, fd6) if fd >= 0]
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        self._asked = self._asked + 1 & 0xFFFFFFFF
        number, code = -1, 0
        try:
            self._end.sendmsg([_REQUEST.pack(self._asked, mark)], rights)
            while number != self._asked:  # an answer to one before, that came too late, is none to this one
                answer = self._end.recv(_ANSWER.size)
                if len(answer) != _ANSWER.size:
                    raise OSError(errno.EPIPE, "whoever keeps the privileges is gone")
                number, code = _ANSWER.unpack(answer)
        except TimeoutError:
            raise OSError(errno.ETIMEDOUT, "whoever keeps the privileges does not answer") from None
        if code:
            raise OSError(code, os.strerror(code))

    def close(self) -> None:
        self._end.close()


def drop_privileges(user: str | None = None) -> None:
    """No capability is left, nor can one come back; `user`: that user from now on, which takes CAP_SETUID.
    While the process has one thread: capabilities are a thread's. InterfaceError: it could not be done."""
    libc = ctypes.CDLL(None, use_errno=True)
    keep_way_back()
    try:
        _must(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        for capability in range(_LAST_CAPABILITY + 1):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # there are fewer, and it takes CAP_SETPCAP
        libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        if user is not None:
            entry = pwd.getpwnam(user)
            os.setgroups([])
            os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
            os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        _must(libc.capset(header, (ctypes.c_uint32 * 6)()))
    except KeyError:
        raise InterfaceError(f"user {user!r}: there is none of that name") from None
    except OSError as error:
        raise InterfaceError(f"privileges cannot be dropped: {error.strerror}") from error


def _must(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
