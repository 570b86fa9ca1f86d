"""What can go wrong. Every message names the thing, the value and what was expected."""

from __future__ import annotations


class WgfastError(Exception):
    """The root of wgfast's own errors."""


class BatchError(WgfastError, ValueError):
    """An array of a batch has the wrong dtype, shape or layout, is read-only, or is too small."""


class ConfigError(WgfastError, ValueError):
    """A key, prefix, endpoint or setting cannot be what it was given as."""


class ForkedError(WgfastError, RuntimeError):
    """A Device, Engine or handshake was used in a forked child, where its keys no longer exist."""

    def __init__(self, what: str = "device") -> None:
        super().__init__(
            f"this {what} belongs to the process that forked: its keys and counters are not copied; "
            "create a new one in the child"
        )


class ClosedError(WgfastError, RuntimeError):
    """A Device or Engine was used after it was closed."""


class PeerRemovedError(WgfastError, LookupError):
    """A Peer object outlived its peer."""


class InterfaceError(WgfastError, OSError):
    """The TUN interface or the UAPI socket could not be opened; the message says what to do."""
