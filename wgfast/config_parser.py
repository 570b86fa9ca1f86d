"""Lines of a configuration file into sections.

A line goes the way it goes with the tools. First wg-quick looks at it as it stands: in its own [Interface]
section it takes its own keys away. What is left is wg's: the comment is cut, all blanks are removed. So the
two may see sections differently (wg takes `[ Interface ]`, wg-quick does not), and here they do too. Every
line is checked, as wg does; wg-quick would not look at an MTU that a later line overrides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from . import config_values as values
from .config_sections import (
    CANONICAL,
    HOOK_KEYS,
    INTERFACE_KEYS,
    PEER_KEYS,
    QUICK_KEYS,
    SECTION_OF,
    InterfaceSection,
    PeerSection,
)
from .config_values import BLANKS, BadValueError, folded, quoted

# Keys with one value, of which the last line counts: the attribute and what reads it.
_SINGLE: Final[dict[str, tuple[str, Callable[[str], Any]]]] = {
    "PrivateKey": ("private_key", values.parse_key),
    "ListenPort": ("listen_port", values.parse_port),
    "FwMark": ("fwmark", values.parse_fwmark),
    "PublicKey": ("public_key", values.parse_key),
    "PresharedKey": ("preshared_key", values.parse_key),
    "Endpoint": ("endpoint", values.parse_endpoint),
    "PersistentKeepalive": ("persistent_keepalive", values.parse_keepalive),
    "MTU": ("mtu", lambda value: values.parse_mtu(value) if value else None),
    "Table": ("table", lambda value: values.parse_table(value) if value else None),
    "SaveConfig": ("save_config", values.parse_bool),
}
_HOOK_LISTS: Final = dict(zip(HOOK_KEYS, ("pre_up", "post_up", "pre_down", "post_down"), strict=True))
_SECTIONS: Final = {folded(name): name for name in ("[Interface]", "[Peer]")}
_NAME: Final = re.compile(rf"#+[{BLANKS}]*name[{BLANKS}]*=(.*)", re.IGNORECASE | re.DOTALL)
_COMMENTED_SECTION: Final = re.compile(rf"#[#{BLANKS}]*\[")
_WORD: Final = re.compile(r"[A-Za-z]{1,24}")
_SURROGATE: Final = re.compile("[\udc80-\udcff]")


def split_quick(line: str) -> tuple[str, str]:
    """Key and value as wg-quick sees them. A line without an equals sign is its own key and value."""
    plain = line.partition("#")[0]
    key, equals, value = plain.partition("=")
    return key.strip(BLANKS), (value if equals else plain).strip(BLANKS)


def in_quick_section(key: str, before: bool) -> bool:
    """Whether wg-quick is in [Interface] after a line with this key."""
    return folded(key) == "[interface]" if key.startswith("[") else before


class Parser:
    """Takes a file's lines in order, then `finish`. `problems` are (line, message), in no order."""

    def __init__(self, path: str, quick: bool) -> None:
        self.interface = InterfaceSection()
        self.peers: list[PeerSection] = []
        self.warnings: list[str] = []
        self.problems: list[tuple[int, str]] = []
        self._path = path
        self._quick = quick
        self._line = 0
        # "" before the first; "?" in an unknown one, of whose keys nobody can say whether they belong there.
        self._section = ""
        self._in_quick = False
        self._has_interface = False
        self._names = False
        self._peer = PeerSection(b"")
        self._peer_line = 0
        self._peer_keyed = False
        self._lines_of_keys: dict[bytes, int] = {}

    def read_line(self, number: int, line: str) -> None:
        self._line = number
        plain, hash_sign, comment = line.partition("#")
        if hash_sign:
            self._read_comment("#" + comment, not plain.strip(BLANKS))
        if number == 1 and line.startswith("\ufeff"):
            self._bad("a byte order mark before the first character; save the file as UTF-8 without one")
            self.read_line(1, line[1:])  # what is behind it may be right
            return
        if not plain.isascii() and not self._is_text(plain):
            return
        if self._quick and self._take_quick(line):
            return
        cleaned = values.without_blanks(plain)
        if cleaned.startswith("["):
            self._enter(cleaned)
        elif cleaned:
            self._take(cleaned)

    def finish(self) -> None:
        self._leave_peer()
        if self._quick and not self._has_interface:
            self.warnings.append(
                f"{self._path}: no [Interface] section; without one the interface has neither key nor address"
            )

    def _is_text(self, plain: str) -> bool:
        if _SURROGATE.search(plain):
            self._bad("not UTF-8; save the file as UTF-8")
            return False
        return True

    def _read_comment(self, comment: str, alone: bool) -> None:
        if not comment.isascii() and _SURROGATE.search(comment):
            self._warn("the comment is not UTF-8; it is kept as it is")
        if not alone:
            return
        if _COMMENTED_SECTION.match(comment):
            # The names that follow are of a section that is itself a comment.
            self._names = False
            return
        found = _NAME.fullmatch(comment)
        name = found[1].strip(BLANKS) if found else ""
        if name and self._names:
            owner = self._peer if self._section == "[Peer]" else self.interface
            owner.name = _SURROGATE.sub("\ufffd", name)
            self._names = False

    # ---- sections ----

    def _enter(self, header: str) -> None:
        self._leave_peer()
        section = _SECTIONS.get(folded(header), "")
        if not section:
            near = _nearest(header, list(_SECTIONS.values()))
            shown = quoted(header) if len(header) <= 24 else f"a line of {len(header)} characters"
            meant = f"did you mean {near}?" if near else "there are [Interface] and [Peer]"
            self._bad(f"{shown}: not a section; {meant}")
            section = near or "?"
        self._section = section
        self._names = section != "?"
        self._has_interface |= section == "[Interface]"
        if section == "[Peer]":
            self._peer = PeerSection(b"")
            self._peer_line = self._line
            self._peer_keyed = False

    def _leave_peer(self) -> None:
        if self._section != "[Peer]":
            return
        key = self._peer.public_key
        if not self._peer_keyed:
            self._bad("PublicKey: missing; every [Peer] has one", self._peer_line)
        elif key:
            first = self._lines_of_keys.setdefault(key, self._peer_line)
            if first != self._peer_line:
                self._warn(
                    f"PublicKey: the same as in the [Peer] of line {first}; the two are one peer",
                    self._peer_line,
                )
        self.peers.append(self._peer)

    # ---- keys ----

    def _take_quick(self, line: str) -> bool:
        """wg-quick's look at the line: whether it was one of its keys."""
        key, value = split_quick(line)
        self._in_quick = in_quick_section(key, self._in_quick)
        canonical = CANONICAL.get(folded(key), "")
        if not self._in_quick or canonical not in QUICK_KEYS:
            return False
        plain, hash_sign, _ = line.partition("#")
        if "=" not in plain:
            # wg-quick takes the key for its value.
            self._bad(f"{canonical}: no = follows; write {canonical} = VALUE")
        elif canonical in _HOOK_LISTS:
            getattr(self.interface, _HOOK_LISTS[canonical]).append(value)
            if hash_sign and (value.count('"') % 2 or value.count("'") % 2):
                self._warn(f"{canonical}: cut at a # inside quotes: here # always begins a comment")
        else:
            self._set(self.interface, canonical, value)
        return True

    def _take(self, cleaned: str) -> None:
        """wg's look at the line, without comment and blanks."""
        key, equals, value = cleaned.partition("=")
        canonical = CANONICAL.get(folded(key))
        if canonical is None or not equals:
            self._unknown(key, equals, value)
            return
        if self._section == "?" or not self._belongs(canonical):
            return
        self._peer_keyed |= canonical == "PublicKey"
        if value:
            self._set(self._peer if canonical in PEER_KEYS else self.interface, canonical, value)
        else:
            self._bad(f"{canonical}: '': no value; give one, or leave the line out")

    def _belongs(self, key: str) -> bool:
        home = SECTION_OF[key]
        if key in QUICK_KEYS and not self._quick:
            self._bad(
                f"{key}: a key of wg-quick, which wg does not know; `wgfast strip` leaves such keys out"
            )
        elif not self._section:
            self._bad(f"{key}: stands before the first section; put {home} above it")
        elif self._section != home:
            self._bad(f"{key}: not a key of {self._section}; it belongs in {home}")
        elif key in QUICK_KEYS:
            self._bad(
                f"{key}: wg-quick knows it only with no blanks inside [Interface] and {key}; remove them"
            )
        else:
            return True
        return False

    def _unknown(self, key: str, equals: str, value: str) -> None:
        """Values are never shown, nor a key that may be a piece of one."""
        if not equals:
            begun = next((name for low, name in CANONICAL.items() if folded(key).startswith(low)), None)
            self._bad(
                f"{begun}: no = follows; write {begun} = VALUE"
                if begun
                else f"a line of {len(key)} characters without =; write KEY = VALUE, or # before a comment"
            )
            return
        near = _nearest(key, list(CANONICAL.values()))
        # The end of a key that was broken in two has = as its last character.
        is_word = bool(value) and _WORD.fullmatch(key)
        shown = quoted(key) if near or is_word else f"{len(key)} characters before ="
        self._bad(f"{shown}: not a key; {self._meant(near)}")

    def _meant(self, near: str) -> str:
        if near:
            home = SECTION_OF[near]
            return f"did you mean {near}{'' if home == self._section else f', in {home}'}?"
        if self._section == "[Peer]":
            return f"[Peer] has {', '.join(PEER_KEYS)}"
        keys = (*INTERFACE_KEYS, *QUICK_KEYS) if self._quick else INTERFACE_KEYS
        return f"[Interface] has {', '.join(keys)}"

    # ---- values ----

    def _set(self, section: InterfaceSection | PeerSection, key: str, value: str) -> None:
        if key == "AllowedIPs":
            self._add_allowed_ips(value)
        elif key in ("Address", "DNS"):
            for entry in re.split(r"[ \t,]+", value):
                if entry:
                    self._attempt(key, self._add_address if key == "Address" else self._add_dns, entry)
        else:
            attribute, parse = _SINGLE[key]
            self._attempt(key, lambda text: setattr(section, attribute, parse(text)), value)

    def _attempt(self, key: str, action: Callable[[str], None], value: str) -> None:
        try:
            action(value)
        except BadValueError as error:
            self._bad(f"{key}: {error}")

    def _add_allowed_ips(self, value: str) -> None:
        # Each line says anew whether the peer's own are replaced, as with wg.
        self._peer.replace_allowed_ips = True
        for entry in value.split(","):
            self._attempt("AllowedIPs", self._add_allowed_ip, entry)

    def _add_allowed_ip(self, entry: str) -> None:
        allowed_ip, had_host_bits = values.parse_allowed_ip(entry)
        self._peer.allowed_ips.append(allowed_ip)
        self._peer.replace_allowed_ips &= not allowed_ip.operation
        if had_host_bits:
            taken = values.prefix_text(allowed_ip.prefix)
            self._warn(f"AllowedIPs: {quoted(entry)}: has host bits, which are ignored; taken as {taken}")

    def _add_address(self, entry: str) -> None:
        address = values.parse_address(entry)
        if address in self.interface.addresses:
            self._warn(f"Address: {quoted(entry)}: given twice")
        else:
            self.interface.addresses.append(address)

    def _add_dns(self, entry: str) -> None:
        found = values.parse_dns(entry)
        if isinstance(found, str):
            self.interface.dns_search.append(found)
        else:
            self.interface.dns.append(found)

    # ---- messages ----

    def _bad(self, what: str, line: int | None = None) -> None:
        number = self._line if line is None else line
        self.problems.append((number, f"{self._path}:{number}: {what}"))

    def _warn(self, what: str, line: int | None = None) -> None:
        self.warnings.append(f"{self._path}:{self._line if line is None else line}: {what}")


def _nearest(word: str, known: list[str]) -> str:
    """The known word that was probably meant, or ""."""
    import difflib  # rarely wanted, and not small

    lower = {folded(name): name for name in known}
    near = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.7)
    return lower[near[0]] if near else ""
