"""Whether we may do what is asked, before anything is done."""

from __future__ import annotations

import contextlib
from typing import Final

from wgfast.quick.errors import QuickError

_CAP_NET_ADMIN: Final = 12
_STATUS: Final = "/proc/thread-self/status"


def require_net_admin(command: str) -> None:
    """QuickError without CAP_NET_ADMIN. Where wg-quick would call sudo, this says to."""
    if not _effective() >> _CAP_NET_ADMIN & 1:
        raise QuickError(f"this takes CAP_NET_ADMIN: run it as root, as in `sudo wgfast {command} ...`")


def _effective() -> int:
    """All, where /proc is not mounted: then the kernel will tell."""
    with contextlib.suppress(OSError), open(_STATUS) as status:
        for line in status:
            if line.startswith("CapEff:"):
                return int(line.split()[1], 16)
    return -1
