"""What devices and peers are configured with, read and checked: every value is refused with the name of its
field, or comes back in the form the core takes."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from typing import Any

from . import _core
from ._core import Endpoint
from .errors import ConfigError
from .resolve import lookup

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Prefix = tuple[int, bytes, int]  # family 4 or 6, address in network order, length in bits
AllowedIPsArgument = str | Network | Iterable[str | Network]
EndpointArgument = str | tuple[str, int] | Endpoint

HOST_MAX = 254  # of a name as it is written, with a dot at its end (RFC 1035, section 3.1)
_WIDTH = {4: 32, 6: 128}


def number(field: str, value: Any, low: int, high: int) -> int:
    """`value` if it is an integer from low to high; ConfigError names the field, the value and the bounds."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{field}: {value!r}: must be {low} to {high}")
    return value


def count_threads(wanted: int | None) -> int:
    """How many workers: as asked for, else WGFAST_THREADS, else what suits the machine. On two cores one
    thread that serves both directions beats two that wake each other (DESIGN.md)."""
    given = _count("threads", wanted, "WGFAST_THREADS", _core.THREADS_MAX)
    cores = len(os.sched_getaffinity(0))
    return given or (1 if cores <= 2 else min(cores, 4))


def count_queues(wanted: int | None, threads: int) -> int:
    """How many queues an interface of our own has: as asked for, else WGFAST_QUEUES, else one for each thread
    where there are more than two."""
    given = _count("queues", wanted, "WGFAST_QUEUES", _core.QUEUES_MAX)
    return given or (1 if threads <= 2 else min(threads, _core.QUEUES_MAX))


def _count(field: str, wanted: int | None, variable: str, most: int) -> int:
    """0: neither the argument nor the environment says."""
    if wanted is not None:
        return number(field, wanted, 1, most)
    text = os.environ.get(variable, "")
    if not text:
        return 0
    return number(variable, int(text) if text.isascii() and text.isdigit() else text, 1, most)


def offloads_off(wanted: Iterable[str] | None) -> int:
    """Which offloads shall not be used, a bit for each of OFFLOAD_NAMES: as asked for, else by WGFAST_OFFLOAD
    ("-tso,-udp-gro"; "none" for none of them). ConfigError for a name there is none of."""
    if wanted is None:
        text = os.environ.get("WGFAST_OFFLOAD", "").strip()
        if text == "none":
            return (1 << len(_core.OFFLOAD_NAMES)) - 1
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if any(not part.startswith("-") for part in parts):
            why = "expected none, or names with a - before each (-tso,-uso)"
            raise _no_offload("WGFAST_OFFLOAD", text, why)
        return _offload_mask("WGFAST_OFFLOAD", [part[1:] for part in parts])
    if isinstance(wanted, str | bytes) or not isinstance(wanted, Iterable):
        raise _no_offload("without", wanted, "expected a list of names (['tso', 'uso'])")
    return _offload_mask("without", wanted)


def _offload_mask(field: str, names: Iterable[str]) -> int:
    mask = 0
    for name in names:
        if name not in _core.OFFLOAD_NAMES:
            raise _no_offload(field, name, "there is no such offload")
        mask |= 1 << _core.OFFLOAD_NAMES.index(name)
    return mask


def _no_offload(field: str, value: object, why: str) -> ConfigError:
    return ConfigError(f"{field}: {value!r}: {why}; the names are {', '.join(_core.OFFLOAD_NAMES)}")


def may_use(offload: str, off: int) -> bool:
    """Whether the mask of `offloads_off` leaves it on."""
    return not off >> _core.OFFLOAD_NAMES.index(offload) & 1


def check_keepalive(seconds: int) -> int:
    """A persistent keepalive's interval; ConfigError if it cannot be one."""
    return number("persistent_keepalive", seconds, 0, 65535)


def parse_allowed_ips(value: AllowedIPsArgument) -> list[Prefix]:
    """Prefixes as the core takes them. A string may hold several, separated by commas; a bare address means
    that address; host bits are masked. ConfigError names the one that is wrong."""
    if isinstance(value, str):
        return [_parse_prefix(part.strip()) for part in value.split(",") if part.strip()]
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return [_parse_prefix(value)]
    try:
        each = list(value)
    except TypeError:
        raise ConfigError(f"allowed_ips: {value!r}: expected prefixes like '10.0.0.0/24'") from None
    return [_parse_prefix(prefix) for prefix in each]


def _parse_prefix(value: str | Network) -> Prefix:
    """ipaddress alone would also take netmasks and integers, which no other WireGuard does."""
    text = str(value)
    address_text, slash, length_text = text.partition("/")
    try:
        address = ipaddress.ip_address(address_text)
        if "%" in address_text:
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"allowed_ips: {text!r}: expected an address or prefix like '10.0.0.0/24'"
        ) from None
    width = _WIDTH[address.version]
    length = width
    if slash:
        length = int(length_text) if length_text.isascii() and length_text.isdigit() else -1
    if not 0 <= length <= width:
        raise ConfigError(f"allowed_ips: {text!r}: prefix length must be 0 to {width}")
    masked = int(address) >> (width - length) << (width - length)
    return address.version, masked.to_bytes(width // 8, "big"), length


def network(prefix: Prefix) -> Network:
    family, address, length = prefix
    if family == 4:
        return ipaddress.IPv4Network((address, length))
    return ipaddress.IPv6Network((address, length))


def parse_endpoint(value: EndpointArgument, field: str = "endpoint") -> Endpoint:
    """An endpoint from "host:port", "[v6]:port", (host, port) or an Endpoint. A name is resolved now, once;
    the first address the system gives counts. ConfigError names `field`, the value and what was expected."""
    if isinstance(value, str):
        host, port = _split_endpoint(value, field)
    else:
        try:
            host, port = value[0], value[1]
        except (TypeError, IndexError):
            raise ConfigError(
                f"{field}: {value!r}: expected 'host:port', '[v6]:port' or (host, port)"
            ) from None
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise ConfigError(f"{field}: {value!r}: the port must be 1 to 65535")
    if not isinstance(host, str) or not host:
        raise ConfigError(f"{field}: {value!r}: the host must be an address or a name")
    try:
        return lookup(host, port)[0]
    except OSError as error:
        raise ConfigError(f"{field}: {value!r}: cannot resolve {host!r}: {error}") from None


def parse_endpoint_host(value: str, field: str = "endpoint_host") -> tuple[str, int]:
    """(host, port) of "host:port" or "[v6]:port", to be resolved by whoever keeps it. ConfigError as above,
    and for what no name server could be asked for."""
    if not isinstance(value, str):
        raise ConfigError(f"{field}: {value!r}: expected 'host:port' or '[v6]:port'")
    host, port = _split_endpoint(value, field)
    if not 1 <= port <= 65535:
        raise ConfigError(f"{field}: {value!r}: the port must be 1 to 65535")
    if not 1 <= len(host) <= HOST_MAX or not host.isprintable() or any(c.isspace() for c in host):
        raise ConfigError(f"{field}: {value!r}: a name has 1 to {HOST_MAX} characters, none of them blank")
    return host, port


def _split_endpoint(text: str, field: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if (
        not colon
        or not (port.isascii() and port.isdigit() and len(port) < 10)
        or (":" in host and not bracketed)
    ):
        raise ConfigError(f"{field}: {text!r}: expected 'host:port' or '[v6]:port'")
    return host[1:-1] if bracketed else host, int(port)
