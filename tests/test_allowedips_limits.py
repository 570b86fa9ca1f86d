"""wgfast.AllowedIPs where other tables had trouble, at its limit, and when nearly all of it goes."""

from __future__ import annotations

import contextlib
import errno
import ipaddress

import numpy as np
import pytest
from seeds import generator

from wgfast import AllowedIPs, Device, generate_private_key


def test_situations_other_tables_had_trouble_with() -> None:
    """What the self-tests of known tables try, each with what is expected written out."""
    table = AllowedIPs()

    def owners(*addresses: str) -> list[int | None]:
        return [table.lookup(address) for address in addresses]

    # A host within a network within a wider one, entered from the middle outwards.
    for prefix, value in (("10.77.4.0/24", 1), ("10.77.4.4/32", 2), ("10.77.0.0/16", 3)):
        table.insert(prefix, value)
    assert owners("10.77.4.20", "10.77.4.4", "10.77.200.182", "10.78.0.0") == [1, 2, 3, None]
    # Neighbours that differ in their last bit, on both sides of every stride there might be.
    for length in range(1, 33):
        table.insert(ipaddress.IPv4Network((0xC6000000 >> (32 - length) << (32 - length), length)), 4)
        table.insert(
            ipaddress.IPv4Network(
                (0xC6000000 >> (32 - length) << (32 - length) ^ 1 << (32 - length), length)
            ),
            5,
        )
    assert owners("198.0.0.0", "198.0.0.1", "198.0.0.2", "198.0.0.4", "199.0.0.0", "0.0.0.1") == [
        4,
        5,
        5,
        5,
        5,
        5,
    ]
    assert table.remove_value(4) + table.remove_value(5) == 64
    # The same network named by another of its hosts is the same prefix: it changes hands, and is there once.
    table.insert("192.0.2.64/27", 4)
    table.insert("192.0.2.65/27", 3)
    assert owners("192.0.2.64", "192.0.2.95", "192.0.2.63") == [3, 3, None]
    assert table.remove_value(4) == 0
    # Everything, and everything of the other family, which has nothing to do with it.
    table.insert("0.0.0.0/0", 6)
    assert owners("10.78.0.0", "192.0.2.96", "255.255.255.255", "::", "ffff::") == [6, 6, 6, None, None]
    table.insert("::/0", 7)
    assert owners("0.0.0.0", "::", "ffff::", "::ffff:10.77.4.4") == [6, 7, 7, 7]
    # Networks of IPv6 around each other, one ending within a word, one at a word, one a host.
    for prefix, value in (
        ("2001:db8:6a::/48", 1),
        ("2001:db8:6a:2::/64", 2),
        ("2001:db8:6a:2::c0:1/128", 3),
        ("2001:db8::/33", 8),
    ):
        table.insert(prefix, value)
    assert owners(
        "2001:db8:6a:1::1", "2001:db8:6a:2::1", "2001:db8:6a:2::c0:1", "2001:db8:7fff::", "2001:db8:8000::"
    ) == [1, 2, 3, 8, 7]
    # Who does not have a prefix cannot remove it; who has it can, once.
    assert not table.remove("10.77.4.4/32", 1)
    assert owners("10.77.4.4") == [2]
    assert table.remove("10.77.4.4/32", 2)
    assert not table.remove("10.77.4.4/32", 2)
    assert owners("10.77.4.4") == [1]
    # One that was never there: longer, shorter, and beside those that are.
    assert not any(
        table.remove(prefix) for prefix in ("10.77.4.0/25", "10.77.4.0/23", "10.77.5.0/24", "::/1")
    )
    # All of one owner's go, from both families, and nobody else's.
    assert [str(prefix) for prefix, _ in table.items(3)] == [
        "10.77.0.0/16",
        "192.0.2.64/27",
        "2001:db8:6a:2::c0:1/128",
    ]
    assert table.remove_value(3) == 3
    assert owners("10.77.4.20", "10.77.5.0", "192.0.2.64", "2001:db8:6a:2::c0:1") == [1, 6, 6, 2]
    # Removing the shortest bares nothing, removing the longest bares what is below.
    assert table.remove("0.0.0.0/0")
    assert table.remove("2001:db8:6a:2::/64")
    assert owners("10.77.4.20", "10.77.5.0", "2001:db8:6a:2::c0:1") == [1, None, 1]


def test_a_table_at_its_limit() -> None:
    """More host routes than there is room for: a clear error, and all that was there still is."""
    rng = generator("test_a_table_at_its_limit")
    addresses = np.unique(rng.integers(0, 1 << 32, 3_000_000).astype(np.uint32))
    rng.shuffle(addresses)
    lengths, values = np.full(len(addresses), 32, np.uint8), (addresses % 1000).astype(np.uint32)
    table = AllowedIPs()
    with pytest.raises(OSError, match="the table of allowed IPs is at its limit") as raised:
        table.insert_many(addresses, lengths, values)
    assert raised.value.errno == errno.ENOSPC
    count = len(table)
    assert 1_000_000 < count < len(addresses)
    expected = np.where(np.arange(len(addresses)) < count, values, AllowedIPs.NONE)
    assert np.array_equal(table.lookup_many(addresses), expected)
    refused = ipaddress.IPv4Address(int(addresses[count]))
    with pytest.raises(OSError, match="at its limit"):
        table.insert(refused, 7)
    assert len(table) == count
    table.insert("0.0.0.0/0", 5)  # takes no node
    assert table.lookup(refused) == 5
    table.insert("2001:db8::/32", 6)  # another family's
    for value in range(100, 120):  # what a thousandth gives back may be too small for the most crowded place
        assert table.remove_value(value) == int((values[:count] == value).sum())
    table.insert(refused, 7)
    assert table.lookup(refused) == 7
    gone = (values[:count] >= 100) & (values[:count] < 120)
    assert np.array_equal(table.lookup_many(addresses[:count]), np.where(gone, 5, values[:count]))


def test_a_full_table_moves_and_shrinks() -> None:
    """Moves need as much room as insertions, removals none: what is left of nearly all takes little."""
    rng = generator("test_a_full_table_moves_and_shrinks")
    addresses = np.unique(rng.integers(0, 1 << 32, 200_000).astype(np.uint32))
    lengths = np.full(len(addresses), 32, np.uint8)
    table = AllowedIPs()
    table.insert_many(addresses, lengths, np.zeros(len(addresses), np.uint32))
    full = table.memory
    table.insert_many(addresses, lengths, np.ones(len(addresses), np.uint32))
    assert table.memory < full * 5 // 4
    table.insert_many(addresses[:5000], lengths[:5000], np.full(5000, 2, np.uint32))
    assert table.remove_value(1) == len(addresses) - 5000
    assert table.memory < full // 3
    found = table.lookup_many(addresses)
    assert (found[:5000] == 2).all()
    assert (found[5000:] == AllowedIPs.NONE).all()


def allowed_memory(device: Device) -> int:
    return device.core.info().allowedips_memory


@pytest.mark.parametrize(
    "nets",
    [
        ["0.0.0.0/0", "::/0"],
        ["10.0.0.2/32", "fd00::2/128"],
        [f"10.{i}.0.0/16" for i in range(40)] + [f"fd00:{i:x}::/48" for i in range(40)],
    ],
    ids=["everything", "one host", "some networks"],
)
def test_a_device_of_one_peer_takes_little(nets: list[str]) -> None:
    """Also where that peer has the identifier of one before it, for lists of owners reach to the highest."""
    with contextlib.closing(Device(generate_private_key())) as device:
        empty = allowed_memory(device)
        for i in range(100):
            peer = device.add_peer(bytes([i + 1] * 32), allowed_ips=nets)
            assert empty < allowed_memory(device) < 64 << 10
            device.remove_peer(peer)
            assert allowed_memory(device) == empty


def test_the_last_of_many_peers_takes_little() -> None:
    with contextlib.closing(Device(generate_private_key())) as device:
        keys = [i.to_bytes(32, "big") for i in range(1, 1001)]
        device.update(
            {"public_key": key, "allowed_ips": f"10.0.{i >> 8}.{i & 255}"} for i, key in enumerate(keys)
        )
        assert allowed_memory(device) > 64 << 10
        device.update([{"public_key": keys[-1], "allowed_ips": ["10.9.0.0/16", "fd00::/64"]}], replace=True)
        assert allowed_memory(device) < 64 << 10
