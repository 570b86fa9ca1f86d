"""Does the time of a kernel depend on its secrets? A test in the manner of dudect (Reparaz, Balasch and
Verbauwhede, "Dude, is my code constant time?", 2017).

Two classes of input, fixed and random, come in random order; Welch's t says whether their times have
different means. It is computed over all samples and over what is left when the slowest are cut off at 100
thresholds (interrupts hide small differences), and the largest counts. |t| above 4.5 is suspicious and
measured again; twice above 4.5, or once above 10, is a difference. A control that is known to leak shows that
the method sees something on this machine.

    python bench/constant_time.py [--kernel NAME] [--seconds S] [--sizes 64 1420] [--batches 1 64]

The result is evidence, not proof, and a machine that others use makes it weaker: it belongs in no CI.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wgfast import _core

HERE = Path(__file__).parent
CHUNK = 1000  # samples between looks at the clock
CROPS = 100
SUSPICIOUS, CERTAIN = 4.5, 10.0
CONTROL = "control"

# What differs between the classes: the number of the verb and of the contest in constant_time.c.
CONTESTS = {
    ("seal", "keys"): (0, 0),
    ("seal", "texts"): (0, 1),
    ("open", "keys"): (1, 0),
    ("open", "texts"): (1, 1),
    ("open", "place of a forgery"): (1, 2),
}


@dataclass(frozen=True)
class Measured:
    samples: int
    median: float  # ticks of a call
    t: float  # the one that is farthest from 0

    @property
    def suspicious(self) -> bool:
        return abs(self.t) > SUSPICIOUS

    @property
    def certain(self) -> bool:
        return abs(self.t) > CERTAIN


def welch(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if min(len(a), len(b)) < 50:
        return 0.0
    spread = a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)
    return float((a.mean() - b.mean()) / np.sqrt(spread)) if spread > 0 else 0.0


def largest_t(classes: NDArray[np.uint8], taken: NDArray[np.uint64]) -> float:
    """Of the whole and of every crop; thresholds as dudect has them, dense where most samples are."""
    taken = taken.astype(np.float64)
    random = classes.astype(bool)
    values = [welch(taken[~random], taken[random])]
    quantiles = [1 - 0.5 ** (10 * (i + 1) / CROPS) for i in range(CROPS)]
    for threshold in np.quantile(taken, quantiles):
        kept = taken <= threshold
        values.append(welch(taken[kept & ~random], taken[kept & random]))
    return max(values, key=abs)


class Stopwatch:
    """constant_time.c as a library."""

    def __init__(self) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise SystemExit("missing: gcc, to build constant_time.c")
        with tempfile.TemporaryDirectory() as directory:
            built = str(Path(directory) / "constant_time.so")
            flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-shared", "-fPIC"]
            include = ["-iquote", str(HERE.parent / "wgfast" / "core")]
            source = str(HERE / "constant_time.c")
            subprocess.run([compiler, *flags, *include, source, "-o", built], check=True)
            self._library: Any = ctypes.CDLL(built)
        self._library.constant_time_measure.restype = ctypes.c_bool
        self._library.constant_time_control.restype = ctypes.c_void_p
        self._find: Any = ctypes.CDLL(_core.__file__).wgf_aead_find
        self._find.restype = ctypes.c_void_p
        self._random = np.random.default_rng()

    def kernel(self, name: str) -> ctypes.c_void_p:
        if name == CONTROL:
            return ctypes.c_void_p(self._library.constant_time_control(self.kernel("portable")))
        return ctypes.c_void_p(self._find(name.encode()))

    def measure(self, name: str, contest: tuple[str, str], batch: int, size: int, seconds: float) -> Measured:
        """For so many seconds; the first chunk warms up and does not count."""
        verb, what = CONTESTS[contest]
        kernel, end = self.kernel(name), time.monotonic() + seconds
        all_classes, all_taken = [], []
        while time.monotonic() < end or len(all_taken) < 3:
            classes = self._random.integers(0, 2, CHUNK, np.uint8)
            taken = np.zeros(CHUNK, np.uint64)
            right = self._library.constant_time_measure(
                kernel,
                verb,
                what,
                ctypes.c_size_t(batch),
                ctypes.c_size_t(size),
                ctypes.c_void_p(classes.ctypes.data),
                ctypes.c_void_p(taken.ctypes.data),
                ctypes.c_size_t(CHUNK),
                ctypes.c_uint64(int(self._random.integers(1 << 63))),
            )
            if not right:
                raise MemoryError(f"{batch} packets of {size} bytes")
            all_classes.append(classes)
            all_taken.append(taken)
        classes, taken = np.concatenate(all_classes[1:]), np.concatenate(all_taken[1:])
        return Measured(len(taken), float(np.median(taken)), largest_t(classes, taken))


def verdict(first: Measured, second: Measured | None) -> str:
    if first.certain or (second is not None and second.suspicious):
        return "DIFFERENT"
    return "same, at the second look" if second is not None else "same"


def examine(watch: Stopwatch, name: str, batch: int, size: int, seconds: float) -> int:
    """Prints a line for each contest; how many showed a difference."""
    different = 0
    for contest in CONTESTS:
        if size == 0 and contest[1] == "texts":
            continue
        first = watch.measure(name, contest, batch, size, seconds)
        again = first.suspicious and not first.certain
        second = watch.measure(name, contest, batch, size, 3 * seconds) if again else None
        said = verdict(first, second)
        different += said == "DIFFERENT"
        ts = f"{first.t:+7.2f}" + (f", {second.t:+.2f}" if second is not None else "")
        print(
            f"{name:12} {contest[0]:4} {contest[1]:18} {batch:5} x {size:5}  {first.samples:8}"
            f"  {first.median:9.0f}  {ts:16} {said}",
            flush=True,
        )
    return different


def main() -> int:
    usable = [name for name, is_usable, _ in _core.aead_kernels() if is_usable]
    parser = argparse.ArgumentParser(description="Does a kernel's time depend on its secrets?")
    parser.add_argument("--kernel", choices=usable, help="only this one")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each contest (2)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 1420], help="bytes of a packet")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64], help="packets in a call")
    given = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    watch = Stopwatch()
    print(f"{'kernel':12} {'what differs':23}  batch x size   samples     median  t")
    if examine(watch, CONTROL, 1, 64, given.seconds) < len(CONTESTS):
        print("The control leaks and that was not seen: what follows says nothing. Give it more --seconds.")
        return 2
    different = sum(
        examine(watch, name, batch, size, given.seconds)
        for name in ([given.kernel] if given.kernel else usable)
        for batch in given.batches
        for size in given.sizes
    )
    print(f"{different} showed a difference." if different else "No difference was seen.")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
