"""/etc/resolv.conf, replaced while a tunnel is up and put back afterwards.

The first line of ours says for which interface it was written. What was there before waits beside it, under
a name that ends with the interface's; it outlives a crash or a reboot. Tunnels may come and go in any order,
and whoever else writes the file meanwhile keeps what he wrote.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
from collections.abc import Sequence
from typing import Final

from wgfast.quick.errors import QuickError

PATH: Final = "/etc/resolv.conf"
KEPT: Final = PATH + ".wgfast-"
_NONE_BEFORE: Final = "there was no such file before"
# A mount of that file alone, as containers and `ip netns exec` have it, can be written but not renamed.
_MOUNTED: Final = frozenset({errno.EBUSY, errno.EXDEV})


def is_replaced(name: str) -> bool:
    """Whether it, or a copy that waits, has to do with this interface."""
    return os.path.lexists(KEPT + name) or _is_for(PATH, name)


def replace(name: str, servers: Sequence[str], search: Sequence[str]) -> None:
    """QuickError if it cannot be; then it is as it was."""
    kept = KEPT + name
    try:
        if not _is_for(PATH, name):  # else it is left over, and the copy of what was before is good
            _keep(kept)
        try:
            _install(_text(name, servers, search, os.path.lexists(kept)))
        except OSError:
            if not _is_for(PATH, name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(kept)
            raise
    except OSError as error:
        raise QuickError(
            f"DNS cannot be set: {error.filename or PATH}: {error.strerror}: install resolvconf, or remove "
            "the DNS line"
        ) from error


def put_back(name: str) -> None:
    """Nothing if nothing of this interface is there. OSError if it cannot be."""
    kept = KEPT + name
    if _is_for(PATH, name):
        if os.path.lexists(kept):
            _move_back(kept)
        elif _NONE_BEFORE in _first_line(PATH):
            os.unlink(PATH)
    elif os.path.lexists(kept):
        for other in glob.glob(glob.escape(KEPT) + "*"):
            if _is_for(other, name):  # came after us and is still up: what it puts back is what we would
                os.rename(kept, other)
                return
        os.unlink(kept)  # another program wrote the file meanwhile: it knows better


def _text(name: str, servers: Sequence[str], search: Sequence[str], kept: bool) -> str:
    before = f"what was here before is in {KEPT}{name}" if kept else _NONE_BEFORE
    lines = [f"{_mark(name)} {before}; `wgfast down` puts it back"]
    lines += [f"nameserver {server}" for server in servers]
    if search:
        lines.append(f"search {' '.join(search)}")
    return "\n".join(lines) + "\n"


def _mark(name: str) -> str:
    return f"# wgfast {name}:"


def _first_line(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.readline()
    except OSError:
        return ""


def _is_for(path: str, name: str) -> bool:
    return not os.path.islink(path) and _first_line(path).startswith(_mark(name))


def _keep(kept: str) -> None:
    if os.path.lexists(kept):
        os.unlink(kept)  # of a tunnel that ended long ago
    if os.path.islink(PATH):
        os.symlink(os.readlink(PATH), kept)
    elif os.path.exists(PATH):
        try:
            os.link(PATH, kept)
        except OSError as error:
            if error.errno not in _MOUNTED and error.errno != errno.EPERM:
                raise
            shutil.copy2(PATH, kept)


def _install(text: str) -> None:
    temporary = f"{PATH}.{os.getpid()}.tmp"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(fd, "w") as file:
            os.fchmod(fd, 0o644)  # everybody resolves names, whatever our umask
            file.write(text)
        try:
            os.rename(temporary, PATH)
        except OSError as error:
            if error.errno not in _MOUNTED:
                raise
            with open(PATH, "w") as mounted:
                mounted.write(text)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _move_back(kept: str) -> None:
    try:
        os.rename(kept, PATH)
    except OSError as error:
        if error.errno not in _MOUNTED:
            raise
        with open(kept, "rb") as source, open(PATH, "wb") as mounted:
            mounted.write(source.read())
        os.unlink(kept)
