"""What a checked UAPI `set` does to a device, so that no packet meets a gap.

What can be refused (mark, port) comes first and is undone if the other is refused. Then each peer in
turn, and what is taken away last of all: a prefix that goes from one peer to another is moved in one step,
and a peer that replace_peers would remove and add again stays, with its session, and only loses what the
set does not mention.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING, Final

from wgfast import _core
from wgfast.errors import PeerRemovedError
from wgfast.settings import parse_endpoint_host
from wgfast.uapi import PeerBlock, Prefix, SetRequest, UapiError

if TYPE_CHECKING:
    from wgfast.device import Device

_ZERO_KEY: Final = bytes(32)


def apply(device: Device, request: SetRequest) -> None:
    """UapiError if the port, the mark or the number of peers is refused: then nothing has changed."""
    with device.using():
        _check_room(device, request)
        _set_sockets(device, request)
        if request.private_key is not None:
            device.set_private_key(request.private_key)
        _Peers(device, request.replace_peers).apply(request.peers)


def _check_room(device: Device, request: SetRequest) -> None:
    find = device.core.find_peer
    named = {block.public_key for block in request.peers if not block.remove and not block.update_only}
    if request.replace_peers:
        wanted = len(named)
    else:
        wanted = device.core.info().peers + sum(1 for key in named if not find(key))
    if wanted > _core.PEERS_MAX:
        raise UapiError(errno.ENOSPC, f"{wanted} peers: a device has {_core.PEERS_MAX} at most")


def _set_sockets(device: Device, request: SetRequest) -> None:
    before = device.fwmark
    if request.fwmark is not None and request.fwmark != before:
        try:
            device.set_fwmark(request.fwmark)
        except OSError as error:
            remedy = "; it takes CAP_NET_ADMIN" if error.errno == errno.EPERM else ""
            raise UapiError(
                error.errno or errno.EIO, f"fwmark: {request.fwmark}: {error.strerror}{remedy}"
            ) from error
    if request.listen_port is None:
        return
    try:
        device.set_listen_port(request.listen_port)
    except OSError as error:
        if device.fwmark != before:
            device.set_fwmark(before)
        raise UapiError(
            error.errno or errno.EADDRINUSE,
            f"listen_port: {request.listen_port}: {error.strerror}; the old port stays",
        ) from error


class _Peers:
    """The peers' half of one set."""

    def __init__(self, device: Device, replace: bool) -> None:
        self._device = device
        self._core = device.core
        self._own_key = device.core.public_key()
        # Peers and prefixes that go when all else is done. True: by a line of its own, not by replace_peers.
        self._doomed: dict[int, bool] = dict.fromkeys(device.core.peers(), False) if replace else {}
        self._stale: dict[tuple[int, Prefix], None] = {}

    def apply(self, blocks: list[PeerBlock]) -> None:
        for block in blocks:
            # As Linux: a peer with the device's own key is passed over.
            if block.public_key != self._own_key:
                self._apply_block(block)
        for handle, prefix in self._stale:
            with contextlib.suppress(PeerRemovedError):
                self._core.peer_disallow(handle, *prefix)
        for handle in self._doomed:
            self._device.drop_peer(handle)

    def _apply_block(self, block: PeerBlock) -> None:
        handle = self._core.find_peer(block.public_key)
        reset = False
        if block.remove:
            if handle:
                self._doomed[handle] = True
            return
        if block.update_only and (not handle or handle in self._doomed):
            return
        if handle in self._doomed:
            if self._doomed.pop(handle):
                self._device.drop_peer(handle)
                handle = 0
            else:
                reset = True
        if not handle:
            handle = self._device.ensure_peer(block.public_key)
        self._set_secrets(handle, block, reset)
        self._set_endpoint(handle, block, reset)
        self._set_allowed_ips(handle, block, reset)
        # Last: switching it on sends a packet, which wants all the rest.
        if block.persistent_keepalive is not None or reset:
            self._device.set_keepalive(handle, block.persistent_keepalive or 0)

    def _set_secrets(self, handle: int, block: PeerBlock, reset: bool) -> None:
        if block.preshared_key is None and not reset:
            return
        psk = block.preshared_key or _ZERO_KEY
        if reset and psk != self._core.peer_psk(handle):
            # A new peer would have no session of the old key.
            self._core.peer_zero_keys(handle)
        self._device.set_psk(handle, psk)

    def _set_endpoint(self, handle: int, block: PeerBlock, reset: bool) -> None:
        host = block.endpoint_host
        # A peer that only keeps the name it had keeps its endpoint until there is news of that name.
        keeps = bool(host) and host == self._device.names.of(handle)
        if block.endpoint is not None or (reset and not keeps):
            self._core.peer_set_endpoint(handle, block.endpoint)
        if host:
            self._device.names.keep(handle, *parse_endpoint_host(host))
        elif host == "" or block.endpoint is not None or reset:
            self._device.names.drop(handle)

    def _set_allowed_ips(self, handle: int, block: PeerBlock, reset: bool) -> None:
        wanted = [prefix for prefix, add in block.allowed_ips.items() if add]
        if self._stale:
            for prefix in wanted:
                self._stale.pop((handle, prefix), None)
        if wanted:
            self._core.peer_allow_many(handle, wanted)
        if block.replace_allowed_ips or reset:
            keep = set(wanted)
            stale = [prefix for prefix in self._core.peer_allowed(handle) if prefix not in keep]
        else:
            stale = [prefix for prefix, add in block.allowed_ips.items() if not add]
        self._stale.update(dict.fromkeys((handle, prefix) for prefix in stale))
