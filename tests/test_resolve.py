"""Names of endpoints: when they are asked for, and what an answer does."""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import Sequence
from typing import Any

import pytest
from fakedns import TEMPORARY

from wgfast import Endpoint, Engine, generate_private_key, public_key
from wgfast.resolve import ASK_AGAIN, LOOK, RETRY_MOST, SILENCE, Names, lookup
from wgfast.testing import SECOND, ManualClock, Network, Node, packet

HOST, PORT = "vpn.example.org", 51820
OLD, NEW, THIRD = (Endpoint(f"192.0.2.{n}", PORT) for n in (1, 2, 3))


# ---- what the system says ----


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("192.0.2.7", ["192.0.2.7"]),
        ("2001:DB8::7", ["2001:db8::7"]),
        ("::ffff:192.0.2.7", ["192.0.2.7"]),
        ("fe80::1%1", ["fe80::1%1"]),
        ("127.0.0.1", ["127.0.0.1"]),
    ],
)
def test_numbers_are_names_too(host: str, expected: list[str]) -> None:
    assert [tuple(found[:2]) for found in lookup(host, 9)] == [(each, 9) for each in expected]


@pytest.mark.parametrize("host", ["x" * 64 + ".example", "a..b", ".", "\0"])
def test_what_no_name_can_be_is_an_oserror(host: str) -> None:
    with pytest.raises(socket.gaierror):
        lookup(host, 9)


def test_several_addresses_come_once_each_and_other_families_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: Any, **__: Any) -> list[Any]:
        return [
            (socket.AF_INET6, 2, 17, "", ("2001:db8::1", 9, 0, 0)),
            (socket.AF_INET6, 2, 17, "", ("fe80::1%eth0", 9, 0, 5)),
            (socket.AF_UNIX, 2, 17, "", "nowhere"),
            (socket.AF_INET, 2, 17, "", ("192.0.2.1", 9)),
            (socket.AF_INET, 2, 17, "", ("192.0.2.1", 9)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert [found.host for found in lookup(HOST, 9)] == ["2001:db8::1", "fe80::1%5", "192.0.2.1"]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer()[2:3])
    with pytest.raises(OSError, match="neither"):
        lookup(HOST, 9)


# ---- when: two Engines on a clock that is moved by hand ----


class World:
    """alice knows bob by a name; `answers` is what the name server says, None: it does not answer."""

    def __init__(self, keepalive: int = 0) -> None:
        self.clock = ManualClock()
        self.network = Network(self.clock)
        self.keys = generate_private_key(), generate_private_key()
        engine = Engine(self.keys[0], name="alice")
        self.peer = engine.add_peer(
            public_key(self.keys[1]),
            allowed_ips="10.0.0.2/32",
            persistent_keepalive=keepalive,
            now=self.clock.now,
        )
        self.alice: Node = self.network.attach(engine, ("198.51.100.1", 1))
        self.move_bob(OLD)
        self.names = Names(engine.core, engine.control)
        self.answers: Sequence[Endpoint] | None = [OLD]
        self.asked: list[int] = []  # when

    def move_bob(self, address: Endpoint) -> None:
        """It starts anew elsewhere, and knows nothing of a session: it is for alice to find it."""
        engine = Engine(self.keys[1], name="bob")
        self.bobs_peer = engine.add_peer(public_key(self.keys[0]), allowed_ips="10.0.0.1/32", now=0)
        del self.network.nodes[1:]
        self.bob: Node = self.network.attach(engine, address)

    @property
    def endpoint(self) -> Endpoint | None:
        return self.alice.engine.peer_info(self.peer).endpoint

    def keep(self) -> None:
        self.names.keep(self.peer, HOST, PORT, self.clock.now)
        self.run(0)

    def ask(self) -> None:
        while name := self.names.next(self.clock.now):
            self.asked.append(self.clock.now)
            if self.answers is None:
                self.names.failed(name, TEMPORARY, self.clock.now)
            else:
                self.names.found(name, self.answers, self.clock.now)
            self.alice.engine.process(self.clock.now, self.clock.wall)

    def run(self, seconds: float, talk: float = 0) -> None:
        """Time passes, for names in steps of their own; `talk`: alice says something so often."""
        end = self.clock.now + round(seconds * SECOND)
        spoke = self.clock.now
        while True:
            self.ask()
            self.network.settle()
            deadline = self.names.deadline()
            moments = [end] if deadline is None else [end, deadline]
            if talk:
                moments.append(spoke + round(talk * SECOND))
            following = min(moments)
            self.network.run(max(following - self.clock.now, 0) / SECOND)
            if talk and following == moments[-1]:
                spoke = following
                self.say()
            if following == end:
                self.ask()
                self.network.settle()
                return

    def say(self) -> None:
        self.alice.send(packet("10.0.0.1", "10.0.0.2", b"hello"))
        self.network.settle()

    def answer_all(self) -> None:
        """bob answers whatever it hears, so that alice hears of it."""
        self.bob.send(packet("10.0.0.2", "10.0.0.1", b"yes"))
        self.network.settle()


@pytest.fixture
def world() -> World:
    return World()


def test_a_name_is_resolved_at_once_and_carries_traffic(world: World) -> None:
    world.keep()
    assert world.endpoint == OLD
    assert len(world.asked) == 1
    world.say()
    assert world.bob.received


def test_at_the_start_it_is_tried_as_wg_does(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """1 s, then each time a fifth longer, at most 20 s; one line in the log."""
    world.answers = None
    with caplog.at_level(logging.ERROR, "wgfast"):
        world.keep()
        world.run(600)
    waits = [b - a for a, b in itertools.pairwise(world.asked)]
    assert waits[0] == SECOND
    assert all(b == min(a * 6 // 5, RETRY_MOST) for a, b in itertools.pairwise(waits))
    assert waits[-1] == RETRY_MOST
    (record,) = caplog.records
    assert HOST in record.message
    assert "trying again" in record.message
    world.answers = [NEW]
    world.run(20)
    assert world.endpoint == NEW
    asked = len(world.asked)
    world.run(3600)
    assert len(world.asked) == asked


def test_a_persistent_keepalive_greets_as_soon_as_there_is_an_endpoint() -> None:
    """Not when the next one is due: the first had nowhere to go."""
    world = World(keepalive=25)
    world.answers = None
    world.keep()
    world.run(0.5)
    assert not world.network.heard.datagrams
    world.answers = [OLD]
    world.run(1)
    assert [datagram.kind for datagram in world.network.heard.datagrams] == [
        "initiation",
        "response",
        "keepalive",
    ]


def test_an_idle_peer_is_never_asked_for(world: World) -> None:
    """The last word was ours, and wants no answer."""
    world.keep()
    world.say()
    world.answer_all()
    asked = len(world.asked)
    world.run(4 * 3600)
    assert len(world.asked) == asked
    world.say()  # the session is gone: a handshake, which is answered
    world.run(60)
    assert len(world.asked) == asked


def test_a_peer_that_answers_is_never_asked_for(world: World) -> None:
    world.keep()
    asked = len(world.asked)
    for _ in range(200):
        world.say()
        world.answer_all()
        world.run(7)
    assert len(world.asked) == asked


@pytest.mark.parametrize("keepalive", [0, 25])
def test_an_address_that_changes_under_traffic(keepalive: int) -> None:
    """Asked for when it was silent for 135 s, not before; then it takes a retransmission."""
    world = World(keepalive)
    world.keep()
    world.say()
    world.answer_all()
    world.run(20, talk=3)
    world.answer_all()
    world.move_bob(NEW)
    lost = world.clock.now
    asked = len(world.asked)
    world.run(134, talk=3)
    assert len(world.asked) == asked
    world.answers = [NEW]
    assert not world.bob.received
    world.run(2 + 2 * LOOK / SECOND + 6, talk=3)
    assert SILENCE <= world.asked[asked] - lost <= SILENCE + 2 * LOOK
    assert len(world.asked) == asked + 1
    assert world.endpoint == NEW
    assert world.bob.received
    world.answer_all()
    world.run(600, talk=3)
    assert len(world.asked) == asked + 1


def test_a_name_costs_no_handshake_more(world: World) -> None:
    """As many initiations as without a name, and none closer than REKEY-TIMEOUT."""
    world.keep()
    world.say()
    world.move_bob(THIRD)
    world.network.heard.forget()
    world.run(900, talk=2)
    sent = [datagram.at for datagram in world.network.heard.of("initiation")]
    assert all(b - a >= 5 * SECOND for a, b in itertools.pairwise(sent))
    assert all(datagram.destination[:2] == OLD[:2] for datagram in world.network.heard.of("initiation"))
    gaps = [b - a for a, b in itertools.pairwise(world.asked[1:])]
    assert gaps
    assert all(gap >= ASK_AGAIN for gap in gaps)


def test_of_several_addresses_a_silent_peer_gets_the_next(world: World) -> None:
    world.answers = [OLD, NEW, THIRD]
    world.keep()
    assert world.endpoint == OLD
    world.say()
    world.move_bob(THIRD)
    world.run(SILENCE / SECOND + 2 * LOOK / SECOND, talk=3)
    assert world.endpoint == NEW
    world.answers = [NEW, OLD, THIRD]  # the order is the name server's whim
    world.run(ASK_AGAIN / SECOND + 8, talk=3)
    assert world.endpoint == THIRD
    assert world.bob.received
    asked = len(world.asked)
    world.run(300, talk=3)
    assert world.endpoint == THIRD
    assert len(world.asked) == asked


def test_all_of_them_are_tried_again_and_again(world: World) -> None:
    world.answers = [OLD, NEW, THIRD]
    world.keep()
    world.say()
    world.move_bob(Endpoint("203.0.113.1", 1))
    seen = [world.endpoint]
    for _ in range(60):
        world.run(15, talk=3)
        if world.endpoint != seen[-1]:
            seen.append(world.endpoint)
    assert len(seen) > 12
    for some in range(0, 12, 3):
        assert len({endpoint for endpoint in seen[some : some + 3] if endpoint}) >= 2
    assert {*seen} == {OLD, NEW, THIRD}


def test_what_does_not_change_changes_nothing(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.keep()
    world.say()
    world.answer_all()
    before = world.alice.engine.peer_info(world.peer)
    with caplog.at_level(logging.DEBUG, "wgfast"):
        world.keep()
        world.answers = [NEW, OLD]
        world.keep()
    assert len(world.asked) == 3
    assert world.alice.engine.peer_info(world.peer) == before
    assert not caplog.records


def test_on_demand_another_address_is_taken_though_the_peer_is_heard(world: World) -> None:
    world.keep()
    world.say()
    world.answer_all()
    world.answers = [NEW]
    world.keep()
    assert world.endpoint == NEW
    world.run(600)
    assert len(world.asked) == 2


def test_a_peer_that_is_heard_while_we_ask_keeps_its_endpoint(world: World) -> None:
    world.keep()
    world.say()
    world.move_bob(NEW)
    world.answers = None
    world.run(200, talk=3)
    name = world.names.next(world.clock.now + RETRY_MOST)
    assert name
    bob = world.bob.engine
    bob.core.peer_set_endpoint(world.bobs_peer, world.alice.address)
    bob.handshake(world.bobs_peer, world.clock.now, world.clock.wall)
    world.network.settle()
    assert world.endpoint == NEW
    world.names.found(name, [THIRD], world.clock.now)
    assert world.endpoint == NEW
    asked = len(world.asked)
    world.run(100)
    assert len(world.asked) == asked


def test_answers_that_come_too_late_are_nobody_s(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.names.keep(world.peer, HOST, PORT, world.clock.now)
    first = world.names.next(world.clock.now)
    assert first
    world.names.keep(world.peer, "other.example.org", PORT, world.clock.now)
    world.names.found(first, [OLD], world.clock.now)
    world.names.failed(first, TEMPORARY, world.clock.now)
    assert not caplog.records
    assert world.endpoint is None
    assert world.names.of(world.peer) == f"other.example.org:{PORT}"
    world.names.drop(world.peer)
    assert world.names.deadline() is None
    assert world.names.next(world.clock.now) is None


def test_names_that_can_be_resolved_come_before_those_that_could_not(world: World) -> None:
    world.names.keep(world.peer, HOST, PORT, world.clock.now)
    first = world.names.next(world.clock.now)
    assert first
    world.names.failed(first, TEMPORARY, world.clock.now)
    other = world.alice.engine.add_peer(public_key(generate_private_key()), now=world.clock.now)
    later = world.clock.now + 10 * SECOND
    world.names.keep(other, "fresh.example.org", PORT, later)
    name = world.names.next(later)
    assert name
    assert name.host == "fresh.example.org"
    world.alice.engine.remove_peer(other)
    assert world.names.next(later + LOOK) is first
    assert len(world.names) == 1
