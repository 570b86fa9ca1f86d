"""Metrics, read by prometheus-client's own parser and compared with what `wg` says of the same interface."""

from __future__ import annotations

import base64
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from lab.end import End
from lab.process import wait_until
from lab.programs import SUBJECT
from lab.topology import Lab, Tunnel
from lab.traffic import wait_ping
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from wgfast import Device, Limits, _core, generate_private_key, metrics
from wgfast.cli.metrics import metrics_command
from wgfast.metrics import Collector, parse_listen

WGFAST = [sys.executable, "-m", "wgfast"]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(text: str) -> Samples:
    """Samples by name and labels; none comes twice."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def collect(collector: Collector) -> Samples:
    registry = CollectorRegistry()
    registry.register(collector)
    return parse(generate_latest(registry).decode())


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WGFAST, "metrics", *arguments], capture_output=True, text=True, timeout=20, check=False
    )


# ---- a program that has its own Device ----


@pytest.fixture
def pair() -> Iterator[tuple[Device, Device]]:
    """Two devices that shook hands."""
    with (
        Device(generate_private_key(), name="alice") as alice,
        Device(generate_private_key(), name="bob") as bob,
    ):
        bob.add_peer(alice.public_key, allowed_ips="10.0.0.1/32", persistent_keepalive=25)
        peer = alice.add_peer(
            bob.public_key, allowed_ips="10.0.0.2, fd00::/64", endpoint=("127.0.0.1", bob.listen_port)
        )
        peer.handshake()
        wait_until(lambda: peer.stats.last_handshake, "a handshake")
        yield alice, bob


def test_a_device_is_collected_without_a_socket_or_an_interface(pair: tuple[Device, Device]) -> None:
    alice, bob = pair
    samples = collect(Collector([alice, bob]))
    stats = alice.peer(str(bob.public_key)).stats
    labels = {"interface": "alice", "public_key": str(bob.public_key)}
    assert value(samples, "wireguard_sent_bytes_total", **labels) == stats.sent_bytes > 0
    assert value(samples, "wireguard_received_bytes_total", **labels) == stats.received_bytes > 0
    assert value(samples, "wireguard_latest_handshake_seconds", **labels) == pytest.approx(
        stats.last_handshake
    )
    assert abs(value(samples, "wireguard_latest_handshake_seconds", **labels) - time.time()) < 30
    assert value(samples, "wireguard_peer_allowed_ips", **labels) == 2
    assert value(samples, "wireguard_up", interface="bob") == 1
    assert value(samples, "wireguard_peers", interface="bob") == 1
    assert value(
        samples, "wireguard_persistent_keepalive_seconds", interface="bob", public_key=str(alice.public_key)
    ) == 25  # fmt: skip
    assert {
        dict(labels)["reason"] for name, labels in samples if name == "wireguard_dropped_packets_total"
    } == set(_core.DROP_NAMES)
    assert not any("endpoint" in name for name, _ in samples)


def test_what_is_asked_for_in_addition(pair: tuple[Device, Device]) -> None:
    alice, bob = pair
    key = bytes(bob.public_key or b"")
    samples = collect(Collector([alice], names={key: 'bob "the" \\ host\n'}, endpoint=True, allowed_ips=True))
    labels = {
        "interface": "alice",
        "public_key": str(bob.public_key),
        "friendly_name": 'bob "the" \\ host\n',
        "allowed_ips": "10.0.0.2/32,fd00::/64",
    }
    assert value(samples, "wireguard_sent_bytes_total", **labels) > 0
    where = {"remote_ip": "127.0.0.1", "remote_port": str(bob.listen_port)}
    assert value(samples, "wireguard_peer_endpoint_info", **labels, **where) == 1


def test_drops_are_counted_by_reason(pair: tuple[Device, Device]) -> None:
    alice, _ = pair
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for _ in range(3):
            sender.sendto(b"\x09" + bytes(63), ("127.0.0.1", alice.listen_port))
    wait_until(lambda: alice.drops()["receive_type"] == 3, "the drops")
    samples = collect(Collector([alice]))
    assert value(samples, "wireguard_dropped_packets_total", interface="alice", reason="receive_type") == 3


def test_a_peer_that_goes_and_a_device_that_is_closed(pair: tuple[Device, Device]) -> None:
    alice, bob = pair
    collector = Collector([alice, bob])
    alice.remove_peer(str(bob.public_key))
    samples = collect(collector)
    assert not any(("interface", "alice") in labels for name, labels in samples if "bytes_total" in name)
    alice.close()
    samples = collect(collector)
    assert value(samples, "wireguard_up", interface="alice") == 0
    assert value(samples, "wireguard_up", interface="bob") == 1
    assert not any(("interface", "alice") in labels for name, labels in samples if name != "wireguard_up")


def test_private_and_preshared_keys_are_in_no_metric(pair: tuple[Device, Device]) -> None:
    alice, bob = pair
    alice.peer(str(bob.public_key)).preshared_key = "M" * 43 + "="
    registry = CollectorRegistry()
    registry.register(Collector([alice, bob], endpoint=True, allowed_ips=True))
    text = generate_latest(registry).decode()
    assert "MMMMMMMM" not in text
    for device in pair:
        assert str(device.private_key) not in text


def test_names_and_units_are_by_the_conventions(pair: tuple[Device, Device]) -> None:
    """https://prometheus.io/docs/practices/naming/, and OpenMetrics, whose parser is the strict one."""
    pair[0].peer(str(pair[1].public_key)).limits = Limits(send_quota=10**9)
    registry = CollectorRegistry()
    registry.register(Collector(pair, endpoint=True))
    families = list(parse_openmetrics(generate_openmetrics(registry).decode()))
    assert len(families) > 15
    for family in families:
        assert re.fullmatch(r"wireguard_[a-z_]+", family.name)
        assert family.type in ("counter", "gauge")
        assert not re.search(r"milli|kilo|_ms$|_kb$", family.name)
        assert all(sample.value >= 0 for sample in family.samples)
    documented = set(re.findall(r"\bwireguard_\w+", metrics.__doc__ or ""))
    assert documented == {family.name + ("_total" if family.type == "counter" else "") for family in families}


def test_interfaces_that_cannot_be_listed_fail_the_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> list[str]:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("wgfast.client.interfaces", refuse)
    with pytest.raises(PermissionError):
        collect(Collector())
    done = CliRunner().invoke(metrics_command, ["--once"])
    assert done.exit_code == 1
    assert done.stderr.startswith("Unable to list interfaces: Operation not permitted\n")


def test_two_collectors_in_one_registry_are_refused() -> None:
    registry = CollectorRegistry()
    registry.register(Collector([]))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(Collector([]))


def test_a_single_name_is_not_taken_for_a_list() -> None:
    with pytest.raises(TypeError, match="'wg0': expected a list"):
        Collector("wg0")


# ---- the command ----


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("9586", ("127.0.0.1", 9586)),
        (":9586", ("127.0.0.1", 9586)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("[::]:80", ("::", 80)),
    ],
)
def test_where_to_listen(text: str, where: tuple[str, int]) -> None:
    assert parse_listen(text) == where


@pytest.mark.parametrize(
    "text", ["", "x", "127.0.0.1", "127.0.0.1:", ":0", ":65536", "host:80", "::1:x", "[::1]"]
)
def test_where_nobody_can_listen(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|no IP address"):
        parse_listen(text)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--listen", "nowhere:80"], 2, "'nowhere' is no IP address"),
        (["--once", "--listen", ":1"], 2, "exclude one another"),
        (["--config", "/nonexistent.conf", "--once"], 1, "/nonexistent.conf: does not exist"),
        (["--textfile", "/nonexistent/x.prom"], 1, "/nonexistent/x.prom: No such file"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: list[str], status: int, said: str) -> None:
    done = run(*arguments)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = run("--listen", f":{server.getsockname()[1]}")
    assert done.returncode == 1
    assert "Address already in use: choose another with --listen" in done.stderr


def test_an_interface_that_is_not_there_is_down() -> None:
    samples = parse(run("--once", "wgnone0").stdout)
    assert samples == {("wireguard_up", frozenset({("interface", "wgnone0")})): 0.0}


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_it_serves_until_it_is_ended(address: str) -> None:
    with socket.create_server(
        (address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET
    ) as free:
        port = free.getsockname()[1]
    where = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    command = [*WGFAST, "metrics", "--listen", where, "wgnone0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = process.stderr.readline()
        assert said == f"serving http://{where}/metrics\n"
        with urllib.request.urlopen(said.split()[1], timeout=5) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert value(parse(answer.read().decode()), "wireguard_up", interface="wgnone0") == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
        assert not process.stderr.read()


# ---- in the lab ----


def check(samples: Samples, end: End, tunnel: Tunnel) -> None:
    """Against what `wg` shows; nothing moves meanwhile."""
    other = tunnel.other(end)
    labels = {"interface": end.interface, "public_key": other.public_key}
    received, sent = end.show("transfer")[other.public_key].split("\t")
    assert value(samples, "wireguard_received_bytes_total", **labels) == int(received)
    assert value(samples, "wireguard_sent_bytes_total", **labels) == int(sent)
    assert int(value(samples, "wireguard_latest_handshake_seconds", **labels)) == end.latest_handshake(other)
    assert value(samples, "wireguard_peer_allowed_ips", **labels) == 2
    host, port = end.endpoint_of(other)
    where = {"remote_ip": host, "remote_port": str(port)}
    assert value(samples, "wireguard_peer_endpoint_info", **labels, **where) == 1


@pytest.mark.lab
def test_interfaces_of_every_implementation(lab: Lab, tmp_path: Path) -> None:
    tunnel = lab.tunnel(SUBJECT, "wireguard-go")
    one, other = tunnel.ends
    wait_ping(one.namespace, other.address)
    wait_ping(one.namespace, other.address, count=3)
    path = tmp_path / "wireguard.prom"
    assert run("--textfile", str(path), "--endpoint").returncode == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["wireguard.prom"]
    samples = parse(path.read_text())
    for end in tunnel.ends:
        check(samples, end, tunnel)
    labels = {"interface": one.interface, "public_key": other.public_key}
    assert value(samples, "wireguard_sent_packets_total", **labels) >= 4
    assert ("wireguard_sent_packets_total", frozenset({("interface", other.interface)})) not in samples
    assert value(samples, "wireguard_sessions", interface=one.interface) >= 1
    infos = [dict(labels) for name, labels in samples if name == "wireguard_interface_info"]
    (info,) = [each for each in infos if each["interface"] == one.interface]
    assert (info["kind"], info["public_key"]) == ("userspace", one.public_key)
    assert info["aead_kernel"]


@pytest.mark.lab
def test_names_of_a_configuration_become_labels(lab: Lab) -> None:
    tunnel = lab.tunnel(SUBJECT, SUBJECT)
    one, other = tunnel.ends
    path = lab.keep(f"[Interface]\n[Peer]\n# Name = the other\nPublicKey = {other.public_key}\n")
    done = run("--once", "--config", str(path), one.interface)
    assert (done.returncode, done.stderr) == (0, "")
    labels = {"interface": one.interface, "public_key": other.public_key, "friendly_name": "the other"}
    assert value(parse(done.stdout), "wireguard_peer_allowed_ips", **labels) == 2
    assert base64.b64encode(base64.b64decode(one.private_key)).decode() not in done.stdout
