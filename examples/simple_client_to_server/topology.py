import time

from testbed.network import Network
from testbed.proofs import eventually, expect, ping, transfer, try_ping
from testbed.topology import PORT_RESTRICTED, Lan, Topology, machine

topology = Topology(
    "a laptop behind a NAT and a public server",
    (
        machine("public-server1", "192.0.2.10"),
        machine("cafe-router", "203.0.113.20", "192.168.2.1", nat=PORT_RESTRICTED),
        machine("laptop", "192.168.2.10"),
    ),
    lans=(Lan("cafe", "192.168.2.0/24"),),
)


@topology.claim
def laptop_reaches_server(net: Network) -> str:
    """The laptop reaches the server by its VPN address, and the server finds out where the laptop is."""
    echo = ping(net["laptop"], "10.0.0.1")
    endpoint = net.peers("public-server1")["laptop"].endpoint
    expect(endpoint.startswith("203.0.113.20:"), f"the server knows it at {endpoint}")
    return f"{echo}, it is at {endpoint}"


@topology.claim
def server_opens_connections(net: Network) -> None:
    """TCP connections may be opened from either side, though only one of them can be called."""
    seen = transfer(net["laptop"], net["public-server1"], "10.0.0.1")
    expect(seen == "10.0.0.4", f"the server saw {seen}, not 10.0.0.4")
    transfer(net["public-server1"], net["laptop"], "10.0.0.4")


@topology.claim
def keepalive_holds_the_door_open(net: Network) -> None:
    """With PersistentKeepalive the server can speak first after a silence longer than the NAT's memory;
    without, it cannot."""
    server, laptop = net["public-server1"], net["laptop"]
    silence = 2.5
    net.forget_flows_after("cafe-router", 2)
    for seconds in ("off", "1"):
        net.set("laptop", "peer", net.key_of("public-server1"), "persistent-keepalive", seconds)
        ping(laptop, "10.0.0.1")
        # It is the passing of time that is the matter here.
        time.sleep(silence)
        answered = try_ping(server, "10.0.0.4", wait=0.5) is not None
        expect(answered == (seconds != "off"), f"keepalive {seconds}: answered: {answered}")
    eventually(lambda: try_ping(server, "10.0.0.4"), "no answer")


@topology.claim
def down_leaves_nothing(net: Network) -> str:
    """`wgfast down` leaves every machine as it was before `wgfast up`."""
    return net.leave_nothing()
