"""`up`: from a configuration to an interface that carries traffic, in wg-quick's order."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Final

from pyroute2 import IPRoute

from wgfast.quick import dns, firewall, hooks, implementation, routes, sysctl
from wgfast.quick.errors import QuickError
from wgfast.quick.implementation import Endpoints, Start
from wgfast.quick.journal import Journal, Report, Step
from wgfast.quick.links import AnyAddress, AnyInterface, Links
from wgfast.quick.routes import Routes, Rules
from wgfast.quick.target import Target
from wgfast.settings import Network, network
from wgfast.uapi import SetRequest

_MTU_OF_IPV6: Final = 1280


def up(target: Target, report: Report, start: Start) -> None:
    with IPRoute(ext_ack=True) as netlink, Journal(report) as journal:
        _Bringup(target, netlink, journal, start).run()


class _Bringup:
    def __init__(self, target: Target, netlink: IPRoute, journal: Journal, start: Start) -> None:
        self._name = target.interface
        self._target = target
        self._config = target.config.interface
        self._journal = journal
        self._start = start
        self._links = Links(netlink)
        self._routes = Routes(netlink)
        self._rules = Rules(netlink)

    def run(self) -> None:
        limit = hooks.timeout()
        table = self._table()
        if self._links.index(self._name) is not None:
            raise QuickError(
                f"`{self._name}' already exists: `wgfast down {self._target.word}` takes it down"
            )
        self._execute("PreUp", self._config.pre_up, limit)
        endpoints = implementation.resolve(self._target.config, self._journal.report)
        self._add_interface(endpoints)
        self._add_addresses()
        self._set_up(endpoints)
        self._set_dns()
        if table is not None:
            self._add_routes(table)
        self._execute("PostUp", self._config.post_up, limit)

    def _table(self) -> int | None:
        """None: no routes are wanted. 0: they go where they belong."""
        text = self._config.table
        if text == "off":
            return None
        return 0 if text in (None, "", "auto") else routes.table_number(str(text))

    def _execute(self, key: str, commands: list[str], limit: float | None) -> None:
        hooks.execute(key, commands, self._name, variables(self._target), self._journal.report, limit)

    # ---- the interface ----

    def _add_interface(self, endpoints: Endpoints) -> None:
        if self._config.listen_port:
            implementation.check_port(self._config.listen_port)
        self._journal.do(
            f"wgfast {self._name}",
            self._begin,
            Step(f"ip link delete dev {self._name}", lambda: remove(self._links, self._name)),
        )
        request = implementation.settings(self._target.config, endpoints)
        self._set(f"wg setconf {self._name} {self._target.path}", request)

    def _begin(self) -> None:
        try:
            self._start(self._name)
        except Exception:
            self._links.delete(self._name)
            raise

    def _set(self, text: str, request: SetRequest) -> None:
        self._journal.do(text, lambda: implementation.set(self._name, request))

    def _add_addresses(self) -> None:
        for address in self._config.addresses:
            for holder in self._links.holders(address.ip):
                if holder != self._name:
                    self._journal.report("!", f"{holder} has the address {address.ip} as well")
            self._add_address(address)

    def _add_address(self, address: AnyInterface) -> None:
        self._journal.do(
            f"ip -{address.version} address add {address} dev {self._name}",
            lambda: self._links.add_address(self._name, address),
        )

    def _set_up(self, endpoints: Endpoints) -> None:
        outer: list[AnyAddress] = [ip_address(endpoint.host) for endpoint in endpoints.values()]
        mtu = self._config.mtu or self._links.tunnel_mtu(outer)
        if mtu < _MTU_OF_IPV6 and any(address.version == 6 for address in self._config.addresses):
            self._journal.report("!", f"MTU {mtu}: IPv6 needs {_MTU_OF_IPV6}, there will be none inside")
        self._journal.do(
            f"ip link set mtu {mtu} up dev {self._name}", lambda: self._links.set_up(self._name, mtu)
        )

    def _set_dns(self) -> None:
        servers = [str(server) for server in self._config.dns]
        if not servers:
            return
        resolver = dns.resolver()
        self._journal.do(
            resolver.set_text(self._name),
            lambda: resolver.set(self._name, servers, self._config.dns_search),
            Step(resolver.unset_text(self._name), lambda: resolver.unset(self._name)),
        )

    # ---- routes ----

    def _add_routes(self, table: int) -> None:
        state = implementation.get(self._name)
        allowed = [network(prefix) for peer in state.peers for prefix in peer.allowed_ips]
        index = self._links.require(self._name)
        present = self._routes.leading_to(index)  # with what the addresses have brought
        for each in routes.ordered(allowed):
            if table:
                self._add_route(each, index, table)
            elif each.prefixlen == 0:
                self._add_default(each, index)
            elif not routes.covers(present, each):
                self._add_route(each, index, routes.MAIN)

    def _add_route(self, to: Network, index: int, table: int) -> None:
        where = "" if table == routes.MAIN else f" table {table}"
        self._journal.do(
            f"ip -{to.version} route add {to} dev {self._name}{where}",
            lambda: self._routes.add(to, self._name, index, table),
        )

    def _add_default(self, to: Network, index: int) -> None:
        version = to.version
        others = bool(self._rules.tunnels(4))
        table = implementation.get(self._name).fwmark
        if not table:
            table = self._routes.free_table()
            self._set(f"wg set {self._name} fwmark {table}", SetRequest(fwmark=table))
        self._add_route(to, index, table)
        self._remove_leftovers(version, table)
        self._journal.do(
            f"ip -{version} rule add not fwmark {table} table {table}",
            lambda: self._rules.add_unmarked(version, table),
            Step(f"ip -{version} rule delete table {table}", lambda: self._rules.remove(version, table)),
        )
        self._journal.do(
            f"ip -{version} rule add table main suppress_prefixlength 0",
            lambda: self._rules.add_specific(version),
        )
        if version == 4:
            self._journal.do(
                f"sysctl -q {sysctl.SRC_VALID_MARK}=1",
                lambda: sysctl.switch_on(others),
                Step("", lambda: None if others else sysctl.switch_off()),
            )
        self._add_firewall(version, table)

    def _remove_leftovers(self, version: int, table: int) -> None:
        """Of a tunnel whose daemon died. Its table had no default route, or ours would have been refused."""
        if table in self._rules.tunnels(version):
            self._journal.do(
                f"ip -{version} rule delete table {table}", lambda: self._rules.remove(version, table)
            )
        firewall.remove(self._name, version, self._journal.report)

    def _add_firewall(self, version: int, mark: int) -> None:
        held = [str(held.address.ip) for held in self._links.addresses(self._name)]
        addresses = [text for text in held if ip_address(text).version == version]
        self._journal.do(
            " ".join(firewall.command(version)),
            lambda: firewall.add(self._name, version, addresses, mark),
            Step("", lambda: firewall.remove(self._name, version, self._journal.report)),
        )


def remove(links: Links, name: str) -> None:
    """Deletes the interface, which ends its daemon, and waits for that."""
    links.delete(name)
    implementation.await_gone(name)


def variables(target: Target) -> hooks.Variables:
    """What wg-quick's own shell variables tell its hooks."""
    config = target.config.interface
    return {
        "CONFIG_FILE": target.path,
        "ADDRESSES": [str(address) for address in config.addresses],
        "DNS": [str(server) for server in config.dns],
        "DNS_SEARCH": config.dns_search,
        "MTU": "" if config.mtu is None else str(config.mtu),
        "TABLE": config.table or "",
        "SAVE_CONFIG": str(int(config.save_config)),
    }
