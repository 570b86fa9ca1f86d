"""The Engine, judged by cryptography's AEAD, noiseprotocol's handshake and PyNaCl's XChaCha20."""

from __future__ import annotations

import os
import random
import threading

import pytest
from judged import CONSUMED, OK, STAGED, THERE, Judged, from_them, reason, to_them
from noisepeer import NO_PSK
from seeds import generator

from wgfast import Batch, Engine, _core, generate_private_key
from wgfast.control import News
from wgfast.engine import HANDSHAKE_MAX
from wgfast.testing import SECOND, packet

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
    news: list[News] = []
    side.engine.on("roamed", news.append)
    side.hear(side.other.initiation(), source="203.0.113.5:5")
    assert side.endpoint() == THERE
    out = Batch.empty(4, HANDSHAKE_MAX)
    side.engine.process(side.clock.now, side.clock.wall)
    assert side.engine.drain(side.clock.now, out) == 1
    assert side.endpoint() == "203.0.113.5:5"
    assert out.endpoint(0) == _core.Endpoint("203.0.113.5", 5)
    for source in ("203.0.113.5:5", "203.0.113.5:6", "203.0.113.6:6"):
        side.clock.advance(1)
        side.hear(side.other.initiation(), source=source)
        side.process()
    assert [item.endpoint.port for item in news if item.endpoint] == [5, 6, 6]


def test_who_had_no_endpoint_has_not_roamed() -> None:
    side = Judged(endpoint=None)
    news: list[News] = []
    side.engine.on("roamed", news.append)
    side.hear(side.other.initiation(), source="203.0.113.5:5")
    side.process()
    assert side.endpoint() == "203.0.113.5:5"
    assert news == []


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
