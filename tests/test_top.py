"""top: rates from two recorded states, what is drawn of them, and the live command beside the real `wg`."""

from __future__ import annotations

import base64
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from io import StringIO

import pytest
from lab.programs import SUBJECT
from lab.topology import Lab
from lab.traffic import ping, wait_ping
from rich.console import Console

from wgfast._core import DROP_NAMES, DROP_TEXTS, Endpoint
from wgfast.cli import schema
from wgfast.cli.top import document
from wgfast.cli.top_rates import InterfaceView, Snapshot, compare
from wgfast.cli.top_screen import bytes_text, duration_text, screen
from wgfast.client_state import DeviceState, PeerState, PeerStatistics, Statistics
from wgfast.reading import Reading

WGFAST = [sys.executable, "-m", "wgfast"]
ALICE, BOB, CAROL = (bytes([n]) * 32 for n in (1, 2, 3))
WALL = 1_800_000_000.0


def peer(key: bytes, received: int = 0, sent: int = 0, handshake: float | None = None) -> PeerState:
    at = (0, 0) if handshake is None else (int(handshake), 500_000_000)
    return PeerState(
        key,
        received_bytes=received,
        sent_bytes=sent,
        last_handshake=at,
        endpoint=Endpoint("192.0.2.1", 51820),
    )


def snapshot(at: float, *peers: PeerState, drops: Mapping[str, int] | None = None) -> Snapshot:
    statistics = None
    if drops is not None:
        extra = {each.public_key: PeerStatistics(staged=3) for each in peers}
        statistics = Statistics("1", 1, sessions=2, aead_kernel="portable", drops=dict(drops), peers=extra)
    state = DeviceState("wg0", b"S" * 32, b"P" * 32, 51820, peers=list(peers))
    return Snapshot(at, WALL + at, [Reading("wg0", state, statistics)])


# ---- rates ----


def test_rates_are_what_came_since_by_the_time_that_passed() -> None:
    before = snapshot(
        10.0, peer(ALICE, 1000, 500), peer(BOB, 7, 7), drops={"send_no_peer": 10, "send_loop": 0}
    )
    now = snapshot(
        12.5, peer(ALICE, 6000, 500), peer(BOB, 7, 1007), drops={"send_no_peer": 15, "send_loop": 0}
    )
    (view,) = compare(before, now)
    assert (view.rates.received, view.rates.sent) == (2000.0, 400.0)
    assert [(each.state.public_key, each.rates.received, each.rates.sent) for each in view.peers] == [
        (ALICE, 2000.0, 0.0),
        (BOB, 0.0, 400.0),
    ]
    (drop,) = view.drops
    assert (drop.reason, drop.count, drop.rate) == ("send_no_peer", 15, 2.0)


def test_the_first_look_has_no_rates_and_the_same_moment_neither() -> None:
    now = snapshot(1.0, peer(ALICE, 1000, 500), drops={"send_loop": 2})
    for before in (None, now):
        (view,) = compare(before, now)
        assert (view.rates.received, view.rates.sent) == (None, None)
        assert view.peers[0].rates.received is None
        assert (view.drops[0].count, view.drops[0].rate) == (2, None)


def test_a_counter_that_began_again_counts_from_zero() -> None:
    """A daemon that was started anew, a peer that was removed and added, a peer that is new."""
    before = snapshot(0.0, peer(ALICE, 10_000, 10_000), drops={"send_loop": 100})
    now = snapshot(1.0, peer(ALICE, 50, 10_001), peer(BOB, 30, 0), drops={"send_loop": 4})
    (view,) = compare(before, now)
    assert [(each.rates.received, each.rates.sent) for each in view.peers] == [(50.0, 1.0), (30.0, 0.0)]
    assert view.drops[0].rate == 4.0


def test_the_busiest_come_first_then_who_shook_hands_last() -> None:
    before = snapshot(0.0, peer(ALICE), peer(BOB), peer(CAROL))
    now = snapshot(1.0, peer(ALICE), peer(BOB, handshake=WALL - 9), peer(CAROL, sent=1))
    (view,) = compare(before, now)
    assert [each.state.public_key for each in view.peers] == [CAROL, BOB, ALICE]
    assert [each.handshake_age for each in view.peers] == [None, 9.5, None]


def test_a_clock_that_was_set_back_makes_no_negative_age() -> None:
    (view,) = compare(None, snapshot(0.0, peer(ALICE, handshake=WALL + 100)))
    assert view.peers[0].handshake_age == 0.0


def test_an_interface_that_goes_and_comes() -> None:
    gone = Snapshot(1.0, WALL, [Reading("wg0", None, problem="No such device")])
    here = snapshot(2.0, peer(ALICE, 100))
    (view,) = compare(snapshot(0.0, peer(ALICE, 50)), gone)
    assert view.reading.problem == "No such device"
    (view,) = compare(gone, here)
    assert view.rates.received is None
    assert compare(here, Snapshot(3.0, WALL, [])) == []


# ---- what is drawn ----


def draw(views: list[InterfaceView], height: int | None = None, **names: Mapping[bytes, str]) -> list[str]:
    file = StringIO()
    known: defaultdict[str, Mapping[bytes, str]] = defaultdict(dict, names)
    Console(file=file, width=140).print(screen(views, known, height))
    return [line.rstrip() for line in file.getvalue().splitlines() if line.strip()]


def test_what_is_drawn() -> None:
    before = snapshot(0.0, peer(ALICE, handshake=WALL - 9), peer(BOB), drops={"receive_forged": 1})
    now = snapshot(1.0, peer(ALICE, 3 << 20, 100, WALL - 9), peer(BOB), drops={"receive_forged": 3})
    head, titles, alice, bob, drop = draw(compare(before, now), wg0={ALICE: "alice [home]"})
    assert head == "wg0  2 peers, port 51820, 2 sessions, portable  in 3.0 MiB/s, out 100 B/s"
    assert titles.split() == ["peer", "endpoint", "handshake", "in/s", "out/s", "in", "out", "waiting"]
    assert alice.split("  ")[0] == f"alice [home] ({base64.b64encode(ALICE).decode()[:8]})"
    assert alice.split()[3:] == [
        "192.0.2.1:51820",
        "9s",
        "3.0",
        "MiB",
        "100",
        "B",
        "3.0",
        "MiB",
        "100",
        "B",
        "3",
    ]
    assert bob.split()[:3] == [base64.b64encode(BOB).decode()[:12], "192.0.2.1:51820", "never"]
    text = DROP_TEXTS[DROP_NAMES.index("receive_forged")]
    assert drop == f"dropped 3 (2.0/s): {text} [receive_forged]"


def test_nothing_and_what_cannot_be_asked() -> None:
    assert draw([]) == ["no WireGuard interface is up"]
    gone = Snapshot(1.0, WALL, [Reading("wg0", None, problem="No such device")])
    assert draw(compare(None, gone)) == ["wg0: No such device"]


@pytest.mark.parametrize("height", [8, 24, 50])
def test_many_peers_fit_into_a_terminal(height: int) -> None:
    many = [peer(n.to_bytes(32, "big"), sent=n) for n in range(1, 1001)]
    drops = dict.fromkeys(DROP_NAMES, 5)
    lines = draw(compare(None, snapshot(0.0, *many, drops=drops)), height)
    assert len(lines) <= max(height, 10)
    assert any(line.startswith("and 9") and line.endswith("quieter") for line in lines)
    assert len(draw(compare(None, snapshot(0.0, *many)))) == 1002


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1024, "1.0 KiB"),
        (102_400, "100 KiB"),
        (5 << 30, "5.0 GiB"),
    ],
)
def test_bytes(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0s"), (59, "59s"), (61, "1m 1s"), (7322, "2h 2m"), (90_000, "1d 1h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


# ---- JSON ----


def test_json_is_the_schemas_with_rates_and_without_secrets() -> None:
    before = snapshot(0.0, peer(BOB), peer(ALICE), drops={"send_loop": 0})
    now = snapshot(2.0, peer(BOB), peer(ALICE, 100, 40), drops={"send_loop": 6, "send_down": 0})
    found = document(now, compare(before, now), {"wg0": {ALICE: "alice"}})
    (interface,) = found["interfaces"]
    reading = now.readings[0]
    assert reading.state
    plain = schema.interface_object(reading.state, reading.statistics, names={ALICE: "alice"})
    assert {name: interface[name] for name in plain if name not in ("peers", "wgfast")} == {
        name: value for name, value in plain.items() if name not in ("peers", "wgfast")
    }
    assert (interface["received_rate"], interface["sent_rate"]) == (50.0, 20.0)
    bob, alice = interface["peers"]  # in the interface's order
    assert (bob["received_rate"], bob["sent_rate"]) == (0.0, 0.0)
    assert (alice["name"], alice["received_rate"], alice["sent_rate"]) == ("alice", 50.0, 20.0)
    assert interface["wgfast"]["drop_rates"] == {"send_loop": 3.0}
    assert found["time"] == WALL + 2
    assert base64.b64encode(b"S" * 32).decode() not in json.dumps(found)


# ---- the command ----


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WGFAST, "top", *arguments], capture_output=True, text=True, timeout=20, check=False,
        env={**os.environ, "COLUMNS": "160"},
    )  # fmt: skip


def test_an_interface_that_is_none_is_refused() -> None:
    done = run("--once", "wgnone0")
    assert done.returncode == 1
    assert "Unable to access interface" in done.stderr


@pytest.mark.lab
def test_it_shows_what_wg_shows(lab: Lab) -> None:
    tunnel = lab.tunnel(SUBJECT, "wireguard-go")
    one, other = tunnel.ends
    wait_ping(one.namespace, other.address)
    done = run("--json", "--once", "-i", "0.2", one.interface, other.interface)
    assert (done.returncode, done.stderr) == (0, "")
    interfaces = json.loads(done.stdout)["interfaces"]
    assert [each["name"] for each in interfaces] == [one.interface, other.interface]
    for end, interface in zip(tunnel.ends, interfaces, strict=True):
        (shown,) = interface["peers"]
        received, sent = end.show("transfer")[tunnel.other(end).public_key].split("\t")
        assert (shown["received_bytes"], shown["sent_bytes"]) == (int(received), int(sent))
        assert ("wgfast" in interface) == (end is one)
    text = run("--once", "-i", "0.2").stdout
    assert one.interface in text
    assert other.public_key[:12] in text


@pytest.mark.lab
def test_every_interval_is_a_line_with_the_rates_of_the_time(lab: Lab) -> None:
    tunnel = lab.tunnel(SUBJECT, "wireguard-go")
    one, other = tunnel.ends
    wait_ping(one.namespace, other.address)
    command = [*WGFAST, "top", "--json", "-i", "0.3", one.interface]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        first = json.loads(process.stdout.readline())
        assert ping(one.namespace, other.address, count=5, interval=0.01, size=1000).received == 5
        later = first
        total = 0.0
        deadline = time.monotonic() + 5
        while total < 5 * 1000 and time.monotonic() < deadline:
            before, later = later, json.loads(process.stdout.readline())
            total += later["interfaces"][0]["sent_rate"] * (later["time"] - before["time"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    counted = (
        later["interfaces"][0]["peers"][0]["sent_bytes"] - first["interfaces"][0]["peers"][0]["sent_bytes"]
    )
    assert total == pytest.approx(counted, rel=0.05)
    assert counted >= 5 * 1060


@pytest.mark.lab
def test_a_terminal_is_drawn_on_and_left_as_it_was(lab: Lab) -> None:
    one, _ = lab.tunnel(SUBJECT, "wireguard-go").ends
    master, slave = pty.openpty()
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    with subprocess.Popen([*WGFAST, "top", "-i", "0.1"], stdout=slave, stdin=slave, env=environ) as process:
        os.close(slave)
        seen = b""
        while seen.count(one.interface.encode()) < 3:
            assert select.select([master], [], [], 5)[0]
            seen += os.read(master, 1 << 16)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                seen += os.read(master, 1 << 16)
            except OSError:  # EIO: closed on the other side
                break
    os.close(master)
    assert process.returncode == 0
    assert b"\x1b[?1049h" in seen  # the screen of its own, and back
    assert b"\x1b[?1049l" in seen.rpartition(b"\x1b[?1049h")[2]
    assert seen.rstrip().endswith(b"l")
    assert b"Traceback" not in seen


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m wgfast top --json -i 0.1 | head -n 1"],
        capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["schema"] == schema.VERSION
    assert not done.stderr
