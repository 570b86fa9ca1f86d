"""What up, down, save and strip share: wg-quick's way to take an argument, to show its work, and to end."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Final

import click
from click.shell_completion import CompletionItem

from wgfast import quick
from wgfast.cli import suggestions
from wgfast.errors import WgfastError
from wgfast.quick import Report, Target
from wgfast.quick.target import DIRECTORY

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class QuickCommand(click.Command):
    """wg-quick's exit status for a wrong command line."""

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        try:
            return super().parse_args(context, arguments)
        except click.UsageError as error:
            error.show()
            raise SystemExit(1) from None


def _complete(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = sorted(name.removesuffix(".conf") for name in os.listdir(DIRECTORY) if name.endswith(".conf"))
    return suggestions.matching(names, begun) or suggestions.files(begun)


CONFIGURATION: Final = click.argument("configuration", metavar="INTERFACE|FILE", shell_complete=_complete)


def report(mark: str, text: str) -> None:
    """As wg-quick shows what it does. Its terminal may be gone: what is being done, or undone, goes on."""
    with contextlib.suppress(OSError):
        click.echo(f"[{mark}] {text}", err=True)


def find(configuration: str) -> Target:
    """What the word on the command line means, with the file's warnings shown."""
    target = quick.find(configuration)
    for warning in target.config.warnings:
        click.echo(f"Warning: {warning}", err=True)
    return target


@contextlib.contextmanager
def running(command: str) -> Iterator[Report]:
    """Ends the program with a message and the right status for what is raised inside; an interruption is
    raised there as well, once, so that what was begun is undone in peace."""
    try:
        with _interruptions():
            yield report
    except WgfastError as error:
        for line in str(error).splitlines():
            click.echo(f"wgfast {command}: {line}", err=True)
        raise SystemExit(getattr(error, "status", 1)) from None
    except OSError as error:
        click.echo(f"wgfast {command}: {error}", err=True)
        raise SystemExit(1) from None


@contextlib.contextmanager
def _interruptions() -> Iterator[None]:
    def leave(number: int, _: object) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    # SIGHUP stays ignored for whoever was started by nohup.
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number in _SIGNALS:
            if before[number] != signal.SIG_IGN:
                signal.signal(number, leave)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
