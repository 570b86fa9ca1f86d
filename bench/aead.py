"""How fast does the AEAD seal and open batches, beside the libraries one could use instead?

Every usable kernel of wgfast against libsodium (PyNaCl's and the system's), OpenSSL and intel-ipsec-mb, all
called from C (aead_rivals.c), on one core, alternating, medians; then wgfast, PyNaCl and `cryptography`
called from Python. A rival that is not installed is named and left out.

    python bench/aead.py [--quick] [--isa avx2] [--forced KERNEL] [--json FILE] [--plot DIR]

The portable kernel's fair rival is libsodium without vector instructions. Nobody packages that: build it
(after ./configure, take HAVE_*INTRIN_H and HAVE_*_ASM out of the Makefiles), then

    python bench/aead.py --forced portable --sodium path/to/libsodium.so

`make bench-aead` installs the rivals first. Ticks are those of the time-stamp counter (on machines without
one, nanoseconds).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import os
import platform
import random
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import wgfast
from wgfast import _core

HERE = Path(__file__).parent
SIZES = (0, 16, 64, 128, 256, 512, 1024, 1420, 8192, 16384, 65000)
BATCHES = (1, 8, 64, 256)
VERBS = ("seal", "open")
MIXES = {"IMIX": [64] * 7 + [594] * 4 + [1420], "data+ack": [1420, 64]}
# The bits of CPUID leaf 7 that OpenSSL must not see: AVX-512 F, DQ, IFMA, CD, BW, VL.
OPENSSL_CAPABILITIES = "OPENSSL_ia32cap"  # libcrypto spells it so
OPENSSL_AVX2 = ":~0xd0230000"


@dataclass(frozen=True)
class Workload:
    """What one row of a table measures: `lengths` is repeated until whole batches come out."""

    name: str
    lengths: Sequence[int]

    def packets(self, batch: int) -> list[int]:
        """The lengths of whole batches; a mix is shuffled, the same way each time."""
        if len(self.lengths) == 1:
            return list(self.lengths) * batch
        lengths = list(self.lengths) * (math.lcm(len(self.lengths), max(batch, 96)) // len(self.lengths))
        if len(set(self.lengths)) > 2:
            random.Random(1).shuffle(lengths)
        return lengths


@dataclass
class Result:
    verb: str
    workload: str
    batch: int
    bytes_per_packet: float
    ticks: dict[str, float] = field(default_factory=dict)  # by contestant: median ticks per packet

    def best_rival(self, kernels: Sequence[str]) -> float | None:
        return min((ticks for name, ticks in self.ticks.items() if name not in kernels), default=None)


class Rivals:
    """The library built from aead_rivals.c, and who takes part."""

    def __init__(self, only: str | None, avx2: bool, sodium: Path | None) -> None:
        self.library = self._build()
        self.known: dict[str, int] = {}
        self.versions: dict[str, str] = {}
        self.missing: list[str] = []
        self.kernels = [name for name, usable, _ in _core.aead_kernels() if usable]
        if avx2:
            self.kernels = [name for name in self.kernels if not name.startswith("avx512")]
        if only is not None and only not in self.kernels:
            raise SystemExit(f"--forced {only}: not usable here; usable: {', '.join(self.kernels)}")
        self.kernels = [only] if only else self.kernels
        add = self.library
        for name in self.kernels:
            self._enter(name, add.rival_add_wgfast(_core.__file__.encode(), name.encode()), "this build")
        if sodium is not None:
            self._enter("libsodium", add.rival_add_sodium(str(sodium).encode()), str(sodium))
            return
        self._enter("PyNaCl", self._add_pynacl(), "PyNaCl's libsodium")
        self._enter("libsodium", add.rival_add_sodium(b"libsodium.so.23"), "the system's libsodium")
        self._enter("OpenSSL", add.rival_add_openssl(), "libssl-dev")
        self._enter("ipsec-mb", add.rival_add_ipsec_mb(int(avx2)), "libipsec-mb-dev")

    def _enter(self, name: str, number: int, what: str) -> None:
        if number < 0:
            self.missing.append(f"{name} ({what})")
        else:
            self.known[name] = number
            self.versions[name] = (
                self.library.rival_version(number).decode() or f"in PyNaCl {version('pynacl')}"
            )

    def _add_pynacl(self) -> int:
        try:
            import nacl._sodium
        except ImportError:
            return -1
        return int(self.library.rival_add_sodium(nacl._sodium.__file__.encode()))

    @staticmethod
    def _build() -> Any:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise SystemExit("missing: gcc, to build aead_rivals.c")

        def has_header(name: str) -> bool:
            source = f"#include <{name}>\n"
            preprocess = [compiler, "-E", "-x", "c", "-"]
            return subprocess.run(preprocess, input=source, text=True, capture_output=True).returncode == 0

        flags: list[str] = []
        libraries: list[str] = []
        if has_header("openssl/evp.h"):
            flags.append("-DHAVE_OPENSSL")
            libraries.append("-lcrypto")
        if has_header("intel-ipsec-mb.h"):
            flags.append("-DHAVE_IPSEC_MB")
            libraries.append("-lIPSec_MB")
        with tempfile.TemporaryDirectory() as directory:
            built = str(Path(directory) / "aead_rivals.so")
            command = [compiler, "-std=c11", "-D_GNU_SOURCE", "-O2", "-shared", "-fPIC", *flags]
            command += ["-iquote", str(HERE.parent / "wgfast" / "core"), str(HERE / "aead_rivals.c")]
            subprocess.run([*command, "-o", built, *libraries, "-ldl"], check=True)
            library = ctypes.CDLL(built)
        library.rival_version.restype = ctypes.c_char_p
        library.packets_make.restype = ctypes.c_void_p
        library.packets_make.argtypes = [ctypes.POINTER(ctypes.c_uint32), ctypes.c_size_t]
        library.packets_free.argtypes = [ctypes.c_void_p]
        library.rival_agrees.argtypes = [ctypes.c_int, ctypes.c_void_p]
        library.ticks_now.restype = ctypes.c_uint64
        library.rival_time.restype = ctypes.c_uint64
        library.rival_time.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, *[ctypes.c_size_t] * 2]
        return library

    def ticks_per_second(self) -> float:
        begin, first = time.perf_counter(), self.library.ticks_now()
        time.sleep(0.1)
        return float(self.library.ticks_now() - first) / (time.perf_counter() - begin)

    def measure(self, workload: Workload, batch: int, rounds: int, span: float) -> list[Result]:
        """One result per verb; in each round everybody has a turn of about `span` ticks."""
        lengths = workload.packets(batch)
        packets = self.library.packets_make((ctypes.c_uint32 * len(lengths))(*lengths), len(lengths))
        if not packets:
            raise MemoryError(f"{workload.name}, batch of {batch}: {sum(lengths)} bytes, three times over")
        try:
            for name, number in self.known.items():
                if not self.library.rival_agrees(number, packets):
                    raise SystemExit(f"{name} and {next(iter(self.known))} disagree: {workload.name}")
            return [
                Result(verb, workload.name, batch, sum(lengths) / len(lengths), ticks)
                for verb in VERBS
                for ticks in [self._alternate(verb, packets, len(lengths), batch, rounds, span)]
            ]
        finally:
            self.library.packets_free(packets)

    def _alternate(
        self, verb: str, packets: int, total: int, batch: int, rounds: int, span: float
    ) -> dict[str, float]:
        opening = VERBS.index(verb)
        time_it = self.library.rival_time
        repeats = {}
        for name, number in self.known.items():
            once = min(time_it(number, opening, packets, batch, 1) for _ in range(3))
            repeats[name] = max(1, round(span / max(once, 1)))
        seen: dict[str, list[float]] = {name: [] for name in self.known}
        for _ in range(rounds):
            for name, number in self.known.items():
                ticks = time_it(number, opening, packets, batch, repeats[name])
                seen[name].append(ticks / repeats[name] / total)
        return {name: statistics.median(ticks) for name, ticks in seen.items()}


def print_results(results: Sequence[Result], rivals: Rivals, frequency: float) -> None:
    names = list(rivals.known)
    width = max(9, *(len(name) + 1 for name in names))
    for verb in VERBS:
        for batch in dict.fromkeys(result.batch for result in results):
            rows = [result for result in results if result.verb == verb and result.batch == batch]
            print(f"\n{verb}, batch of {batch}: ticks per packet; GB/s and times the best rival, by kernel")
            heads = "".join(f"{name:>{width}}" for name in names)
            print(f"{'packet':>9}{heads} " + "".join(f"{name:>18}" for name in rivals.kernels))
            for row in rows:
                line = f"{row.workload:>9}" + "".join(f"{row.ticks[name]:{width}.0f}" for name in names) + " "
                best = row.best_rival(rivals.kernels)
                for name in rivals.kernels:
                    rate = row.bytes_per_packet / row.ticks[name] * frequency / 1e9
                    line += f"{rate:9.2f}" + (f"{best / row.ticks[name]:7.2f} x" if best else " " * 9)
                print(line)


def python_calls(sizes: Sequence[int], n: int, rounds: int) -> list[dict[str, Any]]:
    """Microseconds for n packets sealed from Python, and opened, by contestant; alternating, medians."""
    found: list[dict[str, Any]] = []
    for size in sizes:
        for verb in VERBS:
            work = python_work(verb, size, n)
            seen: dict[str, list[float]] = {name: [] for name in work}
            for _ in range(rounds):
                for name, act in work.items():
                    seen[name].append(undisturbed(act))
            medians = {name: statistics.median(times) * 1e6 for name, times in seen.items()}
            found.append({"verb": verb, "size": size, "packets": n, "microseconds": medians})
    return found


def undisturbed(act: Callable[[], object]) -> float:
    """Seconds for one call, of five; again, a few times at most, if another process ran meanwhile."""
    seconds = 0.0
    for _ in range(20):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        begin = time.perf_counter()
        for _ in range(5):
            act()
        seconds = (time.perf_counter() - begin) / 5
        if resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw == before:
            break
    return seconds


def python_work(verb: str, size: int, n: int) -> dict[str, Callable[[], object]]:
    """For each contestant, a call that seals (or opens) n packets of `size` bytes.

    "in a loop" does what wgfast does: from rows of one array to rows of another, the nonce from a counter.
    "calls alone" has every argument ready as bytes and drops the results.
    """
    rng = np.random.default_rng(size)
    packets = rng.integers(0, 256, (n, size), np.uint8)
    key = rng.bytes(32)
    keys = np.tile(np.frombuffer(key, np.uint8), (n, 1))
    lengths, counters = np.full(n, size, np.uint32), np.arange(n, dtype=np.uint64)
    sealed, ok = np.zeros((n, size + 16), np.uint8), np.zeros(n, bool)
    wgfast.seal(packets, lengths, keys, counters, sealed)
    given, out = (packets, np.zeros_like(sealed)) if verb == "seal" else (sealed, np.zeros_like(packets))
    both = [(row.tobytes(), bytes(4) + i.to_bytes(8, "little")) for i, row in enumerate(given)]
    work: dict[str, Callable[[], object]] = {}
    if verb == "seal":
        work["wgfast"] = lambda: wgfast.seal(packets, lengths, keys, counters, out)
    else:
        work["wgfast"] = lambda: wgfast.open(sealed, lengths + np.uint32(16), keys, counters, out, ok)

    def enter(name: str, call: Callable[[Any, bytes], bytes], convert: Callable[[Any], Any]) -> None:
        def loop() -> None:
            for i in range(n):
                nonce = struct.pack("<4xQ", counters[i])
                out[i] = np.frombuffer(call(convert(given[i]), nonce), np.uint8)

        work[f"{name} in a loop"] = loop
        work[f"{name}, calls alone"] = lambda: [call(text, nonce) for text, nonce in both]

    with contextlib.suppress(ImportError):
        from nacl import bindings

        nacl_call = getattr(
            bindings, f"crypto_aead_chacha20poly1305_ietf_{'encrypt' if verb == 'seal' else 'decrypt'}"
        )
        enter("PyNaCl", lambda text, nonce: bytes(nacl_call(text, None, nonce, key)), np.ndarray.tobytes)
    with contextlib.suppress(ImportError):
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        cipher = ChaCha20Poly1305(key)
        act = cipher.encrypt if verb == "seal" else cipher.decrypt
        enter("cryptography", lambda text, nonce: act(nonce, text, None), lambda row: row)
    return work


def print_python(found: Sequence[dict[str, Any]]) -> None:
    kernel, n = _core.aead_kernel(), found[0]["packets"]
    print(f"\nfrom Python, {n} packets: microseconds, and how many times wgfast's ({kernel})")
    for row in found:
        times = row["microseconds"]
        print(f"{row['verb']} {row['size']} bytes")
        for name, spent in times.items():
            print(f"    {name:26}{spent:9.1f}{spent / times['wgfast']:7.1f} x")


def plot(results: Sequence[Result], rivals: Rivals, frequency: float, directory: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    directory.mkdir(parents=True, exist_ok=True)
    for verb in VERBS:
        for batch in dict.fromkeys(result.batch for result in results):
            rows = [r for r in results if (r.verb, r.batch) == (verb, batch) and r.bytes_per_packet > 0]
            figure, axes = pyplot.subplots(figsize=(10, 5.5))
            for name in rivals.known:
                rates = [row.bytes_per_packet / row.ticks[name] * frequency / 1e9 for row in rows]
                axes.plot(range(len(rows)), rates, "-o" if name in rivals.kernels else "--s", label=name)
            axes.set_xticks(range(len(rows)), [row.workload for row in rows])
            axes.set_xlabel("packet, bytes")
            axes.set_ylabel("GB/s on one core")
            axes.set_title(f"ChaCha20-Poly1305: {verb}, batch of {batch}")
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend()
            figure.savefig(directory / f"aead-{verb}-{batch}.png", dpi=110, bbox_inches="tight")
            pyplot.close(figure)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds, batches of 1 and 64 only")
    parser.add_argument("--isa", choices=["avx2"], help="hold everybody to AVX2 who can be")
    parser.add_argument("--forced", metavar="KERNEL", help="this kernel only")
    parser.add_argument("--sodium", type=Path, metavar="LIBRARY", help="this libsodium as the only rival")
    parser.add_argument("--sizes", type=int, nargs="*", help="these sizes and no mixes")
    parser.add_argument("--batches", type=int, nargs="*", help=f"default: {BATCHES}")
    parser.add_argument("--rounds", type=int, help="default: 15, or 5 with --quick")
    parser.add_argument("--core", type=int, help="the processor to run on; default: the last one allowed")
    parser.add_argument("--no-python", action="store_true", help="without the calls from Python")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="write PNGs there (needs matplotlib)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.isa == "avx2" and os.environ.get(OPENSSL_CAPABILITIES) != OPENSSL_AVX2:
        # libcrypto reads it when it is loaded, and Python may have loaded it already.
        os.execve(
            sys.executable, [sys.executable, *sys.argv], {**os.environ, OPENSSL_CAPABILITIES: OPENSSL_AVX2}
        )
    os.sched_setaffinity(0, {args.core if args.core is not None else max(os.sched_getaffinity(0))})
    rivals = Rivals(args.forced, args.isa == "avx2", args.sodium)
    frequency = rivals.ticks_per_second()
    print(
        f"{platform.machine()}, {frequency / 1e9:.3f} GHz time stamps; kernels: {', '.join(rivals.kernels)}"
    )
    for name, which in rivals.versions.items():
        if name not in rivals.kernels:
            print(f"{name}: {which}")
    for name in rivals.missing:
        print(f"left out, not installed: {name}")

    workloads = [Workload(str(size), [size]) for size in (SIZES if args.sizes is None else args.sizes)]
    if args.sizes is None:
        workloads += [Workload(name, lengths) for name, lengths in MIXES.items()]
    batches = args.batches or ((1, 64) if args.quick else BATCHES)
    rounds = args.rounds or (5 if args.quick else 15)
    span = frequency * (1e-4 if args.quick else 3e-4)
    results = [
        result
        for batch in batches
        for workload in workloads
        for result in rivals.measure(workload, batch, rounds, span)
    ]
    print_results(results, rivals, frequency)
    called: list[dict[str, Any]] = []
    if not args.no_python:
        if args.forced or args.isa:
            _core.aead_choose(rivals.kernels[0])
        called = python_calls((64, 256, 1420, 16384), 64, rounds)
        print_python(called)
    if args.json:
        figures = {
            "ticks_per_second": frequency,
            "versions": rivals.versions,
            "missing": rivals.missing,
            "kernels": rivals.kernels,
            "results": [vars(result) for result in results],
            "python": called,
        }
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if args.plot:
        plot(results, rivals, frequency, args.plot)


if __name__ == "__main__":
    main()
