"""Endpoint names resolved by whoever configures an interface, as `wg` does: most daemons take numbers only.

wgfast's own is given the name instead (resolve.py).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any, Final

from wgfast._core import Endpoint
from wgfast.errors import ConfigError, WgfastError

RETRIES_VARIABLE: Final = "WG_ENDPOINT_RESOLUTION_RETRIES"
_RETRIES: Final = 15
_INT_MAX: Final = (1 << 31) - 1
_FIRST_WAIT: Final = 1_000_000  # microseconds, as wg counts them: what it prints is rounded the same
_LONGEST_WAIT: Final = 20_000_000
# What no later try will change (https://sourceware.org/glibc/wiki/NameResolver). wg tries again for a port
# that is none (EAI_SERVICE) as well.
_PERMANENT: Final = {
    number
    for number in (
        getattr(socket, name, None) for name in ("EAI_NONAME", "EAI_FAIL", "EAI_NODATA", "EAI_SERVICE")
    )
    if number is not None
}

Report = Callable[[str], None]
Lookup = Callable[..., list[Any]]


class ResolutionError(WgfastError):
    """An endpoint has no address; the message is the resolver's."""


def split_endpoint(text: str) -> tuple[str, str]:
    """Host and port of `host:port` or `[v6]:port`, not looked at further. ConfigError as `wg` words it."""
    if not text:
        raise ConfigError("Unable to parse empty endpoint")
    if text.startswith("["):
        host, brace, rest = text[1:].partition("]")
        if not brace:
            raise ConfigError(f"Unable to find matching brace of endpoint: `{text}'")
        colon, port = rest[:1], rest[1:]
    else:
        host, colon, port = text.rpartition(":")
    if colon != ":" or not port:
        raise ConfigError(f"Unable to find port of endpoint: `{text}'")
    return host, port


def numeric_endpoint(text: str) -> Endpoint | None:
    """An endpoint of numbers; None if its host is a name, and nobody was asked for it. ConfigError as
    split_endpoint(); ResolutionError if its port cannot be one."""
    host, port = split_endpoint(text)
    try:
        return _lookup(socket.getaddrinfo, host, port, socket.AI_NUMERICHOST)
    except socket.gaierror as error:
        if error.errno == socket.EAI_NONAME:
            return None
        raise ResolutionError(f"{error.strerror}: `{text}'") from None


def resolve(
    text: str,
    report: Report | None = None,
    *,
    lookup: Lookup = socket.getaddrinfo,
    sleep: Callable[[float], object] = time.sleep,
) -> Endpoint:
    """The first address of `host:port`. What may pass is tried again, WG_ENDPOINT_RESOLUTION_RETRIES times
    (15 unless told), waiting from 1 s to 20 s between tries; `report` hears of each wait.

    ConfigError for a text that is no endpoint, or a bad number of retries; ResolutionError if there is no
    address.
    """
    left = _retries()
    host, port = split_endpoint(text)
    wait = _FIRST_WAIT
    while True:
        try:
            return _lookup(lookup, host, port)
        except OSError as error:
            why = f"{error.strerror}: `{text}'"
            permanent = isinstance(error, socket.gaierror) and error.errno in _PERMANENT
            if permanent or left == 0:
                raise ResolutionError(why) from None
        left -= 1
        if report is not None:
            report(f"{why}. Trying again in {wait / 1_000_000:.2f} seconds...")
        sleep(wait / 1_000_000)
        wait = min(_LONGEST_WAIT, wait * 6 // 5)


def _lookup(lookup: Lookup, host: str, port: str, flags: int = 0) -> Endpoint:
    if port.isascii() and port.isdigit() and int(port[:9]) > 0xFFFF:
        # The C library would take it modulo 65536.
        raise socket.gaierror(socket.EAI_SERVICE, "Port must be 0 to 65535")
    # As bytes: Python would encode a str for DNS itself, and refuse names that the system's resolver knows.
    found = lookup(os.fsencode(host), os.fsencode(port), 0, socket.SOCK_DGRAM, socket.IPPROTO_UDP, flags)
    address = found[0][4]
    scope = f"%{address[3]}" if len(address) == 4 and address[3] else ""
    return Endpoint(str(address[0]).partition("%")[0] + scope, int(address[1]))


def _retries() -> int:
    """How often to try again; negative: for ever."""
    text = os.environ.get(RETRIES_VARIABLE)
    if text is None:
        return _RETRIES
    if text == "infinity":
        return -1
    if text and not (text.isascii() and text.isdigit() and int(text) <= _INT_MAX):
        raise ConfigError(f"Unable to parse {RETRIES_VARIABLE}: `{text}'")
    return int(text or "0")
