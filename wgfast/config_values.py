"""The values of configuration files, one function each, with the grammar of wg(8) and wg-quick(8).

Each takes what stands after the equals sign, blanks already removed; BadValueError says what is wrong. `wg
set` speaks the same grammar. Nothing here resolves a name or opens a file, but for /etc/services where a port
is given by its name.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import Final

from .errors import ConfigError
from .keys import KEY_SIZE
from .settings import Prefix

InterfaceAddress = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# What isspace() of the C locale says, no more: a no-break space is no blank.
BLANKS: Final = " \t\n\v\f\r"
_WITHOUT_BLANKS: Final = dict.fromkeys(map(ord, BLANKS))

_FWMARK: Final = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")
_DNS_SERVER: Final = re.compile(r"[0-9.]+|.*:.*")
_DOMAIN: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_TABLE: Final = re.compile(r"0x[0-9a-fA-F]+|[A-Za-z0-9_.@+-]+")
_MTU_LEAST, _MTU_MOST = 68, 65535  # RFC 791; what a TUN device takes
_TABLE_MOST: Final = 0xFFFFFFFF


class BadValueError(ConfigError):
    """`value` cannot be what it was given as, because `why`. `value` is None where it may be a secret."""

    def __init__(self, value: str | None, why: str) -> None:
        self.value = value
        self.why = why
        super().__init__(why if value is None else f"{quoted(value)}: {why}")


def quoted(value: str) -> str:
    """For messages: control characters escaped, not longer than a line."""
    return repr(value if len(value) <= 80 else value[:77] + "...")


def without_blanks(text: str) -> str:
    return text.translate(_WITHOUT_BLANKS)


def folded(text: str) -> str:
    """Lower case as C's strcasecmp sees it: the Kelvin sign is no k."""
    return text.lower() if text.isascii() else text


def prefix_text(prefix: Prefix) -> str:
    """ADDRESS/LENGTH as wg prints it: what ipaddress makes of ::ffff:0:0/96 depends on Python's version."""
    family, address, length = prefix
    return f"{socket.inet_ntop(socket.AF_INET if family == 4 else socket.AF_INET6, address)}/{length}"


@dataclass(slots=True, frozen=True)
class AllowedIP:
    """One entry of an AllowedIPs line; `operation` is "", "+" (add) or "-" (take away)."""

    prefix: Prefix
    operation: str = ""

    def __str__(self) -> str:
        return self.operation + prefix_text(self.prefix)


@dataclass(slots=True, frozen=True)
class EndpointName:
    """An endpoint as it was written, not resolved. `host` is an address in its shortest form (an IPv6 one
    perhaps with %scope), or a name."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


# ---- what wg reads ----


def parse_key(value: str) -> bytes:
    """44 characters of canonical base64. No message shows it: what was put here may be a private key."""
    if len(value) != 44:
        raise BadValueError(None, f"{len(value)} characters; a key is 44 of base64, as from genkey")
    try:
        raw = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_SIZE or base64.b64encode(raw) != value.encode("ascii"):
        raise BadValueError(
            None, "not the base64 of 32 bytes; copy the key again, whole, as genkey prints it"
        )
    return raw


def parse_port(value: str) -> int:
    """0 to 65535, or the name of a UDP service in /etc/services. (wg takes larger numbers modulo 65536.)"""
    if value.isascii() and value.isdigit():
        if len(value.lstrip("0")) <= 5 and int(value) <= 0xFFFF:
            return int(value)
        raise BadValueError(value, "port must be 0 to 65535")
    try:
        return socket.getservbyname(value, "udp")
    except (OSError, ValueError):
        raise BadValueError(
            value, "port must be 0 to 65535, or a UDP service's name in /etc/services"
        ) from None


def parse_fwmark(value: str) -> int:
    """`off`, decimal, or hexadecimal after 0x."""
    if folded(value) == "off":
        return 0
    if _FWMARK.fullmatch(value):
        # int(…, 0) would refuse 010, which is ten.
        mark = _integer(value[2:], 16) if value.startswith("0x") else _integer(value, 10)
        if mark <= 0xFFFFFFFF:
            return mark
    raise BadValueError(value, "mark must be off, 0 to 4294967295, or 0x0 to 0xffffffff")


def parse_keepalive(value: str) -> int:
    """Seconds; `off` is 0."""
    if folded(value) == "off":
        return 0
    if value.isascii() and value.isdigit():
        seconds = _integer(value, 10)
        if seconds <= 0xFFFF:
            return seconds
    raise BadValueError(value, "interval must be off, or 0 to 65535 seconds")


def _integer(digits: str, base: int) -> int:
    """Of checked digits. int() refuses thousands of them; strtoul says the largest number there is."""
    digits = digits.lstrip("0") or "0"
    return int(digits, base) if len(digits) <= 20 else 1 << 64


def parse_allowed_ip(value: str) -> tuple[AllowedIP, bool]:
    """One entry, and whether it had host bits, which are masked. A bare address is that address alone. A `+`
    or `-` before it is the grammar of wg since 2025."""
    operation = value[:1] if value[:1] in ("+", "-") else ""
    address, slash, length = value[len(operation) :].partition("/")
    if not address:
        raise BadValueError(value, "an address or prefix was expected, like 10.0.0.0/24 or 2001:db8::/64")
    family = 6 if ":" in address else 4
    try:
        raw = socket.inet_pton(socket.AF_INET6 if family == 6 else socket.AF_INET, address)
    except (OSError, ValueError):
        raise BadValueError(
            value, "not an address or prefix; write it like 10.0.0.0/24 or 2001:db8::/64"
        ) from None
    width = 8 * len(raw)
    bits = width
    if slash:
        bits = _integer(length, 10) if length.isascii() and length.isdigit() else -1
        if not 0 <= bits <= width:
            raise BadValueError(value, f"prefix length must be 0 to {width}")
    given = int.from_bytes(raw, "big")
    masked = given >> (width - bits) << (width - bits)
    return AllowedIP((family, masked.to_bytes(len(raw), "big"), bits), operation), given != masked


# ---- endpoints ----


def parse_endpoint(value: str) -> EndpointName:
    """host:port or [host]:port; as for wg, an IPv6 address may come without its brackets. The name is not
    resolved; port 0 is refused, for nothing can be sent there."""
    if value.startswith("["):
        host, bracket, rest = value[1:].partition("]")
        if not bracket:
            raise BadValueError(value, "the closing ] is missing; write [2001:db8::1]:51820")
        port = rest[1:] if rest.startswith(":") else ""
    else:
        host, colon, port = value.rpartition(":")
        port = port if colon else ""
    if not port:
        raise BadValueError(value, "the port is missing; write HOST:PORT or [IPV6]:PORT")
    try:
        number = parse_port(port)
    except BadValueError:
        number = 0
    if number == 0:
        raise BadValueError(value, "port must be 1 to 65535, or a UDP service's name in /etc/services")
    return EndpointName(_host(value, host), number)


def _host(value: str, host: str) -> str:
    if not host:
        raise BadValueError(value, "the host is missing; write HOST:PORT or [IPV6]:PORT")
    if ":" in host:
        return _host6(value, host)
    if host.rpartition(".")[2].isdigit():
        # Numbers: as getaddrinfo, also 192.0.513.
        try:
            return socket.inet_ntoa(socket.inet_aton(host))
        except (OSError, ValueError):
            raise BadValueError(
                value, "not an IPv4 address; four numbers of 0 to 255 were expected"
            ) from None
    if not host.isascii():
        raise BadValueError(value, "a name is ASCII; write an international one in its xn-- form")
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(_DOMAIN.fullmatch(label) for label in labels):
        raise BadValueError(value, "neither an address nor a host's name")
    return host


def _host6(value: str, host: str) -> str:
    address, percent, scope = host.partition("%")
    try:
        shortest = socket.inet_ntop(socket.AF_INET6, socket.inet_pton(socket.AF_INET6, address))
    except (OSError, ValueError):
        raise BadValueError(value, "not an IPv6 address; write [2001:db8::1]:51820") from None
    if percent and not (scope and scope.isascii() and scope.isprintable()):
        raise BadValueError(value, "after % an interface was expected, like fe80::1%eth0")
    if percent and not scope.isdigit() and not ipaddress.IPv6Address(shortest).is_link_local:
        raise BadValueError(
            value, "only a link-local address, fe80::/10, is at an interface; leave out the %"
        )
    return shortest + percent + scope


# ---- what wg-quick reads ----


def parse_address(value: str) -> InterfaceAddress:
    """An address for the interface, with /LENGTH or, for IPv4, /NETMASK; a bare one is alone in its net."""
    address, slash, mask = value.partition("/")
    try:
        if "%" in value:
            raise ValueError
        version = ipaddress.ip_address(address).version
    except ValueError:
        raise BadValueError(value, "not an address; write it like 10.0.0.1/24 or 2001:db8::1/64") from None
    width = 32 if version == 4 else 128
    if slash and not (mask.isascii() and mask.isdigit() and _integer(mask, 10) <= width):
        try:
            # Not left to ipaddress, which takes 0.0.0.255 for a mask too.
            mask = str(ipaddress.IPv4Network(f"0.0.0.0/{mask}").prefixlen) if _is_netmask(mask) else ""
        except ValueError:
            mask = ""
        if not mask or version == 6:
            raise BadValueError(value, f"prefix length must be 0 to {width}")
    return ipaddress.ip_interface(f"{address}/{mask or width}")


def _is_netmask(text: str) -> bool:
    try:
        inverse = ~int(ipaddress.IPv4Address(text)) & 0xFFFFFFFF
    except ValueError:
        return False
    return inverse & (inverse + 1) == 0


def parse_dns(value: str) -> Address | str:
    """An address of a server, or else (as wg-quick tells them apart: by colons, or digits and dots alone) a
    search domain."""
    if not _DNS_SERVER.fullmatch(value):
        labels = value.removesuffix(".").split(".")
        # A bare "~" or one before a name: systemd-resolved's routing domains.
        if value.isascii() and all(_DOMAIN.fullmatch(label) for label in labels):
            return value
        raise BadValueError(value, "neither a server's address nor a search domain")
    try:
        return ipaddress.ip_address(value)
    except ValueError:
        raise BadValueError(value, "not a server's address; write it like 10.0.0.1 or 2001:db8::1") from None


def parse_mtu(value: str) -> int:
    mtu = _integer(value, 10) if value.isascii() and value.isdigit() else 0
    if not _MTU_LEAST <= mtu <= _MTU_MOST:
        raise BadValueError(
            value, f"MTU must be {_MTU_LEAST} to {_MTU_MOST}; without the line it is found out"
        )
    return mtu


def parse_table(value: str) -> str:
    """`auto`, `off`, a number, or a name (which names there are, /etc/iproute2/rt_tables says)."""
    if folded(value) in ("auto", "off") and value != folded(value):
        raise BadValueError(value, f"write it in lower case: {folded(value)}")
    numeric = value.isascii() and value.isdigit()
    if not _TABLE.fullmatch(value) or (numeric and _integer(value, 10) > _TABLE_MOST):
        raise BadValueError(value, f"table must be auto, off, 0 to {_TABLE_MOST}, or a table's name")
    return value


def parse_bool(value: str) -> bool:
    if folded(value) not in ("true", "false"):
        raise BadValueError(value, "must be true or false")
    return folded(value) == "true"
