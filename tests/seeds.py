"""Random numbers that can be repeated: WGFAST_TEST_SEED, else a new seed; either way it is printed."""

from __future__ import annotations

import os

import numpy as np


def generator(test: str) -> np.random.Generator:
    """A generator for one test; pytest shows the seed when the test fails."""
    given = os.environ.get("WGFAST_TEST_SEED")
    seed = int(given, 0) if given else int.from_bytes(os.urandom(8), "little")
    print(f"{test}: WGFAST_TEST_SEED={seed}")
    return np.random.default_rng(seed)
