"""What claims are proved with: pings, TCP, names. Each raises ProofError that says what came instead."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from .host import Host
from .topology import ProofError

T = TypeVar("T")

_PATIENCE: Final = 8.0  # A handshake whose first message is lost is tried again after 5 s.
_ECHO: Final = re.compile(r"ttl=(\d+) time=([\d.]+) ms")
_TCP_TIMEOUT: Final = 8.0


@dataclass(frozen=True)
class Echo:
    """An answered ping. The time to live tells how many routers, relays among them, the answer passed."""

    ttl: int
    milliseconds: float

    def __str__(self) -> str:
        return f"{self.milliseconds:.1f} ms, TTL {self.ttl}"


def ping(host: Host, address: str, *, patience: float = _PATIENCE) -> Echo:
    """Pings until an answer comes."""
    deadline = time.monotonic() + patience
    while (echo := try_ping(host, address)) is None:
        if time.monotonic() > deadline:
            raise ProofError(f"{host.name}: no answer from {address} within {patience:.0f} s")
    return echo


def try_ping(host: Host, address: str, *, wait: float = 1.0) -> Echo | None:
    said = host.run("ping", "-n", "-c", "1", "-W", str(wait), address, check=False)
    found = _ECHO.search(said)
    return Echo(int(found[1]), float(found[2])) if found else None


def ping_all(pairs: Iterable[tuple[Host, str]]) -> list[Echo]:
    """Several at a time, all of which must be answered; all together they have as long as one."""
    deadline = time.monotonic() + _PATIENCE
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda pair: ping(*pair, patience=max(1.0, deadline - time.monotonic())), pairs))


@contextlib.contextmanager
def connection(client: Host, server: Host, address: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection from the client to an address that reaches the server."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as stack:
        with server.entered():
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        with client.entered():
            caller = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        for each in (listener, caller):
            each.settimeout(_TCP_TIMEOUT)
        listener.bind(("::" if ":" in address else "0.0.0.0", 0))
        listener.listen()
        try:
            caller.connect((address, listener.getsockname()[1]))
            accepted = stack.enter_context(listener.accept()[0])
        except OSError as error:
            raise ProofError(f"{client.name}: TCP to {address} ({server.name}): {error}") from None
        accepted.settimeout(_TCP_TIMEOUT)
        yield caller, accepted


def transfer(client: Host, server: Host, address: str, amount: int = 1 << 20) -> str:
    """Random bytes by TCP from the client to an address that reaches the server, compared there. Returns the
    address that the server saw the client come from."""
    with connection(client, server, address) as (caller, accepted):
        send(caller, accepted, amount)
        seen: str = accepted.getpeername()[0]
    return seen


def send(source: socket.socket, target: socket.socket, amount: int) -> None:
    """Random bytes from one end of a connection to the other, compared there."""
    payload = os.urandom(amount)
    received = bytearray()

    def receive() -> None:
        with contextlib.suppress(OSError):
            while len(received) < amount and (piece := target.recv(1 << 18)):
                received.extend(piece)

    thread = threading.Thread(target=receive, daemon=True)
    thread.start()
    try:
        source.sendall(payload)
    except OSError as error:
        raise ProofError(f"TCP: {error}") from None
    thread.join(_TCP_TIMEOUT)
    if bytes(received) != payload:
        raise ProofError(f"TCP: {len(received)} of {amount} bytes arrived, or changed ones")


def look_up(host: Host, name: str) -> list[str]:
    """The addresses that a program on the host gets for a name, from whatever its /etc/resolv.conf names."""
    said = host.run("getent", "ahosts", name, check=False)
    found = sorted({line.split()[0] for line in said.splitlines() if line})
    if not found:
        raise ProofError(f"{host.name}: {name} has no address")
    return found


def expect(holds: object, otherwise: str) -> None:
    if not holds:
        raise ProofError(otherwise)


def eventually(condition: Callable[[], T | None], otherwise: str, deadline: float = _PATIENCE) -> T:
    """The first truthy value of `condition()`."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise ProofError(f"{otherwise} within {deadline:.0f} s")
        time.sleep(0.05)
    return value
