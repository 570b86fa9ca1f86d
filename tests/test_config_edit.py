"""Files that are changed: they say what was asked for, and what was not asked about stays."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wgfast import config
from wgfast.config import AllowedIP, Config, EndpointName, InterfaceSection, PeerSection
from wgfast.config_edit import rewrite
from wgfast.config_values import parse_allowed_ip
from wgfast.errors import ConfigError
from wgfast.settings import Prefix

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.conf"))
BOB, ANN, EVE = (bytes([number]) * 32 for number in (1, 2, 3))

TEXT = """\
# the whole of it

[Interface] # this node
# Name = me
PrivateKey = AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE= # secret
  address=10.0.0.1/24,   2001:db8::1/64   # addresses
PostUp = echo hi
ListenPort = 51820

# Bob, second floor
[Peer]
# Name = bob
PublicKey = AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
AllowedIPs = 10.0.0.2/32, 10.0.0.3 # hosts
AllowedIPs = 192.168.0.0/24 # LAN
Endpoint = 192.0.2.1:1
# so much for Bob

# [Peer]
# Name = gone

[Peer]
PublicKey = AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=
AllowedIPs = 10.0.0.9
"""


def read(text: str) -> Config:
    return config.parse(text, "wg0.conf")


def allowed(*texts: str) -> list[AllowedIP]:
    return [parse_allowed_ip(text)[0] for text in texts]


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_file_that_says_it_already_stays(path: Path) -> None:
    text = config.decode(path.read_bytes())
    try:
        before = read(text)
    except config.ConfigFileError:
        return
    assert rewrite(before, before.interface, before.peers) == text


def test_what_is_changed_is_all_that_changes() -> None:
    before = read(TEXT)
    bob, ann = before.peers
    interface = replace(
        before.interface,
        addresses=[ip_interface("10.0.0.1/24"), ip_interface("10.9.9.9/8")],
        listen_port=7,
        save_config=True,
    )
    bob = replace(
        bob,
        endpoint=EndpointName("2001:db8::1", 5),
        allowed_ips=allowed("10.0.0.3/32", "192.168.0.0/24", "10.3.0.0/16"),
        persistent_keepalive=25,
    )
    expected = (
        TEXT.replace("10.0.0.1/24,   2001:db8::1/64", "10.0.0.1/24, 10.9.9.9/8")
        .replace("ListenPort = 51820\n", "ListenPort = 7\nSaveConfig = true\n")
        .replace("10.0.0.2/32, 10.0.0.3 #", "10.0.0.3 #")
        .replace("192.168.0.0/24 #", "192.168.0.0/24, 10.3.0.0/16 #")
        .replace("192.0.2.1:1\n", "[2001:db8::1]:5\nPersistentKeepalive = 25\n")
    )
    assert rewrite(before, interface, [ann, bob]) == expected


def test_a_peer_goes_with_its_comments_only() -> None:
    before = read(TEXT)
    start, end = TEXT.index("# Bob"), TEXT.index("# [Peer]")
    assert rewrite(before, before.interface, before.peers[1:]) == TEXT[:start] + TEXT[end:]


def test_a_new_peer_comes_last_with_its_name() -> None:
    before = read(TEXT)
    eve = PeerSection(EVE, EVE, EndpointName("vpn.example.org", 9), allowed("::/0"), 0, "eve")
    assert rewrite(before, before.interface, [*before.peers, eve]) == TEXT + (
        "\n[Peer]\n# Name = eve\n"
        "PublicKey = AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=\n"
        "PresharedKey = AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=\n"
        "Endpoint = vpn.example.org:9\n"
        "AllowedIPs = ::/0\n"
    )


def test_a_file_from_nothing() -> None:
    text = rewrite(read(""), InterfaceSection(mtu=1400), [PeerSection(BOB), PeerSection(ANN)])
    assert text == (
        "[Interface]\nMTU = 1400\n\n"
        "[Peer]\nPublicKey = AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n\n"
        "[Peer]\nPublicKey = AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n"
    )


def test_lines_keep_their_carriage_returns() -> None:
    before = read(TEXT.replace("\n", "\r\n"))
    text = rewrite(
        before, replace(before.interface, listen_port=1, mtu=1400), [*before.peers, PeerSection(EVE)]
    )
    assert text.count("\n") == text.count("\r\n") == TEXT.count("\n") + 4


@pytest.mark.parametrize("hook", ["echo # x", "echo\n[Peer]"])
def test_what_no_line_can_say_is_refused(hook: str) -> None:
    with pytest.raises(ConfigError, match=r"^PostUp: has a # or") as caught:
        rewrite(read(TEXT), InterfaceSection(post_up=[hook]), [])
    assert "echo" not in str(caught.value)


# ---- from anything to anything ----

keys = st.sampled_from([BOB, ANN, EVE, bytes([4]) * 32])
prefixes = st.sampled_from(
    ["10.0.0.2/32", "10.0.0.3/32", "192.168.0.0/24", "0.0.0.0/0", "::/0", "2001:db8::/32"]
)
endpoints = st.sampled_from(
    [EndpointName("192.0.2.1", 1), EndpointName("2001:db8::1", 2), EndpointName("a.b", 3)]
)
hooks = st.lists(st.sampled_from(["echo one", "echo 'two, three' = four"]), max_size=2)
addresses = st.lists(
    st.sampled_from([ip_interface("10.0.0.1/24"), ip_interface("10.0.0.2"), ip_interface("2001:db8::1/64")]),
    unique=True,
)
interfaces = st.builds(
    InterfaceSection,
    private_key=st.none() | keys,
    listen_port=st.sampled_from([None, 1, 65535]),
    fwmark=st.sampled_from([None, 1, 0xFFFFFFFF]),
    addresses=addresses,
    dns=st.lists(st.sampled_from([ip_address("10.0.0.53"), ip_address("2001:db8::53")]), unique=True),
    dns_search=st.lists(st.sampled_from(["example.org", "a.example.org"]), unique=True),
    mtu=st.sampled_from([None, 1280]),
    table=st.sampled_from([None, "off", "auto", "7"]),
    pre_up=hooks,
    post_up=hooks,
    pre_down=hooks,
    post_down=hooks,
    save_config=st.booleans(),
)
peer_lists = st.lists(
    st.builds(
        PeerSection,
        keys,
        st.none() | keys,
        st.none() | endpoints,
        st.lists(prefixes, unique=True).map(lambda texts: allowed(*texts)),
        st.sampled_from([None, 25]),
    ),
    unique_by=lambda peer: peer.public_key,
    max_size=4,
)
starts = st.sampled_from(
    [TEXT, TEXT.rstrip("\n"), "", "# nothing yet", TEXT.replace("\n", "\r\n")]
) | st.sampled_from([path for path in CORPUS if path.stem not in ("latin1_hook", "nul_byte", "utf16")]).map(
    lambda path: config.decode(path.read_bytes())
)


def some(key: bytes | None) -> bytes | None:
    return None if key == bytes(32) else key


def comparable(interface: InterfaceSection, peers: list[PeerSection]) -> tuple[object, ...]:
    """Without names, and without order where it has no meaning; zeros say what no line says."""
    values = (
        *(
            some(interface.private_key),
            interface.listen_port or None,
            interface.fwmark or None,
            interface.mtu,
        ),
        *(interface.table, interface.save_config, interface.pre_up, interface.post_up),
        *(interface.pre_down, interface.post_down, set(interface.addresses), set(interface.dns)),
        set(interface.dns_search),
    )
    each: dict[bytes, tuple[object, set[Prefix]]] = {}
    for peer in peers:
        said = (some(peer.preshared_key), peer.endpoint, peer.persistent_keepalive or None)
        each[peer.public_key] = (said, {entry.prefix for entry in peer.allowed_ips})
    return *values, each


@given(starts, interfaces, peer_lists, interfaces, peer_lists)
@settings(max_examples=200, deadline=None)
def test_the_file_says_what_was_asked_for(
    text: str,
    interface: InterfaceSection,
    peers: list[PeerSection],
    interface_then: InterfaceSection,
    peers_then: list[PeerSection],
) -> None:
    try:
        before = read(text)
    except config.ConfigFileError:
        return
    first = read(rewrite(before, interface, peers))
    assert comparable(first.interface, first.peers) == comparable(interface, peers)
    second = read(rewrite(first, interface_then, peers_then))
    assert comparable(second.interface, second.peers) == comparable(interface_then, peers_then)
    assert rewrite(second, interface_then, peers_then) == second.text
    if text.startswith("# the whole of it"):
        # The comments of peers may have gone with them.
        for comment in ("# the whole of it", "# this node", "# Name = me", "# [Peer]", "# Name = gone"):
            assert comment in second.text
