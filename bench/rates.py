"""Rates beside the times of pytest-benchmark: packets per second and Gbit/s, in extra_info and in a table."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

SIZES = (64, 512, 1420)
THREADS = tuple(n for n in (1, 2) if n <= len(os.sched_getaffinity(0)))
REPEAT = 32  # calls in a round, so that meeting at its ends costs little beside it

closing: list[tuple[str, float, float, int]] = []


def note(benchmark: Any, items: int, size: int = 0, threads: int = 1) -> None:
    """Each round did `items` packets (or lookups) of `size` bytes in every thread."""
    if benchmark.disabled:
        return
    each = items * threads / benchmark.stats.stats.median
    gbits = each * size * 8 / 1e9
    benchmark.extra_info.update(per_second=each, gbits_per_second=gbits, threads=threads)
    closing.append((benchmark.name, each, gbits, threads))


class Crew:
    """One piece of work for each thread, done side by side, round by round; threads wait in between."""

    def __init__(self, work: Sequence[Callable[[], object]]) -> None:
        self._work = work
        self._begin = threading.Barrier(len(work))
        self._end = threading.Barrier(len(work))
        self._done = False
        for act in work[1:]:
            threading.Thread(target=self._serve, args=(act,), daemon=True).start()

    def measure(self, benchmark: Any, items: int, size: int = 0) -> None:
        """Each call of a piece of work does `items` packets (or lookups) of `size` bytes."""
        benchmark(self._round)
        self._done = True
        self._begin.wait()
        note(benchmark, items * REPEAT, size, len(self._work))

    def _round(self) -> None:
        self._begin.wait()
        self._repeat(self._work[0])
        self._end.wait()

    def _serve(self, act: Callable[[], object]) -> None:
        while True:
            self._begin.wait()
            if self._done:
                return
            self._repeat(act)
            self._end.wait()

    @staticmethod
    def _repeat(act: Callable[[], object]) -> None:
        for _ in range(REPEAT):
            act()
