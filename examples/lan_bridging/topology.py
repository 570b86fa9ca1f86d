import contextlib
from itertools import permutations

from testbed.capture import Capture
from testbed.network import Network
from testbed.proofs import expect, ping_all, transfer
from testbed.topology import PORT_RESTRICTED, Lan, Topology, machine

topology = Topology(
    "the LANs of three sites, whose machines know nothing of WireGuard",
    (
        machine("public-server1", "192.0.2.10", "192.168.1.1", note="gateway of its LAN"),
        machine("database", "192.168.1.20"),
        machine("public-server2", "198.51.100.10", "192.168.2.1", note="gateway of its LAN"),
        machine("desktop", "192.168.2.20"),
        machine("home-router", "203.0.113.10", "192.168.3.1", nat=PORT_RESTRICTED),
        machine("home-server", "192.168.3.10"),
        machine("printer", "192.168.3.20", routes=("192.168.0.0/16 via 192.168.3.10",)),
    ),
    lans=(
        Lan("datacentre", "192.168.1.0/24"),
        Lan("office", "192.168.2.0/24"),
        Lan("home", "192.168.3.0/24"),
    ),
)

PLAIN = {"database": "192.168.1.20", "desktop": "192.168.2.20", "printer": "192.168.3.20"}
OUTSIDE = {
    "public-server1": "192.0.2.10",
    "public-server2": "198.51.100.10",
    "home-router": "203.0.113.10",
}


@topology.claim
def every_site_reaches_every_other(net: Network) -> str:
    """A machine of each LAN reaches one of each other, through the two gateways and nothing else."""
    echoes = ping_all((net[one], PLAIN[other]) for one, other in permutations(PLAIN, 2))
    passed = {64 - echo.ttl for echo in echoes}
    expect(passed == {2}, f"routers on the way: {passed}")
    return f"{len(echoes)} ways"


@topology.claim
def addresses_stay_what_they_are(net: Network) -> None:
    """Nothing is translated on the way: TCP arrives from the address of the machine that sent it."""
    for one, other in permutations(PLAIN, 2):
        seen = transfer(net[one], net[other], PLAIN[other], 1 << 17)
        expect(seen == PLAIN[one], f"{other} saw {one} at {seen}")


@topology.claim
def the_internet_sees_wireguard_only(net: Network) -> str:
    """Between the sites there is nothing to see but WireGuard's UDP."""
    ends = list(OUTSIDE.values())
    known = [(one, other, 51820) for one, other in permutations(ends, 2)]
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Capture(net[name])) for name in OUTSIDE]
        for one, other in permutations(PLAIN, 2):
            transfer(net[one], net[other], PLAIN[other], 1 << 17)
        seen = [wire.expect_only(*known) for wire in wires]
    return f"on the first of three cables {seen[0]}"


@topology.claim
def down_leaves_nothing(net: Network) -> str:
    """`wgfast down` leaves every machine as it was before `wgfast up`."""
    return net.leave_nothing()
