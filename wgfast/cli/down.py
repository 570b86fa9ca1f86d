"""down: an interface and all that went with it taken away, as `wg-quick down`."""

from __future__ import annotations

import click

from wgfast import quick
from wgfast.cli.quick_command import CONFIGURATION, QuickCommand, find, running
from wgfast.quick.rights import require_net_admin


@click.command("down", cls=QuickCommand)
@CONFIGURATION
def down_command(configuration: str) -> None:
    """Takes an interface down, with its routes, rules and name servers; with SaveConfig saves it before.

    It may have been `wgfast up` or wg-quick(8) that set it up. If a PreDown hook fails, all stays as it is.
    """
    with running("down") as report:
        require_net_admin("down")
        quick.down(find(configuration), report=report)
