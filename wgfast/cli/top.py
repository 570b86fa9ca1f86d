"""top: a live view of interfaces and their peers: rates, handshake ages, drops."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.live import Live

from wgfast import client
from wgfast.cli import schema
from wgfast.cli.access import refuse
from wgfast.cli.completion import complete_interfaces
from wgfast.cli.top_rates import InterfaceView, Snapshot, compare
from wgfast.cli.top_screen import Names, screen
from wgfast.reading import names_of, read_interface


@click.command("top")
@click.argument("words", metavar="[INTERFACE]...", nargs=-1, shell_complete=complete_interfaces)
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@click.option("--once", is_flag=True, help="Show one interval and end.")
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each interval.")
def top_command(words: tuple[str, ...], interval: float, once: bool, as_json: bool) -> None:
    """Watch each INTERFACE (all, if none is named) until interrupted.

    JSON has the shape of `wgfast show --json`. It adds received_rate and sent_rate, bytes in a second, to
    interfaces and peers; drop_rates, packets in a second by reason, to what is wgfast's; and problem to an
    interface that cannot be asked. Peers are named by `# Name = ...` in /etc/wireguard/INTERFACE.conf.
    """
    for name in words:
        try:
            client.get(name)
        except OSError as error:
            refuse("Unable to access interface", error, name)
    # Ends as by Ctrl-C: the terminal is to be as it was.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _watch(words, interval, once, as_json)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:
        # Nobody reads on; the interpreter would complain when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _watch(words: Sequence[str], interval: float, once: bool, as_json: bool) -> None:
    console = Console()
    names = PeerNames()
    intervals = _intervals(words, interval, once)
    if as_json:
        for snapshot, views in intervals:
            click.echo(json.dumps(document(snapshot, views, names), ensure_ascii=False))
    elif once or not console.is_terminal:
        for _, views in intervals:
            console.print(screen(views, names))
    else:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            for _, views in intervals:
                live.update(screen(views, names, console.height), refresh=True)


def _intervals(
    words: Sequence[str], interval: float, once: bool
) -> Iterator[tuple[Snapshot, list[InterfaceView]]]:
    """What there is to be shown, whenever it is time; at once for a terminal, else when there are rates."""
    before = take(words)
    if not once and sys.stdout.isatty():
        yield before, compare(None, before)
    while True:
        time.sleep(max(before.at + interval - time.monotonic(), 0.0))
        now = take(words)
        yield now, compare(before, now)
        if once:
            return
        before = now


def take(words: Sequence[str]) -> Snapshot:
    """The named interfaces as they are now, or all there are."""
    try:
        names = list(words) or client.interfaces()
    except OSError as error:
        refuse("Unable to list interfaces", error, "all")
    at, wall = time.monotonic(), time.time()
    return Snapshot(at, wall, [read_interface(name) for name in names])


class PeerNames(dict[str, Mapping[bytes, str]]):
    """Of each interface, read when it is first seen."""

    def __missing__(self, interface: str) -> Mapping[bytes, str]:
        return self.setdefault(interface, names_of(interface))


def document(snapshot: Snapshot, views: Sequence[InterfaceView], names: Names) -> dict[str, Any]:
    """The document of schema.py with rates."""
    return schema.document([_object(view, names) for view in views], snapshot.wall)


def _object(view: InterfaceView, names: Names) -> dict[str, Any]:
    reading = view.reading
    if reading.state is None:
        return {"name": reading.name, "problem": reading.problem}
    found = schema.interface_object(reading.state, reading.statistics, names=names[reading.name])
    found.update(received_rate=view.rates.received, sent_rate=view.rates.sent)
    rates = {peer.state.public_key: peer.rates for peer in view.peers}
    for peer, state in zip(found["peers"], reading.state.peers, strict=True):
        peer.update(received_rate=rates[state.public_key].received, sent_rate=rates[state.public_key].sent)
    if "wgfast" in found:
        found["wgfast"]["drop_rates"] = {drop.reason: drop.rate for drop in view.drops}
    return found
