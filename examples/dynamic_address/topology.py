import json

from testbed.host import Host
from testbed.network import Network
from testbed.proofs import connection, eventually, expect, ping, send, try_ping
from testbed.topology import DOMAIN, PORT_RESTRICTED, Lan, Topology, machine

NAME = f"home-server.{DOMAIN}"
BEFORE, AFTER = "203.0.113.10", "203.0.113.77"

topology = Topology(
    "a server at home whose public address changes, known by a name of dynamic DNS",
    (
        machine("home-server", BEFORE, note="dynamic address"),
        machine("cafe-router", "198.51.100.20", "192.168.2.1", nat=PORT_RESTRICTED),
        machine("laptop", "192.168.2.10"),
    ),
    lans=(Lan("cafe", "192.168.2.0/24"),),
)


@topology.claim
def laptop_finds_the_server_by_name(net: Network) -> str:
    """The laptop finds the server by its name."""
    echo = ping(net["laptop"], "10.0.0.3")
    endpoint = net.peers("laptop")["home-server"].endpoint
    expect(endpoint == f"{BEFORE}:51820", f"it is at {endpoint}")
    return f"{echo}, it is at {endpoint}"


@topology.claim
def server_moves_under_traffic(net: Network) -> str:
    """The server's address and its DNS record change under a TCP connection: the laptop finds it again, the
    connection goes on, nothing is restarted."""
    laptop, server = net["laptop"], net["home-server"]
    link = interface_number(laptop)
    with connection(laptop, server, "10.0.0.3") as ends:
        send(*ends, 1 << 18)
        move(server, BEFORE, AFTER)
        net.zone[NAME] = [AFTER]
        # The cafe's router lets in only what answers: nothing that the server sends from there can tell.
        expect(try_ping(laptop, "10.0.0.3", wait=0.5) is None, "the old address still answers")
        if not net.patient:
            net.set("laptop", "peer", net.key_of("home-server"), "endpoint", f"{NAME}:51820")
        eventually(lambda: try_ping(laptop, "10.0.0.3"), "no answer", 200 if net.patient else 8)
        send(*ends, 1 << 18)
        send(ends[1], ends[0], 1 << 18)
    endpoint = net.peers("laptop")["home-server"].endpoint
    expect(endpoint == f"{AFTER}:51820", f"it is at {endpoint}")
    expect(interface_number(laptop) == link, "wg0 was made again")
    return f"now at {endpoint}"


@topology.claim
def laptop_moves_under_traffic(net: Network) -> str:
    """When the laptop's address changes, the server notices by itself: that is roaming, and needs no name."""
    laptop, server = net["laptop"], net["home-server"]
    before = net.peers("home-server")["laptop"].endpoint
    with connection(laptop, server, "10.0.0.3") as ends:
        send(*ends, 1 << 18)
        move(laptop, "192.168.2.10", "192.168.2.99")
        send(*ends, 1 << 18)
        send(ends[1], ends[0], 1 << 18)
    return f"{before}, then {net.peers('home-server')['laptop'].endpoint}"


def move(host: Host, old: str, new: str) -> None:
    """Another address; routes that go by the old one go with it, so the default route is made again."""
    gateway = f"{new.rpartition('.')[0]}.1"
    host.batch(
        f"address del {old}/24 dev eth0",
        f"address add {new}/24 dev eth0",
        f"route replace default via {gateway}",
    )


def interface_number(host: Host) -> int:
    """Of wg0: another one if it was made again."""
    return int(json.loads(host.run("ip", "-j", "link", "show", "wg0"))[0]["ifindex"])
