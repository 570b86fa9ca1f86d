"""show and showconf against the real `wg`, byte for byte, on daemons that are played and on living ones."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bothtools import Wgfast, compare, without_hints
from lab.end import End
from lab.programs import PEER, SUBJECT, require_lab
from lab.topology import Lab, Tunnel
from lab.traffic import wait_ping
from playeddaemon import FINE, PlayedDaemon

from wgfast import Endpoint, client
from wgfast.cli import schema, show
from wgfast.cli.access import FIELDS
from wgfast.cli.show_pretty import bytes_text, duration_text, pretty, without_colours
from wgfast.client_uapi import parse_statistics
from wgfast.keys import generate_private_key
from wgfast.reading import names_of

pytestmark = pytest.mark.lab

DIRECTORY = Path("/var/run/wireguard")
PRIVATE = bytes(generate_private_key())
KEYS = [bytes([number]) * 32 for number in range(1, 40)]
ALWAYS = {"WG_COLOR_MODE": "always", "WG_HIDE_KEYS": "never"}


@pytest.fixture
def wgfast(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Wgfast:
    for name in ("WG_COLOR_MODE", "WG_HIDE_KEYS"):
        monkeypatch.delenv(name, raising=False)
    return Wgfast(capfd, monkeypatch)


@pytest.fixture(scope="module")
def played() -> Iterator[PlayedDaemon]:
    require_lab()
    DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    with PlayedDaemon(DIRECTORY, f"wshow{os.getpid():x}") as daemon:
        yield daemon


def peer(number: int, *lines: str) -> str:
    return "".join(f"{line}\n" for line in (f"public_key={KEYS[number].hex()}", *lines))


def many_peers() -> str:
    """Ages, byte counts and intervals around every place where their wording changes."""
    now = int(time.time())
    ages = [
        *(0, 1, 2, 59, 60, 61, 3599, 3600, 3661, 86399, 86400, 90061, 31535999, 31536000),
        *(2 * 31536000 + 2 * 86400 + 2 * 3600 + 122, -100, now),
    ]
    counts = [
        *(0, 1, 1023, 1024, 1030, 1048575, 1048576, 5 << 20, (1 << 30) - 1, 1 << 30, (1 << 40) - 1, 1 << 40),
        *(5 << 50, (1 << 64) - 1, 1536, 999, 1 << 63),
    ]
    keepalives = [0, 1, 2, 25, 59, 60, 61, 120, 3600, 3601, 65535, 25, 0, 0, 7, 8, 9]
    return "".join(
        peer(
            number,
            f"last_handshake_time_sec={now - ages[number]}",
            f"last_handshake_time_nsec={number * 1000}",
            f"rx_bytes={counts[number]}",
            f"tx_bytes={counts[-number]}",
            f"persistent_keepalive_interval={keepalives[number]}",
        )
        for number in range(len(ages))
    )


ENDPOINTS = [
    "192.0.2.1:51820",
    "192.0.2.1:0",
    "[2001:db8::1]:65535",
    "[::1]:1",
    "[fe80::1%1]:5",
    "[fe80::1%lo]:5",
    "[2001:db8::1%1]:5",
    "[ff02::1%1]:5",
    "[::ffff:192.0.2.1]:5",
    "[2001:0db8:0:0:0:0:0:1]:5",
]
NETS = [
    *("0.0.0.0/0", "::/0", "10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "2001:db8::1/128"),
    *("::ffff:192.0.2.0/120", "fe80::/10"),
]

STATES: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "no key": lambda: "listen_port=51820\nfwmark=4294967295\n",
    "only a key": lambda: f"private_key={PRIVATE.hex()}\n",
    "a key of zeros": lambda: f"private_key={'0' * 64}\nlisten_port=0\nfwmark=0\n",
    "a bare peer": lambda: peer(0),
    "two bare peers": lambda: f"private_key={PRIVATE.hex()}\n" + peer(1) + peer(0),
    "times, counts, intervals": many_peers,
    "only one direction": lambda: peer(0, "rx_bytes=5") + peer(1, "tx_bytes=5"),
    "half a stamp": lambda: (
        peer(0, "last_handshake_time_nsec=5")
        + peer(1)
        + peer(2, "last_handshake_time_sec=5")
        + peer(3, "last_handshake_time_sec=5", "last_handshake_time_nsec=1")
    ),
    "preshared keys": lambda: (
        peer(0, f"preshared_key={KEYS[9].hex()}") + peer(1, f"preshared_key={'0' * 64}")
    ),
    "endpoints": lambda: "".join(
        peer(number, f"endpoint={endpoint}") for number, endpoint in enumerate(ENDPOINTS)
    ),
    "allowed IPs": lambda: peer(0, *(f"allowed_ip={net}" for net in NETS)) + peer(1, f"allowed_ip={NETS[0]}"),
    "keys of the future": lambda: f"colour=blue\n{peer(0, 'protocol_version=1', 'mood=fine', 'rx_bytes=7')}",
}
COMMANDS = [("show",), ("showconf",), *(("show", field) for field in FIELDS)]


def command_of(words: tuple[str, ...], name: str) -> list[str]:
    return [words[0], name, *words[1:]]


@pytest.mark.parametrize("state", STATES)
def test_the_same_bytes_for_the_same_answers(state: str, played: PlayedDaemon, wgfast: Wgfast) -> None:
    played.get = STATES[state]() + FINE
    for words in COMMANDS:
        theirs, ours = compare(wgfast, command_of(words, played.name))
        assert ours == theirs, words
        assert ours.status == 0
    theirs, ours = compare(wgfast, ["show", played.name], ALWAYS)
    assert ours == theirs


def random_state(source: random.Random) -> str:
    """A device whose every key may be there, with values from all of its range."""

    def maybe(line: str) -> list[str]:
        return [line] if source.random() < 0.7 else []

    def address(family: int) -> str:
        # Zeros, so that IPv6 is shortened everywhere it can be.
        raw = bytes(source.choice((0, 0, source.randrange(256))) for _ in range(4 if family == 4 else 16))
        return str(ipaddress.ip_address(raw))

    def net(family: int) -> str:
        length = source.randrange(33 if family == 4 else 129)
        return str(ipaddress.ip_network(f"{address(family)}/{length}", strict=False))

    def number(bits: int) -> int:
        return source.getrandbits(source.randrange(bits + 1))

    lines = [
        *maybe(f"private_key={source.randbytes(32).hex()}"),
        *maybe(f"listen_port={number(16)}"),
        *maybe(f"fwmark={number(32)}"),
    ]
    for _ in range(source.randrange(8)):
        host = source.choice((address(4), f"[{address(6)}]"))
        lines += [
            f"public_key={source.randbytes(32).hex()}",
            *maybe(f"preshared_key={source.choice((bytes(32), source.randbytes(32))).hex()}"),
            *maybe(f"endpoint={host}:{number(16)}"),
            *maybe(f"last_handshake_time_sec={source.choice((0, number(31)))}"),
            *maybe(f"last_handshake_time_nsec={number(29)}"),
            *maybe(f"tx_bytes={number(64)}"),
            *maybe(f"rx_bytes={number(64)}"),
            *maybe(f"persistent_keepalive_interval={number(16)}"),
            *(f"allowed_ip={net(source.choice((4, 6)))}" for _ in range(source.randrange(4))),
        ]
    return "".join(f"{line}\n" for line in lines)


def test_the_same_bytes_for_random_answers(played: PlayedDaemon, wgfast: Wgfast) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(60):
        played.get = random_state(source) + FINE
        for words in (("show",), ("showconf",), ("show", "dump")):
            theirs, ours = compare(wgfast, command_of(words, played.name), ALWAYS)
            assert ours == theirs, (words, played.get)


@pytest.mark.parametrize(
    ("colours", "keys"),
    [("always", "always"), ("never", "never"), ("auto", "no"), ("", ""), ("ALWAYS", "NEVER")],
)
def test_what_the_environment_says(colours: str, keys: str, played: PlayedDaemon, wgfast: Wgfast) -> None:
    played.get = f"private_key={PRIVATE.hex()}\n" + STATES["preshared keys"]() + FINE
    environ = {"WG_COLOR_MODE": colours, "WG_HIDE_KEYS": keys}
    theirs, ours = compare(wgfast, ["show", played.name], environ)
    assert ours == theirs
    secret = base64.b64encode(PRIVATE).decode()
    assert (secret in ours.out) == (keys == "never")
    assert ("\x1b[" in ours.out) == (colours == "always")


BAD_ANSWERS = [
    *("", "errno=0\n", "\n\n", "listen_port=5\n\n", "errno=1\n\n", "errno=19\n\n", "errno=95\n\n"),
    *("errno=x\n\n", "no equals sign\nerrno=0\n\n", "private_key=00\nerrno=0\n\n"),
    *("listen_port=65536\nerrno=0\n\n", "fwmark=x\nerrno=0\n\n", "public_key=zz\nerrno=0\n\n"),
    f"public_key={'1' * 64}\nallowed_ip=10.0.0.0/33\nerrno=0\n\n",
    f"public_key={'1' * 64}\npersistent_keepalive_interval=-1\nerrno=0\n\n",
]


@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_the_same_words_for_answers_that_are_none(answer: str, played: PlayedDaemon, wgfast: Wgfast) -> None:
    played.get = answer
    for words in (("show",), ("showconf",), ("show", "dump"), ("show", "nonsense")):
        theirs, ours = compare(wgfast, command_of(words, played.name))
        assert ours == theirs
        assert ours.status == 1
    theirs, ours = compare(wgfast, ["show", "all"])
    assert played.name in ours.err
    assert ours == theirs


ARGUMENTS = [
    ["show", "interfaces", "peers"],
    ["show", "a", "b", "c"],
    ["show", "all", "peers", "peers"],
    ["show", "all", "nonsense"],
    ["show", "NAME", "nonsense"],
    ["show", "NAME", ""],
    ["show", "NAME", "Peers"],
    ["show", "help"],
    ["show", "nobody-is-here"],
    ["show", ""],
    ["show", "a/b"],
    ["show", "..", "dump"],
    ["show", "x" * 200],
    ["show", "nobody-is-here", "dump"],
    ["showconf"],
    ["showconf", "NAME", "more"],
    ["showconf", "nobody-is-here"],
    ["showconf", "all"],
    ["genkey", "more"],
    ["genpsk", "more"],
    ["pubkey", "more"],
]


@pytest.mark.parametrize("words", ARGUMENTS, ids=" ".join)
def test_the_same_words_for_what_does_not_fit(words: list[str], played: PlayedDaemon, wgfast: Wgfast) -> None:
    played.get = STATES["two bare peers"]() + FINE
    theirs, ours = compare(wgfast, [played.name if word == "NAME" else word for word in words])
    assert ours == theirs


def test_who_is_not_there_is_explained(capfd: pytest.CaptureFixture[str], wgfast: Wgfast) -> None:
    require_lab()
    with contextlib.suppress(SystemExit):
        wgfast("show", "nobody-is-here")
    from wgfast.__main__ import main

    assert main(["show", "nobody-is-here"]) == 1
    err = capfd.readouterr().err
    assert "wgfast: nobody serves `nobody-is-here'" in err
    assert without_hints(err).count("\n") == 1


def test_a_socket_that_nobody_serves_is_removed(wgfast: Wgfast) -> None:
    require_lab()
    name = f"wgone{os.getpid():x}"
    path = DIRECTORY / f"{name}.sock"
    import socket

    said = []
    for tool in (lambda: compare(wgfast, ["show", name])[0], lambda: wgfast("show", name)):
        with socket.socket(socket.AF_UNIX) as once:
            once.bind(str(path))
        said.append(tool())
        assert not path.exists()
    assert said[0] == said[1]


# ---- living daemons ----


@pytest.fixture(scope="module")
def tunnel() -> Iterator[Tunnel]:
    """One end wgfast, one wireguard-go; a session, and packets that were counted."""
    require_lab()
    laboratory = Lab()
    try:
        found = laboratory.tunnel(SUBJECT, PEER)
        found.initiator.set(
            "fwmark", "0x2a", "peer", found.responder.public_key, "persistent-keepalive", "33"
        )
        wait_ping(found.initiator.namespace, found.responder.address)
        yield found
    finally:
        laboratory.close()


@pytest.mark.parametrize("side", ["wgfast", "wireguard-go"])
def test_the_same_bytes_of_living_daemons(side: str, tunnel: Tunnel, wgfast: Wgfast) -> None:
    end = tunnel.initiator if side == "wgfast" else tunnel.responder
    for words in COMMANDS:
        theirs, ours = compare(wgfast, command_of(words, end.interface))
        assert ours == theirs, words
        assert ours.status == 0
        assert ours.out
    assert compare(wgfast, ["show", end.interface], ALWAYS)[1].out.count("\x1b[") > 10
    assert "latest handshake" in wgfast("show", end.interface).out


def of(names: set[str], text: str) -> list[str]:
    """What is said of these interfaces: there may be others on this machine, in use."""
    kept, ours = [], False
    for line in text.splitlines():
        if line.startswith("interface: "):
            ours = line.split()[1] in names
        elif "\t" in line:
            ours = line.split("\t")[0] in names
        elif set(line.split()) & names:
            kept += [word for word in line.split() if word in names]
        if ours:
            kept.append(line)
    return kept


def test_all_of_several(tunnel: Tunnel, played: PlayedDaemon, wgfast: Wgfast) -> None:
    # Not the endpoints: wg of 2021 forgets the interface's name before all but the first.
    fields = [field for field in FIELDS if field != "endpoints"]
    played.get = STATES["a bare peer"]() + FINE
    names = {*(end.interface for end in tunnel.ends), played.name}
    for words in (["show", "interfaces"], ["show"], ["show", "all"], *(["show", "all", f] for f in fields)):
        theirs, ours = compare(wgfast, words)
        assert (ours.status, ours.err) == (theirs.status, theirs.err), words
        assert of(names, ours.out) == of(names, theirs.out), words
        assert all(name in ours.out for name in names)


def test_every_line_of_all_has_its_name(played: PlayedDaemon, wgfast: Wgfast) -> None:
    played.get = STATES["endpoints"]() + FINE
    lines = [line for line in wgfast("show", "all", "endpoints").out.splitlines() if played.name in line]
    assert len(lines) == len(ENDPOINTS)


# ---- JSON ----


def document(wgfast: Wgfast, *words: str) -> dict[str, Any]:
    said = wgfast(*words)
    assert (said.status, said.err) == (0, "")
    found: dict[str, Any] = json.loads(said.out)
    assert found["schema"] == schema.VERSION
    return found


def dump_of(end: End) -> list[list[str]]:
    return [line.split("\t") for line in end.wg("show", "dump").splitlines()]


def test_json_says_what_dump_says(tunnel: Tunnel, wgfast: Wgfast) -> None:
    for end, other in (tunnel.ends, tunnel.ends[::-1]):
        before = dump_of(end)
        (found,) = document(wgfast, "show", end.interface, "--json", "--secrets")["interfaces"]
        device, row = dump_of(end)
        if [device, row] != before:
            continue  # a keepalive passed by
        assert [found["private_key"], found["public_key"], str(found["listen_port"])] == device[:3]
        assert found["fwmark"] == (0 if device[3] == "off" else int(device[3], 16))
        (peer_found,) = found["peers"]
        assert peer_found["public_key"] == row[0] == other.public_key
        assert peer_found["preshared_key"] is None
        assert peer_found["endpoint"] == row[2]
        assert ",".join(peer_found["allowed_ips"]) == row[3]
        assert int(peer_found["latest_handshake"]) == int(row[4]) > 0
        assert [str(peer_found["received_bytes"]), str(peer_found["sent_bytes"])] == row[5:7]
        assert (str(peer_found["persistent_keepalive"] or "off")) == row[7]


def test_json_of_wgfast_has_its_statistics(tunnel: Tunnel, wgfast: Wgfast) -> None:
    end, other = tunnel.ends
    (theirs,) = document(wgfast, "show", other.interface, "--json")["interfaces"]
    assert "wgfast" not in theirs
    (ours,) = document(wgfast, "show", end.interface, "--json")["interfaces"]
    assert ours["wgfast"]["threads"] >= 1
    assert ours["wgfast"]["sessions"] == 1
    assert ours["peers"][0]["sent_packets"] >= 1
    assert set(ours["wgfast"]) == {
        *("version", "threads", "queues", "sessions", "staged", "packet_memory_ceiling", "aead_kernel"),
        *("drops", "offloads"),
    }


def test_json_keeps_secrets(played: PlayedDaemon, wgfast: Wgfast) -> None:
    played.get = f"private_key={PRIVATE.hex()}\n" + STATES["preshared keys"]() + FINE
    secrets = [base64.b64encode(key).decode() for key in (PRIVATE, KEYS[9])]
    for words in (["show", played.name], ["show", "all"], ["showconf", played.name]):
        plain, told = wgfast(*words, "--json"), wgfast(*words, "--json", "--secrets")
        assert [secret in plain.out for secret in secrets] == [False, False]
        assert [secret in told.out for secret in secrets] == [True, True]
    for field in ("private-key", "preshared-keys", "dump"):
        assert not any(secret in wgfast("show", played.name, field, "--json").out for secret in secrets)


def test_json_of_one_field(played: PlayedDaemon, wgfast: Wgfast) -> None:
    played.get = f"listen_port=7\n{peer(0, 'endpoint=192.0.2.1:5', 'rx_bytes=9')}" + FINE
    (whole,) = document(wgfast, "show", played.name, "--json")["interfaces"]
    assert set(whole) == {"name", "kind", "public_key", "listen_port", "fwmark", "peers"}
    for field in FIELDS:
        (found,) = document(wgfast, "show", played.name, field, "--json")["interfaces"]
        assert found.items() <= whole.items() or found["peers"][0].items() <= whole["peers"][0].items()
        assert found["name"] == played.name
    (found,) = document(wgfast, "show", played.name, "endpoints", "--json")["interfaces"]
    assert found["peers"] == [{"public_key": whole["peers"][0]["public_key"], "endpoint": "192.0.2.1:5"}]
    assert {"name": played.name} in document(wgfast, "show", "interfaces", "--json")["interfaces"]
    (settings,) = document(wgfast, "showconf", played.name, "--json")["interfaces"]
    assert "received_bytes" not in settings["peers"][0]
    assert settings["listen_port"] == 7


def test_json_has_the_names_of_the_configuration(
    played: PlayedDaemon, wgfast: Wgfast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"[Peer]\n# Name = laptop\nPublicKey = {base64.b64encode(KEYS[0]).decode()}\n"
    (tmp_path / f"{played.name}.conf").write_text(text)
    monkeypatch.setattr(show, "names_of", lambda name: names_of(name, str(tmp_path)))
    played.get = STATES["two bare peers"]() + FINE
    (found,) = document(wgfast, "show", played.name, "peers", "--json")["interfaces"]
    assert [peer.get("name") for peer in found["peers"]] == [None, "laptop"]


def test_json_of_what_is_not_there(wgfast: Wgfast) -> None:
    require_lab()
    said = wgfast("show", "nobody-is-here", "--json")
    assert (said.status, said.out) == (1, "")
    assert "Unable to access interface" in said.err
    said = wgfast("show", "all", "nonsense", "--json")
    assert (said.status, said.out) == (1, "")
    assert "Invalid parameter: `nonsense'" in said.err


def test_a_name_that_is_not_resolved_yet_is_shown() -> None:
    peer = client.PeerState(KEYS[0], extra={"endpoint_host": "a.b:5"})
    state = client.DeviceState("wg0", peers=[peer])
    assert "endpoint: (none: a.b:5 is not resolved yet)" in without_colours(pretty(state, 0, hide_keys=True))
    peer.endpoint = Endpoint("192.0.2.1", 5)
    assert "endpoint: 192.0.2.1:5\n" in without_colours(pretty(state, 0, hide_keys=True))


def test_the_schema_names_every_name() -> None:
    """Its documentation is the module's: each name that can be printed stands there, and no other."""
    names = {
        line.split()[0]
        for line in (schema.__doc__ or "").splitlines()
        if line.startswith("    ") and line.strip()
    }
    peer = client.PeerState(KEYS[0], limits={"send_rate": 1}, extra={"endpoint_host": "a.b:5"})
    state = client.DeviceState("wg0", peers=[peer])
    statistics = parse_statistics([("public_key", KEYS[0].hex())])
    shown = schema.interface_object(state, statistics, secrets=True, names={KEYS[0]: "laptop"})
    printed = {*shown, *shown["peers"][0], *shown["wgfast"]}
    assert printed == names - {'{"schema":', "received_rate", "sent_rate", "drop_rates", "problem"}
    assert shown["peers"][0]["name"] == "laptop"
    assert set(schema.document([])) == {"schema", "time", "interfaces"}


# ---- words ----


def test_durations_and_bytes() -> None:
    assert without_colours(duration_text(90061)) == "1 day, 1 hour, 1 minute, 1 second"
    assert without_colours(bytes_text(1536)) == "1.50 KiB"
