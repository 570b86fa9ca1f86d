import json

from testbed.capture import Capture
from testbed.network import Network
from testbed.proofs import expect, ping, transfer, try_ping
from testbed.topology import Topology, machine

topology = Topology(
    "an interface made on a host and moved into a container that has nothing else",
    (
        machine("public-server1", "192.0.2.10"),
        machine("home-server", "203.0.113.10"),
        machine("container", inside="home-server", note="wg0 10.0.0.3/32, moved here"),
    ),
)


@topology.claim
def container_has_nothing_else(net: Network) -> str:
    """The container has the tunnel's interface and nothing else; its host has it no longer."""
    links = {link["ifname"] for link in json.loads(net["container"].run("ip", "-j", "link"))} - {"lo"}
    expect(links == {"wg0"}, f"the container has {sorted(links)}")
    links = {link["ifname"] for link in json.loads(net["home-server"].run("ip", "-j", "link"))}
    expect("wg0" not in links, "wg0 is still on its host")
    return "wg0"


@topology.claim
def tunnel_works_from_inside(net: Network) -> str:
    """Packets go in and out through the tunnel, whose own UDP is sent by the host."""
    with Capture(net["home-server"]) as wire:
        echo = ping(net["container"], "10.0.0.1")
        seen = transfer(net["container"], net["public-server1"], "10.0.0.1")
        transfer(net["public-server1"], net["container"], "10.0.0.3")
        # An address of the internet, not of the VPN: there is no other way out.
        outside = transfer(net["container"], net["public-server1"], "192.0.2.10")
        wire.expect_only(("203.0.113.10", "192.0.2.10", 51820))
    expect(seen == outside == "10.0.0.3", f"the server saw {seen} and {outside}")
    return str(echo)


@topology.claim
def host_is_not_in_the_vpn(net: Network) -> None:
    """The host, though it runs the tunnel, is not in the VPN."""
    expect(try_ping(net["home-server"], "10.0.0.1", wait=0.5) is None, "the host reaches 10.0.0.1")


@topology.claim
def down_leaves_nothing(net: Network) -> str:
    """`wgfast down` leaves every machine as it was before `wgfast up`; the container is gone with it."""
    return net.leave_nothing()
