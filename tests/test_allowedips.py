"""wgfast.AllowedIPs against a slow oracle: a dictionary of ipaddress networks, searched from the longest."""

from __future__ import annotations

import copy
import ipaddress
import pickle
import subprocess
import sys
import threading
import time
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

    @rule(data=st.data(), value=VALUES)
    def move_one_there_is(self, data: st.DataObject, value: int) -> None:
        if self.oracle.prefixes:
            prefix = data.draw(st.sampled_from(sorted(self.oracle.prefixes, key=str)))
            self.table.insert(prefix, value)
            self.oracle.prefixes[prefix] = value

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


def arrays_of(
    prefixes: list[tuple[Network, int]], version: int
) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.uint32]]:
    mine = [(prefix, value) for prefix, value in prefixes if prefix.version == version]
    four, six = as_arrays([prefix.network_address for prefix, _ in mine])
    lengths = np.array([prefix.prefixlen for prefix, _ in mine], np.uint8)
    return four if version == 4 else six, lengths, np.array([value for _, value in mine], np.uint32)


@settings(deadline=None)
@given(st.dictionaries(prefixes(), VALUES, max_size=40))
def test_whole_arrays_are_inserted_like_one_by_one(mapping: dict[Network, int]) -> None:
    oracle, table = Oracle(), AllowedIPs()
    oracle.prefixes = mapping
    for version in (4, 6):
        table.insert_many(*arrays_of(list(mapping.items()), version))
    assert list(table.items()) == oracle.items()
    assert list(table.dump()) == [f"{prefix} {value}" for prefix, value in oracle.items()]
    check_lookups(table, oracle, [address for prefix in mapping for address in edges(prefix)])


@pytest.mark.parametrize(
    ("addresses", "length", "value", "message"),
    [
        (np.zeros(3, np.uint32), 33, 0, r"lengths\[1\]: 33: expected 0 to 32"),
        (np.zeros((3, 16), np.uint8), 129, 0, r"lengths\[1\]: 129: expected 0 to 128"),
        (np.zeros(3, np.uint32), 8, 1 << 20, r"owners\[1\]: 1048576: expected 0 to 1048575"),
    ],
)
def test_one_bad_prefix_and_none_is_inserted(
    addresses: NDArray[Any], length: int, value: int, message: str
) -> None:
    table = AllowedIPs()
    lengths, values = np.array([1, length, 2], np.uint8), np.array([0, value, 0], np.uint32)
    with pytest.raises(ValueError, match=message):
        table.insert_many(addresses, lengths, values)
    with pytest.raises(wgfast.BatchError, match="lengths: "):
        table.insert_many(addresses, lengths[:2], values)
    assert len(table) == 0


def test_memory_follows_the_prefixes() -> None:
    table = AllowedIPs()
    empty = table.memory
    table.insert("10.0.0.1/32", 0)
    table.insert("fd00::1/128", 0)
    assert empty < table.memory < 65536
    rng = generator("test_memory_follows_the_prefixes")
    addresses = rng.integers(0, 1 << 32, 100_000).astype(np.uint32)
    table.insert_many(addresses, np.full(100_000, 24, np.uint8), np.ones(100_000, np.uint32))
    assert table.memory < 12 << 20
    table.remove_value(0)
    table.remove_value(1)
    assert table.memory == empty


def chain(address: Address) -> list[Network]:
    """Every prefix of an address: 33 or 129 of them, each inside the one before."""
    return [
        ipaddress.ip_network((address, length), strict=False) for length in range(address.max_prefixlen + 1)
    ]


@pytest.mark.parametrize(
    "address", ["203.0.113.77", "255.255.255.255", "2001:db8:5555:aaaa:5555:aaaa:5555:aaaa"]
)
def test_chains_of_all_lengths(address: str) -> None:
    nested = chain(ipaddress.ip_address(address))
    rng = generator("test_chains_of_all_lengths")
    oracle, table = Oracle(), AllowedIPs()
    at_edges = [edge for prefix in nested for edge in edges(prefix)]
    for place in rng.permutation(len(nested)).tolist():
        table.insert(nested[place], place)
        oracle.prefixes[nested[place]] = place
    check_lookups(table, oracle, at_edges)
    for place in rng.permutation(len(nested)).tolist():
        assert table.remove(nested[place])
        del oracle.prefixes[nested[place]]
        if place % 8 == 0:
            check_lookups(table, oracle, at_edges)
    assert len(table) == 0


class LargeMachine(TableMachine):
    """The same, with so many prefixes elsewhere that the table takes its large form."""

    ELSEWHERE = 700

    def __init__(self) -> None:
        super().__init__()
        count = np.arange(self.ELSEWHERE, dtype=np.uint32)
        values = np.full(self.ELSEWHERE, 99, np.uint32)
        self.table.insert_many(
            np.uint32(0xC0000000) + count * 65536, np.full(self.ELSEWHERE, 20, np.uint8), values
        )
        addresses = np.zeros((self.ELSEWHERE, 16), np.uint8)
        addresses[:, 0], addresses[:, 2], addresses[:, 3] = 0x3F, count >> 8, count & 255
        self.table.insert_many(addresses, np.full(self.ELSEWHERE, 40, np.uint8), values)
        self.oracle.prefixes.update({prefix: 99 for prefix, value in self.table.items() if value == 99})

    @invariant()
    def same(self) -> None:
        assert len(self.table) == len(self.oracle.prefixes)
        near = [prefix for prefix, value in self.oracle.prefixes.items() if value != 99]
        self.check([address for prefix in near for address in edges(prefix)])

    def check(self, addresses: list[Address]) -> None:
        """Batches of 64 too, which take another way than few addresses do."""
        check_lookups(self.table, self.oracle, addresses * (1 + 70 // max(1, len(addresses))))


LargeMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLargeTable = LargeMachine.TestCase


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


def ticks_while(wait: Callable[[], object]) -> tuple[float, int]:
    """How many seconds `wait` took, and how many milliseconds' sleeps of another thread ended meanwhile."""
    ticks, stop = [0], threading.Event()

    def tick() -> None:
        while not stop.is_set():
            time.sleep(0.001)
            ticks[0] += 1

    ticker = threading.Thread(target=tick)
    ticker.start()
    before, begin = ticks[0], time.monotonic()
    wait()
    waited, ticked = time.monotonic() - begin, ticks[0] - before
    stop.set()
    ticker.join()
    return waited, ticked


@pytest.mark.parametrize("ask", [len, lambda table: table.memory], ids=["len", "memory"])
def test_other_threads_run_while_one_waits_for_a_change(ask: Callable[[AllowedIPs], int]) -> None:
    count = 300_000
    addresses = np.arange(count, dtype=np.uint32) << np.uint32(8)
    table = AllowedIPs()
    for _ in range(5):
        table.insert_many(addresses, np.full(count, 24, np.uint8), np.ones(count, np.uint32))
        removal = threading.Thread(target=table.remove_value, args=(1,))
        removal.start()
        waited, ticked = ticks_while(lambda: ask(table))
        removal.join()
        if waited > 0.05:  # otherwise the removal was over already, or had not begun
            assert ticked > 5
            return
    raise AssertionError("it never had to wait")


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
