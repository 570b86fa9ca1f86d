"""Many peers at once: Device.update. What is asked for is read and checked whole, then applied as a UAPI set
is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final, TypedDict

from . import _core, uapi_apply
from ._core import Endpoint
from .errors import ConfigError
from .keys import PublicKey, parse_key
from .limits import Limits, check_limits
from .resolve import format_name
from .settings import (
    AllowedIPsArgument,
    EndpointArgument,
    Prefix,
    check_keepalive,
    parse_allowed_ips,
    parse_endpoint,
    parse_endpoint_host,
)
from .uapi import Changes

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .device import Device

Record = tuple[bytes, int, bytes | None, Endpoint | None, int, list[Prefix], dict[str, int]]


class PeerSettings(TypedDict, total=False):
    """The arguments of Device.add_peer by name. What is left out stays as it is, in a new peer empty; None is
    none. `allowed_ips` are all it has then; those of another peer move here in one step. `endpoint` drops the
    name it had. With `remove` true the peer goes, if it is there."""

    public_key: str | Buffer  # always
    remove: bool
    allowed_ips: AllowedIPsArgument
    endpoint: EndpointArgument | None
    endpoint_host: str | None
    preshared_key: str | Buffer | None
    persistent_keepalive: int | None
    limits: Limits | None


_KNOWN: Final = frozenset(PeerSettings.__annotations__)
_NO_KEY: Final = bytes(32)


def update(device: Device, peers: Iterable[PeerSettings], replace: bool) -> None:
    """See Device.update."""
    own = device.public_key
    records: list[Record] = []
    hosts: dict[int, str] = {}
    seen: set[bytes] = set()
    for number, said in enumerate(peers):
        try:
            record = _read(said, number, hosts)
            key = record[0]
            if key == own:
                raise ConfigError(f"public_key: {PublicKey(key)}: is this device's own; a peer has another")
            if key in seen:
                raise ConfigError(f"public_key: {PublicKey(key)}: is among these peers already")
        except ConfigError as error:
            raise ConfigError(f"peers[{number}]: {error}") from None
        seen.add(key)
        records.append(record)
    uapi_apply.apply(device, Changes(_core.Setting.of(records, replace), hosts))


def _read(said: PeerSettings, number: int, hosts: dict[int, str]) -> Record:
    if "public_key" not in said:
        raise ConfigError("public_key: is missing; it says which peer is meant")
    unknown = said.keys() - _KNOWN
    if unknown:
        raise ConfigError(f"{min(unknown)}: there is no such setting; there are {', '.join(sorted(_KNOWN))}")
    mentions = _core.SAID_REMOVE if said.get("remove") else 0
    prefixes: list[Prefix] = []
    if "allowed_ips" in said:
        mentions |= _core.SAID_REPLACE
        prefixes = parse_allowed_ips(said["allowed_ips"])
    endpoint = psk = None
    if "endpoint" in said:
        mentions |= _core.SAID_ENDPOINT
        endpoint = None if said["endpoint"] is None else parse_endpoint(said["endpoint"])
    if "endpoint_host" in said:
        mentions |= _core.SAID_HOST
        host = said["endpoint_host"]
        hosts[number] = "" if host is None else format_name(*parse_endpoint_host(host))
    if "preshared_key" in said:
        mentions |= _core.SAID_PSK
        secret = said["preshared_key"]
        psk = _NO_KEY if secret is None else parse_key(secret, "preshared_key")
    if "persistent_keepalive" in said:
        mentions |= _core.SAID_KEEPALIVE
    seconds = check_keepalive(said.get("persistent_keepalive") or 0)
    limits = check_limits(said["limits"]) if "limits" in said else {}
    return parse_key(said["public_key"], "public_key"), mentions, psk, endpoint, seconds, prefixes, limits
