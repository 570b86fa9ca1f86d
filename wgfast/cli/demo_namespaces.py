"""The part of the demo for root: two daemons in two network namespaces, and TCP between them."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from rich.progress import Progress

from wgfast import generate_private_key, public_key
from wgfast.cli.demo import TIMEOUT, DemoError, Transfer
from wgfast.uapi_socket import socket_path

OUTSIDE: Final = ("192.0.2.1", "192.0.2.2")
INSIDE: Final = ("10.99.1.1", "10.99.1.2")
PORT: Final = 51820
_TCP_PORT: Final = 5000
_CLONE_NEWNET: Final = 0x40000000
_PIECE: Final = 1 << 18


def why_not() -> str:
    """Why this cannot be shown here; empty if it can."""
    if os.geteuid() != 0:
        return "it takes root"
    if not os.path.exists("/dev/net/tun"):
        return "there is no /dev/net/tun"
    if shutil.which("ip") is None:
        return "there is no `ip` (Debian's package iproute2)"
    try:
        with _terminated_as_interrupted(), _namespaces():
            return ""
    except DemoError as error:
        return str(error)


def demonstrate_namespaces(payload: bytes, progress: Progress) -> list[Transfer]:
    """Carries the payload through a tunnel of two daemons, both ways. DemoError if it arrives changed."""
    with _terminated_as_interrupted(), _namespaces() as names, _daemons(names):
        transfers = []
        with _connection(names) as ends:
            for source, target in ((0, 1), (1, 0)):
                title = f"TCP, two daemons, {'AB'[source]} to {'AB'[target]}"
                transfer = Transfer(title, len(payload))
                task = progress.add_task(title, total=len(payload))
                _pump(
                    transfer, payload, ends[source], ends[target], functools.partial(progress.advance, task)
                )
                transfers.append(transfer)
        return transfers


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack, so that namespaces and daemons go on every exit."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    if done.returncode:
        raise DemoError(f"`{' '.join(command)}`: {done.stderr.strip() or f'exit status {done.returncode}'}")


def _ip(namespace: str, *command: str) -> None:
    _run("ip", "-n", namespace, *command)


@contextlib.contextmanager
def _namespaces() -> Iterator[tuple[str, str]]:
    """Two namespaces joined by a cable."""
    names = (f"wgfast-demo-{os.getpid()}a", f"wgfast-demo-{os.getpid()}b")
    with contextlib.ExitStack() as stack:
        for name in names:
            _run("ip", "netns", "add", name)
            stack.callback(_run, "ip", "netns", "del", name)
            _ip(name, "link", "set", "lo", "up")
        _ip(names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, OUTSIDE, strict=True):
            _ip(name, "address", "add", f"{address}/24", "dev", "cable")
            _ip(name, "link", "set", "cable", "up")
        yield names


@contextlib.contextmanager
def _daemons(names: tuple[str, str]) -> Iterator[None]:
    """A configured daemon in each. UAPI sockets are files: the interfaces' names must be nobody else's."""
    interfaces = [f"wgd{os.getpid()}{letter}" for letter in "ab"]
    keys = [generate_private_key() for _ in names]
    with contextlib.ExitStack() as stack:
        for index, name in enumerate(names):
            other = 1 - index
            stack.enter_context(_daemon(name, interfaces[index]))
            _configure(
                interfaces[index],
                f"set=1\nprivate_key={keys[index].hex()}\nlisten_port={PORT}\n"
                f"public_key={public_key(keys[other]).hex()}\nendpoint={OUTSIDE[other]}:{PORT}\n"
                f"allowed_ip={INSIDE[other]}/32\n\n",
            )
            _ip(name, "address", "add", f"{INSIDE[index]}/24", "dev", interfaces[index])
            _ip(name, "link", "set", interfaces[index], "up")
        yield


@contextlib.contextmanager
def _daemon(namespace: str, interface: str) -> Iterator[None]:
    command = ["ip", "netns", "exec", namespace, sys.executable, "-m", "wgfast", "-f", interface]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + TIMEOUT
        while not os.path.exists(socket_path(interface)):
            if process.poll() is not None:
                raise DemoError(f"the daemon for {interface} ended with status {process.returncode}")
            if time.monotonic() > deadline:
                raise DemoError(f"the daemon for {interface} did not open its socket within {TIMEOUT:.0f} s")
            time.sleep(0.01)
        yield
    finally:
        process.terminate()
        try:
            process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _configure(interface: str, request: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(TIMEOUT)
        client.connect(socket_path(interface))
        client.sendall(request.encode())
        answer = client.recv(4096)
    if answer != b"errno=0\n\n":
        raise DemoError(f"{interface}: its configuration was refused: {answer!r}")


@contextlib.contextmanager
def _connection(names: tuple[str, str]) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a TCP connection through the tunnel. A socket stays in the namespace it was made in."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_inside(names[1], socket.socket))
        client = stack.enter_context(_inside(names[0], socket.socket))
        listener.bind((INSIDE[1], _TCP_PORT))
        listener.listen()
        listener.settimeout(TIMEOUT)
        client.settimeout(TIMEOUT)
        try:
            client.connect((INSIDE[1], _TCP_PORT))
            server = stack.enter_context(listener.accept()[0])
        except TimeoutError:
            raise DemoError("no TCP connection came about through the tunnel") from None
        client.setblocking(False)
        server.setblocking(False)
        yield client, server


def _inside(namespace: str, make: Callable[[], socket.socket]) -> socket.socket:
    made: list[socket.socket] = []
    libc = ctypes.CDLL(None, use_errno=True)

    def visit() -> None:
        fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(fd, _CLONE_NEWNET) == 0:
                made.append(make())
        finally:
            os.close(fd)

    # A thread of its own, so that this one stays where it is.
    visitor = threading.Thread(target=visit)
    visitor.start()
    visitor.join()
    if not made:
        raise DemoError(f"the namespace {namespace} cannot be entered")
    return made[0]


def _pump(
    transfer: Transfer,
    payload: bytes,
    source: socket.socket,
    target: socket.socket,
    advance: Callable[[int], object],
) -> None:
    pieces = memoryview(payload)
    buffer = bytearray(_PIECE)
    view = memoryview(buffer)
    sent = received = 0
    begin = time.perf_counter()
    while received < len(payload):
        wanted = [source] if sent < len(payload) else []
        readable, writable, _ = select.select([target], wanted, [], TIMEOUT)
        if not readable and not writable:
            raise DemoError(f"{transfer.title}: nothing moved for {TIMEOUT:.0f} s after {received} bytes")
        if writable:
            sent += source.send(pieces[sent : sent + _PIECE])
        if readable:
            size = target.recv_into(buffer)
            if size == 0 or view[:size] != pieces[received : received + size]:
                raise DemoError(f"{transfer.title}: the bytes from {received} on arrived changed")
            received += size
            advance(size)
    transfer.seconds = time.perf_counter() - begin
