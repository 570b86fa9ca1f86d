import contextlib
import socket

from testbed.capture import Capture
from testbed.host import Host
from testbed.network import Network
from testbed.proofs import expect, look_up, ping_all, transfer, try_ping
from testbed.topology import NAME_SERVER, PORT_RESTRICTED, Lan, ProofError, Topology, machine

WWW = ("198.51.100.80", "2001:db8:2::80")

topology = Topology(
    "all of a laptop's traffic and its questions for names, through a server",
    (
        machine("public-server1", "192.0.2.10", "2001:db8:1::10", names=True, note="name server"),
        machine("www", *WWW),
        machine(
            "cafe-router",
            "203.0.113.20",
            "2001:db8:3::20",
            "192.168.2.1",
            "2001:db8:20::1",
            nat=PORT_RESTRICTED,
            names=True,
            note="name server",
        ),
        machine("laptop", "192.168.2.10", "2001:db8:20::10", resolver="192.168.2.1"),
    ),
    lans=(Lan("cafe", "192.168.2.0/24", "2001:db8:20::/64"),),
    names={"www.example.com": list(WWW)},
)

# The ways a tunnel's packets may take on the laptop's cable: to the server, port 51820, over IPv4 or IPv6.
TUNNEL = (("192.168.2.10", "192.0.2.10", 51820), ("2001:db8:20::10", "2001:db8:1::10", 51820))


@topology.claim
def the_web_sees_the_server(net: Network) -> str:
    """A web server sees public-server1 in the laptop's place, over IPv4 and over IPv6."""
    seen = [transfer(net["laptop"], net["www"], address) for address in WWW]
    expect(seen == ["192.0.2.10", "2001:db8:1::10"], f"it saw {seen}")
    return " and ".join(seen)


@topology.claim
def names_are_asked_inside(net: Network) -> str:
    """Names are asked for inside the tunnel, of the server; the cafe's name server hears nothing."""
    inside, cafe = net.name_servers["public-server1"], net.name_servers["cafe-router"]
    before = len(inside.queries), len(cafe.queries)
    found = look_up(net["laptop"], "www.example.com")
    asked = inside.queries[before[0] :]
    expect(sorted(found) == sorted(WWW), f"www.example.com is {found}")
    expect({query.client for query in asked} == {"10.0.0.4"}, f"asked for it: {asked}")
    expect(len(cafe.queries) == before[1], f"the cafe's heard: {cafe.queries[before[1] :]}")
    return f"{len(asked)} questions"


@topology.claim
def nothing_leaks(net: Network) -> str:
    """Not one packet and not one question goes around the tunnel."""
    with Capture(net["laptop"]) as wire:
        browse(net)
        return wire.expect_only(*TUNNEL)


@topology.claim
def nothing_leaks_without_the_server(net: Network) -> str:
    """When the server goes away, the laptop is without the internet: still nothing goes around the tunnel."""
    net.down("public-server1")
    with Capture(net["laptop"]) as wire:
        answers = [try_ping(net["laptop"], address, wait=0.3) for address in WWW]
        ask_by_address(net["laptop"], "192.0.2.53")
        expect(not any(answers), "a ping was answered")
        return wire.expect_only(*TUNNEL)


def browse(net: Network) -> None:
    """Everything that a curious web page could make the laptop send."""
    laptop = net["laptop"]
    for address in WWW:
        transfer(laptop, net["www"], address, 1 << 17)
    ping_all((laptop, address) for address in WWW)
    for name in ("www.example.com", "public-server1.example-vpn.dev"):
        look_up(laptop, name)
    with contextlib.suppress(ProofError):
        look_up(laptop, "nothing-of-that-name.example.com")
    # A program that does not care for /etc/resolv.conf.
    for server in (NAME_SERVER, "2001:db8:1::53"):
        ask_by_address(laptop, server)


def ask_by_address(host: Host, server: str) -> None:
    """Sends a name server, by its address, the question for www.example.com; nobody waits for the answer."""
    name = b"".join(bytes([len(label)]) + label for label in (b"www", b"example", b"com"))
    question = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + name + b"\x00\x00\x01\x00\x01"
    with host.entered():
        asking = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)
    with asking:
        asking.sendto(question, (server, 53))


@topology.claim
def down_leaves_nothing(net: Network) -> str:
    """`wgfast down` leaves every machine as it was before `wgfast up`."""
    return net.leave_nothing()
