"""completion: the script with which a shell asks how a command line may go on, and the answer.

The scripts are click's. They run `wgfast` with _WGFAST_COMPLETE set, which comes here (__main__.py).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from wgfast.__main__ import COMMANDS, COMPLETE
from wgfast.cli import suggestions
from wgfast.reading import DIRECTORY

_OPTIONS: Final = ("--foreground", "--help", "--version")
# A key without the = that ends it: bash takes that for a word of its own (COMP_WORDBREAKS).
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{43}")


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the script that completes wgfast's command lines in SHELL.

    \b
    bash:  wgfast completion bash > /etc/bash_completion.d/wgfast
    zsh:   wgfast completion zsh > "${fpath[1]}/_wgfast"
    fish:  wgfast completion fish > ~/.config/fish/completions/wgfast.fish
    """
    from wgfast.cli import wgfast

    click.echo(_CLASSES[shell](wgfast, {}, "wgfast", COMPLETE).source())


def answer() -> int:
    """Prints how the command line in the environment may go on. The exit status."""
    from wgfast.cli import run_command

    for complete in _CLASSES.values():
        add_completion_class(complete)
    return run_command([])


def complete_interfaces(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """For arguments that are interfaces, however many."""
    return suggestions.matching(suggestions.interfaces(), begun)


def complete_configurations(_: click.Context, __: click.Parameter, begun: str) -> list[CompletionItem]:
    """The names of the files in /etc/wireguard, and else any file."""
    names = sorted(path.stem for path in Path(DIRECTORY).glob("*.conf"))
    return suggestions.matching(names, begun) or suggestions.files(begun)


def first_word(begun: str) -> list[CompletionItem]:
    """Without loading the commands, as click would for their help."""
    return [CompletionItem(word) for word in (*COMMANDS, *_OPTIONS) if word.startswith(begun)]


class _Bash(BashComplete):
    def get_completion_args(self) -> tuple[list[str], str]:
        words = split_arg_string(os.environ["COMP_WORDS"])
        return joined(words, int(os.environ["COMP_CWORD"]))

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        if incomplete == "=" and args and _KEY.fullmatch(args[-1]):
            return [CompletionItem("=")]
        return super().get_completions(args, incomplete) if args else first_word(incomplete)


class _Zsh(ZshComplete):
    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        return super().get_completions(args, incomplete) if args else first_word(incomplete)


class _Fish(FishComplete):
    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        return super().get_completions(args, incomplete) if args else first_word(incomplete)


_CLASSES: Final[dict[str, type[ShellComplete]]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


def joined(words: list[str], current: int) -> tuple[list[str], str]:
    """The words before number `current`, and what is there of that one, from words as bash cuts them."""
    before: list[str] = []
    for word in words[1:current]:
        if word == "=" and before and _KEY.fullmatch(before[-1]):
            before[-1] += word
        else:
            before.append(word)
    return before, words[current] if current < len(words) else ""
