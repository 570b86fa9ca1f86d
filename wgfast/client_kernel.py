"""WireGuard interfaces of the kernel: found by their link's kind, read through generic netlink.

pyroute2 speaks both, and is loaded only when the kernel may have one.
"""

from __future__ import annotations

import base64
import errno
import os
import socket
import sys
from collections.abc import Iterable
from typing import Any, Final

from wgfast._core import Endpoint
from wgfast.client_state import KEY_SIZE, ZERO_KEY, DeviceState, PeerState
from wgfast.client_uapi import failure
from wgfast.uapi import Prefix

_MODULES: Final = "/sys/module"
_MODULE: Final = f"{_MODULES}/wireguard"
# A dump that another change interrupted begins anew, as `wg` does; it does not do so for ever.
_TRIES: Final = 10


def interfaces() -> list[str]:
    """In the kernel's order. OSError if it does not say."""
    if os.path.isdir(_MODULES) and not os.path.isdir(_MODULE):
        return []  # without the module there is none
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        with IPRoute() as route:
            return [link.get_attr("IFLA_IFNAME") for link in route.get_links(kind="wireguard")]
    except NetlinkError as error:
        raise failure(error.code, "interfaces") from None


def get(name: str) -> DeviceState:
    """OSError: EPROTONOSUPPORT if the kernel knows no WireGuard, ENODEV if it has no such link, EOPNOTSUPP if
    that is of another kind, EPERM without CAP_NET_ADMIN."""
    from pyroute2 import WireGuard
    from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

    try:
        with WireGuard() as wireguard:
            for _ in range(_TRIES):
                try:
                    return device_of(name, wireguard.info(name))
                except NetlinkDumpInterrupted:
                    continue
            raise failure(errno.EINTR, name)
    except NetlinkError as error:
        # The controller answers ENOENT for a family it has not.
        raise failure(errno.EPROTONOSUPPORT if error.code == errno.ENOENT else error.code, name) from None


def device_of(name: str, messages: Iterable[Any]) -> DeviceState:
    """The device that WG_CMD_GET_DEVICE's messages describe (linux/wireguard.h). What does not fit into one
    goes on in the next: a peer whose key is that of the peer before is the rest of it."""
    device = DeviceState(name, kind="kernel")
    for message in messages:
        private_key = _key(message.get_attr("WGDEVICE_A_PRIVATE_KEY"))
        if private_key is not None:
            device.private_key = private_key
        public_key = _key(message.get_attr("WGDEVICE_A_PUBLIC_KEY"))
        if public_key is not None:
            device.public_key = public_key
        device.listen_port = message.get_attr("WGDEVICE_A_LISTEN_PORT") or device.listen_port
        device.fwmark = message.get_attr("WGDEVICE_A_FWMARK") or device.fwmark
        for part in message.get_attr("WGDEVICE_A_PEERS") or ():
            _add_peer(device, _peer(part))
    return device


def _add_peer(device: DeviceState, peer: PeerState) -> None:
    last = device.peers[-1] if device.peers else None
    if last is not None and last.public_key == peer.public_key:
        last.allowed_ips += peer.allowed_ips
    else:
        device.peers.append(peer)


def _key(attribute: Any) -> bytes | None:
    if attribute is None:
        return None
    key = base64.b64decode(attribute)  # as pyroute2 gives it
    return key if len(key) == KEY_SIZE else None


def _peer(part: Any) -> PeerState:
    stamp = part.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME")
    endpoint = part.get_attr("WGPEER_A_ENDPOINT")
    return PeerState(
        public_key=_key(part.get_attr("WGPEER_A_PUBLIC_KEY")) or ZERO_KEY,
        preshared_key=_key(part.get_attr("WGPEER_A_PRESHARED_KEY")) or ZERO_KEY,
        endpoint=_endpoint(endpoint) if endpoint is not None else None,
        allowed_ips=[_allowed_ip(entry) for entry in part.get_attr("WGPEER_A_ALLOWEDIPS") or ()],
        last_handshake=(stamp["tv_sec"], stamp["tv_nsec"]) if stamp is not None else (0, 0),
        received_bytes=part.get_attr("WGPEER_A_RX_BYTES") or 0,
        sent_bytes=part.get_attr("WGPEER_A_TX_BYTES") or 0,
        persistent_keepalive=part.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") or 0,
    )


def _endpoint(attribute: Any) -> Endpoint:
    # pyroute2 reads sockaddr_in6's scope in network order; the kernel writes it in the host's.
    scope = int.from_bytes(attribute.get("scope_id", 0).to_bytes(4, "big"), sys.byteorder)
    return Endpoint(attribute["addr"] + (f"%{scope}" if scope else ""), attribute["port"])


def _allowed_ip(entry: Any) -> Prefix:
    address, _, length = entry["addr"].partition("/")
    family = 6 if ":" in address else 4
    return family, socket.inet_pton(socket.AF_INET6 if family == 6 else socket.AF_INET, address), int(length)
