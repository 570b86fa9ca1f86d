"""Names of endpoints in Devices: the thread that asks for them, and that nobody waits for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from devicepair import Tunnel, driven, eventually
from fakedns import FakeDns

from wgfast import ConfigError, Device, Endpoint, PeerRemovedError, generate_private_key, public_key
from wgfast.resolve import Name

HOST, PORT = "vpn.example.org", 51820
OLD, NEW = (Endpoint(f"192.0.2.{n}", PORT) for n in (1, 2))


@pytest.fixture
def dns() -> FakeDns:
    return FakeDns()


@pytest.fixture
def device(dns: FakeDns) -> Iterator[Device]:
    made = Device(generate_private_key(), name="named")
    made.names.lookup = dns
    yield made
    dns.free.set()
    made.close()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.endswith(" names")]


def new_key() -> bytes:
    return public_key(generate_private_key())


def test_a_thread_only_while_there_is_a_name(device: Device, dns: FakeDns) -> None:
    plain = device.add_peer(new_key(), endpoint="192.0.2.9:9")
    assert plain.endpoint_host is None
    plain.resolve()
    assert not threads()
    dns.records[HOST] = [OLD.host]
    for _ in range(3):
        peer = device.add_peer(new_key(), endpoint_host=f"{HOST}:{PORT}")
        assert peer.endpoint_host == f"{HOST}:{PORT}"
        eventually(lambda peer=peer: peer.endpoint == OLD)
        assert threads() == ["named names"]
        peer.remove()
        eventually(lambda: not threads())
    assert dns.threads == {"named names"}


def test_the_thread_sleeps_when_there_is_nothing_to_ask(
    device: Device, dns: FakeDns, monkeypatch: pytest.MonkeyPatch
) -> None:
    dns.records[HOST] = [OLD.host]
    peer = device.add_peer(new_key(), endpoint_host=f"{HOST}:{PORT}")
    eventually(lambda: peer.endpoint == OLD)
    turns: list[int] = []
    names = device.names._names
    looked = names.next

    def counted(now: int) -> Name | None:
        turns.append(now)
        return looked(now)

    monkeypatch.setattr(names, "next", counted)
    time.sleep(0.3)
    assert len(turns) <= 1  # that of the answer


def test_nobody_waits_for_a_name_server(device: Device, dns: FakeDns) -> None:
    dns.free.clear()
    dns.records[HOST] = [OLD.host]
    peer = device.add_peer(new_key(), endpoint_host=f"{HOST}:{PORT}", endpoint="192.0.2.9:9")
    eventually(lambda: dns.asked)
    device.process()
    assert device.statistics().peers == 1
    assert peer.endpoint == Endpoint("192.0.2.9", 9)
    dns.free.set()
    eventually(lambda: peer.endpoint == OLD)


def test_closing_waits_for_no_name_server(device: Device, dns: FakeDns) -> None:
    dns.free.clear()
    device.add_peer(new_key(), endpoint_host=f"{HOST}:{PORT}")
    eventually(lambda: dns.asked)
    device.close()
    dns.free.set()
    eventually(lambda: not threads())


def test_an_endpoint_drops_the_name_and_the_name_keeps_the_endpoint(device: Device, dns: FakeDns) -> None:
    dns.records[HOST] = [OLD.host]
    peer = device.add_peer(new_key(), endpoint_host=f"{HOST}:{PORT}")
    eventually(lambda: peer.endpoint == OLD)
    peer.endpoint = "192.0.2.9:9"
    assert peer.endpoint_host is None
    peer.endpoint_host = f"{HOST}:{PORT}"
    eventually(lambda: peer.endpoint == OLD)
    peer.endpoint_host = None
    assert peer.endpoint_host is None
    assert peer.endpoint == OLD
    peer.remove()
    for use in (lambda: peer.endpoint_host, peer.resolve, lambda: setattr(peer, "endpoint_host", "a:1")):
        with pytest.raises(PeerRemovedError):
            use()


def test_on_demand(device: Device, dns: FakeDns) -> None:
    dns.records[HOST] = [OLD.host]
    peer = device.add_peer(new_key(), endpoint_host=f"{HOST}:{PORT}")
    eventually(lambda: peer.endpoint == OLD)
    dns.records[HOST] = [NEW.host]
    peer.resolve()
    eventually(lambda: peer.endpoint == NEW)


def test_a_lookup_that_breaks_is_tried_again(
    device: Device, dns: FakeDns, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Exception] = [ZeroDivisionError("broken lookup")]

    def broken(host: str, port: int) -> Sequence[Endpoint]:
        if answers:
            raise answers.pop()
        return [OLD]

    device.names.lookup = broken
    peer = device.add_peer(new_key(), endpoint_host=f"{HOST}:{PORT}")
    eventually(lambda: peer.endpoint == OLD)
    assert "broken lookup" in caplog.text


def test_a_tunnel_by_name() -> None:
    """The greeting of a persistent keepalive waits for the name, and for nothing else."""
    with contextlib.closing(Tunnel(threads=1)) as tunnel:
        dns = FakeDns()
        dns.free.clear()
        dns.records["b.example"] = ["127.0.0.1"]
        tunnel.a.device.names.lookup = dns
        shook = threading.Event()
        tunnel.b.device.on("handshake", lambda _: shook.set())
        with driven(tunnel):
            tunnel.a.device.remove_peer(tunnel.to_b)
            where = f"b.example:{tunnel.b.device.listen_port}"
            tunnel.to_b = tunnel.a.knows(tunnel.b, endpoint_host=where, persistent_keepalive=25)
            eventually(lambda: dns.asked)
            dns.free.set()
            assert shook.wait(3)  # a retransmission would take 5
            tunnel.exchange()


@pytest.mark.parametrize(
    "wrong",
    ["vpn.example.org", ":51820", "vpn.example.org:0", "vpn.example.org:65536", "a b:1", "2001:db8::1:1",
     "x" * 255 + ":1", "a\n:1", "vpn:" + "9" * 5000, "vpn:ssh", ""],
)  # fmt: skip
def test_what_cannot_be_a_name_is_refused_and_nothing_has_changed(device: Device, wrong: str) -> None:
    with pytest.raises(ConfigError, match="endpoint_host"):
        device.add_peer(new_key(), endpoint_host=wrong)
    assert len(device.peers) == 0
    peer = device.add_peer(new_key())
    with pytest.raises(ConfigError, match="endpoint_host"):
        peer.endpoint_host = wrong
    assert peer.endpoint_host is None
