"""Completion, asked through bash as a user's TAB does, and zsh's and fish's answers word by word."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from lab.programs import require
from lab.topology import Lab

from wgfast.__main__ import COMMANDS
from wgfast.cli.completion import joined

BIN = str(Path(sys.executable).parent)
KEY = "A" * 43 + "="


def bash(script: str, **environ: str) -> str:
    require("bash")
    path = f"{BIN}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", f'eval "$(wgfast completion bash)"; {script}'],
        capture_output=True, text=True, timeout=20, check=False, env={**os.environ, "PATH": path, **environ},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def complete(*words: str) -> list[str]:
    """What bash offers for the last of the words; it cuts them as COMP_WORDBREAKS says."""
    return complete_each(list(words))[0]


def complete_each(*lines: list[str]) -> list[list[str]]:
    script = []
    for line in lines:
        words = " ".join(map(shlex.quote, ["wgfast", *line]))
        script.append(
            f"COMP_WORDS=({words}); COMP_CWORD={len(line)}; COMPREPLY=(); _wgfast_completion wgfast; "
            'printf "%s\\n" "${COMPREPLY[@]}" .'
        )
    answers = bash("; ".join(script)).split(".\n")[: len(lines)]
    return [answer.split() for answer in answers]


def test_bash_completes_commands_options_and_choices() -> None:
    first, begun, options, shells, wrong = complete_each(
        [""], ["gen"], ["capture", "--c"], ["completion", ""], ["nonsense", ""]
    )
    assert set(COMMANDS) <= set(first)
    assert begun == ["genkey", "genpsk"]
    assert options == ["--count"]
    assert shells == ["bash", "zsh", "fish"]
    assert not set(wrong) - set(COMMANDS)


def test_bash_has_it_registered() -> None:
    assert "-F _wgfast_completion wgfast" in bash("complete -p wgfast")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_script_is_the_shells_own(shell: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wgfast", "completion", shell],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert f"_WGFAST_COMPLETE={shell}_complete" in done.stdout
    assert {"bash": "complete -o nosort", "zsh": "#compdef wgfast", "fish": "function _wgfast_completion"}[
        shell
    ] in done.stdout


def ask(shell: str, words: str, current: str) -> list[str]:
    asked = {"_WGFAST_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": current}
    done = subprocess.run(
        [sys.executable, "-m", "wgfast"],
        capture_output=True, text=True, timeout=20, check=True, env={**os.environ, **asked},
    )  # fmt: skip
    assert not done.stderr
    return done.stdout.split()


def test_zsh_and_fish_are_answered_in_their_forms() -> None:
    assert ask("zsh", "wgfast pub", "1") == ["plain", "pubkey", "_"]
    assert ask("fish", "wgfast pub", "pub") == ["plain,pubkey"]
    assert ask("fish", "wgfast completion f", "f") == ["plain,fish"]


@pytest.mark.parametrize(
    ("words", "current", "expected"),
    [
        (["wgfast", "show", "w"], 2, (["show"], "w")),
        (["wgfast", "show"], 2, (["show"], "")),
        # bash makes a word of the = that ends a key.
        (["wgfast", "set", "wg0", "peer", KEY[:-1], "=", "en"], 6, (["set", "wg0", "peer", KEY], "en")),
        (["wgfast", "set", "wg0", "peer", KEY[:-1], "=", ""], 6, (["set", "wg0", "peer", KEY], "")),
        (["wgfast", "capture", "--size", "="], 4, (["capture", "--size", "="], "")),
    ],
)
def test_words_as_bash_cuts_them(words: list[str], current: int, expected: tuple[list[str], str]) -> None:
    assert joined(words, current) == expected


@pytest.mark.lab
def test_interfaces_and_peers_are_offered(lab: Lab) -> None:
    tunnel = lab.tunnel("wgfast", "wgfast")
    one, other = tunnel.ends
    begun = one.interface[:-1]
    bare = other.public_key[:-1]
    names, many, peers, after = complete_each(
        ["show", begun],
        ["top", one.interface, begun],
        ["set", one.interface, "peer", bare[:5]],
        ["set", one.interface, "peer", bare, "=", "allow"],
    )
    assert sorted(names) == sorted([one.interface, other.interface])
    assert sorted(many) == sorted([one.interface, other.interface])
    assert peers == [other.public_key]
    assert after == ["allowed-ips"]
