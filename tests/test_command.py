"""The command line: what names an interface, what is a command, what is refused and how."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wgfast import _core
from wgfast.__main__ import COMMANDS, main
from wgfast.daemon import check_name
from wgfast.errors import InterfaceError

WGFAST = [sys.executable, "-m", "wgfast"]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WGFAST, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, **environ},
        check=False,
    )


@pytest.mark.parametrize("arguments", [[], ["-x"], ["--verbose", "wg0"], ["wg0", "wg1"], ["-f"], ["--"]])
def test_a_wrong_command_line_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert "usage: wgfast" in printed.err
    assert not printed.out


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert all(command in capsys.readouterr().out for command in ("-f|--foreground",))
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("wgfast ")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["wg0"], ("wg0", False)),
        (["-f", "wg0"], ("wg0", True)),
        (["--foreground", "wg0"], ("wg0", True)),
        (["--", "demo"], ("demo", False)),
        (["-f", "--", "-f"], ("-f", True)),
    ],
)
def test_what_names_an_interface(
    arguments: list[str], expected: tuple[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[tuple[str, bool]] = []

    def note(name: str, foreground: bool) -> int:
        called.append((name, foreground))
        return 0

    monkeypatch.setattr("wgfast.daemon.run", note)
    assert main(arguments) == 0
    assert called == [expected]


@pytest.mark.parametrize("name", ["", "sixteen-bytes-xx", "a/b", "a b", "a:b", ".", "..", "ü" * 8])
def test_a_name_no_interface_can_have(name: str) -> None:
    with pytest.raises(InterfaceError, match="name"):
        check_name(name)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("WG_TUN_FD", "x"), ("WG_TUN_FD", "-1"), ("WG_UAPI_FD", "999"), ("WGFAST_THREADS", "0")],
)
def test_a_bad_environment_is_explained(variable: str, value: str) -> None:
    done = run("-f", "wgfdnone", **{"WG_TUN_FD": "998", variable: value})
    assert done.returncode == 1
    assert variable in done.stderr or "WG_TUN_FD" in done.stderr
    assert "Traceback" not in done.stderr


def test_keys_agree() -> None:
    private = run("genkey").stdout
    public = subprocess.run(
        [*WGFAST, "pubkey"], input=private, capture_output=True, text=True, timeout=20, check=True
    ).stdout
    assert len(private) == len(public) == 45
    assert len(run("genpsk").stdout) == 45
    bad = subprocess.run(
        [*WGFAST, "pubkey"], input="abc", capture_output=True, text=True, timeout=20, check=False
    )
    assert bad.returncode == 1
    assert "expected" in bad.stderr


def test_every_command_explains_itself() -> None:
    for command in COMMANDS:
        done = run(command, "--help")
        assert done.returncode == 0
        assert "Usage: wgfast" in done.stdout


PRINTING = [
    ["--help"],
    ["show", "--help"],
    ["genkey"],
    ["completion", "bash"],
    ["doctor"],
    ["doctor", "--json"],
]


@pytest.mark.parametrize("arguments", PRINTING)
def test_output_that_cannot_be_written_is_said_in_a_line(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*WGFAST, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=20, check=False
        )
    assert (done.returncode, done.stderr) == (1, "wgfast: standard output: No space left on device\n")
    closed = run_by_shell('exec "$@" >&-', *arguments)
    assert (closed.returncode, closed.stderr) == (1, "wgfast: standard output: Bad file descriptor\n")


@pytest.mark.parametrize("arguments", PRINTING)
def test_a_reader_that_has_seen_enough_hears_nothing_more(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        done = subprocess.run(
            [*WGFAST, *arguments], stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=20, check=False
        )
    assert (done.returncode, done.stderr) == (1, "")


def test_strip_into_a_closed_pipe_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text("[Interface]\n")
    done = run_by_shell('"$@" | true; exit ${PIPESTATUS[0]}', "strip", str(path))
    assert (done.returncode, done.stderr) in [(1, ""), (0, "")]  # 0: the pipe took it before `true` ended


def test_without_standard_input() -> None:
    done = run_by_shell('exec "$@" <&-', "pubkey")
    assert done.returncode == 1
    assert "Key is not the correct length" in done.stderr


def run_by_shell(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script, "-", *WGFAST, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_an_interruption_at_any_time_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("wgfast.cli.run_command", interrupted)
    assert main(["show"]) == 130


def test_an_interruption_when_all_is_done_comes_too_late() -> None:
    late = "import atexit, os, signal, sys; from wgfast.__main__ import main; sys.argv = ['', '--version']; "
    late += "atexit.register(os.kill, os.getpid(), signal.SIGINT); sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", late], capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_name_that_was_meant_as_a_command_is_mentioned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("wgfast.daemon.run", lambda *_: 0)
    assert main(["shwo"]) == 0
    assert not capsys.readouterr().err, "scripts hear nothing"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for name in ("wg0", "wg-home", "office", "vpn"):
        assert main([name]) == 0
        assert not capsys.readouterr().err
    assert main(["--", "shwo"]) == 0
    assert not capsys.readouterr().err
    assert main(["shwo"]) == 0
    assert capsys.readouterr().err == (
        "wgfast: shwo is taken for an interface; if `wgfast show` was meant: `ip link delete shwo`\n"
    )


def test_the_doctor_names_the_kernel_in_use() -> None:
    done = run("doctor", COLUMNS="200")
    assert done.returncode == 0
    assert _core.aead_kernel() in done.stdout
    assert "/dev/net/tun" in done.stdout
