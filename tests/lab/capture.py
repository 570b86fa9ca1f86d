"""What is on the wire, read by a packet socket."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from .namespace import Namespace
from .process import wait_until

ETH_P_ALL = 0x0003
ETH_P_IP = 0x0800
ETH_P_IPV6 = 0x86DD
ARPHRD_ETHER = 1
ETHER_HEADER = 14
SOL_PACKET = 263
PACKET_VNET_HDR = 15
VIRTIO_NET_HDR = struct.Struct("=BBHHHH")
VIRTIO_GSO_UDP_L4 = 5
SO_RCVBUFFORCE = 33
UDP = 17


@dataclass(frozen=True)
class Datagram:
    """One UDP datagram as a wire would carry it. `tos` is the traffic class where it is IPv6."""

    source: tuple[str, int]
    destination: tuple[str, int]
    tos: int
    payload: bytes

    @property
    def message_type(self) -> int:
        return self.payload[0] if self.payload else -1


class Capture:
    """Every IP packet that passes an interface, from now on, in both directions.

    It works below the network layer, so it sees what a neighbour would see, and it cuts up the
    super-packets that veth hands on whole when a sender uses UDP_SEGMENT.
    """

    def __init__(self, namespace: Namespace, interface: str) -> None:
        with namespace.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
            self._socket.bind((interface, ETH_P_ALL))
        self._socket.setblocking(False)
        self._packets: list[tuple[int, int, bytes]] = []

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _drain(self) -> None:
        while True:
            try:
                raw, address = self._socket.recvfrom(1 << 17)
            except BlockingIOError:
                return
            protocol, hardware = address[1], address[3]
            if protocol not in (ETH_P_IP, ETH_P_IPV6):
                continue
            _, gso_type, _, gso_size, _, _ = VIRTIO_NET_HDR.unpack_from(raw)
            # A TUN interface has no link header.
            start = VIRTIO_NET_HDR.size + (ETHER_HEADER if hardware == ARPHRD_ETHER else 0)
            self._packets.append((gso_type, gso_size, raw[start:]))

    def packets(self) -> list[bytes]:
        """Whole IP packets so far."""
        self._drain()
        return [packet for _, _, packet in self._packets]

    def super_packets(self) -> list[bytes]:
        """Those of them that stand for several: what a sender or an interface handed on in one piece."""
        self._drain()
        return [packet for gso_type, _, packet in self._packets if gso_type]

    def datagrams(self) -> list[Datagram]:
        """UDP datagrams so far, in order; fragments after the first are left out."""
        self._drain()
        found: list[Datagram] = []
        for gso_type, gso_size, packet in self._packets:
            size = gso_size if gso_type & 0x7F == VIRTIO_GSO_UDP_L4 else 0
            found += _split(packet, size)
        return found

    def wait_for(self, wanted: Callable[[Datagram], bool], what: str, deadline: float = 5.0) -> Datagram:
        """The first datagram that fits, of those seen already or still to come."""
        return wait_until(lambda: [d for d in self.datagrams() if wanted(d)], what, deadline)[0]


def addresses(packet: bytes) -> tuple[str, str]:
    """Source and destination of an IP packet."""
    first, width = (12, 4) if packet[0] >> 4 == 4 else (8, 16)
    pair = packet[first : first + width], packet[first + width : first + 2 * width]
    return str(ipaddress.ip_address(pair[0])), str(ipaddress.ip_address(pair[1]))


def _split(packet: bytes, segment: int) -> list[Datagram]:
    if packet[0] >> 4 == 4:
        tos, protocol, header = packet[1], packet[9], (packet[0] & 15) * 4
        if struct.unpack_from("!H", packet, 6)[0] & 0x1FFF:
            return []
    else:
        tos = struct.unpack_from("!H", packet)[0] >> 4 & 0xFF
        protocol, header = packet[6], 40
    if protocol != UDP:
        return []
    source_port, destination_port = struct.unpack_from("!HH", packet, header)
    source, destination = addresses(packet)
    payload = packet[header + 8 :]
    step = segment or max(len(payload), 1)
    pieces = [payload[i : i + step] for i in range(0, max(len(payload), 1), step)]
    return [Datagram((source, source_port), (destination, destination_port), tos, piece) for piece in pieces]
