"""Packets of a tunnel, seen from outside it: those inside on the interface, those outside on every link.

A packet socket sees what the system hands from one layer to the next, super-packets among it. One of UDP is
cut up here into the datagrams it stands for; one of TCP stays whole, as with any other capture program. The
checksum that a sender leaves to its hardware is finished.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, NamedTuple

from wgfast.capture_filter import EVERYTHING, NOTHING, Instruction, attach, compile_expression, udp_port
from wgfast.errors import ConfigError, InterfaceError
from wgfast.pcapng import INBOUND, LINKTYPE_LINUX_SLL2, OUTBOUND, PcapngWriter

if TYPE_CHECKING:
    from typing_extensions import Self

_ETH_P_ALL: Final = 0x0003
_IP: Final = {0x0800, 0x86DD}
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_PACKET_AUXDATA: Final = 8
_PACKET_VNET_HDR: Final = 15
_SO_RCVBUFFORCE: Final = 33
_SO_TIMESTAMPNS: Final = 35
_BUFFER: Final = 16 << 20
_FRAME: Final = 1 << 18
_CONTROL: Final = 256
_BATCH: Final = 256  # packets
_AUXILIARY: Final = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_TIMESPEC: Final = struct.Struct("@ll")
_VNET: Final = struct.Struct("=BBHHHH")  # struct virtio_net_hdr
_COOKED: Final = struct.Struct("!H2xIHBB8s")  # https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html
_NEEDS_CHECKSUM: Final = 1
_GSO_UDP: Final = 5  # VIRTIO_NET_HDR_GSO_UDP_L4
_GSO_ECN: Final = 0x80
_UDP_HEADER: Final = 8


class Packet(NamedTuple):
    at: int  # ns since 1970
    link: str
    direction: int  # pcapng.INBOUND or OUTBOUND
    data: bytes  # from the IP header on
    cooked: bytes  # the header of LINKTYPE_LINUX_SLL2


@dataclass(slots=True)
class Limits:
    """When a recording ends; None: not for this reason."""

    count: int | None = None
    seconds: float | None = None


class Capture:
    """Packets from the moment it is made until close(). Use it by `with`.

    `interface` None: every link of this namespace. `port`: only UDP from or to it. `without`: packets of this
    link are left out. `expression`: pcap-filter(7), for libpcap. Raises ConfigError for an expression that is
    none, InterfaceError when there is no such interface or packets cannot be seen.
    """

    def __init__(
        self,
        interface: str | None,
        *,
        port: int | None = None,
        expression: str = "",
        without: str | None = None,
    ) -> None:
        program = _program(port, expression)
        self._interface = interface
        self._without = without
        self._indices: dict[str, int] = {}
        self._received = self._dropped = 0
        protocol = socket.htons(_ETH_P_ALL) if interface is None else 0  # 0: nothing, until it is bound
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, protocol)
        except PermissionError:
            raise InterfaceError(
                errno.EPERM, "packets are only shown to those who have CAP_NET_RAW: run as root"
            ) from None
        try:
            self._vnet = self._prepare()
            self._discard()
            attach(self._socket, program)
            if interface is not None:
                self._bind(interface)
        except BaseException:
            self._socket.close()
            raise

    def _prepare(self) -> bool:
        """Whether a header says of each packet how much of it the sender left to the hardware."""
        # More than the limit with CAP_NET_ADMIN only; less is less.
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        self._socket.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.setblocking(False)
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
        except OSError:
            return False
        return True

    def _discard(self) -> None:
        """What came before there was a filter."""
        attach(self._socket, NOTHING)
        while True:
            try:
                self._socket.recv(_VNET.size)  # the kernel refuses less, as if it had no header to give
            except BlockingIOError:
                return
            except OSError as error:
                self._receive_failed(error)

    def _bind(self, interface: str) -> None:
        try:
            self._socket.bind((interface, _ETH_P_ALL))
        except OSError as error:
            raise InterfaceError(error.errno, f"{interface}: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def packets(self) -> Iterator[Packet]:
        """Those that wait, but not more than a batch: where they come faster than they are taken, the caller
        has a turn as well. InterfaceError: the interface is gone or was set down."""
        for _ in range(_BATCH):
            try:
                raw, control, _, address = self._socket.recvmsg(_FRAME, _CONTROL)
            except BlockingIOError:
                return
            except OSError as error:
                self._receive_failed(error)
                continue
            link, protocol, kind, hardware, sender = address
            if protocol in _IP and link != self._without:
                at, offset = _auxiliary(control)
                direction = OUTBOUND if kind == socket.PACKET_OUTGOING else INBOUND
                cooked = _COOKED.pack(protocol, self._index(link), hardware, kind, len(sender), sender)
                for data in self._split(raw, offset):
                    yield Packet(at, link, direction, data, cooked)

    def _index(self, link: str) -> int:
        """The system's number of it; 0 if it is gone already."""
        if link not in self._indices:
            try:
                self._indices[link] = socket.if_nametoindex(link)
            except OSError:
                return 0
        return self._indices[link]

    def _receive_failed(self, error: OSError) -> None:
        # Before Linux 6.2 the header has no word for UDP's super-packets, and that packet is lost.
        if error.errno == errno.EINVAL and self._vnet:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 0)
            self._vnet = False
        elif error.errno in (errno.ENETDOWN, errno.ENODEV, errno.ENXIO):
            raise InterfaceError(
                error.errno, f"{self._interface or 'a link'}: {error.strerror}: it was set down, or is gone"
            ) from None
        else:
            raise error

    def _split(self, raw: bytes, offset: int) -> list[bytes]:
        if not self._vnet:
            return [raw[offset:]]
        flags, gso, _, size, start, field = _VNET.unpack_from(raw)
        data = raw[_VNET.size + offset :]
        if gso & ~_GSO_ECN == _GSO_UDP and size:
            return datagrams(data, size)
        if flags & _NEEDS_CHECKSUM:
            return [_finished(data, start - offset, field)]
        return [data]

    def statistics(self) -> tuple[int, int]:
        """Packets that passed the filter, and how many of them came faster than they were taken."""
        raw = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        received, dropped = struct.unpack("=II", raw)  # since it was last asked
        self._received += received
        self._dropped += dropped
        return self._received, self._dropped


def record(
    capture: Capture, writer: PcapngWriter, limits: Limits, stop: int = -1, expression: str = ""
) -> int:
    """Writes packets until a limit is reached, the writer is full, or `stop`, a descriptor, is readable.
    Returns how many. InterfaceError as of Capture.packets; what was written stays."""
    count = 0
    has_header = writer.linktype == LINKTYPE_LINUX_SLL2
    end = None if limits.seconds is None else time.monotonic() + limits.seconds
    poll = select.poll()
    poll.register(capture, select.POLLIN)
    if stop >= 0:
        poll.register(stop, select.POLLIN)
    try:
        while True:
            left = None if end is None else max(end - time.monotonic(), 0)
            ready = dict(poll.poll(None if left is None else left * 1000))
            for packet in capture.packets():
                link = writer.add_link(packet.link, expression=expression)
                data = packet.cooked + packet.data if has_header else packet.data
                if link is None or not writer.write(link, packet.at, data, packet.direction):
                    return count
                count += 1
                if count == limits.count:
                    return count
                if end is not None and time.monotonic() > end:
                    return count
            if stop in ready or (end is not None and time.monotonic() >= end):
                return count
            writer.flush()
    finally:
        writer.finish(time.time_ns(), *capture.statistics())


def datagrams(packet: bytes, size: int) -> list[bytes]:
    """The datagrams of a packet whose UDP payload stands for several, each of `size` bytes but the last. One
    with other headers before UDP's, or with less than those, stays as it is."""
    is_ipv4 = packet[:1] and packet[0] >> 4 == 4
    protocol = packet[9:10] if is_ipv4 else packet[6:7]
    header = (packet[0] & 15) * 4 if is_ipv4 else 40
    least = 20 if is_ipv4 else 40
    if protocol != bytes([socket.IPPROTO_UDP]) or header < least or len(packet) < header + _UDP_HEADER:
        return [packet]
    payload = packet[header + _UDP_HEADER :]
    found = []
    for number, at in enumerate(range(0, max(len(payload), 1), size)):
        ip = bytearray(packet[:header])
        piece = payload[at : at + size]
        length = _UDP_HEADER + len(piece)
        if is_ipv4:
            identification = struct.unpack_from("!H", ip, 4)[0] + number & 0xFFFF
            struct.pack_into("!HH", ip, 2, header + length, identification)
            struct.pack_into("!H", ip, 10, 0)
            struct.pack_into("!H", ip, 10, _checksum(ip))
            pseudo = ip[12:20]
        else:
            struct.pack_into("!H", ip, 4, length)
            pseudo = ip[8:40]
        udp = bytearray(packet[header : header + 4]) + struct.pack("!HH", length, 0)
        pseudo += struct.pack("!HH", socket.IPPROTO_UDP, length)
        struct.pack_into("!H", udp, 6, _checksum(pseudo + udp + piece))
        found.append(bytes(ip + udp) + piece)
    return found


def _finished(packet: bytes, start: int, field: int) -> bytes:
    """With the checksum that the sender began with the pseudo header and left to the hardware."""
    place = start + field
    if start < 0 or place + 2 > len(packet):
        return packet
    return packet[:place] + struct.pack("!H", _checksum(packet[start:])) + packet[place + 2 :]


def _checksum(data: bytes | bytearray) -> int:
    """RFC 1071; never 0, which in UDP means that there is none."""
    return 0xFFFF - int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF


def _auxiliary(control: list[tuple[int, int, bytes]]) -> tuple[int, int]:
    """When the packet passed, ns since 1970, and where its network header begins."""
    at = offset = 0
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            at = seconds * 10**9 + nanoseconds
        elif (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            _, _, _, mac, network, _, _ = _AUXILIARY.unpack_from(data)
            offset = network - mac
    return at, offset


def _program(port: int | None, expression: str) -> list[Instruction]:
    if port is not None and not 1 <= port <= 0xFFFF:
        raise ConfigError(f"port: {port}: must be 1 to 65535")
    if not expression.strip():
        return EVERYTHING if port is None else udp_port(port)
    # Alone first: what is wrong with it shall not be looked for in what stands around it.
    program = compile_expression(expression)
    return program if port is None else compile_expression(f"(udp port {port}) and ({expression})")


def create_file(path: str) -> int:
    """A descriptor of an empty file that only its owner, who is us, can read, whoever could read it before; a
    pipe or device is taken as it is. OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        status = os.fstat(fd)
        if stat.S_ISREG(status.st_mode):
            if status.st_uid != os.geteuid():
                # Whoever prepared it, in /tmp say, would be given what is inside the tunnel.
                raise OSError(
                    errno.EPERM, f"belongs to user {status.st_uid}: remove it first, or name another"
                )
            os.fchmod(fd, 0o600)
            os.ftruncate(fd, 0)
    except BaseException:
        os.close(fd)
        raise
    return fd
