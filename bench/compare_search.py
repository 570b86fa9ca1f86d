"""The highest rate without loss, in the manner of RFC 2544, section 26.1: trials at a constant rate, and a
binary search between a rate that was carried and one that was not.

What differs from the RFC, which speaks of hardware: the steps halve the logarithm of the range, for it spans
two orders of magnitude; a trial may lose a tolerance, for a userspace program that is not scheduled for a
moment loses a few packets at any rate; and a trial that fails by little is given a second chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

# Packets a second between which is searched. 8 steps leave 2 %.
LOWEST, HIGHEST = 2_000.0, 400_000.0
SECOND_CHANCES = 3
NEARLY = 0.01  # the most that a trial may have lost to be given another chance
# A sender that keeps less than this of the rate it was asked for has not tried it.
KEPT = 0.97


@dataclass(frozen=True)
class Trial:
    """Packets at one rate for a while: what was asked of the sender, and what became of it."""

    asked: float  # packets a second
    sent: int
    received: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.sent / self.seconds

    @property
    def loss(self) -> float:
        return 1 - self.received / self.sent if self.sent else 1.0

    @property
    def kept(self) -> bool:
        return self.rate >= KEPT * self.asked

    def passes(self, tolerance: float) -> bool:
        return self.kept and self.loss <= tolerance


@dataclass(frozen=True)
class Found:
    """The end of a search. `rate` is what the best trial really sent, 0 if none passed. `limit` is what
    stopped the next faster one: "loss", the "sender" who could not keep the rate and lost nothing, or the
    "search", whose fastest trial passed."""

    rate: float
    loss: float
    limit: str
    trials: int


def search(
    trial: Callable[[float], Trial],
    *,
    tolerance: float,
    steps: int,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
) -> Found:
    """Makes `steps` trials, and SECOND_CHANCES more at most."""
    best: Trial | None = None
    failed: Trial | None = None
    low, high = lowest, highest
    chances = SECOND_CHANCES
    trials = 0
    for _ in range(steps):
        asked = math.sqrt(low * high)
        made = trial(asked)
        trials += 1
        if not made.passes(tolerance) and chances > 0 and made.kept and made.loss <= NEARLY:
            made = trial(asked)
            trials += 1
            chances -= 1
        if made.passes(tolerance):
            best, low = made, asked
        else:
            failed, high = made, asked
    limit = "search" if failed is None else "loss" if failed.loss > tolerance else "sender"
    return Found(best.rate if best else 0.0, best.loss if best else 1.0, limit, trials)
