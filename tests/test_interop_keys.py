"""Preshared keys, and keys and ports that change while traffic flows."""

from __future__ import annotations

import time

import pytest
from lab.end import End, endpoint
from lab.programs import PEER, SUBJECT, beyond_peer
from lab.topology import Lab, Tunnel, genkey, genpsk, pubkey
from lab.traffic import background_ping, ping, udp_socket, wait_ping

pytestmark = pytest.mark.lab

MIXED = [
    pytest.param(SUBJECT, PEER, id="wgfast-initiates"),
    pytest.param(PEER, SUBJECT, id="wgfast-responds"),
]
# One unlucky handshake costs REKEY_TIMEOUT (5 s) and a little jitter before the next.
RETRY = 7.0


def apart() -> None:
    """Keeps handshakes far enough apart: a second initiation of one peer within 20 ms is taken for
    a flood, and one with the same whitened time stamp for a replay; either costs a retry."""
    time.sleep(0.06)


def new_session(tunnel: Tunnel, end: End, preshared_key: str) -> None:
    """The next packet of `end` starts with a handshake: it forgets its peer and learns it anew."""
    apart()
    other = tunnel.other(end)
    at = endpoint(tunnel.outside[tunnel.ends.index(other)])
    end.set("peer", other.public_key, "remove")
    end.add_peer(other, at=at, preshared_key=preshared_key)


def ping_both_ways(tunnel: Tunnel) -> None:
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    wait_ping(tunnel.responder.namespace, tunnel.initiator.address)


@pytest.mark.parametrize(("initiator", "responder"), MIXED)
def test_ping_with_a_preshared_key(lab: Lab, initiator: str, responder: str) -> None:
    key = genpsk()
    tunnel = lab.tunnel(initiator, responder, preshared_keys=(key, key))
    ping_both_ways(tunnel)
    for end in tunnel.ends:
        assert end.show("preshared-keys") == {tunnel.other(end).public_key: key}


@pytest.mark.parametrize("lacking", [False, True], ids=["another-key", "key-on-one-side"])
@pytest.mark.parametrize(("initiator", "responder"), MIXED)
def test_a_wrong_preshared_key_means_no_handshake(
    lab: Lab, initiator: str, responder: str, lacking: bool
) -> None:
    keys = genpsk(), None if lacking else genpsk()
    tunnel = lab.tunnel(initiator, responder, preshared_keys=keys)
    echo = ping(tunnel.initiator.namespace, tunnel.responder.address, wait=0.5)
    assert echo.received == 0
    for end in tunnel.ends:
        assert end.latest_handshake(tunnel.other(end)) == 0


@pytest.mark.parametrize(("initiator", "responder"), MIXED)
def test_a_preshared_key_changes_on_a_running_tunnel(lab: Lab, initiator: str, responder: str) -> None:
    tunnel = lab.tunnel(initiator, responder)
    ping_both_ways(tunnel)
    apart()
    key = genpsk()
    for end in tunnel.ends:
        end.set_preshared_key(tunnel.other(end), key)
    # Whether the session goes on or is made anew, its user does not notice.
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address, deadline=1.0)
    wait_ping(tunnel.responder.namespace, tunnel.initiator.address, deadline=1.0)
    # A handshake from here on needs the new key.
    new_session(tunnel, tunnel.initiator, key)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address, deadline=RETRY)
    tunnel.responder.set_preshared_key(tunnel.initiator, genpsk())
    new_session(tunnel, tunnel.initiator, key)
    assert ping(tunnel.initiator.namespace, tunnel.responder.address, wait=0.5).received == 0


def change_private_key(tunnel: Tunnel, end: End, at: str | None) -> None:
    """A new key on `end`; its peer forgets the old one and learns the new one in one step."""
    other = tunnel.other(end)
    old, new = end.public_key, genkey()
    end.set_private_key(new)
    owned = f"{end.address}/32,{end.address6}/128"
    arguments = ["peer", old, "remove", "peer", pubkey(new), "allowed-ips", owned]
    other.set(*arguments, *(["endpoint", at] if at else []))


@pytest.mark.parametrize("changes", ["initiator", "responder"])
@pytest.mark.parametrize(("initiator", "responder"), MIXED)
def test_a_private_key_changes_under_traffic(lab: Lab, initiator: str, responder: str, changes: str) -> None:
    tunnel = lab.tunnel(initiator, responder)
    ping_both_ways(tunnel)
    end: End = getattr(tunnel, changes)
    other = tunnel.other(end)
    traffic = background_ping(other.namespace, end.address)
    apart()
    at = tunnel.outside[tunnel.ends.index(end)]
    change_private_key(tunnel, end, endpoint(at))
    wait_ping(other.namespace, end.address, deadline=RETRY)
    wait_ping(end.namespace, other.address, deadline=RETRY)
    assert list(other.show("latest-handshakes")) == [end.public_key]
    traffic.stop()


@pytest.mark.parametrize(("initiator", "responder"), MIXED)
def test_a_removed_peer_is_gone_at_once(lab: Lab, initiator: str, responder: str) -> None:
    tunnel = lab.tunnel(initiator, responder)
    ping_both_ways(tunnel)
    tunnel.responder.set("peer", tunnel.initiator.public_key, "remove")
    assert tunnel.responder.wg("show", "peers") == ""
    echo = ping(tunnel.initiator.namespace, tunnel.responder.address, wait=0.5)
    assert echo.received == 0


@pytest.mark.parametrize("changes", ["initiator", "responder"])
@pytest.mark.parametrize(("initiator", "responder"), MIXED)
def test_a_listen_port_changes_under_traffic(lab: Lab, initiator: str, responder: str, changes: str) -> None:
    """The end that changes goes on sending, so the other roams to its new port."""
    tunnel = lab.tunnel(initiator, responder)
    ping_both_ways(tunnel)
    end: End = getattr(tunnel, changes)
    other = tunnel.other(end)
    traffic = background_ping(end.namespace, other.address)
    end.set("listen-port", "51999")
    assert end.wg("show", "listen-port").strip() == "51999"
    address = tunnel.outside[tunnel.ends.index(end)]
    other.wait_endpoint(end, address, 51999)
    wait_ping(other.namespace, end.address, deadline=1.0)
    traffic.stop()


@beyond_peer("is left without a socket")
def test_a_listen_port_in_use_is_refused(lab: Lab) -> None:
    """`wg set` says so, and the tunnel goes on at the port it had."""
    tunnel = lab.tunnel(SUBJECT, PEER)
    ping_both_ways(tunnel)
    with udp_socket(tunnel.initiator.namespace, "0.0.0.0", 5301):
        assert tunnel.initiator.try_wg("set", "listen-port", "5301").returncode != 0
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)


def test_a_public_key_of_its_own_is_not_a_peer(lab: Lab) -> None:
    """As in every implementation, a device that is given its own key as a peer leaves it out."""
    tunnel = lab.tunnel(SUBJECT, PEER)
    tunnel.initiator.set("peer", tunnel.initiator.public_key, "allowed-ips", "10.1.0.0/16")
    assert tunnel.initiator.wg("show", "peers").split() == [tunnel.responder.public_key]
    ping_both_ways(tunnel)
