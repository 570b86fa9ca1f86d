"""genkey, genpsk and pubkey: the same words and the same base64 as those of wg(8)."""

from __future__ import annotations

import os
import stat
import sys

import click

from wgfast.errors import ConfigError
from wgfast.keys import Key, generate_preshared_key, generate_private_key, public_key


@click.command("genkey")
def genkey_command() -> None:
    """Prints a new private key."""
    _print_secret(generate_private_key())


@click.command("genpsk")
def genpsk_command() -> None:
    """Prints a new preshared key."""
    _print_secret(generate_preshared_key())


@click.command("pubkey")
def pubkey_command() -> None:
    """Reads a private key from standard input and prints its public key."""
    text = sys.stdin.read(4096).strip()
    try:
        click.echo(str(public_key(text)))
    except ConfigError as error:
        raise click.ClickException(f"standard input: {error}") from None


def _print_secret(key: Key) -> None:
    try:
        status = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        status = None
    if status and stat.S_ISREG(status.st_mode) and status.st_mode & 0o007:
        click.echo("wgfast: everybody may read the file this goes to; consider `umask 077` first", err=True)
    click.echo(str(key))
