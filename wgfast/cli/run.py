"""run: an interface from its configuration, as a service in the foreground."""

from __future__ import annotations

import click

from wgfast.cli.quick_command import CONFIGURATION, QuickCommand, find, running
from wgfast.quick.rights import require_net_admin


@click.command("run", cls=QuickCommand)
@CONFIGURATION
@click.option(
    "--user",
    metavar="NAME",
    help="As whom to carry packets; takes CAP_SETUID and CAP_SETGID. Otherwise as you, without privileges.",
)
def run_command(configuration: str, user: str | None) -> None:
    """Sets an interface up, stays, and takes it down when it is told to end: for containers and systemd.

    INTERFACE and FILE are those of `wgfast up`. CAP_NET_ADMIN is all it needs; the process that carries the
    packets gives even that up. SIGTERM, SIGINT and SIGHUP end it. systemd is told when the interface is up,
    and, with WatchdogSec=, that it still answers.
    """
    # Loaded here: it takes what only Linux has.
    from wgfast.quick.service import Service

    with running("run") as report:
        require_net_admin("run")
        Service(find(configuration), report, user).run()
