"""Cookies, load, preshared keys and bad weather, over the network in memory."""

from __future__ import annotations

import os
import random
from hashlib import blake2s

from enginepair import Pair
from judged import CONSUMED, Judged, reason
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt
from noisepeer import NoisePeer, mac1, mac2
from seeds import generator

from wgfast import Batch, Engine, _core, generate_private_key
from wgfast.control import News
from wgfast.engine import HANDSHAKE_MAX
from wgfast.testing import ManualClock, Network, delay, duplication, loss, packet, reordering

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
