"""The same data through every setting of the offloads: all on, all off, each one off alone."""

from __future__ import annotations

import ctypes
import os
import random
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab.capture import Capture, addresses
from lab.end import PORT, End, endpoint
from lab.namespace import cable
from lab.numbered import UDP_GRO, Flow, drain
from lab.programs import PEER, SUBJECT, beyond_peer, require
from lab.topology import OUTSIDE, Lab, Tunnel
from lab.traffic import exchange, wait_ping

from wgfast import Device, _core

pytestmark = pytest.mark.lab

ALL = _core.OFFLOAD_NAMES
VARIANTS = ["", "none", *(f"-{name}" for name in ALL)]
MTU = 1420
# 1372 fills an IPv6 packet; what is longer than the MTU the sender's kernel cuts into fragments.
SIZES = (0, 1, 64, 1372, 1373, 1393, 5000, 60000)
BURST = 1000
TCP, UDP = 6, 17
ECT1, ECT0, CE = 1, 2, 3
PIDFD_GETFD = 438


def left_on(variant: str) -> set[str]:
    """What a device made here has in use of what the variant leaves on."""
    off = set(ALL) if variant == "none" else {part.removeprefix("-") for part in variant.split(",")}
    with Device(tun="wgprobe%d", without=off & set(ALL)) as device:
        return {name for name, state in device.offloads().items() if state == "in use"}


def environ(variant: str) -> dict[str, str]:
    return {"WGFAST_OFFLOAD": variant}


# ---- what the system has been told ----


def sockets_of(pid: int) -> list[socket.socket]:
    """Copies of a process's UDP sockets."""
    libc = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        fd = libc.syscall(PIDFD_GETFD, pidfd, int(name), 0)
        if fd < 0:
            continue
        try:
            copy = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            continue
        if copy.type == socket.SOCK_DGRAM and copy.family in (socket.AF_INET, socket.AF_INET6):
            found.append(copy)
        else:
            copy.close()
    os.close(pidfd)
    return found


def receives_whole(end: End) -> set[bool]:
    """Whether UDP_GRO is on, of its UDP sockets."""
    sockets = sockets_of(end.pid)
    try:
        return {bool(each.getsockopt(socket.SOL_UDP, UDP_GRO)) for each in sockets}
    finally:
        for each in sockets:
            each.close()


def check_settings(end: End, on: set[str]) -> None:
    """The interface and the sockets are as they should be, by the kernel's account."""
    require("ethtool")
    details = end.namespace.show("-d", "link", "show", end.interface)
    assert ("vnet_hdr on" in details) == ("vnet" in on)
    features = end.namespace.run("ethtool", "-k", end.interface).stdout
    for line in ("tx-tcp-segmentation", "tx-tcp6-segmentation"):
        assert (f"{line}: on" in features) == ("tso" in on), line
    assert ("tx-udp-segmentation: on" in features) == ("uso" in on)
    assert receives_whole(end) == {"udp-gro" in on}


# ---- what passes ----


def check_streams(tunnel: Tunnel) -> None:
    """TCP in both directions at once, inside IPv4 and IPv6."""
    left, right = (end.namespace for end in tunnel.ends)
    for address in (tunnel.responder.address, tunnel.responder.address6):
        exchange(left, right, address)


def check_sizes(tunnel: Tunnel) -> None:
    source = random.Random(4)
    for end in tunnel.ends:
        for version in (4, 6):
            with Flow(end, tunnel.other(end), version) as flow:
                for size in SIZES:
                    payload = source.randbytes(size)
                    assert flow.echo(payload) == payload, f"{size} bytes from {end.interface}"


def check_bursts(tunnel: Tunnel) -> None:
    """Small datagrams one by one, and then in super-packets of the sender's own making."""
    for end in tunnel.ends:
        for version, together, whole in ((4, 1, False), (6, 1, True), (4, 31, True), (6, 31, False)):
            with Flow(end, tunnel.other(end), version, together, whole) as flow:
                flow.send(BURST if together == 1 else 4 * together + 1)
                drain([flow])
                # Queues may overflow: wireguard-go's socket holds some 230 of them while it is not scheduled.
                flow.check(flow.sent // 8)


def check_all(tunnel: Tunnel) -> None:
    """Over IPv4 outside, and then over IPv6 in the same session."""
    for family in (4, 6):
        at = endpoint(OUTSIDE[family][1])
        tunnel.initiator.set("peer", tunnel.responder.public_key, "endpoint", at)
        wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
        check_sizes(tunnel)
        check_bursts(tunnel)
        check_streams(tunnel)


def kinds(capture: Capture, source: str) -> set[int]:
    """Protocols of which there were super-packets from that address."""
    found = set()
    for packet in capture.super_packets():
        if addresses(packet)[0] == source:
            found.add(packet[9] if packet[0] >> 4 == 4 else packet[6])
    return found


def check_super_packets(tunnel: Tunnel, end: End, on: set[str]) -> None:
    """Where an offload is off there are none of its super-packets; where it is on they are used."""
    number = tunnel.ends.index(end)
    other = tunnel.other(end)
    with Capture(end.namespace, "wire0") as wire, Capture(end.namespace, end.interface) as inside:
        exchange(tunnel.initiator.namespace, tunnel.responder.namespace, tunnel.responder.address)
        for sender in tunnel.ends:
            with Flow(sender, tunnel.other(sender), 4, 31) as flow:
                flow.send(310)
                drain([flow])
        outside = {kind for pair in OUTSIDE.values() for kind in kinds(wire, pair[number])}
        outward, inward = (kinds(inside, each.address) for each in (end, other))
    assert outside == ({UDP} if "udp-segment" in on else set())
    wanted = ({TCP} if "tso" in on else set()) | ({UDP} if "uso" in on else set())
    assert outward == wanted
    assert inward <= wanted
    if "tso" in on:
        assert TCP in inward, "TCP was put together"


def segmenting(end: End) -> None:
    """Its link is like a real cable: the kernel cuts up what enters, and puts together what arrives."""
    require("ethtool")
    end.namespace.run("ethtool", "-K", "wire0", "tx-udp-segmentation", "off", "tso", "off", "gro", "on")


# ---- the matrix ----


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v or "all")
def test_against_wireguard_go(lab: Lab, variant: str) -> None:
    tunnel = lab.tunnel(SUBJECT, PEER, environs=(environ(variant), None))
    on = left_on(variant)
    check_settings(tunnel.initiator, on)
    check_all(tunnel)
    check_super_packets(tunnel, tunnel.initiator, on)


@pytest.mark.parametrize(
    "variants",
    [("", ""), ("none", "none"), ("", "none"), ("-vnet", "-udp-segment"), ("-udp-gro", "-tso,-uso")],
    ids=lambda pair: "+".join(variant or "all" for variant in pair),
)
def test_between_two_wgfast(lab: Lab, variants: tuple[str, str]) -> None:
    """Each end's setting is its own business."""
    tunnel = lab.tunnel(SUBJECT, SUBJECT, environs=(environ(variants[0]), environ(variants[1])))
    check_all(tunnel)
    for end, variant in zip(tunnel.ends, variants, strict=True):
        check_settings(end, left_on(variant))
        check_super_packets(tunnel, end, left_on(variant))


@pytest.mark.parametrize(("peer", "variant"), [(PEER, ""), (SUBJECT, ""), (SUBJECT, "-udp-gro")])
def test_over_a_link_that_segments(lab: Lab, peer: str, variant: str) -> None:
    """What arrives together was put together by the receiver's kernel."""
    tunnel = lab.tunnel(SUBJECT, peer, environs=(environ(variant), None))
    left, right = tunnel.ends
    for end in tunnel.ends:
        segmenting(end)
    check_all(tunnel)
    with Capture(left.namespace, "wire0") as wire, Flow(right, left, 6, 31) as flow:
        flow.send(310)
        drain([flow])
        arrived, sent = (kinds(wire, OUTSIDE[6][number]) for number in (1, 0))
    if peer == SUBJECT:  # wireguard-go's come one by one, and may be too far apart
        assert arrived == ({UDP} if "udp-gro" in left_on(variant) else set())
    assert sent == set()


@pytest.mark.parametrize("peer", [PEER, SUBJECT])
def test_another_port_under_load(lab: Lab, peer: str) -> None:
    """Sockets opened anew are like those before, and a stream outlives the change."""
    tunnel = lab.tunnel(SUBJECT, peer, environs=(environ(""), environ("")))
    end, other = tunnel.ends
    wait_ping(end.namespace, other.address)
    with ThreadPoolExecutor(1) as pool:
        for port in range(PORT + 1, PORT + 5):
            stream = pool.submit(exchange, end.namespace, other.namespace, other.address, 16 << 20)
            time.sleep(0.1)
            end.set("listen-port", str(port))
            stream.result()
    wait_ping(end.namespace, other.address)
    check_settings(end, left_on(""))
    other.wait_endpoint(end, OUTSIDE[4][0], PORT + 4)
    check_super_packets(tunnel, end, left_on(""))


# ---- unequal packets, unequal paths ----


def mark_some(end: End) -> None:
    """Every so often a packet of this end meets congestion, as if a router on the way said so."""
    require("nft")
    often = f"udp dport {PORT} ip ecn ect0 numgen inc mod 3 == 0 ip ecn set ce counter"
    end.namespace.filter("postrouting", often)


def marked_by(end: End, size: int) -> int:
    """How many datagrams that carry a Flow's of that size; several may have passed as one."""
    rules = end.namespace.run("nft", "list", "table", "inet", "postrouting").stdout
    counted = re.search(r"counter packets (\d+) bytes (\d+)", rules)
    assert counted
    packets, octets = map(int, counted.groups())
    return (octets - 28 * packets) // (32 + (size + 28 + 15) // 16 * 16)


def said_of_tcp(end: End, what: str) -> int:
    names, values = (
        line.split()
        for line in end.namespace.run("cat", "/proc/net/netstat").stdout.splitlines()
        if line.startswith("TcpExt:")
    )
    return int(values[names.index(what)])


@beyond_peer("knows nothing of ECN")
@pytest.mark.parametrize("variant", ["", "-udp-segment"], ids=lambda v: v or "all")
def test_marks_stay_with_their_packets(lab: Lab, variant: str) -> None:
    """Some of the packets that travel together meet congestion."""
    tunnel = lab.tunnel(SUBJECT, SUBJECT, environs=(environ(variant), environ("")))
    left, right = tunnel.ends
    for end in tunnel.ends:
        segmenting(end)
        end.namespace.sysctl("net/ipv4/tcp_ecn", 1)
    wait_ping(left.namespace, right.address)
    mark_some(left)
    with Flow(left, right, 4, 31) as flow, Flow(left, right, 4, 31, True) as whole:
        for each in (flow, whole):
            each.mark(ECT0)
            for _ in range(20):
                each.send(31)
                drain([each])
            each.check(each.sent)
        assert 0 < flow.marks.count(CE) < len(flow.marks) == flow.sent
        assert {*flow.marks, *whole.marks} == {ECT0, CE}
        assert [*flow.marks, *whole.marks].count(CE) == marked_by(left, 64)
    exchange(left.namespace, right.namespace, right.address)
    assert said_of_tcp(left, "TCPDeliveredCE") > 0


@beyond_peer("knows nothing of ECN")
def test_what_leaves_together_is_marked_alike(lab: Lab) -> None:
    """Packets of different marks that the tunnel finds waiting: each has its own mark outside."""
    tunnel = lab.tunnel(SUBJECT, SUBJECT, environs=(environ(""), environ("")))
    left, right = tunnel.ends
    wait_ping(left.namespace, right.address)
    source = random.Random(6)
    marks = [
        mark for _ in range(60) for mark in [source.choice((0, ECT1, ECT0, CE))] * source.randrange(1, 6)
    ]
    assert left.process is not None
    with Capture(right.namespace, "wire0") as wire, Flow(left, right, 4) as flow:
        left.process.signal(signal.SIGSTOP)
        for mark in marks:
            flow.mark(mark)
            flow.send(1)
        left.process.signal(signal.SIGCONT)
        drain([flow])
        assert kinds(wire, OUTSIDE[4][0]) == {UDP}, "some left together"
        outer = [d.tos for d in wire.datagrams() if d.source[0] == OUTSIDE[4][0] and d.message_type == 4]
    flow.check(len(marks))
    assert flow.marks == marks
    assert outer == [ECT0 if mark == CE else mark for mark in marks]


def test_a_narrow_path_is_nobody_elses_business(lab: Lab) -> None:
    """Outer packets too long for one endpoint's path go alone, in fragments; another's go on together."""
    tunnel = lab.tunnel(SUBJECT, SUBJECT, environs=(environ(""), environ("")))
    hub, near = tunnel.ends
    side = lab.namespace("side")
    cable(hub.namespace, "wire1", side, "wire0")
    hub.namespace.add_address("wire1", "198.51.100.1/24")
    side.add_address("wire0", "198.51.100.2/24")
    far = lab.end(side, SUBJECT).start(environ=environ(""))
    far.up()
    far.add_peer(hub)
    hub.add_peer(far, at=endpoint("198.51.100.2"))
    for end in tunnel.ends:
        end.namespace.ip("link set wire0 mtu 1300")
    for other in (near, far):
        wait_ping(hub.namespace, other.address)
        exchange(hub.namespace, other.namespace, other.address)
    check_sizes(tunnel)
    check_bursts(tunnel)
    with Capture(hub.namespace, "wire0") as narrow, Capture(hub.namespace, "wire1") as wide:
        for other in (near, far):
            exchange(hub.namespace, other.namespace, other.address)
        assert kinds(narrow, OUTSIDE[4][0]) == set()
        assert kinds(wide, "198.51.100.1") == {UDP}
