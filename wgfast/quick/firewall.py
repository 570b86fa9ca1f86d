"""Netfilter rules that go with a default route through a tunnel, the same as wg-quick's.

The tunnel's addresses are reached through the tunnel only: who sits on another link cannot probe for them
(CVE-2019-14899). And the mark of the tunnel's own packets is kept with their connection, so that answers bear
it when the reverse path is looked up. With nftables where there is nft(8), else with iptables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wgfast.quick.errors import NOT_FOUND, QuickError
from wgfast.quick.journal import Report
from wgfast.quick.programs import find, run

_HOOKS: Final = {"preraw": "prerouting", "premangle": "prerouting", "postmangle": "postrouting"}
_PRIORITIES: Final = {"preraw": -300, "premangle": -150, "postmangle": -150}
_FAMILIES: Final = {4: "ip", 6: "ip6"}
_IPTABLES: Final = {4: "iptables", 6: "ip6tables"}


def command(version: int) -> list[str]:
    """What add() will run. QuickError if there is no such program."""
    if find("nft"):
        return ["nft", "-f", "-"]
    if find(f"{_IPTABLES[version]}-restore"):
        return [f"{_IPTABLES[version]}-restore", "-n"]
    text = "neither nft nor iptables-restore is there, for the rules that go with a default route"
    raise QuickError(f"{text}: install nftables", NOT_FOUND)


def add(name: str, version: int, addresses: Sequence[str], mark: int) -> None:
    """The rules of one family for the interface `name` with these addresses, all or none."""
    program = command(version)
    if program[0] == "nft":
        run(program, nft_rules(name, version, addresses, mark))
    else:
        run(program, iptables_rules(name, addresses, mark))


def remove(name: str, version: int, report: Report) -> None:
    """The rules of one family, of wg-quick's making too. Nothing if there are none."""
    if find("nft"):
        ours = f"table {_FAMILIES[version]} {_table(name)}"
        if ours in _shown(["nft", "list", "tables"]).splitlines():
            report("#", f"nft delete {ours}")
            run(["nft", "delete", *ours.split()])
    program = _IPTABLES[version]
    if find(f"{program}-save"):
        rules = iptables_removal(name, _shown([f"{program}-save"]))
        if rules:
            report("#", f"{program}-restore -n")
            run([f"{program}-restore", "-n"], rules)


def _shown(argv: Sequence[str]) -> str:
    """Nothing where the program is there and the kernel has not what it shows: add() would have failed."""
    try:
        return run(argv)
    except QuickError:
        return ""


# ---- nftables ----


def _table(name: str) -> str:
    return f"wg-quick-{name}"


def nft_rules(name: str, version: int, addresses: Sequence[str], mark: int) -> str:
    family = _FAMILIES[version]
    table = f"{family} {_table(name)}"
    lines = [f"add table {table}"]
    for chain, hook in _HOOKS.items():
        priority = _PRIORITIES[chain]
        lines.append(f"add chain {table} {chain} {{ type filter hook {hook} priority {priority}; }}")
    for address in addresses:
        what = f'iifname != "{name}" {family} daddr {address} fib saddr type != local drop'
        lines.append(f"add rule {table} preraw {what}")
    lines.append(f"add rule {table} postmangle meta l4proto udp mark {mark} ct mark set mark")
    lines.append(f"add rule {table} premangle meta l4proto udp meta mark set ct mark")
    return "\n".join(lines) + "\n"


# ---- iptables ----


def _comment(name: str) -> str:
    return f'-m comment --comment "wg-quick(8) rule for {name}"'


def iptables_rules(name: str, addresses: Sequence[str], mark: int) -> str:
    note = _comment(name)
    lines = ["*raw"]
    for address in addresses:
        lines.append(f"-I PREROUTING ! -i {name} -d {address} -m addrtype ! --src-type LOCAL -j DROP {note}")
    lines += [
        "COMMIT",
        "*mangle",
        f"-I POSTROUTING -m mark --mark {mark} -p udp -j CONNMARK --save-mark {note}",
        f"-I PREROUTING -p udp -j CONNMARK --restore-mark {note}",
        "COMMIT",
    ]
    return "\n".join(lines) + "\n"


def iptables_removal(name: str, saved: str) -> str:
    """What iptables-restore must be told to delete the rules among those that iptables-save printed; empty:
    there are none."""
    lines = []
    found = False
    for line in saved.splitlines():
        if line.startswith("-A ") and _comment(name) in line:
            found = True
            lines.append(f"-D{line[2:]}")
        elif line.startswith("*") or line == "COMMIT":
            lines.append(line)
    return "\n".join(lines) + "\n" if found else ""
