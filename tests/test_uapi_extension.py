"""What wgfast adds to the UAPI: the operation wgfast=1 and the peer key endpoint_host."""

from __future__ import annotations

import base64
import errno
import functools
import socket
from collections.abc import Iterator

import pytest
from configured import configure, new_key
from devicepair import Tunnel, driven, eventually
from fakedns import FakeDns
from lab import uapi as client
from lab.process import wait_until
from lab.topology import Lab
from test_uapi_server import Served

from wgfast import Device, __version__, _core, generate_private_key
from wgfast.uapi import UapiError, dump, statistics
from wgfast.uapi_server import respond

HOST = "vpn.example.org:51820"
Lines = list[tuple[str, str]]


@pytest.fixture
def dns() -> FakeDns:
    return FakeDns(**{"vpn.example.org": ["192.0.2.1"]})


@pytest.fixture
def device(dns: FakeDns) -> Iterator[Device]:
    made = Device(generate_private_key(), name="named")
    made.names.lookup = dns
    yield made
    made.close()


@pytest.fixture
def served(device: Device, tmp_path: object) -> Iterator[Served]:
    made = Served(f"{tmp_path}/uapi.sock", functools.partial(respond, device, "test"))
    yield made
    made.close()


def lines(answer: bytes) -> Lines:
    parts = (line.partition("=") for line in answer.decode().splitlines() if line)
    return [(key, value) for key, _, value in parts]


def shown(device: Device, key: str) -> list[str]:
    return [value for name, value in lines(b"".join(dump(device))) if name == key]


# ---- wgfast=1 ----


def test_the_device_first_then_the_peers(served: Served, device: Device) -> None:
    keys = [new_key(), new_key()]
    configure(device, f"public_key={keys[0]}\npublic_key={keys[1]}\nendpoint_host={HOST}\n")
    answer = served.ask(b"wgfast=1\n\n")
    assert answer.endswith(b"\nerrno=0\n\n")
    found = lines(answer)
    names = [key for key, _ in found]
    first = names.index("public_key")
    numbers = ["threads", "queues", "sessions", "staged", "packet_memory_ceiling"]
    assert names[:7] == ["version", *numbers, "aead_kernel"]
    drops = [f"drop_{name}" for name in _core.DROP_NAMES]
    offloads = [f"offload_{name}" for name in _core.OFFLOAD_NAMES]
    assert names[7:first] == drops + offloads
    values = dict(found[:first])
    assert values["version"] == __version__
    assert values["aead_kernel"] == _core.aead_kernel()
    assert int(values["packet_memory_ceiling"]) == device.statistics().packet_memory_ceiling
    assert {key: value for key, value in values.items() if key.startswith("offload_")} == {
        f"offload_{name}": state for name, state in device.offloads().items()
    }
    peers = found[first:-1]
    assert [key for key, _ in peers] == [
        *("public_key", "sent_packets", "received_packets", "staged"),
        *("public_key", "sent_packets", "received_packets", "staged", "endpoint_host"),
    ]
    assert {value for key, value in peers if key == "public_key"} == set(keys)
    assert peers[-1][1] == HOST


def test_its_numbers_are_those_of_the_device() -> None:
    tunnel = Tunnel(threads=1)
    with driven(tunnel):
        tunnel.exchange()
        tunnel.exchange()
        values = dict(lines(b"".join(statistics(tunnel.a.device))))
        theirs = tunnel.b.key.hex()
    tunnel.close()
    assert (values["sent_packets"], values["received_packets"], values["sessions"]) == ("2", "2", "1")
    assert values["public_key"] == theirs


def test_many_peers_come_in_pieces(device: Device) -> None:
    for n in range(1, 2001):
        device.core.add_peer(n.to_bytes(32, "big"))
    pieces = list(statistics(device))
    assert len(pieces) > 2
    assert b"".join(pieces).count(b"public_key=") == 2000


def test_what_is_neither_is_refused_as_before(served: Served) -> None:
    for wrong in (b"wgfast=2\n\n", b"wgfast=1\nversion=1\n\n", b"wgfas=1\n\n", b"getting=1\n\n", b"w\n"):
        assert served.ask(wrong) == b"errno=%d\n\n" % errno.EINVAL


def test_it_comes_in_pieces_and_between_others(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(b"wgfa")
        connection.sendall(b"st=1\n\nset=1\n\nwgfast=1\n\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    assert answer.count(b"version=") == 2
    assert answer.count(b"errno=0\n\n") == 3


# ---- endpoint_host ----


def test_a_name_is_resolved_shown_and_dropped_by_an_endpoint(device: Device, dns: FakeDns) -> None:
    key = new_key()
    configure(device, f"public_key={key}\nendpoint_host={HOST}\n")
    eventually(lambda: shown(device, "endpoint") == ["192.0.2.1:51820"])
    assert shown(device, "endpoint_host") == [HOST]
    configure(device, f"public_key={key}\nallowed_ip=10.0.0.1/32\n")
    assert shown(device, "endpoint_host") == [HOST]
    configure(device, f"public_key={key}\nendpoint=192.0.2.9:9\n")
    assert shown(device, "endpoint_host") == []
    assert shown(device, "endpoint") == ["192.0.2.9:9"]
    assert dns.asked == ["vpn.example.org"]


def test_an_empty_one_drops_the_name_and_keeps_the_endpoint(device: Device) -> None:
    key = new_key()
    configure(device, f"public_key={key}\nendpoint_host={HOST}\n")
    eventually(lambda: shown(device, "endpoint"))
    configure(device, f"public_key={key}\nendpoint_host=\n")
    assert shown(device, "endpoint_host") == []
    assert shown(device, "endpoint") == ["192.0.2.1:51820"]


def test_the_last_of_endpoint_and_name_counts(device: Device, dns: FakeDns) -> None:
    key = new_key()
    configure(device, f"public_key={key}\nendpoint=192.0.2.9:9\nendpoint_host=unknown.example:1\n")
    assert shown(device, "endpoint") == ["192.0.2.9:9"]
    assert shown(device, "endpoint_host") == ["unknown.example:1"]
    eventually(lambda: dns.asked)
    configure(device, f"public_key={key}\nendpoint_host={HOST}\nendpoint=192.0.2.8:8\n")
    assert shown(device, "endpoint") == ["192.0.2.8:8"]
    assert shown(device, "endpoint_host") == []


def test_saying_it_again_resolves_it_again(device: Device, dns: FakeDns) -> None:
    line = f"public_key={new_key()}\nendpoint_host={HOST}\n"
    configure(device, line)
    eventually(lambda: shown(device, "endpoint") == ["192.0.2.1:51820"])
    dns.records["vpn.example.org"] = ["192.0.2.2"]
    configure(device, line)
    eventually(lambda: shown(device, "endpoint") == ["192.0.2.2:51820"])


def test_replaced_with_the_same_name_a_peer_is_never_without_an_endpoint(
    device: Device, dns: FakeDns
) -> None:
    key = new_key()
    configure(device, f"public_key={key}\nendpoint_host={HOST}\n")
    eventually(lambda: shown(device, "endpoint"))
    del dns.records["vpn.example.org"]
    configure(device, f"replace_peers=true\npublic_key={key}\nendpoint_host={HOST}\n")
    assert shown(device, "endpoint") == ["192.0.2.1:51820"]
    configure(device, f"replace_peers=true\npublic_key={key}\nendpoint_host=other.example:1\n")
    assert shown(device, "endpoint") == []
    assert shown(device, "endpoint_host") == ["other.example:1"]
    configure(device, f"replace_peers=true\npublic_key={key}\n")
    assert shown(device, "endpoint_host") == []


def test_a_removed_peer_has_no_name(device: Device) -> None:
    key = new_key()
    configure(device, f"public_key={key}\nendpoint_host={HOST}\n")
    configure(device, f"public_key={key}\nremove=true\npublic_key={key}\n")
    assert shown(device, "endpoint_host") == []


def test_an_address_in_brackets_is_a_name_too(device: Device, dns: FakeDns) -> None:
    dns.records["2001:db8::1"] = ["2001:db8::1"]
    configure(device, f"public_key={new_key()}\nendpoint_host=[2001:db8::1]:9\n")
    assert shown(device, "endpoint_host") == ["[2001:db8::1]:9"]
    eventually(lambda: shown(device, "endpoint") == ["[2001:db8::1]:9"])


@pytest.mark.parametrize(
    "wrong", ["vpn", ":1", "vpn:0", "vpn:65536", "vpn:x", "a b:1", "::1:1", "x" * 255 + ":1", "a" * 10**6,
              "vpn:" + "1" * 5000]
)  # fmt: skip
def test_what_cannot_be_a_name_is_refused(device: Device, wrong: str) -> None:
    with pytest.raises(UapiError, match="endpoint_host") as refused:
        configure(device, f"fwmark=7\npublic_key={new_key()}\nendpoint_host={wrong}\n")
    assert refused.value.errno == errno.EINVAL
    assert device.fwmark == 0
    assert len(str(refused.value)) < 700


def test_it_is_no_device_key(device: Device) -> None:
    with pytest.raises(UapiError, match="public_key comes first"):
        configure(device, f"endpoint_host={HOST}\n")


# ---- and the real wg ----


@pytest.mark.lab
def test_wg_shows_and_changes_a_peer_with_a_name(lab: Lab) -> None:
    """It passes over the key it does not know; what it sets as an endpoint drops the name."""
    end = lab.end(lab.namespace("alone"), "wgfast").start()
    key = bytes.fromhex(new_key())
    text = base64.b64encode(key).decode()
    # A number: here is no name server.
    assert client.set_errno(end.interface, f"public_key={key.hex()}", "endpoint_host=192.0.2.5:5") == 0
    wait_until(lambda: end.show("endpoints") == {text: "192.0.2.5:5"}, "wg shows the endpoint")
    assert ("endpoint_host", "192.0.2.5:5") in client.request(end.interface, "get=1\n\n")
    end.set("peer", text, "endpoint", "192.0.2.6:6")
    assert end.show("endpoints") == {text: "192.0.2.6:6"}
    answer = client.request(end.interface, "wgfast=1\n\n")
    assert "endpoint_host" not in dict(answer)
    assert answer[-1] == ("errno", "0")
    assert end.wg("showconf").count("[Peer]") == 1
