"""`save`: an interface's present state, written back into its configuration as wg-quick would.

With two differences. Comments, names and whatever else says the same already stay; the name of an endpoint
too, where the daemon keeps it. And an address that the kernel made up for itself, the interface's link-local
one, is not saved: wg-quick does, and the next `up` has one more.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from pyroute2 import IPRoute

from wgfast import config
from wgfast.client import DeviceState, PeerState
from wgfast.client_state import ZERO_KEY, endpoint_text
from wgfast.config import AllowedIP, EndpointName, InterfaceSection, PeerSection
from wgfast.config_edit import rewrite
from wgfast.config_values import BadValueError, parse_endpoint
from wgfast.quick import implementation
from wgfast.quick.errors import QuickError
from wgfast.quick.journal import Report
from wgfast.quick.links import Links
from wgfast.quick.target import Target


def strip(path: str) -> str:
    """ConfigFileError if SaveConfig is neither true nor false; nothing else is checked."""
    try:
        with open(path, "rb") as file:
            return config.strip(config.decode(config.contents(file)), path)
    except OSError as error:
        raise QuickError(f"{path}: cannot be read: {error.strerror}") from error


def save(target: Target, report: Report) -> None:
    """QuickError if the state cannot be read or the file not be written; then that is as it was."""
    report("#", f"wg showconf {target.interface}")
    state = implementation.get(target.interface)
    with IPRoute(ext_ack=True) as netlink:
        interface = _interface(target, state, Links(netlink))
    text = rewrite(target.config, interface, _peers(target, state))
    try:
        config.write(target.path, text)
    except OSError as error:
        raise QuickError(f"{target.path}: cannot be written: {error.strerror}") from error


def _interface(target: Target, state: DeviceState, links: Links) -> InterfaceSection:
    said = target.config.interface
    return replace(
        said,
        private_key=state.private_key,
        listen_port=state.listen_port or None,
        fwmark=state.fwmark or None,
        addresses=[
            held.address
            for held in links.addresses(target.interface)
            if not held.automatic or held.address in said.addresses
        ],
        mtu=None if said.mtu is None else links.mtu(target.interface),
    )


def _peers(target: Target, state: DeviceState) -> list[PeerSection]:
    """In the device's order. A peer with the interface's own key, which devices leave out, stays in the file:
    it may be that of many hosts."""
    own = [peer for peer in target.config.peers if peer.public_key == state.public_key]
    return [_peer(peer) for peer in state.peers] + own


def _peer(peer: PeerState) -> PeerSection:
    return PeerSection(
        peer.public_key,
        preshared_key=None if peer.preshared_key == ZERO_KEY else peer.preshared_key,
        endpoint=_endpoint(peer),
        allowed_ips=[AllowedIP(prefix) for prefix in peer.allowed_ips],
        persistent_keepalive=peer.persistent_keepalive or None,
    )


def _endpoint(peer: PeerState) -> EndpointName | None:
    named = peer.extra.get("endpoint_host")
    if named:
        with contextlib.suppress(BadValueError):  # another daemon's word for something else
            return parse_endpoint(named)
    return None if peer.endpoint is None else parse_endpoint(endpoint_text(peer.endpoint))
