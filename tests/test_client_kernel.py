"""The kernel's interfaces, from netlink messages put together by hand after linux/wireguard.h."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wgfast import client, client_kernel, client_uapi, uapi_socket
from wgfast._core import Endpoint
from wgfast.client import DeviceState, PeerState, SetRequest
from wgfast.keys import generate_private_key, public_key

PRIVATE = bytes(generate_private_key())
PUBLIC = bytes(public_key(PRIVATE))
ONE, TWO, THREE = (bytes([number]) * 32 for number in (1, 2, 3))


def attribute(kind: int, payload: bytes, nested: bool = False) -> bytes:
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind | (0x8000 if nested else 0)) + payload + bytes(-length % 4)


def allowed_ip(address: str, length: int) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return attribute(
        0,
        attribute(1, struct.pack("=H", family))
        + attribute(2, socket.inet_pton(family, address))
        + attribute(3, bytes([length])),
        nested=True,
    )


def sockaddr(host: str, port: int, scope: int = 0) -> bytes:
    if ":" not in host:
        return struct.pack("=H", socket.AF_INET) + struct.pack(">H", port) + socket.inet_aton(host) + bytes(8)
    packed = socket.inet_pton(socket.AF_INET6, host)
    return (
        struct.pack("=H", socket.AF_INET6)
        + struct.pack(">HI", port, 0)
        + packed
        + scope.to_bytes(4, sys.byteorder)
    )


def peer(key: bytes, *attributes: bytes) -> bytes:
    return attribute(0, attribute(1, key) + b"".join(attributes), nested=True)


def message(*attributes: bytes) -> Any:
    """What pyroute2 makes of the bytes that the kernel would send."""
    from pyroute2.netlink.generic.wireguard import wgmsg

    body = struct.pack("=BBH", 0, 1, 0) + b"".join(attributes)
    decoded = wgmsg(struct.pack("=IHHII", 16 + len(body), 33, 2, 1, 1) + body)
    decoded.decode()
    return decoded


def test_the_kernels_device() -> None:
    first = message(
        attribute(1, struct.pack("=I", 7)),
        attribute(2, b"wg0\0"),
        attribute(3, PRIVATE),
        attribute(4, PUBLIC),
        attribute(6, struct.pack("=H", 51820)),
        attribute(7, struct.pack("=I", 0xFFFFFFFF)),
        attribute(
            8,
            peer(
                ONE,
                attribute(2, TWO),
                attribute(4, sockaddr("192.0.2.1", 51821)),
                attribute(5, struct.pack("=H", 25)),
                attribute(6, struct.pack("=qq", 1764000000, 500)),
                attribute(7, struct.pack("=Q", 1 << 40)),
                attribute(8, struct.pack("=Q", 3)),
                attribute(9, allowed_ip("10.0.0.0", 8) + allowed_ip("fd00::", 64), nested=True),
                attribute(10, struct.pack("=I", 1)),
            )
            + peer(THREE, attribute(2, bytes(32)), attribute(4, sockaddr("fe80::1", 5, scope=3))),
            nested=True,
        ),
    )
    # A dump that did not fit goes on with the peer it broke off in.
    rest = message(
        attribute(
            8, peer(THREE, attribute(9, allowed_ip("0.0.0.0", 0), nested=True)) + peer(TWO), nested=True
        )
    )
    state = client_kernel.device_of("wg0", [first, rest])
    assert (state.name, state.kind, state.listen_port, state.fwmark) == ("wg0", "kernel", 51820, 0xFFFFFFFF)
    assert (state.private_key, state.public_key) == (PRIVATE, PUBLIC)
    one, three, two = state.peers
    assert one == PeerState(
        ONE,
        preshared_key=TWO,
        endpoint=Endpoint("192.0.2.1", 51821),
        allowed_ips=[(4, b"\x0a\0\0\0", 8), (6, b"\xfd" + bytes(15), 64)],
        last_handshake=(1764000000, 500),
        received_bytes=1 << 40,
        sent_bytes=3,
        persistent_keepalive=25,
    )
    assert three == PeerState(THREE, endpoint=Endpoint("fe80::1%3", 5), allowed_ips=[(4, bytes(4), 0)])
    assert two == PeerState(TWO)


def test_a_kernels_device_that_is_bare() -> None:
    state = client_kernel.device_of("wg0", [message(attribute(2, b"wg0\0"), attribute(6, bytes(2)))])
    assert state == DeviceState("wg0", kind="kernel")


@pytest.mark.parametrize(
    ("code", "told"),
    [(errno.ENOENT, errno.EPROTONOSUPPORT), (errno.ENODEV, errno.ENODEV), (errno.EPERM, errno.EPERM)],
)
def test_the_kernels_refusals(code: int, told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyroute2
    from pyroute2.netlink.exceptions import NetlinkError

    def refuse() -> None:
        raise NetlinkError(code)

    monkeypatch.setattr(pyroute2, "WireGuard", refuse)
    with pytest.raises(OSError, match="wg0") as caught:
        client_kernel.get("wg0")
    assert caught.value.errno == told


def test_the_kernels_interfaces_are_not_ours_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (uapi_socket, client_uapi):
        monkeypatch.setattr(module, "DIRECTORY", str(tmp_path))
    monkeypatch.setattr(client_kernel, "get", lambda name: DeviceState(name, kind="kernel"))
    assert client.get("wg0").kind == "kernel"
    with pytest.raises(OSError, match="wg0") as caught:
        client.set("wg0", SetRequest())
    assert caught.value.errno == errno.EOPNOTSUPP


def test_the_kernel_is_asked_for_links_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    import pyroute2

    real = pyroute2.IPRoute

    @contextlib.contextmanager
    def links() -> Iterator[Any]:
        with real() as route:
            assert list(route.get_links(kind="wireguard")) == []
            # Without its kind: every system has a loopback.
            yield SimpleNamespace(get_links=lambda kind: route.get_links() if kind == "wireguard" else [])

    assert client_kernel.interfaces() == []
    monkeypatch.setattr(client_kernel, "_MODULE", "/")  # as if it were loaded
    monkeypatch.setattr(pyroute2, "IPRoute", links)
    assert "lo" in client_kernel.interfaces()
