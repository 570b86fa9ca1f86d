"""wgfast: WireGuard's data plane as a Python library. C moves packets, Python decides.

    device = wgfast.Device(private_key=wgfast.generate_private_key(), listen_port=51820)
    device.add_peer(key, allowed_ips=["10.0.0.2/32"], endpoint="192.0.2.1:51820")
    with device:
        ...

The names below are imported when they are first used: whoever runs a Device never loads numpy, which only the
Engine needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._core import Endpoint, ReplayWindow, open, seal
    from .allowedips import AllowedIPs
    from .config_secret import key_from_command, key_from_environment, key_from_file
    from .control import News
    from .device import Device, DeviceStats
    from .engine import Batch, Engine
    from .errors import (
        BatchError,
        ClosedError,
        ConfigError,
        ForkedError,
        InterfaceError,
        PeerRemovedError,
        WgfastError,
    )
    from .keys import (
        Key,
        PresharedKey,
        PrivateKey,
        PublicKey,
        generate_preshared_key,
        generate_private_key,
        public_key,
    )
    from .limits import Limits, Usage
    from .peer import Peer, PeerStats

__version__ = "0.1.0"

__all__ = [
    "AllowedIPs",
    "Batch",
    "BatchError",
    "ClosedError",
    "ConfigError",
    "Device",
    "DeviceStats",
    "Endpoint",
    "Engine",
    "ForkedError",
    "InterfaceError",
    "Key",
    "Limits",
    "News",
    "Peer",
    "PeerRemovedError",
    "PeerStats",
    "PresharedKey",
    "PrivateKey",
    "PublicKey",
    "ReplayWindow",
    "Usage",
    "WgfastError",
    "__version__",
    "generate_preshared_key",
    "generate_private_key",
    "key_from_command",
    "key_from_environment",
    "key_from_file",
    "open",
    "public_key",
    "seal",
]

_HOMES = {
    "_core": ("Endpoint", "ReplayWindow", "open", "seal"),
    "allowedips": ("AllowedIPs",),
    "config_secret": ("key_from_command", "key_from_environment", "key_from_file"),
    "control": ("News",),
    "device": ("Device", "DeviceStats"),
    "engine": ("Batch", "Engine"),
    "errors": (
        "BatchError",
        "ClosedError",
        "ConfigError",
        "ForkedError",
        "InterfaceError",
        "PeerRemovedError",
        "WgfastError",
    ),
    "keys": (
        "Key",
        "PresharedKey",
        "PrivateKey",
        "PublicKey",
        "generate_preshared_key",
        "generate_private_key",
        "public_key",
    ),
    "limits": ("Limits", "Usage"),
    "peer": ("Peer", "PeerStats"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
