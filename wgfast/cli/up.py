"""up: an interface from its configuration, as `wg-quick up`."""

from __future__ import annotations

import click

from wgfast import quick
from wgfast.cli.quick_command import CONFIGURATION, QuickCommand, find, running
from wgfast.quick.rights import require_net_admin


@click.command("up", cls=QuickCommand)
@CONFIGURATION
def up_command(configuration: str) -> None:
    """Sets an interface up as its configuration says: key, peers, addresses, MTU, name servers, routes.

    INTERFACE means /etc/wireguard/INTERFACE.conf; a FILE is called NAME.conf after its interface. If a step
    fails, what was done is undone. As wg-quick(8), but the interface is always wgfast's own.

    A hook (PreUp, PostUp) may take WGFAST_HOOK_TIMEOUT seconds, 120 unless told; 0: as long as it likes.
    """
    with running("up") as report:
        require_net_admin("up")
        quick.up(find(configuration), report=report)
