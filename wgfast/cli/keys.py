"""genkey, genpsk and pubkey: the same words and the same base64 as those of wg(8)."""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import Final

import click

from wgfast.cli.access import complain, refuse_usage
from wgfast.config_values import BLANKS
from wgfast.errors import ConfigError
from wgfast.keys import Key, generate_preshared_key, generate_private_key, public_key

_SETTINGS: Final = {"ignore_unknown_options": True}
_CHARACTERS: Final = 44
_words = click.argument("words", nargs=-1, metavar="", type=click.UNPROCESSED)
_json = click.option("--json", "as_json", is_flag=True, help="Print an object with the key.")


@click.command("genkey", context_settings=_SETTINGS)
@_json
@_words
def genkey_command(words: tuple[str, ...], as_json: bool) -> None:
    """Prints a new private key."""
    _print_secret("genkey", words, "private_key" if as_json else None, generate_private_key())


@click.command("genpsk", context_settings=_SETTINGS)
@_json
@_words
def genpsk_command(words: tuple[str, ...], as_json: bool) -> None:
    """Prints a new preshared key."""
    _print_secret("genpsk", words, "preshared_key" if as_json else None, generate_preshared_key())


@click.command("pubkey", context_settings=_SETTINGS)
@_json
@_words
def pubkey_command(words: tuple[str, ...], as_json: bool) -> None:
    """Reads a private key from standard input and prints its public key."""
    if words:
        refuse_usage("pubkey")
    _print("public_key" if as_json else None, _public_key_of_input())


def _public_key_of_input() -> Key:
    given = sys.stdin.buffer.read(_CHARACTERS)
    while len(given) == _CHARACTERS and (more := sys.stdin.buffer.read(1 << 12)):
        if more.strip(BLANKS.encode() + b"\0"):
            complain("wgfast: Trailing characters found after key")
            raise SystemExit(1)
    try:
        # Only base64 here: 64 characters of hexadecimal do not fit.
        return public_key(given.decode("ascii"))
    except (ConfigError, UnicodeDecodeError):
        complain(
            "wgfast: Key is not the correct length or format: "
            f"{_CHARACTERS} characters of base64 were expected on standard input, as genkey prints them"
        )
        raise SystemExit(1) from None


def _print_secret(command: str, words: tuple[str, ...], name: str | None, key: Key) -> None:
    if words:
        refuse_usage(command)
    try:
        status = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        status = None
    if status and stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IRWXO:
        complain(
            "Warning: writing to world accessible file.",
            "Consider setting the umask to 077 and trying again.",
        )
    _print(name, key)


def _print(name: str | None, key: Key) -> None:
    click.echo(str(key) if name is None else json.dumps({name: str(key)}))
