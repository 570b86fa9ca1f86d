"""The client: what it reads from interfaces, how it asks, and what goes wrong."""

from __future__ import annotations

import base64
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playeddaemon import FINE, PlayedDaemon
from uapioracle import check_text, outcome

from wgfast import client, client_kernel, client_names, client_requests, client_uapi, config, uapi_socket
from wgfast._core import Endpoint
from wgfast.client import DeviceState, PeerState, SetRequest, endpoint_text
from wgfast.client_names import ResolutionError
from wgfast.errors import ConfigError
from wgfast.keys import generate_private_key, public_key
from wgfast.uapi import PeerBlock

PRIVATE = bytes(generate_private_key())
PUBLIC = bytes(public_key(PRIVATE))
ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))
STATISTICS = (
    "version=0.1.0\nthreads=2\nsessions=1\nstaged=3\npacket_memory_ceiling=1000\naead_kernel=avx2\n"
    "drop_replay=4\ndrop_short=0\noffload_tso=in use\nnew_thing=x\n"
    f"public_key={ONE.hex()}\nsent_packets=5\nreceived_packets=6\nstaged=3\nendpoint_host=vpn.example:51820\n"
    f"public_key={TWO.hex()}\nsent_packets=0\nreceived_packets=0\nstaged=0\n"
)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In place of /var/run/wireguard, so that none of this needs root."""
    for module in (uapi_socket, client_uapi):
        monkeypatch.setattr(module, "DIRECTORY", str(tmp_path))
    return tmp_path


@pytest.fixture
def daemon(directory: Path) -> Iterator[PlayedDaemon]:
    with PlayedDaemon(directory, "wg0") as played:
        yield played


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's part says that there is no such interface."""

    def get(name: str) -> DeviceState:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)

    monkeypatch.setattr(client_kernel, "get", get)
    monkeypatch.setattr(client_kernel, "interfaces", list)


# ---- get ----


def test_everything_an_answer_can_say(daemon: PlayedDaemon) -> None:
    daemon.get = (
        f"private_key={PRIVATE.hex()}\nlisten_port=51820\nfwmark=16\nnew_device_key=1\n"
        f"public_key={ONE.hex()}\npreshared_key={TWO.hex()}\nprotocol_version=1\nendpoint=192.0.2.1:5\n"
        "last_handshake_time_sec=17\nlast_handshake_time_nsec=18\ntx_bytes=19\nrx_bytes=20\n"
        "persistent_keepalive_interval=21\nallowed_ip=10.1.2.0/24\nallowed_ip=fd00::/8\nendpoint_host=a.b:5\n"
        f"public_key={TWO.hex()}\n{FINE}"
    )
    state = client.get("wg0")
    assert (state.name, state.kind, state.listen_port, state.fwmark) == ("wg0", "userspace", 51820, 16)
    assert (state.private_key, state.public_key) == (PRIVATE, PUBLIC)
    assert state.extra == {"new_device_key": "1"}
    first, second = state.peers
    assert first == PeerState(
        ONE,
        preshared_key=TWO,
        endpoint=Endpoint("192.0.2.1", 5),
        allowed_ips=[(4, b"\x0a\x01\x02\x00", 24), (6, b"\xfd" + bytes(15), 8)],
        last_handshake=(17, 18),
        received_bytes=20,
        sent_bytes=19,
        persistent_keepalive=21,
        extra={"endpoint_host": "a.b:5"},
    )
    assert second == PeerState(TWO)
    assert TWO.hex() not in repr(state) + repr(first)
    assert PRIVATE.hex() not in repr(state)


def test_a_device_without_a_key_has_none(daemon: PlayedDaemon) -> None:
    assert client.get("wg0") == DeviceState("wg0")


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("", errno.EPROTO),
        ("errno=0\n", errno.EPROTO),
        ("\n\n", errno.EPROTO),
        ("listen_port=1\n\n", errno.EPROTO),
        ("errno=\n\n", errno.EPROTO),
        ("errno=x\n\n", errno.EPROTO),
        ("errno=1\n\n", errno.EPERM),
        ("errno=-98\n\n", errno.EADDRINUSE),
        (f"private_key=abc\n{FINE}", errno.EPROTO),
        (f"listen_port=65536\n{FINE}", errno.EPROTO),
        (f"listen_port=-1\n{FINE}", errno.EPROTO),
        (f"public_key={'g' * 64}\n{FINE}", errno.EPROTO),
        (f"public_key={ONE.hex()}\nallowed_ip=10.0.0.0/33\n{FINE}", errno.EPROTO),
        (f"public_key={ONE.hex()}\nallowed_ip=10.0.0.0\n{FINE}", errno.EPROTO),
        (f"public_key={ONE.hex()}\nendpoint=2001:db8::1:5\n{FINE}", errno.EPROTO),
        (f"public_key={ONE.hex()}\nendpoint=example.org:5\n{FINE}", errno.EPROTO),
        (f"public_key={ONE.hex()}\nrx_bytes={1 << 64}\n{FINE}", errno.EPROTO),
        (f"public_key={ONE.hex()}\nrx_bytes={'9' * 5000}\n{FINE}", errno.EPROTO),
        # Of one that was taken over: what would end whoever asks, or speak to his terminal.
        (f"errno={'9' * 5000}\n\n", errno.EPROTO),
        ("errno=99999999999\n\n", errno.EPROTO),
        ("errno=\u00b2\n\n", errno.EPROTO),
        ("errno=--5\n\n", errno.EPROTO),
        (f"public_key={ONE.hex()}\nendpoint=[fe80::1%\x1b[2J]:5\n{FINE}", errno.EPROTO),
        (f"public_key={ONE.hex()}\nendpoint=[fe80::1%a b]:5\n{FINE}", errno.EPROTO),
        (f"public_key={ONE.hex()}\nendpoint=[fe80::1%{'9' * 5000}]:5\n{FINE}", errno.EPROTO),
        (f"version=\x9b2J\n{FINE}", errno.EPROTO),
        (f"version=a\tb\n{FINE}", errno.EPROTO),
    ],
)
def test_answers_that_are_none(daemon: PlayedDaemon, answer: str, code: int) -> None:
    daemon.get = answer
    with pytest.raises(OSError, match="wg0") as caught:
        client.get("wg0")
    assert caught.value.errno == code


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (Endpoint("192.0.2.1", 5), "192.0.2.1:5"),
        (Endpoint("2001:db8::1", 5), "[2001:db8::1]:5"),
        (Endpoint("::ffff:192.0.2.1", 5), "[::ffff:192.0.2.1]:5"),
        (Endpoint("fe80::1%1", 5), f"[fe80::1%{socket.if_indextoname(1)}]:5"),
        (Endpoint("fe80::1%999999", 5), "[fe80::1%999999]:5"),
        (Endpoint("fe80::1%eth7", 5), "[fe80::1%eth7]:5"),
        (Endpoint("fe80::1%\u00b2", 5), "[fe80::1%\u00b2]:5"),
        (Endpoint("2001:db8::1%1", 5), "[2001:db8::1%1]:5"),
    ],
)
def test_endpoints_as_text(endpoint: Endpoint, text: str) -> None:
    assert endpoint_text(endpoint) == text


# ---- which interfaces ----


@pytest.mark.usefixtures("no_kernel")
def test_interfaces_are_sockets_that_answer(daemon: PlayedDaemon, directory: Path) -> None:
    (directory / "file.sock").touch()
    (directory / ".sock").touch()
    (directory / "other").touch()
    abandoned = directory / "gone.sock"
    with socket.socket(socket.AF_UNIX) as once:
        once.bind(str(abandoned))
    assert client.interfaces() == ["wg0"]
    assert not abandoned.exists()
    assert (directory / "file.sock").exists()


@pytest.mark.usefixtures("no_kernel")
def test_no_directory_is_no_interfaces(directory: Path) -> None:
    directory.rmdir()
    assert client.interfaces() == []


@pytest.mark.usefixtures("directory", "no_kernel")
@pytest.mark.parametrize("name", ["nobody", "", "a/b", "../wg0", "a" * 300, "nul\0"])
def test_who_is_not_here_is_asked_of_the_kernel(name: str) -> None:
    for ask in (lambda: client.get(name), lambda: client.set(name, SetRequest())):
        with pytest.raises(OSError, match="No such device"):
            ask()
    assert client.statistics(name) is None


def test_a_daemon_that_hangs_does_not_hang_us(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_uapi, "TIMEOUT", 0.05)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "stuck.sock"))
        listener.listen()  # the kernel takes the connection, nobody else does
        with pytest.raises(OSError, match="stuck") as caught:
            client.get("stuck")
    assert caught.value.errno == errno.ETIMEDOUT


class Endless(PlayedDaemon):
    """Answers for ever, a piece at a time."""

    piece, pause = b"x=y\n", 0.0

    def _answer(self, connection: socket.socket) -> None:
        connection.recv(1 << 16)
        while True:
            connection.sendall(self.piece)
            time.sleep(self.pause)


def test_an_answer_without_end_is_not_kept(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_uapi, "ANSWER_MAX", 1 << 20)
    monkeypatch.setattr(Endless, "piece", b"x=y\n" * 10000)
    with Endless(directory, "wg0"), pytest.raises(OSError, match="wg0") as caught:
        client.get("wg0")
    assert caught.value.errno == errno.EMSGSIZE


def test_an_answer_that_drips_does_not_hang_us(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_uapi, "TIMEOUT", 0.3)
    monkeypatch.setattr(Endless, "pause", 0.05)
    with Endless(directory, "wg0"):
        assert not client.answers("wg0")
        with pytest.raises(OSError, match="wg0") as caught:
            client.get("wg0")
    assert caught.value.errno == errno.ETIMEDOUT


# ---- set ----


def test_a_set_says_what_the_request_says(daemon: PlayedDaemon) -> None:
    request = SetRequest(
        private_key=PRIVATE,
        listen_port=0,
        fwmark=0xFFFFFFFF,
        replace_peers=True,
        peers=[
            PeerBlock(ONE, remove=True),
            PeerBlock(
                TWO,
                update_only=True,
                preshared_key=ONE,
                endpoint=Endpoint("2001:db8::1", 5),
                persistent_keepalive=0,
                replace_allowed_ips=True,
                allowed_ips={(4, bytes(4), 0): True, (6, b"\xfd" + bytes(15), 8): True},
            ),
            PeerBlock(THREE, allowed_ips={(4, b"\x0a\0\0\0", 8): False}),
        ],
    )
    client.set("wg0", request)
    (text,) = daemon.take_sets()
    # Read back, and by the daemon's own parser.
    said = text.removeprefix("set=1\n")[:-1].encode()
    assert outcome(said) == request
    check_text(said)


def test_a_set_that_is_refused(daemon: PlayedDaemon) -> None:
    daemon.set = "errno=-98\n\n"
    with pytest.raises(OSError, match="wg0") as caught:
        client.set("wg0", SetRequest(listen_port=1))
    assert caught.value.errno == errno.EADDRINUSE


def test_names_go_to_those_who_keep_them(daemon: PlayedDaemon) -> None:
    daemon.wgfast = STATISTICS + FINE
    blocks = [
        PeerBlock(ONE, endpoint_host="vpn.example.org:51820"),
        PeerBlock(TWO, endpoint_host="[2001:db8::1]:5"),
        PeerBlock(THREE, endpoint_host=""),
    ]
    client.set("wg0", SetRequest(peers=blocks))
    assert daemon.take_sets() == [
        f"set=1\npublic_key={ONE.hex()}\nendpoint_host=vpn.example.org:51820\n"
        f"public_key={TWO.hex()}\nendpoint=[2001:db8::1]:5\n"
        f"public_key={THREE.hex()}\nendpoint_host=\n\n"
    ]


def test_names_are_resolved_for_those_who_do_not(daemon: PlayedDaemon) -> None:
    blocks = [
        PeerBlock(ONE, endpoint_host="localhost:51820"),
        PeerBlock(TWO, endpoint_host=""),
        PeerBlock(bytes(32), endpoint=Endpoint("192.0.2.3", 5), endpoint_host="nor.is.this.invalid:5"),
        PeerBlock(THREE, remove=True, endpoint_host="is.never.asked.for.invalid:1"),
    ]
    client.set("wg0", SetRequest(peers=blocks))
    (text,) = daemon.take_sets()
    assert "endpoint_host" not in text
    assert text.count("endpoint=") == 2
    assert "\nendpoint=192.0.2.3:5\n" in text
    assert "\nendpoint=127.0.0.1:51820\n" in text or "\nendpoint=[::1]:51820\n" in text
    with pytest.raises(ResolutionError, match=r"not known: `a b\.invalid:5'"):
        client.set("wg0", SetRequest(peers=[PeerBlock(ONE, endpoint_host="a b.invalid:5")]))
    assert not daemon.take_sets()


def test_who_answers(daemon: PlayedDaemon) -> None:
    assert client.answers("wg0")
    assert daemon.take_sets() == ["set=1\n\n"]
    daemon.set = "errno=5\n\n"
    assert not client.answers("wg0")
    assert not client.answers("nobody")


# ---- statistics ----


def test_statistics(daemon: PlayedDaemon) -> None:
    daemon.wgfast = STATISTICS + FINE
    found = client.statistics("wg0")
    assert found is not None
    assert (found.version, found.threads, found.sessions, found.staged) == ("0.1.0", 2, 1, 3)
    assert (found.packet_memory_ceiling, found.aead_kernel) == (1000, "avx2")
    assert found.drops == {"replay": 4, "short": 0}
    assert found.offloads == {"tso": "in use"}
    assert found.extra == {"new_thing": "x"}
    one, two = found.peers[ONE], found.peers[TWO]
    assert (one.sent_packets, one.received_packets, one.staged) == (5, 6, 3)
    assert (one.endpoint_host, two.endpoint_host) == ("vpn.example:51820", None)


@pytest.mark.parametrize("answer", [None, "errno=22\n\n", "errno=-22\n\n", "threads=many\nerrno=0\n\n", ""])
def test_others_have_no_statistics(daemon: PlayedDaemon, answer: str | None) -> None:
    daemon.wgfast = answer
    assert client.statistics("wg0") is None


# ---- names ----

AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
FOUND = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("192.0.2.7", 51820))]


class Resolver:
    """Fails as often as told, then finds FOUND; `slept` are the waits."""

    def __init__(self, failures: int, error: OSError = AGAIN) -> None:
        self.left = failures
        self.error = error
        self.slept: list[float] = []
        self.said: list[str] = []

    def lookup(self, *_: Any) -> list[Any]:
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return FOUND

    def resolve(self, text: str = "vpn.example.org:51820") -> Endpoint:
        return client_names.resolve(text, self.said.append, lookup=self.lookup, sleep=self.slept.append)


def test_a_name_is_tried_again_with_growing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(client_names.RETRIES_VARIABLE, raising=False)
    resolver = Resolver(15)
    assert resolver.resolve() == Endpoint("192.0.2.7", 51820)
    assert resolver.slept[:4] == [1.0, 1.2, 1.44, 1.728]
    assert len(resolver.slept) == 15
    assert resolver.slept == sorted(resolver.slept)
    assert resolver.said[2] == (
        "Temporary failure in name resolution: `vpn.example.org:51820'. Trying again in 1.44 seconds..."
    )
    resolver = Resolver(16)
    with pytest.raises(ResolutionError, match="Temporary failure in name resolution: `vpn"):
        resolver.resolve()
    assert len(resolver.slept) == 15


@pytest.mark.parametrize(("value", "waits"), [("0", 0), ("", 0), ("3", 3), ("007", 7)])
def test_how_often_is_the_environments_to_say(
    value: str, waits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(client_names.RETRIES_VARIABLE, value)
    resolver = Resolver(1000)
    with pytest.raises(ResolutionError):
        resolver.resolve()
    assert len(resolver.slept) == waits


def test_for_ever_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(client_names.RETRIES_VARIABLE, "infinity")
    resolver = Resolver(200)
    assert resolver.resolve() == Endpoint("192.0.2.7", 51820)
    assert max(resolver.slept) == 20.0


@pytest.mark.parametrize("value", ["-1", "x", "1x", "2147483648", "9" * 30])
def test_a_number_of_retries_that_is_none(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(client_names.RETRIES_VARIABLE, value)
    with pytest.raises(ConfigError, match=f"WG_ENDPOINT_RESOLUTION_RETRIES: `{value}'"):
        Resolver(0).resolve()


def test_what_no_retry_helps() -> None:
    for code in (socket.EAI_NONAME, socket.EAI_FAIL, socket.EAI_SERVICE):
        resolver = Resolver(1, socket.gaierror(code, "No"))
        with pytest.raises(ResolutionError, match="No: `vpn"):
            resolver.resolve()
        assert not resolver.slept


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.1:5", Endpoint("192.0.2.1", 5)),
        ("[2001:db8::1]:5", Endpoint("2001:db8::1", 5)),
        ("[fe80::1%1]:5", Endpoint("fe80::1%1", 5)),
        ("vpn.example.org:5", None),
        ("[vpn.example.org]:5", None),
    ],
)
def test_numbers_are_told_from_names(text: str, found: Endpoint | None) -> None:
    assert client_names.numeric_endpoint(text) == found


@pytest.mark.parametrize(
    "text", ["192.0.2.1:65536", "192.0.2.1:no-such-service", "192.0.2.1:999999999999999"]
)
def test_ports_that_are_none(text: str) -> None:
    with pytest.raises(ResolutionError, match=text):
        client_names.numeric_endpoint(text)


# ---- configuration files to requests ----


def read(text: str) -> config.Config:
    return config.parse(text, "test.conf", quick=False)


def base64_of(key: bytes) -> str:
    return base64.b64encode(key).decode()


def test_replacing_says_everything() -> None:
    request = client_requests.replacing(read("[Interface]\n"))
    assert request == SetRequest(private_key=bytes(32), listen_port=0, fwmark=0, replace_peers=True)


def test_adding_says_what_the_file_says() -> None:
    text = (
        f"[Interface]\nFwMark = 5\n[Peer]\nPublicKey = {base64_of(ONE)}\nAllowedIPs = 10.0.0.0/8\n"
        f"Endpoint = a.example:5\n[Peer]\nPublicKey = {base64_of(TWO)}\nAllowedIPs = +fd00::/8, -10.0.0.0/8\n"
    )
    request = client_requests.adding(read(text))
    assert (request.private_key, request.listen_port, request.fwmark) == (None, None, 5)
    assert not request.replace_peers
    one, two = request.peers
    assert (one.replace_allowed_ips, one.allowed_ips) == (True, {(4, b"\x0a\0\0\0", 8): True})
    assert one.endpoint_host == "a.example:5"
    assert (two.replace_allowed_ips, list(two.allowed_ips.values())) == (False, [True, False])


def test_synchronising_changes_what_differs() -> None:
    text = f"[Interface]\n[Peer]\nPublicKey = {base64_of(ONE)}\n[Peer]\nPublicKey = {base64_of(TWO)}\n"
    state = DeviceState(
        "wg0", peers=[PeerState(ONE, preshared_key=THREE, persistent_keepalive=5), PeerState(THREE)]
    )
    request = client_requests.synchronising(read(text), state)
    assert not request.replace_peers
    gone, one, two = request.peers
    assert (gone.public_key, gone.remove) == (THREE, True)
    assert (one.public_key, one.preshared_key, one.persistent_keepalive) == (ONE, bytes(32), 0)
    assert (two.public_key, two.preshared_key, two.persistent_keepalive) == (TWO, None, None)
    # Nothing to compare with: as setconf.
    assert client_requests.synchronising(read(text), DeviceState("wg0")).replace_peers
