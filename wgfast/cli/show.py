"""show: the state of interfaces, as wg(8) prints it, or as JSON."""

from __future__ import annotations

import time
from typing import Any

import click

from wgfast import client
from wgfast.cli import schema, suggestions
from wgfast.cli.access import FIELDS, complain, hints, refuse, refuse_usage, usage
from wgfast.cli.show_fields import field_lines
from wgfast.cli.show_pretty import has_colours, hides_keys, pretty, without_colours
from wgfast.client import DeviceState
from wgfast.reading import names_of


@click.command("show", context_settings={"ignore_unknown_options": True})
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; its shape: python -m pydoc wgfast.cli.schema"
)
@click.option("--secrets", is_flag=True, help="With --json: private and preshared keys too.")
@click.argument(
    "words",
    nargs=-1,
    metavar="[INTERFACE | all | interfaces] [FIELD]",
    type=click.UNPROCESSED,
    shell_complete=suggestions.for_show,
)
def show_command(words: tuple[str, ...], as_json: bool, secrets: bool) -> None:
    """Shows interfaces and their peers.

    Without a name: all. FIELD is one of public-key, private-key, listen-port, fwmark, peers, preshared-keys,
    endpoints, allowed-ips, latest-handshakes, transfer, persistent-keepalive or dump: lines for scripts, with
    tabs between their fields.

    Environment: WG_HIDE_KEYS=never shows secrets, WG_COLOR_MODE=always|never|auto.
    """
    if len(words) > 2 or (words[:1] == ("interfaces",) and len(words) > 1):
        refuse_usage("show")
    target = words[0] if words else "all"
    field = words[1] if len(words) == 2 else None
    if as_json:
        raise SystemExit(_show_json(target, field, secrets))
    if target == "interfaces":
        names = _interfaces()
        click.echo(" ".join(names), nl=bool(names))
    elif target == "all":
        raise SystemExit(_show_all(field))
    elif words == ("help",):
        complain(usage("show"))
    else:
        _show_one(target, field)


def _interfaces() -> list[str]:
    try:
        return client.interfaces()
    except OSError as error:
        refuse("Unable to list interfaces", error, "all")


def _show_one(name: str, field: str | None) -> None:
    try:
        state = client.get(name)
    except OSError as error:
        refuse("Unable to access interface", error, name)
    if field is None:
        _print_pretty(state)
    elif not _print_field(state, field, with_name=False):
        raise SystemExit(1)


def _show_all(field: str | None) -> int:
    """The exit status: 1 if there are interfaces and none could be read, or there is no such field."""
    names = _interfaces()
    status = int(bool(names))
    for number, name in enumerate(names, 1):
        state = _try_get(name)
        if state is None:
            continue
        if field is None:
            _print_pretty(state)
            if number < len(names):
                click.echo()
        elif not _print_field(state, field, with_name=True):
            return 1
        status = 0
    return status


def _try_get(name: str) -> DeviceState | None:
    try:
        return client.get(name)
    except OSError as error:
        complain(f"Unable to access interface {name}: {error.strerror}", *hints(error, name))
        return None


def _print_pretty(state: DeviceState) -> None:
    text = pretty(state, int(time.time()), hide_keys=hides_keys())
    # click would take the colours away by its own rules.
    click.echo(text if has_colours() else without_colours(text), nl=False, color=True)


def _print_field(state: DeviceState, field: str, *, with_name: bool) -> bool:
    if field not in FIELDS:
        _refuse_field(field)
        return False
    click.echo(field_lines(state, field, with_name=with_name), nl=False)
    return True


def _refuse_field(field: str) -> None:
    complain(f"Invalid parameter: `{field}'", usage("show"))


def _show_json(target: str, field: str | None, secrets: bool) -> int:
    if field is not None and field not in FIELDS:
        _refuse_field(field)
        return 1
    now = time.time()
    if target == "interfaces":
        click.echo(schema.text(schema.document(({"name": name} for name in _interfaces()), now)))
        return 0
    if target == "all":
        names = _interfaces()
        states = [state for state in map(_try_get, names) if state is not None]
        status = int(bool(names) and not states)
    else:
        try:
            states, status = [client.get(target)], 0
        except OSError as error:
            refuse("Unable to access interface", error, target)
    shown = [_object(state, field, secrets) for state in states]
    click.echo(schema.text(schema.document(shown, now)))
    return status


def _object(state: DeviceState, field: str | None, secrets: bool) -> dict[str, Any]:
    statistics = client.statistics(state.name)
    whole = schema.interface_object(state, statistics, secrets=secrets, names=names_of(state.name))
    return whole if field in (None, "dump") else schema.only(whole, field)
