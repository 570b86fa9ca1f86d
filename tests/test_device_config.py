"""Devices that are configured, under traffic and at rest, and what they refuse."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from devicepair import End, Tunnel, driven, eventually, past_the_flood

from wgfast import (
    ConfigError,
    Device,
    Endpoint,
    PeerRemovedError,
    PrivateKey,
    _core,
    generate_preshared_key,
    generate_private_key,
    public_key,
)
from wgfast.settings import count_queues


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def tunnel(request: pytest.FixtureRequest) -> Iterator[Tunnel]:
    made = Tunnel(threads=request.param)
    yield made
    made.close()


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


def test_a_peer_that_is_only_listened_to_learns_of_another_port(tunnel: Tunnel) -> None:
    """Who has nothing to send says where it is all the same."""
    with driven(tunnel):
        tunnel.exchange()
        for _ in range(3):
            tunnel.a.device.listen_port = 0
            port = tunnel.a.device.listen_port
            eventually(lambda port=port: tunnel.to_a.endpoint.port == port)


def test_another_port_is_no_reason_to_shake_hands() -> None:
    with contextlib.closing(End(1)) as end, contextlib.closing(End(2)) as other, end.device:
        peer = end.knows(other, endpoint=("127.0.0.1", 9))
        end.device.listen_port = 0
        assert (peer.stats.staged, peer.stats.sent_bytes) == (0, 0)


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
        ({"queues": 0}, "queues"),
        ({"queues": 17}, "queues"),
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


def test_queues_follow_the_threads_and_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WGFAST_QUEUES", raising=False)
    assert [count_queues(None, threads) for threads in (1, 2, 3, 4, 64)] == [1, 1, 3, 4, 16]
    assert count_queues(2, 4) == 2
    monkeypatch.setenv("WGFAST_QUEUES", "2")
    assert count_queues(None, 1) == 2
    for bad in ("0", "17", "many"):
        monkeypatch.setenv("WGFAST_QUEUES", bad)
        with pytest.raises(ConfigError, match="WGFAST_QUEUES"):
            count_queues(None, 1)


@pytest.mark.lab
def test_an_interface_of_its_own_has_several_queues_and_one_that_was_opened_elsewhere_one() -> None:
    with contextlib.closing(Device(tun="wgqueues%d", threads=2, queues=3)) as device:
        assert device.statistics().queues == 3
    fd, _ = _core.tun_open("wgqueues%d", several=True)
    try:
        with contextlib.closing(Device(tun=fd, threads=4)) as device:
            assert device.statistics().queues == 1
        with contextlib.closing(Device(tun=fd, threads=4, queues=4)) as device:
            assert device.statistics().queues == 4
    finally:
        os.close(fd)


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
