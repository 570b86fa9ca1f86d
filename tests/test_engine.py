"""The Engine, judged by cryptography's AEAD, noiseprotocol's handshake and PyNaCl's XChaCha20."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from hashlib import blake2s
from typing import Any

import numpy as np
import pytest
from enginepair import Pair, without
from forking import forked
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt
from noisepeer import NO_PSK, NoisePeer, mac1, mac2
from seeds import generator

from wgfast import Batch, BatchError, ClosedError, ConfigError, Engine, _core, generate_private_key
from wgfast.control import News
from wgfast.engine import ENDPOINT, HANDSHAKE_MAX, OVERHEAD, pack_endpoint
from wgfast.testing import SECOND, ManualClock, Network, delay, duplication, loss, packet, reordering

OK, STAGED, CONSUMED = Batch.OK, Batch.STAGED, Batch.CONSUMED
THERE = "198.51.100.7:4711"


def reason(status: int) -> str:
    return _core.DROP_NAMES[status] if status < len(_core.DROP_NAMES) else f"status {status}"


class Judged:
    """An Engine and, as its only peer, an independent implementation that decides whether it was right."""

    def __init__(self, psk: bytes = NO_PSK, mtu: int = 1420) -> None:
        self.clock = ManualClock()
        self.engine = Engine(generate_private_key(), mtu=mtu)
        public = self.engine.public_key
        assert public
        self.other = NoisePeer(public, psk)
        self.peer = self.engine.add_peer(
            self.other.public, allowed_ips="10.0.0.2/32, fd00::2/128", endpoint=THERE, preshared_key=psk
        )

    def drain(self) -> list[bytes]:
        out, found = Batch.empty(64, 4096), []
        while count := self.engine.drain(self.clock.now, out):
            found += out.first(count).packets()
        return found

    def process(self) -> list[bytes]:
        self.engine.process(self.clock.now, self.clock.wall)
        return self.drain()

    def begin(self) -> Judged:
        """The engine begins a session; what it then says first is a keepalive with counter 0."""
        self.engine.handshake(self.peer, self.clock.now, self.clock.wall)
        (initiation,) = self.drain()
        self.other.read_initiation(initiation)
        assert self.hear(self.other.response()) == [CONSUMED]
        (confirmation,) = self.process()
        message = self.other.open(confirmation)
        assert message
        assert (message.receiver, message.counter, message.inner) == (self.other.index, 0, b"")
        return self

    def hear(self, *datagrams: bytes, source: str = THERE, tos: int = 0) -> list[int]:
        batch = Batch.of(datagrams, source)
        batch.tos[:] = tos
        self.heard = Batch.empty(len(batch), batch.data.shape[1])
        self.engine.receive(batch.data, batch.lengths, batch.endpoints, self.clock.now, self.heard, batch.tos)
        return [int(status) for status in self.heard.status]

    def say(self, *packets: bytes) -> Batch:
        batch = Batch.of(packets)
        out = Batch.empty(len(batch), batch.data.shape[1] + OVERHEAD + 16)
        self.engine.send(batch.data, batch.lengths, self.clock.now, out)
        return out

    def endpoint(self) -> str:
        endpoint = self.engine.peer_info(self.peer).endpoint
        assert endpoint
        return f"{endpoint.host}:{endpoint.port}"


def to_them(payload: bytes = b"") -> bytes:
    return packet("10.0.0.1", "10.0.0.2", payload)


def from_them(payload: bytes = b"", source: str = "10.0.0.2") -> bytes:
    return packet(source, "10.0.0.1", payload)


# ---- what it sends ----


@pytest.mark.parametrize("psk", [NO_PSK, bytes(range(32))], ids=["without psk", "with psk"])
def test_what_it_seals_others_can_open(psk: bytes) -> None:
    side = Judged(psk).begin()
    packets = [to_them(os.urandom(n)) for n in (0, 1, 15, 16, 17, 500, 1392)]
    out = side.say(*packets)
    assert list(out.status) == [OK] * len(packets)
    assert list(out.peers) == [side.peer] * len(packets)
    assert out.endpoint(0) == _core.Endpoint("198.51.100.7", 4711)
    for counter, (inner, sealed) in enumerate(zip(packets, out.packets(), strict=True), start=1):
        message = side.other.open(sealed)
        assert message
        assert (message.receiver, message.counter) == (side.other.index, counter)
        assert message.inner[: len(inner)] == inner


@pytest.mark.parametrize("mtu", [1420, 1280, 1421, 9000])
def test_padding_is_zeros_to_16_bytes_but_never_past_the_mtu(mtu: int) -> None:
    side = Judged(mtu=mtu).begin()
    packets = [to_them(b"\xff" * n) for n in range(0, mtu - 28 + 1, 1 if mtu < 2000 else 61)]
    packets.append(to_them(b"\xff" * (mtu - 28)))
    for inner, sealed in zip(packets, side.say(*packets).packets(), strict=True):
        message = side.other.open(sealed)
        assert message
        assert message.inner == inner + bytes(min(-len(inner) % 16, mtu - len(inner)))


def test_it_sends_what_waited_in_order_and_before_anything_else() -> None:
    side = Judged()
    waiting = [to_them(bytes([i])) for i in range(50)]
    assert set(side.say(*waiting).status) == {STAGED}
    (initiation,) = side.process()
    side.other.read_initiation(initiation)
    side.hear(side.other.response())
    opened = [side.other.open(sealed) for sealed in side.process()]
    assert [message.inner[:29] for message in opened if message] == [inner[:29] for inner in waiting]
    assert [message.counter for message in opened if message] == list(range(50))


def test_packets_that_nobody_owns_or_that_are_none() -> None:
    side = Judged().begin()
    good = to_them()
    packets = [
        good,
        packet("10.0.0.1", "10.9.9.9"),
        b"",
        b"\x45",
        b"\x65" + good[1:],
        good[:2] + b"\xff\xff" + good[4:],
        packet("fd00::1", "fd00::2", b"six"),
    ]
    out = side.say(*packets)
    assert [reason(int(status)) for status in out.status] == [
        f"status {OK}",
        "send_no_peer",
        *["send_malformed"] * 4,
        f"status {OK}",
    ]
    assert [int(length) > 0 for length in out.lengths] == [True] + [False] * 5 + [True]
    assert side.engine.drops()["send_malformed"] == 4


def test_output_too_small_for_a_packet_drops_that_packet_only() -> None:
    side = Judged().begin()
    batch = Batch.of([to_them(bytes(500)), to_them(bytes(10))])
    out = Batch.empty(2, 400)
    side.engine.send(batch.data, batch.lengths, side.clock.now, out)
    assert [reason(int(status)) for status in out.status] == ["send_too_large", f"status {OK}"]


def test_two_threads_never_use_a_counter_twice() -> None:
    side = Judged().begin()
    batch = Batch.of([to_them(b"x")] * 64)
    outs: list[list[Batch]] = [[], []]

    def work(mine: list[Batch]) -> None:
        for _ in range(100):
            out = Batch.empty(64, 128)
            side.engine.send(batch.data, batch.lengths, side.clock.now, out)
            mine.append(out)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in outs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened = [side.other.open(sealed) for mine in outs for out in mine for sealed in out.packets()]
    assert sorted(message.counter for message in opened if message) == list(range(1, 12_801))


# ---- what it receives ----


def test_what_others_seal_it_opens_and_trims() -> None:
    side = Judged().begin()
    packets = [from_them(os.urandom(n)) for n in (0, 1, 3, 4, 500, 1392)]
    packets.append(packet("fd00::2", "fd00::1", b"six"))
    sealed = [side.other.seal(inner + bytes(-len(inner) % 16)) for inner in packets]
    assert side.hear(*sealed) == [OK] * len(packets)
    assert side.heard.packets() == packets
    assert list(side.heard.peers) == [side.peer] * len(packets)


def test_every_flipped_bit_of_a_packet_is_refused() -> None:
    side = Judged().begin()
    sealed = side.other.seal(from_them(b"abcd"))
    changed = []
    for bit in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[bit // 8] ^= 1 << bit % 8
        changed.append(bytes(flipped))
    statuses = side.hear(*changed)
    assert OK not in statuses
    assert CONSUMED not in statuses
    assert not side.heard.data.any()
    assert side.hear(sealed) == [OK]


def test_every_flipped_bit_of_an_initiation_is_refused() -> None:
    """All but mac2, which counts only under load."""
    side = Judged()
    message = side.other.initiation()
    for bit in range(8 * 132):
        flipped = bytearray(message)
        flipped[bit // 8] ^= 1 << bit % 8
        side.hear(bytes(flipped))
    assert side.process() == []
    assert side.engine.peer_info(side.peer).received_bytes == 0
    side.hear(message)
    (response,) = side.process()
    side.other.read_response(response)


def test_replays_are_refused_and_stragglers_are_not() -> None:
    side = Judged().begin()
    order = generator("replays").permutation(3000).tolist()
    sealed = [side.other.seal(from_them(), counter) for counter in order]
    assert set(side.hear(*sealed)) == {OK}
    assert {reason(status) for status in side.hear(*sealed)} == {"receive_replayed"}
    far = _core.REPLAY_WINDOW + 10_000
    assert side.hear(side.other.seal(from_them(), far)) == [OK]
    assert side.hear(side.other.seal(from_them(), far - _core.REPLAY_WINDOW + 1)) == [OK]
    # RFC 6479 windows are a little larger than promised.
    (old,) = side.hear(side.other.seal(from_them(), far - _core.REPLAY_WINDOW - 1024))
    assert reason(old) == "receive_replayed"


def test_messages_beyond_the_limit_are_refused() -> None:
    side = Judged().begin()
    limit = _core.REJECT_AFTER_MESSAGES
    assert limit == 2**64 - 2**13 - 1
    (refused,) = side.hear(side.other.seal(from_them(), limit))
    assert reason(refused) == "receive_expired"
    assert side.hear(side.other.seal(from_them(), limit - 1)) == [OK]


def test_inner_packets_that_are_none() -> None:
    side = Judged().begin()
    good = from_them(b"payload")
    bad = [
        b"\x00" * 16,
        b"\x45" * 16,
        good[:2] + b"\xff\xff" + good[4:],
        good[:2] + b"\0\1" + good[4:],
        b"\x60",
    ]
    statuses = side.hear(*[side.other.seal(inner) for inner in bad])
    assert {reason(status) for status in statuses} == {"receive_malformed"}


def test_the_source_must_be_the_peers_in_the_table_of_the_whole_device() -> None:
    side = Judged()
    side.engine.core.peer_allow(side.peer, 4, bytes([10, 1, 0, 0]), 16)
    neighbour = side.engine.add_peer(os.urandom(32), allowed_ips="10.1.2.0/24")
    side.begin()
    sources = ["10.0.0.2", "10.1.0.1", "10.1.2.3", "10.0.0.3", "127.0.0.1"]
    statuses = side.hear(*[side.other.seal(from_them(source=source)) for source in sources])
    assert [reason(status) for status in statuses] == [
        f"status {OK}",
        f"status {OK}",
        "receive_source",
        "receive_source",
        "receive_source",
    ]
    side.engine.remove_peer(neighbour)
    assert side.hear(side.other.seal(from_them(source="10.1.2.3"))) == [OK]


def test_junk_is_dropped_counted_and_harmless() -> None:
    side = Judged().begin()
    rng = random.Random(int(generator("junk").integers(1 << 32)))
    junk = [
        rng.randbytes(n) for n in (0, 1, 3, 4, 15, 16, 31, 32, 63, 64, 65, 91, 92, 93, 147, 148, 149, 65507)
    ]
    for first in (b"\1\0\0\0", b"\2\0\0\0", b"\3\0\0\0", b"\4\0\0\0", b"\1\0\0\1", b"\5\0\0\0"):
        junk += [(first + rng.randbytes(200))[:n] for n in (4, 16, 32, 64, 92, 148, 200)]
    before = sum(side.engine.drops().values())
    statuses = side.hear(*junk)
    assert all(status < len(_core.DROP_NAMES) for status in statuses)
    assert sum(side.engine.drops().values()) == before + len(junk)
    assert side.process() == []
    assert side.hear(side.other.seal(from_them())) == [OK]


# ---- roaming ----


def test_it_roams_on_authenticated_packets_and_on_nothing_else() -> None:
    side = Judged().begin()
    news: list[News] = []
    side.engine.on("roamed", news.append)
    sealed = side.other.seal(from_them())
    side.hear(sealed[:-1] + bytes([sealed[-1] ^ 1]), source="203.0.113.1:1")
    assert side.endpoint() == THERE
    side.hear(sealed, source="203.0.113.2:2")
    assert side.endpoint() == "203.0.113.2:2"
    side.hear(sealed, source="203.0.113.3:3")  # replayed
    assert side.endpoint() == "203.0.113.2:2"
    side.hear(side.other.seal(b""), source="203.0.113.4:4")  # a keepalive
    assert side.endpoint() == "203.0.113.4:4"
    assert side.say(to_them()).endpoint(0) == _core.Endpoint("203.0.113.4", 4)
    side.process()
    assert [item.endpoint.port for item in news if item.endpoint] == [2, 4]
    assert {item.peer for item in news} == {side.other.public}


def test_it_roams_on_handshakes_and_answers_where_they_came_from() -> None:
    side = Judged()
    side.hear(side.other.initiation(), source="203.0.113.5:5")
    assert side.endpoint() == THERE
    out = Batch.empty(4, HANDSHAKE_MAX)
    side.engine.process(side.clock.now, side.clock.wall)
    assert side.engine.drain(side.clock.now, out) == 1
    assert side.endpoint() == "203.0.113.5:5"
    assert out.endpoint(0) == _core.Endpoint("203.0.113.5", 5)


# ---- staging ----


def test_a_peer_keeps_its_newest_128_packets() -> None:
    side = Judged()
    for i in range(200):
        side.say(to_them(i.to_bytes(2, "big")))
    assert side.engine.peer_info(side.peer).staged == 128
    assert side.engine.drops()["send_staged_full"] == 72
    (initiation,) = side.process()
    side.other.read_initiation(initiation)
    side.hear(side.other.response())
    opened = [side.other.open(sealed) for sealed in side.process()]
    assert [int.from_bytes(message.inner[28:30], "big") for message in opened if message] == list(
        range(72, 200)
    )


def test_a_device_keeps_a_bounded_number_of_packets() -> None:
    engine = Engine(generate_private_key())
    ceiling = engine.core.info().packet_memory_ceiling
    for i in range(40):
        engine.add_peer(os.urandom(32), allowed_ips=f"10.0.{i}.0/24", endpoint=THERE)
    packets = [packet("10.1.1.1", f"10.0.{i}.1", bytes(1392)) for _ in range(128) for i in range(40)]
    batch = Batch.of(packets)
    engine.send(batch.data, batch.lengths, SECOND, Batch.empty(len(batch), 1500))
    staged = engine.core.info().staged
    assert 0 < staged * 1420 <= 4 << 20
    assert staged + engine.drops()["send_staged_full"] == len(packets)
    assert engine.core.info().packet_memory_ceiling == ceiling


# ---- cookies and load ----


def flood(pair: Pair, count: int = 140) -> None:
    """Initiations with a right mac1 reach bob, faster than he works."""
    public = pair.bob.engine.public_key
    assert public
    bodies = [b"\1\0\0\0" + os.urandom(112) for _ in range(count)]
    batch = Batch.of([body + mac1(body, public) + bytes(16) for body in bodies], "203.0.113.66:66")
    out = Batch.empty(count, HANDSHAKE_MAX)
    pair.bob.engine.receive(batch.data, batch.lengths, batch.endpoints, pair.clock.now, out)


def cookie_of(reply: bytes, initiation: bytes, responder_public: bytes) -> bytes:
    """By another implementation of XChaCha20-Poly1305."""
    key = blake2s(b"cookie--" + responder_public).digest()
    return crypto_aead_xchacha20poly1305_ietf_decrypt(reply[32:], initiation[116:132], reply[8:32], key)


def test_under_load_a_handshake_needs_a_cookie() -> None:
    pair = Pair()
    pair.network.settle()
    news: list[News] = []
    for node in (pair.alice, pair.bob):
        for event in ("cookie", "load", "handshake"):
            node.engine.on(event, news.append)  # type: ignore[arg-type]
    public = pair.bob.engine.public_key
    assert public
    flood(pair)
    pair.alice_says()
    pair.network.settle()
    (initiation,) = pair.heard.of("initiation")
    (reply,) = [datagram for datagram in pair.heard.of("cookie") if datagram.destination.host == "192.0.2.1"]
    assert reply.source == pair.bob.address
    assert pair.heard.of("response") == []
    assert reply.data[4:8] == initiation.data[4:8]
    cookie = cookie_of(reply.data, initiation.data, public)
    assert [item.name for item in news] == ["load", "cookie"]
    # She does not try again before her time; when she does, her mac2 opens the door, load or not.
    pair.network.run(4.9)
    assert len(pair.heard.of("initiation")) == 1
    flood(pair)
    pair.network.run(1)
    second = pair.heard.of("initiation")[1].data
    assert second[132:] == mac2(second[:132], cookie)
    assert len(pair.heard.of("response")) == 1
    assert len(pair.bob.received) == 1
    pair.network.run(3)
    assert [(item.name, item.value) for item in news if item.name == "load"][-1] == ("load", 0)
    assert not pair.bob.engine.control.under_load


def test_a_cookie_does_not_move_a_peer() -> None:
    pair = Pair()
    pair.network.settle()
    flood(pair)
    pair.alice_says()
    pair.network.weather.append(
        lambda datagram: [
            (
                0,
                datagram._replace(source=_core.Endpoint("203.0.113.9", 9))
                if datagram.kind == "cookie"
                else datagram,
            )
        ]
    )
    pair.network.settle()
    assert pair.heard.of("cookie")
    assert pair.alice.engine.drops()["cookie_invalid"] == 0
    endpoint = pair.alice.engine.peer_info(pair.to_bob).endpoint
    assert endpoint
    assert (endpoint.host, endpoint.port) == ("192.0.2.2", 2)


def test_a_cookie_nobody_asked_for_is_refused() -> None:
    side = Judged()
    side.engine.handshake(side.peer, side.clock.now, side.clock.wall)
    (initiation,) = side.drain()
    reply = b"\3\0\0\0" + initiation[4:8] + os.urandom(56)
    (status,) = side.hear(reply)
    assert reason(status) == "cookie_invalid"
    (status,) = side.hear(b"\3\0\0\0" + os.urandom(60))
    assert reason(status) in ("receive_index", "cookie_invalid")


def test_one_source_cannot_starve_another_under_load() -> None:
    pair = Pair()
    pair.network.settle()
    public = pair.bob.engine.public_key
    assert public
    flood(pair)
    statuses = {}
    for source in ("203.0.113.1:1", "203.0.113.2:1"):
        stranger = NoisePeer(public)
        first = stranger.initiation(7)
        batch = Batch.of([first], source)
        out = Batch.empty(1, HANDSHAKE_MAX)
        pair.bob.engine.receive(batch.data, batch.lengths, batch.endpoints, pair.clock.now, out)
        assert reason(int(out.status[0])) == "handshake_cookie"
        drained = Batch.empty(256, HANDSHAKE_MAX)
        count = pair.bob.engine.drain(pair.clock.now, drained)
        reply = drained.packet(count - 1)
        cookie = cookie_of(reply, first, public)
        admitted = [message[:132] + mac2(message[:132], cookie) for message in [first] * 40]
        batch = Batch.of(admitted, source)
        out = Batch.empty(40, HANDSHAKE_MAX)
        pair.bob.engine.receive(batch.data, batch.lengths, batch.endpoints, pair.clock.now, out)
        statuses[source] = [reason(int(status)) for status in out.status]
    for seen in statuses.values():
        passed = seen.count(f"status {CONSUMED}")
        assert 1 <= passed <= 6
        assert seen.count("handshake_rate") == 40 - passed


# ---- preshared keys ----


def test_a_changed_psk_counts_at_once() -> None:
    pair = Pair().connect()
    psk = os.urandom(32)
    before = pair.alice.engine.peer_info(pair.to_bob).session_birth
    pair.clock.advance(6)
    for node, peer in ((pair.bob, pair.to_alice), (pair.alice, pair.to_bob)):
        node.engine.set_preshared_key(peer, psk, pair.clock.now, pair.clock.wall)
    pair.network.run(12)
    assert pair.alice.engine.peer_info(pair.to_bob).session_birth > before
    pair.alice_says()
    pair.network.settle()
    assert len(pair.bob.received) == 1


def test_a_psk_changed_during_a_handshake_ends_it_and_begins_another() -> None:
    pair = Pair(delay(1))
    pair.alice_says()
    pair.network.run(0.5)
    psk = os.urandom(32)
    pair.alice.engine.set_preshared_key(pair.to_bob, psk, pair.clock.now, pair.clock.wall)
    pair.bob.engine.set_preshared_key(pair.to_alice, psk, pair.clock.now, pair.clock.wall)
    pair.network.run(4)
    assert pair.bob.received == []
    pair.network.run(6)
    assert len(pair.bob.received) == 1
    assert [round(at) for at in pair.times("initiation")] == [0, 5]


def test_the_same_psk_again_changes_nothing() -> None:
    psk = os.urandom(32)
    pair = Pair(psk=psk).connect()
    pair.clock.advance(10)
    pair.alice.engine.set_preshared_key(pair.to_bob, psk, pair.clock.now, pair.clock.wall)
    pair.network.settle()
    assert pair.times("initiation") == []


# ---- bad weather ----


def test_whatever_the_network_does_each_packet_arrives_at_most_once() -> None:
    rng = random.Random(int(generator("weather").integers(1 << 32)))
    pair = Pair(loss(rng, 0.1), duplication(rng, 0.2), reordering(rng, 0.3))
    sent: list[set[bytes]] = [set(), set()]
    for i in range(600):
        for to, packets in ((pair.alice, sent[0]), (pair.bob, sent[1])):
            source, there = ("10.0.0.1", "10.0.0.2") if to is pair.alice else ("10.0.0.2", "10.0.0.1")
            inner = packet(source, there, i.to_bytes(4, "big") + rng.randbytes(rng.randrange(1000)))
            if to is pair.alice or i > 20:
                packets.add(inner)
                to.send(inner)
        pair.network.run(0.5)
    for node, packets in ((pair.bob, sent[0]), (pair.alice, sent[1])):
        received = [inner for _, inner in node.received]
        assert len(set(received)) == len(received)
        assert set(received) <= packets
        assert len(received) > 0.8 * len(packets)
        assert node.engine.control.errors == 0


def test_outside_and_inside_may_be_ipv6() -> None:
    network = Network(ManualClock())
    engines = [Engine(generate_private_key()) for _ in range(2)]
    nodes = [network.attach(engine, f"[2001:db8::{i}]:{i}") for i, engine in enumerate(engines, 1)]
    for i, engine in enumerate(engines):
        other = engines[1 - i].public_key
        assert other
        engine.add_peer(other, allowed_ips=f"fd00::{2 - i}/128", endpoint=f"[2001:db8::{2 - i}]:{2 - i}")
    inner = packet("fd00::1", "fd00::2", b"six in six")
    nodes[0].send(inner)
    network.settle()
    assert [got for _, got in nodes[1].received] == [inner]


# ---- bad arguments ----


def batches() -> tuple[Batch, Batch]:
    return Batch.of([to_them(b"abc")] * 3), Batch.empty(3, 256)


def test_bad_arrays_are_refused_by_name_and_change_nothing() -> None:
    side = Judged().begin()
    now = side.clock.now
    good, out = batches()
    frozen = np.zeros((3, 256), np.uint8)
    frozen.flags.writeable = False

    def put(**attributes: Any) -> Batch:
        changed = batches()[1]
        for name, value in attributes.items():
            setattr(changed, name, value)
        return changed

    wrong: list[tuple[str, Callable[[], object]]] = [
        ("packets", lambda: side.engine.send(good.data.astype(np.int32), good.lengths, now, out)),
        ("packets", lambda: side.engine.send(good.data[0], good.lengths, now, out)),
        ("packets", lambda: side.engine.send(good.data[:, ::2], good.lengths, now, out)),
        ("lengths", lambda: side.engine.send(good.data, good.lengths.astype(np.int64), now, out)),
        ("lengths", lambda: side.engine.send(good.data, good.lengths[:2], now, out)),
        ("lengths", lambda: side.engine.send(good.data, good.lengths + np.uint32(9999), now, out)),
        ("out", lambda: side.engine.send(good.data, good.lengths, now, put(data=frozen))),
        ("out", lambda: side.engine.send(good.data, good.lengths, now, Batch.empty(2, 256))),
        ("status", lambda: side.engine.send(good.data, good.lengths, now, put(status=np.zeros(3, np.int8)))),
        ("peers", lambda: side.engine.send(good.data, good.lengths, now, put(peers=np.zeros(3, np.int32)))),
        ("tos", lambda: side.engine.send(good.data, good.lengths, now, put(tos=np.zeros(2, np.uint8)))),
        (
            "endpoints",
            lambda: side.engine.send(good.data, good.lengths, now, put(endpoints=np.zeros(3, np.uint64))),
        ),
        ("endpoints", lambda: side.engine.receive(good.data, good.lengths, np.zeros(2, ENDPOINT), now, out)),
        ("out", lambda: side.engine.drain(now, put(data=frozen))),
    ]
    state = side.engine.peer_info(side.peer), side.engine.drops()
    for name, call in wrong:
        with pytest.raises(BatchError) as caught:
            call()
        assert name in str(caught.value), (name, caught.value)
    assert (side.engine.peer_info(side.peer), side.engine.drops()) == state
    message = side.other.open(side.say(to_them()).packet(0))
    assert message
    assert message.counter == 1


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"public_key": "short"}, "public_key"),
        ({"public_key": b"x" * 31}, "public_key"),
        ({"allowed_ips": "10.0.0.0/33"}, "allowed_ips"),
        ({"allowed_ips": ["10.0.0.0/24", "nonsense"]}, "allowed_ips"),
        ({"allowed_ips": "10.0.0.0/255.0.0.0"}, "allowed_ips"),
        ({"allowed_ips": 7}, "allowed_ips"),
        ({"endpoint": "192.0.2.1"}, "endpoint"),
        ({"endpoint": "192.0.2.1:0"}, "endpoint"),
        ({"endpoint": "192.0.2.1:65536"}, "endpoint"),
        ({"endpoint": "fe80::1:51820"}, "endpoint"),
        ({"endpoint": ("", 1)}, "endpoint"),
        ({"preshared_key": "AAAA"}, "preshared_key"),
        ({"persistent_keepalive": 65536}, "persistent_keepalive"),
        ({"persistent_keepalive": -1}, "persistent_keepalive"),
    ],
)
def test_bad_peers_are_refused_whole(arguments: dict[str, Any], field: str) -> None:
    engine = Engine(generate_private_key())
    good = {"public_key": os.urandom(32), "allowed_ips": "10.0.0.0/8", "preshared_key": os.urandom(32)}
    with pytest.raises(ConfigError, match=field):
        engine.add_peer(**{**good, **arguments})
    assert engine.core.peers() == []
    assert engine.core.route(4, bytes([10, 1, 1, 1])) == 0


def test_secrets_are_not_in_error_messages() -> None:
    secret = "secret" + "A" * 38
    with pytest.raises(ConfigError) as caught:
        Engine(secret)
    assert "secret" not in str(caught.value).replace("private_key", "")
    assert repr(generate_private_key()).count("=") == 0


def test_own_key_is_no_peer() -> None:
    engine = Engine(generate_private_key())
    own = engine.public_key
    assert own
    with pytest.raises(ConfigError, match="own"):
        engine.add_peer(own)


# ---- life ----


def test_an_engine_cannot_be_copied() -> None:
    engine = Engine(generate_private_key())
    for copier in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copier(engine)


def test_a_forked_child_cannot_use_it() -> None:
    side = Judged().begin()
    good, out = batches()
    uses: list[Callable[[], object]] = [
        lambda: side.engine.send(good.data, good.lengths, side.clock.now, out),
        lambda: side.engine.receive(good.data, good.lengths, good.endpoints, side.clock.now, out),
        lambda: side.engine.drain(side.clock.now, out),
        lambda: side.engine.process(side.clock.now),
        lambda: side.engine.public_key,
        lambda: side.engine.peer_info(side.peer),
        lambda: side.engine.handshake(side.peer, side.clock.now),
    ]
    assert [forked(use) for use in uses] == ["ForkedError"] * len(uses)
    message = side.other.open(side.say(to_them()).packet(0))
    assert message
    assert message.counter == 1


def test_a_closed_engine_says_so() -> None:
    engine = Engine(generate_private_key())
    engine.close()
    engine.close()
    good, out = batches()
    for use in (
        lambda: engine.send(good.data, good.lengths, 1, out),
        lambda: engine.process(1),
        lambda: engine.peer_info(1),
    ):
        with pytest.raises(ClosedError):
            use()


def test_a_handler_that_raises_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    pair = Pair()
    happened: list[News] = []

    def broken(news: News) -> None:
        raise RuntimeError("broken handler")

    pair.alice.engine.on("handshake", broken)
    pair.alice.engine.on("handshake", happened.append)
    with caplog.at_level(logging.ERROR, "wgfast"):
        pair.connect()
    assert pair.alice.engine.control.handler_errors == 1
    assert "broken handler" in caplog.text
    assert [(news.name, news.value) for news in happened] == [("handshake", 1)]
    with pytest.raises(ConfigError, match="nonsense"):
        pair.alice.engine.on("nonsense", broken)  # type: ignore[arg-type]


def test_next_timeout_knows_of_what_was_just_sent() -> None:
    pair = Pair()
    engine = pair.alice.engine
    engine.process(pair.clock.now, pair.clock.wall)
    assert engine.next_timeout() is None
    pair.alice_says()
    due = engine.next_timeout()
    assert due is not None
    assert due <= pair.clock.now
    deadline = engine.process(pair.clock.now, pair.clock.wall)
    assert deadline is not None
    assert 5 * SECOND <= deadline - pair.clock.now < 5.34 * SECOND
    assert engine.next_timeout() == deadline


def test_removed_peers_are_forgotten() -> None:
    pair = Pair(without("response"))
    pair.alice_says()
    pair.network.settle()
    pair.alice.engine.remove_peer(pair.to_bob)
    pair.network.run(20)
    assert pair.alice.engine.control.errors == 0
    assert pair.alice.engine.core.info().indices == 0
    assert pair.alice.engine.control.pending == {}


def test_the_endpoint_dtype_is_the_cores() -> None:
    assert ENDPOINT.itemsize == 48
    endpoint = _core.Endpoint("fe80::1%7", 51820, "fe80::2", 7)
    packed = pack_endpoint(endpoint)
    assert (int(packed["port"]), int(packed["family"]), int(packed["scope"])) == (51820, 6, 7)
    assert _core.unpack_endpoint(packed.tobytes()) == endpoint


def test_a_batch_says_which_array_does_not_fit() -> None:
    batch = Batch.empty(3)
    with pytest.raises(BatchError, match="tos"):
        Batch(batch.data, batch.lengths, batch.endpoints, batch.tos[:2], batch.peers, batch.status)


def test_importing_wgfast_imports_little() -> None:
    """Nor does the control plane of a Device: an idle tunnel is small (DESIGN.md)."""
    program = (
        "import sys, wgfast, wgfast.device, wgfast.driver\n"
        "wgfast.Device, wgfast.Peer, wgfast.generate_private_key\n"
        "heavy = {'numpy', 'click', 'rich', 'pyroute2', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
