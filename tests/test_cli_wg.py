"""set, setconf, addconf, syncconf and the keys against the real `wg`: what each asks of an interface, what it
says, and what the interface then is."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bothtools import Asked, Said, Wgfast, wg, without_hints
from lab.end import End
from lab.process import wait_until
from lab.programs import PEER, SUBJECT, require_lab
from lab.topology import Lab, genkey, genpsk
from playeddaemon import FINE, PlayedDaemon

from wgfast import client, client_names, uapi

pytestmark = pytest.mark.lab

DIRECTORY = Path("/var/run/wireguard")
WGFAST = [sys.executable, "-m", "wgfast"]
K = "YmbQoCCN63R+UoynxlLKtqzb29x6ewQ7H/UW4Ltpgx4="
L = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
M = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="


@pytest.fixture
def wgfast(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Wgfast:
    monkeypatch.delenv(client_names.RETRIES_VARIABLE, raising=False)
    return Wgfast(capfd, monkeypatch)


@pytest.fixture(scope="module")
def played() -> Iterator[PlayedDaemon]:
    require_lab()
    DIRECTORY.mkdir(mode=0o700, exist_ok=True)
    with PlayedDaemon(DIRECTORY, f"wset{os.getpid():x}") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Key files by the word that stands for them in the tables below."""
    directory = tmp_path_factory.mktemp("keys")
    contents = {
        "KEY": genkey() + "\n",
        "PSK": genpsk(),
        "EMPTY": "",
        "BLANK": " \n",
        "SPACED": genkey() + " \n\t\r\n",
        "SHORT": genkey()[:-1],
        "SHORTLINE": genkey()[:-1] + "\n",
        "LONG": genkey() + "x",
        "TWO": genkey() + "\n" + genkey() + "\n",
        "BAD": genkey()[:-2] + "!=",
        "NONCANONICAL": "A" * 42 + "B=",
        "BINARY": "\xff" * 44,
    }
    for name, text in contents.items():
        path = directory / name
        path.touch(mode=0o600)
        path.write_bytes(text.encode("latin-1"))
    return {name: str(directory / name) for name in (*contents, "MISSING")}


GOOD_SETS = [
    *("listen-port 0", "listen-port 51820", "listen-port 65535", "listen-port 00053", "listen-port 1"),
    *(
        "fwmark 0",
        "fwmark off",
        "fwmark OFF",
        "fwmark 1234",
        "fwmark 0x10",
        "fwmark 0xFFFFFFFF",
        "fwmark 010",
    ),
    *("private-key KEY", "private-key EMPTY", "private-key /dev/null", "private-key SPACED"),
    "private-key KEY listen-port 7 fwmark 8 listen-port 9",
    *(
        "peer K",
        "peer K remove",
        "peer K remove allowed-ips 10.0.0.0/8 endpoint 192.0.2.1:5",
        "peer K peer L",
    ),
    *("peer K preshared-key PSK", "peer K preshared-key EMPTY", "peer K preshared-key /dev/null"),
    *("peer K endpoint 192.0.2.1:5", "peer K endpoint [2001:db8::1]:5", "peer K endpoint 2001:db8::1:5"),
    *("peer K endpoint [192.0.2.1]:5", "peer K endpoint 192.0.513:5", "peer K endpoint [fe80::1%lo]:5"),
    *("peer K endpoint localhost:51820", "peer K endpoint [::ffff:192.0.2.1]:5"),
    *("peer K persistent-keepalive 25", "peer K persistent-keepalive 0", "peer K persistent-keepalive off"),
    *("peer K persistent-keepalive Off", "peer K persistent-keepalive 65535"),
    *(
        "peer K allowed-ips ''",
        "peer K allowed-ips '  '",
        "peer K allowed-ips 0.0.0.0/0",
        "peer K allowed-ips ::/0",
    ),
    *("peer K allowed-ips 10.0.0.0/8,fd00::/8", "peer K allowed-ips '10.0.0.0/8, fd00::/8 , 192.0.2.1'"),
    *(
        "peer K allowed-ips 2001:db8::1",
        "peer K allowed-ips 10.0.0.0/08",
        "peer K allowed-ips 10.0.0.0/00032",
    ),
    *("peer K allowed-ips 10.1.2.3/8", "peer K allowed-ips fd00::1/8,10.0.0.1/31"),
    "peer K allowed-ips 10.0.0.0/8 allowed-ips fd00::/8",
    "peer K allowed-ips 10.0.0.0/8 peer L allowed-ips 10.0.0.0/8 peer K persistent-keepalive 5",
    "listen-port 5 peer K endpoint 192.0.2.1:5 preshared-key PSK persistent-keepalive 5 allowed-ips ::/0",
]


def words_of(line: str, files: dict[str, str]) -> list[str]:
    names = {"K": K, "L": L, "M": M, **files}
    parts = re.findall(r"'[^']*'|\S+", line)
    return [names.get(part, part[1:-1] if part.startswith("'") else part) for part in parts]


@pytest.mark.parametrize("line", GOOD_SETS)
def test_set_asks_the_same(line: str, played: PlayedDaemon, files: dict[str, str], wgfast: Wgfast) -> None:
    asked = Asked(played, wgfast, ["set", played.name, *words_of(line, files)])
    assert asked.theirs.status == 0
    assert asked.ours == asked.theirs
    assert asked.ours_asked == asked.theirs_asked
    assert len(asked.ours_asked) == 1


# What is refused in the same words.
BAD_SETS = [
    *("nonsense", "listen-port", "listen-port ''", "listen-port x", "listen-port -1", "listen-port 5x"),
    *("fwmark", "fwmark x", "fwmark ''", "fwmark 0x", "fwmark 0X10", "fwmark -1", "fwmark 4294967296"),
    *(
        "fwmark 0xg",
        "fwmark 99999999999999999999999",
        "fwmark ' 1'",
        "Listen-Port 5",
        "remove",
        "private-key",
    ),
    *("endpoint 192.0.2.1:5", "allowed-ips 10.0.0.0/8", "preshared-key PSK", "persistent-keepalive 5"),
    *("peer", "peer short", "peer ''", "peer KEYS", f"peer {K[:-1]}", f"peer {K}x", f"peer {'A' * 42}B="),
    *(
        "peer K listen-port 5",
        "peer K fwmark 5",
        "peer K private-key KEY",
        "peer K nonsense",
        "peer K endpoint",
    ),
    *(
        "peer K endpoint ''",
        "peer K endpoint 192.0.2.1",
        "peer K endpoint 192.0.2.1:",
        "peer K endpoint [::1",
    ),
    *("peer K endpoint [::1]", "peer K endpoint [::1]5", "peer K endpoint [::1]:", "peer K endpoint nowhere"),
    *("peer K persistent-keepalive", "peer K persistent-keepalive x", "peer K persistent-keepalive 65536"),
    *("peer K persistent-keepalive -1", "peer K persistent-keepalive ''", "peer K persistent-keepalive 0x5"),
    *(
        "peer K allowed-ips",
        "peer K allowed-ips x",
        "peer K allowed-ips 10.0.0.0/33",
        "peer K allowed-ips 10.0.0/8",
    ),
    *("peer K allowed-ips 10.0.0.0/", "peer K allowed-ips 10.0.0.0/x", "peer K allowed-ips fd00::/129"),
    *(
        "peer K allowed-ips ,",
        "peer K allowed-ips 10.0.0.0/8,",
        "peer K allowed-ips /8",
        "peer K allowed-ips fd00:::/8",
    ),
    *("peer K allowed-ips 10.0.0.0/8/8", "peer K allowed-ips 10.0.0.0/-1", "peer K allowed-ips 0x0a000000/8"),
    "peer K allowed-ips 10.0.0.0/255.0.0.0",
    "peer K remove remove remove x",
]


@pytest.mark.parametrize("line", BAD_SETS)
def test_set_refuses_in_the_same_words(
    line: str, played: PlayedDaemon, files: dict[str, str], wgfast: Wgfast
) -> None:
    asked = Asked(played, wgfast, ["set", played.name, *words_of(line, files)])
    assert asked.theirs.status == 1
    assert asked.ours == asked.theirs
    assert asked.ours_asked == asked.theirs_asked == []


# What is refused as well, in words of our own: they name the file, hide what is in it, or say what would do.
OTHER_WORDS = {
    "private-key MISSING": "fopen: No such file or directory: `",
    "peer K preshared-key MISSING": "fopen: No such file or directory: `",
    "private-key /tmp": "fopen: Is a directory: `/tmp'",
    "private-key BLANK": "Invalid length key in key file: `",
    "private-key SHORT": "Invalid length key in key file: `",
    "private-key SHORTLINE": "Key is not the correct length or format: in `",
    "private-key LONG": "Found trailing characters in key file: `",
    "private-key TWO": "Found trailing characters in key file: `",
    "private-key BAD": "Key is not the correct length or format: in `",
    "private-key BINARY": "Key is not the correct length or format: in `",
    "private-key /dev/zero": "Found trailing characters in key file: `",
    "peer K preshared-key NONCANONICAL": "Key is not the correct length or format: in `",
    "peer K endpoint 192.0.2.1:nonsense": "port must be 1 to 65535",
    "peer K endpoint :5": "host is missing",
}


@pytest.mark.parametrize("line", OTHER_WORDS)
def test_set_refuses_in_better_words(
    line: str, played: PlayedDaemon, files: dict[str, str], wgfast: Wgfast
) -> None:
    asked = Asked(played, wgfast, ["set", played.name, *words_of(line, files)])
    assert asked.theirs.status == asked.ours.status == 1
    assert OTHER_WORDS[line] in asked.ours.err
    assert asked.ours.err.count("\n") == 1
    assert asked.ours_asked == asked.theirs_asked == []
    if os.path.exists(path := files.get(line.split()[-1], "")):
        secret = Path(path).read_text("latin-1").strip()
        assert not secret or secret[:20] not in asked.ours.err


def test_ports_are_not_cut(played: PlayedDaemon, wgfast: Wgfast) -> None:
    """wg takes them modulo 65536; whoever typed 70000 did not mean 4464."""
    for words in (["listen-port", "70000"], ["peer", K, "endpoint", "192.0.2.1:70000"]):
        asked = Asked(played, wgfast, ["set", played.name, *words])
        assert asked.theirs.status == 0
        assert asked.ours.status == 1
        assert "65535" in asked.ours.err
        assert not asked.ours_asked


def test_steps_of_allowed_ips(played: PlayedDaemon, wgfast: Wgfast) -> None:
    """+ and - as later versions of wg have them: the list changes what is there, and does not replace it."""
    said = wgfast("set", played.name, "peer", K, "allowed-ips", "+10.1.0.0/16, -fd00::1/8,192.0.2.1")
    assert said == Said(0, "", "Warning: AllowedIP has nonzero host part: fd00::1/8\n")
    (text,) = played.take_sets()
    assert "replace_allowed_ips" not in text
    allowed = [line for line in text.splitlines() if line.startswith("allowed_ip=")]
    assert allowed == ["allowed_ip=10.1.0.0/16", "allowed_ip=-fd00::/8", "allowed_ip=192.0.2.1/32"]
    # The shell's reading of a word that begins with a minus is not an option's.
    assert wgfast("set", played.name, "peer", K, "allowed-ips", "-fd00::/8").status == 0


@pytest.mark.parametrize("answer", ["errno=-98\n\n", "errno=1\n\n", "errno=-22\n\n", "", "errno=x\n\n"])
def test_a_daemon_that_refuses(answer: str, played: PlayedDaemon, wgfast: Wgfast) -> None:
    played.set = answer
    try:
        theirs = wg("set", played.name, "listen-port", "5")
        ours = wgfast("set", played.name, "listen-port", "5")
    finally:
        played.set = FINE
    assert ours.status == theirs.status == 1
    if answer != "errno=1\n\n":  # which wg takes for a negative number
        assert ours == theirs


ARGUMENTS = [
    *(["set"], ["set", "NAME"], ["set", "nobody-is-here", "listen-port", "5"], ["set", "", "fwmark", "5"]),
    *([command, *rest] for command in ("setconf", "addconf", "syncconf") for rest in (
        [], ["NAME"], ["NAME", "FILE", "more"], ["nobody-is-here", "FILE"],
    )),
]  # fmt: skip


@pytest.mark.parametrize("words", ARGUMENTS, ids=" ".join)
def test_the_same_words_for_what_does_not_fit(
    words: list[str], played: PlayedDaemon, wgfast: Wgfast, tmp_path: Path
) -> None:
    path = tmp_path / "file.conf"
    path.touch(mode=0o600)
    path.write_text(f"[Peer]\nPublicKey = {K}\n")
    given = [{"NAME": played.name, "FILE": str(path)}.get(word, word) for word in words]
    asked = Asked(played, wgfast, given)
    assert asked.ours == asked.theirs
    assert asked.ours.status == 1


# ---- configuration files ----


FILES = {
    "nothing": "",
    "a section": "[Interface]\n",
    "all of an interface": "[Interface]\nPrivateKey = KEY\nListenPort = 51820\nFwMark = 0x10\n",
    "a peer": f"[Peer]\nPublicKey = {K}\n",
    "all of a peer": f"[Peer]\nPublicKey={K}\nPresharedKey = PSK\nAllowedIPs = 10.0.0.0/8, fd00::/8\n"
    "Endpoint = [2001:db8::1]:5\nPersistentKeepalive = 25\n",
    "off": f"[Interface]\nFwMark = off\n[Peer]\nPublicKey = {K}\nPersistentKeepalive = off\n",
    "several": f"[Interface]\nListenPort=5\n\n[Peer]\nPublicKey={K}\nAllowedIPs=10.0.0.0/8\n# x\n"
    f"[Peer]\nPublicKey={L}\nAllowedIPs=10.1.0.0/16\nAllowedIPs=fd00::/8\nEndpoint=localhost:5\n",
    "the same peer twice": f"[Peer]\nPublicKey={K}\nAllowedIPs=10.0.0.0/8\n[Peer]\nPublicKey={K}\n"
    "PersistentKeepalive=5\n",
    "other peers": f"[Peer]\nPublicKey={M}\n[Peer]\nPublicKey={L}\n",
}
RUNNING = {
    "empty": "",
    "with peers": f"listen_port=9\npublic_key={'ab' * 32}\nallowed_ip=10.9.0.0/16\n",
    "with these peers": "".join(
        f"public_key={base64.b64decode(key).hex()}\npreshared_key={'12' * 32}\n"
        f"endpoint=192.0.2.1:5\npersistent_keepalive_interval=9\nallowed_ip=10.{number}.0.0/16\n"
        for number, key in enumerate((K, L))
    ),
}


@pytest.mark.parametrize("running", RUNNING)
@pytest.mark.parametrize("name", FILES)
def test_files_ask_the_same(
    name: str, running: str, played: PlayedDaemon, files: dict[str, str], wgfast: Wgfast, tmp_path: Path
) -> None:
    text = FILES[name]
    for word in ("KEY", "PSK"):
        text = text.replace(f"= {word}\n", f"= {Path(files[word]).read_text().strip()}\n")
    path = tmp_path / "file.conf"
    path.touch(mode=0o600)
    path.write_text(text)
    played.get = RUNNING[running] + FINE
    for command in ("setconf", "addconf", "syncconf"):
        asked = Asked(played, wgfast, [command, played.name, str(path)])
        assert asked.theirs == Said(0, "", "")
        assert (asked.ours.status, asked.ours.out) == (0, "")
        assert all(line.startswith(f"Warning: {path}:") for line in asked.ours.err.splitlines())
        for ours, theirs in zip(asked.ours_asked, asked.theirs_asked, strict=True):
            if command == "syncconf" and running == "with these peers":
                forget_resets(ours, theirs)
            assert gone_first(ours) == gone_first(theirs), command


def gone_first(request: uapi.SetRequest) -> uapi.SetRequest:
    """wg takes those away first whom it happens to find last."""
    gone = sorted((block for block in request.peers if block.remove), key=lambda block: block.public_key)
    request.peers = gone + [block for block in request.peers if not block.remove]
    return request


def forget_resets(*requests: uapi.SetRequest) -> None:
    """The installed wg of 2021 leaves a preshared key and a keepalive that the file no longer has. Later ones
    take them away, and so do we."""
    for block in (block for request in requests for block in request.peers):
        if block.preshared_key == bytes(32):
            block.preshared_key = None
        if block.persistent_keepalive == 0:
            block.persistent_keepalive = None


def test_a_file_that_is_wrong_changes_nothing(played: PlayedDaemon, wgfast: Wgfast, tmp_path: Path) -> None:
    path = tmp_path / "wrong.conf"
    path.touch(mode=0o600)
    path.write_text("[Interface]\nListenPort = x\nAddress = 10.0.0.1/24\n[Peer]\nAllowedIPs = 10.0.0.0/33\n")
    for command in ("setconf", "addconf", "syncconf"):
        asked = Asked(played, wgfast, [command, played.name, str(path)])
        assert asked.ours.status == asked.theirs.status == 1
        assert asked.ours_asked == asked.theirs_asked == []
        # wg stops at the first; here all are told, each with its line.
        assert [f"{path}:{number}: " in asked.ours.err for number in (2, 3, 4, 5)] == [True] * 4
        assert asked.ours.err.endswith("Configuration parsing error\n")
    missing = wgfast("setconf", played.name, str(tmp_path / "missing.conf"))
    assert missing.status == 1
    assert "missing.conf" in missing.err


@pytest.mark.parametrize("source", ["/dev/stdin", "<(cat)"])
def test_a_pipe_is_a_file(source: str, played: PlayedDaemon, tmp_path: Path) -> None:
    played.take_sets()
    line = f'"$0" -m wgfast setconf {played.name} {source}'
    done = subprocess.run(
        ["bash", "-c", line, sys.executable],
        input=FILES["several"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (text,) = played.take_sets()
    assert "replace_peers=true" in text
    assert text.count("public_key=") == 2


# ---- names ----


@pytest.mark.parametrize("retries", ["0", "1", "x"])
def test_a_resolver_that_cannot_be_reached(retries: str, lab: Lab, played: PlayedDaemon) -> None:
    """In a namespace without a network; wg and wgfast try as often and say so alike."""
    namespace = lab.namespace("cut-off")
    words = ["set", played.name, "peer", K, "endpoint", "vpn.example.org:51820"]
    env = {client_names.RETRIES_VARIABLE: retries}
    played.take_sets()
    theirs = namespace.run("wg", *words, check=False, env=env)
    ours = namespace.run(*WGFAST, *words, check=False, env=env)
    assert ours.returncode == theirs.returncode == 1
    assert without_hints(ours.stderr) == theirs.stderr
    assert not played.take_sets()


def test_wgfasts_daemon_is_given_the_name(played: PlayedDaemon, wgfast: Wgfast, tmp_path: Path) -> None:
    played.wgfast = "version=0.1.0\n" + FINE
    path = tmp_path / "file.conf"
    path.touch(mode=0o600)
    path.write_text(f"[Peer]\nPublicKey = {K}\nEndpoint = vpn.example.org:51820\n")
    try:
        played.take_sets()
        for words in (
            ["set", played.name, "peer", K, "endpoint", "vpn.example.org:51820"],
            ["setconf", played.name, str(path)],
        ):
            assert wgfast(*words) == Said(0, "", "")
            (text,) = played.take_sets()
            assert "endpoint_host=vpn.example.org:51820\n" in text
            assert "endpoint=" not in text
        assert wgfast("set", played.name, "peer", K, "endpoint", "192.0.2.1:5").status == 0
        assert "endpoint=192.0.2.1:5\n" in played.take_sets()[0]
    finally:
        played.wgfast = None


# ---- living daemons ----


@pytest.fixture(scope="module")
def ends() -> Iterator[dict[str, End]]:
    require_lab()
    laboratory = Lab()
    try:
        namespace = laboratory.namespace("alone")
        yield {role: laboratory.end(namespace, role).start() for role in (SUBJECT, PEER)}
    finally:
        laboratory.close()


STEPS = [
    "listen-port 51821 fwmark 0x2a private-key KEY",
    "peer K endpoint 192.0.2.9:1234 persistent-keepalive 33 allowed-ips 10.0.0.0/8,fd00::/8",
    "peer L preshared-key PSK allowed-ips 10.0.0.0/8",
    "peer K allowed-ips 192.0.2.1 endpoint [2001:db8::1]:5 persistent-keepalive off",
    "peer L preshared-key EMPTY peer M allowed-ips ::/0",
    "fwmark off peer L remove",
    "private-key EMPTY peer K allowed-ips ''",
]


@pytest.mark.parametrize("role", [SUBJECT, PEER])
def test_each_tool_sees_what_the_other_set(
    role: str, ends: dict[str, End], files: dict[str, str], wgfast: Wgfast
) -> None:
    end = ends[role]
    name = end.interface
    assert client.answers(name)

    def state() -> list[str]:
        # wireguard-go shows peers in an order that changes.
        return sorted(wg("show", name, "dump").out.splitlines())

    empty = "[Interface]\nListenPort = 51820\n"
    seen: dict[str, list[list[str]]] = {}
    for tool in ("wg", "wgfast"):
        end.load("setconf", empty)
        seen[tool] = []
        for line in STEPS:
            words = ["set", name, *words_of(line, files)]
            said = wg(*words) if tool == "wg" else wgfast(*words)
            assert said == Said(0, "", ""), line
            seen[tool].append(state())
            assert sorted(wgfast("show", name, "dump").out.splitlines()) == state()
    assert seen["wgfast"] == seen["wg"]


@pytest.mark.parametrize("role", [SUBJECT, PEER])
def test_showconf_goes_round(role: str, ends: dict[str, End], files: dict[str, str], wgfast: Wgfast) -> None:
    """What one tool shows, the other sets, and shows the same."""
    end = ends[role]
    end.load("setconf", "[Interface]\nListenPort = 51823\n")
    for line in STEPS[:2]:
        assert wgfast("set", end.interface, *words_of(line, files)).status == 0
    shown = end.wg("showconf")
    assert wgfast("showconf", end.interface).out == shown
    path = end._keep(shown)
    for command in ("setconf", "syncconf", "addconf"):
        assert wgfast(command, end.interface, str(path)) == Said(0, "", "")
        assert end.wg("showconf") == shown
    assert wgfast("setconf", end.interface, "/dev/null").status == 0
    assert "[Peer]" not in end.wg("showconf")


def test_a_name_stays_with_wgfasts_daemon(ends: dict[str, End], wgfast: Wgfast) -> None:
    """The daemon finds the address itself; for wireguard-go the command has found it when it returns."""
    for role, end in ends.items():
        assert wgfast("set", end.interface, "peer", M, "endpoint", "localhost:51820").status == 0
        deadline = 5.0 if role == SUBJECT else 0.0
        wait_until(lambda end=end: end.show("endpoints")[M] != "(none)", "the endpoint is found", deadline)
        assert end.show("endpoints")[M] in ("127.0.0.1:51820", "[::1]:51820")
    end = ends[SUBJECT]
    shown = json.loads(wgfast("show", end.interface, "endpoints", "--json").out)
    (found,) = [peer for peer in shown["interfaces"][0]["peers"] if peer["public_key"] == M]
    assert found["endpoint_host"] == "localhost:51820"
    assert wgfast("set", end.interface, "peer", M, "endpoint", "192.0.2.1:5").status == 0
    assert "endpoint_host" not in wgfast("show", end.interface, "--json").out
