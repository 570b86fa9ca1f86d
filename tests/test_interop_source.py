"""Which source address the outer packets carry when an end has several."""

from __future__ import annotations

import pytest
from lab import uapi
from lab.capture import Capture
from lab.end import PORT, End, endpoint
from lab.namespace import Namespace, cable
from lab.programs import PEER, SUBJECT, beyond_peer, require
from lab.topology import PREFIX, Lab, Tunnel
from lab.traffic import ping, wait_ping

pytestmark = pytest.mark.lab

MIXED = [
    pytest.param(SUBJECT, PEER, id="wgfast-initiates"),
    pytest.param(PEER, SUBJECT, id="wgfast-responds"),
]
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["outside-ipv4", "outside-ipv6"])
SEVERAL = {
    4: ["192.0.2.2", "192.0.2.3", "192.0.2.4"],
    6: ["2001:db8::2", "2001:db8::3", "2001:db8::4"],
}


def with_several(lab: Lab, initiator: str, responder: str, family: int) -> Tunnel:
    """A tunnel whose responder has three addresses on its one interface."""
    tunnel = lab.tunnel(initiator, responder, family=family)
    more = [f"{address}/{PREFIX[family]}" for address in SEVERAL[family][1:]]
    tunnel.responder.namespace.add_address("wire0", *more)
    return tunnel


def aim(end: End, other: End, address: str) -> None:
    end.set("peer", other.public_key, "endpoint", endpoint(address))


@FAMILIES
@pytest.mark.parametrize(("initiator", "responder"), MIXED)
def test_the_answer_comes_from_the_address_that_was_asked(
    lab: Lab, initiator: str, responder: str, family: int
) -> None:
    tunnel = with_several(lab, initiator, responder, family)
    for address in reversed(SEVERAL[family]):
        aim(tunnel.initiator, tunnel.responder, address)
        with Capture(tunnel.initiator.namespace, "wire0") as capture:
            wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
            # The responder's own packets stay with that address too.
            wait_ping(tunnel.responder.namespace, tunnel.initiator.address)
            sources = {d.source[0] for d in capture.datagrams()}
        assert sources == {tunnel.outside[0], address}
        assert tunnel.initiator.endpoint_of(tunnel.responder)[0] == address


# Only wgfast is asked to let go: since Linux 6.x a vanished IPv4 source gives ENETUNREACH where
# it used to give EINVAL, and wireguard-go holds on to it.
@beyond_peer("holds on to an IPv4 source")
@FAMILIES
@pytest.mark.parametrize("initiator", [PEER, SUBJECT], ids=["from-wireguard-go", "from-wgfast"])
def test_a_source_address_that_disappears_is_let_go(lab: Lab, initiator: str, family: int) -> None:
    tunnel = with_several(lab, initiator, SUBJECT, family)
    aim(tunnel.initiator, tunnel.responder, SEVERAL[family][1])
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    tunnel.responder.namespace.remove_address("wire0", f"{SEVERAL[family][1]}/{PREFIX[family]}")
    # The responder speaks next, from an address it still has, and the initiator follows.
    wait_ping(tunnel.responder.namespace, tunnel.initiator.address, deadline=7.0)
    followed = tunnel.initiator.endpoint_of(tunnel.responder)[0]
    assert followed in (SEVERAL[family][0], SEVERAL[family][2])
    assert ping(tunnel.initiator.namespace, tunnel.responder.address).received == 1


@pytest.mark.parametrize(("initiator", "responder"), MIXED)
def test_a_route_that_moves_to_another_interface_is_followed(
    lab: Lab, initiator: str, responder: str
) -> None:
    """The cable in use goes away; the same far address is reached over a second one."""
    tunnel = lab.tunnel(initiator, responder)
    left, right = tunnel.initiator.namespace, tunnel.responder.namespace
    cable(left, "wire1", right, "wire1")
    # The addresses in use live on the loopback interface, as a router's do, behind either cable.
    left.add_address("lo", "203.0.113.1/32")
    right.add_address("lo", "203.0.113.2/32")
    left.ip("route add 203.0.113.2/32 dev wire0 src 203.0.113.1")
    right.ip("route add 203.0.113.1/32 dev wire0 src 203.0.113.2")
    aim(tunnel.initiator, tunnel.responder, "203.0.113.2")
    wait_ping(left, tunnel.responder.address)
    tunnel.responder.wait_endpoint(tunnel.initiator, "203.0.113.1")
    left.ip("route replace 203.0.113.2/32 dev wire1 src 203.0.113.1", "link set wire0 down")
    right.ip("route replace 203.0.113.1/32 dev wire1 src 203.0.113.2")
    wait_ping(left, tunnel.responder.address, deadline=7.0)
    wait_ping(right, tunnel.initiator.address, deadline=7.0)


def index_of(namespace: Namespace, interface: str) -> str:
    return namespace.show("-o", "link", "show", interface).partition(":")[0]


@pytest.mark.parametrize(("initiator", "responder"), MIXED)
def test_a_link_local_endpoint_needs_its_scope(lab: Lab, initiator: str, responder: str) -> None:
    """`[fe80::2%wire0]:51820`: accepted, used for both directions, and shown with its scope."""
    tunnel = lab.tunnel(initiator, responder)
    left, right = tunnel.initiator.namespace, tunnel.responder.namespace
    left.add_address("wire0", "fe80::1/64")
    right.add_address("wire0", "fe80::2/64")
    # The scope is a name in the namespace of the one who asks.
    at = endpoint("fe80::2%wire0")
    end, other = tunnel.ends
    left.run("wg", "set", end.interface, "peer", other.public_key, "endpoint", at)
    with Capture(left, "wire0") as wire:
        wait_ping(left, other.address)
        wait_ping(right, end.address)
        assert {d.destination[0] for d in wire.datagrams()} == {"fe80::2", source_of(wire)}
    if end.implementation.name == SUBJECT:
        assert uapi_endpoint(end) in (at, at.replace("wire0", index_of(left, "wire0")))
    else:
        assert "%" in uapi_endpoint(other) or other.implementation.name != SUBJECT


def uapi_endpoint(end: End) -> str:
    # Asked for directly: `wg show` resolves scopes in the namespace it runs in.
    return dict(uapi.request(end.interface, "get=1\n\n"))["endpoint"]


def source_of(wire: Capture) -> str:
    """Of its link-local addresses an end may use any: the one the first packet came from."""
    return wire.datagrams()[0].source[0]


@FAMILIES
def test_outer_packets_carry_the_mark(lab: Lab, family: int) -> None:
    """fwmark is on handshakes and data alike, and changes under a running tunnel."""
    require("nft")
    tunnel = lab.tunnel(SUBJECT, PEER, family=family)
    end, other = tunnel.ends
    # Whatever leaves without the mark is lost.
    end.namespace.filter("output", f"udp dport {PORT} meta mark != 0x2a drop")
    end.set("fwmark", "0x2a")
    wait_ping(end.namespace, other.address)
    end.set("fwmark", "off")
    assert ping(end.namespace, other.address, wait=0.3).received == 0
    end.namespace.filter("output", f"udp dport {PORT} meta mark != 0 drop")
    assert ping(end.namespace, other.address).received == 1
