"""The TUN interface as the daemon sees it: opened or handed over, followed wherever it is moved."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
from dataclasses import dataclass
from typing import Final

from wgfast import _core
from wgfast.errors import InterfaceError
from wgfast.monitor import Monitor

Place = tuple[int, int]  # a namespace: device and inode

_IFNAMSIZ: Final = 16
DEFAULT_MTU: Final = 1420
_TUNGETDEVNETNS: Final = 0x54E3
_TUNGETIFF: Final = 0x800454D2
_IFREQ: Final = 40
_FORM: Final = 0x1 | 0x2 | 0x1000  # IFF_TUN, IFF_TAP, IFF_NO_PI
_PLAIN: Final = 0x1 | 0x1000
_SETTLE: Final = 8
# What the system says of a TUN descriptor whose interface was deleted.
_GONE: Final = frozenset({errno.EBADFD, errno.ENODEV, errno.ENXIO, errno.EBADF})


@dataclass(frozen=True, slots=True)
class State:
    up: bool
    mtu: int  # as far as a datagram can carry it


class Interface:
    """`fd` is open until close(), which deletes the interface. `is_tun` False: one end of a socket pair,
    which is always up, has no MTU of its own and lives in no namespace."""

    def __init__(self, fd: int, name: str, is_tun: bool) -> None:
        self.fd = fd
        self.name = name
        self.is_tun = is_tun
        self._home = _identity(os.stat("/proc/thread-self/ns/net"))
        self._followed = self._home
        self._deletion = select.epoll()
        self._watched = False

    @classmethod
    def open(cls, name: str, vnet: bool = True, several: bool = False) -> Interface:
        """Creates it, down, with the usual MTU; `vnet`, `several` as in tun_open. InterfaceError: what is in
        the way."""
        try:
            fd, actual = _core.tun_open(name, vnet, several)
        except OSError as error:
            raise InterfaceError(f"{name}: {_explain(name, error)}") from error
        try:
            _core.tun_set_mtu(fd, DEFAULT_MTU)
        except OSError as error:
            os.close(fd)
            raise InterfaceError(
                f"{actual}: cannot set its MTU to {DEFAULT_MTU}: {error.strerror}"
            ) from error
        return cls(fd, actual, True)

    @classmethod
    def adopt(cls, fd: int, name: str) -> Interface:
        """Takes what the process was given (WG_TUN_FD): a TUN, or an end of a pair of Unix packet sockets."""
        flags = _tun_flags(fd)
        if flags is not None:
            if flags & _FORM != _PLAIN:
                raise InterfaceError(
                    f"WG_TUN_FD={fd}: it must be opened with IFF_TUN | IFF_NO_PI (IFF_VNET_HDR may be added)"
                )
            return cls(fd, _core.tun_name(fd), True)
        try:
            is_socket = os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except OSError as error:
            raise InterfaceError(f"WG_TUN_FD={fd}: not an open descriptor") from error
        if not is_socket:
            raise InterfaceError(f"WG_TUN_FD={fd}: neither a TUN device nor a socket that carries packets")
        return cls(fd, name, False)

    def close(self) -> None:
        self._deletion.close()
        os.close(self.fd)

    def state(self) -> State | None:
        """None: the interface was deleted."""
        if not self.is_tun:
            return State(True, DEFAULT_MTU)
        try:
            return State(_core.tun_is_up(self.fd), min(_core.tun_mtu(self.fd), _core.MTU_MAX))
        except OSError as error:
            if error.errno in _GONE:
                return None
            raise

    def follow(self, monitor: Monitor) -> None:
        """Makes the monitor hear of this interface, wherever it is now. OSError: it cannot."""
        for _ in range(_SETTLE):
            place = self._place()
            if place is None or place == self._followed:
                return
            if place == self._home:
                monitor.stay()
            else:
                namespace = fcntl.ioctl(self.fd, _TUNGETDEVNETNS)
                try:
                    monitor.follow(namespace)
                finally:
                    os.close(namespace)
            self._followed = place  # once more: it may have been moved meanwhile
        raise InterfaceError(
            f"{self.name}: is moved from namespace to namespace faster than it can be followed"
        )

    def _place(self) -> Place | None:
        """The namespace it is in. None: there is none, or it was deleted, or that is hidden from us."""
        if not self.is_tun:
            return None
        try:
            namespace = fcntl.ioctl(self.fd, _TUNGETDEVNETNS)
        except OSError:
            return None
        try:
            return _identity(os.fstat(namespace))
        finally:
            os.close(namespace)

    def watch(self, on: bool) -> None:
        """Whether fileno() becomes readable when the interface is deleted, which makes no other news if its
        namespace goes as well. Only while no worker reads it: one notices, and packets would wake us."""
        if not self.is_tun or on == self._watched:
            return
        if on:
            self._deletion.register(self.fd, select.EPOLLIN | select.EPOLLET)
        else:
            self._deletion.unregister(self.fd)
        self._watched = on

    def fileno(self) -> int:
        return self._deletion.fileno()

    def look(self) -> None:
        """fileno() is readable: takes note, so that it is not."""
        self._deletion.poll(0)


def _tun_flags(fd: int) -> int | None:
    """None: it is no TUN device."""
    request = bytearray(_IFREQ)
    try:
        fcntl.ioctl(fd, _TUNGETIFF, request)
    except OSError:
        return None
    name = os.fsdecode(bytes(request[:_IFNAMSIZ]).rstrip(b"\0"))
    try:
        # The ioctl says IFF_NO_PI of every TUN: the system gives the same bit a second meaning, IFF_NOFILTER.
        with open(f"/sys/class/net/{name}/tun_flags") as file:
            return int(file.read(), 16)
    except (OSError, ValueError):
        return int(struct.unpack_from("=H", request, _IFNAMSIZ)[0])


def _identity(status: os.stat_result) -> Place:
    return status.st_dev, status.st_ino


def _explain(name: str, error: OSError) -> str:
    if error.errno in (errno.EPERM, errno.EACCES):
        return "creating an interface takes CAP_NET_ADMIN: run wgfast as root"
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return "there is no /dev/net/tun: `modprobe tun`, or give the container that device"
    if error.errno == errno.EBUSY:
        return f"another program holds an interface of that name: choose another, or `ip link del {name}`"
    if error.errno == errno.EINVAL:
        return f"an interface of that name is there and is no TUN: choose another, or `ip link del {name}`"
    return f"cannot create the interface: {error.strerror}"
