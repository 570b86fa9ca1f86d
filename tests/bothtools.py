"""One command line, given to `wg` and to wgfast; what each says."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pytest
from playeddaemon import PlayedDaemon
from uapioracle import outcome

from wgfast import client_names, uapi
from wgfast.__main__ import main

NO_RETRIES = {client_names.RETRIES_VARIABLE: "0"}


class Said(NamedTuple):
    status: int
    out: str
    err: str


def wg(*words: str, environ: Mapping[str, str] | None = None) -> Said:
    """Its usage is shown in wgfast's name, so that the two can be compared."""
    done = subprocess.run(
        ["wg", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=20,
        env={**os.environ, **(environ or {})},
        check=False,
    )
    return Said(done.returncode, done.stdout, done.stderr.replace("Usage: wg ", "Usage: wgfast "))


class Wgfast:
    """The command in this process: hundreds of lines take a second, not a minute."""

    def __init__(self, capture: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capture = capture
        self._monkeypatch = monkeypatch

    def __call__(self, *words: str, environ: Mapping[str, str] | None = None) -> Said:
        self._capture.readouterr()
        with self._monkeypatch.context() as patch:
            for name, value in (environ or {}).items():
                patch.setenv(name, value)
            status = main(list(words))
        out, err = self._capture.readouterr()
        return Said(status, out, without_hints(err))


def without_hints(err: str) -> str:
    """wgfast's lines of its own, which say what to do, come after those it shares with `wg`."""
    return "".join(line for line in err.splitlines(True) if not line.startswith("wgfast: "))


def compare(
    wgfast: Wgfast, words: Sequence[str], environ: Mapping[str, str] | None = None
) -> tuple[Said, Said]:
    """What each says of the same state, `wg` first. A difference must last: a clock's second may have gone
    by, a packet have come, another's interface have gone."""
    for _ in range(5):
        theirs, ours = wg(*words, environ=environ), wgfast(*words, environ=environ)
        if ours == theirs:
            break
    return theirs, ours


class Asked:
    """A command of both tools at the same played daemon: what each asked of it, and what it said."""

    def __init__(self, played: PlayedDaemon, wgfast: Wgfast, words: list[str]) -> None:
        played.take_sets()
        self.theirs = wg(*words, environ=NO_RETRIES)
        self.theirs_asked = [self._parsed(text) for text in played.take_sets()]
        self.ours = wgfast(*words, environ=NO_RETRIES)
        self.ours_asked = [self._parsed(text) for text in played.take_sets()]

    @staticmethod
    def _parsed(text: str) -> uapi.SetRequest:
        # As the daemon reads it: host bits, which wg leaves to it, and spelling do not count.
        request = outcome(text.removeprefix("set=1\n")[:-1].encode())
        assert isinstance(request, uapi.SetRequest), request
        return request
