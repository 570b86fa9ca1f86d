"""Handshakes by the thousand: what is dealt with first, how much at a time, and by whose processor."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Callable

import pytest
from forking import forked
from judged import CONSUMED, Judged, reason, to_them
from noisepeer import NoisePeer, mac1
from watchedx25519 import watched

from wgfast import Batch, Engine, control, generate_private_key, priority, public_key
from wgfast.engine import HANDSHAKE_MAX

LOAD = 128  # messages waiting: core/limits.h


def hear(engine: Engine, message: bytes, source: str, now: int) -> str:
    batch = Batch.of([message], source)
    out = Batch.empty(1, HANDSHAKE_MAX)
    engine.receive(batch.data, batch.lengths, batch.endpoints, now, out)
    return reason(int(out.status[0]))


def crowd(engine: Engine, count: int, now: int) -> None:
    """So many strangers want a handshake, each from an address of its own."""
    public = engine.public_key
    assert public
    for i in range(count):
        body = b"\1\0\0\0" + os.urandom(112)
        message = body + mac1(body, public) + bytes(16)
        assert hear(engine, message, f"203.0.{i >> 8}.{i & 255}:1", now) == f"status {CONSUMED}"


def waiting(engine: Engine) -> int:
    return engine.core.info().handshakes_waiting


# ---- what comes first ----


def test_an_answer_does_not_stand_behind_strangers() -> None:
    side = Judged()
    crowd(side.engine, LOAD - 1, side.clock.now)
    side.engine.handshake(side.peer, side.clock.now, side.clock.wall)
    (initiation,) = side.drain()
    side.other.read_initiation(initiation)
    assert side.hear(side.other.response()) == [CONSUMED]
    (confirmation,) = side.process()  # one turn
    assert side.other.open(confirmation)
    assert LOAD - 1 - control.PORTION <= waiting(side.engine) < LOAD - 1


def test_a_rekey_does_not_wait_for_strangers() -> None:
    side = Judged().begin()
    side.clock.advance(121)
    side.say(
        b"\x45" + bytes(2) + b"\x14" + bytes(8) + b"\x0a\0\0\1\x0a\0\0\2"
    )  # an old session wants a new one
    crowd(side.engine, LOAD, side.clock.now)
    (initiation,) = [message for message in side.process() if message[0] == 1]
    side.other.read_initiation(initiation)
    assert waiting(side.engine) >= LOAD - control.PORTION


def test_a_source_with_many_waits_for_its_turn() -> None:
    side = Judged()
    stranger = "203.0.113.9:9"
    public = side.engine.public_key
    assert public
    for _ in range(100):
        body = b"\1\0\0\0" + os.urandom(112)
        assert hear(side.engine, body + mac1(body, public) + bytes(16), stranger, side.clock.now)
    assert side.hear(side.other.initiation(7)) == [CONSUMED]
    (response,) = side.process()  # one turn, though it came last
    side.other.read_response(response)
    assert waiting(side.engine) > 80


# ---- how much at a time ----


def test_a_turn_takes_a_portion_and_asks_for_another() -> None:
    side = Judged()
    crowd(side.engine, LOAD, side.clock.now)
    left, turns = LOAD, 0
    while left:
        deadline = side.engine.process(side.clock.now, side.clock.wall)
        assert left - control.PORTION <= waiting(side.engine) < left
        left, turns = waiting(side.engine), turns + 1
        assert deadline == side.clock.now or not left
    assert turns == LOAD // control.PORTION
    assert side.engine.drops()["handshake_invalid"] == LOAD


def test_after_a_restart_ours_are_begun_in_portions_and_answers_come_between() -> None:
    engine = Engine(generate_private_key())
    others: dict[bytes, NoisePeer] = {}
    now = wall = 10**12
    public = engine.public_key
    assert public
    for i in range(300):
        other = NoisePeer(public)
        where = f"198.51.100.{i % 250}:{1000 + i}"
        engine.add_peer(other.public, endpoint=where, persistent_keepalive=25, now=now)
        others[where] = other
    engine.control.enable(now)
    began, answered = 0, 0
    out = Batch.empty(512, HANDSHAKE_MAX)
    for _ in range(200):
        deadline = engine.process(now, wall)
        count = engine.drain(now, out)
        kinds = [message[0] for message in out.first(count).packets()]
        assert kinds.count(1) <= control.DEBTS
        began += kinds.count(1)
        answered += kinds.count(4)
        for i in range(count):
            if kinds[i] == 1:
                endpoint = out.endpoint(i)
                assert endpoint
                where = f"{endpoint.host}:{endpoint.port}"
                others[where].read_initiation(out.packet(i))
                assert hear(engine, others[where].response(), where, now) == f"status {CONSUMED}"
        if deadline != now and not count:
            break
    assert (began, answered) == (300, 300)
    assert not any(engine.drops().values())
    assert engine.core.info().keypairs == 300


# ---- the static-static secret ----


def test_the_static_secret_is_computed_once_and_forgotten_with_the_key() -> None:
    side = Judged()

    def cost_of_an_initiation(message: bytes) -> int:
        side.clock.advance(1)
        assert side.hear(message) == [CONSUMED]
        with watched() as multiplications:
            (response,) = [m for m in side.process() if m[0] == 2]
        side.other.read_response(response)
        return len(multiplications)

    assert cost_of_an_initiation(side.other.initiation(1)) == 4  # es, ss; ee, se
    assert [cost_of_an_initiation(side.other.initiation(2 + i)) for i in range(3)] == [3, 3, 3]
    private = generate_private_key()
    side.engine.core.set_identity(private, public_key(private))
    side.other.remote_public = public_key(private)
    assert cost_of_an_initiation(side.other.initiation(9)) == 4
    assert cost_of_an_initiation(side.other.initiation(10)) == 3


# ---- giving way ----


def on_a_thread(do: Callable[[], object]) -> None:
    thread = threading.Thread(target=do)
    thread.start()
    thread.join()


def nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def test_courtesy_ends_with_its_block() -> None:
    if not priority.may_come_back():
        pytest.skip("takes CAP_SYS_NICE or RLIMIT_NICE")
    seen = []

    def work() -> None:
        courtesy = priority.Courtesy()
        for _ in range(2):
            seen.append(nice())
            with courtesy:
                seen.append(nice())
        seen.append(nice())

    before = nice()
    on_a_thread(work)
    lower = min(before + priority.LESS, 19)
    assert seen == [before, lower, before, lower, before]
    assert nice() == before


class Watched:
    """A courtesy that knows whether it is being shown."""

    def __init__(self) -> None:
        self.shown = False
        self.blocks: list[int] = []  # the multiplications in each
        self._watch = watched()

    def __enter__(self) -> None:
        self.shown = True
        self._multiplications = self._watch.__enter__()

    def __exit__(self, *_: object) -> None:
        self._watch.__exit__(None, None, None)
        self._watch = watched()
        self.shown = False
        self.blocks.append(len(self._multiplications))


def test_handshakes_give_way_and_handlers_do_not() -> None:
    """Who starts a process in a handler would have it at a lower priority for good."""
    side = Judged()
    courtesy = side.engine.control.courtesy = Watched()
    seen: list[tuple[str, bool]] = []
    for event in ("roamed", "handshake"):
        side.engine.on(event, lambda news: seen.append((news.name, courtesy.shown)))
    assert side.hear(side.other.initiation(1), source="203.0.113.9:9") == [CONSUMED]
    with watched() as multiplications:
        (response,) = [m for m in side.process() if m[0] == 2]
    assert courtesy.blocks == [4] == [len(multiplications)]
    side.other.read_response(response)
    side.hear(side.other.seal(b""))
    side.process()
    side.clock.advance(200)  # the session has ended: now we begin one
    side.say(to_them())
    (initiation,) = [m for m in side.process() if m[0] == 1]
    side.other.read_initiation(initiation)
    side.hear(side.other.response())
    side.process()
    assert [shown for _, shown in seen] == [False] * len(seen)
    assert [name for name, _ in seen].count("handshake") == 2
    assert ("roamed", False) in seen


def test_what_an_interrupt_kept_from_being_told_is_told_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while handshakes are computed, where the main thread drives the device."""
    side = Judged()
    courtesy = side.engine.control.courtesy = Watched()
    told: list[str] = []
    for event in ("roamed", "handshake"):
        side.engine.on(event, lambda news: told.append(news.name))

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    side.hear(side.other.initiation(1), source="203.0.113.9:9")
    with monkeypatch.context() as patched:
        patched.setattr(side.engine.control, "_send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            side.process()
    assert not courtesy.shown
    assert told == []
    side.clock.advance(1)
    side.hear(side.other.initiation(2), source="203.0.113.10:9")
    (response,) = [m for m in side.process() if m[0] == 2]
    side.other.read_response(response)
    side.hear(side.other.seal(b""), source="203.0.113.10:9")
    side.process()
    assert told == ["roamed", "roamed", "handshake"]


def test_there_is_no_news_of_a_peer_that_a_handler_has_removed() -> None:
    engine = Engine(generate_private_key())
    public = engine.public_key
    assert public
    others = [NoisePeer(public) for _ in range(2)]
    peers = {bytes(other.public): engine.add_peer(other.public, endpoint="192.0.2.1:1") for other in others}
    told: list[object] = []

    def remove_the_other(news: control.News) -> None:
        told.append(news.peer)
        (other,) = (peer for key, peer in peers.items() if key != news.peer)
        engine.remove_peer(other)

    engine.on("roamed", remove_the_other)
    engine.control.enable(1)
    for number, other in enumerate(others):
        assert hear(engine, other.initiation(), f"203.0.113.{number}:1", 1) == f"status {CONSUMED}"
    engine.process(1, 10**18)
    assert len(told) == 1
    assert engine.control.handler_errors == engine.control.errors == 0


def test_one_courtesy_within_another() -> None:
    """As of a handler of log messages that wants a handshake."""
    if not priority.may_come_back():
        pytest.skip("takes CAP_SYS_NICE or RLIMIT_NICE")
    seen: list[int] = []

    def work() -> None:
        courtesy = priority.Courtesy()
        seen.append(nice())
        for _ in range(2):
            with courtesy, courtesy:
                seen.append(nice())
            seen.append(nice())

    on_a_thread(work)
    assert seen[0::2] == [seen[0]] * 3
    assert seen[1] == seen[3] > seen[0]


@pytest.mark.parametrize("kept", [False, True], ids=["without", "with"])
def test_without_a_way_back_nothing_is_lowered(kept: bool) -> None:
    if os.geteuid():
        pytest.skip("takes root, to become somebody else")

    def somebody() -> None:
        if kept:
            priority.keep_way_back()
        else:
            resource.setrlimit(resource.RLIMIT_NICE, (0, 0))
        os.setresuid(65534, 65534, 65534)
        before = nice()
        # To raise the limit takes CAP_SYS_RESOURCE, which not every root has.
        may = resource.getrlimit(resource.RLIMIT_NICE)[0] >= 20 - before
        assert kept or not may
        assert priority.may_come_back() == may
        with priority.Courtesy():
            assert (nice() > before) == may
        assert nice() == before

    assert forked(somebody) == ""
