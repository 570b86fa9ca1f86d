"""wgfast/core/coalesce.c, judged by a segmenter written from the kernel's rules: what is put together must
come apart byte for byte, and each flow in its order. As root, the kernel itself judges too."""

from __future__ import annotations

import fcntl
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cffi import FFI
from hypothesis import given, settings
from hypothesis import strategies as st
from lab.namespace import Namespace
from lab.programs import missing, require
from superpackets import (
    ACK,
    CWR,
    DF,
    ECE,
    FIN,
    GSO,
    GSO_ECN,
    HOSTS,
    KINDS,
    MF,
    PSH,
    PUZZLE,
    RST,
    SYN,
    TCP,
    UDP,
    URG,
    Header,
    Packet,
    built,
    cut,
    flow_of,
    folded,
    one_hop_on,
    stream,
    with_id_of,
)

CORE = Path(__file__).parent.parent / "wgfast" / "core"
COMPILER = next(filter(shutil.which, ("gcc", "clang", "cc")), None)
TCP4, TCP6, UDP4, UDP6 = (1 << bit for bit in range(4))
EVERYTHING = TCP4 | TCP6 | UDP4 | UDP6

pytestmark = pytest.mark.skipif(not COMPILER, reason="missing: a C compiler, to build coalesce.c")

# ---- The library ----

ffi = FFI()


class Group(NamedTuple):
    header: Header
    members: list[int]  # indices of packets
    data: bytes  # of the super-packet


class Library:
    def __init__(self, directory: Path) -> None:
        declarations = re.sub(r"^#.*$", "", (CORE / "coalesce.h").read_text(), flags=re.M)
        ffi.cdef(
            "struct virtio_net_hdr { uint8_t flags, gso_type;"
            "uint16_t hdr_len, gso_size, csum_start, csum_offset; };" + declarations
        )
        built = directory / "coalesce.so"
        flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-shared", "-fPIC"]
        sources = [CORE / "coalesce.c", CORE / "checksum.c"]
        subprocess.run([str(COMPILER), *flags, *sources, "-o", built], check=True, timeout=120)
        self.core = ffi.dlopen(str(built))

    def coalesce(self, packets: list[bytes], features: int = EVERYTHING) -> list[Group]:
        n = len(packets)
        memory = [ffi.from_buffer("uint8_t[]", bytearray(packet)) for packet in packets]
        given, groups = ffi.new("struct wgf_coalesce_packet[]", n), ffi.new("struct wgf_coalesce_group[]", n)
        for index, data in enumerate(memory):
            given[index].data, given[index].len = data, len(data)
        count = self.core.wgf_coalesce(given, n, groups, features)
        result = [self._group(groups[i], given, memory) for i in range(count)]
        for i in range(count):
            self.core.wgf_coalesce_undo(given, groups + i)
            assert not any(getattr(groups[i].header, field) for field in Header._fields)
        assert [bytes(data) for data in memory] == packets
        return result

    @staticmethod
    def _group(group: Any, packets: Any, memory: list[Any]) -> Group:
        members = [group.first]
        while packets[members[-1]].next != 0xFFFF:
            members.append(packets[members[-1]].next)
        followers = (bytes(memory[i])[group.headers_len :] for i in members[1:])
        data = b"".join([bytes(memory[group.first]), *followers])
        assert group.count == len(members)
        assert group.len == len(data)
        return Group(Header(*(getattr(group.header, field) for field in Header._fields)), members, data)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    return Library(tmp_path_factory.mktemp("coalesce"))


def check(library: Library, packets: list[bytes], features: int = EVERYTHING) -> list[Group]:
    groups = library.coalesce(packets, features)
    for group in groups:
        if len(group.members) == 1:
            assert not any(group.header)
            assert group.data == packets[group.members[0]]
            continue
        went_in = [packets[i] for i in group.members]
        equal_ids = len({packet[4:6] for packet in went_in}) == 1
        for wanted, got in zip(went_in, cut(group.header, group.data), strict=True):
            assert wanted == (with_id_of(wanted, got) if equal_ids else got)
    order = [index for group in groups for index in group.members]
    assert sorted(order) == list(range(len(packets)))
    assert [group.members[0] for group in groups] == sorted(group.members[0] for group in groups)
    flows: dict[object, list[int]] = {}
    for index in order:
        flow = flow_of(packets[index])
        flows.setdefault(flow, []).append(index)
        if flow is PUZZLE:
            assert all(flow_of(packets[i]) is None for i in order[: order.index(index)] if i > index)
            assert all(flow_of(packets[i]) is None for i in order[order.index(index) :] if i < index)
    assert all(members == sorted(members) for flow, members in flows.items() if flow is not None)
    return groups


def sizes(groups: list[Group]) -> list[int]:
    return [len(group.members) for group in groups]


# ---- What is put together ----


@pytest.mark.parametrize(("version", "protocol"), KINDS)
def test_a_clean_stream_is_one_super_packet(library, version, protocol):
    packets = built(stream(44, 1400, version=version, protocol=protocol, id=65530, sequence=2**32 - 3000))
    (group,) = check(library, packets)
    assert (group.header.gso_size, len(group.data)) == (1400, group.header.hdr_len + 44 * 1400)
    assert sizes(check(library, [*packets, packets[0][:20]])) == [44, 1]
    wanted = {(4, TCP): TCP4, (6, TCP): TCP6, (4, UDP): UDP4, (6, UDP): UDP6}[version, protocol]
    assert sizes(check(library, packets, wanted)) == [44]
    assert sizes(check(library, packets, EVERYTHING - wanted)) == [1] * 44


@pytest.mark.parametrize(("version", "protocol"), KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_interleaved_streams_are_two(library, version, protocol, other):
    left = built(stream(20, version=version, protocol=protocol))
    right = built(stream(20, 51, version=other[0], protocol=other[1], ports=(40000, 444)))
    mixed = [packet for pair in zip(left, right, strict=True) for packet in pair]
    assert sizes(check(library, mixed)) == [20, 20]
    ping = bytes.fromhex("450000150000000040010000") + left[0][12:20] + b"\x08"
    assert sizes(check(library, [*left[:10], ping, *left[10:]])) == [20, 1]


def test_as_long_as_it_may_be(library):
    assert sizes(check(library, built(stream(100, 1, protocol=UDP)))) == [64, 36]
    assert sizes(check(library, built(stream(200, 1)))) == [200]
    assert sizes(check(library, built(stream(90, 1460)))) == [44, 44, 2]
    exact = [*stream(2, 32700), *stream(1, 95, id=2, sequence=65400)]
    assert [len(group.data) for group in check(library, built(exact))] == [65535]
    longer = [*stream(2, 32700), *stream(1, 96, id=2, sequence=65400)]
    assert sizes(check(library, built(longer))) == [2, 1]


def test_equal_identifications(library):
    datagrams = [packet.but(id=9) for packet in stream(8, protocol=UDP)]
    assert sizes(check(library, built(datagrams))) == [8]
    assert sizes(check(library, built([datagrams[0], *(p.but(id=10) for p in datagrams)]))) == [2, 7]
    assert sizes(check(library, built([*datagrams[:1], datagrams[1].but(id=10), datagrams[2]]))) == [2, 1]
    assert sizes(check(library, built([packet.but(fragment=0) for packet in datagrams]))) == [1] * 8
    assert sizes(check(library, built([packet.but(id=9) for packet in stream(8)]))) == [1] * 8
    assert sizes(check(library, built(stream(8, fragment=0)))) == [8]


@pytest.mark.parametrize("flags", [0, PSH | ACK, FIN | ACK, SYN | ACK, RST | ACK, URG | ACK])
def test_flags_that_are_never_put_together(library, flags):
    assert sizes(check(library, built(stream(8, flags=flags)))) == [1] * 8


def test_options_are_equal(library):
    packets = stream(9, options=b"\1\1\x08\x0a12345678")
    assert sizes(check(library, built(packets))) == [9]
    packets[4] = packets[4].but(options=b"\1\1\x08\x0a12345679")
    assert sizes(check(library, built(packets))) == ALONE


def test_congestion_window_reduced(library):
    first, *rest = stream(8)
    (group,) = check(library, built([first.but(flags=ACK | CWR), *rest]))
    assert group.header.gso_type == GSO[4, TCP] | GSO_ECN


def edged(packet: Packet) -> Packet:
    """The same with its last word such that the checksum becomes 0."""
    if len(packet.payload) < 2 or len(packet.payload) % 2:
        return packet
    without = packet.but(payload=packet.payload[:-2] + bytes(2))
    data = without.build()
    at = len(data) - len(without.payload) - (4 if packet.protocol == TCP else 2)
    if packet.protocol == TCP:
        at -= len(packet.options)
    return packet.but(payload=packet.payload[:-2] + data[at : at + 2])


@pytest.mark.parametrize(("version", "protocol"), KINDS)
def test_two_ways_to_write_zero(library, version, protocol):
    packets = [edged(packet) for packet in stream(8, version=version, protocol=protocol)]
    field = packets[4].build()[-104:-102] if protocol == TCP else packets[4].build()[-102:-100]
    assert field == (b"\0\0" if protocol == TCP else b"\xff\xff")
    assert sizes(check(library, built(packets))) == [8]
    other = built([packet.but(check=0xFFFF if protocol == TCP else 0) for packet in packets])
    assert sizes(check(library, other)) == [1] * 8
    if version == 4:
        zeros = [bytearray(packet) for packet in built(packets)]
        for packet in zeros:
            packet[4:6] = bytes(2)
            packet[10:12] = bytes(2)
            packet[4:6] = (0xFFFF - folded(bytes(packet[:20]))).to_bytes(2, "big")
            packet[10:12] = b"\xff\xff"
        assert sizes(check(library, [bytes(packet) for packet in zeros])) == [1] * 8


# ---- What is not: packet 4 of a stream of nine is changed ----

Change = Callable[[Packet], "bytes | Packet"]


def fields(**changes: Any) -> Change:
    return lambda packet: packet.but(**changes)


def flip(at: int, bit: int = 1) -> Change:
    def change(packet: Packet) -> bytes:
        data = bytearray(packet.build())
        data[at] ^= bit
        return bytes(data)

    return change


ALONE, ENDS, BEGINS = [4, 1, 4], [5, 4], [4, 5]
ALL, ONLY_TCP, ONLY_UDP = KINDS, KINDS[:2], KINDS[2:]
V4, V6 = KINDS[::2], KINDS[1::2]
CHANGES: dict[str, tuple[list[tuple[int, int]], Change, list[int]]] = {
    "PSH": (ONLY_TCP, fields(flags=ACK | PSH), ENDS),
    "FIN": (ONLY_TCP, fields(flags=ACK | FIN), ENDS),
    "FIN and PSH": (ONLY_TCP, fields(flags=ACK | FIN | PSH), ENDS),
    "CWR": (ONLY_TCP, fields(flags=ACK | CWR), BEGINS),
    "CWR and PSH": (ONLY_TCP, fields(flags=ACK | CWR | PSH), ALONE),
    "ECE": (ONLY_TCP, fields(flags=ACK | ECE), ALONE),
    "SYN": (ONLY_TCP, fields(flags=ACK | SYN), ALONE),
    "RST": (ONLY_TCP, fields(flags=ACK | RST), ALONE),
    "URG": (ONLY_TCP, fields(flags=ACK | URG), ALONE),
    "no ACK": (ONLY_TCP, fields(flags=0), ALONE),
    "reserved bit": (ONLY_TCP, fields(reserved=1), ALONE),
    "acknowledged": (ONLY_TCP, fields(ack=78), ALONE),
    "window": (ONLY_TCP, fields(window=501), ALONE),
    "urgent pointer": (ONLY_TCP, fields(urgent=1), ALONE),
    "options": (ONLY_TCP, fields(options=b"\1\1\1\1"), ALONE),
    "gap": (ONLY_TCP, lambda packet: packet.but(sequence=packet.sequence + 1), ALONE),
    "again": (ONLY_TCP, lambda packet: packet.but(sequence=packet.sequence - 100), ALONE),
    "offset too small": (ONLY_TCP, flip(32, 0x10), ALONE),
    "offset too large": (ONLY_TCP, flip(32, 0xA0), ALONE),
    "empty": (ALL, fields(payload=b""), ALONE),
    "shorter": (ALL, fields(payload=b"x" * 99), ENDS),
    "longer": (ONLY_TCP, fields(payload=b"x" * 101), ALONE),
    "a longer datagram": (ONLY_UDP, fields(payload=b"x" * 101), [4, 2, 3]),
    "wrong checksum": (ALL, fields(check=0x1234), ALONE),
    "wrong payload": (ALL, flip(-1), ALONE),
    "no checksum": (ONLY_UDP, fields(check=0), ALONE),
    "other port": ([*ONLY_TCP, (4, UDP)], fields(ports=(40001, 443)), ALONE),
    "another flow": ([(6, UDP)], fields(ports=(40001, 443)), [8, 1]),
    "TTL": (ALL, fields(ttl=63), ALONE),
    "DSCP": (ALL, fields(tos=4), ALONE),
    "ECN": (ALL, fields(tos=3), ALONE),
    "flow label": (V6, fields(label=1), ALONE),
    "identification": (V4, fields(id=1234), ALONE),
    "may be fragmented": (V4, fields(fragment=0), ALONE),
    "reserved fragment bit": (V4, fields(fragment=0x8000 | DF), ALONE),
    "first fragment": (V4, fields(fragment=MF), ALONE),
    "later fragment": (V4, fields(fragment=5), ALONE),
    "options of IPv4": (V4, fields(ip_options=b"\1" * 4), ALONE),
    "extension header": (V6, fields(ip_options=bytes(8)), ALONE),
    "wrong header checksum": (V4, flip(10), ALONE),
    "header length": (V4, flip(0, 2), ALONE),
    "length of IPv4": (V4, flip(3), ALONE),
    "length of IPv6": (V6, flip(5), ALONE),
    "padding": (ALL, lambda packet: packet.build() + b"\0", ALONE),
    "cut off": (ALL, lambda packet: packet.build()[:-1], ALONE),
    "no more than ports": (ALL, lambda packet: packet.build()[: 24 if packet.version == 4 else 44], ALONE),
    "length of UDP": (ONLY_UDP, fields(claimed=107), ALONE),
    "no length of UDP": (ONLY_UDP, fields(claimed=0), ALONE),
}


def changed(change: Change, packet: Packet) -> bytes:
    result = change(packet)
    return result.build() if isinstance(result, Packet) else result


@pytest.mark.parametrize("name", CHANGES)
def test_a_packet_that_does_not_fit(library, name):
    kinds, change, wanted = CHANGES[name]
    for version, protocol in kinds:
        if name.startswith("offset") and version == 6:
            change = flip(52, 0x10 if name.endswith("small") else 0xA0)
        packets = stream(9, version=version, protocol=protocol)
        batch = [changed(change, p) if i == 4 else p.build() for i, p in enumerate(packets)]
        assert sizes(check(library, batch)) == wanted, (version, protocol)
        mixed = built(stream(2, version=version, protocol=protocol, ports=(1, 2)))
        check(library, [mixed[0], *batch[:6], mixed[1], *batch[6:]])
        first = changed(change, packets[0])
        check(library, [first, *built(packets[1:3]), first])


@st.composite
def batches(draw: st.DrawFn) -> list[bytes]:
    """Streams of up to four flows, interleaved; some packets changed, swapped, or with any bit wrong."""
    flows = []
    for port in range(draw(st.integers(1, 4))):
        version, protocol = draw(st.sampled_from(KINDS))
        start = st.one_of(st.integers(2**32 - 500, 2**32 - 1), st.integers(0, 9))
        options = draw(st.sampled_from([b"", b"\1\1\x08\x0a12345678"])) if protocol == TCP else b""
        size = draw(st.sampled_from([1, 2, 7, 64, 101]))
        known = {"version": version, "protocol": protocol, "options": options, "ports": (port, port % 2)}
        flows.append(iter(stream(64, size, sequence=draw(start), id=draw(start), **known)))
    kinds = st.sampled_from([None] * 100 + [*CHANGES, "edge", "bit", "same id"])
    packets = []
    for flow, name in draw(st.lists(st.tuples(st.sampled_from(flows), kinds), max_size=40)):
        packet = next(flow)
        if name == "bit":
            at = draw(st.integers(0, len(packet.build()) - 1))
            packets.append(flip(at, 1 << draw(st.integers(0, 7)))(packet))
        elif name == "edge":
            packets.append(edged(packet).build())
        elif name == "same id":
            packets.append(packet.but(id=packet.id - 1).build())
        elif name and (packet.version, packet.protocol) in CHANGES[name][0]:
            packets.append(changed(CHANGES[name][1], packet))
        else:
            packets.append(packet.build())
    if draw(st.booleans()) and len(packets) > 1:
        at = draw(st.integers(0, len(packets) - 2))
        packets[at : at + 2] = packets[at + 1], packets[at]
    return packets


@settings(max_examples=300, deadline=None)
@given(batches(), st.sampled_from([EVERYTHING] * 7 + [0, TCP4, UDP4, TCP4 | TCP6]))
def test_any_batch_comes_apart_as_it_was(library, packets, features):
    check(library, packets, features)


def test_scapy_agrees(library):
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6

    for version, protocol in KINDS:
        layer = {4: IP, 6: IPv6}[version]
        packets = built(stream(5, 33, version=version, protocol=protocol, id=7))
        (group,) = check(library, packets)
        for data in [*packets, *cut(group.header, group.data)]:
            again = layer(data)
            del again.payload.chksum
            if version == 4:
                del again.chksum
            assert bytes(again) == data
        whole = layer(group.data)
        assert bytes(whole.payload.payload) == group.data[group.header.hdr_len :]
        assert whole.fields.get("len", len(group.data)) == len(group.data)


# ---- The kernel as the judge ----

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
CSUM, TSO, USO = 0x01, 0x06, 0x60
ROUTERS = {4: ("10.7.1.1", "10.7.2.1"), 6: ("fd07:1::1", "fd07:2::1")}


class Router:
    """A namespace that routes from a TUN device that takes super-packets to one that takes none."""

    def __init__(self, directory: Path) -> None:
        self.namespace = Namespace(f"wgf-{os.getpid():x}{os.urandom(2).hex()}", directory)
        self.descriptors: list[int] = []
        try:
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _prepare(self) -> None:
        with self.namespace.entered():
            self.super = self._open(b"super", IFF_VNET_HDR)
            self.plain = self._open(b"plain", 0)
        try:
            fcntl.ioctl(self.super, TUNSETOFFLOAD, CSUM | TSO | USO)
        except OSError:
            missing("a kernel whose TUN devices take UDP super-packets (Linux 6.2)")
        for number, name in enumerate(("super", "plain")):
            self.namespace.add_address(name, ROUTERS[4][number] + "/24", ROUTERS[6][number] + "/64")
            self.namespace.ip(f"link set {name} up")
        self.namespace.sysctl("net/ipv4/ip_forward", 1)
        self.namespace.sysctl("net/ipv6/conf/all/forwarding", 1)

    def _open(self, name: bytes, flags: int) -> int:
        self.descriptors.append(os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
        fcntl.ioctl(
            self.descriptors[-1], TUNSETIFF, struct.pack("16sH22x", name, IFF_TUN | IFF_NO_PI | flags)
        )
        return self.descriptors[-1]

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.namespace.close()

    def write(self, group: Group) -> None:
        os.writev(self.super, [group.header.pack(), group.data])

    def read(self, n: int, flow: object) -> list[bytes]:
        """What leaves by the plain device, of this flow; the kernel's own packets are left out."""
        packets: list[bytes] = []
        end = time.monotonic() + 5
        while len(packets) < n and select.select([self.plain], [], [], max(0, end - time.monotonic()))[0]:
            packet = os.read(self.plain, 65536)
            if flow_of(packet) == flow:
                packets.append(packet)
        return packets


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Router]:
    if os.geteuid() != 0:
        missing("root, to make network namespaces")
    if not Path("/dev/net/tun").exists():
        missing("/dev/net/tun")
    require("ip")
    router = Router(tmp_path)
    yield router
    router.close()


@pytest.mark.lab
@pytest.mark.parametrize("version", [4, 6])
def test_a_socket_gets_every_datagram(library, router, version):
    hosts = (HOSTS[version][0], ROUTERS[version][0])
    with router.namespace.entered():
        receiver = socket.socket({4: socket.AF_INET, 6: socket.AF_INET6}[version], socket.SOCK_DGRAM)
    with receiver:
        receiver.bind((hosts[1], 443))
        receiver.settimeout(5)
        for n, size in ((46, 1400), (64, 1), (64, 1000)):
            packets = stream(n, size, version=version, protocol=UDP, hosts=hosts)
            packets[-1] = packets[-1].but(payload=b"!")
            (group,) = check(library, built(packets))
            router.write(group)
            assert [receiver.recv(65536) for _ in packets] == [packet.payload for packet in packets]


@pytest.mark.lab
@pytest.mark.parametrize(("version", "protocol"), KINDS)
def test_the_kernel_makes_the_packets_that_went_in(library, router, version, protocol):
    kind = {"version": version, "protocol": protocol}
    first, *rest = stream(40, 1400, sequence=2**32 - 9000, id=65530, **kind)
    streams = [[first, *rest], stream(60, 1, **kind), [edged(packet) for packet in stream(9, 1234, **kind)]]
    if protocol == TCP:
        rest[-1] = rest[-1].but(flags=ACK | PSH | FIN, payload=b"the end")
        streams[0] = [first.but(flags=ACK | CWR), *rest]
        streams.append(stream(44, 1388, options=b"\1\1\x08\x0a12345678", flags=ACK | ECE, **kind))
    elif version == 4:
        streams.append([packet.but(id=0) for packet in streams[1]])
    for packets in map(built, streams):
        (group,) = check(library, packets)
        router.write(group)
        got = router.read(len(packets), flow_of(packets[0]))
        assert [with_id_of(*both) for both in zip(packets, got, strict=True)] == list(
            map(one_hop_on, packets)
        )
