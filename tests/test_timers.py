"""Whitepaper, section 6, and what Linux adds to it: on a clock that is moved by hand, between two Engines."""

from __future__ import annotations

import itertools
import os

import pytest
from enginepair import ALICE, BOB, Pair, without

from wgfast import Batch, Engine, _core, generate_private_key, timers
from wgfast._core import (
    DEBT_HANDSHAKE,
    DEBT_KEEPALIVE,
    DEBT_NEW_HANDSHAKE,
    DEBT_PERSISTENT,
    DEBT_RETRANSMIT,
    DEBT_ZERO_KEYS,
)
from wgfast.control import DEBTS
from wgfast.engine import HANDSHAKE_MAX
from wgfast.testing import ManualClock, delay, packet
from wgfast.timers import Duty

SECOND = 10**9
JITTER = 1 / 3


# ---- when a session is renewed ----


def test_the_initiator_renews_after_120_seconds_and_nobody_else() -> None:
    pair = Pair().connect()
    for _ in range(400):
        pair.alice_says()
        pair.bob_says()
        pair.network.run(1)
    assert pair.times("initiation", source=ALICE) == [120, 240, 360]
    assert pair.times("initiation", source=BOB) == []
    assert len(pair.alice.received) == len(pair.bob.received) == 400
    assert pair.drops() == {}


def test_who_only_receives_renews_before_the_session_ends() -> None:
    """The initiator hears keepalives and says nothing: REJECT - KEEPALIVE-TIMEOUT - REKEY-TIMEOUT is 165."""
    pair = Pair().connect()
    pair.bob.engine.core.peer_set_persistent_keepalive(pair.to_alice, 1, pair.clock.now)
    pair.network.run(170)
    assert pair.times("initiation") == [165]


def test_an_idle_session_is_not_renewed() -> None:
    pair = Pair().connect()
    pair.network.run(1000)
    assert pair.heard.datagrams == []


def test_rekeying_goes_on_when_the_wall_clock_is_set_back() -> None:
    pair = Pair().connect()
    pair.clock.step_wall(-86400)
    for _ in range(130):
        pair.alice_says()
        pair.network.run(1)
    assert len(pair.times("initiation")) == len(pair.times("response")) == 1
    assert pair.drops() == {}


# ---- when a session is refused ----


def test_no_session_sends_at_180_seconds() -> None:
    pair = Pair().connect()
    pair.network.weather.append(without("initiation"))
    pair.clock.advance(179.999)
    assert pair.alice_says() == Batch.OK
    assert pair.bob_says() == Batch.OK
    pair.clock.advance(0.001)
    assert pair.alice_says() == Batch.STAGED
    assert pair.bob_says() == Batch.STAGED


def test_no_session_receives_at_180_seconds() -> None:
    pair = Pair().connect()
    pair.network.weather.append(delay(2))
    expired = _core.DROP_NAMES.index("receive_expired")
    pair.clock.advance(177.9)
    pair.alice_says(b"in time")
    pair.bob_says(b"in time")
    pair.clock.advance(0.2)
    pair.alice_says(b"too late")
    pair.bob_says(b"too late")
    pair.alice.statuses.clear()
    pair.bob.statuses.clear()
    pair.network.run(2)
    assert len(pair.alice.received) == len(pair.bob.received) == 1
    assert expired in pair.alice.statuses
    assert expired in pair.bob.statuses


def test_keys_are_zeroed_after_three_times_180_seconds() -> None:
    pair = Pair().connect()
    pair.network.run(539.9)
    assert pair.alice.engine.core.info().keypairs == pair.bob.engine.core.info().keypairs == 1
    pair.network.run(0.2)
    for node, peer in ((pair.alice, pair.to_bob), (pair.bob, pair.to_alice)):
        assert node.engine.core.info().keypairs == 0
        assert node.engine.core.info().indices == 0
        assert node.engine.peer_info(peer).session_birth == 0


def test_a_session_does_not_outlive_a_suspend() -> None:
    """An hour passes in which nobody could run."""
    pair = Pair().connect()
    pair.clock.advance(3600)
    assert pair.alice_says() == Batch.STAGED
    pair.network.settle()
    assert len(pair.times("initiation")) == 1
    assert [inner for _, inner in pair.bob.received] == [packet("10.0.0.1", "10.0.0.2", b"from alice")]


# ---- when nobody answers ----


def test_retries_for_90_seconds_with_jitter_then_gives_up() -> None:
    pair = Pair(without())
    for _ in range(3):
        assert pair.alice_says() == Batch.STAGED
    pair.network.run(300)
    sent = pair.times("initiation")
    # As Linux counts: the first, then 18 retries and one more.
    assert len(sent) == timers.MAX_ATTEMPTS + 2
    gaps = [after - before for before, after in itertools.pairwise(sent)]
    assert all(5 <= gap < 5 + JITTER for gap in gaps), gaps
    assert len({round(gap, 6) for gap in gaps}) > 1
    assert pair.drops() == {"send_no_session": 3}
    assert pair.alice.engine.peer_info(pair.to_bob).staged == 0
    assert pair.alice.engine.core.info().indices == 0
    # The next packet begins anew.
    pair.alice_says()
    pair.network.settle()
    assert len(pair.times("initiation")) == len(sent) + 1


def test_each_retry_is_a_handshake_of_its_own() -> None:
    pair = Pair(without())
    pair.alice_says()
    pair.network.run(60)
    seen = pair.heard.of("initiation")
    assert len({datagram.data[4:8] for datagram in seen}) == len(seen)  # index
    assert len({datagram.data[8:40] for datagram in seen}) == len(seen)  # ephemeral key


def test_a_late_answer_counts() -> None:
    pair = Pair(delay(2))
    pair.alice_says()
    pair.network.run(10)
    assert len(pair.times("initiation")) == 1
    assert len(pair.bob.received) == 1


def test_a_retry_that_is_answered_delivers_what_waited() -> None:
    lossy = without("response")
    pair = Pair(lossy)
    pair.alice_says()
    pair.network.run(12)
    assert pair.bob.received == []
    pair.network.weather.remove(lossy)
    pair.network.run(5)
    assert len(pair.bob.received) == 1
    assert len(pair.times("initiation")) == 4


def test_initiations_are_five_seconds_apart_however_often_they_are_asked_for() -> None:
    pair = Pair(without())
    for _ in range(200):
        pair.alice.engine.handshake(pair.to_bob, pair.clock.now, pair.clock.wall)
        pair.alice_says()
        pair.network.run(0.1)
    sent = pair.times("initiation")
    assert len(sent) == 4
    assert all(after - before >= 5 for before, after in itertools.pairwise(sent))


def test_silence_for_15_seconds_brings_a_new_handshake_and_lets_go_of_the_source() -> None:
    pair = Pair().connect()
    engine = pair.alice.engine
    engine.core.peer_set_endpoint(pair.to_bob, _core.Endpoint("192.0.2.2", 2, "192.0.2.1", 3))
    pair.network.weather.append(without(source=BOB))
    pair.alice_says()
    pair.network.run(14.9)
    assert pair.times("initiation") == []
    endpoint = engine.peer_info(pair.to_bob).endpoint
    assert endpoint
    assert endpoint.source == "192.0.2.1"
    pair.network.run(0.5)
    (at,) = pair.times("initiation")
    assert 15 <= at < 15 + JITTER
    endpoint = engine.peer_info(pair.to_bob).endpoint
    assert endpoint
    assert (endpoint.host, endpoint.port, endpoint.source) == ("192.0.2.2", 2, None)


def test_an_answer_prevents_the_new_handshake() -> None:
    pair = Pair().connect()
    for _ in range(60):
        pair.alice_says()
        pair.network.run(1)
    assert pair.times("initiation") == []


def test_no_endpoint_is_no_error_and_is_tried_again() -> None:
    pair = Pair()
    pair.bob.engine.handshake(pair.to_alice, pair.clock.now, pair.clock.wall)
    pair.network.run(6)
    assert pair.times("initiation") == []
    assert pair.bob.engine.control.errors == 0
    pair.bob.engine.core.peer_set_endpoint(pair.to_alice, _core.Endpoint("192.0.2.1", 1))
    pair.network.run(6)
    assert len(pair.times("initiation", source=BOB)) == 1
    assert pair.bob.engine.peer_info(pair.to_alice).session_birth


def test_a_handshake_that_crossed_another_one_is_forgotten() -> None:
    """alice's own initiation is lost; bob's brings the session, and she stops trying."""
    pair = Pair(without(source=ALICE))
    pair.bob.engine.core.peer_set_endpoint(pair.to_alice, _core.Endpoint("192.0.2.1", 1))
    pair.alice.engine.handshake(pair.to_bob, pair.clock.now, pair.clock.wall)
    pair.network.settle()
    pair.network.weather.clear()
    pair.bob_says()
    pair.network.run(30)
    assert pair.times("initiation", source=ALICE) == [0]
    assert pair.alice.engine.control.pending == {}
    assert pair.alice.engine.core.info().indices == 1
    assert len(pair.alice.received) == 1


def test_whoever_is_down_is_silent_and_greets_when_up_again() -> None:
    pair = Pair().connect()
    control = pair.alice.engine.control
    pair.alice.engine.core.peer_set_persistent_keepalive(pair.to_bob, 3, pair.clock.now)
    pair.network.run(7)
    pair.alice_says()
    control.disable()
    pair.heard.forget()
    pair.clock.advance(200)
    pair.bob_says()
    pair.network.run(200)
    assert pair.times("initiation", source=BOB)
    assert pair.alice.engine.drops()["send_down"] == len(pair.times("initiation", source=BOB))
    pair.alice.engine.handshake(pair.to_bob, pair.clock.now, pair.clock.wall)
    pair.network.settle()
    assert pair.heard.of(source=ALICE) == []
    assert pair.alice.engine.core.info().keypairs == 0
    control.enable(pair.clock.now)
    pair.network.settle()
    assert [datagram.kind for datagram in pair.heard.of(source=ALICE)] == ["initiation", "keepalive"]


def test_a_packet_that_could_not_bring_a_handshake_does_not_prevent_the_next() -> None:
    pair = Pair()
    engine = pair.alice.engine
    private, public = engine.private_key, engine.public_key
    engine.core.set_identity(None, None)
    assert pair.alice_says() == Batch.STAGED
    pair.network.settle()
    assert pair.drops() == {"handshake_no_key": 1}
    engine.core.set_identity(private, public)
    pair.alice_says()
    pair.network.settle()
    assert len(pair.bob.received) == 2


def test_all_have_their_turn_where_more_is_owed_than_can_be_paid() -> None:
    """A portion a second for peers that never answer: a fourth of them owe enough to use it up."""
    clock = ManualClock()
    engine = Engine(generate_private_key())
    out = Batch.empty(16, HANDSHAKE_MAX)
    peers = [
        engine.add_peer(
            generate_private_key(), endpoint=f"192.0.2.1:{i + 1}", persistent_keepalive=25, now=clock.now
        )
        for i in range(20 * DEBTS)
    ]
    for _ in range(40):  # that a keepalive is due; that it needs a session
        engine.process(clock.now, clock.wall)
        while engine.drain(clock.now, out):
            pass
        clock.advance(1)
    assert [i for i, peer in enumerate(peers) if not engine.core.peer_handshake_sent(peer)] == []


# ---- keepalives ----


def test_who_received_and_says_nothing_sends_a_keepalive_after_10_seconds() -> None:
    pair = Pair().connect()
    pair.alice_says()
    pair.network.run(100)
    assert pair.times("keepalive", source=BOB) == [10]
    assert pair.times("keepalive", source=ALICE) == []  # none answers one


def test_data_both_ways_needs_no_keepalive() -> None:
    pair = Pair().connect()
    for _ in range(50):
        pair.alice_says()
        pair.bob_says()
        pair.network.run(1)
    assert pair.times("keepalive") == []


def test_data_that_goes_on_brings_keepalives_that_go_on() -> None:
    pair = Pair().connect()
    for _ in range(41):
        pair.alice_says()
        pair.network.run(1)
    assert pair.times("keepalive", source=BOB) == [10, 20, 30, 40]


def test_persistent_keepalives_begin_at_once_and_bring_their_own_session() -> None:
    pair = Pair()
    pair.alice.engine.core.peer_set_persistent_keepalive(pair.to_bob, 25, pair.clock.now)
    pair.network.run(110)
    assert pair.times("initiation") == [0]
    assert pair.times("keepalive", source=ALICE) == [0, 25, 50, 75, 100]
    pair.alice.engine.core.peer_set_persistent_keepalive(pair.to_bob, 0, pair.clock.now)
    pair.network.run(100)
    assert len(pair.times("keepalive")) == 5


def test_traffic_puts_off_persistent_keepalives() -> None:
    pair = Pair().connect()
    pair.alice.engine.core.peer_set_persistent_keepalive(pair.to_bob, 5, pair.clock.now)
    pair.network.settle()
    for _ in range(20):
        pair.alice_says()
        pair.network.run(1)
    assert pair.times("keepalive", source=ALICE) == [0]


def test_keepalives_owed_to_thousands_push_out_no_data() -> None:
    """More of them than there is room for packets without a session: 4 MiB in chunks of 2 KiB."""
    engine = Engine(generate_private_key())
    peers = [
        engine.add_peer(
            os.urandom(32),
            allowed_ips=f"10.1.{i >> 8}.{i & 255}/32",
            endpoint="192.0.2.1:1",
            persistent_keepalive=25,
        )
        for i in range(2100)
    ]
    batch, out = Batch.of([packet("10.0.0.1", "10.1.0.0", b"first")]), Batch.empty(1, 2048)
    engine.send(batch.data, batch.lengths, SECOND, out)
    assert out.status[0] == Batch.STAGED
    engine.control.enable(SECOND)
    assert engine.drain(SECOND, out) == 0
    assert {engine.peer_info(peer).staged for peer in peers} == {1}
    assert sum(engine.drops().values()) == 0
    # Each still asks for its handshake.
    assert len(engine.core.scan(SECOND)[0]) == len(peers)


# ---- who may use the keys ----


def test_the_answering_side_waits_for_the_first_packet() -> None:
    pair = Pair(without("data", "keepalive"))
    pair.alice_says()
    pair.network.run(1)
    assert pair.heard.of("response")
    assert pair.bob_says() == Batch.STAGED
    pair.network.run(1)
    assert pair.heard.of("data", source=BOB) == []
    # Whoever has just answered does not begin a handshake of its own while the other side confirms.
    assert pair.heard.of("initiation", source=BOB) == []
    pair.network.weather.clear()
    pair.alice_says()
    pair.network.run(1)
    assert [inner for _, inner in pair.alice.received] == [packet("10.0.0.2", "10.0.0.1", b"from bob")]
    assert pair.heard.of("initiation", source=BOB) == []


def test_a_response_alone_is_confirmed_by_a_keepalive() -> None:
    pair = Pair()
    pair.alice.engine.handshake(pair.to_bob, pair.clock.now, pair.clock.wall)
    pair.network.settle()
    assert [datagram.kind for datagram in pair.heard.datagrams] == ["initiation", "response", "keepalive"]


@pytest.mark.parametrize("way", [0.0, 0.05, 1.0])
def test_simultaneous_initiations(way: float) -> None:
    pair = Pair(delay(way))
    pair.bob.engine.core.peer_set_endpoint(pair.to_alice, _core.Endpoint("192.0.2.1", 1))
    pair.alice_says()
    pair.bob_says()
    pair.network.run(5)
    assert len(pair.times("initiation")) == 2
    for _ in range(60):
        pair.alice_says()
        pair.bob_says()
        pair.network.run(1)
    pair.network.run(2)
    assert len(pair.alice.received) == len(pair.bob.received) == 61
    assert len(pair.times("initiation")) == 2
    assert "receive_forged" not in pair.drops()


# ---- the policy itself ----


@pytest.mark.parametrize(
    ("debts", "attempts", "since", "duties", "attempts_after"),
    [
        (DEBT_HANDSHAKE, 0, None, (Duty.INITIATE,), 0),
        (DEBT_HANDSHAKE, 7, 5.0, (Duty.INITIATE,), 0),
        (DEBT_HANDSHAKE, 7, 4.9, (), 0),
        (DEBT_NEW_HANDSHAKE, 0, 20.0, (Duty.CLEAR_SOURCE, Duty.INITIATE), 0),
        (DEBT_RETRANSMIT, 0, 5.2, (Duty.CLEAR_SOURCE, Duty.INITIATE), 1),
        (DEBT_RETRANSMIT, 18, 5.2, (Duty.CLEAR_SOURCE, Duty.INITIATE), 19),
        (DEBT_RETRANSMIT, 19, 5.2, (Duty.GIVE_UP,), 0),
        (DEBT_RETRANSMIT | DEBT_HANDSHAKE, 19, 5.2, (Duty.CLEAR_SOURCE, Duty.INITIATE), 1),
        (DEBT_RETRANSMIT, 0, 1.0, (Duty.CLEAR_SOURCE,), 1),
        (DEBT_KEEPALIVE | DEBT_PERSISTENT, 0, None, (Duty.KEEPALIVE,), 0),
        (DEBT_ZERO_KEYS | DEBT_HANDSHAKE, 0, None, (Duty.ZERO_KEYS, Duty.INITIATE), 0),
        (0, 3, None, (), 3),
    ],
)
def test_plans(
    debts: int, attempts: int, since: float | None, duties: tuple[Duty, ...], attempts_after: int
) -> None:
    now = 1000 * SECOND
    initiated_at = 0 if since is None else now - round(since * SECOND)
    plan = timers.plan(debts, attempts, initiated_at, now, jitter=7)
    assert plan.duties == duties
    assert plan.attempts == attempts_after
    waits = debts & DEBT_RETRANSMIT and Duty.INITIATE not in duties and Duty.GIVE_UP not in duties
    assert plan.retry_at == (initiated_at + 5 * SECOND + 7 if waits else None)


def test_jitter_is_below_a_third_of_a_second() -> None:
    seen = [timers.retransmit_jitter() for _ in range(10_000)]
    assert 0 <= min(seen) < max(seen) < SECOND // 3
    assert len(set(seen)) > 9_000


def test_the_cookie_secret_is_replaced_every_120_seconds() -> None:
    secret = timers.CookieSecret()
    assert secret.due(0)
    secret.rotated(5)
    assert not secret.due(5 + 120 * SECOND - 1)
    assert secret.due(5 + 120 * SECOND)


def test_seldom() -> None:
    seldom = timers.Seldom(10)
    assert [seldom.may(1, now) for now in (0, 5, 9, 10, 19, 20)] == [True, False, False, True, False, True]
    assert seldom.may(2, 20)
    seldom.forget(1)
    assert seldom.may(1, 21)
