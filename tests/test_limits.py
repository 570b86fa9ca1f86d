"""Limits of a peer: what an Engine lets pass against buckets of fractions, and how they are set and shown."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Iterator
from dataclasses import asdict
from fractions import Fraction
from math import floor
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from configured import configure, new_key
from enginepair import ALICE, Pair
from hypothesis import given, settings
from hypothesis import strategies as st

from wgfast import Batch, ConfigError, Device, Limits, Usage, _core, generate_private_key, limits
from wgfast.cli.set import set_command
from wgfast.cli.set_words import SetWords
from wgfast.cli.show_pretty import pretty, without_colours
from wgfast.client_uapi import parse_device, parse_statistics, set_text
from wgfast.engine import OVERHEAD
from wgfast.reading import read_device
from wgfast.testing import SECOND, packet
from wgfast.uapi import UapiError, dump, statistics

HEADERS = 28  # IPv4 and UDP, of the inner packets
REASONS = ("send_limited", "send_quota", "receive_limited", "receive_quota")
LIMITED, QUOTA, RECEIVE_LIMITED, RECEIVE_QUOTA = (_core.DROP_NAMES.index(reason) for reason in REASONS)
EVERY = Limits(*range(1000, 1010))


def test_the_names_and_their_bounds() -> None:
    """As they are written down for users; a smaller bound would refuse what was taken."""
    each = ("rate", 10**12), ("burst", 10**12), ("packet_rate", 10**9), ("packet_burst", 10**9)
    one = (*each, ("quota", 10**18), ("used", 10**18))
    assert list(limits.MOST.items()) == [
        (f"{way}_{name}", most) for way in ("send", "receive") for name, most in one
    ]
    assert [name for name in limits.NAMES if not name.endswith("_used")] == list(asdict(Limits()))


# ---- what passes ----


class Bucket:
    """Tokens drop in one after the other from the moment it is set; it begins full, and holds no more."""

    def __init__(self, rate: Fraction, burst: int, now: int) -> None:
        self.rate, self.burst, self.began = rate, burst, now
        self.level, self.fallen = burst, 0

    def fill(self, now: int) -> None:
        fallen = floor(self.rate * Fraction(now - self.began, SECOND))
        self.level = min(self.burst, self.level + fallen - self.fallen)
        self.fallen = fallen


class Oracle:
    """One direction of one peer."""

    def __init__(
        self, rate: int, burst: int, packet_rate: int, packet_burst: int, quota: int, now: int
    ) -> None:
        quarter, packets = rate // 32, packet_rate // 4
        self.bytes = Bucket(Fraction(rate, 8), burst or max(quarter, 65536), now) if rate else None
        self.packets = (
            Bucket(Fraction(packet_rate), packet_burst or max(packets, 64), now) if packet_rate else None
        )
        self.quota, self.used = quota, 0

    def judge(self, length: int, now: int) -> str:
        for bucket in (self.bytes, self.packets):
            if bucket:
                bucket.fill(now)
        if self.quota and self.used + length > self.quota:
            return "quota"
        if (self.bytes and self.bytes.level < length) or (self.packets and self.packets.level < 1):
            return "limited"
        if self.bytes:
            self.bytes.level -= length
        if self.packets:
            self.packets.level -= 1
        self.used += length if self.quota else 0
        return ""


class Carried:
    """Alice tells Bob; whoever limits, the statuses are his."""

    def __init__(self) -> None:
        self.pair = Pair().connect()
        self.source = Batch.of([b""] * 64, ALICE).endpoints

    def carry(self, lengths: list[int], receiving: bool) -> list[int]:
        pair, n = self.pair, len(lengths)
        inner = Batch.of([packet("10.0.0.1", "10.0.0.2", bytes(length - HEADERS)) for length in lengths])
        outer = Batch.empty(n, inner.data.shape[1] + OVERHEAD + 16)
        pair.alice.engine.send(inner.data, inner.lengths, pair.clock.now, outer)
        if not receiving:
            return [int(status) for status in outer.status]
        heard = Batch.empty(n, outer.data.shape[1])
        pair.bob.engine.receive(outer.data, outer.lengths, self.source[:n], pair.clock.now, heard)
        return [int(status) for status in heard.status]


RATES = st.sampled_from([0, 0, 1, 999, 8_000, 123_457, 10**6, 10**9, 10**12])
BURSTS = st.sampled_from([0, 1, 60, 1000, 20_000, 10**12])
PACKETS = st.sampled_from([0, 0, 1, 3, 100, 12_345, 10**9])
PACKET_BURSTS = st.sampled_from([0, 1, 2, 10, 10**9])
QUOTAS = st.sampled_from([0, 0, 100, 5_000, 100_000, 10**18])
ONE = st.tuples(RATES, BURSTS, PACKETS, PACKET_BURSTS, QUOTAS)
LENGTHS = st.lists(st.integers(HEADERS, 1400), min_size=1, max_size=40)
STEP = st.tuples(LENGTHS, st.sampled_from([0, 1, 1_000, 10**6, 7 * 10**6, 10**8, SECOND, 3 * SECOND]))


@given(ONE, st.booleans(), st.lists(STEP, min_size=1, max_size=25))
@settings(max_examples=300, deadline=None)
def test_what_passes_is_what_the_oracle_lets_pass(
    one: tuple[int, int, int, int, int], receiving: bool, steps: list[tuple[list[int], int]]
) -> None:
    carried = Carried()
    pair = carried.pair
    node, peer = (pair.bob, pair.to_alice) if receiving else (pair.alice, pair.to_bob)
    node.engine.set_limits(peer, Limits(*(5 * (0,) if receiving else ()), *one), pair.clock.now)
    oracle = Oracle(*one, pair.clock.now)
    statuses = {
        "": Batch.OK,
        "limited": RECEIVE_LIMITED if receiving else LIMITED,
        "quota": RECEIVE_QUOTA if receiving else QUOTA,
    }
    for lengths, wait in steps:
        expected = [statuses[oracle.judge(length, pair.clock.now)] for length in lengths]
        assert carried.carry(lengths, receiving) == expected
        usage = node.engine.limits(peer)[1]
        assert (usage.received if receiving else usage.sent) == oracle.used
        pair.clock.now += wait


def test_threads_together_get_no_more_than_one_would() -> None:
    carried, said = Carried(), Limits(send_rate=80_000_000, send_burst=50_000, send_packet_rate=9_000)
    pair, step, turns = carried.pair, 100_000, 300
    pair.alice.engine.set_limits(pair.to_bob, said, pair.clock.now)
    inner = Batch.of([packet("10.0.0.1", "10.0.0.2", bytes(n)) for n in range(0, 1280, 20)])
    passed = [[0, 0] for _ in range(4)]

    def work(mine: list[int]) -> None:
        out = Batch.empty(64, 1400)
        for turn in range(turns):
            pair.alice.engine.send(inner.data, inner.lengths, pair.start + turn * step, out)
            fits = out.status == Batch.OK
            mine[0] += int(inner.lengths[fits].sum())
            mine[1] += int(np.count_nonzero(fits))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in passed]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = (turns - 1) * step
    assert sum(mine[0] for mine in passed) <= 10_000_000 * took / SECOND + 50_000
    most = 9_000 * took / SECOND + 2_250
    assert most * 0.9 < sum(mine[1] for mine in passed) <= most


def test_a_silent_quota_keeps_nobody_from_shaking_hands() -> None:
    """Handshakes and keepalives pass, and the session goes on."""
    pair = Pair()
    pair.alice.engine.set_limits(pair.to_bob, Limits(send_quota=1), pair.clock.now)
    pair.bob.engine.set_limits(pair.to_alice, Limits(receive_quota=1, send_packet_rate=1), pair.clock.now)
    pair.connect()
    for _ in range(30):
        pair.alice_says()
        pair.network.run(10)
        pair.bob_says()
    assert pair.bob.received == []
    assert len(pair.alice.received) >= 29
    assert set(pair.drops()) == {"send_quota"}
    assert pair.heard.of("initiation", "response", "keepalive")


# ---- setting ----


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device(generate_private_key(), name="limited")
    yield made
    made.close()


def shown(device: Device) -> dict[str, str]:
    """By get=1; wgfast=1 says the same."""
    told = [b"".join(told(device)).decode().splitlines() for told in (dump, statistics)]
    found = [{key: value for key, _, value in (line.partition("=") for line in lines) if key in limits.NAMES}
             for lines in told]  # fmt: skip
    assert found[0] == found[1]
    return found[0]


def test_a_peer_has_the_limits_it_is_given(device: Device) -> None:
    peer = device.add_peer(new_key(), limits=EVERY)
    assert peer.limits == EVERY
    assert peer.usage == Usage()
    peer.usage = Usage(5, 6)
    peer.limits = Limits(receive_quota=7)
    assert (peer.limits, peer.usage) == (Limits(receive_quota=7), Usage(0, 6))
    peer.limits = None
    assert (peer.limits, peer.usage) == (Limits(), Usage())
    assert device.add_peer(new_key()).limits == Limits()


@pytest.mark.parametrize("name", list(asdict(Limits())))
@pytest.mark.parametrize("wrong", [-1, None, 1.5, "1", True])
def test_what_cannot_be_a_limit_is_named(device: Device, name: str, wrong: Any) -> None:
    key = new_key()
    for value in (wrong, limits.MOST[name] + 1):
        said = Limits(**{name: value})
        with pytest.raises(ConfigError, match=f"limits: {name}: .*must be 0 to {limits.MOST[name]}"):
            device.add_peer(key, limits=said)
        with pytest.raises(ConfigError, match=rf"peers\[0\]: limits: {name}"):
            device.update([{"public_key": key, "limits": said}])
    assert len(device.peers) == 0
    peer = device.add_peer(key, limits=EVERY)
    with pytest.raises(ConfigError, match=name):
        peer.limits = said
    with pytest.raises(ConfigError, match="expected Limits"):
        peer.limits = 5  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="expected Usage"):
        peer.usage = 5  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="send_used"):
        peer.usage = Usage(-1)
    assert peer.limits == EVERY


def test_updates_replace_them_all_or_none(device: Device) -> None:
    key = new_key()
    device.update([{"public_key": key, "limits": EVERY}])
    device.update([{"public_key": key, "persistent_keepalive": 5}])
    peer = device.peer(key)
    assert peer.limits == EVERY
    device.update([{"public_key": key, "limits": Limits(send_rate=5)}])
    assert peer.limits == Limits(send_rate=5)
    device.update([{"public_key": key, "limits": None}])
    assert peer.limits == Limits()
    peer.limits = EVERY
    device.update([{"public_key": key}], replace=True)
    assert peer.limits == Limits()


def test_lines_set_what_they_mention(device: Device) -> None:
    key = new_key()
    configure(device, f"public_key={key}\nsend_rate=1000\nsend_rate=2000\nreceive_quota=7\n")
    assert shown(device) == {"send_rate": "2000", "receive_quota": "7", "receive_used": "0"}
    configure(device, f"public_key={key}\nreceive_used=3\nsend_rate=0\n")
    assert shown(device) == {"receive_quota": "7", "receive_used": "3"}
    configure(device, f"public_key={key}\nreceive_quota=70\nallowed_ip=10.0.0.1/32\n")
    assert shown(device) == {"receive_quota": "70", "receive_used": "3"}
    configure(device, f"public_key={key}\nreceive_quota=0\n")
    assert shown(device) == {}
    every = "".join(f"{name}={10 + n}\n" for n, name in enumerate(limits.NAMES))
    configure(device, f"public_key={key}\n{every}")
    assert "".join(f"{name}={value}\n" for name, value in shown(device).items()) == every
    configure(device, f"replace_peers=true\npublic_key={key}\nsend_burst=5\n")  # as a new peer
    assert shown(device) == {"send_burst": "5"}
    configure(device, f"public_key={key}\nremove=true\npublic_key={key}\n")
    assert shown(device) == {}


@pytest.mark.parametrize("name", limits.NAMES)
def test_a_line_that_cannot_be_changes_nothing(device: Device, name: str) -> None:
    key, most = new_key(), limits.MOST[name]
    configure(device, f"public_key={key}\n{name}={most}\nsend_quota={10**18}\nreceive_quota={10**18}\n")
    before = shown(device)
    for wrong in (most + 1, 1 << 64, -1, "", "1M", "0x10", "off", " 1", "9" * 30):
        with pytest.raises(UapiError, match=f"^{name}: .*a number from 0 to {most} was expected") as refused:
            configure(device, f"fwmark=7\npublic_key={key}\nsend_rate=5\n{name}={wrong}\n")
        assert refused.value.errno == errno.EINVAL
    with pytest.raises(UapiError, match=f"{name}.: no device key; public_key comes first"):
        configure(device, f"{name}=1\n")
    assert shown(device) == before
    assert before[name] == str(most)
    assert device.fwmark == 0


# ---- for people ----


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        *[
            ("0", 0),
            ("off", 0),
            ("1", 1),
            ("007", 7),
            ("10M", 10**7),
            ("64Ki", 65536),
            ("1.5G", 1_500_000_000),
        ],
        *[("2Ti", 2 << 40), ("0.5k", 500), ("0.5Ki", 512), ("1000000000000000000", 10**18), ("3K", 3000)],
    ],
)
def test_amounts(text: str, amount: int) -> None:
    assert limits.parse_amount(text) == amount
    assert limits.parse_amount(limits.amount_text(amount)) == amount


@given(st.integers(0, 10**18))
def test_amounts_read_back(amount: int) -> None:
    assert limits.parse_amount(limits.amount_text(amount)) == amount


@pytest.mark.parametrize(
    "wrong", ["", "M", "-1", "1.5", "1i", "1m", "1MB", "1 M", "0x1", "1e6", "٣", "OFF", "1.M"]
)
def test_what_is_no_amount(wrong: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        limits.parse_amount(wrong)


def words(*said: str) -> str:
    key = "A" * 43 + "="
    return set_text(SetWords(print).read(["peer", key, *said])).split("\n", 2)[2].strip()


def test_words_of_the_command_line() -> None:
    assert words("rate-limit", "10M") == "send_rate=10000000\nreceive_rate=10000000"
    assert words("rate-limit", "10M", "send-rate", "off") == "send_rate=0\nreceive_rate=10000000"
    assert words("receive-quota", "100G", "receive-used", "0") == f"receive_quota={10**11}\nreceive_used=0"
    assert (
        words("send-packet-rate", "5k", "send-packet-burst", "7")
        == "send_packet_rate=5000\nsend_packet_burst=7"
    )
    for name in limits.NAMES:
        assert words(name.replace("_", "-"), "7") == f"{name}=7"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (("rate-limit", "fast"), "Limit is neither 0/off nor a number with k, M, G, T .*: `fast'"),
        (("send-rate", "1.1T"), "Limit is more than 1T: `1.1T'"),
        (("send-packet-rate", "1.1G"), "Limit is more than 1G"),
        (("send-rate",), "Invalid argument: send-rate"),
        (("send_rate", "1"), "Invalid argument: send_rate"),
    ],
)
def test_words_that_are_refused(said: tuple[str, ...], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        words(*said)


def test_they_are_words_of_a_peer() -> None:
    with pytest.raises(ConfigError, match="Invalid argument: rate-limit"):
        SetWords(print).read(["rate-limit", "10M"])
    assert "rate-limit" in CliRunner().invoke(set_command, ["--help"]).output


def test_they_are_shown(device: Device) -> None:
    key = new_key()
    said = f"send_rate=10000000\nsend_packet_burst=5\nreceive_quota={2 << 30}\nreceive_used={1 << 20}\n"
    configure(device, f"public_key={key}\n{said}")
    lines = [tuple(line.split("=", 1)) for line in b"".join(dump(device)).decode().splitlines()]
    state = parse_device("wg0", lines)  # type: ignore[arg-type]
    text = without_colours(pretty(state, 0, hide_keys=True))
    assert "  send limits: 10M bit/s, burst 5 packets\n  receive limits: 1Mi of 2Gi bytes used\n" in text
    reading = read_device(device)
    assert reading.state
    assert reading.state.peers[0].limits == state.peers[0].limits
    told = [line.partition("=")[::2] for line in b"".join(statistics(device)).decode().splitlines()]
    assert parse_statistics(told).drops["receive_quota"] == 0


def test_they_are_in_json(device: Device) -> None:
    from wgfast.cli import schema

    device.add_peer(new_key(), limits=Limits(send_quota=9))
    device.add_peer(new_key())
    reading = read_device(device)
    assert reading.state
    found = json.loads(schema.text(schema.interface_object(reading.state, reading.statistics)))
    assert [peer.get("limits") for peer in found["peers"]] == [{"send_quota": 9, "send_used": 0}, None]


def test_they_are_metrics(device: Device) -> None:
    metrics = pytest.importorskip("wgfast.metrics")
    peer = device.add_peer(new_key(), limits=Limits(send_quota=9, receive_rate=8))
    peer.usage = Usage(sent=4)
    found = {
        (sample.name, sample.labels["direction"]): sample.value
        for family in metrics.Collector([device]).collect()
        for sample in family.samples
        if "direction" in sample.labels
    }
    assert found == {
        ("wireguard_peer_quota_bytes", "send"): 9,
        ("wireguard_peer_quota_used_bytes", "send"): 4,
    }
