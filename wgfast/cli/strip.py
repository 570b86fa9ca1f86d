"""strip: a configuration without wg-quick's keys, as `wg-quick strip`."""

from __future__ import annotations

import sys

import click

from wgfast import quick
from wgfast.cli.quick_command import CONFIGURATION, QuickCommand, running
from wgfast.config import encode


@click.command("strip", cls=QuickCommand)
@CONFIGURATION
def strip_command(configuration: str) -> None:
    """Prints a configuration without wg-quick's keys, for `wg syncconf wg0 <(wgfast strip wg0)`."""
    with running("strip"):
        text = quick.strip(configuration)
    sys.stdout.buffer.write(encode(text))
    sys.stdout.flush()
