"""The subcommands. Each is a click command in a module of its own, loaded when it is called for."""

from __future__ import annotations

from importlib import import_module
from typing import Final

import click

from wgfast import __version__

# Name to the module that has it; the command there is named NAME_command.
_HOMES: Final = {
    "addconf": "setconf",
    "capture": "capture",
    "completion": "completion",
    "demo": "demo",
    "doctor": "doctor",
    "down": "down",
    "genkey": "keys",
    "genpsk": "keys",
    "metrics": "metrics",
    "pubkey": "keys",
    "qr": "qr",
    "run": "run",
    "save": "save",
    "set": "set",
    "setconf": "setconf",
    "show": "show",
    "showconf": "showconf",
    "strip": "strip",
    "syncconf": "setconf",
    "top": "top",
    "up": "up",
}


class _Commands(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(_HOMES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        home = _HOMES.get(name)
        if home is None:
            return None
        command = getattr(import_module(f"{__name__}.{home}"), f"{name}_command")
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wgfast")
def wgfast() -> None:
    """WireGuard in user space."""


def run_command(arguments: list[str]) -> int:
    """Runs one subcommand; its exit status."""
    try:
        wgfast.main(arguments, prog_name="wgfast")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0 if done.code is None else 1
    return 0
