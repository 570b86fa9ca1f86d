"""How fast does the AEAD seal and open batches, by kernel, packet size and number of threads?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from rates import SIZES, THREADS, Crew

import wgfast
from wgfast import _core

KERNELS = [name for name, usable, _ in _core.aead_kernels() if usable]
N = 256


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _core.aead_kernel()
    _core.aead_choose(request.param)
    yield request.param
    _core.aead_choose(before)


class Packets:
    """N packets of one size, sealed once."""

    def __init__(self, size: int) -> None:
        rng = np.random.default_rng(size)
        self.packets = rng.integers(0, 256, (N, size), np.uint8)
        self.sealed = np.zeros((N, size + 16), np.uint8)
        self.lengths = np.full(N, size, np.uint32)
        self.keys = np.repeat(rng.integers(0, 256, (1, 32), np.uint8), N, axis=0)
        self.counters = np.arange(N, dtype=np.uint64)
        self.ok = np.zeros(N, bool)
        self.seal()

    def seal(self) -> None:
        wgfast.seal(self.packets, self.lengths, self.keys, self.counters, self.sealed)

    def open(self) -> None:
        right = wgfast.open(self.sealed, self.lengths + 16, self.keys, self.counters, self.packets, self.ok)
        assert right == N


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("verb", ["seal", "open"])
def test_aead(benchmark: Any, kernel: str, verb: str, size: int, threads: int) -> None:
    crew = Crew([getattr(Packets(size), verb) for _ in range(threads)])
    benchmark.group = f"{verb} {N} packets of {size} bytes"
    crew.measure(benchmark, N, size)
