"""A peer of a device, and the peers of a device: views of rows in the core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from . import _core
from ._core import Endpoint
from .keys import PresharedKey, PublicKey, parse_key
from .limits import Limits, Usage, check_limits, check_usage, limits_of, usage_of
from .settings import (
    AllowedIPsArgument,
    EndpointArgument,
    Network,
    check_keepalive,
    network,
    parse_allowed_ips,
    parse_endpoint,
    parse_endpoint_host,
)
from .stats import PeerStats as PeerStats

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .device import Device

_NO_KEY = bytes(32)


class Peer:
    """One peer, made by `Device.add_peer` or found by `Device.peer`. It holds no state of its own: two
    objects for one peer are equal, and once the peer was removed every use raises PeerRemovedError. In a
    forked child: ForkedError."""

    __slots__ = ("__weakref__", "_device", "_handle", "_public_key")

    def __init__(self, device: Device, handle: int) -> None:
        self._device = device
        self._handle = handle
        self._public_key = PublicKey(device.core.peer_info(handle).public_key)

    def __repr__(self) -> str:
        return f"<Peer {self._public_key.short} of {self._device.name}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Peer):
            return NotImplemented
        return self._device is other._device and self._handle == other._handle

    def __hash__(self) -> int:
        return hash((id(self._device), self._handle))

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("a Peer cannot be pickled or copied: it is a view of its device")

    @property
    def handle(self) -> int:
        """The core's number for it, never used again for another."""
        return self._handle

    @property
    def public_key(self) -> PublicKey:
        return self._public_key

    @property
    def endpoint(self) -> Endpoint | None:
        """Where it is reached: as configured, or from where it was heard last. Set it to "host:port",
        "[v6]:port", a tuple, an Endpoint or None: then it has no `endpoint_host` any more. ConfigError names
        what does not fit."""
        return self._info().endpoint

    @endpoint.setter
    def endpoint(self, value: EndpointArgument | None) -> None:
        self._device.set_endpoint(self._handle, None if value is None else parse_endpoint(value))

    @property
    def endpoint_host(self) -> str | None:
        """The name it is reached at, "host:port"; None: it has none. Set it, and a thread of the device's
        resolves it: now, until that succeeds, and again whenever the peer has been silent for 135 s though it
        should have answered, so that its address may change. None: the name is dropped, the endpoint stays.
        ConfigError names what does not fit; that it cannot be resolved is only logged."""
        self._info()
        return self._device.names.of(self._handle)

    @endpoint_host.setter
    def endpoint_host(self, value: str | None) -> None:
        self._info()
        if value is None:
            self._device.names.drop(self._handle)
        else:
            self._device.names.keep(self._handle, *parse_endpoint_host(value))

    def resolve(self) -> None:
        """Has its `endpoint_host` resolved now; does not wait for it. Nothing where there is no name."""
        self._info()
        self._device.names.resolve(self._handle)

    @property
    def preshared_key(self) -> PresharedKey | None:
        """Setting another one ends a running handshake and begins a new one; the session goes on until that
        is done."""
        with self._device.using() as core:
            psk = core.peer_psk(self._handle)
        return None if psk == _NO_KEY else PresharedKey(psk)

    @preshared_key.setter
    def preshared_key(self, value: str | Buffer | None) -> None:
        self._device.set_psk(self._handle, _NO_KEY if value is None else parse_key(value, "preshared_key"))

    @property
    def persistent_keepalive(self) -> int:
        """Seconds between keepalives sent whatever happens, 0: off. Set: 0 to 65535."""
        return self._info().persistent_keepalive

    @persistent_keepalive.setter
    def persistent_keepalive(self, seconds: int) -> None:
        self._device.set_keepalive(self._handle, check_keepalive(seconds))

    @property
    def limits(self) -> Limits:
        """How fast and how much it may send and receive; what exceeds them is dropped, which `Device.drops`
        counts as send_limited, send_quota and so on. Setting them replaces all, None: none; they count at
        once, and what is used of a quota stays. ConfigError names what does not fit."""
        with self._device.using() as core:
            return limits_of(core.peer_limits(self._handle))

    @limits.setter
    def limits(self, value: Limits | None) -> None:
        checked = check_limits(value)
        with self._device.using() as core:
            core.peer_set_limits(self._handle, checked, self._device.now())

    @property
    def usage(self) -> Usage:
        """Bytes used of the quotas. Set it to what it was before a restart, or to Usage() to begin anew."""
        with self._device.using() as core:
            return usage_of(core.peer_limits(self._handle))

    @usage.setter
    def usage(self, value: Usage) -> None:
        checked = check_usage(value)
        with self._device.using() as core:
            core.peer_set_limits(self._handle, checked, self._device.now())

    @property
    def allowed_ips(self) -> list[Network]:
        """The prefixes it may send from and is sent to, IPv4 first, in order. Setting them moves those that
        are new here, then takes away those that are gone: what is in both is never without an owner. OSError
        (ENOSPC): the table is full, nothing has changed."""
        with self._device.using() as core:
            return [network(prefix) for prefix in core.peer_allowed(self._handle)]

    @allowed_ips.setter
    def allowed_ips(self, value: AllowedIPsArgument) -> None:
        wanted = parse_allowed_ips(value)
        with self._device.using() as core:
            kept = set(wanted)
            before = core.peer_allowed(self._handle)
            core.peer_allow_many(self._handle, wanted)
            for prefix in before:
                if tuple(prefix) not in kept:
                    core.peer_disallow(self._handle, *prefix)

    def allow(self, prefixes: AllowedIPsArgument) -> None:
        """Adds allowed IPs; a prefix another peer had moves here in one step. OSError (ENOSPC): the table is
        full, nothing has changed."""
        wanted = parse_allowed_ips(prefixes)
        with self._device.using() as core:
            core.peer_allow_many(self._handle, wanted)

    def disallow(self, prefixes: AllowedIPsArgument) -> None:
        """Takes allowed IPs away; what is not this peer's stays where it is."""
        unwanted = parse_allowed_ips(prefixes)
        with self._device.using() as core:
            core.peer_info(self._handle)
            for prefix in unwanted:
                core.peer_disallow(self._handle, *prefix)

    @property
    def stats(self) -> PeerStats:
        info = self._info()
        age = self._device.now() - info.session_birth if info.session_birth else None
        return PeerStats(
            received_bytes=info.received_bytes,
            sent_bytes=info.sent_bytes,
            received_packets=info.received_packets,
            sent_packets=info.sent_packets,
            last_handshake=self._device.wall_of(info.handshake_at) / 1e9 if info.handshake_at else None,
            session_age=None if age is None else age / 1e9,
            staged=info.staged,
        )

    def handshake(self) -> None:
        """Begins a handshake now, or when the last initiation is REKEY-TIMEOUT (5 s) old."""
        self._device.begin_handshake(self._handle)

    def remove(self) -> None:
        """Removes it from its device."""
        self._device.drop_peer(self._handle)

    def _info(self) -> _core.PeerInfo:
        with self._device.using() as core:
            return core.peer_info(self._handle)


class Peers(Mapping[PublicKey, Peer]):
    """The peers of a device by public key, in any form keys.py reads."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def __getitem__(self, key: str | Buffer) -> Peer:
        wanted = parse_key(key, "public_key")
        with self._device.using() as core:
            handle = core.find_peer(wanted)
            if not handle:
                raise KeyError(f"{self._device.name} has no peer {PublicKey(wanted)}")
            return Peer(self._device, handle)

    def __iter__(self) -> Iterator[PublicKey]:
        with self._device.using() as core:
            return iter([PublicKey(core.peer_info(handle).public_key) for handle in core.peers()])

    def __len__(self) -> int:
        with self._device.using() as core:
            return len(core.peers())

    def __repr__(self) -> str:
        return f"<{len(self)} peers of {self._device.name}>"
