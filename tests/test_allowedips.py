"""wgfast.AllowedIPs against a slow oracle: a dictionary of ipaddress networks, searched from the longest."""

from __future__ import annotations

import copy
import ipaddress
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from numpy.typing import NDArray
from seeds import generator

import wgfast
from wgfast import AllowedIPs, _core

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
VALUES = st.one_of(st.integers(0, 5), st.just(_core.PEERS_MAX - 1))


class Oracle:
    def __init__(self) -> None:
        self.prefixes: dict[Network, int] = {}

    def lookup(self, address: Address) -> int | None:
        matching = [
            prefix for prefix in self.prefixes if prefix.version == address.version and address in prefix
        ]
        return self.prefixes[max(matching, key=lambda prefix: prefix.prefixlen)] if matching else None

    def items(self) -> list[tuple[Network, int]]:
        return sorted(
            self.prefixes.items(),
            key=lambda item: (item[0].version, item[0].network_address, item[0].prefixlen),
        )


# Addresses near each other, so that prefixes nest and share paths; and a few from everywhere.
NEAR4 = st.integers(0, 0xFF).map(lambda low: 0x0A000000 | (low & 0xF0) << 12 | low & 0x0F)
NEAR6 = st.integers(0, 0xFFFF).map(lambda low: 0xFD << 120 | (low & 0xFF00) << 56 | low & 0xFF)
ADDRESSES = st.one_of(
    st.one_of(NEAR4, st.integers(0, (1 << 32) - 1)).map(ipaddress.IPv4Address),
    st.one_of(NEAR6, st.integers(0, (1 << 128) - 1)).map(ipaddress.IPv6Address),
)


@st.composite
def prefixes(draw: st.DrawFn) -> Network:
    address = draw(ADDRESSES)
    return ipaddress.ip_network((address, draw(st.integers(0, address.max_prefixlen))), strict=False)


def edges(prefix: Network) -> list[Address]:
    """First and last address of a prefix, and those beside it."""
    first, last = int(prefix.network_address), int(prefix.broadcast_address)
    top = (1 << prefix.max_prefixlen) - 1
    kind = type(prefix.network_address)
    return [kind(number) for number in (first, last, max(0, first - 1), min(top, last + 1))]


def as_arrays(addresses: list[Address]) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    four = np.array([int(a) for a in addresses if a.version == 4], np.uint32)
    six = np.frombuffer(b"".join(a.packed for a in addresses if a.version == 6), np.uint8)
    return four, six.reshape(-1, 16)


def check_lookups(table: AllowedIPs, oracle: Oracle, addresses: list[Address]) -> None:
    expected = {address: oracle.lookup(address) for address in addresses}
    assert {address: table.lookup(address) for address in addresses} == expected
    for version, array in zip((4, 6), as_arrays(addresses), strict=True):
        found = [None if owner == AllowedIPs.NONE else owner for owner in table.lookup_many(array).tolist()]
        assert found == [expected[address] for address in addresses if address.version == version]


class TableMachine(RuleBasedStateMachine):
    """Any sequence of changes leaves the table as the oracle has it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.oracle = AllowedIPs(), Oracle()

    @rule(prefix=prefixes(), value=VALUES)
    def insert(self, prefix: Network, value: int) -> None:
        self.table.insert(prefix, value)
        self.oracle.prefixes[prefix] = value

    @rule(prefix=prefixes())
    def remove(self, prefix: Network) -> None:
        assert self.table.remove(prefix) is (self.oracle.prefixes.pop(prefix, None) is not None)

    @rule(data=st.data(), value=st.one_of(st.none(), VALUES))
    def remove_one_there_is(self, data: st.DataObject, value: int | None) -> None:
        if self.oracle.prefixes:
            prefix = data.draw(st.sampled_from(sorted(self.oracle.prefixes, key=str)))
            mine = value is None or self.oracle.prefixes[prefix] == value
            assert self.table.remove(str(prefix), value) is mine
            if mine:
                del self.oracle.prefixes[prefix]

    @rule(value=VALUES)
    def remove_value(self, value: int) -> None:
        gone = [prefix for prefix, owner in self.oracle.prefixes.items() if owner == value]
        assert self.table.remove_value(value) == len(gone)
        for prefix in gone:
            del self.oracle.prefixes[prefix]

    @rule(addresses=st.lists(ADDRESSES, max_size=10))
    def lookup(self, addresses: list[Address]) -> None:
        check_lookups(self.table, self.oracle, addresses)

    @invariant()
    def same(self) -> None:
        assert list(self.table.items()) == self.oracle.items()
        assert len(self.table) == len(self.oracle.prefixes)
        at_edges = [address for prefix in self.oracle.prefixes for address in edges(prefix)]
        check_lookups(self.table, self.oracle, at_edges)


TableMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestTable = TableMachine.TestCase


@settings(deadline=None)
@given(st.dictionaries(prefixes(), VALUES, max_size=30), st.lists(ADDRESSES, max_size=50))
def test_order_of_insertion_does_not_matter(mapping: dict[Network, int], addresses: list[Address]) -> None:
    oracle = Oracle()
    oracle.prefixes = mapping
    forward, backward = AllowedIPs(), AllowedIPs()
    for prefix, value in mapping.items():
        forward.insert(prefix, value)
    for prefix, value in reversed(mapping.items()):
        backward.insert(prefix, value)
    check_lookups(forward, oracle, addresses)
    assert list(forward.items()) == list(backward.items())


def test_large_table_in_one_call() -> None:
    rng = generator("test_large_table_in_one_call")
    table, by_length = AllowedIPs(), {length: {} for length in range(33)}
    for address, length in zip(rng.integers(0, 1 << 32, 20_000), rng.integers(4, 33, 20_000), strict=True):
        network = int(address) >> (32 - int(length)) << (32 - int(length))
        by_length[int(length)][network] = value = int(rng.integers(1000))
        table.insert(ipaddress.IPv4Network((network, int(length))), value)
    addresses = rng.integers(0, 1 << 32, 5_000).astype(np.uint32)
    out = np.zeros(5_000, np.uint32)
    assert table.lookup_many(addresses, out) is out
    for address, found in zip(addresses.tolist(), out.tolist(), strict=True):
        keys = ((length, address >> (32 - length) << (32 - length)) for length in range(32, -1, -1))
        expected = next((by_length[n][key] for n, key in keys if key in by_length[n]), AllowedIPs.NONE)
        assert found == expected, ipaddress.IPv4Address(address)


def test_strings_addresses_and_host_bits() -> None:
    table = AllowedIPs()
    table.insert("10.1.2.3/8", 1)
    table.insert("10.1.2.3", 2)
    table.insert(ipaddress.ip_address("fd00::1"), 3)
    table.insert("::/0", 4)
    table.insert("0.0.0.0/0", 5)
    assert [str(prefix) for prefix in table] == [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.2.3/32",
        "::/0",
        "fd00::1/128",
    ]
    assert [table.lookup(a) for a in ("10.1.2.3", "10.9.9.9", "11.0.0.0", "fd00::1", "fd00::2")] == [
        2,
        1,
        5,
        3,
        4,
    ]
    assert [(str(prefix), value) for prefix, value in table.items(3)] == [("fd00::1/128", 3)]


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("10.0.0.0/33", r"'10\.0\.0\.0/33': prefix length must be 0 to 32"),
        ("fd00::/129", "'fd00::/129': prefix length must be 0 to 128"),
        ("10.0.0.0/-1", "prefix length"),
        ("10.0.0.0/", "prefix length"),
        ("10.0.0.0/255.0.0.0", "prefix length"),
        ("10.0.0", "expected an address or prefix"),
        ("", "expected an address or prefix"),
        ("10.0.0.0/8, 11.0.0.0/8", "10"),
        (7, "expected an address or prefix"),
    ],
)
def test_what_is_no_prefix(prefix: Any, message: str) -> None:
    table = AllowedIPs()
    for act in (lambda: table.insert(prefix, 1), lambda: table.remove(prefix)):
        with pytest.raises(wgfast.ConfigError, match=message):
            act()
    assert len(table) == 0


@pytest.mark.parametrize("value", [-1, _core.PEERS_MAX, 1 << 32, 1 << 64])
def test_what_is_no_value(value: int) -> None:
    table = AllowedIPs()
    with pytest.raises(ValueError, match=f"owner: {value}: expected 0 to {_core.PEERS_MAX - 1}"):
        table.insert("10.0.0.0/8", value)
    assert len(table) == 0


def test_what_is_no_address() -> None:
    with pytest.raises(
        wgfast.ConfigError, match=r"address: '10\.0\.0\.0/8': expected an IPv4 or IPv6 address"
    ):
        AllowedIPs().lookup("10.0.0.0/8")


BAD: list[tuple[str, Any, Any, str]] = [
    ("signed", np.zeros(3, np.int64), np.zeros(3, np.uint32), "addresses: int64"),
    ("15 bytes", np.zeros((3, 15), np.uint8), np.zeros(3, np.uint32), r"addresses: uint8 of shape \(3, 15\)"),
    ("strided", np.zeros((3, 32), np.uint8)[:, :16], np.zeros(3, np.uint32), r"strides \(32, 1\)"),
    ("too few", np.zeros(3, np.uint32), np.zeros(2, np.uint32), r"owners: uint32 of shape \(2,\)"),
    ("read-only", np.zeros(3, np.uint32), np.zeros(3, np.uint32).tobytes(), "owners: "),
    ("narrow", np.zeros(3, np.uint32), np.zeros(3, np.uint16), "owners: uint16"),
    ("text", "10.0.0.1", np.zeros(8, np.uint32), "addresses: str"),
]


@pytest.mark.parametrize(("addresses", "out", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_arrays_that_are_wrong(addresses: Any, out: Any, message: str) -> None:
    with pytest.raises(wgfast.BatchError, match=message):
        AllowedIPs().lookup_many(addresses, out)


def test_lookups_while_a_prefix_moves() -> None:
    """Readers see the old or the new owner of a prefix that moves, never none and never a wider one."""
    table = AllowedIPs()
    table.insert("10.0.0.0/8", 9)
    table.insert("10.0.0.0/24", 0)
    addresses, stop = np.full(256, 0x0A000001, np.uint32), threading.Event()
    seen: list[set[int]] = []

    def read() -> None:
        found: set[int] = set()
        out = np.empty(256, np.uint32)
        while not stop.is_set():
            found.update(table.lookup_many(addresses, out).tolist())
        seen.append(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for i in range(3000):
        table.insert("10.0.0.0/24", i % 3)
        table.insert(f"10.{i % 256}.0.0/16", 8)
        table.remove(f"10.{i % 256}.0.0/16")
    stop.set()
    for reader in readers:
        reader.join()
    assert set().union(*seen) <= {0, 1, 2}


def test_works_without_numpy() -> None:
    program = (
        "import array, sys, wgfast; t = wgfast.AllowedIPs(); t.insert('10.0.0.0/8', 7)\n"
        "out = array.array('I', [0, 0])\n"
        "assert t.lookup_many(array.array('I', [0x0A000001, 1]), out).tolist() == [7, 0xffffffff]\n"
        "assert t.lookup('10.2.3.4') == 7 and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_no_copies(duplicate: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="Routes cannot be pickled or copied"):
        duplicate(_core.Routes())
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        pickle.dumps(AllowedIPs())
