"""wgfast.ReplayWindow against a slow oracle that remembers every counter it has seen."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seeds import generator

import wgfast
from wgfast import _core

WINDOW = _core.REPLAY_WINDOW
# The ring has whole words: what the window accepts beyond its promise is a word's remainder and what fills
# the last cache line. Counters in this range may go either way; below it they must be refused.
SLACK = 8 * 64
REJECT = _core.REJECT_AFTER_MESSAGES


class Oracle:
    """RFC 6479's promise, from a set: True, False, or None where an implementation may choose."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.greatest = -1

    def judge(self, counter: int) -> bool | None:
        if counter >= REJECT or counter in self.seen:
            return False
        behind = self.greatest - counter
        if behind < WINDOW:
            return True
        return None if behind < WINDOW + SLACK else False

    def accepted(self, counter: int) -> None:
        self.seen.add(counter)
        self.greatest = max(self.greatest, counter)


def follow(window: wgfast.ReplayWindow, counters: list[int], oracle: Oracle) -> None:
    for counter in counters:
        wanted, got = oracle.judge(counter), window.accept(counter)
        assert wanted is None or got is wanted, counter
        if got:
            oracle.accepted(counter)


EDGES = [0, 1, 63, 64, 65, WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW, REJECT - 1, REJECT, (1 << 64) - 1]
AROUND = st.builds(lambda base, step: base + step, st.sampled_from(EDGES), st.integers(-70, 70)).filter(
    lambda counter: 0 <= counter < 1 << 64
)
COUNTERS = st.lists(
    st.one_of(AROUND, st.integers(0, 3 * WINDOW), st.integers(0, (1 << 64) - 1)), max_size=200
)


@given(COUNTERS)
def test_against_the_oracle(counters: list[int]) -> None:
    follow(wgfast.ReplayWindow(), counters, Oracle())


@given(st.integers(0, 1 << 62), st.lists(st.integers(-WINDOW - SLACK - 100, 300), max_size=300))
def test_walks_against_the_oracle(start: int, steps: list[int]) -> None:
    """Around a moving head: late ones, repeated ones, small jumps."""
    window, oracle, head = wgfast.ReplayWindow(), Oracle(), start
    for step in steps:
        counter = max(0, head + step)
        follow(window, [counter], oracle)
        head = max(head, counter)


@given(COUNTERS)
def test_a_batch_is_one_after_the_other(counters: list[int]) -> None:
    single, batch = wgfast.ReplayWindow(), wgfast.ReplayWindow()
    accepted = np.full(len(counters), 7, np.uint8)
    total = batch.accept_many(np.array(counters, np.uint64), accepted)
    expected = [single.accept(counter) for counter in counters]
    assert accepted.tolist() == expected
    assert total == sum(expected)


def test_long_shuffled_run() -> None:
    """Within the window every counter is accepted exactly once, in whatever order."""
    rng = generator("test_long_shuffled_run")
    n = 200_000
    order = np.argsort(np.arange(n) + rng.uniform(0, WINDOW - 1, n)).astype(np.uint64)
    window, accepted = wgfast.ReplayWindow(), np.zeros(n, bool)
    assert window.accept_many(order, accepted) == n
    assert window.accept_many(order, accepted) == 0
    assert not accepted.any()


def test_the_edges_of_the_window() -> None:
    window = wgfast.ReplayWindow()
    head = 10 * WINDOW
    assert window.accept(head)
    assert window.accept(head - WINDOW + 1)
    assert not window.accept(head - WINDOW + 1)
    assert not window.accept(head - WINDOW - SLACK)
    assert not window.accept(0)


def test_no_counter_past_reject_after_messages() -> None:
    window = wgfast.ReplayWindow()
    assert window.accept(REJECT - 1)
    assert not window.accept(REJECT)
    assert not window.accept((1 << 64) - 1)


def test_reset_forgets() -> None:
    window = wgfast.ReplayWindow()
    assert window.accept(1 << 40)
    window.reset()
    assert window.accept(0)
    assert window.accept(1 << 40)


def test_threads_take_turns() -> None:
    """Every counter is accepted by exactly one of several threads."""
    window, n = wgfast.ReplayWindow(), WINDOW // 2
    counters = np.arange(n, dtype=np.uint64)
    results = [np.zeros(n, np.uint8) for _ in range(4)]
    threads = [threading.Thread(target=window.accept_many, args=(counters, result)) for result in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (sum(results) == 1).all()


BAD: list[tuple[str, Any, Any, str]] = [
    ("signed", np.zeros(3, np.int64), np.zeros(3, np.uint8), "counters: int64"),
    ("narrow", np.zeros(3, np.uint32), np.zeros(3, np.uint8), "counters: uint32"),
    ("two axes", np.zeros((3, 1), np.uint64), np.zeros(3, np.uint8), "counters: "),
    ("strided", np.zeros(6, np.uint64)[::2], np.zeros(3, np.uint8), "counters: .*stride 16"),
    ("too few", np.zeros(3, np.uint64), np.zeros(2, np.uint8), r"accepted: uint8 of shape \(2,\): expected"),
    ("read-only", np.zeros(3, np.uint64), bytes(3), "accepted: .*read-only"),
    ("wide", np.zeros(3, np.uint64), np.zeros(3, np.uint16), "accepted: uint16"),
    ("list", [1, 2, 3], np.zeros(3, np.uint8), "counters: list"),
]


@pytest.mark.parametrize(
    ("counters", "accepted", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_arrays_that_are_wrong(counters: Any, accepted: Any, message: str) -> None:
    window = wgfast.ReplayWindow()
    with pytest.raises(wgfast.BatchError, match=message):
        window.accept_many(counters, accepted)
    assert window.accept(0)


def test_shared_memory_is_refused() -> None:
    counters = np.arange(8, dtype=np.uint64)
    with pytest.raises(wgfast.BatchError, match="accepted: shares memory with counters"):
        wgfast.ReplayWindow().accept_many(counters, counters.view(np.uint8)[:8])


@pytest.mark.parametrize("counter", [-1, 1 << 64])
def test_no_such_counter(counter: int) -> None:
    with pytest.raises(OverflowError):
        wgfast.ReplayWindow().accept(counter)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_no_copies(duplicate: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="ReplayWindow cannot be pickled or copied"):
        duplicate(wgfast.ReplayWindow())
