"""One look at an interface: its state and, if it is wgfast's, its statistics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wgfast import client, config
from wgfast._core import aead_kernel
from wgfast.client_state import DeviceState, PeerState, PeerStatistics, Statistics
from wgfast.errors import ConfigError, PeerRemovedError
from wgfast.limits import shown
from wgfast.settings import parse_allowed_ips

if TYPE_CHECKING:
    from wgfast.device import Device
    from wgfast.keys import PublicKey

DIRECTORY: Final = "/etc/wireguard"  # wg-quick(8)


@dataclass(slots=True)
class Reading:
    """`state` None: it could not be asked, and `problem` says why."""

    name: str
    state: DeviceState | None
    statistics: Statistics | None = None
    problem: str = ""


def read_interface(name: str) -> Reading:
    """An interface of any implementation, asked over its socket or netlink."""
    try:
        return Reading(name, client.get(name), client.statistics(name))
    except OSError as error:
        return Reading(name, None, problem=error.strerror or str(error))


def read_device(device: Device) -> Reading:
    """A Device of this process. Neither private nor preshared keys are read."""
    from wgfast import __version__

    try:
        numbers = device.statistics()
        peers = [found for key in device.peers if (found := _read_peer(device, key))]
        key = device.public_key
        state = DeviceState(
            device.name,
            public_key=None if key is None else bytes(key),
            listen_port=device.listen_port,
            fwmark=device.fwmark,
            peers=[peer for peer, _ in peers],
        )
        statistics = Statistics(
            version=__version__,
            threads=numbers.threads,
            sessions=numbers.sessions,
            staged=numbers.staged,
            packet_memory_ceiling=numbers.packet_memory_ceiling,
            aead_kernel=aead_kernel(),
            drops=numbers.drops,
            offloads=device.offloads(),
            peers={peer.public_key: extra for peer, extra in peers},
        )
    except RuntimeError as error:  # closed, or forked
        return Reading(device.name, None, problem=str(error))
    return Reading(device.name, state, statistics)


def _read_peer(device: Device, key: PublicKey) -> tuple[PeerState, PeerStatistics] | None:
    """None: it was removed meanwhile."""
    try:
        peer = device.peers[key]
        stats, endpoint, allowed = peer.stats, peer.endpoint, parse_allowed_ips(peer.allowed_ips)
        keepalive, limited = peer.persistent_keepalive, shown(device.core.peer_limits(peer.handle))
    except (KeyError, PeerRemovedError):
        return None
    seconds, fraction = divmod(stats.last_handshake or 0.0, 1)
    state = PeerState(
        bytes(key),
        endpoint=endpoint,
        allowed_ips=allowed,
        last_handshake=(int(seconds), int(fraction * 1e9)),
        received_bytes=stats.received_bytes,
        sent_bytes=stats.sent_bytes,
        persistent_keepalive=keepalive,
        limits=limited,
    )
    return state, PeerStatistics(stats.sent_packets, stats.received_packets, stats.staged)


def names_in(path: str) -> dict[bytes, str]:
    """What a configuration calls its peers (`# Name = ...`), by public key. ConfigFileError as of read()."""
    return {peer.public_key: peer.name for peer in config.read(path).peers if peer.name}


def names_of(interface: str, directory: str = DIRECTORY) -> dict[bytes, str]:
    """The same of the configuration that `wgfast up INTERFACE` would take; empty if none can be read."""
    try:
        return names_in(f"{directory}/{interface}.conf")
    except ConfigError:
        return {}
