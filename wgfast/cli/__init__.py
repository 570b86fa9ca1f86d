"""The subcommands: options and help. What they do is in modules of their own, loaded when called for."""

from __future__ import annotations

import click

from wgfast import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wgfast")
def wgfast() -> None:
    """WireGuard in user space."""


@wgfast.command("demo")
@click.option(
    "--megabytes", type=click.IntRange(1, 1024), default=64, show_default=True, help="Payload each way."
)
@click.option(
    "--namespaces/--no-namespaces", default=True, help="As root: also a tunnel between two namespaces."
)
def demo_command(megabytes: int, namespaces: bool) -> None:
    """Two devices on this machine, a handshake, a payload both ways, compared byte by byte."""
    from wgfast.cli.demo import run_demo

    raise SystemExit(run_demo(megabytes << 20, namespaces))


@wgfast.command("doctor")
def doctor_command() -> None:
    """What of wgfast works on this machine, and why the rest does not."""
    from wgfast.cli.doctor import run_doctor

    raise SystemExit(run_doctor())


@wgfast.command("genkey")
def genkey_command() -> None:
    """Prints a new private key."""
    from wgfast.cli.keys import print_private_key

    print_private_key()


@wgfast.command("genpsk")
def genpsk_command() -> None:
    """Prints a new preshared key."""
    from wgfast.cli.keys import print_preshared_key

    print_preshared_key()


@wgfast.command("pubkey")
def pubkey_command() -> None:
    """Reads a private key from standard input and prints its public key."""
    from wgfast.cli.keys import print_public_key

    print_public_key()


def run_command(arguments: list[str]) -> int:
    """Runs one subcommand; its exit status."""
    try:
        wgfast.main(arguments, prog_name="wgfast")
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0 if done.code is None else 1
    return 0
