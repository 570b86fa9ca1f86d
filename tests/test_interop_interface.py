"""The interface as an ordinary one: moved, resized, taken down, and under wg-quick."""

from __future__ import annotations

import pytest
from lab import uapi
from lab.end import PORT, End, endpoint
from lab.namespace import Namespace
from lab.process import TOKEN_VARIABLE, wait_until
from lab.programs import PEER, SUBJECT, require
from lab.topology import Lab, Tunnel
from lab.traffic import ping, transfer, wait_ping

pytestmark = pytest.mark.lab

HEADERS = 28  # of IPv4 and ICMP


def moved_tunnel(lab: Lab, subject_initiates: bool) -> tuple[Tunnel, Namespace]:
    """wgfast's interface is moved as soon as its command returns; its UDP socket stays behind."""
    left, right = lab.cabled()
    end, other = lab.end(left, SUBJECT), lab.end(right, PEER)
    inner = lab.namespace("inner")
    assert end.daemonise() == 0
    left.ip(f"link set {end.interface} netns {inner.name}")
    other.start()
    end.up(namespace=inner)
    other.up()
    outside = ("192.0.2.2", "192.0.2.1")
    end.add_peer(other, at=endpoint(outside[0]) if subject_initiates else None)
    other.add_peer(end, at=None if subject_initiates else endpoint(outside[1]))
    first, second = (end, other) if subject_initiates else (other, end)
    return Tunnel(first, second, 4), inner


@pytest.mark.parametrize("subject_initiates", [True, False], ids=["initiates", "responds"])
def test_it_works_in_another_namespace(lab: Lab, subject_initiates: bool) -> None:
    tunnel, inner = moved_tunnel(lab, subject_initiates)
    end = tunnel.initiator if subject_initiates else tunnel.responder
    other = tunnel.other(end)
    if subject_initiates:
        wait_ping(inner, other.address)
    wait_ping(other.namespace, end.address)
    wait_ping(inner, other.address6)
    transfer(inner, other.namespace, other.address)
    # Nothing of the daemon listens where the interface went.
    assert f":{PORT:04X}" not in inner.run("cat", "/proc/net/udp", "/proc/net/udp6").stdout
    inner.ip(f"link del {end.interface}")
    wait_until(lambda: not end.pids, "the daemon has ended")
    assert not uapi.socket_path(end.interface).exists()


def test_moving_at_once_never_loses_the_race(lab: Lab) -> None:
    """wireguard-go now and then misses that its interface went up elsewhere; ten times in a row."""
    born, inner = lab.namespace("born"), lab.namespace("inner")
    for _ in range(10):
        end = lab.end(born, SUBJECT)
        assert end.daemonise() == 0
        born.ip(f"link set {end.interface} netns {inner.name}")
        inner.ip(f"link set {end.interface} up")
        end.set("listen-port", str(PORT + 1))
        wait_until(
            lambda: f":{PORT + 1:04X}" in born.run("cat", "/proc/net/udp").stdout,
            "its UDP socket is open where it was born",
        )
        inner.ip(f"link del {end.interface}")
        end.wait_gone()


@pytest.mark.parametrize("moved", [False, True], ids=["at-home", "moved"])
def test_a_change_of_mtu_is_followed(lab: Lab, moved: bool) -> None:
    if moved:
        tunnel, place = moved_tunnel(lab, subject_initiates=True)
    else:
        tunnel = lab.tunnel(SUBJECT, PEER)
        place = tunnel.initiator.namespace
    end, other = tunnel.ends
    wait_ping(place, other.address)
    for mtu in (9000, 1280, 20001, 1420):
        place.ip(f"link set {end.interface} mtu {mtu}")
        other.namespace.ip(f"link set {other.interface} mtu {mtu}")
        # Every size up to the new limit at once, and a stream of packets of that size.
        for size in (mtu - HEADERS, mtu - HEADERS - 7, 100):
            wait_ping(place, other.address, size=size, deadline=2.0)
            wait_ping(other.namespace, end.address, size=size, deadline=2.0)
        transfer(place, other.namespace, other.address, amount=1 << 20)


def test_the_mtu_of_one_end_alone(lab: Lab) -> None:
    """It limits what that end sends; what a peer with a larger one sends is delivered."""
    tunnel = lab.tunnel(SUBJECT, PEER)
    tunnel.responder.namespace.ip(f"link set {tunnel.responder.interface} mtu 4000")
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    echo = ping(tunnel.responder.namespace, tunnel.initiator.address, size=3000)
    assert echo.received == 1, echo.output


def test_an_interface_down_and_up_again(lab: Lab) -> None:
    tunnel = lab.tunnel(PEER, SUBJECT)
    end, other = tunnel.responder, tunnel.initiator
    wait_ping(other.namespace, end.address)
    end.namespace.ip(f"link set {end.interface} down")
    assert ping(other.namespace, end.address, wait=0.3).received == 0
    assert uapi.answers(end.interface)
    end.set("peer", other.public_key, "endpoint", endpoint(tunnel.outside[0]))
    end.namespace.ip(f"link set {end.interface} up")
    wait_ping(end.namespace, other.address, deadline=7.0)
    wait_ping(other.namespace, end.address)
    assert end.wg("show", "listen-port").strip() == str(PORT)


def quick_configuration(end: End, other: End, allowed_ips: str, more: str = "") -> str:
    return (
        f"[Interface]\nPrivateKey = {end.private_key}\n"
        f"Address = {end.address}/24, {end.address6}/64\n{more}"
        f"\n[Peer]\nPublicKey = {other.public_key}\nAllowedIPs = {allowed_ips}\n"
        f"Endpoint = 192.0.2.2:{PORT}\n"
    )


class Quick:
    """`wg-quick` that knows no implementation but the one under test."""

    def __init__(self, lab: Lab, end: End, text: str) -> None:
        self.end = end
        # The file's name is the interface's.
        self.path = lab.directory / f"{end.interface}.conf"
        self.path.touch(mode=0o600)
        self.path.write_text(text)
        self.env = {
            "WG_QUICK_USERSPACE_IMPLEMENTATION": end.implementation.executable(lab.directory),
            TOKEN_VARIABLE: end.interface,
        }

    def __call__(self, command: str) -> None:
        # Its output goes to a file: the daemon it starts would keep a pipe open.
        process = self.end.namespace.spawn("wg-quick", command, str(self.path), env=self.env)
        assert process.wait(15) == 0, process.output


# The whole of IPv4 makes wg-quick use a mark, rules of its own and nftables.
@pytest.mark.parametrize(
    "allowed_ips", ["10.77.0.0/24, fd77::/64", "0.0.0.0/0, ::/0"], ids=["one-net", "default-route"]
)
def test_wg_quick_up_and_down(lab: Lab, allowed_ips: str) -> None:
    require("wg-quick", "nft")
    left, right = lab.cabled()
    end, other = lab.end(left, SUBJECT), lab.end(right, PEER)
    other.start()
    other.up()
    other.add_peer(end)
    other.namespace.add_address("lo", "198.51.100.1/32")
    quick = Quick(lab, end, quick_configuration(end, other, allowed_ips))
    for _ in range(2):
        quick("up")
        wait_ping(left, other.address)
        wait_ping(left, other.address6)
        if allowed_ips.startswith("0"):
            assert end.wg("show", "fwmark").strip() != "off"
            wait_ping(left, "198.51.100.1")
        assert "mtu 1420 " in left.show("link", "show", end.interface)
        quick("down")
        end.wait_gone()


def test_wg_quick_save_keeps_the_configuration(lab: Lab) -> None:
    require("wg-quick")
    left, right = lab.cabled()
    end, other = lab.end(left, SUBJECT), lab.end(right, PEER)
    text = quick_configuration(end, other, "10.77.0.0/24", "SaveConfig = true\n")
    quick = Quick(lab, end, text)
    quick("up")
    end.set("peer", other.public_key, "persistent-keepalive", "21")
    quick("down")
    end.wait_gone()
    saved = quick.path.read_text()
    assert "PersistentKeepalive = 21" in saved
    assert end.private_key in saved
    quick("up")
    assert end.show("persistent-keepalive") == {other.public_key: "21"}
    quick("down")
    end.wait_gone()
