from testbed.capture import Capture
from testbed.network import Network
from testbed.proofs import eventually, expect, ping, ping_all, transfer, try_ping
from testbed.topology import PORT_RESTRICTED, SYMMETRIC, Lan, Topology, machine

HOME, CAFE, CARRIER = "203.0.113.10", "198.51.100.20", "203.0.113.30"
PORT = 12000

topology = Topology(
    "two machines behind NATs, directly where the NATs allow it, else through a relay",
    (
        machine("public-server1", "192.0.2.10", note="bounce server"),
        machine("home-router", HOME, "192.168.1.1", nat=PORT_RESTRICTED),
        machine("home-server", "192.168.1.10"),
        machine("cafe-router", CAFE, "192.168.2.1", nat=PORT_RESTRICTED),
        machine("laptop", "192.168.2.10"),
        machine("carrier", CARRIER, "100.64.0.1", nat=SYMMETRIC),
        machine("phone", "100.64.0.10"),
    ),
    lans=(Lan("home", "192.168.1.0/24"), Lan("cafe", "192.168.2.0/24"), Lan("mobile", "100.64.0.0/24")),
)


@topology.claim
def holes_are_punched(net: Network) -> str:
    """home-server and laptop, both behind NATs that keep the port, reach one another directly."""
    with Capture(net["home-router"]) as wire:
        echoes = ping_all([(net["laptop"], "10.0.0.3"), (net["home-server"], "10.0.0.4")])
        seen = transfer(net["laptop"], net["home-server"], "10.0.0.3")
        transfer(net["home-server"], net["laptop"], "10.0.0.4")
        direct = [p for p in wire.packets() if p.between(HOME, CAFE) and p.ports == (PORT, PORT)]
    expect({echo.ttl for echo in echoes} == {64}, f"relayed: {echoes}")
    expect(seen == "10.0.0.4", f"home-server saw {seen}")
    expect(len(direct) > 100, f"{len(direct)} packets between the two routers")
    return f"{len(direct)} packets from port {PORT} to port {PORT}"


@topology.claim
def a_symmetric_nat_prevents_it(net: Network) -> str:
    """home-server and phone do not, as the phone's NAT sends from a port that nobody can know beforehand."""
    with Capture(net["home-router"]) as wire:

        def tries() -> tuple[int, int] | None:
            calls = [p for p in wire.packets() if p.between(HOME, CARRIER) and p.protocol == 17]
            from_phone = [p for p in calls if p.source == CARRIER]
            expect(all(p.ports[0] != PORT for p in from_phone), "the phone's NAT kept the port")
            to_phone = [p for p in calls if p.destination == CARRIER]
            return (len(from_phone), len(to_phone)) if from_phone and to_phone else None

        # Either side calls again every five seconds.
        tried = eventually(tries, "one of the sides did not call the other", 12)
        answers = [try_ping(net["home-server"], "10.0.0.5"), try_ping(net["phone"], "10.0.0.3")]
    expect(not any(answers), f"a ping was answered: {answers}")
    shaken = net.peers("home-server")["phone"].handshake, net.peers("phone")["home-server"].handshake
    expect(shaken == (0, 0), "there was a handshake")
    return f"the phone called {tried[0]} times, home-server {tried[1]} times; no handshake"


@topology.claim
def the_relay_takes_over(net: Network) -> str:
    """Without each other in their lists they fall back to the relay's broader route, and it works."""
    for one, other in (("home-server", "phone"), ("phone", "home-server")):
        net.set(one, "peer", net.key_of(other), "remove")
    echoes = ping_all([(net["home-server"], "10.0.0.5"), (net["phone"], "10.0.0.3")])
    expect({echo.ttl for echo in echoes} == {63}, f"not relayed once: {echoes}")
    with Capture(net["home-router"]) as wire:
        transfer(net["phone"], net["home-server"], "10.0.0.3")
        direct = [p for p in wire.packets() if p.between(HOME, CARRIER) and p.protocol == 17]
    expect(not direct, f"directly: {direct[:1]}")
    still = ping(net["laptop"], "10.0.0.3")
    expect(still.ttl == 64, "laptop and home-server are no longer direct")
    return "TTL 63"


@topology.claim
def down_leaves_nothing(net: Network) -> str:
    """`wgfast down` leaves every machine as it was before `wgfast up`."""
    return net.leave_nothing()
