"""What `wgfast up NAME` means: which file, and which interface."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from wgfast.config import Config, read
from wgfast.quick.errors import QuickError

DIRECTORY: Final = "/etc/wireguard"
_NAME: Final = re.compile(r"[a-zA-Z0-9_=+.-]{1,15}")
_FILE: Final = re.compile(r"(?:.*/)?([a-zA-Z0-9_=+.-]{1,15})\.conf", re.DOTALL)


@dataclass(slots=True)
class Target:
    """`path` is where the configuration is saved, if it is; nothing else needs it to be there."""

    interface: str
    path: str
    config: Config

    @property
    def word(self) -> str:
        """What names it on a command line."""
        return self.interface if self.path == f"{DIRECTORY}/{self.interface}.conf" else self.path


def locate(text: str) -> tuple[str, str]:
    """The interface and the file of a name or path. As with wg-quick, what could be an interface's name is
    one, a file's name in this directory too. QuickError if there is no such file or its name is no
    interface's."""
    is_name = _NAME.fullmatch(text) is not None
    path = f"{DIRECTORY}/{text}.conf" if is_name else text
    if not os.path.exists(path):
        remedy = ""
        if is_name and os.path.exists(text):
            remedy = f": for the file in this directory say ./{text}"
        elif is_name:
            remedy = f": if it is elsewhere, give its path, as in ./{text}.conf"
        raise QuickError(f"`{path}' does not exist{remedy}")
    found = _FILE.fullmatch(path)
    if found is None or found[1] in (".", ".."):
        raise QuickError(
            f"`{path}': The config file must be a valid interface name, followed by .conf: up to 15 of "
            "a-z A-Z 0-9 _ = + . -"
        )
    return found[1], os.path.realpath(path)


def find(text: str) -> Target:
    """QuickError as locate() raises it, ConfigFileError for what is wrong in the file."""
    interface, path = locate(text)
    return Target(interface, path, read(path))
