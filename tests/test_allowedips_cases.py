"""The cases of the field's known self-tests for such tables, written anew, each in a table's small and large
form and judged by the oracle of test_allowedips.py."""

from __future__ import annotations

import ipaddress

import pytest
from seeds import generator
from test_allowedips import Address, Oracle, check_lookups, edges

from wgfast import AllowedIPs

ELSEWHERE = 600  # prefixes of each family that make a table a large one
OTHER = 300  # who has them


class Pair:
    """A table and its oracle, changed alike."""

    def __init__(self, large: bool) -> None:
        self.table, self.oracle = AllowedIPs(), Oracle()
        self.asked: set[Address] = set()
        if large:
            for i in range(ELSEWHERE):
                self.insert(f"203.{i >> 8}.{i & 255}.0/24", OTHER)
                self.insert(f"3fff:{i:x}::/32", OTHER)

    def insert(self, prefix: str, value: int) -> None:
        """As it is written, host bits and all; its edges and itself are asked from now on."""
        network = ipaddress.ip_network(prefix, strict=False)
        self.table.insert(prefix, value)
        self.oracle.prefixes[network] = value
        if value != OTHER:
            self.asked.update(edges(network), [ipaddress.ip_address(prefix.partition("/")[0])])

    def remove_value(self, value: int) -> None:
        gone = [prefix for prefix, owner in self.oracle.prefixes.items() if owner == value]
        assert self.table.remove_value(value) == len(gone)
        for prefix in gone:
            del self.oracle.prefixes[prefix]

    def check(self) -> None:
        check_lookups(self.table, self.oracle, sorted(self.asked, key=lambda a: (a.version, a)))
        assert len(self.table) == len(self.oracle.prefixes)


@pytest.fixture(params=[False, True], ids=["small", "large"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(large=request.param)


# Owners are those of the columns; a prefix that is there already changes hands, and host bits mean nothing.
PREFIXES = [
    *[("172.20.6.0/24", 1), ("172.20.6.6/32", 2), ("172.20.0.0/16", 3)],
    *[("198.51.100.96/27", 4), ("198.51.100.97/27", 3)],
    *[("2a02:4300:7000:5b00::a05e:443/128", 4), ("2a02:4300:7000:5b00::/64", 3)],
    *[("0.0.0.0/0", 5), ("::/0", 5), ("::/0", 6)],
    *[("2c0f:5800::/32", 7), ("2c0f:5800:5005:900:face:feed:face:feed/64", 8)],
    ("2c0f:5800:5005:900:face:feed:face:feed/128", 1),
    *[("2c4f:5800:51e5:900:fabe:feed:0dab:feed/128", 3), ("2c4f:5800:e1e5:900:eabe:feed::/98", 2)],
    *[("71.14.96.0/20", 7), ("71.14.107.211/25", 8)],
    *[("10.9.0.0/25", 1), ("10.9.0.128/25", 2)],
    *[("10.10.0.0/30", 1), ("10.10.0.4/30", 2), ("10.10.0.8/29", 3), ("10.10.0.20/29", 4)],
    *[("2a02:4300:7d8a:7bf8:cab1:e1df:b05f:1423/83", 9), ("2a02:4300:7d8a:7bf8:cab1:e1df:b05f:1423/21", 9)],
    *[(f"{first}.0.0.0/32", 1) for first in (1, 64, 128, 192, 255)],
    *[("172.30.0.0/16", 10), ("172.30.0.0/24", 10)],
]


def test_prefixes_of_all_kinds_together(pair: Pair) -> None:
    for prefix, value in PREFIXES:
        pair.insert(prefix, value)
        pair.check()
    assert [str(prefix) for prefix, _ in pair.table.items(9)] == [
        "2a02:4000::/21",
        "2a02:4300:7d8a:7bf8:cab1:e000::/83",
    ]
    assert [str(prefix) for prefix, _ in pair.table.items(4)] == [
        "10.10.0.16/29",
        "2a02:4300:7000:5b00::a05e:443/128",
    ]


@pytest.mark.parametrize("order", ["first to last", "last to first", "shuffled"])
def test_owners_go_one_by_one_and_all_is_asked_after_each(pair: Pair, order: str) -> None:
    for prefix, value in PREFIXES:
        pair.insert(prefix, value)
    values = sorted({value for _, value in PREFIXES}, reverse=order == "last to first")
    if order == "shuffled":
        generator("test_owners_go_one_by_one").shuffle(values)
    for value in values:
        pair.remove_value(value)
        pair.check()
        assert list(pair.table.items(value)) == []
    assert len(pair.table) == len(pair.oracle.prefixes)
    assert set(pair.oracle.prefixes.values()) <= {OTHER}


@pytest.mark.parametrize(
    ("everything", "inside"), [("0.0.0.0/0", "10.0.0.0/9"), ("::/0", "2001:db8::/33")], ids=["IPv4", "IPv6"]
)
def test_the_default_route_changes_hands(pair: Pair, everything: str, inside: str) -> None:
    pair.insert(inside, 1)
    for value in (2, 3, 1, 2):
        pair.insert(everything, value)
        pair.check()
    pair.remove_value(3)  # has nothing any more
    pair.remove_value(1)
    pair.check()
    pair.insert(inside, 4)
    pair.remove_value(2)
    pair.check()
    pair.insert(everything, 4)
    pair.check()
    pair.remove_value(4)
    pair.check()


@pytest.mark.parametrize(
    "base", ["255.255.255.255", "0.0.0.0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8:5555:aaaa::"]
)
def test_hosts_that_fork_one_bit_apart(pair: Pair, base: str) -> None:
    """At every bit one host leaves the way of all others; then they are torn down one by one."""
    address = ipaddress.ip_address(base)
    bits = address.max_prefixlen
    hosts = [type(address)(int(address) ^ 1 << bit) for bit in range(bits)]
    rng = generator("test_hosts_that_fork_one_bit_apart")
    for bit in rng.permutation(bits).tolist():
        pair.insert(f"{hosts[bit]}/{bits}", bit)
    pair.insert(f"{base}/{bits // 2}", 200)
    pair.check()
    for turn, bit in enumerate(rng.permutation(bits).tolist()):
        assert pair.table.remove(hosts[bit], bit)
        del pair.oracle.prefixes[ipaddress.ip_network(hosts[bit])]
        check_lookups(pair.table, pair.oracle, [hosts[bit], address])
        if turn % (bits // 8) == 0:
            pair.check()
    pair.check()
    assert {value for _, value in pair.table.items()} - {OTHER} == {200}
