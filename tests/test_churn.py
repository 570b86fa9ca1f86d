"""Peers that come and go for hours, on a clock that is moved by hand: nothing of them is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import random
from dataclasses import dataclass

from seeds import generator

from wgfast import Engine, generate_private_key, public_key
from wgfast.errors import PeerRemovedError
from wgfast.testing import ManualClock, Network, Node, loss, packet

HUB = "192.0.2.1:1"
STEP = 20  # seconds
HOUR = 3600 // STEP
LIVE = 6
REJECT_AFTER = 180


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated() -> int:
    """Bytes that the C library has given out and not got back, mapped ones too."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo
    gc.collect()
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def repeatable(test: str) -> random.Random:
    return random.Random(int(generator(test).integers(1 << 62)))


@dataclass
class Guest:
    node: Node
    hub: int  # the hub, as its peer
    peer: int  # it, as the hub's
    address: str


class Churn:
    """A hub whose peers join, talk, fall silent, change and leave, over a network that loses much."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self.clock = ManualClock()
        self.network = Network(self.clock)
        self.hub = self.network.attach(Engine(generate_private_key(), name="hub"), HUB)
        self.guests: list[Guest] = []
        self.number = self.shaken = 0
        self.hub.engine.on("handshake", lambda _: setattr(self, "shaken", self.shaken + 1))

    def join(self) -> None:
        self.number += 1
        address = f"10.{self.number >> 8 & 255}.{self.number & 255}.2"
        engine = Engine(generate_private_key())
        mine, hubs = engine.public_key, self.hub.engine.public_key
        assert mine
        assert hubs
        node = self.network.attach(engine, f"198.51.100.{self.number % 250}:{1 + self.number}")
        keepalive = self.random.choice([0, 7])
        peer = self.hub.engine.add_peer(mine, allowed_ips=f"{address}/32", now=self.clock.now)
        hub = engine.add_peer(
            hubs, allowed_ips="0.0.0.0/0", endpoint=HUB, persistent_keepalive=keepalive, now=self.clock.now
        )
        self.guests.append(Guest(node, hub, peer, address))

    def leave(self, guest: Guest) -> None:
        """The one or the other first, in whatever state they are."""
        self.guests.remove(guest)
        removals = [(self.hub.engine, guest.peer), (guest.node.engine, guest.hub)]
        for engine, peer in self.random.sample(removals, 2):
            engine.remove_peer(peer)
            if self.random.randrange(2):
                self.network.run(1)
        check_empty(guest.node.engine, self.clock.now)
        self.network.nodes.remove(guest.node)
        guest.node.engine.close()

    def change(self, guest: Guest) -> None:
        what = self.random.randrange(5)
        psk = self.random.randbytes(32)
        now, wall = self.clock.now, self.clock.wall
        if what == 0:
            guest.node.engine.set_preshared_key(guest.hub, psk, now, wall)
            self.hub.engine.set_preshared_key(guest.peer, psk, now, wall)
        elif what == 1:
            guest.node.engine.handshake(guest.hub, now, wall)
        elif what == 2:
            self.hub.engine.handshake(guest.peer, now, wall)
        elif what == 3:
            self.rekey_hub()
        else:
            self.hub.send(packet("10.0.0.1", guest.address, b"staged, perhaps"))

    def rekey_hub(self) -> None:
        """Another private key: all guests are told."""
        private = generate_private_key()
        self.hub.engine.control.forget_all()
        self.hub.engine.core.set_identity(private, public_key(private))
        for guest in self.guests:
            engine = guest.node.engine
            engine.remove_peer(guest.hub)
            guest.hub = engine.add_peer(
                public_key(private), allowed_ips="0.0.0.0/0", endpoint=HUB, now=self.clock.now
            )

    def step(self) -> None:
        while len(self.guests) < LIVE:
            self.join()
        if self.random.randrange(2):
            self.leave(self.random.choice(self.guests))
        for guest in list(self.guests):
            if self.random.randrange(3) == 0:
                guest.node.send(packet(guest.address, "10.0.0.1", self.random.randbytes(100)))
        if self.guests and self.random.randrange(4) == 0:
            self.change(self.random.choice(self.guests))
        self.network.run(STEP)
        self.network.heard.forget()
        self.network.undeliverable.clear()
        for node in self.network.nodes:
            node.received.clear()
            node.statuses.clear()

    def hour(self) -> None:
        self.network.weather = [loss(self.random, 0.2)]
        for _ in range(HOUR):
            self.step()
        for guest in list(self.guests):
            self.leave(guest)
        check_empty(self.hub.engine, self.clock.now)


def check_empty(engine: Engine, now: int) -> None:
    """Nothing is left of any peer, as the core counts it, nor in Python."""
    engine.process(now)
    info = engine.core.info()
    left = (info.peers, info.indices, info.keypairs, info.staged, info.handshakes_waiting)
    assert left == (0, 0, 0, 0, 0)
    assert engine.control.pending == {}


def test_an_hour_of_churn_leaves_nothing_behind() -> None:
    churn = Churn(repeatable("churn"))
    churn.hour()  # pools and tables have grown as far as they need
    before, joined = allocated(), churn.number
    churn.hour()
    assert churn.number - joined > HOUR / 4
    assert churn.shaken > churn.number / 2
    assert allocated() - before < 256 << 10
    churn.hub.engine.close()


def test_sessions_and_indices_end_by_themselves() -> None:
    """Peers stay, and what a session takes goes with it."""
    churn = Churn(repeatable("sessions"))
    for _ in range(LIVE):
        churn.join()
    for guest in churn.guests:
        guest.node.engine.core.peer_set_persistent_keepalive(guest.hub, 0, churn.clock.now)
        guest.node.send(packet(guest.address, "10.0.0.1", b"hello"))
    churn.network.run(1)
    assert churn.hub.engine.core.info().keypairs == LIVE
    churn.network.run(3 * REJECT_AFTER + 60)
    for node in churn.network.nodes:
        info = node.engine.core.info()
        assert (info.indices, info.keypairs) == (0, 0)
    assert churn.hub.engine.core.info().peers == LIVE


def test_nothing_of_a_removed_peer_answers() -> None:
    churn = Churn(repeatable("removed"))
    churn.join()
    (guest,) = churn.guests
    churn.leave(guest)
    with contextlib.suppress(PeerRemovedError):
        churn.hub.engine.peer_info(guest.peer)
        raise AssertionError("it is still there")
