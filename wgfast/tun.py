"""The inner port of a Device: an interface to create or attach to, or a descriptor that somebody opened."""

from __future__ import annotations

from . import _core
from .errors import InterfaceError
from .settings import number


def open_tun(tun: str | int | None, vnet: bool, several: bool) -> tuple[int, bool, str | None]:
    """Descriptor (-1: none), whether it is ours to close, and the interface's name where there is one.
    `vnet`, `several` as in _core.tun_open. InterfaceError: the interface cannot be opened; ConfigError: no
    descriptor can be that number."""
    if tun is None:
        return -1, False, None
    if isinstance(tun, str):
        try:
            fd, name = _core.tun_open(tun, vnet, several)
        except InterfaceError:
            raise
        except OSError as error:
            raise InterfaceError(
                error.errno,
                f"tun: {tun!r}: {error.strerror}; creating an interface needs root and /dev/net/tun",
            ) from None
        return fd, True, name
    fd = number("tun", tun, 0, 0x7FFFFFFF)
    try:
        return fd, False, _core.tun_name(fd)
    except OSError:
        return fd, False, None
