"""save: an interface's present state into its configuration, as `wg-quick save`."""

from __future__ import annotations

import click

from wgfast import quick
from wgfast.cli.quick_command import CONFIGURATION, QuickCommand, find, running
from wgfast.quick.rights import require_net_admin


@click.command("save", cls=QuickCommand)
@CONFIGURATION
def save_command(configuration: str) -> None:
    """Writes what an interface is now into its configuration: peers, endpoints, addresses, port, mark.

    Comments, names and the order of what stays are kept.
    """
    with running("save") as report:
        require_net_admin("save")
        quick.save(find(configuration), report=report)
