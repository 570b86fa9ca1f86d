"""The demo: that it shows a tunnel that works, and fails where one does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lab.process import run
from rich.console import Console

from wgfast.cli import demo

DEMO = [sys.executable, "-m", "wgfast", "demo"]


def test_the_demo_shows_a_table(tmp_path: Path) -> None:
    """As anybody, without /dev/net/tun: as one command, its output going to a file."""
    done = subprocess.run(
        [*DEMO, "--megabytes", "1", "--no-namespaces"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"handshake\s.*\d ms", done.stdout)
    assert len(re.findall(r"UDP on loopback, . to .\s.*Gbit/s: \d+ packets", done.stdout)) == 2
    assert re.search(r"drops by reason, UDP\s.*none", done.stdout)
    assert re.search(r"crypto kernel\s.*\w", done.stdout)
    assert "\x1b" not in done.stdout


def test_a_payload_of_any_size() -> None:
    for size in (1, demo.PACKET_SIZE - 28, demo.PACKET_SIZE - 27, 100_000):
        with demo.progress_bar(Console(quiet=True)) as progress:
            result = demo.demonstrate(os.urandom(size), progress)
        assert [transfer.size for transfer in result.transfers] == [size, size]
        assert not any(result.drops.values())


@pytest.mark.parametrize(
    "spoil",
    [lambda raw: raw[:-1] + bytes((raw[-1] ^ 1,)), lambda raw: raw[:-1]],
    ids=["one bit", "one byte less"],
)
def test_a_changed_payload_fails(
    spoil: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is compared is what was to be sent, so spoiling what is sent must be noticed."""
    size = 100_000
    genuine = demo.carry

    def carry(transfer: demo.Transfer, payload: bytes, source: object, *rest: object) -> None:
        genuine(transfer, payload, Spoiler(source, spoil), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(demo, "carry", carry)
    assert demo.run_demo(size, False) == 1
    assert "failed" in capsys.readouterr().out


class Spoiler:
    """A socket whose tenth packet is changed as it is sent."""

    def __init__(self, genuine: object, spoil: Callable[[bytes], bytes]) -> None:
        self._genuine = genuine
        self._spoil = spoil
        self._count = 0

    def sendmsg(self, parts: tuple[bytes, bytes]) -> int:
        self._count += 1
        head, piece = parts[0], bytes(parts[1])
        if self._count == 10:
            spoilt = self._spoil(piece)
            head = demo._header(*demo.ADDRESSES, len(spoilt)) if len(spoilt) != len(piece) else head
            piece = spoilt
        return int(self._genuine.sendmsg((head, piece)))  # type: ignore[attr-defined]


@pytest.mark.lab
def test_the_demo_as_root_leaves_nothing_behind() -> None:
    from lab.programs import require_lab

    require_lab()
    done = subprocess.run(
        [*DEMO, "--megabytes", "2"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COLUMNS": "160"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"TCP, two daemons, . to .\s.*Gbit/s", done.stdout)) == 2
    assert "wgfast-demo-" not in run(["ip", "netns"]).stdout


def test_the_readme_s_program_runs() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "PeerStats" in done.stdout
