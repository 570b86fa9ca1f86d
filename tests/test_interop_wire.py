"""Every message on the wire, dissected by scapy."""

from __future__ import annotations

import random

import pytest
from lab.capture import Capture, Datagram
from lab.end import PORT
from lab.process import wait_until
from lab.programs import PEER, SUBJECT
from lab.topology import Lab, Tunnel
from lab.traffic import ping, udp_socket, wait_ping

scapy_wireguard = pytest.importorskip("scapy.contrib.wireguard")

pytestmark = pytest.mark.lab

MIXED = [
    pytest.param(SUBJECT, PEER, id="wgfast-initiates"),
    pytest.param(PEER, SUBJECT, id="wgfast-responds"),
]
LENGTHS = {1: 148, 2: 92, 3: 64}
KEEPALIVE = 32
PING = 32 + 96  # an ordinary one: 84 bytes, padded
HEADERS = 28  # of IPv4 and ICMP, or of IPv4 and UDP
MTU = 1420  # no multiple of 16: where padding has to stop


def check_message(datagram: Datagram) -> None:
    """The whitepaper's layout, section 5.4: type, three zeros, and the length of that type."""
    message = scapy_wireguard.Wireguard(datagram.payload)
    assert message.message_type in (1, 2, 3, 4)
    assert message.reserved_zero == 0
    if message.message_type == 4:
        transport = message[scapy_wireguard.WireguardTransport]
        sealed = transport.encrypted_encapsulated_packet
        assert len(datagram.payload) == 16 + len(sealed)
        assert len(sealed) >= 16
        assert len(sealed) % 16 == 0 or len(sealed) == MTU + 16
    else:
        assert len(datagram.payload) == LENGTHS[message.message_type]
        assert bytes(message) == datagram.payload


def padded(inner: int, mtu: int = MTU) -> int:
    """The length of the transport message that carries an inner packet of that length."""
    return 32 + min(mtu, (inner + 15) // 16 * 16)


def transport_from(capture: Capture, address: str) -> list[Datagram]:
    return [d for d in capture.datagrams() if d.message_type == 4 and d.source[0] == address]


@pytest.mark.parametrize("family", [4, 6], ids=["outside-ipv4", "outside-ipv6"])
@pytest.mark.parametrize(("initiator", "responder"), MIXED)
def test_a_conversation(lab: Lab, initiator: str, responder: str, family: int) -> None:
    tunnel = lab.tunnel(initiator, responder, family=family)
    with Capture(tunnel.initiator.namespace, "wire0") as capture:
        wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
        tunnel.initiator.set("peer", tunnel.responder.public_key, "persistent-keepalive", "1")
        for size in (0, 1, 15, 16, 17, 500, MTU - HEADERS - 1, MTU - HEADERS):
            for end in tunnel.ends:
                assert ping(end.namespace, tunnel.other(end).address, size=size).received
        capture.wait_for(lambda d: len(d.payload) == KEEPALIVE, "a keepalive", 3.0)
        seen = capture.datagrams()
    assert {d.source[1] for d in seen} == {PORT}
    types = [d.message_type for d in seen]
    assert types[:3] == [1, 2, 4]
    assert set(types[3:]) == {4}
    for datagram in seen:
        assert len(datagram.payload) <= MTU + 32
        check_message(datagram)
    check_indices_and_counters(seen, tunnel)


def check_indices_and_counters(seen: list[Datagram], tunnel: Tunnel) -> None:
    """Each side is addressed by the index it chose, and counts its packets from 0 without a gap."""
    initiation, response = (scapy_wireguard.Wireguard(d.payload) for d in seen[:2])
    chosen = {
        tunnel.outside[0]: initiation[scapy_wireguard.WireguardInitiation].sender_index,
        tunnel.outside[1]: response[scapy_wireguard.WireguardResponse].sender_index,
    }
    answer = response[scapy_wireguard.WireguardResponse]
    assert answer.receiver_index == chosen[tunnel.outside[0]]
    assert 0 not in chosen.values()
    counters: dict[str, list[int]] = {outside: [] for outside in tunnel.outside}
    for datagram in seen[2:]:
        transport = scapy_wireguard.Wireguard(datagram.payload)[scapy_wireguard.WireguardTransport]
        assert transport.receiver_index == chosen[datagram.destination[0]]
        counters[datagram.source[0]].append(transport.counter)
    for sent in counters.values():
        assert sent == list(range(len(sent)))


def sent_length(tunnel: Tunnel, inner: int) -> int:
    """The length of the transport message in which the initiator sends so long a packet."""
    with Capture(tunnel.initiator.namespace, "wire0") as capture:
        wait_ping(tunnel.initiator.namespace, tunnel.responder.address, size=inner - HEADERS)
        return len(transport_from(capture, tunnel.outside[0])[-1].payload)


def wait_mtu(tunnel: Tunnel, mtu: int) -> None:
    """Until the initiator pads as far as its interface's MTU says."""
    wait_until(lambda: sent_length(tunnel, mtu) == padded(mtu, mtu), f"an MTU of {mtu} is followed", 2.0)


def test_padding_stops_at_the_mtu(lab: Lab) -> None:
    """To 16 bytes, as far as the interface's MTU allows, and the MTU may change."""
    tunnel = lab.tunnel(SUBJECT, PEER)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    for mtu in (1420, 1415, 1409, 1431):
        tunnel.initiator.namespace.ip(f"link set {tunnel.initiator.interface} mtu {mtu}")
        wait_mtu(tunnel, mtu)
        for inner in (mtu - 1, mtu - 7, mtu - 15, mtu - 16, 100, 96, 97):
            assert sent_length(tunnel, inner) == padded(inner, mtu), f"{inner} of {mtu}"


def test_streams_are_well_formed(lab: Lab) -> None:
    """Where packets leave in super-packets, each is what it would have been alone."""
    tunnel = lab.tunnel(SUBJECT, PEER)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    inside = udp_socket(tunnel.initiator.namespace, tunnel.initiator.address)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    lengths = [source.choice((0, 1, 100, 1000, 1392)) for _ in range(600)]
    with Capture(tunnel.responder.namespace, "wire0") as capture, inside:
        for length in lengths:
            inside.sendto(b"x" * length, (tunnel.responder.address, 9))
        wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
        sent = transport_from(capture, tunnel.outside[0])
    for datagram in sent:
        assert len(datagram.payload) <= MTU + 32
        check_message(datagram)
    counters = [int.from_bytes(d.payload[8:16], "little") for d in sent]
    assert counters == sorted(set(counters)), "counters rise"
    # The kernel's queue may overflow, but nothing changes its place, and no size is wrong.
    expected = iter([padded(length + HEADERS) for length in lengths])
    carried = [len(d.payload) for d in sent if len(d.payload) != PING]
    assert len(carried) > len(lengths) // 2
    assert all(length in expected for length in carried)
