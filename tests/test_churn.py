"""Peers that come and go for hours, on a clock that is moved by hand: nothing of them is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import ipaddress
import random
from dataclasses import dataclass
from pathlib import Path

from seeds import generator

from wgfast import AllowedIPs, Device, Engine, Limits, _core, generate_private_key, public_key, uapi_apply
from wgfast.errors import PeerRemovedError
from wgfast.testing import ManualClock, Network, Node, loss, packet
from wgfast.uapi import Changes

HUB = "192.0.2.1:1"
STEP = 20  # seconds
HOUR = 3600 // STEP
LIVE = 6
REJECT_AFTER = 180
REGION = 1 << 16  # bytes: a pool of rows keeps one that is empty
CROWD = 600  # prefixes of a family that make the hub's table a large one
NOTHING = AllowedIPs().memory


class _Mallinfo(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def resident() -> int:
    """Bytes of the pages behind anonymous memory, which is that of pools and tries as well."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return next(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Anonymous:"))


@dataclass
class Memory:
    """Of this process, in bytes, when all that can be given back was."""

    allocated: int  # what the C library has given out and not got back, mapped ones too
    resident: int

    @classmethod
    def now(cls) -> Memory:
        libc = ctypes.CDLL(None)
        libc.mallinfo2.restype = _Mallinfo
        gc.collect()
        libc.malloc_trim(0)
        info = libc.mallinfo2()
        return cls(int(info.uordblks + info.hblkhd), resident())

    def must_be_near(self, before: Memory) -> None:
        """The rest is Python's own: pieces of its arenas."""
        assert self.allocated - before.allocated < 256 << 10
        assert self.resident - before.resident < 1 << 20


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
        what = self.random.randrange(8)
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
        elif what == 4:
            self.hub.engine.core.peer_allow_many(guest.peer, self.crowd())
        elif what == 5:
            self.hub.engine.core.peer_disallow_all(guest.peer)
            self.hub.engine.core.peer_allow(guest.peer, *prefix(f"{guest.address}/32"))
        elif what == 6:
            limits = Limits(send_rate=self.random.choice([0, 10**9]), receive_quota=1 << 40)
            self.hub.engine.set_limits(guest.peer, self.random.choice([None, limits]), now)
        else:
            self.hub.send(packet("10.0.0.1", guest.address, b"staged, perhaps"))

    def crowd(self) -> list[tuple[int, bytes, int]]:
        """So many prefixes that the table takes its large form; the next to get them takes them away."""
        chosen = self.random.sample(range(2 * CROWD), CROWD)
        return [
            prefix(text)
            for i in chosen
            for text in (f"172.{16 + (i >> 8)}.{i & 255}.0/24", f"fd00:{i:x}::/32")
        ]

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

    def cycle(self, steps: int) -> None:
        """So many steps; then all guests leave."""
        self.network.weather = [loss(self.random, 0.2)]
        for _ in range(steps):
            self.step()
        for guest in list(self.guests):
            self.leave(guest)
        check_empty(self.hub.engine, self.clock.now)


def check_empty(engine: Engine, now: int) -> None:
    """Nothing is left of any peer, as the core counts it, nor in Python."""
    engine.process(now)
    check_empty_core(engine.core)
    assert engine.control.pending == {}


def check_empty_core(core: _core.Core) -> None:
    info = core.info()
    left = (info.peers, info.rows, info.indices, info.keypairs, info.staged, info.handshakes_waiting)
    assert left == (0, 0, 0, 0, 0, 0)
    assert info.rows_memory <= 2 * REGION  # of peers, and of sessions
    assert info.allowedips_memory == NOTHING


def prefix(text: str) -> tuple[int, bytes, int]:
    network = ipaddress.ip_network(text)
    return network.version, network.network_address.packed, network.prefixlen


def test_an_hour_of_churn_leaves_nothing_behind() -> None:
    churn = Churn(repeatable("churn"))
    churn.cycle(HOUR // 10)  # what is made once has been made
    before, joined, shaken = Memory.now(), churn.number, churn.shaken
    for _ in range(3):
        churn.cycle(HOUR // 3)
    assert churn.number - joined > HOUR / 4
    assert churn.shaken - shaken > (churn.number - joined) / 2
    Memory.now().must_be_near(before)
    churn.hub.engine.close()


PEERS = 3000


class Crowd:
    """A device whose peers are configured by the thousand: both tables are large ones."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self.device = Device(generate_private_key())
        self.core = self.device.core

    def cycle(self) -> None:
        keys = [self.random.randbytes(32) for _ in range(PEERS)]
        limits = [None, Limits(send_rate=10**6), Limits(receive_quota=1 << 30)]
        self.device.update(
            {
                "public_key": key,
                "allowed_ips": nets(i),
                "limits": limits[i % 3],
                "persistent_keepalive": i % 2,
            }
            for i, key in enumerate(keys)
        )
        for i, handle in enumerate(self.core.peers()):
            self.shake(handle, i)
        info = self.core.info()
        assert (info.peers, info.rows) == (PEERS, PEERS)
        assert info.keypairs == info.indices == PEERS // 2
        # Every other peer takes its neighbour's; some of both go, one by one, in all at once; then the rest.
        self.device.update({"public_key": keys[i], "allowed_ips": nets(i + 1)} for i in range(0, PEERS, 2))
        for key in self.random.sample(keys, PEERS // 3):
            self.device.remove_peer(key)
        kept = self.random.sample(keys, PEERS // 10)
        self.device.update(({"public_key": key, "allowed_ips": "10.0.0.0/8"} for key in kept), replace=True)
        self.device.update([], replace=True)
        check_empty_core(self.core)

    def shake(self, handle: int, i: int) -> None:
        """A session that lasts, one that ends, one that takes the place of another, or none."""
        for _ in range((1, 1, 2, 0)[i % 4]):
            index = self.core.peer_begin_answer(handle)
            self.core.peer_begin_session_responder(handle, _core.Handshake(), index, 7, 1)
        if i % 4 == 1:
            self.core.peer_zero_keys(handle)


def nets(i: int) -> str:
    return f"10.{i >> 8}.{i & 255}.0/25, 10.{i >> 8}.{i & 255}.128/25, fd00:{i:x}::/48"


def test_thousands_of_peers_come_and_go() -> None:
    crowd = Crowd(repeatable("crowd"))
    crowd.cycle()
    before = Memory.now()
    for _ in range(4):
        crowd.cycle()
    Memory.now().must_be_near(before)
    crowd.device.close()


def test_what_many_peers_took_comes_back_by_itself() -> None:
    """Rows, and what the C library keeps of the rest."""
    peers, device = 20_000, Device(generate_private_key())
    text = "".join(
        f"public_key={i:064x}\nallowed_ip=10.{i >> 8}.{i & 255}.0/24\nsend_rate=1000000\n"
        for i in range(1, peers + 1)
    )
    setting = _core.Setting(text.encode())
    assert setting.fault is None
    before = Memory.now().resident
    uapi_apply.apply(device, Changes(setting, {}))
    taken = resident() - before
    uapi_apply.apply(device, Changes(_core.Setting(b"replace_peers=true\n"), {}))
    assert taken > peers * 700
    assert resident() - before < 2 << 20
    device.close()


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
