"""Two Devices on loopback, each with a Unix socket at its inner side."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

from wgfast import (
    Device,
    Peer,
    generate_private_key,
)
from wgfast.testing import packet

PATIENCE = 10  # seconds, for what takes milliseconds


class End:
    """A device and the socket at its inner side."""

    def __init__(self, number: int, kind: int = socket.SOCK_SEQPACKET, **options: Any) -> None:
        self.inner, self._outer = socket.socketpair(socket.AF_UNIX, kind)
        self.inner.settimeout(PATIENCE)
        self.device = Device(generate_private_key(), tun=self._outer.fileno(), name=f"end{number}", **options)
        self.address = f"10.0.0.{number}"

    @property
    def key(self) -> bytes:
        key = self.device.public_key
        assert key
        return key

    def knows(self, other: End, **options: Any) -> Peer:
        return self.device.add_peer(other.key, allowed_ips=[f"{other.address}/32"], **options)

    def says(self, other: End, payload: bytes) -> bytes:
        inner = packet(self.address, other.address, payload)
        self.inner.send(inner)
        return inner

    def close(self) -> None:
        self.device.close()
        self.inner.close()
        self._outer.close()


class Tunnel:
    def __init__(self, **options: Any) -> None:
        self.a, self.b = End(1, **options), End(2, **options)

    def connect(self, **options: Any) -> Tunnel:
        """Both are up; a knows where b is."""
        self.b.device.up()
        self.to_a = self.b.knows(self.a)
        where = ("127.0.0.1", self.b.device.listen_port)
        self.to_b = self.a.knows(self.b, endpoint=where, **options)
        self.a.device.up()
        return self

    def exchange(self, payload: bytes = b"ping") -> None:
        sent = self.a.says(self.b, payload)
        assert self.b.inner.recv(65536) == sent
        sent = self.b.says(self.a, payload)
        assert self.a.inner.recv(65536) == sent

    def close(self) -> None:
        self.a.close()
        self.b.close()


@contextlib.contextmanager
def driven(tunnel: Tunnel) -> Iterator[Tunnel]:
    """Both control planes run in threads, as they do in a `with device`."""
    tunnel.connect()
    with tunnel.a.device, tunnel.b.device:
        yield tunnel


def past_the_flood() -> None:
    """Initiations of one peer closer than 1/50 s are refused as a flood, and tried again 5 s later."""
    time.sleep(0.03)


def eventually(condition: Callable[[], object]) -> None:
    """For what another thread does, and no descriptor tells."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)
