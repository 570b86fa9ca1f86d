"""Bad arguments change nothing; forks, copies, closing and handlers that raise harm nobody."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from enginepair import Pair, without
from forking import forked
from judged import Judged, to_them

from wgfast import Batch, BatchError, ClosedError, ConfigError, Engine, _core, generate_private_key
from wgfast.control import News
from wgfast.engine import ENDPOINT, pack_endpoint
from wgfast.testing import SECOND

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
