"""What a configuration file asks of an interface: to be what it says, to add that, or to become it with as
little change as can be. As `wg` does it."""

from __future__ import annotations

from wgfast.client_state import ZERO_KEY, DeviceState, PeerState
from wgfast.config import Config, PeerSection
from wgfast.uapi import PeerBlock, SetRequest


def adding(config: Config) -> SetRequest:
    """addconf: what the file says is set, the rest stays."""
    interface = config.interface
    return SetRequest(
        private_key=interface.private_key,
        listen_port=interface.listen_port,
        fwmark=interface.fwmark,
        peers=[_block(peer) for peer in config.peers],
    )


def replacing(config: Config) -> SetRequest:
    """setconf: what the file does not say goes: the key, the mark, other peers; the port becomes any."""
    request = adding(config)
    request.private_key = request.private_key or ZERO_KEY
    request.listen_port = request.listen_port or 0
    request.fwmark = request.fwmark or 0
    request.replace_peers = True
    return request


def synchronising(config: Config, state: DeviceState) -> SetRequest:
    """syncconf: as replacing(), but a peer that stays keeps its session, and its endpoint if the file names
    none."""
    request = replacing(config)
    if not request.peers or not state.peers:
        return request
    request.replace_peers = False
    wanted: dict[bytes, PeerBlock] = {}
    for block in request.peers:
        wanted.setdefault(block.public_key, block)
    for peer in state.peers:
        if peer.public_key in wanted:
            _reset(wanted[peer.public_key], peer)
    gone = [peer.public_key for peer in state.peers if peer.public_key not in wanted]
    request.peers = [PeerBlock(key, remove=True) for key in gone] + request.peers
    return request


def _reset(block: PeerBlock, peer: PeerState) -> None:
    """What the peer has and the file does not mention goes."""
    if block.preshared_key is None and peer.preshared_key != ZERO_KEY:
        block.preshared_key = ZERO_KEY
    if block.persistent_keepalive is None and peer.persistent_keepalive:
        block.persistent_keepalive = 0


def _block(peer: PeerSection) -> PeerBlock:
    return PeerBlock(
        peer.public_key,
        preshared_key=peer.preshared_key,
        persistent_keepalive=peer.persistent_keepalive,
        replace_allowed_ips=peer.replace_allowed_ips,
        allowed_ips={entry.prefix: entry.operation != "-" for entry in peer.allowed_ips},
        endpoint_host=str(peer.endpoint) if peer.endpoint else None,
    )
