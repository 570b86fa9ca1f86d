from itertools import permutations

from testbed.network import Network
from testbed.proofs import expect, ping_all
from testbed.topology import PORT_RESTRICTED, Lan, Topology, machine

topology = Topology(
    "one peers.conf for every machine",
    (
        machine("public-server1", "192.0.2.10"),
        machine("public-server2", "198.51.100.10"),
        machine("home-router", "203.0.113.10", "192.168.1.1", nat=PORT_RESTRICTED),
        machine("home-server", "192.168.1.10"),
    ),
    lans=(Lan("home", "192.168.1.0/24"),),
)

VPN = {"public-server1": "10.0.0.1", "public-server2": "10.0.0.2", "home-server": "10.0.0.3"}


@topology.claim
def own_section_is_ignored(net: Network) -> str:
    """Every machine read the same list and has all of it but itself."""
    files = {net[name].path("/etc/wireguard/peers.conf").read_bytes() for name in VPN}
    expect(len(files) == 1, "the files differ")
    for name in VPN:
        peers = set(net.peers(name))
        expect(peers == set(VPN) - {name}, f"{name} has {sorted(peers)}")
    return f"{len(VPN)} in the list, {len(VPN) - 1} peers each"


@topology.claim
def everyone_reaches_everyone(net: Network) -> str:
    """Every machine reaches every other by its VPN address, directly."""
    echoes = ping_all((net[one], VPN[other]) for one, other in permutations(VPN, 2))
    expect({echo.ttl for echo in echoes} == {64}, f"{echoes}")
    return f"{len(echoes)} ways"


@topology.claim
def down_leaves_nothing(net: Network) -> str:
    """`wgfast down` leaves every machine as it was before `wgfast up`."""
    return net.leave_nothing()
