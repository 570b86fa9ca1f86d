"""Interfaces and their addresses, and the MTU that a tunnel's outer path leaves."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_interface
from typing import Any, Final, NamedTuple

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from wgfast.quick.errors import REFUSED, QuickError, refusals

# An IPv6 header, a UDP header, WireGuard's own 16 bytes and the tag.
OVERHEAD: Final = 80
_USUAL_MTU: Final = 1500
_MAIN: Final = 254
_IFA_F_STABLE_PRIVACY: Final = 0x800
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}

AnyInterface = IPv4Interface | IPv6Interface
AnyAddress = IPv4Address | IPv6Address


class Held(NamedTuple):
    """An address that an interface has. `automatic`: the kernel made it up for itself."""

    address: AnyInterface
    automatic: bool


class Links:
    def __init__(self, netlink: IPRoute) -> None:
        self._netlink = netlink

    def index(self, name: str) -> int | None:
        """None if there is no such interface in this namespace."""
        try:
            return socket.if_nametoindex(name)
        except OSError:
            return None

    def require(self, name: str) -> int:
        index = self.index(name)
        if index is None:
            raise QuickError(f"{name}: there is no such interface in this network namespace")
        return index

    def delete(self, name: str) -> None:
        """With its addresses and routes. Nothing if it is not there."""
        index = self.index(name)
        if index is None:
            return
        try:
            self._netlink.link("del", index=index)
        except NetlinkError as error:
            if error.code != errno.ENODEV:
                raise QuickError(f"{name}: cannot be deleted: {error.args[-1]}", REFUSED) from error

    def add_address(self, name: str, address: AnyInterface) -> None:
        remedies = {
            errno.EEXIST: "it is given twice: remove one of its lines",
            errno.EACCES: "is IPv6 switched off? See `sysctl net.ipv6.conf.all.disable_ipv6`",
            errno.EOPNOTSUPP: "this kernel has no IPv6: remove the IPv6 addresses",
        }
        with refusals(f"{name}: Address = {address}", remedies):
            self._netlink.addr(
                "add",
                index=self.require(name),
                family=_FAMILIES[address.version],
                address=str(address.ip),
                prefixlen=address.network.prefixlen,
            )

    def set_up(self, name: str, mtu: int) -> None:
        with refusals(f"{name}: cannot be set up with MTU = {mtu}"):
            self._netlink.link("set", index=self.require(name), mtu=mtu, state="up")

    def mtu(self, name: str) -> int:
        return self._mtu_of(self.require(name))

    def addresses(self, name: str) -> list[Held]:
        """In the kernel's order, IPv4 first."""
        index = self.index(name)
        if index is None:
            return []
        found = [_held(message) for message in self._netlink.get_addr(index=index)]
        return sorted(found, key=lambda held: held.address.version)

    def holders(self, address: AnyAddress) -> list[str]:
        """Names of the interfaces that have this address."""
        messages = self._netlink.get_addr(family=_FAMILIES[address.version])
        indices = {message["index"] for message in messages if _held(message).address.ip == address}
        links = self._netlink.get_links(*indices) if indices else ()
        return [link.get_attr("IFLA_IFNAME") for link in links]

    # ---- MTU ----

    def tunnel_mtu(self, endpoints: Iterable[AnyAddress]) -> int:
        """What is left inside: of the largest MTU on the ways to the endpoints; if there are none, of that
        of the default route; else of Ethernet's."""
        outer = max((self._mtu_to(address) for address in endpoints), default=0)
        return (outer or self._default_mtu() or _USUAL_MTU) - OVERHEAD

    def _mtu_to(self, address: AnyAddress) -> int:
        scope = getattr(address, "scope_id", None)
        where = {"oif": self.index(scope)} if scope and self.index(scope) else {}
        try:
            family = _FAMILIES[address.version]
            found = self._netlink.route("get", family=family, dst=str(address).partition("%")[0], **where)
        except NetlinkError:
            return 0  # it cannot be reached now
        return next(self._mtus(found), 0)

    def _default_mtu(self) -> int:
        routes = self._netlink.get_routes(family=socket.AF_INET, table=_MAIN)
        # In the kernel's order of preference, of which the first counts.
        return next(self._mtus(route for route in routes if route["dst_len"] == 0), 0)

    def _mtus(self, routes: Iterable[Any]) -> Iterator[int]:
        for route in routes:
            metrics = route.get_attr("RTA_METRICS")
            given = metrics.get_attr("RTAX_MTU") if metrics else None
            index = route.get_attr("RTA_OIF")
            yield given or (self._mtu_of(index) if index else 0)

    def _mtu_of(self, index: int) -> int:
        for link in self._netlink.get_links(index):
            return int(link.get_attr("IFLA_MTU"))
        return 0


def _held(message: Any) -> Held:
    # On point-to-point links IFA_ADDRESS is the other end.
    own = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    return Held(ip_interface(f"{own}/{message['prefixlen']}"), bool(flags & _IFA_F_STABLE_PRIVACY))
