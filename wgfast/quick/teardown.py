"""`down`: the interface and all that went with it, found where it is: wg-quick may have set it up."""

from __future__ import annotations

from collections.abc import Callable

from pyroute2 import IPRoute

from wgfast import client
from wgfast.quick import dns, firewall, hooks, implementation, sysctl
from wgfast.quick.bringup import remove, variables
from wgfast.quick.errors import QuickError
from wgfast.quick.journal import Report
from wgfast.quick.links import Links
from wgfast.quick.routes import FAMILIES, Routes, Rules
from wgfast.quick.saving import save
from wgfast.quick.target import Target


def check_present(name: str) -> None:
    """QuickError if it is not a WireGuard interface, in wg-quick's words."""
    try:
        found = client.interfaces()
    except OSError as error:
        raise QuickError(f"{name}: cannot look for it: {error.strerror}") from error
    if name not in found:
        raise QuickError(f"`{name}' is not a WireGuard interface")


def down(target: Target, report: Report) -> None:
    with IPRoute(ext_ack=True) as netlink:
        _Teardown(target, netlink, report).run()


def clean_up(target: Target, report: Report) -> None:
    """What is left of an interface that went away by itself: its daemon died."""
    with IPRoute(ext_ack=True) as netlink:
        _Teardown(target, netlink, report).clean_up()


class _Teardown:
    def __init__(self, target: Target, netlink: IPRoute, report: Report) -> None:
        self._name = target.interface
        self._target = target
        self._config = target.config.interface
        self._report = report
        self._links = Links(netlink)
        self._routes = Routes(netlink)
        self._rules = Rules(netlink)
        self._failures: list[QuickError] = []

    def run(self) -> None:
        """What cannot be undone does not keep the rest from being undone; the first such QuickError comes at
        the end."""
        limit = hooks.timeout()
        self._check()
        self._execute("PreDown", self._config.pre_down, limit)  # it may bring the interface back here
        if self._links.index(self._name) is None:
            raise QuickError(
                f"{self._name}: answers, but is not in this network namespace: "
                "go where it is (`ip netns exec NAMESPACE ...`)"
            )
        if self._config.save_config:
            save(self._target, self._report)
        self._remove_rules(implementation.get(self._name).fwmark)
        self._attempt(f"ip link delete dev {self._name}", lambda: remove(self._links, self._name))
        self._remove_rest()
        self._execute("PostDown", self._config.post_down, limit)

    def clean_up(self) -> None:
        self._links.delete(self._name)
        self._remove_idle_rules()
        self._remove_rest()
        self._execute("PostDown", self._config.post_down, hooks.timeout())

    def _check(self) -> None:
        try:
            check_present(self._name)
        except QuickError:
            # A daemon that died takes its interface along, but not this.
            self._remove_idle_rules()
            self._remove_rest()
            raise

    def _execute(self, key: str, commands: list[str], limit: float | None) -> None:
        hooks.execute(key, commands, self._name, variables(self._target), self._report, limit)

    def _attempt(self, text: str, call: Callable[[], object]) -> None:
        if text:
            self._report("#", text)
        try:
            call()
        except QuickError as error:
            self._failures.append(error)
            if len(self._failures) > 1:
                self._report("!", str(error))

    def _remove_rules(self, mark: int) -> None:
        if self._config.table not in (None, "", "auto"):
            return
        index = self._links.index(self._name)
        for version in FAMILIES:
            # By the mark, as wg-quick, and by the routes: the mark may have been changed since, to that of
            # another tunnel even.
            by_route = set() if index is None else self._routes.default_tables(version, index)
            by_mark = {mark} - self._routes.taken_tables(version, index)
            for table in sorted((by_route | by_mark) & set(self._rules.tunnels(version))):
                self._remove_rules_of(version, table)
        self._restore_sysctl()

    def _remove_idle_rules(self) -> None:
        """Those that look up a table without routes: they do nothing, whoever's they were."""
        for version in FAMILIES:
            for table in sorted(set(self._rules.tunnels(version)) - self._routes.tables(version)):
                self._remove_rules_of(version, table)
        self._restore_sysctl()

    def _remove_rules_of(self, version: int, table: int) -> None:
        self._attempt(f"ip -{version} rule delete table {table}", lambda: self._rules.remove(version, table))

    def _restore_sysctl(self) -> None:
        if not self._rules.tunnels(4) and sysctl.was_ours():
            self._attempt(f"sysctl -q {sysctl.SRC_VALID_MARK}=0", sysctl.switch_off)

    def _remove_rest(self) -> None:
        dns.restore(self._name, bool(self._config.dns), self._report)
        for version in FAMILIES:
            self._remove_firewall(version)
        if self._failures:
            raise self._failures[0]

    def _remove_firewall(self, version: int) -> None:
        self._attempt("", lambda: firewall.remove(self._name, version, self._report))
