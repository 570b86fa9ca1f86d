"""Changing a configuration file and leaving the rest of it as it was: comments, names, order, spacing.

`rewrite` is told what the file shall say and touches only the lines that say something else, so that a file
which says it already stays the same to the byte. SaveConfig is written with it.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from typing import Any, Final

from .config import Config
from .config_parser import in_quick_section, split_quick
from .config_sections import HOOK_KEYS, QUICK_KEYS, InterfaceSection, PeerSection
from .config_values import (
    BLANKS,
    AllowedIP,
    folded,
    parse_address,
    parse_allowed_ip,
    parse_dns,
    prefix_text,
    without_blanks,
)
from .errors import ConfigError
from .settings import Prefix

_LINE: Final = re.compile(rf"([^=#]*=[{BLANKS}]*)([^#]*?)([{BLANKS}]*(?:#.*)?)", re.DOTALL)
_NO_KEY: Final = bytes(32)
# A line says one value; these may say several, between the separators given.
_SEPARATORS: Final = {"AllowedIPs": ",", "Address": r"[ \t,]+", "DNS": r"[ \t,]+"}


def rewrite(config: Config, interface: InterfaceSection, peers: Iterable[PeerSection]) -> str:
    """The text of `config` changed so that it says `interface` and `peers`, all they say and no more; what
    they do not mention goes. The order of AllowedIPs, Address and DNS within themselves is no difference.

    A peer that is new comes last, with its name; the name of one that stays is not changed. Sections that
    share a key become one if they have to be touched. ConfigError for what no line can say: a # or a line's
    end in a value.
    """
    document = _Document(config)
    document.edit_interface(config.interface, interface)
    document.edit_peers(peers)
    return document.text()


class _Section:
    """A header and the lines up to the next one; before the first header, a section without one."""

    def __init__(self, kind: str, line_end: str) -> None:
        self.kind = kind
        self.lines: list[str] = []
        self._line_end = line_end

    def find(self, key: str) -> list[int]:
        return [index for index, line in enumerate(self.lines) if _key_of(line) == folded(key)]

    def set(self, key: str, wanted: list[str]) -> None:
        """One line for each; the first stands where the first stood."""
        found = self.find(key)
        at = found[0] if found else self._end()
        for value in wanted:
            _check(key, value)
        fresh = [f"{key} = {value}{self._line_end}" for value in wanted]
        if found and wanted:
            fresh[0] = _replaced(self.lines[at], wanted[0])
        for index in reversed(found):
            del self.lines[index]
        self.lines[at:at] = fresh

    def set_entries(self, key: str, wanted: dict[Any, str], parse: Callable[[str], Any]) -> None:
        """Takes away the entries that are not wanted, each from its own line, and adds those that are missing
        to the last line."""
        missing = dict(wanted)
        found = self.find(key)
        kept: dict[int, list[str]] = {}
        for index in found:
            value = _parts(self.lines[index])[1]
            entries = [
                entry.strip(BLANKS) for entry in re.split(_SEPARATORS[key], value) if entry.strip(BLANKS)
            ]
            kept[index] = [entry for entry in entries if missing.pop(parse(entry), None) is not None]
            if kept[index] and len(kept[index]) != len(entries):
                self.lines[index] = _replaced(self.lines[index], ", ".join(kept[index]))
        added = list(missing.values())
        if added and found:
            last = max((index for index in found if kept[index]), default=found[-1])
            kept[last] += added
            self.lines[last] = _replaced(self.lines[last], ", ".join(kept[last]))
        elif added:
            self.set(key, [", ".join(added)])
        for index in reversed(found):
            if not kept[index]:
                del self.lines[index]

    def show_to_quick(self) -> None:
        """wg-quick does not see `[ Interface ]`, wg does."""
        index = next(index for index, line in enumerate(self.lines) if _is_header(line))
        if not in_quick_section(split_quick(self.lines[index])[0], False):
            plain, hash_sign, comment = self.lines[index].partition("#")
            self.lines[index] = "[Interface]" + plain[len(plain.rstrip(BLANKS)) :] + hash_sign + comment

    def _end(self) -> int:
        """Behind the last key, or the header."""
        keyed = [index for index, line in enumerate(self.lines) if _key_of(line) or _is_header(line)]
        return keyed[-1] + 1 if keyed else 0

    def clear(self) -> None:
        """Without the section. What a blank line divides from its keys was not part of it."""
        end = self._end()
        while end < len(self.lines) and self.lines[end].strip(BLANKS):
            end += 1
        while end < len(self.lines) - 1 and not self.lines[end].strip(BLANKS):
            end += 1
        del self.lines[:end]


class _Document:
    def __init__(self, config: Config) -> None:
        lines = config.text.split("\n")
        self._line_end = "\r" if lines[0].endswith("\r") else ""
        self._sections = [_Section("", self._line_end)]
        for line in lines:
            if _is_header(line):
                kind = folded(without_blanks(line.partition("#")[0]))
                self._move_lead(_Section(kind, self._line_end))
            self._sections[-1].lines.append(line)
        headers = [section for section in self._sections if section.kind == "[peer]"]
        # Each [Peer] of the text has given one PeerSection, in order.
        self._peers = list(zip(headers, config.peers, strict=True))
        self._new: list[_Section] = []

    def _move_lead(self, following: _Section) -> None:
        """Begins a section. Comments right above its header, set off by a blank line, belong to it."""
        before = self._sections[-1].lines
        start = len(before)
        while start and before[start - 1].lstrip(BLANKS).startswith("#"):
            start -= 1
        if start and not before[start - 1].strip(BLANKS):
            following.lines = before[start:]
            del before[start:]
        self._sections.append(following)

    def text(self) -> str:
        text = "\n".join(line for section in self._sections for line in section.lines)
        if not self._new:
            return text
        blank = self._line_end + "\n"
        before = text.rstrip("\r\n")
        new = blank.join("\n".join([*section.lines, ""]) for section in self._new)
        return (before + 2 * blank if before else "") + new

    # ---- [Interface] ----

    def edit_interface(self, said: InterfaceSection, wanted: InterfaceSection) -> None:
        now, then = _interface_values(said), _interface_values(wanted)
        for key, value in then.items():
            if value != now[key]:
                self._set_interface(key, value)
        if set(said.addresses) != set(wanted.addresses):
            entries = {address: str(address) for address in wanted.addresses}
            self._set_interface_entries("Address", entries, parse_address)
        servers = {found: str(found) for found in (*wanted.dns, *wanted.dns_search)}
        if servers.keys() != {*said.dns, *said.dns_search}:
            self._set_interface_entries("DNS", servers, parse_dns)

    def _interfaces(self) -> list[_Section]:
        found = [section for section in self._sections if section.kind == "[interface]"]
        if not found:
            if not "".join(self._sections[0].lines).strip(BLANKS):
                self._sections[0].lines.clear()
            section = _Section("[interface]", self._line_end)
            section.lines = [f"[Interface]{self._line_end}", self._line_end]
            self._sections.insert(1, section)
            found = [section]
        return found

    def _holder(self, key: str, sections: list[_Section]) -> _Section:
        """Of several [Interface] sections the one that is to have the key: the last that has it already."""
        holder = next((section for section in reversed(sections) if section.find(key)), sections[0])
        if key in QUICK_KEYS:
            holder.show_to_quick()
        return holder

    def _set_interface(self, key: str, wanted: list[str]) -> None:
        sections = self._interfaces()
        holder = self._holder(key, sections)
        for section in sections:
            section.set(key, wanted if section is holder else [])

    def _set_interface_entries(self, key: str, wanted: dict[Any, str], parse: Callable[[str], Any]) -> None:
        sections = self._interfaces()
        holder = self._holder(key, sections)
        for section in sections:
            section.set_entries(key, wanted if section is holder else {}, parse)

    # ---- [Peer] ----

    def edit_peers(self, wanted: Iterable[PeerSection]) -> None:
        left: dict[bytes, list[PeerSection]] = {}
        for peer in wanted:
            left.setdefault(peer.public_key, []).append(peer)
        known: dict[bytes, list[tuple[_Section, PeerSection]]] = {}
        for section, peer in self._peers:
            known.setdefault(peer.public_key, []).append((section, peer))
        for key, found in known.items():
            then = _peer_values(left.pop(key, []))
            if not then:
                for section, _ in found:
                    section.clear()
            elif then != _peer_values([said for _, said in found]):
                for section, _ in found[:-1]:
                    section.clear()
                section, said = found[-1]
                _edit_peer(section, _peer_values([said]), then)
        for peers in left.values():
            self._append(peers)

    def _append(self, peers: list[PeerSection]) -> None:
        section = _Section("[peer]", self._line_end)
        names = [f"# Name = {peer.name}" for peer in peers if peer.name][:1]
        for name in names:
            _check("Name", name[1:], "\r\n")
        lines = ["[Peer]", *names, f"PublicKey = {_base64(peers[0].public_key)}"]
        section.lines = [line + self._line_end for line in lines]
        _edit_peer(section, {}, _peer_values(peers))
        self._new.append(section)


def _edit_peer(section: _Section, now: dict[str, Any], then: dict[str, Any]) -> None:
    for key in ("PresharedKey", "Endpoint", "PersistentKeepalive"):
        if now.get(key) != then[key]:
            section.set(key, [then[key]] if then[key] else [])
    if now.get("AllowedIPs") != then["AllowedIPs"]:
        entries = {(prefix, True): prefix_text(prefix) for prefix in then["AllowedIPs"]}
        section.set_entries("AllowedIPs", entries, _parse_owned)


def _parse_owned(entry: str) -> tuple[Prefix, bool]:
    allowed, _ = parse_allowed_ip(without_blanks(entry))
    return allowed.prefix, allowed.operation != "-"


def _owned(allowed_ips: list[AllowedIP]) -> dict[Prefix, None]:
    owned: dict[Prefix, None] = {}
    for allowed in allowed_ips:
        if allowed.operation == "-":
            owned.pop(allowed.prefix, None)
        else:
            owned[allowed.prefix] = None
    return owned


def _interface_values(section: InterfaceSection) -> dict[str, list[str]]:
    """The lines of each key that has no entries. 0 and `off` are what no line says too."""
    hooks = (section.pre_up, section.post_up, section.pre_down, section.post_down)
    return {
        "PrivateKey": _one(_base64(section.private_key)),
        "ListenPort": _one(section.listen_port),
        "FwMark": _one(f"{section.fwmark:#x}" if section.fwmark else None),
        "MTU": _one(section.mtu),
        "Table": _one(section.table),
        "SaveConfig": _one("true" if section.save_config else None),
        **dict(zip(HOOK_KEYS, hooks, strict=True)),
    }


def _peer_values(sections: list[PeerSection]) -> dict[str, Any]:
    """What these sections, all of one peer, say together: of each key the last, and the last AllowedIPs. ""
    is what no line says; without a section there is nothing."""
    if not sections:
        return {}
    values: dict[str, Any] = {"PresharedKey": "", "Endpoint": "", "PersistentKeepalive": ""}
    for section in sections:
        if section.preshared_key is not None:
            values["PresharedKey"] = _base64(section.preshared_key)
        if section.endpoint is not None:
            values["Endpoint"] = str(section.endpoint)
        if section.persistent_keepalive is not None:
            values["PersistentKeepalive"] = str(section.persistent_keepalive or "")
    # Equal in any order.
    values["AllowedIPs"] = _owned(sections[-1].allowed_ips)
    return values


def _one(value: object) -> list[str]:
    return [str(value)] if value else []


def _base64(key: bytes | None) -> str:
    return b64encode(key).decode("ascii") if key and key != _NO_KEY else ""


def _check(key: str, value: str, forbidden: str = "#\r\n") -> None:
    # Not shown: a hook may hold a secret.
    if any(character in value for character in forbidden):
        raise ConfigError(f"{key}: has a # or a line's end in it, which no configuration file can say")


def _is_header(line: str) -> bool:
    return without_blanks(line.partition("#")[0]).startswith("[")


def _key_of(line: str) -> str:
    plain = line.partition("#")[0]
    return folded(without_blanks(split_quick(line)[0])) if "=" in plain else ""


def _parts(line: str) -> tuple[str, str, str]:
    """Key with its equals sign, value, and what follows: blanks, a comment, a carriage return."""
    match = _LINE.fullmatch(line)
    assert match, "the line has a key"
    return match[1], match[2], match[3]


def _replaced(line: str, value: str) -> str:
    before, _, after = _parts(line)
    return before + value + after
