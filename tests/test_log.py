"""What the daemon says: to people as ever, to programs one JSON object a line."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from devicepair import eventually
from test_daemon import Handed

from wgfast import ConfigError, log
from wgfast.keys import PublicKey

KEYS = {"time", "level", "interface", "peer", "event", "message", "fields"}
LOGGER = logging.getLogger("wgfast")


@pytest.fixture
def stream(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Gives what was written since the test began; afterwards logging is configured as it was."""
    loggers = (LOGGER, log.LOUD)
    before = [(each.handlers[:], each.propagate, each.level) for each in loggers]
    yield lambda: capsys.readouterr().err
    for each, (handlers, propagate, level) in zip(loggers, before, strict=True):
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)


def objects(text: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    assert all(set(each) == KEYS for each in found)
    return found


def test_text_is_what_it_was(stream: Callable[[], str]) -> None:
    log.configure("error")
    LOGGER.error("%s: peer(%s): cannot", "wg0", "AbCd…WxYz", extra=log.about("x", peer="AbCd…WxYz", a=1))
    LOGGER.debug("unseen")
    head, _, rest = stream().partition(" ERROR: ")
    assert rest == "wg0: peer(AbCd…WxYz): cannot\n"
    datetime.strptime(head, "%Y-%m-%d %H:%M:%S,%f")


def test_a_line_is_an_object(stream: Callable[[], str]) -> None:
    log.configure("verbose", "json")
    before = datetime.now(timezone.utc)
    LOGGER.debug(
        "%s: peer(%s) - Roamed to %s", "wg0", "AbCd…WxYz", "192.0.2.1:9",
        extra=log.about("roamed", peer="AbCd…WxYz", endpoint="192.0.2.1:9", at=3),
    )  # fmt: skip
    (found,) = objects(stream())
    at = datetime.fromisoformat(found.pop("time").replace("Z", "+00:00"))
    assert before <= at <= datetime.now(timezone.utc)
    assert found == {
        "level": "debug",
        "interface": "wg0",
        "peer": "AbCd…WxYz",
        "event": "roamed",
        "message": "wg0: peer(AbCd…WxYz) - Roamed to 192.0.2.1:9",
        "fields": {"endpoint": "192.0.2.1:9", "at": 3},
    }


def test_whatever_is_logged_stays_one_line_of_json(stream: Callable[[], str]) -> None:
    log.configure("debug", "json")
    LOGGER.error("no arguments: 100 %")
    LOGGER.error('%s: two\nlines \x1b \ud800 " \\', "wg\n0")
    LOGGER.error("%d: %s", 1, object(), extra=log.about("x", thing=object()))
    try:
        raise ZeroDivisionError("a mistake\nof two lines")
    except ZeroDivisionError:
        LOGGER.exception("%s: control plane", "wg0")
    found = objects(stream())
    assert len(found) == 4
    assert [each["interface"] for each in found] == [None, "wg\n0", None, "wg0"]
    assert all(each["event"] == ("x" if i == 2 else None) for i, each in enumerate(found))
    assert "ZeroDivisionError: a mistake\nof two lines" in found[3]["fields"]["exception"]


@pytest.mark.parametrize("wrong", ["xml", "JSON", " json"])
def test_another_format_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="expected text or json"):
        log.parse_format(wrong)
    assert log.parse_format("") == "text"


@pytest.mark.parametrize(
    ("level", "shown"),
    [("silent", []), ("error", ["error", "loud"]), ("", ["error", "loud"]),
     ("verbose", ["error", "loud", "warning", "debug"])],
)  # fmt: skip
def test_what_is_shown_at_which_level(stream: Callable[[], str], level: str, shown: list[str]) -> None:
    log.configure(level, "json")
    LOGGER.error("error")
    log.LOUD.warning("loud")
    LOGGER.warning("warning")
    LOGGER.debug("debug")
    assert [each["message"] for each in objects(stream())] == shown


# ---- a daemon ----


def test_a_daemon_in_json(tmp_path: Path) -> None:
    """Every line of its life, with a handshake that fails for want of somebody who answers."""
    handed = Handed(tmp_path, WGFAST_LOG_FORMAT="json", LOG_LEVEL="debug")
    key = "09" + "00" * 31
    try:
        set_peer = f"public_key={key}\nendpoint=127.0.0.1:9\npersistent_keepalive_interval=1\n"
        assert handed.ask(f"set=1\nprivate_key={'41' * 32}\n{set_peer}\n") == "errno=0\n\n"
        assert handed.ask("set=1\nlisten_port=x\n\n") != "errno=0\n\n"
        named = f"set=1\npublic_key={key}\nendpoint_host=a..b:1\n\n"  # what no name server needs to be asked
        assert handed.ask(named) == "errno=0\n\n"
        eventually(lambda: "unresolved" in handed.log.read_text())
        handed.process.send_signal(signal.SIGTERM)
        assert handed.process.wait(5) == 0
    finally:
        handed.close()
    text = handed.log.read_text()
    found = objects(text)
    assert {each["interface"] for each in found} == {"handed0"}
    events = [each["event"] for each in found]
    for event in ("started", "up", "uapi_refused", "unresolved", "stopping", "stopped"):
        assert event in events
    unresolved = found[events.index("unresolved")]
    assert unresolved["level"] == "error"
    assert unresolved["peer"] == PublicKey(bytes.fromhex(key)).short
    assert unresolved["fields"]["endpoint_host"] == "a..b:1"
    assert "41" * 8 not in text


def test_a_format_there_is_none_of_is_no_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wgfast", "-f", "wgl0"],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, "WGFAST_LOG_FORMAT": "xml"},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "wgfast: WGFAST_LOG_FORMAT='xml': expected text or json\n"
