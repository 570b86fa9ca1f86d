"""The system's name servers while a tunnel is up: by resolvconf as wg-quick does, by systemd-resolved, or,
where there is neither, in /etc/resolv.conf itself (resolvconf_file.py)."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from typing import Final, Protocol

from wgfast.quick import resolvconf_file
from wgfast.quick.errors import QuickError
from wgfast.quick.journal import Report
from wgfast.quick.programs import find, run

_ORDER: Final = "/etc/resolvconf/interface-order"
_PREFIX: Final = re.compile(r"([A-Za-z0-9-]+)\*")
_RESOLVED: Final = "/run/systemd/resolve"
_STUB: Final = re.compile(r"^\s*nameserver\s+127\.0\.0\.5[34]\s*$", re.MULTILINE)


class Resolver(Protocol):
    """One way to do it. set() does all or nothing; unset() takes back what set() did and does not mind if
    there is nothing."""

    def set_text(self, name: str) -> str: ...
    def set(self, name: str, servers: Sequence[str], search: Sequence[str]) -> None: ...
    def unset_text(self, name: str) -> str: ...
    def unset(self, name: str) -> None: ...


def resolver() -> Resolver:
    """The one of this system."""
    if find("resolvconf"):
        return Resolvconf()
    if find("resolvectl") and _is_resolved():
        return Resolved()
    return ResolvConfFile()


def restore(name: str, has_servers: bool, report: Report) -> None:
    """After an interface is gone: what was set for it, by whichever way. `has_servers`: its configuration
    names some."""
    ways: list[Resolver] = []
    if has_servers and find("resolvconf"):
        ways.append(Resolvconf())
    if resolvconf_file.is_replaced(name):
        ways.append(ResolvConfFile())
    # systemd-resolved forgets what was a link's when the link goes.
    for way in ways:
        report("#", way.unset_text(name))
        try:
            way.unset(name)
        except (QuickError, OSError) as error:
            report("!", str(error))


class Resolvconf:
    def set_text(self, name: str) -> str:
        return f"resolvconf -a {_key(name)} -m 0 -x"

    def set(self, name: str, servers: Sequence[str], search: Sequence[str]) -> None:
        text = "".join(f"nameserver {server}\n" for server in servers)
        if search:
            text += f"search {' '.join(search)}\n"
        try:
            run(["resolvconf", "-a", _key(name), "-m", "0", "-x"], text)
        except QuickError as error:
            with contextlib.suppress(QuickError):
                self.unset(name)
            raise _unreachable(error) from error

    def unset_text(self, name: str) -> str:
        return f"resolvconf -d {_key(name)} -f"

    def unset(self, name: str) -> None:
        run(["resolvconf", "-d", _key(name), "-f"])


class Resolved:
    def set_text(self, name: str) -> str:
        return f"resolvectl dns {name}"

    def set(self, name: str, servers: Sequence[str], search: Sequence[str]) -> None:
        try:
            run(["resolvectl", "dns", name, *servers])
            # "~.": all names are asked for here, what resolvconf calls exclusive.
            run(["resolvectl", "domain", name, *search, "~."])
        except QuickError as error:
            with contextlib.suppress(QuickError):
                self.unset(name)
            raise _unreachable(error) from error

    def unset_text(self, name: str) -> str:
        return f"resolvectl revert {name}"

    def unset(self, name: str) -> None:
        run(["resolvectl", "revert", name])


class ResolvConfFile:
    def set_text(self, name: str) -> str:
        return f"edit {resolvconf_file.PATH}"

    def set(self, name: str, servers: Sequence[str], search: Sequence[str]) -> None:
        resolvconf_file.replace(name, servers, search)

    def unset_text(self, name: str) -> str:
        return f"put back {resolvconf_file.PATH}"

    def unset(self, name: str) -> None:
        resolvconf_file.put_back(name)


def _unreachable(error: QuickError) -> QuickError:
    remedy = "see that the system's resolver runs, or remove the DNS line"
    return QuickError(f"DNS cannot be set: {error}: {remedy}", error.status)


def _key(name: str) -> str:
    """Debian's resolvconf ranks interfaces by the beginnings of their names: the first of its list wins."""
    with contextlib.suppress(OSError), open(_ORDER) as file:
        for line in file:
            found = _PREFIX.fullmatch(line.strip())
            if found:
                return f"{found[1]}.{name}"
    return name


def _is_resolved() -> bool:
    """Whether systemd-resolved answers for this system, and knows our interfaces: it lives in the first
    namespace."""
    if not os.path.isdir(_RESOLVED):
        return False
    try:
        here = os.stat("/proc/thread-self/ns/net").st_ino == os.stat("/proc/1/ns/net").st_ino
    except OSError:
        here = True
    target = os.path.realpath(resolvconf_file.PATH)
    with contextlib.suppress(OSError), open(target, errors="replace") as file:
        return here and (target.startswith(_RESOLVED + "/") or bool(_STUB.search(file.read())))
    return False
