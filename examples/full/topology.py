from itertools import permutations

from testbed.capture import Capture
from testbed.network import Network
from testbed.proofs import expect, ping, ping_all, transfer
from testbed.topology import PORT_RESTRICTED, SYMMETRIC, Lan, Topology, machine

topology = Topology(
    "a bounce server, a public server, and three machines behind NATs",
    (
        machine("public-server1", "192.0.2.10", note="bounce server"),
        machine("public-server2", "198.51.100.10"),
        machine("home-router", "203.0.113.10", "192.168.1.1", nat=PORT_RESTRICTED),
        machine("home-server", "192.168.1.10"),
        machine("cafe-router", "203.0.113.20", "192.168.2.1", nat=PORT_RESTRICTED),
        machine("laptop", "192.168.2.10"),
        machine("carrier", "203.0.113.30", "100.64.0.1", nat=SYMMETRIC),
        machine("phone", "100.64.0.10"),
    ),
    lans=(Lan("home", "192.168.1.0/24"), Lan("cafe", "192.168.2.0/24"), Lan("mobile", "100.64.0.0/24")),
)

VPN = {
    "public-server1": "10.0.0.1",
    "public-server2": "10.0.0.2",
    "home-server": "10.0.0.3",
    "laptop": "10.0.0.4",
    "phone": "10.0.0.5",
}
ROUTERS = {"home-router": "203.0.113.10", "cafe-router": "203.0.113.20", "carrier": "203.0.113.30"}


@topology.claim
def everyone_reaches_everyone(net: Network) -> str:
    """Every machine reaches every other by its VPN address."""
    # A NAT-ed machine can be relayed to once its first keepalive has told the bounce server where it is.
    echoes = ping_all((net[one], VPN[other]) for one, other in permutations(VPN, 2))
    return f"{len(echoes)} ways"


@topology.claim
def direct_beats_the_relay(net: Network) -> str:
    """The more specific route wins: to public-server2 everyone goes directly, past the bounce server."""
    with Capture(net["public-server1"], "wg0") as relay:
        for name in ("home-server", "laptop", "phone"):
            echo = ping(net[name], VPN["public-server2"])
            expect(echo.ttl == 64, f"{name}: TTL {echo.ttl}: the answer was relayed")
            transfer(net[name], net["public-server2"], VPN["public-server2"], 1 << 17)
        relayed = [p for p in relay.packets() if VPN["public-server2"] in (p.source, p.destination)]
    expect(not relayed, f"relayed: {relayed[:1]}")
    return "TTL 64"


@topology.claim
def relay_carries_nat_to_nat(net: Network) -> str:
    """From NAT to NAT everything goes through the bounce server, unchanged; not one packet directly."""
    with Capture(net["public-server1"], "wg0") as relay, Capture(net["carrier"]) as wire:
        for one, other in permutations(("home-server", "laptop", "phone"), 2):
            echo = ping(net[one], VPN[other])
            expect(echo.ttl == 63, f"{one} to {other}: TTL {echo.ttl}: not relayed once")
            seen = transfer(net[one], net[other], VPN[other], 1 << 17)
            expect(seen == VPN[one], f"{other} saw {one} at {seen}")
        carried = len([p for p in relay.packets() if p.between(VPN["laptop"], VPN["phone"])])
        direct = [p for p in wire.packets() if {p.source, p.destination} <= set(ROUTERS.values())]
    expect(carried, "the bounce server saw nothing between laptop and phone")
    expect(not direct, f"directly: {direct[:1]}")
    return f"TTL 63, {carried} packets between laptop and phone"


@topology.claim
def bounce_server_knows_the_routers(net: Network) -> str:
    """The bounce server knows who is behind a NAT by the address of that NAT; it has no Endpoint for them."""
    peers = net.peers("public-server1")
    found = {name: peers[name].endpoint for name in ("home-server", "laptop", "phone")}
    for endpoint, router in zip(found.values(), ROUTERS.values(), strict=True):
        expect(endpoint.startswith(f"{router}:"), f"{found}")
    return ", ".join(f"{name} {endpoint}" for name, endpoint in found.items())


@topology.claim
def down_leaves_nothing(net: Network) -> str:
    """`wgfast down` leaves every machine as it was before `wgfast up`."""
    return net.leave_nothing()
