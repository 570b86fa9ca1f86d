"""A log of handshake keys, with which Wireshark and tshark decrypt a capture of the outer packets (preference
`wg.keylog_file`). Whoever has it reads what it covers: off unless asked for, and loud when on.

For each handshake, the lines of the contributed extract-handshakes.sh, in the order in which Wireshark links
them: a preshared key belongs to the ephemeral key before it.

    LOCAL_STATIC_PRIVATE_KEY = <base64>
    REMOTE_STATIC_PUBLIC_KEY = <base64>
    LOCAL_EPHEMERAL_PRIVATE_KEY = <base64>
    PRESHARED_KEY = <base64>        (where there is one)
"""

from __future__ import annotations

import base64
import logging
import os
import stat

from ._core import Core, Handshake
from .errors import InterfaceError
from .log import LOUD, about

log = logging.getLogger("wgfast")


def open_keylog(path: str | None, name: str) -> KeyLog | None:
    """The key log of a device: None: that of WGFAST_KEYLOG; empty: none. InterfaceError as KeyLog."""
    wanted = os.environ.get("WGFAST_KEYLOG", "") if path is None else path
    return KeyLog(wanted, name) if wanted else None


class KeyLog:
    """A file that is only ever appended to, and that only its owner may read.

    InterfaceError: it cannot be opened, is no regular file, or is somebody else's. `name`, the device's,
    stands in log lines."""

    def __init__(self, path: str, name: str) -> None:
        self.path = path
        self._name = name
        self._failed = False
        self._fd = _open(path)
        LOUD.warning(
            "%s: WGFAST_KEYLOG: the keys of every session are written to %s: whoever reads it reads all "
            "traffic; unset it unless you are looking into a capture",
            name, path, extra=about("keylog", path=path),
        )  # fmt: skip

    def write(self, core: Core, peer: int, handshake: Handshake) -> None:
        """A handshake for which our ephemeral key was just made, before its message leaves: whoever watches a
        live capture can read the first packet. Trouble with the file is logged once, and none of the
        tunnel's."""
        private = core.private_key()
        if private is None or self._fd < 0:
            return
        info = core.peer_info(peer)
        lines = [
            _line("LOCAL_STATIC_PRIVATE_KEY", private),
            _line("REMOTE_STATIC_PUBLIC_KEY", info.public_key),
            _line("LOCAL_EPHEMERAL_PRIVATE_KEY", bytes(handshake.ephemeral)),
        ]
        if info.has_psk:
            lines.append(_line("PRESHARED_KEY", core.peer_psk(peer)))
        try:
            os.write(self._fd, b"".join(lines))  # in one piece: another device may write here too
            self._failed = False
        except OSError as error:
            if not self._failed:
                log.error("%s: WGFAST_KEYLOG: %s: %s", self._name, self.path, error.strerror)
            self._failed = True

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _line(kind: str, key: bytes) -> bytes:
    return b"%s = %s\n" % (kind.encode(), base64.b64encode(key))


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        raise InterfaceError(
            f"WGFAST_KEYLOG: {path!r}: {error.strerror}; name a file in a directory of your own"
        ) from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise InterfaceError(f"WGFAST_KEYLOG: {path!r}: is no regular file; name another")
        if status.st_uid != os.geteuid():
            # Else whoever prepared it, in /tmp say, would be given the keys.
            raise InterfaceError(f"WGFAST_KEYLOG: {path!r}: belongs to user {status.st_uid}; remove it first")
        os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd
