"""Cryptokey routing: who owns which inner address, and what happens when nobody does."""

from __future__ import annotations

import ipaddress
import re
import time

import pytest
from lab.capture import Capture, addresses
from lab.end import End, endpoint
from lab.namespace import Namespace, cable
from lab.process import alive, cpu_seconds, wait_until
from lab.programs import PEER, SUBJECT, beyond_peer
from lab.topology import Lab
from lab.traffic import background_ping, ping, wait_ping

pytestmark = pytest.mark.lab

# The wide peer owns a net, the narrow one a single address inside it.
WIDE = {4: "10.77.1.0/24", 6: "fd77:0:0:1::/64"}
IN_WIDE = {4: "10.77.1.5", 6: "fd77:0:0:1::5"}
NARROW = {4: "10.77.1.9", 6: "fd77:0:0:1::9"}
HUB = {4: "10.77.0.1", 6: "fd77::1"}
HOST = {4: 32, 6: 128}
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["inside-ipv4", "inside-ipv6"])
ROLES = [
    pytest.param(SUBJECT, PEER, id="wgfast-hub"),
    pytest.param(PEER, SUBJECT, id="wireguard-go-hub"),
]


def leaf(lab: Lab, hub_side: Namespace, hub: End, role: str, number: int) -> End:
    """An end on a cable of its own to the hub, which knows the hub but is not known by it yet."""
    side = lab.namespace(f"leaf{number}")
    cable(hub_side, f"to{number}", side, "wire0")
    hub_side.add_address(f"to{number}", f"192.0.{number}.1/24")
    side.add_address("wire0", f"192.0.{number}.2/24")
    end = lab.end(side, role, number)
    end.start()
    end.up()
    end.namespace.ip(*(f"route add {net} dev {end.interface}" for net in WIDE.values()))
    everything = ["10.77.0.0/16", "fd77::/48"]
    end.add_peer(hub, allowed_ips=everything, at=endpoint(f"192.0.{number}.1"))
    return end


def star(lab: Lab, hub_role: str, leaf_role: str) -> tuple[End, End, End]:
    """A hub, the peer that owns WIDE and the peer that owns NARROW."""
    side = lab.namespace("hub")
    hub = lab.end(side, hub_role, 1)
    hub.start()
    hub.up()
    hub.namespace.ip(*(f"route add {net} dev {hub.interface}" for net in WIDE.values()))
    wide, narrow = (leaf(lab, side, hub, leaf_role, number) for number in (2, 3))
    for end, inside in ((wide, IN_WIDE), (narrow, NARROW)):
        end.namespace.add_address(end.interface, *(f"{inside[f]}/{HOST[f]}" for f in (4, 6)))
    hub.add_peer(wide, allowed_ips=list(WIDE.values()), at=endpoint("192.0.2.2"))
    exact = [f"{NARROW[family]}/{HOST[family]}" for family in (4, 6)]
    hub.add_peer(narrow, allowed_ips=exact, at=endpoint("192.0.3.2"))
    return hub, wide, narrow


def pairs_seen(capture: Capture) -> list[tuple[str, str]]:
    return [addresses(packet) for packet in capture.packets()]


@FAMILIES
@pytest.mark.parametrize(("hub_role", "leaf_role"), ROLES)
def test_the_more_specific_prefix_wins(lab: Lab, hub_role: str, leaf_role: str, family: int) -> None:
    hub, wide, narrow = star(lab, hub_role, leaf_role)
    with (
        Capture(wide.namespace, wide.interface) as at_wide,
        Capture(narrow.namespace, narrow.interface) as at_narrow,
    ):
        wait_ping(hub.namespace, IN_WIDE[family])
        wait_ping(hub.namespace, NARROW[family])
        assert {IN_WIDE[family], HUB[family]} == set(sum(pairs_seen(at_wide), ()))
        assert {NARROW[family], HUB[family]} == set(sum(pairs_seen(at_narrow), ()))


@FAMILIES
@pytest.mark.parametrize(("hub_role", "leaf_role"), ROLES)
def test_a_packet_from_the_wrong_peer_is_dropped(
    lab: Lab, hub_role: str, leaf_role: str, family: int
) -> None:
    """WIDE's owner may not speak for the address inside it that belongs to another peer."""
    hub, wide, narrow = star(lab, hub_role, leaf_role)
    wait_ping(wide.namespace, HUB[family], source=IN_WIDE[family])
    wait_ping(narrow.namespace, HUB[family], source=NARROW[family])
    stranger = {4: "10.99.0.1", 6: "fd99::1"}[family]
    wide.namespace.add_address(
        wide.interface, f"{NARROW[family]}/{HOST[family]}", f"{stranger}/{HOST[family]}"
    )
    with Capture(hub.namespace, hub.interface) as at_hub:
        for source in (NARROW[family], stranger):
            echo = ping(wide.namespace, HUB[family], source=source, wait=0.2)
            assert (echo.sent, echo.received) == (1, 0)
        # A packet sent after them shows that they would have arrived by now.
        wait_ping(wide.namespace, HUB[family], source=IN_WIDE[family])
        sources = {source for source, _ in pairs_seen(at_hub)}
    assert sources == {IN_WIDE[family], HUB[family]}


@FAMILIES
def test_an_address_moves_from_one_peer_to_the_other(lab: Lab, family: int) -> None:
    """Given to another peer, an allowed IP is that peer's with the next packet, and comes back."""
    hub, wide, narrow = star(lab, SUBJECT, PEER)
    address = NARROW[family]
    wide.namespace.add_address(wide.interface, f"{address}/{HOST[family]}")
    for owner, loser in ((narrow, wide), (wide, narrow), (narrow, wide)):
        nets = [f"{address}/{HOST[family]}"] + ([WIDE[family]] if owner is wide else [])
        hub.set("peer", owner.public_key, "allowed-ips", ",".join(nets))
        with Capture(loser.namespace, loser.interface) as elsewhere:
            wait_ping(hub.namespace, address)
            assert not elsewhere.packets()
        assert f"{address}/{HOST[family]}" not in hub.show("allowed-ips")[loser.public_key].split()


@beyond_peer("does not say so")
@FAMILIES
def test_a_destination_that_no_peer_owns_is_unreachable(lab: Lab, family: int) -> None:
    """The sender hears of it by ICMP at once."""
    tunnel = lab.tunnel(SUBJECT, PEER)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    nowhere = {4: "10.77.0.200", 6: "fd77::200"}[family]
    began = time.monotonic()
    echo = ping(tunnel.initiator.namespace, nowhere, wait=3)
    assert echo.unreachable, echo.output
    assert time.monotonic() - began < 1
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address, deadline=1.0)


@beyond_peer("does not say so")
@FAMILIES
def test_a_peer_without_an_endpoint_is_unreachable(lab: Lab, family: int) -> None:
    """As in Linux: with nobody to shake hands with there is nothing to wait for."""
    tunnel = lab.tunnel(PEER, SUBJECT)
    initiator = tunnel.initiator
    echo = ping(tunnel.responder.namespace, initiator.address if family == 4 else initiator.address6, wait=3)
    assert echo.unreachable, echo.output


@beyond_peer("encrypts its own packets until they are too large")
def test_an_endpoint_that_routes_into_its_own_tunnel(lab: Lab) -> None:
    """No storm, no crash, and a log that names the peer; when the route is right it works again."""
    tunnel = lab.tunnel(SUBJECT, PEER)
    end = tunnel.initiator
    outside = tunnel.outside[1]
    end.set("peer", tunnel.responder.public_key, "allowed-ips", "0.0.0.0/0,::/0")
    wait_ping(end.namespace, tunnel.responder.address)
    before = len(end.log)
    # A live session and then the route: each packet sent would come back to be sent again.
    routes = ("default", f"{outside}/32")
    end.namespace.ip(*(f"route add {route} dev {end.interface}" for route in routes))
    traffic = background_ping(end.namespace, tunnel.responder.address, interval=0.01)
    pid, began, cpu = end.pid, time.monotonic(), cpu_seconds(end.pid)
    time.sleep(1.5)  # a span over which processor time is measured
    used = (cpu_seconds(pid) - cpu) / (time.monotonic() - began)
    assert used < 0.3, f"{used:.0%} of a core"
    traffic.stop()
    assert alive(pid)
    said = end.log[before:]
    assert tunnel.responder.public_key[:4] in said
    assert re.search(r"loop|own tunnel|itself", said, re.IGNORECASE), said[-2000:]
    end.namespace.ip(f"route del {outside}/32 dev {end.interface}")
    wait_ping(end.namespace, tunnel.responder.address, deadline=7.0)


def test_a_default_route_without_a_mark(lab: Lab) -> None:
    """The endpoint is behind the default route that points into the tunnel: no handshake either."""
    left, right = lab.cabled()
    end = lab.end(left, SUBJECT)
    other = lab.end(right, PEER)
    end.start()
    end.up()
    end.add_peer(other, allowed_ips=["0.0.0.0/0", "::/0"], at=endpoint("203.0.113.9"))
    left.ip(f"route add default dev {end.interface}")
    traffic = background_ping(left, "198.51.100.1", interval=0.01)
    cpu = cpu_seconds(end.pid)
    wait_until(lambda: other.public_key[:4] in end.log, "the log names the peer")
    time.sleep(1.0)  # a span over which processor time is measured
    assert cpu_seconds(end.pid) - cpu < 0.4
    traffic.stop()
    assert end.wg("show", "peers").strip() == other.public_key


@FAMILIES
def test_allowed_ips_are_masked_and_longest_match(lab: Lab, family: int) -> None:
    """Host bits do not matter, and a prefix that is removed uncovers the one around it."""
    hub, wide, narrow = star(lab, SUBJECT, PEER)
    net = ipaddress.ip_network(WIDE[family])
    sloppy = f"{IN_WIDE[family]}/{net.prefixlen}"
    hub.set("peer", wide.public_key, "allowed-ips", sloppy)
    assert hub.show("allowed-ips")[wide.public_key] == str(net)
    hub.set("peer", narrow.public_key, "remove")
    wide.namespace.add_address(wide.interface, f"{NARROW[family]}/{HOST[family]}")
    wait_ping(hub.namespace, NARROW[family])
