"""Traffic, judged by programs and kernels that are not under test."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import random
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .namespace import Namespace
from .process import LabError, Process, wait_until

IPERF_PORT = 5201
SO_RCVBUFFORCE = 33


@dataclass(frozen=True)
class Ping:
    sent: int
    received: int
    output: str

    @property
    def unreachable(self) -> bool:
        return "nreachable" in self.output


def ping(
    namespace: Namespace,
    destination: str,
    *,
    count: int = 1,
    wait: float = 1.0,
    interval: float = 0.2,
    size: int = 56,
    source: str | None = None,
) -> Ping:
    """Echo requests that may not be fragmented inside; returns as soon as the last is answered."""
    command = ["ping", "-n", "-M", "do", "-c", str(count), "-i", str(interval)]
    command += ["-W", str(wait), "-s", str(size)]
    if source:
        command += ["-I", source]
    done = namespace.run(*command, destination, check=False, timeout=count * interval + wait + 10)
    counts = re.search(r"(\d+) packets transmitted, (\d+) received", done.stdout)
    if counts is None:
        return Ping(0, 0, done.stdout + done.stderr)
    return Ping(int(counts[1]), int(counts[2]), done.stdout + done.stderr)


def wait_ping(namespace: Namespace, destination: str, deadline: float = 5.0, **options: Any) -> None:
    """Pings until an answer comes. The default deadline is one handshake retry, no more."""
    options.setdefault("wait", 0.5)
    wait_until(
        lambda: ping(namespace, destination, **options).received,
        f"{namespace.name}: ping {destination}",
        deadline,
    )


def background_ping(namespace: Namespace, destination: str, interval: float = 0.02) -> Process:
    """Steady traffic that runs until it is stopped."""
    return namespace.spawn("ping", "-n", "-i", str(interval), destination)


class IperfServer:
    """An iperf3 server that serves one client after the other until stop()."""

    def __init__(self, namespace: Namespace) -> None:
        self.process = namespace.spawn("iperf3", "-s", "-p", str(IPERF_PORT))
        wait_until(self._listening, "iperf3 server listening")

    def _listening(self) -> bool:
        if self.process.returncode is not None:
            raise LabError(f"iperf3 ended: {self.process.output}")
        needle = f":{IPERF_PORT:04X} "
        tables = [Path(f"/proc/{self.process.pid}/net/{table}") for table in ("tcp", "tcp6")]
        return any(
            needle in line and line.split()[3] == "0A"
            for table in tables
            for line in table.read_text().splitlines()
        )

    def stop(self) -> None:
        self.process.stop()


def _iperf(namespace: Namespace, destination: str, *options: str) -> dict[str, Any]:
    report: dict[str, Any] = {}

    def done() -> bool:
        # The server may still be at the end of the run before.
        report.update(_iperf_once(namespace, destination, *options))
        return "busy" not in report.pop("error", "")

    wait_until(done, f"iperf3 to {destination}: the server is free")
    summary: dict[str, Any] = report["end"]
    return summary


def _iperf_once(namespace: Namespace, destination: str, *options: str) -> dict[str, Any]:
    # A fixed amount, not a fixed time: as long as the tunnel needs, bounded by the timeout.
    done = namespace.run(
        *("iperf3", "-J", "-p", str(IPERF_PORT), "-c", destination, "--connect-timeout", "5000"),
        *options,
        timeout=20,
        check=False,
    )
    try:
        report: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise LabError(f"iperf3: exit {done.returncode}: {done.stdout}{done.stderr}") from None
    if "error" in report and "busy" not in report["error"]:
        raise LabError(f"iperf3 to {destination}: {report['error']}")
    return report


def iperf_tcp(namespace: Namespace, destination: str, amount: int = 8 << 20, reverse: bool = False) -> int:
    """Bytes that the receiver counted of a TCP transfer."""
    # iperf3 stops once the sender has handed over the amount, without what is in flight then:
    # a small window keeps that small.
    options = ["-w", "256K", "-n", str(amount)] + (["-R"] if reverse else [])
    return int(_iperf(namespace, destination, *options)["sum_received"]["bytes"])


def iperf_udp(namespace: Namespace, destination: str, length: int, amount: int = 2 << 20) -> tuple[int, int]:
    """(datagrams sent, datagrams lost) as the receiver counted them, at 40 Mbit/s."""
    options = ["-u", "-b", "40M", "-n", str(amount), "-l", str(length)]
    summary = _iperf(namespace, destination, *options)["sum"]
    return int(summary["packets"]), int(summary["lost_packets"])


@contextlib.contextmanager
def connection(
    client: Namespace, server: Namespace, destination: str
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection from `client` to an address of `server`."""
    family = socket.AF_INET6 if ipaddress.ip_address(destination).version == 6 else socket.AF_INET
    with server.entered():
        listener = socket.socket(family, socket.SOCK_STREAM)
    with client.entered():
        calling = socket.socket(family, socket.SOCK_STREAM)
    with listener, calling:
        for one in (listener, calling):
            one.settimeout(15)
        listener.bind((destination, 0))
        listener.listen()
        calling.connect((destination, listener.getsockname()[1]))
        accepted, _ = listener.accept()
        accepted.settimeout(15)
        with accepted:
            yield calling, accepted


def transfer(sender: Namespace, receiver: Namespace, destination: str, amount: int = 4 << 20) -> None:
    """Random bytes by TCP, compared at the far end: iperf3 counts bytes and never looks at them."""
    seed = random.randrange(1 << 32)
    print(f"transfer: seed {seed}")
    payload = random.Random(seed).randbytes(amount)
    with connection(sender, receiver, destination) as (client, server):
        thread = threading.Thread(target=_send_all, args=(client, payload), daemon=True)
        thread.start()
        received = _receive_all(server)
        thread.join(15)
    assert len(received) == amount
    assert hashlib.sha256(received).digest() == hashlib.sha256(payload).digest()


def exchange(client: Namespace, server: Namespace, destination: str, amount: int = 4 << 20) -> None:
    """The same in both directions of one connection at once."""
    seed = random.randrange(1 << 32)
    print(f"exchange: seed {seed}")
    payloads = [random.Random(seed + end).randbytes(amount) for end in range(2)]
    with connection(client, server, destination) as ends, ThreadPoolExecutor(4) as pool:
        received = [pool.submit(_receive_all, end) for end in ends]
        for sent in [pool.submit(_send_all, *each) for each in zip(ends, payloads, strict=True)]:
            sent.result()
        for got, expected in zip(received, reversed(payloads), strict=True):
            assert len(got.result()) == amount
            assert hashlib.sha256(got.result()).digest() == hashlib.sha256(expected).digest()


def _receive_all(end: socket.socket) -> bytes:
    return b"".join(iter(lambda: end.recv(1 << 20), b""))


def _send_all(client: socket.socket, payload: bytes) -> None:
    client.sendall(payload)
    client.shutdown(socket.SHUT_WR)


def udp_socket(namespace: Namespace, address: str, port: int = 0) -> socket.socket:
    """A bound UDP socket that lives in `namespace`."""
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    with namespace.entered():
        result = socket.socket(family, socket.SOCK_DGRAM)
    result.settimeout(5)
    # Bursts wait here until the test reads them.
    result.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    result.bind((address, port))
    return result
