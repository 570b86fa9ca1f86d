"""Routes for allowed IPs, and the rules that send everything but the tunnel's own packets into it.

A default route does not replace the machine's. It goes into a table of its own, and two rules choose: what
does not bear the tunnel's mark looks there, but only after the main table was asked for anything more
specific than a default route (suppress_prefixlength 0).
"""

from __future__ import annotations

import contextlib
import errno
import glob
import socket
from collections.abc import Collection, Iterable
from ipaddress import ip_network
from typing import Any, Final

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from wgfast.quick.errors import NOT_UNDERSTOOD, REFUSED, QuickError, refusals
from wgfast.settings import Network

MAIN: Final = 254
FIRST_TABLE: Final = 51820
_TABLE_MAX: Final = 0xFFFFFFFF
_RTPROT_BOOT: Final = 3  # as ip(8) marks what an administrator adds
_RT_SCOPE_LINK: Final = 253
_FIB_RULE_INVERT: Final = 2
_KNOWN_TABLES: Final = {"default": 253, "main": MAIN, "local": 255}
_TABLE_FILES: Final = (
    "/usr/share/iproute2/rt_tables",
    "/usr/lib/iproute2/rt_tables",
    "/etc/iproute2/rt_tables",
    "/etc/iproute2/rt_tables.d/*.conf",
)

FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


def ordered(networks: Iterable[Network]) -> list[Network]:
    """As wg-quick adds them: the more specific first."""
    return sorted(networks, key=lambda network: (network.prefixlen, str(network)), reverse=True)


def table_number(text: str) -> int:
    """Of `Table = text`, a number or a name of iproute2's. QuickError if it is neither."""
    named = {**_KNOWN_TABLES, **_named_tables()}
    try:
        number = named[text] if text in named else int(text, 0)
    except ValueError:
        number = -1
    if not 0 <= number <= _TABLE_MAX:
        raise QuickError(
            f"Table = {text!r}: neither off, auto, a number, nor a name in /etc/iproute2/rt_tables",
            NOT_UNDERSTOOD,
        )
    return number or MAIN  # as the kernel understands 0


def _named_tables() -> dict[str, int]:
    found = {}
    for pattern in _TABLE_FILES:
        for path in sorted(glob.glob(pattern)):
            fields: list[list[str]] = []
            with contextlib.suppress(OSError), open(path, errors="replace") as file:
                fields = [line.partition("#")[0].split() for line in file]
            for each in fields:
                with contextlib.suppress(ValueError):  # no number: no table of anybody's
                    if len(each) == 2 and each[0].isascii() and each[0].isalnum():
                        found[each[1]] = int(each[0], 16 if each[0].startswith("0x") else 10)
    return found


class Routes:
    def __init__(self, netlink: IPRoute) -> None:
        self._netlink = netlink

    def add(self, network: Network, name: str, index: int, table: int = MAIN) -> None:
        remedies = {
            errno.EEXIST: "there is such a route already: `ip route show` says whose",
            errno.ENODEV: "with an MTU below 1280 there is no IPv6" if network.version == 6 else "",
            errno.EACCES: "is IPv6 switched off? See `sysctl net.ipv6.conf.all.disable_ipv6`",
        }
        with refusals(f"{name}: route to {network}", remedies):
            self._netlink.route(
                "add",
                family=FAMILIES[network.version],
                dst=str(network),
                oif=index,
                table=table,
                proto=_RTPROT_BOOT,
                scope=_RT_SCOPE_LINK if network.version == 4 else 0,
            )

    def leading_to(self, index: int) -> set[Network]:
        """What the main table sends to the interface."""
        return {
            _destination(route, version)
            for version in FAMILIES
            for route in self._all(version, table=MAIN, oif=index)
        }

    def free_table(self) -> int:
        """The first from 51820 on that has no route."""
        used = self.tables(4) | self.tables(6)
        table = FIRST_TABLE
        while table in used:
            table += 1
        return table

    def tables(self, version: int) -> set[int]:
        """Those that have routes."""
        return {_table(route) for route in self._all(version)}

    def default_tables(self, version: int, index: int) -> set[int]:
        """The tables, but for the main one, whose default route is this interface."""
        routes = self._all(version, oif=index)
        return {_table(route) for route in routes if route["dst_len"] == 0} - {MAIN, 255}

    def taken_tables(self, version: int, index: int | None) -> set[int]:
        """The tables whose default route is another interface."""
        defaults = [route for route in self._all(version) if route["dst_len"] == 0]
        return {_table(route) for route in defaults if route.get_attr("RTA_OIF") not in (None, index)}

    def _all(self, version: int, **match: int) -> list[Any]:
        # A kernel without IPv6 shows what it has instead.
        family = FAMILIES[version]
        found = self._netlink.get_routes(family=family, **match)
        return [route for route in found if route["family"] == family]


def _table(route: Any) -> int:
    return int(route.get_attr("RTA_TABLE") or route["table"])


def _destination(route: Any, version: int) -> Network:
    address = route.get_attr("RTA_DST") or ("0.0.0.0" if version == 4 else "::")
    return ip_network(f"{address}/{route['dst_len']}")


def covers(networks: Collection[Network], network: Network) -> bool:
    """Whether one of them contains all of it. A set does best."""
    lengths = {each.prefixlen for each in networks if each.version == network.version}
    return any(
        network.supernet(new_prefix=length) in networks for length in lengths if length <= network.prefixlen
    )


class Rules:
    """The two rules of each family that has a default route through a tunnel."""

    def __init__(self, netlink: IPRoute) -> None:
        self._netlink = netlink

    def add_unmarked(self, version: int, table: int) -> None:
        """`not fwmark TABLE lookup TABLE`."""
        with refusals(f"rule: not fwmark {table} lookup {table}"):
            self._add(version, fwmark=table, table=table, flags=_FIB_RULE_INVERT)

    def add_specific(self, version: int) -> None:
        """`lookup main suppress_prefixlength 0`, which is asked before those that are there."""
        with refusals("rule: lookup main suppress_prefixlength 0"):
            self._add(version, table=MAIN, suppress_prefixlen=0)

    def _add(self, version: int, **rule: int) -> None:
        # Without a priority the kernel puts it before all others but the first.
        self._netlink.rule("add", family=FAMILIES[version], priority=None, **rule)

    def tunnels(self, version: int) -> list[int]:
        """The tables of tunnels that are the default route: N of every `not fwmark N lookup N`."""
        return [table for rule in self._all(version) if (table := _unmarked_table(rule))]

    def looked_up(self, version: int, table: int) -> bool:
        return any(_table_of(rule) == table for rule in self._all(version))

    def remove(self, version: int, table: int) -> None:
        """Every rule that looks up this table, and what add_specific() added for it; nothing if there is
        none. Other tunnels keep theirs."""
        for rule in self._all(version):
            if _table_of(rule) == table:
                self._delete(version, rule)
                if _unmarked_table(rule):
                    self._remove_specific(version, rule.get_attr("FRA_PRIORITY") - 1)

    def _remove_specific(self, version: int, priority: int) -> None:
        rules = [rule for rule in self._all(version) if _is_specific(rule)]
        if len(rules) > len(self.tunnels(version)):
            beside = [rule for rule in rules if rule.get_attr("FRA_PRIORITY") == priority]
            self._delete(version, (beside or rules)[0])

    def _delete(self, version: int, rule: Any) -> None:
        fields = {
            "priority": rule.get_attr("FRA_PRIORITY"),
            "fwmark": rule.get_attr("FRA_FWMARK"),
            "fwmask": rule.get_attr("FRA_FWMASK"),
            "suppress_prefixlen": 0 if _is_specific(rule) else None,
        }
        table = _table_of(rule)
        given = {key: value for key, value in fields.items() if value is not None}
        try:
            self._netlink.rule("del", family=FAMILIES[version], table=table, flags=rule["flags"], **given)
        except NetlinkError as error:
            if error.code not in (errno.ENOENT, errno.ESRCH):  # it is gone meanwhile
                text = f"rule with the priority {given.get('priority')}: cannot be deleted: {error.args[-1]}"
                raise QuickError(text, REFUSED) from error

    def _all(self, version: int) -> list[Any]:
        try:
            return list(self._netlink.get_rules(family=FAMILIES[version]))
        except NetlinkError:
            return []  # a kernel without IPv6


def _table_of(rule: Any) -> int:
    return int(rule.get_attr("FRA_TABLE") or rule["table"])


def _unmarked_table(rule: Any) -> int:
    """N of `not fwmark N lookup N`, 0 of any other rule."""
    table = _table_of(rule)
    inverted = rule["flags"] & _FIB_RULE_INVERT
    return table if inverted and rule.get_attr("FRA_FWMARK") == table else 0


def _is_specific(rule: Any) -> bool:
    """Exactly `from all lookup main suppress_prefixlength 0`."""
    other = ("FRA_FWMARK", "FRA_IIFNAME", "FRA_OIFNAME", "FRA_SRC", "FRA_DST")
    return (
        _table_of(rule) == MAIN
        and rule.get_attr("FRA_SUPPRESS_PREFIXLEN") == 0
        and not rule["flags"] & _FIB_RULE_INVERT
        and not any(rule.get_attr(name) for name in other)
    )
