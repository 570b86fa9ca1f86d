"""What does a packet cost where each is another peer's, in random order? As bench_engine.py, in memory."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from crowd_sessions import Crowd, address
from numpy.typing import NDArray
from rates import note

from wgfast import Batch, Engine, generate_private_key, public_key
from wgfast.engine import HANDSHAKE_MAX, OVERHEAD
from wgfast.testing import packet

N = 256
BATCHES = 40  # in a round
ROUNDS = 16
PAYLOAD = 36  # bytes of payload: packets of 64
ENDPOINT = "192.0.2.1:1"
INSIDE = "198.18.0.2"


@functools.cache
def meet(peers: int) -> tuple[Engine, Crowd, int]:
    """An engine with a session of each of so many peers, and what time it is."""
    own = generate_private_key()
    engine = Engine(own)
    crowd = Crowd(peers, bytes(public_key(own)))
    for number, key in enumerate(crowd.keys, 1):
        engine.add_peer(public_key(key), allowed_ips=f"{address(number)}/32")
    out = Batch.empty(N, HANDSHAKE_MAX)
    now = 0
    for number in range(1, peers + 1):
        now += 1_000_000
        initiation = Batch.of([crowd.initiation(number)], ENDPOINT, HANDSHAKE_MAX)
        engine.receive(initiation.data, initiation.lengths, initiation.endpoints, now, out)
        engine.process(now)
        assert engine.drain(now, out) == 1
        assert crowd.take(out.packet(0)) == number
    return engine, crowd, now


def shuffled(rows: NDArray[np.uint8], within: int) -> NDArray[np.uint8]:
    """In random order, none further away than `within`."""
    rng = np.random.default_rng(1)
    parts = [rng.permutation(rows[at : at + within]) for at in range(0, len(rows), within)]
    return np.vstack(parts)


def measure(benchmark: Any, rows: NDArray[np.uint8], act: Callable[[NDArray[np.uint8]], None]) -> None:
    """Each batch of the rows once."""
    batches = iter(range(0, len(rows) - N, N))

    def one_round() -> None:
        for at in itertools.islice(batches, BATCHES):
            act(rows[at : at + N])

    benchmark.pedantic(one_round, rounds=ROUNDS)
    note(benchmark, N * BATCHES)


@pytest.mark.parametrize("peers", [N, 10_000])
def test_receive(benchmark: Any, peers: int) -> None:
    engine, crowd, now = meet(peers)
    each = -(-N * BATCHES * (ROUNDS + 1) // peers)
    messages = shuffled(np.vstack(list(crowd.messages(INSIDE, PAYLOAD, each))), 8 * peers)
    lengths = np.full(N, messages.shape[1], np.uint32)
    endpoints = Batch.of([b""] * N, ENDPOINT).endpoints
    out = Batch.empty(N, messages.shape[1])
    benchmark.group = "receive packets of 64 bytes"
    measure(benchmark, messages, lambda rows: engine.receive(rows, lengths, endpoints, now, out))
    assert (out.status == Batch.OK).all()


@pytest.mark.parametrize("peers", [N, 10_000])
def test_send(benchmark: Any, peers: int) -> None:
    engine, crowd, now = meet(peers)
    # A first packet of each confirms its session.
    first = np.vstack(list(crowd.messages(INSIDE, PAYLOAD, 1)))
    out = Batch.empty(N, first.shape[1] + OVERHEAD)
    endpoints = Batch.of([b""] * N, ENDPOINT).endpoints
    for at in range(0, peers, N):
        rows = first[at : at + N]
        engine.receive(rows, np.full(len(rows), rows.shape[1], np.uint32), endpoints[: len(rows)], now, out)
    packets = [packet(INSIDE, address(number), bytes(PAYLOAD)) for number in range(1, peers + 1)]
    inner = np.frombuffer(b"".join(packets), np.uint8).reshape(peers, -1)
    rows = shuffled(np.vstack([inner] * -(-N * BATCHES * (ROUNDS + 1) // peers)), 8 * peers)
    lengths = np.full(N, rows.shape[1], np.uint32)
    benchmark.group = "send packets of 64 bytes"
    measure(benchmark, rows, lambda rows: engine.send(rows, lengths, now, out))
    assert (out.status == Batch.OK).all()
