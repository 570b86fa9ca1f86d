"""What the sections of a configuration file hold, and which keys they have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from .config_values import Address, AllowedIP, EndpointName, InterfaceAddress, folded

INTERFACE_KEYS: Final = ("PrivateKey", "ListenPort", "FwMark")
HOOK_KEYS: Final = ("PreUp", "PostUp", "PreDown", "PostDown")
QUICK_KEYS: Final = ("Address", "DNS", "MTU", "Table", *HOOK_KEYS, "SaveConfig")
PEER_KEYS: Final = ("PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive")

CANONICAL: Final = {folded(key): key for key in (*INTERFACE_KEYS, *QUICK_KEYS, *PEER_KEYS)}
SECTION_OF: Final = {
    **dict.fromkeys((*INTERFACE_KEYS, *QUICK_KEYS), "[Interface]"),
    **dict.fromkeys(PEER_KEYS, "[Peer]"),
}


@dataclass(slots=True)
class InterfaceSection:
    """What [Interface] says; None: not said. `table` is as written: "auto", "off", a number or a name."""

    private_key: bytes | None = field(default=None, repr=False)
    listen_port: int | None = None
    fwmark: int | None = None
    addresses: list[InterfaceAddress] = field(default_factory=list)
    dns: list[Address] = field(default_factory=list)
    dns_search: list[str] = field(default_factory=list)
    mtu: int | None = None
    table: str | None = None
    pre_up: list[str] = field(default_factory=list)
    post_up: list[str] = field(default_factory=list)
    pre_down: list[str] = field(default_factory=list)
    post_down: list[str] = field(default_factory=list)
    save_config: bool = False
    name: str | None = None


@dataclass(slots=True)
class PeerSection:
    """What one [Peer] says; None: not said. `name` is that of a comment `# Name = ...` in the section.

    `replace_allowed_ips` is False if the last AllowedIPs line has an entry with + or -: then the entries
    change what the peer has and do not replace it.
    """

    public_key: bytes
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: EndpointName | None = None
    allowed_ips: list[AllowedIP] = field(default_factory=list)
    persistent_keepalive: int | None = None
    name: str | None = None
    replace_allowed_ips: bool = True
