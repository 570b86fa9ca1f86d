"""Allowed IPs by themselves: longest-prefix match from IPv4 and IPv6 prefixes to small integers, at the speed
of the data plane. A Device or Engine has a table of its own; this one is for whoever needs only the table."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from . import _core
from .errors import ConfigError
from .settings import Network, network, parse_allowed_ips

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class AllowedIPs:
    """A table from prefix to value (0 to PEERS_MAX - 1). The longest prefix that contains an address wins.

    Prefixes are strings like "10.0.0.0/24" or "fd00::/64", or ipaddress networks; a bare address means that
    address alone, and host bits are masked. Any thread may call anything at any time: lookups never
    wait, and see each change as one step. Values are counted from 0: each up to the greatest costs a family
    4 bytes, 8 at times.
    """

    NONE: Final = 0xFFFFFFFF
    """What lookup_many writes where no prefix matches."""

    def __init__(self) -> None:
        self._routes = _core.Routes()

    def insert(self, prefix: str | Network | Address, value: int) -> None:
        """Maps `prefix` to `value`, in place of what it was mapped to. ConfigError when it is no prefix,
        ValueError when the value is out of range, OSError (ENOSPC, ENOMEM) when the table is at its limit,
        which lies beyond a million prefixes of either family, or memory is: then nothing has changed."""
        self._routes.insert(*_one(prefix), value)

    def insert_many(
        self,
        addresses: NDArray[np.uint32] | NDArray[np.uint8],
        lengths: NDArray[np.uint8],
        values: NDArray[np.uint32],
    ) -> None:
        """Inserts whole arrays without the GIL, in their order; host bits are masked.

        addresses: (n,) uint32 or (n, 16) uint8, as for lookup_many.
        lengths: (n,) uint8, 0 to 32 or 128.
        values: (n,) uint32, 0 to PEERS_MAX - 1.

        BatchError names the array that is wrong, ValueError the length or value that is out of range: then
        nothing was inserted. OSError (ENOSPC, ENOMEM) as for insert: then those before the one that found no
        room are in. Each insertion is a step of its own for lookups meanwhile.
        """
        self._routes.insert_many(addresses, lengths, values)

    def remove(self, prefix: str | Network | Address, value: int | None = None) -> bool:
        """Removes exactly this prefix if it is mapped to `value` (None: to anything). False: it was not."""
        return self._routes.remove(*_one(prefix), value)

    def remove_value(self, value: int) -> int:
        """Removes every prefix mapped to `value`; returns how many there were."""
        return self._routes.remove_owner(value)

    def lookup(self, address: str | Address) -> int | None:
        """The value of the longest prefix that contains `address`; None: there is none."""
        try:
            parsed = ipaddress.ip_address(str(address))
        except ValueError:
            raise ConfigError(f"address: {str(address)!r}: expected an IPv4 or IPv6 address") from None
        return self._routes.lookup(parsed.version, parsed.packed)

    def lookup_many(
        self,
        addresses: NDArray[np.uint32] | NDArray[np.uint8],
        out: NDArray[np.uint32] | None = None,
    ) -> NDArray[np.uint32]:
        """Looks up a whole array without the GIL and without copies.

        addresses: (n,) uint32, IPv4 addresses as numbers in host order, as int(IPv4Address(...)); or (n, 16)
            uint8, IPv6 addresses in network order.
        out: (n,) uint32, written and returned; None: a new array. NONE where nothing matches.

        BatchError names the array that is wrong and what was expected.
        """
        if out is None:
            import numpy as np  # only here: the class works without it

            out = np.empty(len(addresses), np.uint32)
        self._routes.lookup_many(addresses, out)
        return out

    def items(self, value: int | None = None) -> Iterator[tuple[Network, int]]:
        """Each prefix with its value, IPv4 first, in order of address, then length; only those mapped to
        `value` where one is given. They are those of the moment of the call."""
        entries = self._routes.entries(value)
        return ((network((family, address, length)), owner) for family, address, length, owner in entries)

    def dump(self) -> Iterator[str]:
        """The table as text: lines like "10.0.0.0/24 7", in the order of items()."""
        return (f"{prefix} {value}" for prefix, value in self.items())

    @property
    def memory(self) -> int:
        """Bytes in use for lookups and changes together."""
        return self._routes.memory()

    def __iter__(self) -> Iterator[Network]:
        return (prefix for prefix, _ in self.items())

    def __len__(self) -> int:
        return len(self._routes)

    def __repr__(self) -> str:
        return f"<AllowedIPs with {len(self)} prefixes>"


def _one(prefix: str | Network | Address) -> tuple[int, bytes, int]:
    return parse_allowed_ips([str(prefix)])[0]
