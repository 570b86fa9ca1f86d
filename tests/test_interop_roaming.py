"""Ends that move: another address, another way, a NAT that forgets."""

from __future__ import annotations

import time

import pytest
from lab.end import PORT, End, endpoint
from lab.namespace import cable
from lab.programs import PEER, SUBJECT, require
from lab.topology import PREFIX, Lab, Tunnel
from lab.traffic import background_ping, ping, wait_ping

pytestmark = pytest.mark.lab

MIXED = [
    pytest.param(SUBJECT, PEER, id="wgfast-initiates"),
    pytest.param(PEER, SUBJECT, id="wgfast-responds"),
]
NEW = {4: "192.0.2.77", 6: "2001:db8::77"}


@pytest.mark.parametrize("mover", ["initiator", "responder"])
@pytest.mark.parametrize("family", [4, 6], ids=["outside-ipv4", "outside-ipv6"])
@pytest.mark.parametrize(("initiator", "responder"), MIXED)
def test_an_address_changes_under_ping(
    lab: Lab, initiator: str, responder: str, family: int, mover: str
) -> None:
    """The mover's next packet leaves from its new address, and the other end follows it."""
    tunnel = lab.tunnel(initiator, responder, family=family)
    end: End = getattr(tunnel, mover)
    other = tunnel.other(end)
    old = tunnel.outside[tunnel.ends.index(end)]
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    other.wait_endpoint(end, old)
    traffic = background_ping(end.namespace, other.address)
    end.namespace.add_address("wire0", f"{NEW[family]}/{PREFIX[family]}")
    end.namespace.remove_address("wire0", f"{old}/{PREFIX[family]}")
    if end.implementation.name == PEER:
        # Since Linux 6.x a vanished IPv4 source gives ENETUNREACH, and wireguard-go then keeps it
        # until it is told the endpoint anew. What is asked here is whether wgfast follows.
        at = tunnel.outside[tunnel.ends.index(other)]
        end.set("peer", other.public_key, "endpoint", endpoint(at))
    other.wait_endpoint(end, NEW[family])
    wait_ping(other.namespace, end.address)
    traffic.stop()


@pytest.mark.parametrize(("initiator", "responder"), MIXED)
def test_an_end_moves_from_ipv4_to_ipv6(lab: Lab, initiator: str, responder: str) -> None:
    """Its own endpoint for the peer is set anew; the peer follows from one family to the other."""
    tunnel = lab.tunnel(initiator, responder)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    tunnel.initiator.set("peer", tunnel.responder.public_key, "endpoint", "[2001:db8::2]:51820")
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    tunnel.responder.wait_endpoint(tunnel.initiator, "2001:db8::1")
    wait_ping(tunnel.responder.namespace, tunnel.initiator.address)
    assert tunnel.initiator.endpoint_of(tunnel.responder) == ("2001:db8::2", PORT)


# The mapping lives two seconds; a keepalive each second keeps it.
MAPPING_SECONDS = 2
NAT_RULES = """
table inet nat {
    chain out { type nat hook postrouting priority srcnat; oifname "outer" masquerade; }
    chain in {
        type filter hook input priority filter;
        # Without this the router's own answer to a stray packet would make a mapping of its own.
        iifname "outer" meta l4proto udp drop
    }
}
"""


def behind_nat(lab: Lab, client_role: str, server_role: str, keepalive: int) -> Tunnel:
    """client -- router that masquerades -- server; only the client can be the initiator."""
    require("nft")
    client_side, router, server_side = map(lab.namespace, ("client", "router", "server"))
    cable(client_side, "wire0", router, "inner")
    cable(router, "outer", server_side, "wire0")
    client_side.add_address("wire0", "172.16.0.2/24")
    client_side.ip("route add default via 172.16.0.1")
    router.add_address("inner", "172.16.0.1/24")
    router.add_address("outer", "192.0.2.1/24")
    server_side.add_address("wire0", "192.0.2.2/24")
    router.nft(NAT_RULES)
    router.sysctl("net/ipv4/ip_forward", 1)
    for timeout in ("udp_timeout", "udp_timeout_stream"):
        router.sysctl(f"net/netfilter/nf_conntrack_{timeout}", MAPPING_SECONDS)
    tunnel = Tunnel(lab.end(client_side, client_role), lab.end(server_side, server_role), 4)
    for end in tunnel.ends:
        end.start()
        end.up()
    tunnel.responder.add_peer(tunnel.initiator)
    tunnel.initiator.add_peer(tunnel.responder, at=endpoint("192.0.2.2"), keepalive=keepalive)
    return tunnel


@pytest.mark.parametrize(("client", "server"), MIXED)
def test_persistent_keepalive_keeps_a_nat_mapping(lab: Lab, client: str, server: str) -> None:
    """Without it the server cannot reach the client once the mapping is gone; with it, it can."""
    tunnel = behind_nat(lab, client, server, keepalive=0)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    assert tunnel.responder.endpoint_of(tunnel.initiator)[0] == "192.0.2.1"
    time.sleep(MAPPING_SECONDS + 0.5)  # nothing passes, so the mapping expires
    inward = ping(tunnel.responder.namespace, tunnel.initiator.address, wait=0.5)
    assert inward.received == 0
    tunnel.initiator.set("peer", tunnel.responder.public_key, "persistent-keepalive", "1")
    # Switched on, it sends at once: that alone opens the way again.
    wait_ping(tunnel.responder.namespace, tunnel.initiator.address, deadline=2.0)
    time.sleep(MAPPING_SECONDS + 0.5)  # only keepalives pass, and they renew it
    inward = ping(tunnel.responder.namespace, tunnel.initiator.address, wait=0.5)
    assert inward.received == 1, inward.output


@pytest.mark.parametrize(("client", "server"), MIXED)
def test_persistent_keepalive_makes_the_first_handshake(lab: Lab, client: str, server: str) -> None:
    """A client that has nothing to send is reachable all the same."""
    tunnel = behind_nat(lab, client, server, keepalive=1)
    wait_ping(tunnel.responder.namespace, tunnel.initiator.address, deadline=3.0)
