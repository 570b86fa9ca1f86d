"""`wg show` for people: the same words, numbers and colours."""

from __future__ import annotations

import base64
import os
import re
import sys
from collections.abc import Iterator
from typing import Final

from wgfast import limits
from wgfast.client_state import NEVER, ZERO_KEY, DeviceState, PeerState, endpoint_text, prefix_text

_RESET: Final = "\x1b[0m"
_BOLD: Final = "\x1b[1m"
_RED: Final = "\x1b[31m"
_GREEN: Final = "\x1b[32m"
_YELLOW: Final = "\x1b[33m"
_CYAN: Final = "\x1b[36m"
_SEQUENCE: Final = re.compile(r"\x1b\[[^A-Za-z]*[A-Za-z]")
_UNITS: Final = (
    ("year", 365 * 24 * 3600),
    ("day", 24 * 3600),
    ("hour", 3600),
    ("minute", 60),
    ("second", 1),
)


def has_colours() -> bool:
    """WG_COLOR_MODE: always, never, or else whether a terminal is written to."""
    mode = os.environ.get("WG_COLOR_MODE")
    return mode == "always" or (mode != "never" and sys.stdout.isatty())


def hides_keys() -> bool:
    """WG_HIDE_KEYS: secrets are shown only for never."""
    return os.environ.get("WG_HIDE_KEYS") != "never"


def without_colours(text: str) -> str:
    return _SEQUENCE.sub("", text)


def pretty(state: DeviceState, now: int, *, hide_keys: bool) -> str:
    """One interface, with colours; `now` is the wall clock in seconds."""
    lines = [f"{_RESET}{_GREEN}{_BOLD}interface{_RESET}: {_GREEN}{state.name}{_RESET}"]
    if state.public_key is not None:
        lines.append(_line("public key", key_text(state.public_key)))
    if state.private_key is not None:
        lines.append(_line("private key", _secret(state.private_key, hide_keys)))
    if state.listen_port:
        lines.append(_line("listening port", str(state.listen_port)))
    if state.fwmark:
        lines.append(_line("fwmark", f"{state.fwmark:#x}"))
    for peer in sorted(state.peers, key=_rank):
        lines.append("")
        lines += _peer(peer, now, hide_keys)
    return "\n".join(lines) + "\n"


def _rank(peer: PeerState) -> tuple[bool, int, int]:
    """The latest handshake first, those without one last, and else in the interface's order."""
    seconds, nanoseconds = peer.last_handshake
    return peer.last_handshake == NEVER, -seconds, -nanoseconds


def _peer(peer: PeerState, now: int, hide_keys: bool) -> Iterator[str]:
    yield f"{_YELLOW}{_BOLD}peer{_RESET}: {_YELLOW}{key_text(peer.public_key)}{_RESET}"
    if peer.preshared_key != ZERO_KEY:
        yield _line("preshared key", _secret(peer.preshared_key, hide_keys))
    if peer.endpoint is not None:
        yield _line("endpoint", endpoint_text(peer.endpoint))
    elif "endpoint_host" in peer.extra:  # which only wgfast has; `wg` would not have left it unresolved
        yield _line("endpoint", f"(none: {peer.extra['endpoint_host']} is not resolved yet)")
    slash = f"{_CYAN}/{_RESET}"
    prefixes = (prefix_text(prefix).replace("/", slash) for prefix in peer.allowed_ips)
    yield _line("allowed ips", ", ".join(prefixes) or "(none)")
    if peer.last_handshake[0]:
        yield _line("latest handshake", ago_text(peer.last_handshake[0], now))
    if peer.received_bytes or peer.sent_bytes:
        received, sent = bytes_text(peer.received_bytes), bytes_text(peer.sent_bytes)
        yield _line("transfer", f"{received} received, {sent} sent")
    if peer.persistent_keepalive:
        yield _line("persistent keepalive", f"every {duration_text(peer.persistent_keepalive)}")
    for way, text in limits.way_texts(peer.limits or {}).items():
        yield _line(f"{way} limits", text)


def _line(name: str, value: str) -> str:
    return f"  {_BOLD}{name}{_RESET}: {value}"


def _secret(key: bytes, hide: bool) -> str:
    return "(hidden)" if hide else key_text(key)


def key_text(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")


def ago_text(then: int, now: int) -> str:
    if now == then:
        return "Now"
    if now < then:
        return f"({_RED}System clock wound backward; connection problems may ensue.{_RESET})"
    return f"{duration_text(now - then)} ago"


def duration_text(seconds: int) -> str:
    """`1 day, 2 minutes`: every unit that is not zero."""
    parts = []
    for name, size in _UNITS:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {_CYAN}{name}{'' if count == 1 else 's'}{_RESET}")
    return ", ".join(parts)


def bytes_text(count: int) -> str:
    if count < 1024:
        return f"{count} {_CYAN}B{_RESET}"
    for power, unit in enumerate(("KiB", "MiB", "GiB"), 1):
        if count < 1024 ** (power + 1):
            return f"{count / 1024**power:.2f} {_CYAN}{unit}{_RESET}"
    return f"{count / 1024**4:.2f} {_CYAN}TiB{_RESET}"
