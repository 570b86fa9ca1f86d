"""What is on a cable, read by a packet socket below everything that WireGuard or a firewall does."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass
from typing import Final

from .host import Host
from .topology import ProofError

_ETH_P_ALL: Final = 0x0003
_ETH_P_IP: Final = 0x0800
_ETH_P_IPV6: Final = 0x86DD
_ARPHRD_ETHER: Final = 1
_ETHER_HEADER: Final = 14
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_SO_RCVBUFFORCE: Final = 33
_IGMP: Final = 2
_ICMPV6: Final = 58
# Router and neighbour solicitations and advertisements (RFC 4861), and membership of multicast groups
# (RFC 3376, RFC 3810): what a cable needs to work, never sent beyond it.
_HOUSEKEEPING: Final = {130, 133, 134, 135, 136, 143}
# Protocol and type: destination unreachable and its like (RFC 792, RFC 4443).
_ERRORS: Final = {(1, 3), (1, 11), (_ICMPV6, 1), (_ICMPV6, 2), (_ICMPV6, 3)}
_PROTOCOLS: Final = {1: "ICMP", _IGMP: "IGMP", 6: "TCP", 17: "UDP", _ICMPV6: "ICMPv6"}


@dataclass(frozen=True)
class Packet:
    """`ports` are source and destination; (0, 0) where the protocol has none. `quoted` is the packet that an
    ICMP error is about."""

    source: str
    destination: str
    protocol: int
    ports: tuple[int, int]
    housekeeping: bool = False
    quoted: Packet | None = None

    def __str__(self) -> str:
        kind = _PROTOCOLS.get(self.protocol, str(self.protocol))
        return f"{kind} {self.source} port {self.ports[0]} to {self.destination} port {self.ports[1]}"

    def between(self, one: str, other: str) -> bool:
        return {self.source, self.destination} == {one, other}


class Capture:
    """Every IP packet that passes an interface of a host, in both directions, while the block runs."""

    def __init__(self, host: Host, interface: str = "eth0") -> None:
        self._where = f"{interface} of {host.name}"
        with host.entered():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
            self._socket.bind((interface, _ETH_P_ALL))
        self._socket.setblocking(False)
        self._packets: list[Packet] = []

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def packets(self) -> list[Packet]:
        """So far. ProofError if the kernel could not keep up and one of them is missing."""
        while True:
            try:
                frame, address = self._socket.recvfrom(1 << 17)
            except BlockingIOError:
                break
            if address[1] in (_ETH_P_IP, _ETH_P_IPV6):
                self._packets.append(_parse(frame[_ETHER_HEADER if address[3] == _ARPHRD_ETHER else 0 :]))
        statistics = self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8)
        if missed := struct.unpack("II", statistics)[1]:
            raise ProofError(f"{self._where}: {missed} packets were not captured")
        return list(self._packets)

    def expect_only(self, *known: tuple[str, str, int]) -> str:
        """That there was UDP between (address, address, port at one of them), and nothing else but
        housekeeping. ProofError names the first stranger."""
        packets = [packet for packet in self.packets() if not packet.housekeeping]
        strangers = [packet for packet in packets if not _is_known(packet, known)]
        if strangers:
            count = f"{len(strangers)} of {len(packets)} packets"
            raise ProofError(f"{self._where}: {count} are not the tunnel's: {strangers[0]}")
        return f"{len(packets)} packets, all of them the tunnel's"


def _is_known(packet: Packet, known: tuple[tuple[str, str, int], ...]) -> bool:
    # That nobody listens on the other side's port is an answer to the tunnel's own packets.
    if packet.quoted:
        return _is_known(packet.quoted, known)
    return packet.protocol == socket.IPPROTO_UDP and any(
        packet.between(one, other) and port in packet.ports for one, other, port in known
    )


def _parse(packet: bytes) -> Packet:
    if packet[0] >> 4 == 4:
        protocol, start, first, width = packet[9], (packet[0] & 15) * 4, 12, 4
        fragment = struct.unpack_from("!H", packet, 6)[0] & 0x1FFF
    else:
        protocol, start, first, width, fragment = packet[6], 40, 8, 16, 0
        if protocol == 0:  # hop-by-hop options, which multicast reports carry
            protocol, start = packet[40], 48 + 8 * packet[41]
    source, destination = packet[first : first + width], packet[first + width : first + 2 * width]
    ports, quoted = (0, 0), None
    if (protocol, packet[start]) in _ERRORS and not fragment:
        quoted = _parse(packet[start + 8 :])
    if protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP) and not fragment:
        ports = struct.unpack_from("!HH", packet, start)
    return Packet(
        str(ipaddress.ip_address(source)),
        str(ipaddress.ip_address(destination)),
        protocol,
        ports,
        protocol == _IGMP or (protocol == _ICMPV6 and packet[start] in _HOUSEKEEPING),
        quoted,
    )
