"""Ping, TCP and UDP through tunnels to other implementations, at ordinary and very large MTUs."""

from __future__ import annotations

import pytest
from lab.programs import PEER, SUBJECT, require
from lab.topology import Lab, Tunnel
from lab.traffic import IperfServer, iperf_tcp, iperf_udp, ping, transfer, wait_ping

pytestmark = pytest.mark.lab

PAIRS = [
    pytest.param(SUBJECT, PEER, id="wgfast-initiates"),
    pytest.param(PEER, SUBJECT, id="wgfast-responds"),
    pytest.param(SUBJECT, SUBJECT, id="wgfast-both"),
]
IP_HEADER = {4: 20, 6: 40}


def check_pings(tunnel: Tunnel, mtu: int) -> None:
    """The smallest and the largest echo that fits, both ways, inside IPv4 and IPv6."""
    for end in tunnel.ends:
        other = tunnel.other(end)
        for family, address in ((4, other.address), (6, other.address6)):
            largest = mtu - IP_HEADER[family] - 8
            for size in (0, 1, largest):
                echo = ping(end.namespace, address, size=size, wait=2)
                assert echo.received == 1, f"{size} bytes to {address}: {echo.output}"


def check_iperf(tunnel: Tunnel, mtu: int) -> None:
    """TCP both ways and UDP towards the responder, inside IPv4 and IPv6."""
    require("iperf3")
    namespace = tunnel.initiator.namespace
    server = IperfServer(tunnel.responder.namespace)
    amount = 4 << 20
    for address in (tunnel.responder.address, tunnel.responder.address6):
        assert iperf_tcp(namespace, address, amount) >= amount // 2
        assert iperf_tcp(namespace, address, amount, reverse=True) >= amount // 2
        sent, lost = iperf_udp(namespace, address, length=mtu - 40 - 8)
        assert sent > 0
        assert lost <= sent // 10, f"{lost} of {sent} datagrams to {address} lost"
    server.stop()


@pytest.mark.parametrize("family", [4, 6], ids=["outside-ipv4", "outside-ipv6"])
@pytest.mark.parametrize(("initiator", "responder"), PAIRS)
def test_ping_tcp_udp_at_the_usual_mtu(lab: Lab, initiator: str, responder: str, family: int) -> None:
    tunnel = lab.tunnel(initiator, responder, family=family)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    check_pings(tunnel, 1420)
    check_iperf(tunnel, 1420)
    for address in (tunnel.responder.address, tunnel.responder.address6):
        transfer(tunnel.initiator.namespace, tunnel.responder.namespace, address)


# wireguard-go takes inner packets up to 65,503 bytes. An MTU that is no multiple of 16 is where
# padding must stop short of the block.
@pytest.mark.parametrize("mtu", [9001, 60000])
@pytest.mark.parametrize("family", [4, 6], ids=["outside-ipv4", "outside-ipv6"])
@pytest.mark.parametrize(("initiator", "responder"), PAIRS[:2])
def test_ping_tcp_udp_at_a_large_mtu(lab: Lab, initiator: str, responder: str, family: int, mtu: int) -> None:
    """The cable keeps its 1,500 bytes: the kernel cuts and mends what goes outside."""
    tunnel = lab.tunnel(initiator, responder, family=family, mtu=mtu)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    check_pings(tunnel, mtu)
    check_iperf(tunnel, mtu)
    transfer(tunnel.initiator.namespace, tunnel.responder.namespace, tunnel.responder.address)


# 65,507 bytes fit into one IPv4 datagram; 32 of them are WireGuard's own.
@pytest.mark.parametrize("mtu", [65000, 65475])
def test_the_largest_mtu_between_two_wgfast(lab: Lab, mtu: int) -> None:
    tunnel = lab.tunnel(SUBJECT, SUBJECT, mtu=mtu)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    check_pings(tunnel, mtu)
    check_iperf(tunnel, mtu)
    transfer(tunnel.initiator.namespace, tunnel.responder.namespace, tunnel.responder.address)


@pytest.mark.parametrize(("initiator", "responder"), PAIRS[:2])
def test_the_first_packet_is_not_lost(lab: Lab, initiator: str, responder: str) -> None:
    """Packets that wait for the handshake are delivered after it, in their order."""
    tunnel = lab.tunnel(initiator, responder)
    echo = ping(tunnel.initiator.namespace, tunnel.responder.address, count=5, interval=0.01, wait=2)
    assert (echo.sent, echo.received) == (5, 5), echo.output


@pytest.mark.parametrize(("initiator", "responder"), PAIRS)
def test_wg_show_counts_what_passed(lab: Lab, initiator: str, responder: str) -> None:
    tunnel = lab.tunnel(initiator, responder)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    ping(tunnel.initiator.namespace, tunnel.responder.address, size=1000, count=10, interval=0.01)
    for end in tunnel.ends:
        received, sent = map(int, end.show("transfer")[tunnel.other(end).public_key].split())
        assert 10_000 < received < 20_000
        assert 10_000 < sent < 20_000
        assert end.latest_handshake(tunnel.other(end)) > 0
