"""wgfast/core/segment.c, judged three times: by packets that scapy builds one by one, by sums of plain
integers, and, as root, by the kernel, which is given the same super-packets to cut up."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import re
import select
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cffi import FFI
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lab.namespace import Namespace
from lab.programs import missing, require
from scapy.layers import inet, inet6
from scapy.packet import Packet, Raw
from superpackets import (
    ACK,
    CWR,
    ECE,
    FIN,
    GSO,
    GSO_ECN,
    KINDS,
    NEEDS_CSUM,
    PSH,
    TCP,
    UDP,
    URG,
    Header,
    folded,
)

CORE = Path(__file__).parent.parent / "wgfast" / "core"
COMPILER = next(filter(shutil.which, ("gcc", "clang", "cc")), None)
CHECK_AT = {TCP: 16, UDP: 6}

pytestmark = pytest.mark.skipif(not COMPILER, reason="missing: a C compiler, to build segment.c")


# ---- The library ----

ffi = FFI()


class Library:
    def __init__(self, directory: Path) -> None:
        declarations = re.sub(r"^#.*$", "", (CORE / "segment.h").read_text(), flags=re.M)
        ffi.cdef(
            "struct virtio_net_hdr { uint8_t flags, gso_type;"
            "uint16_t hdr_len, gso_size, csum_start, csum_offset; };" + declarations
        )
        built = directory / "segment.so"
        flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-shared", "-fPIC"]
        sources = [CORE / "segment.c", CORE / "checksum.c"]
        subprocess.run([str(COMPILER), *flags, *sources, "-o", built], check=True, timeout=120)
        self.core = ffi.dlopen(str(built))

    def cut(self, header: Header, packet: bytes) -> list[bytes] | None:
        """The pieces; None: refused."""
        super_packet, memory = ffi.new("struct wgf_super *"), ffi.new("uint8_t[]", packet)
        given_header = ffi.new("struct virtio_net_hdr *", tuple(header))
        if not self.core.wgf_super_begin(super_packet, given_header, memory, len(packet)):
            return None
        pieces = []
        while length := self.core.wgf_super_next_length(super_packet):
            to = ffi.new("uint8_t[]", length + 1)
            to[length] = 0xA5
            self.core.wgf_super_next(super_packet, to)
            assert to[length] == 0xA5
            pieces.append(bytes(to)[:length])
        return pieces


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("segment"))


# ---- What scapy builds ----


class Filled(bytes):
    """So many bytes of a pattern, that a failure prints as such."""

    def __new__(cls, pattern: bytes, length: int) -> Filled:
        filled = super().__new__(cls, (pattern * (length // len(pattern) + 1))[:length])
        filled.pattern = pattern
        return filled

    def __repr__(self) -> str:
        return f"Filled({self.pattern!r}, {len(self)})"


@dataclass(frozen=True)
class Stream:
    """Bytes to send, in packets of `size` each, and all that the headers say."""

    version: int = 4
    protocol: int = TCP
    payload: bytes = b""
    size: int = 100
    sequence: int = 0
    flags: int = ACK
    urgent: int = 0
    reserved: int = 0  # of TCP, one bit beside the data offset among them
    options: tuple[Any, ...] = ()  # TCP's
    id: int = 0
    dont_fragment: bool = True
    tos: int = 0
    more: tuple[Any, ...] = ()  # IPv4 options or IPv6 extension headers

    def network(self, number: int) -> Packet:
        if self.version == 4:
            flags = "DF" if self.dont_fragment else 0
            fields = {
                "id": (self.id + number) % 2**16,
                "tos": self.tos,
                "flags": flags,
                "proto": self.protocol,
            }
            return inet.IP(src="10.7.1.2", dst="10.7.2.2", options=list(self.more), **fields)
        network = inet6.IPv6(src="fd07:1::2", dst="fd07:2::2", tc=self.tos, fl=0x12345, hlim=63)
        for extension in self.more:
            network /= extension.copy()
        return network

    def transport(self, offset: int, flags: int) -> Packet:
        if self.protocol == UDP:
            return inet.UDP(sport=40000, dport=443)
        return inet.TCP(
            sport=40000,
            dport=443,
            seq=(self.sequence + offset) % 2**32,
            ack=0xFEDCBA98,
            flags=flags,
            reserved=self.reserved,
            window=500,
            urgptr=self.urgent,
            options=list(self.options),
        )

    def pieces(self) -> list[bytes]:
        bodies = [self.payload[i : i + self.size] for i in range(0, len(self.payload), self.size)] or [b""]
        last = len(bodies) - 1
        built = []
        for i, body in enumerate(bodies):
            flags = self.flags & ~(0 if i == last else FIN | PSH) & ~(CWR if i else 0)
            built.append(bytes(self.network(i) / self.transport(i * self.size, flags) / Raw(body)))
        return built

    def start(self) -> int:
        return len(bytes(self.network(0)))

    def super_packet(self) -> tuple[Header, bytes]:
        """As the kernel hands it over, with the checksum half done."""
        start, at = self.start(), CHECK_AT[self.protocol]
        packet = bytearray(bytes(self.network(0) / self.transport(0, self.flags) / Raw(self.payload)))
        done = int.from_bytes(packet[start + at : start + at + 2], "big")
        packet[start + at : start + at + 2] = bytes(2)
        half = (0xFFFF - done - folded(bytes(packet[start:]))) % 0xFFFF
        packet[start + at : start + at + 2] = half.to_bytes(2, "big")
        kind = GSO[self.version, self.protocol]
        if self.protocol == TCP and self.flags & CWR:
            kind |= GSO_ECN
        return Header(NEEDS_CSUM, kind, len(packet) - len(self.payload), self.size, start, at), bytes(packet)

    def but(self, **changes: Any) -> Stream:
        return dataclasses.replace(self, **changes)


TCP_OPTIONS: list[tuple[Any, ...]] = [
    (),
    (("NOP", None), ("NOP", None), ("Timestamp", (123456789, 987654321))),
    (("NOP", None), ("NOP", None), ("SAck", (1, 2, 3, 4, 5, 6))),
    (("Timestamp", (1, 2)), ("SAck", (1, 2, 3, 4, 5, 6)), ("NOP", None), ("NOP", None), ("NOP", None)),
]
MORE: dict[int, list[tuple[Any, ...]]] = {
    4: [
        (),
        (inet.IPOption_Router_Alert(),),
        (inet.IPOption_NOP(), inet.IPOption_LSRR(routers=["10.9.9.9", "10.8.8.8"])),
        tuple(inet.IPOption_NOP() for _ in range(40)),
    ],
    6: [
        (),
        (inet6.IPv6ExtHdrHopByHop(options=[inet6.RouterAlert()]),),
        (inet6.IPv6ExtHdrRouting(addresses=["fd08::1", "fd09::2"], segleft=2),),
        (
            inet6.IPv6ExtHdrHopByHop(options=[inet6.PadN(optdata=bytes(100))]),
            inet6.IPv6ExtHdrDestOpt(options=[inet6.PadN(optdata=bytes(12))]),
            inet6.IPv6ExtHdrRouting(addresses=["fd08::1"], segleft=1),
            inet6.IPv6ExtHdrDestOpt(options=[inet6.PadN(optdata=bytes(4))]),
        ),
    ],
}


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    version, protocol = draw(st.sampled_from(KINDS))
    size = draw(st.one_of(st.integers(1, 60), st.integers(61, 1500), st.just(65534)))
    count = draw(st.integers(1, 12))
    length = max(0, min(size * count - draw(st.integers(0, size)), 12000))
    pattern = draw(st.binary(min_size=1, max_size=40))
    return Stream(
        version=version,
        protocol=protocol,
        payload=Filled(pattern, length),
        size=size,
        sequence=draw(st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 2000, 2**32 - 1))),
        flags=ACK | draw(st.sampled_from([0, PSH, PSH | FIN, URG, ECE, CWR, CWR | ECE | PSH])),
        urgent=draw(st.sampled_from([0, 7, 0xFFFF])),
        reserved=draw(st.integers(0, 7)),
        options=draw(st.sampled_from(TCP_OPTIONS)),
        id=draw(st.one_of(st.integers(0, 0xFFFF), st.integers(0xFFF8, 0xFFFF))),
        dont_fragment=draw(st.booleans()),
        tos=draw(st.integers(0, 255)),
        more=draw(st.sampled_from(MORE[version])),
    )


def check_sums(stream: Stream, piece: bytes) -> None:
    """By integers, where no source route says that the addresses are others."""
    start = stream.start()
    v4 = stream.version == 4
    assert not v4 or folded(piece[:start]) == 0xFFFF
    assert int.from_bytes(piece[2:4] if v4 else piece[4:6], "big") == len(piece) - (0 if v4 else 40)
    length = len(piece) - start
    if stream.protocol == UDP:
        assert int.from_bytes(piece[start + 4 : start + 6], "big") == length
        assert piece[start + 6 : start + 8] != bytes(2)
    addresses = piece[12:20] if v4 else piece[8:40]
    if stream.more not in (MORE[4][2], *MORE[6][2:]):
        assert folded(addresses + struct.pack(">II", length, stream.protocol) + piece[start:]) == 0xFFFF


def check(library: Library, stream: Stream) -> list[bytes]:
    header, packet = stream.super_packet()
    pieces = library.cut(header, packet)
    assert pieces == stream.pieces()
    for piece in pieces:
        check_sums(stream, piece)
    assert b"".join(piece[header.hdr_len :] for piece in pieces) == stream.payload
    return pieces


# ---- Pieces ----


@settings(max_examples=150, deadline=None)
@given(stream=streams())
def test_any_stream(library, stream):
    check(library, stream)


@pytest.mark.parametrize(("version", "protocol"), KINDS)
@pytest.mark.parametrize("size", [1367, 1368, 65535])
def test_as_long_as_it_may_be(library, version, protocol, size):
    stream = Stream(version, protocol, size=size, id=0xFFF0, sequence=2**32 - 30000, flags=ACK | PSH | CWR)
    headers = stream.super_packet()[0].hdr_len
    check(library, stream.but(payload=os.urandom(65535 - headers)))


@pytest.mark.parametrize(("version", "protocol"), KINDS)
@pytest.mark.parametrize("length", [0, 1, 99, 100, 101, 199, 200, 201])
def test_the_last_piece(library, version, protocol, length):
    stream = Stream(version, protocol, os.urandom(length), flags=ACK | PSH | FIN | CWR | ECE)
    assert len(check(library, stream)) == max(1, -(-length // 100))


@settings(max_examples=30, deadline=None)
@given(stream=streams(), lengths=st.binary(min_size=4, max_size=4), hdr_len=st.integers(0, 65535))
def test_lengths_are_not_believed(library, stream, lengths, hdr_len):
    header, packet = stream.super_packet()
    lied, at = bytearray(packet), 2 if stream.version == 4 else 4
    lied[at : at + 2] = lengths[:2]
    if stream.version == 4:
        lied[10:12] = lengths[2:]
    if stream.protocol == UDP:
        lied[header.csum_start + 4 : header.csum_start + 6] = lengths[2:]
    assert library.cut(header._replace(hdr_len=hdr_len), bytes(lied)) == stream.pieces()


def with_checksum(stream: Stream, number: int, wanted: int) -> Stream:
    """The stream whose piece of that number has this transport checksum: two bytes of payload make up for
    the difference."""
    piece = stream.pieces()[number]
    at = stream.start() + CHECK_AT[stream.protocol]
    had = int.from_bytes(piece[at : at + 2], "big")
    word = int.from_bytes(stream.payload[number * stream.size :][:2], "big")
    word = (word + had - wanted) % 0xFFFF
    payload = bytearray(stream.payload)
    payload[number * stream.size : number * stream.size + 2] = word.to_bytes(2, "big")
    return stream.but(payload=bytes(payload))


@pytest.mark.parametrize(("version", "protocol"), KINDS)
@pytest.mark.parametrize("number", [0, 1, 3])
@pytest.mark.parametrize("wanted", [0x0000, 0x0001, 0xFFFE])
def test_checksums_at_the_edge(library, version, protocol, number, wanted):
    stream = Stream(version, protocol, os.urandom(333), flags=ACK | PSH)
    pieces = check(library, with_checksum(stream, number, wanted))
    at = stream.start() + CHECK_AT[protocol]
    zero = 0xFFFF if protocol == UDP else 0
    assert int.from_bytes(pieces[number][at : at + 2], "big") == (wanted or zero)


@pytest.mark.parametrize("wanted", [0x0000, 0x0001, 0xFFFE])
def test_header_checksums_at_the_edge(library, wanted):
    stream = Stream(payload=os.urandom(333), id=7)
    had = int.from_bytes(stream.pieces()[2][10:12], "big")
    pieces = check(library, stream.but(id=(9 + had - wanted) % 0xFFFF - 2))
    assert int.from_bytes(pieces[2][10:12], "big") == wanted


# ---- Packets without segmentation ----


@settings(max_examples=50, deadline=None)
@given(stream=streams())
def test_a_checksum_is_completed(library, stream):
    header, packet = stream.super_packet()
    (wanted,) = stream.but(size=65535).pieces()
    assert library.cut(header._replace(gso_type=0, gso_size=0), packet) == [wanted]


@settings(max_examples=50, deadline=None)
@given(packet=st.binary(min_size=1, max_size=200), hdr_len=st.integers(0, 65535))
def test_nothing_asked_nothing_done(library, packet, hdr_len):
    assert library.cut(Header(0, 0, hdr_len, 0, 0, 0), packet) == [packet]


# ---- Refusals ----


@settings(max_examples=100, deadline=None)
@given(stream=streams(), field=st.sampled_from(Header._fields), value=st.integers(0, 65535))
def test_a_header_that_lies(library, stream, field, value):
    header, packet = stream.super_packet()
    value = value % 256 if field in ("flags", "gso_type") else value
    lie = header._replace(**{field: value})
    assume(lie != header)
    assume(field != "gso_size" or len(stream.payload) <= 200 * value)  # scapy is slow
    pieces = library.cut(lie, packet)
    if field in ("csum_start", "csum_offset"):
        assert pieces is None
    elif field == "hdr_len":
        assert pieces == stream.pieces()
    elif field == "gso_size":
        assert pieces == (stream.but(size=value).pieces() if value else None)
    elif field == "gso_type" and value:
        # Whether it has the ECN bit or not makes no difference to TCP.
        same = value & ~GSO_ECN == header.gso_type & ~GSO_ECN and stream.protocol == TCP
        assert pieces == (stream.pieces() if same else None)
    elif field == "flags" and stream.protocol == UDP:
        assert pieces == (stream.pieces() if value & NEEDS_CSUM else None)


@settings(max_examples=200, deadline=None)
@given(
    fields=st.tuples(*[st.integers(0, 255)] * 2, *[st.integers(0, 65535)] * 4), packet=st.binary(max_size=200)
)
def test_any_bytes(library, fields, packet):
    header = Header(*fields)
    pieces = library.cut(header, packet)
    if packet and not header.gso_type and not header.flags & NEEDS_CSUM:
        assert pieces == [packet]
    for piece in pieces or []:
        assert 0 < len(piece) <= len(packet)


# ---- The kernel ----

IFF_TUN, IFF_NO_PI, IFF_VNET_HDR, TUNSETIFF, TUNSETOFFLOAD = 0x0001, 0x1000, 0x4000, 0x400454CA, 0x400454D0
OFFLOADS = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40  # checksums, TSO for both versions, with ECN, USO for both
SOL_PACKET, PACKET_VNET_HDR = 263, 15
ETH_P = {4: 0x0800, 6: 0x86DD}


class Device:
    """A TUN device and packet sockets that send it super-packets. A device that takes none has the kernel
    cut them up; one that does gives them with the kernel's own header."""

    def __init__(self, namespace: Namespace, name: str, flags: int) -> None:
        self.sockets: dict[int, socket.socket] = {}
        with namespace.entered():
            self.descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            request = struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | flags)
            fcntl.ioctl(self.descriptor, TUNSETIFF, request)
            if flags:
                fcntl.ioctl(self.descriptor, TUNSETOFFLOAD, OFFLOADS)
            namespace.ip(f"link set {name} up")
            for version, protocol in ETH_P.items():
                self.sockets[version] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
                self.sockets[version].setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
                self.sockets[version].bind((name, protocol))

    def close(self) -> None:
        for each in self.sockets.values():
            each.close()
        os.close(self.descriptor)

    def pass_on(self, header: Header, packet: bytes) -> list[bytes] | None:
        """What comes of it; None: refused."""
        try:
            self.sockets[packet[0] >> 4].sendmsg([header.pack(), packet])
        except OSError:
            return None
        given = []
        # What was sent has been queued; the wait is for a machine whose queues are someone else's turn.
        while select.select([self.descriptor], [], [], 0 if given else 0.2)[0]:
            given.append(os.read(self.descriptor, 65536 + 10))
        return given


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Namespace]:
    if os.geteuid() != 0:
        missing("root, to make network namespaces")
    if not Path("/dev/net/tun").exists():
        missing("/dev/net/tun")
    require("ip")
    namespace = Namespace(f"wgf-{os.getpid():x}{os.urandom(2).hex()}", tmp_path_factory.mktemp("namespace"))
    # Without addresses of their own the devices carry no packets but ours.
    namespace.sysctl("net/ipv6/conf/default/disable_ipv6", 1)
    yield namespace
    namespace.close()


@pytest.fixture(scope="module")
def plain(namespace: Namespace) -> Iterator[Device]:
    with contextlib.closing(Device(namespace, "plain", 0)) as device:
        if device.pass_on(*Stream(protocol=UDP, payload=bytes(300)).super_packet()) is None:
            missing("a kernel that takes UDP super-packets with virtio headers (Linux 6.2)")
        yield device


@pytest.mark.lab
@settings(max_examples=150, deadline=None)
@given(stream=streams())
def test_the_kernel_cuts_the_same(library, plain, stream):
    # It drops most of those for which one packet is enough.
    assume(len(stream.payload) > stream.size)
    header, packet = stream.super_packet()
    assert library.cut(header, packet) == plain.pass_on(header, packet)


@pytest.mark.lab
@pytest.mark.parametrize(("version", "protocol"), KINDS)
def test_the_kernel_cuts_the_longest_the_same(library, plain, version, protocol):
    stream = Stream(version, protocol, size=1367, id=0xFFF0, sequence=2**32 - 30000, flags=ACK | PSH | CWR)
    headers = stream.super_packet()[0].hdr_len
    header, packet = stream.but(payload=os.urandom(65535 - headers)).super_packet()
    pieces = library.cut(header, packet)
    assert len(pieces) == -(-(65535 - headers) // 1367)
    assert pieces == plain.pass_on(header, packet)


@pytest.mark.lab
@pytest.mark.parametrize(("version", "protocol"), KINDS)
def test_the_kernel_agrees_without_a_checksum_begun(library, plain, version, protocol):
    header, packet = Stream(version, protocol, os.urandom(333)).super_packet()
    header = header._replace(flags=0, csum_start=0, csum_offset=0)
    pieces = library.cut(header, packet)
    assert (pieces is None) == (protocol == UDP)
    assert pieces == plain.pass_on(header, packet)


@pytest.mark.lab
def test_congestion_window_reduced_without_the_ecn_bit(library, plain):
    header, packet = Stream(payload=bytes(333), flags=ACK | CWR).super_packet()
    header = header._replace(gso_type=header.gso_type & ~GSO_ECN)
    assert library.cut(header, packet) == plain.pass_on(header, packet)


@pytest.mark.lab
def test_what_a_device_gives_is_cut_up(library, plain, namespace):
    """A header in the kernel's own words."""
    with contextlib.closing(Device(namespace, "super", IFF_VNET_HDR)) as device:
        for version, protocol in KINDS:
            stream = Stream(version, protocol, os.urandom(60000), 1368, flags=ACK | PSH | CWR | ECE)
            (given,) = device.pass_on(*stream.super_packet())
            header = Header(*struct.unpack_from("=BBHHHH", given))
            assert (header.gso_type, header.gso_size) == (stream.super_packet()[0].gso_type, 1368)
            assert library.cut(header, given[10:]) == stream.pieces()
