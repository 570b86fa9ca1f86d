"""What `top` draws of the numbers of top_rates.py."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from wgfast._core import DROP_NAMES, DROP_TEXTS, REJECT_AFTER_TIME
from wgfast.cli.top_rates import InterfaceView, PeerView, Rates
from wgfast.client_state import endpoint_text

# A session is at its end then; who has one and talks has shaken hands since.
STALE: Final = REJECT_AFTER_TIME / 1e9
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_DROPS: Final = dict(zip(DROP_NAMES, DROP_TEXTS, strict=True))
_DROPS_SHOWN: Final = 6
_AROUND: Final = 6  # lines of an interface that are no peers
Names = Mapping[str, Mapping[bytes, str]]  # of interfaces, of peers by public key


def screen(views: Sequence[InterfaceView], names: Names, height: int | None = None) -> RenderableType:
    """All interfaces below each other. `height`: of the terminal, lines; the idlest peers give way. None: all
    peers."""
    if not views:
        return Text("no WireGuard interface is up", style="yellow")
    each = None if height is None else max(height // len(views) - _AROUND, 1)
    return Group(*(part for view in views for part in _interface(view, names, each)))


def _interface(view: InterfaceView, names: Names, most: int | None) -> list[RenderableType]:
    reading = view.reading
    if reading.state is None:
        return [Text.assemble((reading.name, "bold"), ": ", (reading.problem, "red"), "\n")]
    drops = view.drops[:_DROPS_SHOWN]
    shown = view.peers if most is None else view.peers[: max(most - len(drops), 1)]
    parts: list[RenderableType] = [_head(view)]
    if shown:
        parts.append(_peers(shown, names[reading.name]))
    hidden = len(view.peers) - len(shown)
    if hidden:
        parts.append(Text(f"and {hidden} quieter", style="dim"))
    parts += [_drop(drop.reason, drop.count, drop.rate) for drop in drops]
    return [*parts, Text()]


def _head(view: InterfaceView) -> Text:
    state, statistics = view.reading.state, view.reading.statistics
    assert state is not None
    count = len(state.peers)
    words = [f"{count} peer{'' if count == 1 else 's'}"]
    words.append(f"port {state.listen_port}" if state.listen_port else "no port")
    if statistics:
        words.append(f"{statistics.sessions} sessions")
        if statistics.staged:
            words.append(f"{statistics.staged} packets waiting")
        words.append(statistics.aead_kernel)
    return Text.assemble(
        (state.name, "bold green"), f"  {', '.join(words)}  ", (_both(view.rates), "bold"), no_wrap=True
    )


def _peers(peers: Sequence[PeerView], names: Mapping[bytes, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("peer", no_wrap=True)
    table.add_column("endpoint", no_wrap=True)
    for title in ("handshake", "in/s", "out/s", "in", "out", "waiting"):
        table.add_column(title, justify="right", no_wrap=True)
    for peer in peers:
        key = base64.b64encode(peer.state.public_key).decode("ascii")
        name = names.get(peer.state.public_key)
        endpoint = endpoint_text(peer.state.endpoint) if peer.state.endpoint else "(none)"
        waiting = peer.statistics.staged if peer.statistics else 0
        table.add_row(
            Text(f"{name} ({key[:8]})" if name else f"{key[:12]}", style="bold" if peer.rates.total else ""),
            Text(endpoint),
            _age(peer.handshake_age),
            _rate(peer.rates.received),
            _rate(peer.rates.sent),
            bytes_text(peer.state.received_bytes),
            bytes_text(peer.state.sent_bytes),
            Text(str(waiting), style="yellow") if waiting else "",
        )
    return table


def _age(seconds: float | None) -> Text:
    if seconds is None:
        return Text("never", style="dim")
    return Text(duration_text(seconds), style="yellow" if seconds > STALE else "green")


def _drop(reason: str, count: int, rate: float | None) -> Text:
    now = f" ({rate:.1f}/s)" if rate else ""
    style = "red" if rate else "dim"
    return Text(f"dropped {count:,}{now}: {_DROPS.get(reason, reason)} [{reason}]", style=style, no_wrap=True)


def _both(rates: Rates) -> str:
    return f"in {_rate(rates.received)}/s, out {_rate(rates.sent)}/s" if rates.received is not None else ""


def _rate(value: float | None) -> str:
    return "" if value is None else bytes_text(value) if value else "0"


def bytes_text(count: float) -> str:
    """Three digits or so, in powers of 1024."""
    power = 0
    while count >= 1000 and power < len(_UNITS) - 1:
        count /= 1024
        power += 1
    return f"{count:.0f} {_UNITS[power]}" if power == 0 or count >= 100 else f"{count:.1f} {_UNITS[power]}"


def duration_text(seconds: float) -> str:
    """The two largest units that are not zero."""
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes}m"
    return f"{minutes}m {whole % 60}s" if minutes else f"{whole}s"
