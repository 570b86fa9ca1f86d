"""How fast does the replay window judge counters, in order and shuffled as a network does it?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rates import THREADS, Crew

import wgfast

N = 4096


class Stream:
    """A window and the next N counters of a session that never ends."""

    def __init__(self, shuffled: bool) -> None:
        rng = np.random.default_rng(1)
        late = rng.uniform(0, 64 if shuffled else 0, N)
        self.counters = np.argsort(np.arange(N) + late, kind="stable").astype(np.uint64)
        self.accepted = np.zeros(N, bool)
        self.window = wgfast.ReplayWindow()

    def judge(self) -> None:
        assert self.window.accept_many(self.counters, self.accepted) == N
        self.counters += np.uint64(N)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("order", ["in order", "shuffled"])
def test_replay(benchmark: Any, order: str, threads: int) -> None:
    crew = Crew([Stream(order == "shuffled").judge for _ in range(threads)])
    benchmark.group = f"replay window, {N} counters"
    crew.measure(benchmark, N)
