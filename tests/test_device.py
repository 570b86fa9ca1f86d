"""Devices over real UDP on loopback; inside, Unix sockets that carry whole IP packets, nobody needs root."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from devicepair import PATIENCE, End, Tunnel, driven, eventually
from forking import forked

from wgfast import (
    ClosedError,
    Device,
)
from wgfast.control import News
from wgfast.testing import packet


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def tunnel(request: pytest.FixtureRequest) -> Iterator[Tunnel]:
    made = Tunnel(threads=request.param)
    yield made
    made.close()


# ---- traffic ----


def test_packets_arrive_both_ways(tunnel: Tunnel) -> None:
    with driven(tunnel):
        for size in (0, 1, 100, 1392):
            tunnel.exchange(os.urandom(size))
        stats = tunnel.to_b.stats
        assert (stats.sent_packets, stats.received_packets) == (4, 4)
        assert stats.session_age is not None
        assert 0 <= stats.session_age < PATIENCE
        assert stats.last_handshake is not None
        assert abs(stats.last_handshake - time.time()) < PATIENCE
        assert stats.staged == 0
        endpoint = tunnel.to_a.endpoint
        assert endpoint
        assert (endpoint.host, endpoint.port) == ("127.0.0.1", tunnel.a.device.listen_port)
        assert not any(tunnel.a.device.drops().values())


def test_datagram_sockets_serve_as_well() -> None:
    with contextlib.closing(Tunnel(kind=socket.SOCK_DGRAM, threads=1)) as tunnel, driven(tunnel):
        tunnel.exchange()


def test_an_mtu_up_to_what_a_datagram_carries() -> None:
    with contextlib.closing(Tunnel(threads=1, mtu=9000)) as tunnel, driven(tunnel):
        assert tunnel.a.device.mtu == 9000
        tunnel.exchange(os.urandom(9000 - 28))
        tunnel.a.device.mtu = tunnel.b.device.mtu = 60000
        tunnel.exchange(os.urandom(60000 - 28))


def test_asyncio_runs_the_control_plane_and_the_handlers(tunnel: Tunnel) -> None:
    async def run() -> list[News]:
        loop = asyncio.get_running_loop()
        happened: asyncio.Queue[News] = asyncio.Queue()
        thread = threading.get_ident()

        def note(news: News) -> None:
            assert threading.get_ident() == thread
            happened.put_nowait(news)

        tunnel.a.device.on("handshake", note)
        tunnel.b.device.on("handshake", note)
        async with tunnel.a.device, tunnel.b.device:
            sent = tunnel.a.says(tunnel.b, b"hello")
            tunnel.b.inner.setblocking(False)
            assert await asyncio.wait_for(loop.sock_recv(tunnel.b.inner, 65536), PATIENCE) == sent
            return [await asyncio.wait_for(happened.get(), PATIENCE) for _ in range(2)]

    tunnel.connect()
    expected = {(tunnel.a.key, 0), (tunnel.b.key, 1)}
    assert {(item.peer, item.value) for item in asyncio.run(run())} == expected
    with pytest.raises(ClosedError):
        tunnel.a.device.process()


def test_whoever_has_a_loop_of_their_own_polls_and_processes() -> None:
    with contextlib.closing(Tunnel(threads=1)) as tunnel:
        tunnel.connect()
        poll = select.poll()
        devices = {device.fileno(): device for device in (tunnel.a.device, tunnel.b.device)}
        for fd in devices:
            poll.register(fd, select.POLLIN)
        poll.register(tunnel.b.inner, select.POLLIN)
        sent = tunnel.a.says(tunnel.b, b"polled")
        for _ in range(100):
            ready = dict(poll.poll(PATIENCE * 1000))
            if tunnel.b.inner.fileno() in ready:
                break
            for fd in ready:
                deadline = devices[fd].process()
                assert deadline is None or deadline > devices[fd].now()
        assert tunnel.b.inner.recv(65536) == sent


def test_one_driver_is_enough(tunnel: Tunnel) -> None:
    with driven(tunnel):
        with pytest.raises(RuntimeError, match="runs already"):
            tunnel.a.device.__enter__()
        tunnel.exchange()


def test_handshakes_by_hand(tunnel: Tunnel) -> None:
    with driven(tunnel):
        done = threading.Event()
        tunnel.b.device.on("handshake", lambda _: done.set())
        tunnel.to_b.handshake()
        assert done.wait(PATIENCE)


def test_an_endpoint_inside_its_own_tunnel_is_named_once_in_ten_seconds(
    tunnel: Tunnel, caplog: pytest.LogCaptureFixture
) -> None:
    """The host routes the endpoint into the tunnel, so our own datagrams come back as inner packets."""
    looped: list[News] = []
    tunnel.a.device.on("loop", looped.append)
    with caplog.at_level(logging.WARNING, "wgfast"), driven(tunnel):
        tunnel.exchange()
        tunnel.to_b.allow("127.0.0.1/32")
        port = tunnel.b.device.listen_port
        inner = packet("127.0.0.1", "127.0.0.1", b"our own datagram")
        inner = inner[:20] + struct.pack(">HH", tunnel.a.device.listen_port, port) + inner[24:]
        for _ in range(5):
            tunnel.a.inner.send(inner)
        eventually(lambda: tunnel.a.device.drops()["send_loop"] == 5 and looped)
        tunnel.exchange()
    assert [news.peer for news in looped] == [tunnel.to_b.public_key]
    named = [record for record in caplog.records if "its own tunnel" in record.message]
    assert len(named) == 1
    assert tunnel.to_b.public_key.short in named[0].message


def test_an_interface_that_vanishes_is_news(tunnel: Tunnel) -> None:
    gone = threading.Event()
    tunnel.a.device.on("tun_gone", lambda _: gone.set())
    with driven(tunnel):
        tunnel.exchange()
        tunnel.a.inner.close()
        assert gone.wait(PATIENCE)
        tunnel.b.inner.send(packet("10.0.0.2", "10.0.0.1", b"to nobody"))
        eventually(lambda: tunnel.a.device.drops()["receive_inner_refused"])


# ---- fork, handlers, closing ----


def test_a_forked_child_is_told(tunnel: Tunnel) -> None:
    with driven(tunnel):
        tunnel.exchange()
        device = tunnel.a.device
        uses: list[Callable[[], object]] = [
            device.process,
            device.fileno,
            device.up,
            device.down,
            device.drops,
            device.statistics,
            lambda: device.private_key,
            lambda: device.public_key,
            lambda: device.listen_port,
            lambda: device.configured_port,
            lambda: device.fwmark,
            lambda: device.mtu,
            device.__enter__,
            lambda: device.set_listen_port(0),
            lambda: device.set_fwmark(1),
            lambda: device.set_private_key(None),
            lambda: device.add_peer(os.urandom(32)),
            lambda: device.on("load", print),
            lambda: len(device.peers),
            lambda: tunnel.to_b.stats,
            lambda: tunnel.to_b.allowed_ips,
            tunnel.to_b.handshake,
            tunnel.to_b.remove,
        ]
        assert [forked(use) for use in uses] == ["ForkedError"] * len(uses)
        assert forked(device.close) == ""
        tunnel.exchange()


def test_a_handler_that_raises_harms_nobody(tunnel: Tunnel, caplog: pytest.LogCaptureFixture) -> None:
    def broken(news: News) -> None:
        raise RuntimeError("broken handler")

    tunnel.b.device.on("handshake", broken)
    with caplog.at_level(logging.ERROR, "wgfast"), driven(tunnel):
        tunnel.exchange()
        eventually(lambda: tunnel.b.device.statistics().handler_errors == 1)
        tunnel.exchange()
    assert "broken handler" in caplog.text


def test_a_handler_may_close_its_device(tunnel: Tunnel) -> None:
    closed = threading.Event()

    def close(news: News) -> None:
        tunnel.b.device.close()
        closed.set()

    tunnel.b.device.on("handshake", close)
    with driven(tunnel):
        tunnel.a.says(tunnel.b, b"the last thing it hears")
        assert closed.wait(PATIENCE)
        eventually(lambda: repr(tunnel.b.device).endswith("closed>"))
    with pytest.raises(ClosedError):
        tunnel.b.device.process()


def test_a_handler_may_change_its_device(tunnel: Tunnel) -> None:
    added = threading.Event()

    def add(news: News) -> None:
        tunnel.b.device.add_peer(os.urandom(32), allowed_ips="10.9.0.0/16")
        added.set()

    tunnel.b.device.on("handshake", add)
    with driven(tunnel):
        tunnel.exchange()
        assert added.wait(PATIENCE)
        assert len(tunnel.b.device.peers) == 2


def test_closing_under_traffic(tunnel: Tunnel) -> None:
    stop = threading.Event()

    def shout(end: End, other: End) -> None:
        inner = packet(end.address, other.address, bytes(1000))
        end.inner.setblocking(False)
        while not stop.is_set():
            with contextlib.suppress(OSError):
                for _ in range(50):
                    end.inner.send(inner)
            with contextlib.suppress(OSError):
                while True:
                    end.inner.recv(65536)

    with driven(tunnel):
        tunnel.exchange()
        threads = [
            threading.Thread(target=shout, args=pair) for pair in ((tunnel.a, tunnel.b), (tunnel.b, tunnel.a))
        ]
        for thread in threads:
            thread.start()
        eventually(lambda: tunnel.to_a.stats.received_packets > 2000)
        started = time.monotonic()
        tunnel.b.device.close()
        tunnel.a.device.close()
        assert time.monotonic() - started < PATIENCE / 2
        stop.set()
        for thread in threads:
            thread.join()
    for use in (tunnel.a.device.process, lambda: tunnel.to_b.stats, tunnel.a.device.drops):
        with pytest.raises(ClosedError):
            use()


def test_closing_gives_everything_back() -> None:
    def descriptors() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before, threads = descriptors(), threading.active_count()
    for _ in range(3):
        with contextlib.closing(Tunnel(threads=2)) as tunnel, driven(tunnel):
            tunnel.exchange()
        tunnel.a.device.close()
    assert descriptors() == before
    assert threading.active_count() == threads


# ---- clocks ----


def test_wall_of_is_stable_until_the_clock_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(Device()) as device:
        at = device.now()
        first = device.wall_of(at)
        assert abs(first - time.time_ns()) < PATIENCE * 10**9
        assert {device.wall_of(at) for _ in range(1000)} == {first}
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() - 3600 * 10**9)
        moved = device.wall_of(at)
        assert abs(first - 3600 * 10**9 - moved) < 10**9
        assert {device.wall_of(at) for _ in range(1000)} == {moved}
