"""capture: the packets of a tunnel, inside or outside of it, into a pcapng file that Wireshark reads."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

import click

from wgfast import client
from wgfast.capture import Capture, Limits, create_file, record
from wgfast.cli.completion import complete_interfaces
from wgfast.errors import InterfaceError, WgfastError
from wgfast.pcapng import LINKTYPE_LINUX_SLL2, LINKTYPE_RAW, PcapngWriter

DEFAULT_SIZE: Final = "100M"
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_size(_context: click.Context, _option: click.Parameter, value: str) -> int:
    """Bytes, with K, M or G for powers of 1024."""
    found = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", value, re.ASCII | re.IGNORECASE)
    if not found or not int(found[1]):
        raise click.BadParameter(f"{value!r}: expected a number of bytes like 65536, 64K, 100M or 2G")
    return int(found[1]) * _UNITS[found[2].upper()]


@click.command("capture")
@click.argument("interface", shell_complete=complete_interfaces)
@click.option("--outer", is_flag=True, help="The encrypted datagrams on every link instead.")
@click.option("-w", "--write", "path", metavar="FILE", help="Where to; - is standard output.")
@click.option("--filter", "expression", metavar="EXPR", default="", help="Only these, as in pcap-filter(7).")
@click.option(
    "--size",
    metavar="BYTES",
    callback=parse_size,
    default=DEFAULT_SIZE,
    show_default=True,
    help="Stop before the file is larger.",
)
@click.option("--count", type=click.IntRange(1), help="Stop after so many packets.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Stop after so long.")
def capture_command(
    interface: str,
    outer: bool,
    path: str | None,
    expression: str,
    size: int,
    count: int | None,
    seconds: float | None,
) -> None:
    """Write the packets inside the tunnel of INTERFACE to a pcapng file, until interrupted.

    With --outer, the UDP datagrams from and to the tunnel's port, on every link of this network namespace.
    Their contents stay encrypted; a key log (WGFAST_KEYLOG) opens them in Wireshark. What is inside can be
    read by whoever has the file: it is made with mode 0600.
    """
    if path is None:
        if sys.stdout.isatty():
            raise click.UsageError("a capture is no text: name a file (-w FILE), or pipe it to a program")
        path = "-"
    try:
        port = outer_port(interface) if outer else None
        with Capture(
            None if outer else interface,
            port=port,
            expression=expression,
            without=interface if outer else None,
        ) as capture:
            _run(capture, path, _links(interface, outer), size, Limits(count, seconds), expression)
    except (WgfastError, OSError, ValueError) as error:
        raise click.ClickException(explain(error, path)) from None


def outer_port(interface: str) -> int:
    """The UDP port of its tunnel. ClickException: it is none, or has no port now."""
    try:
        port = client.get(interface).listen_port
    except OSError as error:
        raise click.ClickException(f"{interface}: {error.strerror}: is it a WireGuard interface?") from None
    if not port:
        raise click.ClickException(f"{interface}: has no UDP port now: `ip link set {interface} up` first")
    return port


def explain(error: Exception, path: str) -> str:
    """What is not said to be the interface's or an argument's went wrong with the file."""
    if isinstance(error, InterfaceError):
        return error.strerror or str(error)
    path = "standard output" if path == "-" else path
    return f"{path}: {error.strerror}" if isinstance(error, OSError) else str(error)


def _links(interface: str, outer: bool) -> list[str]:
    """A file without a single packet is to be readable as well, and that takes a link."""
    if not outer:
        return [interface]
    return [name for _, name in socket.if_nameindex() if name != interface]


def _run(capture: Capture, path: str, links: list[str], size: int, limits: Limits, expression: str) -> None:
    linktype = LINKTYPE_RAW if len(links) == 1 else LINKTYPE_LINUX_SLL2
    PcapngWriter(io.BytesIO(), linktype, size)  # refused before a file of that name is emptied
    fd = os.dup(sys.stdout.fileno()) if path == "-" else create_file(path)
    with closing(os.fdopen(fd, "wb")) as file, _stop_signals() as stop:
        writer = PcapngWriter(file, linktype, size)
        for link in links:
            writer.add_link(link, expression=expression)
        click.echo(f"capturing to {'standard output' if path == '-' else path}; Ctrl-C ends it", err=True)
        try:
            count = record(capture, writer, limits, stop, expression)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # or closing it fails as well
            return
        received, dropped = capture.statistics()
        lost = f", {dropped} lost of {received}" if dropped else ""
        click.echo(f"{count} packet{'' if count == 1 else 's'}, {writer.size} bytes{lost}", err=True)


@contextmanager
def _stop_signals() -> Iterator[int]:
    """A descriptor that is readable once SIGINT or SIGTERM came: what was captured is written to its end."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    woken = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, lambda *_: None)
    try:
        yield reading
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken)
        os.close(reading)
        os.close(writing)
