"""qr: a configuration as a QR code, for the WireGuard application of a phone."""

from __future__ import annotations

import io
import os
import stat
import sys
from typing import TYPE_CHECKING, Final

import click

from wgfast import config
from wgfast.cli.completion import complete_configurations
from wgfast.cli.phone_config import phone_text
from wgfast.errors import ConfigError
from wgfast.reading import DIRECTORY

if TYPE_CHECKING:
    from segno import QRCode

QUIET_ZONE: Final = 4  # modules of light around the code (ISO/IEC 18004, 5.3.8)
_SCALE: Final = 8  # pixels of an image to a module
# Upper and lower half of a character: light where it is drawn.
_HALVES: Final = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}
_WHITE_ON_BLACK: Final = "\x1b[97;40m"
_RESET: Final = "\x1b[0m"


@click.command("qr")
@click.argument("configuration", metavar="INTERFACE|FILE", shell_complete=complete_configurations)
@click.option("--png", metavar="FILE", help="Write an image instead.")
@click.option("--svg", metavar="FILE", help="Write a drawing instead.")
@click.option("--invert", is_flag=True, help="For black text on white: a printer, a file, a light terminal.")
def qr_command(configuration: str, png: str | None, svg: str | None, invert: bool) -> None:
    """Print a configuration as a QR code that the WireGuard application of a phone scans.

    INTERFACE means /etc/wireguard/INTERFACE.conf; - is standard input. The code holds the private key: who
    sees it has the tunnel. What phones do not know (hooks, Table, FwMark, SaveConfig) is left out.
    """
    try:
        text, warnings = phone_text(_read(configuration))
        code = encode(text)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    for warning in warnings:
        click.echo(f"Warning: {warning}", err=True)
    for path, kind in ((png, "png"), (svg, "svg")):
        if path is not None:
            _write(code, path, kind)
    if png is None and svg is None:
        _print(code, invert)


def _read(configuration: str) -> config.Config:
    if configuration == "-":
        try:
            return config.parse(config.decode(config.contents(sys.stdin.buffer)), "standard input")
        except OSError as error:
            raise ConfigError(f"standard input: cannot be read: {error.strerror}") from None
    is_name = "/" not in configuration and not configuration.endswith(".conf")
    found = config.read(f"{DIRECTORY}/{configuration}.conf" if is_name else configuration)
    for warning in found.warnings:
        click.echo(f"Warning: {warning}", err=True)
    return found


def encode(text: str) -> QRCode:
    """The smallest code that holds the text. ConfigError: none is large enough."""
    import segno

    data = text.encode()
    try:
        # The lowest correction, and more of it where the same size has room.
        return segno.make_qr(data, error="l", mode="byte")
    except segno.DataOverflowError:
        raise ConfigError(
            f"the configuration has {len(data):,} bytes, and the largest QR code holds 2,953: "
            "leave out peers or AllowedIPs"
        ) from None


def drawing(code: QRCode, invert: bool = False) -> list[str]:
    """Lines of half blocks, drawn where the code is light, for a dark ground; `invert`: where it is dark."""
    rows = [list(row) for row in code.matrix_iter(border=QUIET_ZONE)]
    rows.append([0] * len(rows[0]))  # their number is odd
    return [
        "".join(
            _HALVES[(bool(upper) == invert, bool(lower) == invert)]
            for upper, lower in zip(*rows[at : at + 2], strict=True)
        )
        for at in range(0, len(rows), 2)
    ]


def _print(code: QRCode, invert: bool) -> None:
    lines = drawing(code, invert)
    if not sys.stdout.isatty():
        _warn_of_readers()
        click.echo("\n".join(lines))
        return
    columns = os.get_terminal_size(sys.stdout.fileno()).columns
    if 0 < columns < len(lines[0]):
        raise click.ClickException(
            f"the code is {len(lines[0])} characters wide and the terminal {columns}: make it wider or its "
            "letters smaller, or write an image (--png FILE)"
        )
    # Whatever the terminal's own colours are; a light one shows what is light as light.
    for line in lines:
        click.echo(line if invert else f"{_WHITE_ON_BLACK}{line}{_RESET}", color=True)


def _warn_of_readers() -> None:
    try:
        status = os.fstat(sys.stdout.fileno())
    except (OSError, ValueError):
        return
    if stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IRWXO:
        click.echo("Warning: everybody may read the file this goes to; consider `umask 077` first", err=True)


def _write(code: QRCode, path: str, kind: str) -> None:
    """Mode 0600, as a whole."""
    buffer = io.BytesIO()
    code.save(buffer, kind=kind, scale=_SCALE, border=QUIET_ZONE)
    if path == "-":
        sys.stdout.buffer.write(buffer.getvalue())
        return
    try:
        config.write(path, config.decode(buffer.getvalue()))
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
