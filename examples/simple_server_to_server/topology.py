from testbed.capture import Capture
from testbed.network import Network
from testbed.proofs import expect, ping, ping_all, transfer
from testbed.topology import Topology, machine

topology = Topology(
    "two public servers, each of which knows the other's address",
    (
        machine("public-server1", "192.0.2.10"),
        machine("public-server2", "198.51.100.10"),
    ),
)


@topology.claim
def either_reaches_the_other(net: Network) -> str:
    """Either server reaches the other by its VPN address, over IPv4 and IPv6."""
    one, two = net["public-server1"], net["public-server2"]
    first = ping(one, "10.0.0.2")
    ping_all([(two, "10.0.0.1"), (one, "fd00::2"), (two, "fd00::1")])
    return str(first)


@topology.claim
def tcp_arrives_unchanged(net: Network) -> None:
    """TCP carries a megabyte each way, unchanged, between the VPN addresses."""
    one, two = net["public-server1"], net["public-server2"]
    seen = transfer(one, two, "10.0.0.2")
    expect(seen == "10.0.0.1", f"public-server2 saw {seen}, not 10.0.0.1")
    transfer(two, one, "fd00::1")


@topology.claim
def only_wireguard_is_on_the_wire(net: Network) -> str:
    """Between the servers there is nothing to see but WireGuard's UDP, port 51820."""
    with Capture(net["public-server1"]) as wire:
        transfer(net["public-server1"], net["public-server2"], "10.0.0.2")
        return wire.expect_only(("192.0.2.10", "198.51.100.10", 51820))


@topology.claim
def down_leaves_nothing(net: Network) -> str:
    """`wgfast down` leaves every machine as it was before `wgfast up`."""
    return net.leave_nothing()
