"""Configuration files without the tools: messages, secrets, files, warnings. What is accepted, the tools say,
in test_config_corpus.py."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wgfast import config, config_secret
from wgfast.config_sections import CANONICAL
from wgfast.errors import ConfigError
from wgfast.quick.errors import QuickError
from wgfast.quick.saving import strip as strip_file

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.conf"))
PRIVATE = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PUBLIC = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
PRESHARED = "/UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak="
INTERFACE = f"[Interface]\nPrivateKey = {PRIVATE}\n"
PEER = f"[Peer]\nPublicKey = {PUBLIC}\n"


def problems(text: str, *, quick: bool = True) -> list[str]:
    with pytest.raises(config.ConfigFileError) as caught:
        config.parse(text, "wg0.conf", quick=quick)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def parse(text: str, *, quick: bool = True) -> config.Config:
    return config.parse(text, "wg0.conf", quick=quick)


# ---- what is understood ----


def test_everything_at_once() -> None:
    read = parse(
        f"""[Interface]
# Name = laptop
PrivateKey = {PRIVATE}
ListenPort = 51820
FwMark = 0xca6c
Address = 10.0.0.1/24, 2001:db8::1/64
Address = 10.0.1.1
DNS = 10.0.0.53, corp.example.org
DNS = 2001:db8::53
MTU = 1380
Table = off
PreUp = one; two
PreUp = three %i
PostUp = four
PreDown = five
PostDown = six
SaveConfig = true
[Peer]
# Name = home
PublicKey = {PUBLIC}
PresharedKey = {PRESHARED}
AllowedIPs = 10.0.0.2, +10.1.0.0/16, -2001:db8::/32
Endpoint = vpn.example.org:51820
PersistentKeepalive = 25
"""
    )
    interface = read.interface
    assert interface.name == "laptop"
    assert interface.private_key
    assert (interface.listen_port, interface.fwmark, interface.mtu, interface.table) == (
        51820,
        51820,
        1380,
        "off",
    )
    assert interface.addresses == [ip_interface(a) for a in ("10.0.0.1/24", "2001:db8::1/64", "10.0.1.1/32")]
    assert interface.dns == [ip_address("10.0.0.53"), ip_address("2001:db8::53")]
    assert interface.dns_search == ["corp.example.org"]
    assert (interface.pre_up, interface.post_up) == (["one; two", "three %i"], ["four"])
    assert (interface.pre_down, interface.post_down) == (["five"], ["six"])
    assert interface.save_config
    (peer,) = read.peers
    assert peer.name == "home"
    assert peer.endpoint == config.EndpointName("vpn.example.org", 51820)
    assert [str(allowed) for allowed in peer.allowed_ips] == ["10.0.0.2/32", "+10.1.0.0/16", "-2001:db8::/32"]
    assert not peer.replace_allowed_ips
    assert peer.persistent_keepalive == 25
    assert read.warnings == []


def test_nothing_said_is_none() -> None:
    read = parse("[Interface]\n" + PEER)
    assert read.interface == config.InterfaceSection()
    assert read.peers == [config.PeerSection(read.peers[0].public_key)]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("192.0.2.1:51820", "192.0.2.1:51820"),
        ("[2001:DB8:0:0::1]:51820", "[2001:db8::1]:51820"),
        ("2001:db8::1:51820", "[2001:db8::1]:51820"),
        ("[fe80::1%eth0]:1", "[fe80::1%eth0]:1"),
        ("[vpn.example.org]:1", "vpn.example.org:1"),
        ("vpn.example.org.:1", "vpn.example.org.:1"),
    ],
)
def test_endpoints_are_shown_as_wg_shows_them(written: str, shown: str) -> None:
    (peer,) = parse(PEER + f"Endpoint = {written}\n").peers
    assert str(peer.endpoint) == shown


def test_names_are_of_the_section_they_stand_in() -> None:
    read = parse((Path(__file__).parent / "corpus/names.conf").read_text())
    assert read.interface.name == "the node # of all"
    assert [peer.name for peer in read.peers] == ["first peer", None, None]
    read = parse((Path(__file__).parent / "corpus/commented_peers.conf").read_text())
    assert (read.interface.name, [peer.name for peer in read.peers]) == (None, ["here"])


def test_only_ascii_has_two_cases() -> None:
    # U+212A is the Kelvin sign: str.lower() makes a k of it.
    assert problems("[Peer]\nPublic\u212aey = x\n")[0].startswith("wg0.conf:1: PublicKey: missing")


# ---- what is wrong ----

MESSAGES = [
    ("[Interface]\nListenPort = 65536", "2: ListenPort: '65536': port must be 0 to 65535"),
    (PEER + "AllowedIPs = 10.0.0.0/33", "3: AllowedIPs: '10.0.0.0/33': prefix length must be 0 to 32"),
    (PEER + "AllowedIPs = ::/129", "3: AllowedIPs: '::/129': prefix length must be 0 to 128"),
    (PEER + "AllowedIPs =", "3: AllowedIPs: '': no value; give one, or leave the line out"),
    (PEER + "PersistentKeepalive = on",
     "3: PersistentKeepalive: 'on': interval must be off, or 0 to 65535 seconds"),
    (PEER + "Endpoint = a.example",
     "3: Endpoint: 'a.example': the port is missing; write HOST:PORT or [IPV6]:PORT"),
    (
        PEER + "Endpoint = b\u00fccher.example:1",
        "3: Endpoint: 'b\u00fccher.example:1': a name is ASCII; write an international one in its xn-- form",
    ),
    ("[Interface]\nSaveConfig = yes", "2: SaveConfig: 'yes': must be true or false"),
    ("[Interface]\nTable = Off", "2: Table: 'Off': write it in lower case: off"),
    ("[Interface]\nMTU = 9", "2: MTU: '9': MTU must be 68 to 65535; without the line it is found out"),
    ("[Interface]\nAddress = 10.0.0.1/33", "2: Address: '10.0.0.1/33': prefix length must be 0 to 32"),
    ("[Interface]\nAdress = 10.0.0.1", "2: 'Adress': not a key; did you mean Address?"),
    ("[Interface]\nPersistentKeepalives = 1", "2: 'PersistentKeepalives': not a key; "
     "did you mean PersistentKeepalive, in [Peer]?"),
    (PEER + "Colour = blue",
     "3: 'Colour': not a key; [Peer] has PublicKey, PresharedKey, AllowedIPs, Endpoint, PersistentKeepalive"),
    ("[Interface]\nListenPort 12000", "2: ListenPort: no = follows; write ListenPort = VALUE"),
    ("[Interface]\nAddress 10.0.0.1", "2: Address: no = follows; write Address = VALUE"),
    ("[Interface]\nAllowedIPs = ::/0", "2: AllowedIPs: not a key of [Interface]; it belongs in [Peer]"),
    (PEER + "Address = 10.0.0.1", "3: Address: not a key of [Peer]; it belongs in [Interface]"),
    ("ListenPort = 1\n[Interface]",
     "1: ListenPort: stands before the first section; put [Interface] above it"),
    ("[Peers]\nPublicKey = " + PUBLIC, "1: '[Peers]': not a section; did you mean [Peer]?"),
    ("[Global]", "1: '[Global]': not a section; there are [Interface] and [Peer]"),
    ("[Interface]\n\n[Peer]\n", "3: PublicKey: missing; every [Peer] has one"),
    ("[ Interface ]\nMTU = 1400",
     "2: MTU: wg-quick knows it only with no blanks inside [Interface] and MTU; remove them"),
    ("\ufeff[Interface]",
     "1: a byte order mark before the first character; save the file as UTF-8 without one"),
    ("\ufeff[Interface]\nMTU = 1400",
     "1: a byte order mark before the first character; save the file as UTF-8 without one"),
    ("[Interface]\nPostUp = \udcfc", "2: not UTF-8; save the file as UTF-8"),
    ("[Interface]\n\u00a0MTU = 1400", "2: '\\xa0MTU': not a key; did you mean MTU?"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MESSAGES, ids=[message for _, message in MESSAGES])
def test_messages_name_line_key_value_and_remedy(text: str, message: str) -> None:
    assert problems(text) == [f"wg0.conf:{message}"]


def test_keys_of_wg_quick_are_none_of_wg() -> None:
    assert problems("[Interface]\nMTU = 1400\n", quick=False) == [
        "wg0.conf:2: MTU: a key of wg-quick, which wg does not know; `wgfast strip` leaves such keys out"
    ]


def test_all_that_is_wrong_comes_at_once_in_order() -> None:
    found = problems((Path(__file__).parent / "corpus/many_errors.conf").read_text())
    assert [re.sub(r"(:\d+: '?\w+'?).*", r"\1", line) for line in found] == [
        "wg0.conf:2: PrivateKey",
        "wg0.conf:3: ListenPort",
        "wg0.conf:4: FwMark",
        "wg0.conf:5: PublicKey",
        "wg0.conf:6: AllowedIPs",
        "wg0.conf:6: AllowedIPs",
        "wg0.conf:7: Endpoint",
        "wg0.conf:8: PersistentKeepalive",
        "wg0.conf:9: 'Colour'",
    ]


def test_long_and_strange_values_stay_on_one_line() -> None:
    (found,) = problems(PEER + "Endpoint = " + "\x1b\u2028" * 500 + ":1\n")
    assert found.isprintable()
    assert len(found) < 600


WARNINGS = [
    (PEER + "AllowedIPs = 10.0.0.1/24",
     "3: AllowedIPs: '10.0.0.1/24': has host bits, which are ignored; taken as 10.0.0.0/24"),
    (PEER + PEER, "3: PublicKey: the same as in the [Peer] of line 1; the two are one peer"),
    ("[Interface]\nPostUp = echo 'a # b'",
     "2: PostUp: cut at a # inside quotes: here # always begins a comment"),
    ("[Interface]\nAddress = 10.0.0.1, 10.0.0.1/32", "2: Address: '10.0.0.1/32': given twice"),
    ("[Interface]\n# B\udcfcro", "2: the comment is not UTF-8; it is kept as it is"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "warning"), WARNINGS, ids=[warning for _, warning in WARNINGS])
def test_warnings(text: str, warning: str) -> None:
    quick = text.startswith("[Interface]")
    assert parse(text, quick=quick).warnings == [f"wg0.conf:{warning}"]


def test_a_file_for_wg_quick_without_interface_is_warned_about() -> None:
    (warning,) = parse(PEER).warnings
    assert "no [Interface] section" in warning


# ---- secrets ----


def pieces(secret: str) -> set[str]:
    return {secret[start : start + 10] for start in range(len(secret) - 9)}


SECRETS = pieces(PRIVATE) | pieces(PRESHARED) | pieces(PRIVATE.swapcase())


def said(text: str) -> str:
    """All that is ever printed of a text."""
    try:
        read = parse(text)
    except config.ConfigFileError as error:
        return str(error) + repr(error)
    return repr(read) + str(read) + "\n".join(read.warnings)


@pytest.mark.parametrize(
    "text",
    [
        f"[Interface]\nPrivateKey = {PRIVATE}\n{PEER}PresharedKey = {PRESHARED}\n",
        f"[Interface]\nPrivateKey = {PRIVATE}x\nPrivatKey = {PRIVATE}\nPrivateKey {PRIVATE}\n{PRIVATE}\n",
        f"[{PRIVATE}]\n{PRIVATE} = x\n= {PRIVATE}\n{PRIVATE[:20]}\n{PRIVATE[20:]}\n",
        f"[Peer]\nPublicKey = {PRIVATE[:-2]}\nPresharedKey = {PRESHARED[2:]}\nPublicKey {PRESHARED}\n",
        f"[Interface]\nPostUp echo {PRIVATE} > key\nPost Up = {PRIVATE}\n",
    ],
)
def test_no_message_shows_a_key(text: str) -> None:
    output = said(text)
    assert not any(piece in output for piece in SECRETS)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_message_shows_a_key_of_a_file_with_mistakes(data: st.DataObject) -> None:
    text = f"{INTERFACE}ListenPort = 1\n{PEER}PresharedKey = {PRESHARED}\nAllowedIPs = ::/0\n"
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        removed = data.draw(st.integers(0, 6))
        text = (
            text[:at]
            + data.draw(st.sampled_from(["", "\n", "=", "#", " ", "[", "x", "\u00e9"]))
            + text[at + removed :]
        )
    output = said(text)
    assert not any(piece in output for piece in SECRETS), text


# ---- files ----


def test_who_else_may_read_a_file_is_warned_about(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text(INTERFACE)
    tmp_path.chmod(0o755)
    path.chmod(0o644)
    assert config.read(path).warnings == [f"`{path.resolve()}' is world accessible"]
    path.chmod(0o600)
    assert config.read(path).warnings == []
    path.chmod(0o644)
    tmp_path.chmod(0o700)
    assert config.read(path).warnings == []


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(config.ConfigFileError) as caught:
            config.read(path)
        return str(caught.value)

    assert refused(tmp_path / "no") == f"{tmp_path}/no: does not exist; give the path of a configuration file"
    assert refused(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    binary = tmp_path / "wide.conf"
    binary.write_bytes(INTERFACE.encode("utf-16"))
    assert refused(binary) == f"{binary}: has NUL bytes, so it is no text, or UTF-16; save it as UTF-8"


def test_a_file_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "SIZE_MAX", 1 << 20)
    with pytest.raises(config.ConfigFileError, match=r"^/dev/zero: cannot be read: File too large"):
        config.read("/dev/zero")
    with pytest.raises(QuickError, match=r"^/dev/zero: cannot be read: File too large"):
        strip_file("/dev/zero")


def test_a_pipe_is_read_as_a_file_is() -> None:
    reading, writing = os.pipe()
    os.write(writing, INTERFACE.encode())
    os.close(writing)
    try:
        assert config.read(f"/dev/fd/{reading}").interface.private_key
    finally:
        os.close(reading)


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path, link = tmp_path / "wg0.conf", tmp_path / "link.conf"
    path.write_text("old")
    path.chmod(0o644)
    link.symlink_to(path)
    text = INTERFACE + "# B\udcfcro\r\n"
    config.write(link, text)
    assert link.is_symlink()
    assert path.read_bytes() == INTERFACE.encode() + b"# B\xfcro\r\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert config.read(path).to_text() == text


def test_a_file_that_cannot_be_replaced_stays(tmp_path: Path) -> None:
    taken = tmp_path / "wg0.conf"
    taken.mkdir()
    with pytest.raises(OSError, match="directory"):
        config.write(taken, INTERFACE)
    assert list(tmp_path.iterdir()) == [taken]


def test_reading_loads_nothing_large() -> None:
    program = "import sys, wgfast.config, wgfast.config_edit; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20
    )
    assert not {"numpy", "click", "rich", "pyroute2", "difflib", "subprocess"} & set(done.stdout.split())


# ---- keys from elsewhere ----


def test_a_key_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{PRIVATE}\n")
    warned: list[str] = []
    path.chmod(0o640)
    assert config_secret.key_from_file(path, warned.append) == parse(INTERFACE).interface.private_key
    assert warned == [f"{path}: others than its owner may use this key; chmod 600 it"]
    path.write_text(f"{PRIVATE} {PRIVATE}")
    with pytest.raises(ConfigError, match=f"^{path}: 89 characters; a key is 44"):
        config_secret.key_from_file(path)
    with pytest.raises(ConfigError, match="/none: cannot be read: No such file"):
        config_secret.key_from_file(tmp_path / "none")


def test_a_key_from_a_command() -> None:
    key = parse(INTERFACE).interface.private_key
    assert config_secret.key_from_command(["echo", PRIVATE]) == key
    with pytest.raises(ConfigError, match=r"^false: ended with status 1"):
        config_secret.key_from_command(["false", PRIVATE])
    with pytest.raises(ConfigError, match=r"^sleep: printed no key within"):
        config_secret.key_from_command(["sleep", "60"], timeout=0.05)
    with pytest.raises(ConfigError, match=r"^/none: cannot be run: No such file"):
        config_secret.key_from_command(["/none"])
    # Neither what never ends, nor what goes on without its output, is waited for.
    with pytest.raises(ConfigError, match=r"^yes: ended with status -13"):
        config_secret.key_from_command(["yes", PRIVATE], timeout=20)
    with pytest.raises(ConfigError, match=r"^sh: printed no key within"):
        config_secret.key_from_command(["sh", "-c", f"echo {PRIVATE}; exec sleep 60 >&-"], timeout=0.3)
    with pytest.raises(ConfigError, match=r"^sh: printed no key within"):
        config_secret.key_from_command(["sh", "-c", "sleep 5 & wait"], timeout=0.3)


def test_a_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WGFAST_TEST_KEY", PRIVATE)
    assert config_secret.key_from_environment("WGFAST_TEST_KEY") == parse(INTERFACE).interface.private_key
    with pytest.raises(ConfigError, match=r"^WGFAST_TEST_KEY: not in the environment"):
        config_secret.key_from_environment("WGFAST_TEST_KEY")


# ---- any text ----

LINES = sorted({line for path in CORPUS for line in config.decode(path.read_bytes()).split("\n")})


@given(st.lists(st.sampled_from(LINES) | st.text(max_size=20), max_size=12).map("\n".join))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused_with_reasons(text: str) -> None:
    try:
        read = parse(text)
    except config.ConfigFileError as error:
        reasons = error.problems
    else:
        return check_round_trip(read, text)
    assert reasons
    assert all(re.match(r"wg0\.conf:(\d+:)? .", reason) for reason in reasons)


def check_round_trip(read: config.Config, text: str) -> None:
    assert read.to_text() == text
    # What wg-quick gives to wg says the same of the peers, and what is stripped stays as it is.
    stripped = read.strip()
    again = parse(stripped, quick=False)
    assert again.peers == read.peers
    assert again.interface.private_key == read.interface.private_key
    assert config.strip(stripped, "again") == stripped + "\n"


CASES = st.sampled_from([str.upper, str.lower, str])
BLANK = st.text(" \t", max_size=3)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_case_blanks_and_comments_change_nothing(data: st.DataObject) -> None:
    source = (Path(__file__).parent / "corpus/page_all_keys.conf").read_text()
    lines = []
    for line in source.splitlines():
        if data.draw(st.integers(0, 5)) == 0:
            lines.append(data.draw(BLANK) + data.draw(st.sampled_from(["", "#", "# [not] = a key"])))
        key, equals, value = line.partition(" = ")
        if CANONICAL.get(key.lower()) or line.startswith("["):
            key = data.draw(BLANK) + data.draw(CASES)(key) + data.draw(BLANK)
            tail = data.draw(st.sampled_from(["", "#", "# and = [more]"]))
            line = key + equals.strip() + data.draw(BLANK) + value + data.draw(BLANK) + tail
        lines.append(line)
    read, plain = parse("\n".join(lines)), parse(source)
    for section in (read.interface, *read.peers, plain.interface, *plain.peers):
        section.name = None  # a commented section ends them
    assert (read.interface, read.peers) == (plain.interface, plain.peers)
