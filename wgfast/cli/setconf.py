"""setconf, addconf and syncconf: interfaces from configuration files of wg(8)."""

from __future__ import annotations

from typing import Final

import click

from wgfast import client, client_requests, config
from wgfast.cli import suggestions
from wgfast.cli.access import complain, refuse, refuse_usage
from wgfast.client import DeviceState, SetRequest
from wgfast.config import Config, ConfigFileError
from wgfast.errors import WgfastError

_words = click.argument(
    "words",
    nargs=-1,
    metavar="INTERFACE FILE",
    type=click.UNPROCESSED,
    shell_complete=suggestions.for_configuration,
)
_SETTINGS: Final = {"ignore_unknown_options": True}


@click.command("setconf", context_settings=_SETTINGS)
@_words
def setconf_command(words: tuple[str, ...]) -> None:
    """Makes an interface what a file says: other peers and settings go.

    FILE has wg's keys only (`wgfast strip` makes one of wg-quick's); /dev/stdin and <(command) will do.
    """
    name, read = _read("setconf", words)
    _set(name, client_requests.replacing(read))


@click.command("addconf", context_settings=_SETTINGS)
@_words
def addconf_command(words: tuple[str, ...]) -> None:
    """Adds what a file says to an interface; everything else stays."""
    name, read = _read("addconf", words)
    _set(name, client_requests.adding(read))


@click.command("syncconf", context_settings=_SETTINGS)
@_words
def syncconf_command(words: tuple[str, ...]) -> None:
    """Makes an interface what a file says, and leaves the sessions of peers that stay alone."""
    name, read = _read("syncconf", words)
    # As wg: a file without peers is not compared with what there is.
    request = client_requests.replacing(read)
    if read.peers:
        request = client_requests.synchronising(read, _current_state(name))
    _set(name, request)


def _current_state(name: str) -> DeviceState:
    try:
        return client.get(name)
    except OSError as error:
        refuse("Unable to retrieve current interface configuration", error, name)


def _read(command: str, words: tuple[str, ...]) -> tuple[str, Config]:
    if len(words) != 2:
        refuse_usage(command)
    name, path = words
    try:
        read = config.read(path, quick=False)
    except ConfigFileError as error:
        complain(*error.problems, "Configuration parsing error")
        raise SystemExit(1) from None
    complain(*(f"Warning: {warning}" for warning in read.warnings))
    return name, read


def _set(name: str, request: SetRequest) -> None:
    try:
        client.set(name, request, complain)
    except OSError as error:
        refuse("Unable to modify interface", error, name)
    except WgfastError as error:
        complain(str(error))
        raise SystemExit(1) from None
