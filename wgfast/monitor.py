"""What happens to interfaces, addresses and routes: raw route netlink (rtnetlink(7)), read in batches.

One socket serves a daemon, in the namespace where the process was born and its UDP sockets are. When an
address or a route goes there, peers must forget the source address they answer from. The TUN interface may
be moved to another namespace; then the socket also hears of that one, by the number (nsid) the system has for
it here. A socket inside that namespace would be simpler, but would keep it, and the interface, alive when
everybody else has left it.

Of an interface only the fact that something changed is taken from a message. Its state is then asked for,
so that nothing depends on names or numbers, both of which can change.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Final

_NLMSG: Final = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_IFINFO: Final = struct.Struct("=BxHiII")  # family, hardware type, index, flags, change
_ROUTE: Final = struct.Struct("=BBBBBBBBI")  # family, lengths, tos, table, protocol, scope, type, flags
_RTM_NEWLINK: Final = 16
_RTM_DELLINK: Final = 17
_RTM_DELADDR: Final = 21
_RTM_NEWROUTE: Final = 24
_RTM_DELROUTE: Final = 25
_RTM_F_CLONED: Final = 0x200
_RT_TABLE_LOCAL: Final = 255
_IFF_UP: Final = 0x1
_IFF_RUNNING: Final = 0x40
_RTM_NEWRULE: Final = 32
_RTM_DELRULE: Final = 33
_RTM_NEWNSID: Final = 88
_RTM_GETNSID: Final = 90
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST_ACK: Final = 0x1 | 0x4
_GROUPS: Final = (1, 5, 7, 8, 9, 11, 19)  # links; IPv4 addresses, routes, rules; the same of IPv6
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP: Final = 1
_LISTEN_ALL_NSID: Final = 8
_NETNSA_NSID: Final = 1
_NETNSA_FD: Final = 3
_ATTRIBUTE: Final = struct.Struct("=HHi")
_GENMSG: Final = bytes(4)
_RECEIVE: Final = 1 << 16
_MESSAGES_AT_ONCE: Final = 64
_ANCILLARY: Final = 64


@dataclass(slots=True)
class News:
    """What one read brought. `sources`: an address or route that packets were sent from or by may be gone."""

    links: bool = False
    sources: bool = False


def read_messages(data: bytes, news: News) -> None:
    """Adds what a netlink datagram says. One that is cut short says what is left of it, and never raises."""
    offset = 0
    while offset + _NLMSG.size <= len(data):
        length, kind, _, _, _ = _NLMSG.unpack_from(data, offset)
        if length < _NLMSG.size or offset + length > len(data):
            return
        _read_message(kind, data[offset + _NLMSG.size : offset + length], news)
        offset += (length + 3) & ~3


def _read_message(kind: int, body: bytes, news: News) -> None:
    if kind in (_RTM_NEWLINK, _RTM_DELLINK):
        news.links = True
        if len(body) >= _IFINFO.size:
            flags = _IFINFO.unpack_from(body)[3]
            # IPv4 routes over an interface that goes down disappear without a message of their own.
            if kind == _RTM_DELLINK or not flags & _IFF_UP or not flags & _IFF_RUNNING:
                news.sources = True
    elif kind in (_RTM_DELADDR, _RTM_NEWRULE, _RTM_DELRULE):
        news.sources = True
    elif kind in (_RTM_NEWROUTE, _RTM_DELROUTE) and len(body) >= _ROUTE.size:
        # The local table mirrors the addresses; cloned routes are the kernel's notes on path MTUs.
        fields = _ROUTE.unpack_from(body)
        if fields[4] != _RT_TABLE_LOCAL and not fields[8] & _RTM_F_CLONED:
            news.sources = True


class Monitor:
    """Reads one netlink socket in the namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.bind((0, 0))
        for group in _GROUPS:
            self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        self._socket.setblocking(False)
        self._followed: int | None = None  # nsid

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def follow(self, namespace: int) -> None:
        """From now on news of interfaces in that namespace (a descriptor, needed only now) arrive too, and of
        no other but our own. OSError, as without CAP_NET_ADMIN and CAP_NET_BROADCAST: they do not."""
        self._followed = None
        self._socket.setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, 1)
        self._followed = _number_namespace(namespace)

    def stay(self) -> None:
        """Undoes follow()."""
        self._followed = None

    def read(self) -> News:
        """Everything that waits, up to a bound that keeps a storm of changes from stopping all else."""
        news = News()
        for _ in range(_MESSAGES_AT_ONCE):
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_RECEIVE, _ANCILLARY)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ENOBUFS:  # messages were lost: anything may have happened
                    return News(links=True, sources=True)
                raise
            numbers = [
                int.from_bytes(value[:4], sys.byteorder)
                for _, kind, value in ancillary
                if kind == _LISTEN_ALL_NSID
            ]
            if not numbers:
                read_messages(data, news)
            elif numbers[0] == self._followed:
                elsewhere = News()
                read_messages(data, elsewhere)
                news.links |= elsewhere.links
        return news


def _number_namespace(namespace: int) -> int:
    """The nsid that our namespace has for another, given one if need be."""
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    ) as client:
        client.bind((0, 0))
        number = _ask_number(client, namespace)
        if number < 0:
            any_number = _ATTRIBUTE.pack(_ATTRIBUTE.size, _NETNSA_NSID, -1)
            _request(client, _RTM_NEWNSID, namespace, any_number)
            number = _ask_number(client, namespace)
        return number


def _ask_number(client: socket.socket, namespace: int) -> int:
    answer = _request(client, _RTM_GETNSID, namespace, b"")
    offset = len(_GENMSG)
    while offset + _ATTRIBUTE.size <= len(answer):
        length, kind, value = _ATTRIBUTE.unpack_from(answer, offset)
        if kind == _NETNSA_NSID:
            return int(value)
        offset += max((length + 3) & ~3, 4)
    return -1


def _request(client: socket.socket, kind: int, namespace: int, attributes: bytes) -> bytes:
    """The body of the answer, empty if there is only an acknowledgement. EEXIST is as good as done."""
    body = _GENMSG + _ATTRIBUTE.pack(_ATTRIBUTE.size, _NETNSA_FD, namespace) + attributes
    client.send(_NLMSG.pack(_NLMSG.size + len(body), kind, _NLM_F_REQUEST_ACK, 1, 0) + body)
    answer = b""
    while True:
        data = client.recv(_RECEIVE)
        offset = 0
        while offset + _NLMSG.size <= len(data):
            length, what, _, _, _ = _NLMSG.unpack_from(data, offset)
            if what == _NLMSG_ERROR:
                code = -int.from_bytes(data[offset + _NLMSG.size :][:4], sys.byteorder, signed=True)
                if code not in (0, errno.EEXIST):
                    raise OSError(code, os.strerror(code), "nsid of a namespace")
                return answer
            answer = data[offset + _NLMSG.size : offset + length]
            offset += max((length + 3) & ~3, _NLMSG.size)
