"""What systemd is told of a service (sd_notify(3)), where there is one that listens."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Final

PATIENCE: Final = 2.0  # seconds for a queue that is full: somebody listens and does not read


def notify(text: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Sends "READY=1", "STATUS=...", "WATCHDOG=1", "STOPPING=1". False: nobody hears it."""
    path = environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.settimeout(PATIENCE)
        end.sendto(text.encode(), "\0" + path[1:] if path.startswith("@") else path)
        return True
    return False


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds within which "WATCHDOG=1" is expected, again and again; None: it is not."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not (usec.isascii() and usec.isdigit() and int(usec)) or pid not in ("", str(os.getpid())):
        return None
    return int(usec) / 1e6
