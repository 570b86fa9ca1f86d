"""What a daemon waits for: netlink, a watched file, an alarm."""

from __future__ import annotations

import random
import select
import struct
import time
from pathlib import Path

import pytest
from lab.process import wait_until
from lab.topology import Lab

from wgfast import _core
from wgfast.alarm import Alarm
from wgfast.inotify import FileWatch
from wgfast.interface import Interface
from wgfast.monitor import Monitor, News, read_messages

pytest_lab = pytest.mark.lab


def test_a_watch_notices_removal(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    watch = FileWatch(str(path))

    def noticed() -> bool:
        return bool(select.select([watch], [], [], 0)[0])

    assert not noticed()
    with path.open():  # a removed file that somebody has open, as a daemon its socket
        path.unlink()
        assert noticed()
    watch.take()
    watch.take()
    assert not noticed()
    watch.close()


def test_an_alarm_rings_when_due() -> None:
    alarm = Alarm()

    def rings(within: float) -> bool:
        return bool(select.select([alarm], [], [], within)[0])

    assert not rings(0)
    alarm.set(_core.clock_now() + 20_000_000)
    assert not rings(0)
    assert rings(1)
    alarm.ring()
    assert not rings(0)
    alarm.set(0)
    assert rings(1)
    alarm.set(None)
    assert not rings(0.01)
    alarm.close()


def message(kind: int, body: bytes) -> bytes:
    raw = struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body
    return raw + bytes(-len(raw) % 4)


def route(table: int, flags: int = 0) -> bytes:
    return struct.pack("=BBBBBBBBI", 2, 24, 0, 0, table, 2, 0, 1, flags)


@pytest.mark.parametrize(
    ("raw", "links", "sources"),
    [
        (message(20, bytes(8)), False, False),  # an address is added
        (message(21, bytes(8)), False, True),  # and removed
        (message(24, route(254)), False, True),
        (message(25, route(254)), False, True),
        (message(25, route(255)), False, False),  # the local table
        (message(24, route(254, 0x200)), False, False),  # a note on a path's MTU
        (message(32, bytes(12)), False, True),  # a rule
        (message(16, struct.pack("=BxHiII", 0, 1, 5, 0x41, 0)), True, False),
        (message(16, struct.pack("=BxHiII", 0, 1, 5, 0x0, 0)), True, True),
        (message(17, struct.pack("=BxHiII", 0, 1, 5, 0x41, 0)), True, True),
        (message(20, bytes(8)) + message(21, bytes(8)), False, True),
        (message(24, b"")[:17], False, False),
    ],
)
def test_what_netlink_says(raw: bytes, links: bool, sources: bool) -> None:
    news = News()
    read_messages(raw, news)
    assert news == News(links, sources)


def test_no_netlink_message_raises() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    source = random.Random(seed)
    for _ in range(20_000):
        head = struct.pack("=IHHII", source.randrange(40), source.choice((16, 17, 21, 24, 25, 32)), 0, 0, 0)
        read_messages(head + source.randbytes(source.randrange(30)), News())


@pytest_lab
def test_an_interface_s_life(lab: Lab) -> None:
    """State and MTU are seen wherever it is, and that it is gone, also with its namespace."""
    home, away = lab.namespace("home"), lab.namespace("away")
    with home.entered():
        interface = Interface.open("wgfd%d")
        monitor = Monitor()
        interface.follow(monitor)
    name = interface.name
    assert interface.state() is not None
    home.ip(f"link set {name} mtu 9000 up")
    assert wait_news(monitor).links
    state = interface.state()
    assert state is not None
    assert (state.up, state.mtu) == (True, 9000)
    home.ip(f"link set {name} netns {away.name}")
    assert wait_news(monitor).links
    with home.entered():
        interface.follow(monitor)
    monitor.read()
    away.ip(f"link set {name} mtu 1300 up")
    assert wait_news(monitor).links
    state = interface.state()
    assert state is not None
    assert (state.up, state.mtu) == (True, 1300)
    away.ip("link set lo down")
    away.close()
    wait_until(lambda: interface.state() is None, "the interface went with its namespace")
    interface.close()
    monitor.close()


@pytest_lab
def test_an_interface_is_there_or_gone_while_its_namespace_goes(lab: Lab) -> None:
    """There is a while in which it still has a name, but the system says no more where it is."""
    home = lab.namespace("home")
    for number in range(5):
        away = lab.namespace(f"away{number}")
        with home.entered():
            interface = Interface.open("wgfd%d")
        home.ip(f"link set {interface.name} netns {away.name}")
        assert interface.state() is not None
        away.close()
        deadline = time.monotonic() + 5
        while interface.state() is not None:  # without a pause, so that no moment is missed
            assert time.monotonic() < deadline
        interface.close()


def wait_news(monitor: Monitor) -> News:
    news = News()

    def heard() -> bool:
        more = monitor.read()
        news.links |= more.links
        news.sources |= more.sources
        return news.links

    wait_until(heard, "news of an interface")
    return news


@pytest_lab
def test_another_namespace_s_addresses_are_none_of_ours(lab: Lab) -> None:
    home, away = lab.namespace("home"), lab.namespace("away")
    with home.entered():
        interface = Interface.open("wgfd%d")
        monitor = Monitor()
        home.ip(f"link set {interface.name} netns {away.name}")
        interface.follow(monitor)
    monitor.read()
    away.ip(
        "addr add 192.0.2.9/24 dev lo", "addr del 192.0.2.9/24 dev lo", f"link set {interface.name} mtu 1400"
    )
    assert not wait_news(monitor).sources
    home.ip("addr add 192.0.2.9/24 dev lo", "addr del 192.0.2.9/24 dev lo")
    wait_until(lambda: monitor.read().sources, "an address that went at home")
    interface.close()
    monitor.close()
