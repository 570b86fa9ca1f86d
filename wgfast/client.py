"""Which WireGuard interfaces there are, what they are set to, and how to change that.

Userspace ones, of any implementation, are spoken to over their UAPI socket; the kernel's are read through
netlink. Every function works on names and blocks until it is answered.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from wgfast import client_kernel, client_names, client_uapi
from wgfast.client_names import Report, ResolutionError
from wgfast.client_state import (
    DeviceState,
    PeerState,
    PeerStatistics,
    Statistics,
    endpoint_text,
    prefix_text,
)
from wgfast.uapi import PeerBlock, SetRequest

__all__ = [
    "DeviceState",
    "PeerBlock",
    "PeerState",
    "PeerStatistics",
    "ResolutionError",
    "SetRequest",
    "Statistics",
    "answers",
    "endpoint_text",
    "get",
    "interfaces",
    "prefix_text",
    "set",
    "statistics",
]


def interfaces() -> list[str]:
    """Names, the kernel's first, as `wg show interfaces` finds and orders them. OSError if the kernel or the
    sockets' directory cannot be asked."""
    return client_kernel.interfaces() + client_uapi.interfaces()


def get(name: str) -> DeviceState:
    """The interface's state. OSError if it cannot be asked or refuses, with the errno that `wg` would print:
    EPROTONOSUPPORT or ENODEV if there is no such interface, EPERM without the rights, EPROTO for an answer
    that is none."""
    client = client_uapi.connect(name)
    if client is None:
        return client_kernel.get(name)
    with client:
        return client_uapi.get(client, name)


def set(name: str, request: SetRequest, report: Report | None = None) -> None:
    """Does what the request says. A peer's `endpoint_host` that is a name goes to wgfast's daemon, which
    keeps resolving it. For another's the peer's `endpoint` counts; without one the name is resolved here and
    now, and tried again for a while (client_names.resolve), of which `report` is told.

    OSError as get() raises it, or with the errno of whoever refused; EOPNOTSUPP for the kernel's interfaces,
    which `wg` changes, and for limits, which only wgfast's daemon keeps. ResolutionError and ConfigError for
    names, before anything is changed.
    """
    if any(block.endpoint_host is not None for block in request.peers):
        keeps_names = statistics(name) is not None
        blocks = [_with_numbers(block, keeps_names, report) for block in request.peers]
        request = replace(request, peers=blocks)
    client = client_uapi.connect(name)
    if client and any(block.limits for block in request.peers) and statistics(name) is None:
        client.close()
        raise client_uapi.failure(errno.EOPNOTSUPP, name)
    if client is None:
        client_kernel.get(name)  # says why, if it is not there at all
        raise client_uapi.failure(errno.EOPNOTSUPP, name)
    with client:
        client_uapi.exchange(client, client_uapi.set_text(request), name)


def _with_numbers(block: PeerBlock, keeps_names: bool, report: Report | None) -> PeerBlock:
    """The same in words that the other side knows: a name is left only to one that keeps names."""
    host = block.endpoint_host
    if host is None or (not host and keeps_names):
        return block
    endpoint = block.endpoint
    if host and not block.remove:
        numbers = client_names.numeric_endpoint(host)
        if numbers is None and keeps_names:
            return block
        endpoint = numbers or endpoint or client_names.resolve(host, report)
    return replace(block, endpoint=endpoint, endpoint_host=None)


def answers(name: str) -> bool:
    """Whether a daemon serves the interface now. It is asked to change nothing, the least there is to ask."""
    try:
        client = client_uapi.connect(name)
        if client is None:
            return False
        with client:
            client_uapi.exchange(client, client_uapi.set_text(SetRequest()), name)
    except OSError:
        return False
    return True


def statistics(name: str) -> Statistics | None:
    """What only wgfast's daemon tells; None for other implementations, and where nobody answers."""
    try:
        client = client_uapi.connect(name)
    except OSError:
        return None
    if client is None:
        return None
    with client:
        return client_uapi.statistics(client, name)
