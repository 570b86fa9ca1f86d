"""Metrics for Prometheus; needs prometheus-client (the extra `metrics`).

    prometheus_client.REGISTRY.register(wgfast.metrics.Collector([device]))

The names are those of prometheus_wireguard_exporter where it has them. Where a peer is changes as it roams:
that is a metric of its own and no label of the counters, which go on. Per peer, labelled `interface` and
`public_key`, and on request `friendly_name` and `allowed_ips`:

    wireguard_sent_bytes_total, wireguard_received_bytes_total
    wireguard_latest_handshake_seconds            since 1970, 0: never
    wireguard_peer_allowed_ips                    how many prefixes
    wireguard_persistent_keepalive_seconds        0: off
    wireguard_peer_endpoint_info                  labels remote_ip, remote_port; on request

and of wgfast's own interfaces

    wireguard_sent_packets_total, wireguard_received_packets_total     inner packets
    wireguard_peer_staged_packets                 waiting for a session
    wireguard_peer_quota_bytes                    by label direction: send or receive; where there is a quota
    wireguard_peer_quota_used_bytes               the same

Per interface:

    wireguard_up                                  1 if it could be asked
    wireguard_interface_info                      labels kind, public_key, listen_port, version, aead_kernel
    wireguard_peers

and of wgfast's own

    wireguard_dropped_packets_total               by label reason
    wireguard_sessions, wireguard_staged_packets, wireguard_packet_memory_ceiling_bytes
    wireguard_offload_in_use                      by label offload
"""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from wgfast import client
from wgfast.client_state import PeerState, prefix_text
from wgfast.reading import Reading, read_device, read_interface

try:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector as _Collector
except ImportError as error:
    raise ImportError("wgfast.metrics needs prometheus-client: pip install 'wgfast[metrics]'") from error

if TYPE_CHECKING:
    from wgfast.device import Device

_PEER: Final = ("interface", "public_key")
_INFO: Final = ("interface", "kind", "public_key", "listen_port", "version", "aead_kernel")
# Name, what it says, labels; a name without _total is a gauge's.
_INTERFACE_METRICS: Final = (
    ("wireguard_up", "Whether the interface could be asked", ("interface",)),
    ("wireguard_interface_info", "What the interface is", _INFO),
    ("wireguard_peers", "Peers of the interface", ("interface",)),
    ("wireguard_sessions", "Keypairs in use", ("interface",)),
    ("wireguard_staged_packets", "Packets waiting for a session", ("interface",)),
    ("wireguard_packet_memory_ceiling_bytes", "Most memory that packets can use", ("interface",)),
    ("wireguard_dropped_packets_total", "Packets dropped, by reason", ("interface", "reason")),
    ("wireguard_offload_in_use", "Whether an offload is in use", ("interface", "offload")),
)
_PEER_METRICS: Final = (
    ("wireguard_sent_bytes_total", "Bytes sent to the peer", ()),
    ("wireguard_received_bytes_total", "Bytes received from the peer", ()),
    ("wireguard_latest_handshake_seconds", "When the last handshake was, since 1970; 0: never", ()),
    ("wireguard_peer_allowed_ips", "Allowed IPs of the peer", ()),
    ("wireguard_persistent_keepalive_seconds", "Between persistent keepalives; 0: off", ()),
    ("wireguard_sent_packets_total", "Inner packets sent to the peer", ()),
    ("wireguard_received_packets_total", "Inner packets received from the peer", ()),
    ("wireguard_peer_staged_packets", "Packets waiting for a session with the peer", ()),
    ("wireguard_peer_quota_bytes", "Quota of the peer", ("direction",)),
    ("wireguard_peer_quota_used_bytes", "Bytes used of the peer's quota", ("direction",)),
    ("wireguard_peer_endpoint_info", "Where the peer is", ("remote_ip", "remote_port")),
)


class Collector(_Collector):
    """Reads interfaces whenever Prometheus asks.

    `sources`: Devices of this process and names of interfaces; None: every interface of the system, as they
    come and go. `names`: peers' names by public key, a label `friendly_name` then. `endpoint`: also
    wireguard_peer_endpoint_info. `allowed_ips`: a label with the prefixes, as prometheus_wireguard_exporter
    has it; a peer whose prefixes change is then counted anew. A scrape fails with OSError if the system's
    interfaces cannot be listed; one that cannot be asked has wireguard_up 0.
    """

    def __init__(
        self,
        sources: Iterable[Device | str] | None = None,
        *,
        names: Mapping[bytes, str] | None = None,
        endpoint: bool = False,
        allowed_ips: bool = False,
    ) -> None:
        if isinstance(sources, str):
            raise TypeError(f"sources: {sources!r}: expected a list of Devices and interfaces' names")
        self._sources = None if sources is None else list(sources)
        self._names = names
        self._endpoint = endpoint
        self._allowed_ips = allowed_ips

    def describe(self) -> Iterator[Metric]:
        yield from self._families().values()

    def collect(self) -> Iterator[Metric]:
        families = self._families()
        for reading in self._readings():
            self._add(families, reading)
        yield from (family for family in families.values() if family.samples)

    def _readings(self) -> Iterator[Reading]:
        for source in client.interfaces() if self._sources is None else self._sources:
            yield read_interface(source) if isinstance(source, str) else read_device(source)

    def _families(self) -> dict[str, Metric]:
        labels = (
            *_PEER,
            *(("allowed_ips",) if self._allowed_ips else ()),
            *(("friendly_name",) if self._names is not None else ()),
        )
        each = [*_INTERFACE_METRICS, *((name, text, (*labels, *more)) for name, text, more in _PEER_METRICS)]
        return {name: _family(name, text, known) for name, text, known in each}

    def _add(self, families: Mapping[str, Metric], reading: Reading) -> None:
        def add(name: str, value: float, *labels: str) -> None:
            family = families[name]
            assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
            family.add_metric([reading.name, *labels], value)

        state, statistics = reading.state, reading.statistics
        add("wireguard_up", state is not None)
        if state is None:
            return
        add("wireguard_peers", len(state.peers))
        key = "" if state.public_key is None else _text(state.public_key)
        more = (statistics.version, statistics.aead_kernel) if statistics else ("", "")
        add("wireguard_interface_info", 1, state.kind, key, str(state.listen_port), *more)
        if statistics:
            add("wireguard_sessions", statistics.sessions)
            add("wireguard_staged_packets", statistics.staged)
            add("wireguard_packet_memory_ceiling_bytes", statistics.packet_memory_ceiling)
            for reason, count in statistics.drops.items():
                add("wireguard_dropped_packets_total", count, reason)
            for offload, said in statistics.offloads.items():
                add("wireguard_offload_in_use", said == "in use", offload)
        for peer in state.peers:
            self._add_peer(add, peer, reading)

    def _add_peer(self, add: Callable[..., None], peer: PeerState, reading: Reading) -> None:
        labels = [_text(peer.public_key)]
        if self._allowed_ips:
            labels.append(",".join(map(prefix_text, peer.allowed_ips)))
        if self._names is not None:
            labels.append(self._names.get(peer.public_key, ""))
        seconds, nanoseconds = peer.last_handshake
        add("wireguard_sent_bytes_total", peer.sent_bytes, *labels)
        add("wireguard_received_bytes_total", peer.received_bytes, *labels)
        add("wireguard_latest_handshake_seconds", seconds + nanoseconds / 1e9, *labels)
        add("wireguard_peer_allowed_ips", len(peer.allowed_ips), *labels)
        add("wireguard_persistent_keepalive_seconds", peer.persistent_keepalive, *labels)
        more = reading.statistics.peers.get(peer.public_key) if reading.statistics else None
        if more:
            add("wireguard_sent_packets_total", more.sent_packets, *labels)
            add("wireguard_received_packets_total", more.received_packets, *labels)
            add("wireguard_peer_staged_packets", more.staged, *labels)
        for name, value in (peer.limits or {}).items():
            way, _, what = name.partition("_")
            if what in ("quota", "used"):
                add(f"wireguard_peer_quota{'_used' * (what == 'used')}_bytes", value, *labels, way)
        if self._endpoint and peer.endpoint:
            add("wireguard_peer_endpoint_info", 1, *labels, peer.endpoint.host, str(peer.endpoint.port))


def _family(name: str, text: str, labels: tuple[str, ...]) -> Metric:
    if name.endswith("_total"):
        return CounterMetricFamily(name.removesuffix("_total"), text, labels=labels)
    return GaugeMetricFamily(name, text, labels=labels)


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")


def parse_listen(text: str) -> tuple[str, int]:
    """Address and port of "PORT", ":PORT", "ADDRESS:PORT" or "[IPv6]:PORT"; no address is the loopback's.
    ValueError says what does not fit."""
    host, _, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 0xFFFF):
        raise ValueError(f"{text!r}: expected [ADDRESS]:PORT with a port from 1 to 65535")
    try:
        return str(ipaddress.ip_address(host or "127.0.0.1")), int(port)
    except ValueError:
        raise ValueError(
            f"{text!r}: {host!r} is no IP address; 0.0.0.0 or [::] for all of this host"
        ) from None
