"""What there is in a network namespace, in a form that two of them, or two moments, can be compared in."""

from __future__ import annotations

import json
import re
from typing import Any

from lab.namespace import Namespace

# All of it by one shell: a command inside a namespace costs more than what it does.
_COMMANDS = {
    "links": "ip -j -d link",
    "addresses": "ip -j -d addr",
    "routes4": "ip -j -d -4 route show table all",
    "routes6": "ip -j -d -6 route show table all",
    "rules4": "ip -j -d -4 rule",
    "rules6": "ip -j -d -6 rule",
    "nft": "nft list ruleset",
    "sysctls": "sysctl -e net.ipv4.conf.all net.ipv4.ip_forward net.ipv6.conf.all",
    "resolv.conf": "cat /etc/resolv.conf",
    "etc": "ls -A /etc",
}
_END = "--end-of-it--"
_VOLATILE = {
    "address",
    "ifindex",
    "link_index",
    "stats64",
    "valid_life_time",
    "preferred_life_time",
    "expires",
}
# The kernel's own doing: a random link-local address and its routes.
_LINK_LOCAL = re.compile(r"fe80:|ff00::|^multicast")


def state(namespace: Namespace) -> dict[str, Any]:
    script = "\n".join(f"{command}; echo {_END}" for command in _COMMANDS.values())
    texts = namespace.run("sh", "-c", script).stdout.split(f"{_END}\n")
    found = dict(zip(_COMMANDS, texts, strict=False))
    return {name: _readable(found[name]) for name in _COMMANDS}


def _readable(text: str) -> Any:
    if not text.startswith("["):
        return [line for line in text.splitlines() if "fe80:" not in line]
    items = [_steady(item) for item in json.loads(text)]
    kept = [item for item in items if item and not _LINK_LOCAL.search(str(item.get("dst", "")))]
    return sorted(kept, key=json.dumps)


def _steady(item: dict[str, Any]) -> dict[str, Any]:
    steady = {key: value for key, value in item.items() if key not in _VOLATILE}
    if "addr_info" in steady:
        known = [info for info in steady["addr_info"] if not info.get("local", "").startswith("fe80:")]
        steady["addr_info"] = [_steady(info) for info in known]
    return steady
