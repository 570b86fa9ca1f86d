"""Inner packets built field by field, and super-packets cut up again as Linux' segmentation does it: written
from the kernel's rules, without wgfast."""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, NamedTuple

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
DF, MF = 0x4000, 0x2000
KINDS = [(4, TCP), (6, TCP), (4, UDP), (6, UDP)]
NEEDS_CSUM, GSO_ECN = 1, 0x80
GSO = {(4, TCP): 1, (6, TCP): 4, (4, UDP): 5, (6, UDP): 5}
HOSTS = {4: ("10.7.1.2", "10.7.2.2"), 6: ("fd07:1::2", "fd07:2::2")}


class Header(NamedTuple):
    """struct virtio_net_hdr, in the host's byte order."""

    flags: int
    gso_type: int
    hdr_len: int
    gso_size: int
    csum_start: int
    csum_offset: int

    def pack(self) -> bytes:
        return struct.pack("=BBHHHH", *self)


# ---- Packets ----


def folded(data: bytes) -> int:
    """The ones' complement sum of 16-bit words; no input here is all zeros, so neither is the sum."""
    return int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF or 0xFFFF


def pseudo(ip: bytes, length: int, protocol: int) -> bytes:
    addresses = ip[12:20] if ip[0] >> 4 == 4 else ip[8:40]
    return addresses + struct.pack(">II", length, protocol)


@dataclass(frozen=True)
class Packet:
    version: int = 4
    protocol: int = TCP
    ports: tuple[int, int] = (40000, 443)
    payload: bytes = b""
    sequence: int = 0
    ack: int = 77
    flags: int = ACK
    window: int = 500
    urgent: int = 0
    options: bytes = b""
    reserved: int = 0  # the four bits beside TCP's data offset
    ttl: int = 64
    tos: int = 0
    label: int = 0
    id: int = 0
    fragment: int = DF
    ip_options: bytes = b""  # IPv4's, or IPv6 extension headers of kind 60
    check: int | None = None  # instead of the right one
    claimed: int | None = None  # UDP's length, instead of the true one
    hosts: tuple[str, str] | None = None  # instead of HOSTS

    def transport(self, ip: bytes) -> bytes:
        if self.protocol == TCP:
            offset = (20 + len(self.options)) // 4 << 4 | self.reserved
            fields = (*self.ports, self.sequence % 2**32, self.ack, offset, self.flags, self.window)
            header = struct.pack(">HHIIBBHHH", *fields, 0, self.urgent) + self.options
        else:
            length = 8 + len(self.payload) if self.claimed is None else self.claimed
            header = struct.pack(">HHHH", *self.ports, length, 0)
        at = 16 if self.protocol == TCP else 6
        length = len(header) + len(self.payload)
        check = 0xFFFF - folded(pseudo(ip, length, self.protocol) + header + self.payload)
        if self.protocol == UDP:
            check = check or 0xFFFF
        check = check if self.check is None else self.check
        return header[:at] + check.to_bytes(2, "big") + header[at + 2 :] + self.payload

    def build(self) -> bytes:
        source, target = (ip_address(host).packed for host in self.hosts or HOSTS[self.version])
        more = len(self.ip_options)
        after = more + len(self.payload) + (20 + len(self.options) if self.protocol == TCP else 8)
        if self.version == 4:
            first = (0x45 + more // 4, self.tos, 20 + after, self.id % 2**16, self.fragment)
            ip = struct.pack(">BBHHHBBH", *first, self.ttl, self.protocol, 0) + source + target
            ip += self.ip_options
            ip = ip[:10] + (0xFFFF - folded(ip)).to_bytes(2, "big") + ip[12:]
        else:
            word = 6 << 28 | self.tos << 20 | self.label
            ip = struct.pack(">IHBB", word, after, 60 if more else self.protocol, self.ttl) + source + target
            ip += self.ip_options and bytes([self.protocol]) + self.ip_options[1:]
        return ip + self.transport(ip)

    def but(self, **changes: Any) -> Packet:
        return dataclasses.replace(self, **changes)


def stream(n: int, size: int = 100, **fields: Any) -> list[Packet]:
    first = Packet(**fields)
    return [
        first.but(sequence=first.sequence + i * size, id=first.id + i, payload=bytes([65 + i % 26]) * size)
        for i in range(n)
    ]


def built(packets: list[Packet]) -> list[bytes]:
    return [packet.build() for packet in packets]


# ---- The oracle: tcp_gso_segment, __udp_gso_segment, inet_gso_segment, ipv6_gso_segment ----


def cut(header: Header, data: bytes) -> list[bytes]:
    version, start = data[0] >> 4, header.csum_start
    protocol = data[9 if version == 4 else 6]
    at, length = start + header.csum_offset, len(data) - start
    assert header.flags == NEEDS_CSUM
    assert header.gso_type & ~GSO_ECN == GSO[version, protocol]
    assert start == (20 if version == 4 else 40)
    assert header.csum_offset == (16 if protocol == TCP else 6)
    assert header.hdr_len == start + (data[start + 12] // 16 * 4 if protocol == TCP else 8)
    assert len(data) <= 65535
    assert int.from_bytes(data[2:4] if version == 4 else data[4:6], "big") + version // 6 * 40 == len(data)
    assert int.from_bytes(data[at : at + 2], "big") == folded(pseudo(data, length, protocol))
    if protocol == UDP:
        assert int.from_bytes(data[start + 4 : start + 6], "big") == length
    assert version == 6 or folded(data[:20]) == 0xFFFF
    congestion = protocol == TCP and data[start + 13] & CWR
    assert bool(header.gso_type & GSO_ECN) == bool(congestion)
    body, size = data[header.hdr_len :], header.gso_size
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    assert 1 < len(pieces) <= (64 if protocol == UDP else 65535)
    return [
        segment(bytearray(data[: header.hdr_len]), start, at, piece, i, size, i == len(pieces) - 1)
        for i, piece in enumerate(pieces)
    ]


def segment(head: bytearray, start: int, at: int, piece: bytes, i: int, size: int, last: bool) -> bytes:
    total = len(head) + len(piece)
    if start == 20:
        struct.pack_into(">HH", head, 2, total, (int.from_bytes(head[4:6], "big") + i) % 2**16)
        head[10:12] = bytes(2)
        head[10:12] = (0xFFFF - folded(bytes(head[:20]))).to_bytes(2, "big")
    else:
        struct.pack_into(">H", head, 4, total - 40)
    tcp = head[9 if start == 20 else 6] == TCP
    if tcp:
        sequence = int.from_bytes(head[start + 4 : start + 8], "big")
        struct.pack_into(">I", head, start + 4, (sequence + i * size) % 2**32)
        head[start + 13] &= 0xFF if last else ~(PSH | FIN)
        head[start + 13] &= 0xFF if i == 0 else ~CWR
    else:
        struct.pack_into(">H", head, start + 4, total - start)
    head[at : at + 2] = bytes(2)
    before = pseudo(bytes(head), total - start, TCP if tcp else UDP)
    check = 0xFFFF - folded(before + bytes(head[start:]) + piece)
    head[at : at + 2] = (check if check or tcp else 0xFFFF).to_bytes(2, "big")
    return bytes(head) + piece


def with_id_of(other: bytes, packet: bytes) -> bytes:
    """A datagram that must not be fragmented needs no identification: Linux sends the same in all."""
    if packet[0] >> 4 != 4 or packet[9] != UDP or not packet[6] & DF >> 8:
        return packet
    head = packet[:4] + other[4:6] + packet[6:10] + bytes(2) + packet[12:20]
    return head[:10] + (0xFFFF - folded(head)).to_bytes(2, "big") + head[12:] + packet[20:]


def one_hop_on(packet: bytes) -> bytes:
    """What a router makes of it."""
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes([packet[7] - 1]) + packet[8:]
    head = packet[:8] + bytes([packet[8] - 1]) + packet[9:10] + bytes(2) + packet[12:20]
    return head[:10] + (0xFFFF - folded(head)).to_bytes(2, "big") + head[12:] + packet[20:]


PUZZLE = "puzzle"


def flow_of(packet: bytes) -> object:
    """Addresses, protocol and ports; None: no flow of TCP or UDP; PUZZLE: it could be any."""
    if not packet or packet[0] >> 4 not in (4, 6):
        return None
    v4 = packet[0] >> 4 == 4
    start = 20 if v4 else 40
    if len(packet) < start:
        return PUZZLE
    protocol = packet[9 if v4 else 6]
    if protocol not in (TCP, UDP):
        return PUZZLE if not v4 and protocol == 60 else None
    told = int.from_bytes(packet[2:4], "big") if v4 else 40 + int.from_bytes(packet[4:6], "big")
    odd = v4 and (packet[0] != 0x45 or (int.from_bytes(packet[6:8], "big") & ~DF))
    if odd or told != len(packet) or len(packet) < start + 8:
        return PUZZLE
    return bytes(packet[12 if v4 else 8 : start + 4]), protocol
