"""The UAPI: what it takes, what it refuses, and that a refused set changes nothing."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator

import pytest
from configured import configure, never_without_owner, new_key
from hypothesis import given, settings
from hypothesis import strategies as st

from wgfast import Device, generate_preshared_key, generate_private_key, public_key
from wgfast.uapi import UapiError, dump, parse_endpoint, parse_prefix, parse_set
from wgfast.uapi_apply import apply

KEY = "ab" * 32
PEER = f"public_key={KEY}\n"


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device(generate_private_key())
    yield made
    made.close()


def shown(device: Device) -> list[str]:
    return b"".join(dump(device)).decode().splitlines()


def values(device: Device, key: str) -> list[str]:
    return [line.partition("=")[2] for line in shown(device) if line.startswith(f"{key}=")]


# ---- values ----


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("10.1.2.3/8", (4, bytes((10, 0, 0, 0)), 8)),
        ("0.0.0.0/0", (4, bytes(4), 0)),
        ("1.2.3.4/32", (4, bytes((1, 2, 3, 4)), 32)),
        ("::/0", (6, bytes(16), 0)),
        ("fd00::ffff/112", (6, bytes.fromhex("fd") + bytes(15), 112)),
        ("::ffff:1.2.3.4/128", (6, bytes(10) + b"\xff\xff\x01\x02\x03\x04", 128)),
    ],
)
def test_prefixes_are_masked(text: str, prefix: tuple[int, bytes, int]) -> None:
    assert parse_prefix(text) == prefix


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1:51820", "192.0.2.1", 51820),
        ("[2001:DB8::1]:1", "2001:db8::1", 1),
        ("[fe80::1%lo]:65535", f"fe80::1%{socket.if_nametoindex('lo')}", 65535),
        ("[fe80::1%7]:9", "fe80::1%7", 9),
        ("[::ffff:192.0.2.1]:9", "192.0.2.1", 9),
    ],
)
def test_endpoints(text: str, host: str, port: int) -> None:
    assert parse_endpoint(text)[:2] == (host, port)


BAD_DEVICE_LINES = [
    "private_key=",
    f"private_key={KEY}00",
    f"private_key={'g' * 64}",
    f"private_key={' ' * 64}",
    "listen_port=",
    "listen_port=65536",
    "listen_port=-1",
    "listen_port=+1",
    "listen_port=1_0",
    "listen_port= 1",
    "listen_port=1\r",
    "listen_port=" + "9" * 5000,
    "fwmark=0x10",
    "fwmark=4294967296",
    "replace_peers=false",
    "replace_peers=",
    "endpoint=192.0.2.1:1",
    "nonsense=1",
    "=1",
    "public_key=" + "0" * 63,
]
BAD_PEER_LINES = [
    f"preshared_key={KEY[:-1]}",
    "endpoint=",
    "endpoint=192.0.2.1",
    "endpoint=192.0.2.1:0",
    "endpoint=192.0.2.1:65536",
    "endpoint=2001:db8::1:51820",
    "endpoint=[2001:db8::1]51820",
    "endpoint=[2001:db8::1:51820",
    "endpoint=[192.0.2.1]:51820",
    "endpoint=[fe80::1%no-such-if]:51820",
    "endpoint=192.0.2.1%lo:51820",
    "endpoint=example.com:51820",
    "endpoint=[fe80::1%99999999999]:51820",
    "persistent_keepalive_interval=off",
    "persistent_keepalive_interval=65536",
    "replace_allowed_ips=1",
    "update_only=yes",
    "remove=false",
    "protocol_version=2",
    "allowed_ip=10.0.0.0/33",
    "allowed_ip=10.0.0.0/08",
    "allowed_ip=10.0.0.0/",
    "allowed_ip=10.0.0.0",
    "allowed_ip=10.0.0/8",
    "allowed_ip=010.0.0.0/8",
    "allowed_ip=+10.0.0.0/8",
    "allowed_ip=--10.0.0.0/8",
    "allowed_ip=fe80::1%lo/128",
    "allowed_ip=::/129",
    "allowed_ip=\0/8",
    "private_key=" + KEY,
    "listen_port=1",
    "allowed_ips=10.0.0.0/8",
]


@pytest.mark.parametrize("line", BAD_DEVICE_LINES + [PEER + line for line in BAD_PEER_LINES])
def test_a_bad_value_is_refused(line: str) -> None:
    with pytest.raises(UapiError) as refused:
        parse_set(f"{line}\n".encode())
    assert refused.value.errno == errno.EINVAL


@pytest.mark.parametrize("body", [b"listen_port\n", b"\n", PEER.encode() + b"remove"])
def test_a_line_without_a_value_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(UapiError) as refused:
        parse_set(body)
    assert refused.value.errno == errno.EPROTO


@pytest.mark.parametrize("name", ["private_key", "preshared_key"])
def test_a_bad_secret_is_not_shown(name: str) -> None:
    secret = "a1" * 31 + "zz"
    for text in (f"{name}={secret}", f"{name} {secret}", f"{name}={secret}0"):
        with pytest.raises(UapiError) as refused:
            parse_set((PEER + text).encode() if name == "preshared_key" else text.encode())
        assert secret[:16] not in str(refused.value)


def test_what_is_no_key_may_be_a_secret_in_the_wrong_place() -> None:
    secret = str(generate_private_key())  # base64: it ends with an equals sign
    for text in (secret, PEER + secret, f"{secret}listen_port=1"):
        with pytest.raises(UapiError) as refused:
            parse_set(text.encode())
        assert secret[:8] not in str(refused.value)
    with pytest.raises(UapiError, match="'listen_prot'"):
        parse_set(b"listen_prot=1\n")


@given(st.binary(max_size=400))
@settings(max_examples=500, deadline=None)
def test_no_bytes_raise_anything_else(body: bytes) -> None:
    with contextlib.suppress(UapiError):
        parse_set(body)


LINE = st.tuples(
    st.sampled_from(
        [*"=-/:[]%+ \r\0", "private_key", "public_key", "endpoint", "allowed_ip", "listen_port", "fwmark"]
    ),
    st.text(max_size=50) | st.sampled_from([KEY, "true", "1.2.3.4/5", "[::1]:1", "[fe80::1%", "-::/0", "٣"]),
).map("=".join)


@given(st.lists(LINE, max_size=8))
@settings(max_examples=500, deadline=None)
def test_no_lines_raise_anything_else(lines: list[str]) -> None:
    with contextlib.suppress(UapiError):
        parse_set("\n".join([f"public_key={KEY}", *lines]).encode(errors="surrogatepass"))


# ---- what a set does ----


def test_what_was_set_is_shown(device: Device) -> None:
    private, psk, peer = generate_private_key().hex(), generate_preshared_key().hex(), new_key()
    configure(
        device,
        f"private_key={private}\nlisten_port=51999\nfwmark=77\nreplace_peers=true\npublic_key={peer}\n"
        f"preshared_key={psk}\nendpoint=[2001:db8::1]:51820\npersistent_keepalive_interval=25\n"
        "replace_allowed_ips=true\nallowed_ip=fd00::1/64\nallowed_ip=10.0.0.9/24\nprotocol_version=1\n",
    )
    assert shown(device) == [
        f"private_key={private}",
        "listen_port=51999",
        "fwmark=77",
        f"public_key={peer}",
        f"preshared_key={psk}",
        "protocol_version=1",
        "endpoint=[2001:db8::1]:51820",
        "last_handshake_time_sec=0",
        "last_handshake_time_nsec=0",
        "tx_bytes=0",
        "rx_bytes=0",
        "persistent_keepalive_interval=25",
        "allowed_ip=10.0.0.0/24",
        "allowed_ip=fd00::/64",
    ]


def test_what_is_shown_can_be_set_again(device: Device) -> None:
    peers = "".join(
        f"public_key={new_key()}\nallowed_ip=10.0.{n}.0/24\nendpoint=192.0.2.{n}:9\n" for n in range(1, 20)
    )
    configure(device, f"listen_port=51999\n{peers}")
    only_shown = ("last_handshake", "tx_bytes", "rx_bytes")
    before = shown(device)
    again = "\n".join(line for line in before if not line.startswith(only_shown)).encode()
    other = Device()
    apply(other, parse_set(again))
    assert sorted(shown(other)) == sorted(before)
    other.close()


def test_update_only_and_remove(device: Device) -> None:
    a, b = new_key(), new_key()
    configure(
        device,
        f"public_key={a}\nallowed_ip=10.0.0.1/32\npublic_key={b}\nupdate_only=true\nallowed_ip=10.0.0.1/32\n",
    )
    assert values(device, "public_key") == [a]
    assert values(device, "allowed_ip") == ["10.0.0.1/32"]
    configure(device, f"public_key={a}\nremove=true\npublic_key={b}\nremove=true\n")
    assert values(device, "public_key") == []


def test_a_removed_peer_added_again_is_a_new_one(device: Device) -> None:
    a = new_key()
    configure(device, f"public_key={a}\nallowed_ip=10.0.0.1/32\nendpoint=192.0.2.1:9\n")
    before = device.core.find_peer(bytes.fromhex(a))
    configure(device, f"public_key={a}\nremove=true\npublic_key={a}\nallowed_ip=10.0.0.2/32\n")
    assert device.core.find_peer(bytes.fromhex(a)) != before
    assert values(device, "allowed_ip") == ["10.0.0.2/32"]
    assert values(device, "endpoint") == []


def test_replace_peers_keeps_a_peer_and_forgets_what_is_not_said(device: Device) -> None:
    a, b = new_key(), new_key()
    configure(
        device,
        f"public_key={a}\nendpoint=192.0.2.1:9\npreshared_key={KEY}\npersistent_keepalive_interval=9\n"
        f"allowed_ip=10.0.0.1/32\nallowed_ip=10.0.0.2/32\npublic_key={b}\nallowed_ip=10.0.0.3/32\n",
    )
    handle = device.core.find_peer(bytes.fromhex(a))
    configure(device, f"replace_peers=true\npublic_key={a}\nallowed_ip=10.0.0.2/32\n")
    assert device.core.find_peer(bytes.fromhex(a)) == handle
    assert values(device, "public_key") == [a]
    assert values(device, "allowed_ip") == ["10.0.0.2/32"]
    assert values(device, "endpoint") == []
    assert values(device, "preshared_key") == ["00" * 32]
    assert values(device, "persistent_keepalive_interval") == ["0"]


def test_allowed_ips_step_by_step(device: Device) -> None:
    a = new_key()
    configure(device, f"public_key={a}\nallowed_ip=10.0.0.1/32\nallowed_ip=10.0.0.2/32\n")
    configure(
        device, f"public_key={a}\nallowed_ip=-10.0.0.1/32\nallowed_ip=10.0.0.3/32\nallowed_ip=-10.0.0.9/32\n"
    )
    assert values(device, "allowed_ip") == ["10.0.0.2/32", "10.0.0.3/32"]
    configure(
        device, f"public_key={a}\nallowed_ip=10.0.0.4/32\nreplace_allowed_ips=true\nallowed_ip=10.0.0.5/32\n"
    )
    assert values(device, "allowed_ip") == ["10.0.0.5/32"]
    configure(device, f"public_key={a}\nreplace_allowed_ips=true\n")
    assert values(device, "allowed_ip") == []


def test_a_later_block_has_the_last_word(device: Device) -> None:
    a, b = new_key(), new_key()
    configure(device, f"public_key={a}\nallowed_ip=10.0.0.0/8\n")
    configure(
        device,
        f"public_key={a}\nreplace_allowed_ips=true\npublic_key={b}\nallowed_ip=-10.0.0.0/8\n"
        f"public_key={a}\nallowed_ip=10.0.0.0/8\n",
    )
    assert device.core.route(4, bytes((10, 0, 0, 1))) == device.core.find_peer(bytes.fromhex(a))


def test_a_prefix_that_moves_is_never_without_an_owner(device: Device) -> None:
    """A thread asks for its owner while it goes to and fro, by replace_allowed_ips and by replace_peers."""
    a, b = new_key(), new_key()
    configure(device, f"public_key={a}\nallowed_ip=10.0.0.0/8\npublic_key={b}\n")
    with never_without_owner(device, bytes((10, 0, 0, 1))):
        for _ in range(200):
            for owner, other in ((b, a), (a, b)):
                configure(
                    device,
                    f"public_key={other}\nreplace_allowed_ips=true\n"
                    f"public_key={owner}\nreplace_allowed_ips=true\nallowed_ip=10.0.0.0/8\n",
                )
                configure(
                    device,
                    f"replace_peers=true\npublic_key={other}\npublic_key={owner}\nallowed_ip=10.0.0.0/8\n",
                )


def test_the_own_key_is_no_peer(device: Device) -> None:
    private = generate_private_key()
    own = public_key(private).hex()
    configure(device, f"public_key={own}\nallowed_ip=10.0.0.1/32\n")
    assert values(device, "public_key") == [own]
    configure(device, f"private_key={private.hex()}\npublic_key={own}\nallowed_ip=10.0.0.1/32\n")
    assert values(device, "public_key") == []
    configure(device, f"private_key={'00' * 32}\n")
    assert values(device, "private_key") == []


@pytest.mark.parametrize(
    "line", ["listen_port=70000", f"public_key={KEY}\nallowed_ip=10.0.0.0/33", "replace_peers=no"]
)
def test_a_refused_set_changes_nothing(device: Device, line: str) -> None:
    configure(device, f"listen_port=51999\nfwmark=5\n{PEER}allowed_ip=10.0.0.1/32\nendpoint=192.0.2.1:9\n")
    before = shown(device)
    with pytest.raises(UapiError):
        configure(device, f"private_key={KEY}\nlisten_port=1\nfwmark=6\nreplace_peers=true\n{line}\n")
    assert shown(device) == before


def test_a_port_in_use_changes_nothing() -> None:
    device = Device(generate_private_key())
    device.up()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 0))
        before = shown(device)
        with pytest.raises(UapiError) as refused:
            configure(device, f"listen_port={taken.getsockname()[1]}\n{PEER}allowed_ip=10.0.0.1/32\n")
        assert refused.value.errno == errno.EADDRINUSE
        assert shown(device) == before
    device.close()
