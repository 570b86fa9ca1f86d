"""A configuration as the applications for phones take it.

They refuse keys they do not know, so what only wg-quick and wg know is left out; comments as well, to keep
the code small.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

from wgfast.config import AllowedIP, Config, InterfaceSection, PeerSection
from wgfast.errors import ConfigError


def phone_text(config: Config) -> tuple[str, list[str]]:
    """The text, and what was left out or will not work. ConfigError: a phone cannot use it at all."""
    interface = config.interface
    if interface.private_key is None:
        raise ConfigError(
            f"{config.path}: has no PrivateKey: a phone reads its key from the code and cannot be without"
        )
    lines = ["[Interface]", *_interface_lines(interface, interface.private_key)]
    for peer in config.peers:
        lines += ["", "[Peer]", *_peer_lines(peer)]
    return "\n".join(lines) + "\n", list(_warnings(config))


def _interface_lines(interface: InterfaceSection, private_key: bytes) -> Iterator[str]:
    yield f"PrivateKey = {_key(private_key)}"
    if interface.addresses:
        yield f"Address = {', '.join(map(str, interface.addresses))}"
    if interface.dns or interface.dns_search:
        yield f"DNS = {', '.join([*map(str, interface.dns), *interface.dns_search])}"
    if interface.listen_port:
        yield f"ListenPort = {interface.listen_port}"
    if interface.mtu:
        yield f"MTU = {interface.mtu}"


def _peer_lines(peer: PeerSection) -> Iterator[str]:
    yield f"PublicKey = {_key(peer.public_key)}"
    if peer.preshared_key and any(peer.preshared_key):
        yield f"PresharedKey = {_key(peer.preshared_key)}"
    allowed = _allowed_ips(peer.allowed_ips)
    if allowed:
        yield f"AllowedIPs = {', '.join(allowed)}"
    if peer.endpoint:
        yield f"Endpoint = {peer.endpoint}"
    if peer.persistent_keepalive:
        yield f"PersistentKeepalive = {peer.persistent_keepalive}"


def _allowed_ips(entries: list[AllowedIP]) -> list[str]:
    """Without + and -, which a phone does not know: what a new peer ends up with."""
    found: dict[str, None] = {}
    for entry in entries:
        text = str(AllowedIP(entry.prefix))
        if entry.operation == "-":
            found.pop(text, None)
        else:
            found[text] = None
    return list(found)


def _warnings(config: Config) -> Iterator[str]:
    interface = config.interface
    left_out = {
        "FwMark": interface.fwmark,
        "Table": interface.table,
        "PreUp": interface.pre_up,
        "PostUp": interface.post_up,
        "PreDown": interface.pre_down,
        "PostDown": interface.post_down,
        "SaveConfig": interface.save_config,
    }
    names = [name for name, value in left_out.items() if value]
    if names:
        yield f"{config.path}: {', '.join(names)}: left out, a phone does not know {_them(names)}"
    if not interface.addresses:
        yield f"{config.path}: has no Address: a phone sends nothing through a tunnel without one"
    if not config.peers:
        yield f"{config.path}: has no peer"
    elif not any(peer.endpoint for peer in config.peers):
        yield f"{config.path}: no peer has an Endpoint: a phone finds none; is this the server's own file?"


def _them(names: list[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _key(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")
