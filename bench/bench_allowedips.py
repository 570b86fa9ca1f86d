"""How fast are longest-prefix lookups, by family and size of the table?"""

from __future__ import annotations

import ipaddress
from functools import partial
from typing import Any

import numpy as np
import pytest
from rates import THREADS, Crew

from wgfast import AllowedIPs

N = 4096
TABLES = (1, 1_000, 65_000)


def table_of(family: int, prefixes: int, rng: np.random.Generator) -> AllowedIPs:
    table = AllowedIPs()
    bits = 32 if family == 4 else 128
    for i in range(prefixes):
        address = int.from_bytes(rng.bytes(bits // 8), "big")
        length = int(rng.integers(bits // 4, bits + 1))
        network = address >> (bits - length) << (bits - length)
        if family == 4:
            table.insert(ipaddress.IPv4Network((network, length)), i)
        else:
            table.insert(ipaddress.IPv6Network((network, length)), i)
    return table


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("prefixes", TABLES)
@pytest.mark.parametrize("family", [4, 6])
def test_lookup_many(benchmark: Any, family: int, prefixes: int, threads: int) -> None:
    rng = np.random.default_rng(prefixes)
    table = table_of(family, prefixes, rng)
    if family == 4:
        addresses = rng.integers(0, 1 << 32, N).astype(np.uint32)
    else:
        addresses = rng.integers(0, 256, (N, 16), np.uint8)
    outs = [np.zeros(N, np.uint32) for _ in range(threads)]
    crew = Crew([partial(table.lookup_many, addresses, out) for out in outs])
    benchmark.group = f"IPv{family}, {prefixes} prefixes, {N} lookups"
    crew.measure(benchmark, N)
