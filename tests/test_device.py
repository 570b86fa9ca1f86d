"""Devices over real UDP on loopback; inside, Unix sockets that carry whole IP packets, nobody needs root."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import logging
import os
import pickle
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from forking import forked

from wgfast import (
    ClosedError,
    ConfigError,
    Device,
    Endpoint,
    Peer,
    PeerRemovedError,
    PrivateKey,
    generate_preshared_key,
    generate_private_key,
    public_key,
)
from wgfast.control import News
from wgfast.testing import packet

PATIENCE = 10  # seconds, for what takes milliseconds


class End:
    """A device and the socket at its inner side."""

    def __init__(self, number: int, kind: int = socket.SOCK_SEQPACKET, **options: Any) -> None:
        self.inner, self._outer = socket.socketpair(socket.AF_UNIX, kind)
        self.inner.settimeout(PATIENCE)
        self.device = Device(generate_private_key(), tun=self._outer.fileno(), name=f"end{number}", **options)
        self.address = f"10.0.0.{number}"

    @property
    def key(self) -> bytes:
        key = self.device.public_key
        assert key
        return key

    def knows(self, other: End, **options: Any) -> Peer:
        return self.device.add_peer(other.key, allowed_ips=[f"{other.address}/32"], **options)

    def says(self, other: End, payload: bytes) -> bytes:
        inner = packet(self.address, other.address, payload)
        self.inner.send(inner)
        return inner

    def close(self) -> None:
        self.device.close()
        self.inner.close()
        self._outer.close()


class Tunnel:
    def __init__(self, **options: Any) -> None:
        self.a, self.b = End(1, **options), End(2, **options)

    def connect(self, **options: Any) -> Tunnel:
        """Both are up; a knows where b is."""
        self.b.device.up()
        self.to_a = self.b.knows(self.a)
        where = ("127.0.0.1", self.b.device.listen_port)
        self.to_b = self.a.knows(self.b, endpoint=where, **options)
        self.a.device.up()
        return self

    def exchange(self, payload: bytes = b"ping") -> None:
        sent = self.a.says(self.b, payload)
        assert self.b.inner.recv(65536) == sent
        sent = self.b.says(self.a, payload)
        assert self.a.inner.recv(65536) == sent

    def close(self) -> None:
        self.a.close()
        self.b.close()


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def tunnel(request: pytest.FixtureRequest) -> Iterator[Tunnel]:
    made = Tunnel(threads=request.param)
    yield made
    made.close()


@contextlib.contextmanager
def driven(tunnel: Tunnel) -> Iterator[Tunnel]:
    """Both control planes run in threads, as they do in a `with device`."""
    tunnel.connect()
    with tunnel.a.device, tunnel.b.device:
        yield tunnel


def past_the_flood() -> None:
    """Initiations of one peer closer than 1/50 s are refused as a flood, and tried again 5 s later."""
    time.sleep(0.03)


def eventually(condition: Callable[[], object]) -> None:
    """For what another thread does, and no descriptor tells."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


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


# ---- changes under way ----


def test_a_port_changes_under_traffic_and_the_old_one_stays_if_it_cannot(tunnel: Tunnel) -> None:
    with driven(tunnel):
        tunnel.exchange()
        device = tunnel.a.device
        before = device.listen_port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("0.0.0.0", 0))
            port = taken.getsockname()[1]
            with pytest.raises(OSError, match=f"listen_port {port}"):
                device.listen_port = port
            assert device.listen_port == before
            tunnel.exchange()
        device.listen_port = port
        assert (device.listen_port, device.configured_port) == (port, port)
        tunnel.exchange()
        endpoint = tunnel.to_a.endpoint
        assert endpoint
        assert endpoint.port == port
        device.listen_port = 0
        assert device.listen_port != port
        assert device.configured_port == 0
        tunnel.exchange()


def test_a_new_private_key_needs_a_new_handshake(tunnel: Tunnel) -> None:
    with driven(tunnel):
        tunnel.exchange()
        past_the_flood()
        private = generate_private_key()
        tunnel.b.device.private_key = private
        assert tunnel.b.device.private_key == private
        assert tunnel.b.device.public_key == public_key(private)
        assert tunnel.to_a.stats.session_age is None
        tunnel.a.device.remove_peer(tunnel.to_b)
        tunnel.to_b = tunnel.a.knows(tunnel.b, endpoint=("127.0.0.1", tunnel.b.device.listen_port))
        tunnel.exchange()


def test_a_peer_that_would_be_ourselves_is_removed_or_refused() -> None:
    with contextlib.closing(End(1)) as end:
        private = generate_private_key()
        peer = end.device.add_peer(public_key(private))
        end.device.private_key = private
        assert len(end.device.peers) == 0
        with pytest.raises(PeerRemovedError):
            _ = peer.stats
        with pytest.raises(ConfigError, match="own"):
            end.device.add_peer(public_key(private))
        assert end.device.ensure_peer(public_key(private)) == 0
        end.device.private_key = None
        assert end.device.private_key is None
        assert end.device.public_key is None
        assert end.device.ensure_peer(public_key(private)) != 0


def test_a_changed_psk_takes_part_at_once(tunnel: Tunnel) -> None:
    with driven(tunnel):
        tunnel.exchange()
        psk = generate_preshared_key()
        tunnel.to_a.preshared_key = psk
        assert tunnel.to_a.preshared_key == psk
        tunnel.exchange()
        tunnel.to_b.preshared_key = str(psk)
        # The old session goes on, and the handshake with the new key is planned, not waited for.
        tunnel.exchange()
        tunnel.to_b.preshared_key = None
        assert tunnel.to_b.preshared_key is None


def test_down_ends_sessions_and_up_begins_anew(tunnel: Tunnel) -> None:
    with driven(tunnel):
        tunnel.exchange()
        device = tunnel.a.device
        port = device.listen_port
        device.listen_port = port
        device.down()
        assert not device.is_up
        assert tunnel.to_b.stats.session_age is None
        assert device.statistics().sessions == 0
        device.down()
        past_the_flood()
        tunnel.to_b.persistent_keepalive = 25
        device.up()
        device.up()
        assert device.listen_port == port
        # The keepalive that is owed at once brings a session, though the last handshake was a moment ago.
        eventually(lambda: tunnel.to_b.stats.session_age is not None)
        tunnel.exchange()


def test_a_device_that_is_down_stays_silent() -> None:
    with contextlib.closing(Tunnel(threads=1)) as tunnel:
        tunnel.connect(persistent_keepalive=1)
        tunnel.a.device.process()
        tunnel.a.device.down()
        sent = tunnel.to_b.stats.sent_bytes
        for _ in range(3):
            tunnel.a.device.process()
        tunnel.to_b.handshake()
        assert tunnel.to_b.stats.sent_bytes == sent


def test_a_port_that_is_taken_leaves_the_device_down() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        port = taken.getsockname()[1]
        with contextlib.closing(End(1, listen_port=port)) as end:
            with pytest.raises(OSError, match=f"listen_port {port}"):
                end.device.up()
            assert not end.device.is_up
            assert end.device.listen_port == port
            end.device.listen_port = 0
            end.device.up()
            assert end.device.listen_port


def test_fwmark() -> None:
    with contextlib.closing(End(1, fwmark=0)) as end:
        end.device.fwmark = 0x1234
        try:
            end.device.up()
        except PermissionError:
            pytest.skip("setting a mark needs CAP_NET_ADMIN")
        end.device.fwmark = 0x4321
        assert end.device.fwmark == 0x4321
        end.device.fwmark = 0


# ---- peers ----


def test_allowed_ips_are_read_replaced_added_and_removed() -> None:
    with contextlib.closing(End(1)) as end:
        first = end.device.add_peer(os.urandom(32), allowed_ips="10.1.0.7/16, fd00::1")
        second = end.device.add_peer(os.urandom(32))
        assert [str(prefix) for prefix in first.allowed_ips] == ["10.1.0.0/16", "fd00::1/128"]
        second.allow(["10.1.0.0/16", "10.2.0.0/16"])
        assert [str(prefix) for prefix in first.allowed_ips] == ["fd00::1/128"]
        second.allowed_ips = ["10.2.0.0/16", "10.3.0.0/16"]
        assert [str(prefix) for prefix in second.allowed_ips] == ["10.2.0.0/16", "10.3.0.0/16"]
        second.disallow("10.3.0.0/16, 10.9.0.0/16")
        assert [str(prefix) for prefix in second.allowed_ips] == ["10.2.0.0/16"]
        with pytest.raises(ConfigError, match=r"10\.0\.0\.0/33.*0 to 32"):
            second.allowed_ips = ["10.4.0.0/16", "10.0.0.0/33"]
        assert [str(prefix) for prefix in second.allowed_ips] == ["10.2.0.0/16"]


def test_replacing_allowed_ips_leaves_no_gap() -> None:
    """A prefix that stays is owned at every moment."""
    with contextlib.closing(End(1)) as end:
        peer = end.device.add_peer(os.urandom(32), allowed_ips="10.0.0.0/8")
        done = threading.Event()
        missing = []

        def watch() -> None:
            while not done.is_set():
                if not end.device.core.route(4, bytes([10, 1, 2, 3])):
                    missing.append(1)

        thread = threading.Thread(target=watch)
        thread.start()
        for i in range(300):
            peer.allowed_ips = ["10.0.0.0/8", f"192.168.{i % 250}.0/24"]
        done.set()
        thread.join()
        assert missing == []


def test_peers_are_a_mapping() -> None:
    with contextlib.closing(End(1)) as end:
        keys = [public_key(generate_private_key()) for _ in range(5)]
        made = [end.device.add_peer(key) for key in keys]
        assert list(end.device.peers) == keys
        assert len(end.device.peers) == 5
        assert end.device.peers[str(keys[1])] == made[1] == end.device.peer(keys[1].hex())
        assert keys[2] in end.device.peers
        with pytest.raises(KeyError):
            end.device.peer(os.urandom(32))
        with pytest.raises(ConfigError, match="is a peer already"):
            end.device.add_peer(keys[0])
        end.device.remove_peer(keys[0])
        made[1].remove()
        assert list(end.device.peers) == keys[2:]
        for use in (lambda: made[0].stats, lambda: made[1].allow("10.0.0.0/8"), made[1].remove):
            with pytest.raises(PeerRemovedError):
                use()
        assert made[2].public_key.short in repr(made[2])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("192.0.2.1:51820", Endpoint("192.0.2.1", 51820)),
        ("[2001:db8::1]:51820", Endpoint("2001:db8::1", 51820)),
        (("192.0.2.1", 9), Endpoint("192.0.2.1", 9)),
        (Endpoint("fe80::1%1", 9), Endpoint("fe80::1%1", 9)),
        ("[fe80::1%lo]:9", Endpoint("fe80::1%1", 9)),
        ("localhost:9", None),
        (None, None),
    ],
)
def test_endpoints_in_every_form(given: Any, expected: Endpoint | None) -> None:
    with contextlib.closing(End(1)) as end:
        peer = end.device.add_peer(os.urandom(32), endpoint=given)
        if given == "localhost:9":
            assert peer.endpoint
            assert peer.endpoint.host in ("127.0.0.1", "::1")
        else:
            assert peer.endpoint == expected
        peer.endpoint = None
        assert peer.endpoint is None


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"listen_port": 65536}, "listen_port"),
        ({"listen_port": -1}, "listen_port"),
        ({"listen_port": True}, "listen_port"),
        ({"fwmark": 1 << 32}, "fwmark"),
        ({"mtu": 67}, "mtu"),
        ({"mtu": 65507}, "mtu"),
        ({"threads": 0}, "threads"),
        ({"threads": 65}, "threads"),
        ({"threads": "two"}, "threads"),
        ({"private_key": "nonsense"}, "private_key"),
        ({"private_key": b"\0" * 31}, "private_key"),
        ({"tun": -1}, "tun"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=field):
        Device(**options)


def test_threads_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGFAST_THREADS", "3")
    with contextlib.closing(Device()) as device:
        assert device.statistics().threads == 3
    for bad in ("0", "65", "many", "-1", "1.5"):
        monkeypatch.setenv("WGFAST_THREADS", bad)
        with pytest.raises(ConfigError, match="WGFAST_THREADS"):
            Device()
    monkeypatch.delenv("WGFAST_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(2)))
    with contextlib.closing(Device()) as device:
        assert device.statistics().threads == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    with contextlib.closing(Device()) as device:
        assert device.statistics().threads == 4


def test_a_device_cannot_be_copied_nor_its_peers() -> None:
    with contextlib.closing(End(1)) as end:
        peer = end.device.add_peer(os.urandom(32))
        for thing in (end.device, peer, end.device.core):
            for copier in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError):
                    copier(thing)


def test_keys_hide_in_repr_and_compare_as_bytes() -> None:
    private = generate_private_key()
    assert str(private) not in repr(private)
    assert PrivateKey(bytes(private)) == private == bytes(private)
    assert f"{public_key(private)}" == str(public_key(str(private)))
    assert repr(generate_preshared_key()) == "<PresharedKey, hidden>"


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
