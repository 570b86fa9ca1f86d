"""Hooks: run by bash as wg-quick runs them, and never for ever."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from lab.process import alive, wait_until

from wgfast.quick import QuickError, hooks

Reported = list[tuple[str, str]]


def execute(*commands: str, limit: float | None = 10.0, **variables: str) -> Reported:
    reported: Reported = []
    hooks.execute(
        "PostUp", commands, "wg0", variables, lambda mark, text: reported.append((mark, text)), limit
    )
    return reported


def test_in_order_with_the_interface_for_percent_i(tmp_path: Path) -> None:
    out = tmp_path / "out"
    reported = execute(f"echo 1 %i %i >> {out}", f"echo 2 $INTERFACE >> {out}")
    assert out.read_text() == "1 wg0 wg0\n2 wg0\n"
    assert reported == [("#", f"echo 1 wg0 wg0 >> {out}"), ("#", f"echo 2 $INTERFACE >> {out}")]


def test_bash_with_the_options_of_wg_quick(tmp_path: Path) -> None:
    out = tmp_path / "out"
    execute(f"echo $- $SHELLOPTS > {out}; shopt -q extglob; cat <(echo 'it''s') >> {out}")
    flags, substituted = out.read_text().splitlines()
    assert "e" in flags.split()[0]
    assert "pipefail" in flags
    assert substituted == "its"
    for failing in ("false; true", "false | true"):
        with pytest.raises(QuickError, match="PostUp failed with exit status 1"):
            execute(failing)


def test_variables_are_the_shells_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    execute(f'echo "$CONFIG_FILE" > {out}; env >> {out}', CONFIG_FILE='/tmp/it\'s "here" $HOME')
    lines = out.read_text().splitlines()
    assert lines[0] == '/tmp/it\'s "here" $HOME'
    assert not any(line.startswith(("CONFIG_FILE=", "INTERFACE=", "hook=")) for line in lines)
    assert "LC_ALL=C" in lines


def test_wg_is_there_where_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("bash", "cat"):
        (tmp_path / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "out"
    execute(f"wg pubkey < <(wg genkey) > {out}; wg show nobody-here 2>> {out} || echo $? >> {out}")
    key, *said, status = out.read_text().splitlines()
    assert len(key) == 44
    assert "Unable to access interface" in said[0]
    assert status == "1"
    (tmp_path / "wg").write_text("#!/bin/bash\necho real $1\n")
    (tmp_path / "wg").chmod(0o755)
    execute(f"wg genkey > {out}")
    assert out.read_text() == "real genkey\n"


def test_the_first_that_fails_is_the_last_and_its_status_is_ours(tmp_path: Path) -> None:
    with pytest.raises(QuickError) as failure:
        execute("true", "secret=abc; exit 7", f"touch {tmp_path}/never")
    assert failure.value.status == 7
    assert str(failure.value) == "wg0: PostUp (2 of 3) failed with exit status 7"
    assert not (tmp_path / "never").exists()
    with pytest.raises(QuickError) as failure:
        execute("kill -9 $BASHPID")
    assert failure.value.status == 128 + signal.SIGKILL
    with pytest.raises(QuickError, match="ended by signal 40") as failure:
        execute("kill -40 $BASHPID")  # a real-time signal, which Python has no name for
    assert failure.value.status == 128 + 40
    with pytest.raises(QuickError, match="exit status"):
        execute("if then")


def test_the_text_is_in_no_argument(tmp_path: Path) -> None:
    """`ps` shows arguments to everybody."""
    out = tmp_path / "out"
    execute(f"pass=hunter2; tr '\\0' ' ' < /proc/$$/cmdline > {out}")
    shown = out.read_text()
    assert "bash" in shown
    assert "hunter2" not in shown


def test_nothing_is_left_open(tmp_path: Path) -> None:
    """Of what a hook leaves in the background, nothing holds a descriptor of ours."""
    out = tmp_path / "out"
    execute(f"(sleep 0; ls -l /proc/$BASHPID/fd) > {out}")
    assert "memfd" not in out.read_text()


def test_one_that_hangs_is_stopped_with_what_it_waits_for(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin = time.monotonic()
    with pytest.raises(QuickError, match=r"has not ended within 0\.3 s.*WGFAST_HOOK_TIMEOUT") as failure:
        execute(f"sleep 60 & echo $! > {out}; (trap '' TERM; exec sleep 60)", limit=0.3)
    assert failure.value.status == 124
    assert time.monotonic() - begin < 8
    wait_until(lambda: not alive(int(out.read_text())), "what the hook had started is ended")


def test_only_what_it_had_started_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A number may be another process's by the time the second signal comes."""
    sent: list[tuple[int, int]] = []
    really = os.kill

    def kill(pid: int, number: int) -> None:
        sent.append((pid, number))
        really(pid, number)

    monkeypatch.setattr(os, "kill", kill)
    out = tmp_path / "out"
    with pytest.raises(QuickError, match="has not ended"):
        execute(f"sleep 60 & echo $! > {out}; (trap '' TERM; exec sleep 60) & wait", limit=0.3)
    gone = int(out.read_text())
    assert [number for pid, number in sent if pid == gone] == [signal.SIGTERM]
    assert len([number for _, number in sent if number == signal.SIGKILL]) == 1


def test_what_it_left_behind_on_purpose_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    execute(f"sleep 30 >/dev/null & echo $! > {out}")
    pid = int(out.read_text())
    assert alive(pid)
    os.kill(pid, signal.SIGKILL)


def test_an_interruption_ends_it(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def interrupt() -> None:
        wait_until(lambda: out.exists() and out.read_text(), "the hook runs")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        execute(f"echo $BASHPID > {out}; sleep 60")
    thread.join()
    assert not alive(int(out.read_text()))


def test_the_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(hooks.TIMEOUT_VARIABLE, raising=False)
    assert hooks.timeout() == hooks.TIMEOUT
    for text, expected in (("1.5", 1.5), ("0", None), ("", hooks.TIMEOUT)):
        monkeypatch.setenv(hooks.TIMEOUT_VARIABLE, text)
        assert hooks.timeout() == expected
    for text in ("x", "-1", "nan"):
        monkeypatch.setenv(hooks.TIMEOUT_VARIABLE, text)
        with pytest.raises(QuickError, match=f"WGFAST_HOOK_TIMEOUT='{text}'"):
            hooks.timeout()
