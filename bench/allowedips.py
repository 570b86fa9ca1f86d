"""How fast does the table of allowed IPs look up and change, beside DPDK's tables and Python's?

wgfast against rte_lpm, rte_fib and rte_fib6 (AVX-512 where they have it), all called from C
(allowedips_rivals.c) with batches of 64, on one core, taking turns, medians; then AllowedIPs.lookup_many
against pytricia and py-radix in a loop. A rival that is not installed is named and left out: DPDK is
Debian's libdpdk-dev, the others come by pip.

    python bench/allowedips.py [--quick] [--before EXTENSION] [--json FILE]

--before takes part with another build of wgfast/_core*.so, to compare with. Every turn begins with a pass
that is not counted, so that nobody pays for the caches the one before left. Prefixes of IPv4 have the
lengths of the internet's routing table and lie anywhere; addresses are drawn from random prefixes. IPv6
prefixes come in two kinds: "any" has all lengths from 32 to 128 equally often, "nested" those of the
internet's, within few thousand allocations, and host routes. Ratios are medians of the ratios of each round.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wgfast import AllowedIPs, _core

HERE = Path(__file__).parent
LPM, FIB, FIB6 = 1, 2, 3
# Prefixes of each length, in thousands, about as in the internet's routing table of 2025.
LENGTHS4 = dict(
    zip(
        range(8, 25),
        (0.016, 0.013, 0.04, 0.1, 0.3, 0.6, 1.2, 2, 13.5, 8.3, 14, 25, 44, 53, 110, 100, 600),
        strict=True,
    )
) | {28: 0.5, 32: 2.5}
LENGTHS6 = {32: 24, 36: 10, 40: 22, 44: 24, 48: 100, 56: 4, 64: 10, 128: 6}
TARGETS = {
    ("IPv4", 1_000_000): 1.5,
    ("IPv4", 100_000): 1.5,
    ("IPv4", 1_000): 0.5,
    ("IPv6 any", 200_000): 4.0,
    ("IPv6 nested", 200_000): 4.0,
}


@dataclass(frozen=True)
class Prefixes:
    """Distinct prefixes: addresses (n,) uint32 or (n, 16) uint8, lengths (n,) uint8, owners (n,) uint32."""

    family: int
    addresses: NDArray[Any]
    lengths: NDArray[np.uint8]
    owners: NDArray[np.uint32]

    def part(self, first: int, last: int) -> Prefixes:
        rows = slice(first, last)
        return Prefixes(self.family, self.addresses[rows], self.lengths[rows], self.owners[rows])


def host_bits(lengths: NDArray[Any], bits: int = 32) -> NDArray[np.uint32]:
    """The part of each word of `bits` that lies behind the length."""
    behind = np.clip(bits - lengths.astype(np.int64), 0, bits)
    return ((np.uint64(1) << behind.astype(np.uint64)) - np.uint64(1)).astype(np.uint32)


def prefixes4(n: int, owners: int, rng: np.random.Generator) -> Prefixes:
    weights = np.array(list(LENGTHS4.values()))
    lengths = rng.choice(np.array(list(LENGTHS4), np.uint8), 2 * n, p=weights / weights.sum())
    addresses = rng.integers(1 << 24, 224 << 24, 2 * n).astype(np.uint32) & ~host_bits(lengths)
    _, first = np.unique(addresses.astype(np.uint64) << np.uint64(8) | lengths, return_index=True)
    chosen = rng.permutation(first)[:n]
    return Prefixes(
        4, addresses[chosen], lengths[chosen], rng.integers(0, owners, len(chosen)).astype(np.uint32)
    )


def masks6(lengths: NDArray[Any]) -> NDArray[np.uint8]:
    columns = np.arange(16) * 8
    kept = np.clip(lengths.astype(np.int64)[:, None] - columns, 0, 8)
    return ((0xFF00 >> kept) & 0xFF).astype(np.uint8)


def prefixes6(n: int, owners: int, kind: str, rng: np.random.Generator) -> Prefixes:
    count = 2 * n
    addresses = rng.integers(0, 256, (count, 16), np.uint8)
    addresses[:, 0] = addresses[:, 0] & 0x1F | 0x20
    if kind == "any":
        lengths = rng.integers(32, 129, count).astype(np.uint8)
    else:
        weights = np.array(list(LENGTHS6.values()))
        lengths = rng.choice(np.array(list(LENGTHS6), np.uint8), count, p=weights / weights.sum())
        allocations = addresses[:5000, :4].copy()
        allocations[:, :1] = rng.choice(np.array([0x20, 0x24, 0x26, 0x28, 0x2A, 0x2C], np.uint8), (5000, 1))
        inside = (rng.random(count) < 0.8) & (lengths > 32)
        addresses[inside, :4] = rng.choice(allocations, int(inside.sum()))
        addresses[lengths == 128, 6:15] = 0
    addresses &= masks6(lengths)
    _, first = np.unique(np.column_stack([addresses, lengths]), axis=0, return_index=True)
    chosen = rng.permutation(first)[:n]
    return Prefixes(
        6, addresses[chosen], lengths[chosen], rng.integers(0, owners, len(chosen)).astype(np.uint32)
    )


def addresses_in(prefixes: Prefixes, n: int, rng: np.random.Generator) -> NDArray[Any]:
    drawn = rng.integers(0, len(prefixes.lengths), n)
    lengths = prefixes.lengths[drawn]
    if prefixes.family == 4:
        hosts = rng.integers(0, 1 << 32, n).astype(np.uint32) & host_bits(lengths)
        return np.ascontiguousarray(prefixes.addresses[drawn] | hosts)
    hosts = rng.integers(0, 256, (n, 16), np.uint8) & ~masks6(lengths)
    return np.ascontiguousarray(prefixes.addresses[drawn] | hosts)


class Rivals:
    """The library built from allowedips_rivals.c, with DPDK where it is installed."""

    def __init__(self) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise SystemExit("missing: gcc, to build allowedips_rivals.c")
        found = (
            subprocess.run(["pkg-config", "--exists", "libdpdk"], check=False)
            if shutil.which("pkg-config")
            else None
        )
        self.dpdk = found is not None and found.returncode == 0
        flags: list[str] = []
        if self.dpdk:
            options = subprocess.run(
                ["pkg-config", "--cflags", "--libs", "libdpdk"], check=True, capture_output=True, text=True
            )
            flags = ["-DHAVE_DPDK", *options.stdout.split()]
        with tempfile.TemporaryDirectory() as directory:
            built = str(Path(directory) / "allowedips_rivals.so")
            source = str(HERE / "allowedips_rivals.c")
            command = [
                compiler,
                "-std=gnu11",
                "-O3",
                "-shared",
                "-fPIC",
                "-iquote",
                str(HERE.parent / "wgfast" / "core"),
            ]
            subprocess.run([*command, source, "-o", built, *flags, "-ldl", "-lpthread"], check=True)
            self.library = ctypes.CDLL(built)
        for name in ("wgfast_make", "dpdk_make"):
            if name == "wgfast_make" or self.dpdk:
                getattr(self.library, name).restype = ctypes.c_void_p
        for name in ("bench_insert", "bench_remove", "bench_memory"):
            getattr(self.library, name).restype = ctypes.c_size_t
        self.library.bench_lookup.restype = ctypes.c_double
        if self.dpdk and self.library.dpdk_begin(b"8192") != 0:
            self.dpdk = False

    def wgfast(self, extension: str, family: int) -> Contestant:
        return Contestant(self, self._made(self.library.wgfast_make(extension.encode(), family), extension))

    def table(self, kind: int, prefixes: int, groups: int) -> Contestant:
        return Contestant(
            self, self._made(self.library.dpdk_make(kind, prefixes + 16, groups), f"DPDK {kind}"), True
        )

    @staticmethod
    def _made(handle: int | None, what: str) -> int:
        if not handle:
            raise SystemExit(f"could not make a table: {what}")
        return handle


@dataclass
class Contestant:
    rivals: Rivals
    handle: int
    dpdk: bool = False
    speeds: list[float] = field(default_factory=list)

    def _pointers(self, *arrays: NDArray[Any]) -> list[ctypes.c_void_p]:
        return [ctypes.c_void_p(array.ctypes.data) for array in arrays]

    def insert(self, p: Prefixes) -> tuple[int, float]:
        seconds = ctypes.c_double()
        arguments = self._pointers(p.addresses, p.lengths, p.owners)
        refused = self.rivals.library.bench_insert(
            ctypes.c_void_p(self.handle), *arguments, ctypes.c_size_t(len(p.lengths)), ctypes.byref(seconds)
        )
        return refused, seconds.value

    def remove(self, p: Prefixes) -> tuple[int, float]:
        seconds = ctypes.c_double()
        arguments = self._pointers(p.addresses, p.lengths)
        refused = self.rivals.library.bench_remove(
            ctypes.c_void_p(self.handle), *arguments, ctypes.c_size_t(len(p.lengths)), ctypes.byref(seconds)
        )
        return refused, seconds.value

    def answers(self, addresses: NDArray[Any]) -> NDArray[np.uint32]:
        out = np.zeros(len(addresses), np.uint32)
        handle, n = ctypes.c_void_p(self.handle), ctypes.c_size_t(len(addresses))
        self.rivals.library.bench_answers(handle, *self._pointers(addresses), n, *self._pointers(out))
        return out

    def lookups(self, addresses: NDArray[Any], passes: int) -> float:
        """Lookups a second, in millions."""
        handle, n = ctypes.c_void_p(self.handle), ctypes.c_size_t(len(addresses))
        seconds = self.rivals.library.bench_lookup(handle, *self._pointers(addresses), n, passes)
        return len(addresses) * passes / seconds / 1e6

    def memory(self) -> int:
        return int(self.rivals.library.bench_memory(ctypes.c_void_p(self.handle)))

    def free(self) -> None:
        if self.dpdk:
            self.rivals.library.dpdk_free(ctypes.c_void_p(self.handle))


def fill(contestant: Contestant, name: str, prefixes: Prefixes) -> float:
    """Inserts all; returns how many a second, in millions."""
    refused, seconds = contestant.insert(prefixes)
    if refused:
        raise SystemExit(f"{name} refused {refused} of {len(prefixes.lengths)} prefixes")
    return len(prefixes.lengths) / seconds / 1e6


def contestants(rivals: Rivals, prefixes: Prefixes, before: str | None) -> dict[str, Contestant]:
    n = len(prefixes.lengths)
    made = {"wgfast": rivals.wgfast(_core.__file__, prefixes.family)}
    if before:
        made["before"] = rivals.wgfast(before, prefixes.family)
    if rivals.dpdk and prefixes.family == 4:
        groups = int((prefixes.lengths > 24).sum()) + 16
        made["rte_fib"] = rivals.table(FIB, n, groups)
        made["rte_lpm"] = rivals.table(LPM, n, groups)
    if rivals.dpdk and prefixes.family == 6:
        groups = int(((prefixes.lengths.astype(np.int64) - 17) // 8).clip(0).sum()) + 1000
        made["rte_fib6"] = rivals.table(FIB6, n, min(groups, (1 << 31) // 1024))
    return made


def lookups(
    rivals: Rivals, name: str, prefixes: Prefixes, rounds: int, before: str | None, rng: np.random.Generator
) -> dict[str, Any]:
    """One row: everybody's median rate, and wgfast's ratio to the best rival of each round."""
    owners = len(np.unique(prefixes.owners))
    everybody = contestants(rivals, prefixes, before)
    loads = {who: fill(contestant, who, prefixes) for who, contestant in everybody.items()}
    addresses = addresses_in(prefixes, 1 << 20, rng)
    expected = everybody["wgfast"].answers(addresses)
    for who, contestant in everybody.items():
        if not np.array_equal(contestant.answers(addresses), expected):
            raise SystemExit(f"{name}: {who} disagrees with wgfast")
    passes = 2 if prefixes.family == 4 else 1
    for _ in range(rounds):
        for contestant in everybody.values():
            contestant.speeds.append(contestant.lookups(addresses, passes))
    best = {
        who: statistics.median(
            mine / theirs for mine, theirs in zip(everybody["wgfast"].speeds, contestant.speeds, strict=True)
        )
        for who, contestant in everybody.items()
        if who != "wgfast"
    }
    row = {
        "table": name,
        "prefixes": len(prefixes.lengths),
        "owners": owners,
        "lookups": {who: statistics.median(contestant.speeds) for who, contestant in everybody.items()},
        "best": {who: max(contestant.speeds) for who, contestant in everybody.items()},
        "inserts": loads,
        "ratios": best,
        "memory": everybody["wgfast"].memory(),
    }
    for contestant in everybody.values():
        contestant.free()
    print_lookups(row)
    return row


def print_lookups(row: dict[str, Any]) -> None:
    rates = ", ".join(
        f"{who} {rate:.0f} (best {row['best'][who]:.0f})" for who, rate in row["lookups"].items()
    )
    rivals = {who: ratio for who, ratio in row["ratios"].items() if who != "before"}
    least = f"{min(rivals.values()):.2f}" if rivals else "none"
    target = TARGETS.get((row["table"], row["prefixes"]))
    print(f"{row['table']}, {row['prefixes']} prefixes of {row['owners']} owners: M lookups/s: {rates}")
    loaded = ", ".join(f"{who} {rate:.2f}" for who, rate in row["inserts"].items())
    print(f"    ratio to the better rival {least}, wanted {target}; {row['memory'] / 2**20:.2f} MiB")
    print(f"    loaded, M/s: {loaded}", flush=True)


def updates(rivals: Rivals, prefixes: Prefixes, rounds: int, before: str | None) -> dict[str, Any]:
    """Removals and insertions of some prefixes at random in a full table, M/s."""
    everybody = contestants(rivals, prefixes, before)
    n = len(prefixes.lengths)
    found: dict[str, Any] = {}
    for who, contestant in everybody.items():
        some = 2_000 if who == "rte_lpm" else 100_000
        fill(contestant, who, prefixes if who != "rte_lpm" else prefixes.part(0, n // 10))
        rates = []
        for number in range(1 if who == "rte_lpm" else rounds):
            part = prefixes.part(number * some % (n // 10), number * some % (n // 10) + some)
            _, removing = contestant.remove(part)
            _, inserting = contestant.insert(part)
            rates.append(
                (2 * some / (removing + inserting) / 1e6, some / removing / 1e6, some / inserting / 1e6)
            )
        found[who] = [statistics.median(column) for column in zip(*rates, strict=True)]
        note = f" at {n // 10}, being slow to fill" if who == "rte_lpm" else f" at {n}"
        both, removed, inserted = found[who]
        print(f"{who}{note}: {both:.2f} M/s changes ({removed:.2f} removals, {inserted:.2f} insertions)")
    print(
        f"wgfast's memory at {n}, after that: {everybody['wgfast'].memory() / 2**20:.1f} MiB, wanted 48",
        flush=True,
    )
    found["memory"] = everybody["wgfast"].memory()
    for contestant in everybody.values():
        contestant.free()
    return found


def timed(act: Callable[[], object], rounds: int) -> float:
    spent = []
    for _ in range(rounds):
        begin = time.perf_counter()
        act()
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent)


def from_python(prefixes: Prefixes, rounds: int, rng: np.random.Generator) -> dict[str, float]:
    """Seconds for a million addresses."""
    table = AllowedIPs()
    table.insert_many(prefixes.addresses, prefixes.lengths, prefixes.owners)
    addresses = addresses_in(prefixes, 1_000_000, rng)
    out = np.zeros(len(addresses), np.uint32)
    found = {"lookup_many": timed(lambda: table.lookup_many(addresses, out), rounds)}
    names = [f"{a >> 24}.{a >> 16 & 255}.{a >> 8 & 255}.{a & 255}" for a in prefixes.addresses.tolist()]
    texts = [f"{a >> 24}.{a >> 16 & 255}.{a >> 8 & 255}.{a & 255}" for a in addresses.tolist()]
    entries = list(zip(names, prefixes.lengths.tolist(), prefixes.owners.tolist(), strict=True))
    try:
        import pytricia

        tree = pytricia.PyTricia(32)
        for name, length, owner in entries:
            tree.insert(f"{name}/{length}", owner)
        found["pytricia"] = timed(lambda: [tree.get(text) for text in texts], 3)
    except ImportError:
        print("left out, not installed: pytricia")
    try:
        import radix

        trie = radix.Radix()
        for name, length, owner in entries:
            trie.add(network=name, masklen=length).data["owner"] = owner
        found["py-radix"] = timed(lambda: [trie.search_best(text) for text in texts], 3)
    except ImportError:
        print("left out, not installed: py-radix")
    for who, seconds in found.items():
        times = seconds / found["lookup_many"]
        print(f"{who}: {seconds:.4f} s for a million addresses, {times:.0f} times lookup_many's")
    return found


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--rounds", type=int, help="default: 15, or 5 with --quick")
    parser.add_argument("--only", choices=["lookups4", "lookups6", "updates", "python"], nargs="*")
    parser.add_argument("--before", metavar="EXTENSION", help="another build of wgfast/_core*.so")
    parser.add_argument("--core", type=int, help="the processor to run on; default: the last one allowed")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser.parse_args(argv)


def main() -> None:
    args = arguments()
    os.sched_setaffinity(0, {args.core if args.core is not None else max(os.sched_getaffinity(0))})
    rounds = args.rounds or (5 if args.quick else 15)
    rivals, rng = Rivals(), np.random.default_rng(args.seed)
    if not rivals.dpdk:
        print("left out, not installed or not usable: DPDK (libdpdk-dev)")
    parts = args.only or ["lookups4", "lookups6", "updates", "python"]
    figures: dict[str, Any] = {"dpdk": rivals.dpdk, "lookups": []}
    if "lookups4" in parts:
        for n in (1_000, 100_000, 1_000_000):
            for owners in (256, 100_000):
                prefixes = prefixes4(n, owners, rng)
                figures["lookups"].append(lookups(rivals, "IPv4", prefixes, rounds, args.before, rng))
    if "lookups6" in parts:
        for kind in ("any", "nested"):
            for owners in (256, 100_000):
                prefixes = prefixes6(200_000, owners, kind, rng)
                row = lookups(rivals, f"IPv6 {kind}", prefixes, rounds, args.before, rng)
                figures["lookups"].append(row)
    if "updates" in parts:
        figures["updates"] = updates(rivals, prefixes4(1_000_000, 100_000, rng), rounds, args.before)
    if "python" in parts:
        figures["python"] = from_python(prefixes4(100_000, 100_000, rng), rounds, rng)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
