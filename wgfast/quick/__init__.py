"""What wg-quick(8) does, as a library: interfaces brought up from configuration files, and taken down.

    from wgfast import quick
    quick.up("wg0")                      # /etc/wireguard/wg0.conf
    quick.down("/root/office.conf")

Nothing here prints. What is done is told to `report`, mark and text, as wg-quick would show it: "#" and a
shell command that does the same, "!" and something worth knowing. Whatever fails raises QuickError (or, for
the configuration, ConfigFileError), and then `up` has undone what it did; but for the hooks, which only their
author could undo.

The interface is always wgfast's own: WG_QUICK_USERSPACE_IMPLEMENTATION is for wg-quick. `down` and `save`
work on every implementation, and on what wg-quick brought up.
"""

from __future__ import annotations

from wgfast.quick import bringup, saving, teardown
from wgfast.quick.errors import QuickError
from wgfast.quick.implementation import Start, start_daemon
from wgfast.quick.journal import Report, silent
from wgfast.quick.rights import require_net_admin
from wgfast.quick.target import Target, find, locate

__all__ = ["QuickError", "Report", "Target", "down", "find", "locate", "save", "strip", "up"]


def up(where: str | Target, *, report: Report = silent, start: Start = start_daemon) -> None:
    """Brings an interface up. `where` is a name, the path of a file, or what find() made of it. `start` is
    given the name, and returns when the interface is there and answers; deleting the interface must end what
    it started.

    QuickError and ConfigFileError say what is in the way; the former's `status` is the exit status wg-quick
    would end with.
    """
    require_net_admin("up")
    bringup.up(_target(where), report, start)


def down(where: str | Target, *, report: Report = silent) -> None:
    """Takes an interface down, saving it first if it has SaveConfig. QuickError and ConfigFileError as for
    up(); a PreDown hook that fails leaves everything as it is."""
    require_net_admin("down")
    teardown.down(_target(where), report)


def save(where: str | Target, *, report: Report = silent) -> None:
    """Writes the interface's present state into its configuration. QuickError and ConfigFileError as for
    up(); then the file is as it was."""
    require_net_admin("save")
    target = _target(where)
    teardown.check_present(target.interface)
    saving.save(target, report)


def strip(where: str) -> str:
    """The configuration without what is wg-quick's, as `wg setconf` takes it. QuickError if there is no such
    file, ConfigFileError if it cannot be read."""
    return saving.strip(locate(where)[1])


def _target(where: str | Target) -> Target:
    return find(where) if isinstance(where, str) else where
