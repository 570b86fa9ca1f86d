"""What `wg` sets is what `wg` shows, and what is refused changes nothing."""

from __future__ import annotations

import random
import socket
import threading

import pytest
from lab import uapi
from lab.end import End
from lab.process import alive, wait_until
from lab.programs import PEER, SUBJECT, beyond_peer
from lab.topology import Lab, genkey, genpsk, pubkey
from lab.traffic import wait_ping

pytestmark = pytest.mark.lab

Section = dict[str, str]


@pytest.fixture
def end(lab: Lab) -> End:
    """A running wgfast without a configuration; its interface is down."""
    return lab.end(lab.namespace("alone"), SUBJECT).start()


def new_public_key() -> str:
    return pubkey(genkey())


def parse(text: str) -> list[Section]:
    """A configuration file as sections; allowed IPs in a fixed order, for they have none."""
    sections: list[Section] = []
    for line in text.splitlines():
        if line.startswith("["):
            sections.append({"": line})
        elif line.strip():
            key, _, value = line.partition("=")
            value = value.strip()
            if key.strip() == "AllowedIPs":
                value = ", ".join(sorted(part.strip() for part in value.split(",")))
            sections[-1][key.strip()] = value
    return sections[:1] + sorted(sections[1:], key=lambda section: section["PublicKey"])


def full_peer(number: int) -> str:
    """Every line that a peer can have, in the order and the form of `wg showconf`."""
    return (
        f"\n[Peer]\nPublicKey = {new_public_key()}\nPresharedKey = {genpsk()}\n"
        f"AllowedIPs = 10.{number}.0.0/16, 192.168.{number}.7/32, "
        f"fd00:{number}::/64, fd01::{number}/128\n"
        f"Endpoint = 192.0.2.{number}:5182{number}\nPersistentKeepalive = {20 + number}\n"
    )


def full_configuration() -> str:
    bare = f"\n[Peer]\nPublicKey = {new_public_key()}\n"
    six = (
        f"\n[Peer]\nPublicKey = {new_public_key()}\nAllowedIPs = ::/0, 0.0.0.0/0\n"
        "Endpoint = [2001:db8::9]:1\n"
    )
    head = f"[Interface]\nListenPort = 51821\nFwMark = 0xca6c\nPrivateKey = {genkey()}\n"
    return head + full_peer(1) + full_peer(2) + bare + six


def test_setconf_showconf_round_trip(end: End) -> None:
    text = full_configuration()
    end.load("setconf", text)
    assert parse(end.wg("showconf")) == parse(text)
    # What was shown can be loaded again; a second configuration replaces the first whole.
    end.load("setconf", full_configuration())
    assert parse(end.wg("showconf")) != parse(text)
    end.load("setconf", text)
    assert parse(end.wg("showconf")) == parse(text)


def test_addconf_adds_and_syncconf_makes_equal(end: End) -> None:
    text = full_configuration()
    end.load("setconf", text)
    more = full_peer(7)
    end.load("addconf", more.lstrip())
    assert parse(end.wg("showconf")) == parse(text + more)
    fewer = text.replace(text[text.index("\n[Peer]") : text.index("\n[Peer]", 200)], "")
    end.load("syncconf", fewer)
    assert parse(end.wg("showconf")) == parse(fewer)


def test_syncconf_leaves_a_live_session_alone(lab: Lab) -> None:
    tunnel = lab.tunnel(SUBJECT, PEER)
    end, other = tunnel.initiator, tunnel.responder
    wait_ping(end.namespace, other.address)
    before = end.latest_handshake(other), end.show("transfer")[other.public_key]
    end.load("syncconf", end.wg("showconf") + full_peer(3))
    assert (end.latest_handshake(other), end.show("transfer")[other.public_key]) == before
    wait_ping(end.namespace, other.address, deadline=1.0)
    initiations = end.log.count("initiation")
    end.load("syncconf", end.wg("showconf"))
    wait_ping(end.namespace, other.address, deadline=1.0)
    assert end.log.count("initiation") == initiations


def test_show_agrees_with_set(end: End) -> None:
    private, peer, psk = genkey(), new_public_key(), genpsk()
    end.set_private_key(private)
    end.set("listen-port", "51999", "fwmark", "0x2a")
    end.set("peer", peer, "endpoint", "192.0.2.9:1234", "persistent-keepalive", "33")
    end.set("peer", peer, "allowed-ips", "10.0.0.0/8,fd00::/8")
    end.namespace.ip("link set lo up")
    head, row = (line.split("\t") for line in end.wg("show", "dump").splitlines())
    assert head == [private, pubkey(private), "51999", "0x2a"]
    assert row == [peer, "(none)", "192.0.2.9:1234", "10.0.0.0/8,fd00::/8", "0", "0", "0", "33"]
    for line, words in {
        "public-key": pubkey(private),
        "private-key": private,
        "listen-port": "51999",
        "fwmark": "0x2a",
        "peers": peer,
    }.items():
        assert end.wg("show", line).strip() == words
    end.load("addconf", f"[Peer]\nPublicKey = {peer}\nPresharedKey = {psk}\n")
    assert end.show("preshared-keys") == {peer: psk}


def test_values_can_be_taken_back(end: End) -> None:
    peer = new_public_key()
    end.load("setconf", full_configuration())
    end.set("peer", peer, "allowed-ips", "10.1.2.0/24", "persistent-keepalive", "25")
    end.set("peer", peer, "allowed-ips", "")
    assert end.show("allowed-ips")[peer] == "(none)"
    end.set("peer", peer, "persistent-keepalive", "off")
    assert end.show("persistent-keepalive")[peer] == "off"
    end.set("peer", peer, "remove")
    assert peer not in end.wg("show", "peers")
    end.set("fwmark", "off")
    assert end.wg("show", "fwmark").strip() == "off"
    end.set("private-key", "/dev/null")
    assert end.wg("show", "private-key").strip() == "(none)"
    assert end.wg("show", "public-key").strip() == "(none)"


def test_get_speaks_the_documented_keys(lab: Lab) -> None:
    tunnel = lab.tunnel(PEER, SUBJECT)
    end, other = tunnel.responder, tunnel.initiator
    wait_ping(other.namespace, end.address)
    answer = uapi.request(end.interface, "get=1\n\n")
    assert answer[-1] == ("errno", "0")
    keys = [key for key, _ in answer]
    start = keys.index("public_key")
    assert set(keys[:start]) == {"private_key", "listen_port"}
    assert set(keys[start:-1]) == {
        *("public_key", "preshared_key", "protocol_version", "endpoint", "allowed_ip"),
        *("last_handshake_time_sec", "last_handshake_time_nsec", "tx_bytes", "rx_bytes"),
        "persistent_keepalive_interval",
    }
    values = dict(answer)
    assert values["private_key"] == uapi.hexadecimal(end.private_key)
    assert values["public_key"] == uapi.hexadecimal(other.public_key)
    assert values["protocol_version"] == "1"
    assert 0 <= int(values["last_handshake_time_nsec"]) < 10**9


@beyond_peer("of 2022 cannot take one allowed IP away")
def test_allowed_ips_change_step_by_step(end: End) -> None:
    """`allowed_ip=-` takes one away, and says nothing about one that is not there."""
    key = uapi.hexadecimal(new_public_key())
    peer = f"public_key={key}"

    def change(*lines: str) -> list[str]:
        assert uapi.set_errno(end.interface, peer, *lines) == 0
        answer = uapi.request(end.interface, "get=1\n\n")
        return sorted(value for name, value in answer if name == "allowed_ip")

    assert change("allowed_ip=10.0.0.0/24", "allowed_ip=fd00::/64") == ["10.0.0.0/24", "fd00::/64"]
    assert change("allowed_ip=10.0.1.0/24", "allowed_ip=-10.0.0.0/24") == [
        "10.0.1.0/24",
        "fd00::/64",
    ]
    assert change("allowed_ip=-10.9.9.0/24") == ["10.0.1.0/24", "fd00::/64"]
    assert change("allowed_ip=-fd00::/64") == ["10.0.1.0/24"]
    assert change("replace_allowed_ips=true", "allowed_ip=::/0") == ["::/0"]
    assert change("replace_allowed_ips=true") == []


def test_update_only_makes_no_peer(end: End) -> None:
    known, unknown = (uapi.hexadecimal(new_public_key()) for _ in range(2))
    assert uapi.set_errno(end.interface, f"public_key={known}") == 0
    for key in (known, unknown):
        lines = (f"public_key={key}", "update_only=true", "persistent_keepalive_interval=7")
        assert uapi.set_errno(end.interface, *lines) == 0
    assert list(end.show("persistent-keepalive").values()) == ["7"]
    assert uapi.set_errno(end.interface, "replace_peers=true") == 0
    assert end.wg("show", "peers") == ""


def set_and_get(end: End, key: str, number: int, problems: list[str]) -> None:
    """One client of several: gives the peer two nets of its own, and reads whose two it has."""
    nets = (f"allowed_ip=10.{100 + number}.1.0/24", f"allowed_ip=10.{100 + number}.2.0/24")
    change = "\n".join(("set=1", f"public_key={key}", "replace_allowed_ips=true", *nets)) + "\n\n"
    try:
        with uapi.connect(end.interface) as client:
            for _ in range(25):
                if uapi.exchange(client, change) != [("errno", "0")]:
                    problems.append("a set was refused")
                answer = uapi.exchange(client, "get=1\n\n")
                found = [v for k, v in answer if k == "allowed_ip" and v.startswith("10.10")]
                if len(found) != 2 or found[0][:6] != found[1][:6]:
                    problems.append(f"half a set: {found}")
    except OSError as problem:
        problems.append(repr(problem))


@beyond_peer("lets a stalled set hold up everybody")
def test_several_clients_at_once(end: End) -> None:
    """Busy ones beside idle and stalled ones; each `get` shows a `set` whole or not at all."""
    end.load("setconf", full_configuration())
    others = [uapi.connect(end.interface) for _ in range(20)]
    others[0].sendall(b"set=1\nlisten_p")
    others[1].sendall(b"get=1")
    key = uapi.hexadecimal(new_public_key())
    problems: list[str] = []
    threads = [
        threading.Thread(target=set_and_get, args=(end, key, number, problems), daemon=True)
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert not problems, problems[:3]
    for client in others:
        client.close()
    assert uapi.answers(end.interface)


GOOD = "0" * 63 + "9"
BAD_LINES = [
    "private_key=00",
    f"private_key={'g' * 64}",
    "listen_port=65536",
    "listen_port=-1",
    "listen_port=",
    "listen_port=51820 ",
    "fwmark=4294967296",
    "fwmark=blue",
    "replace_peers=false",
    "unknown_key=1",
    "no equals sign",
    "public_key=",
    f"public_key={GOOD}0",
    "allowed_ip=10.0.0.0/8",
    "get=1",
    *(
        f"public_key={GOOD}\n{line}"
        for line in (
            "allowed_ip=10.0.0.0/33",
            "allowed_ip=10.0.0/8",
            "allowed_ip=fd00::/129",
            "allowed_ip=fd00:::/64",
            "allowed_ip=/0",
            "endpoint=192.0.2.1",
            "endpoint=192.0.2.1:65536",
            "endpoint=192.0.2.999:1",
            "endpoint=2001:db8::1:51820",
            "endpoint=[2001:db8::1:51820",
            "endpoint=example.com:51820",
            "persistent_keepalive_interval=65536",
            "persistent_keepalive_interval=x",
            "preshared_key=abcd",
            "protocol_version=2",
            "remove=yes",
            "update_only=1",
            "replace_allowed_ips=0",
            "listen_port=1",
        )
    ),
]


@beyond_peer("applies the lines before the bad one")
@pytest.mark.parametrize("line", BAD_LINES, ids=lambda line: line.rpartition("\n")[2][:40])
def test_a_bad_set_changes_nothing(end: End, line: str) -> None:
    """Good lines before and after the bad one are not applied either."""
    end.load("setconf", full_configuration())
    before = parse(end.wg("showconf"))
    other = "0" * 62 + "77"
    lines = (
        *("listen_port=40000", "fwmark=9", "replace_peers=true"),
        *(f"public_key={other}", "allowed_ip=0.0.0.0/0"),
    )
    # Device keys come before the first peer, so a bad one is tried there.
    place = 3 if not line.startswith(("public_key", "allowed_ip")) else len(lines)
    if line == "allowed_ip=10.0.0.0/8":
        place = 0
    tried = (*lines[:place], line, *lines[place:])
    assert uapi.set_errno(end.interface, *tried) != 0
    assert parse(end.wg("showconf")) == before


@beyond_peer("applies a set that breaks off")
def test_junk_on_the_control_socket(end: End) -> None:
    """Whatever a client sends or leaves out, the daemon goes on to answer the others."""
    end.load("setconf", full_configuration())
    before = parse(end.wg("showconf"))
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    pieces = [
        *(b"\n", b"\n\n", b"get=2\n\n", b"set=2\n\n", b"get=1", b"=\n\n", b"\0\0\n\n"),
        *(b"set=1\nlisten_port=1", b"get=1\nx=1\n\n", b"a" * 100_000, b"get=1\n\n" * 50),
        *(source.randbytes(source.randrange(1, 2000)) for _ in range(20)),
        b"set=1\n" + b"public_key=" + b"0" * 1_000_000 + b"\n\n",
    ]
    pid = end.pid
    for piece in pieces:
        with uapi.connect(end.interface, 1.0) as client:
            try:
                client.sendall(piece)
                client.shutdown(socket.SHUT_WR)
            except OSError:
                continue  # refused half-way, which is its right
    wait_until(lambda: uapi.answers(end.interface), "the socket answers")
    assert alive(pid)
    assert parse(end.wg("showconf")) == before
