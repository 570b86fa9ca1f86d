"""demo: two devices on this machine, a handshake, a payload both ways compared byte by byte, and a table.

The devices talk real UDP over loopback. Their inner ports are ends of Unix socket pairs instead of TUN
interfaces, so neither root nor /dev/net/tun is needed. The programs at the far ends are this one: it writes
IP packets into one pair and reads them from the other. Between the two, no packet is seen by Python.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from wgfast import Device, _core, generate_private_key
from wgfast.errors import ConfigError

ADDRESSES: Final = ("10.99.0.1", "10.99.0.2")
PACKET_SIZE: Final = 1400
# Packets on their way at once: what the smallest default socket buffers on the way hold without loss.
WINDOW: Final = 48
TIMEOUT: Final = 5.0
_BUFFER: Final = 1 << 16
_HEADERS: Final = struct.Struct("!BBHHHBBH4s4sHHHH")  # IPv4 (RFC 791), UDP (RFC 768)


class DemoError(Exception):
    """What arrived is not what was sent."""


@dataclass(slots=True)
class Transfer:
    """One direction, measured from the first packet written to the last one read."""

    title: str
    size: int
    packets: int = 0
    seconds: float = 0.0

    @property
    def gigabits(self) -> float:
        return self.size * 8 / self.seconds / 1e9 if self.seconds else 0.0


@dataclass(slots=True)
class Result:
    handshake_ms: float = 0.0
    first_packet_ms: float = 0.0
    transfers: list[Transfer] = field(default_factory=list)
    drops: dict[str, int] = field(default_factory=dict)


@click.command("demo")
@click.option(
    "--megabytes", type=click.IntRange(1, 1024), default=64, show_default=True, help="Payload each way."
)
@click.option(
    "--namespaces/--no-namespaces", default=True, help="As root: also a tunnel between two namespaces."
)
def demo_command(megabytes: int, namespaces: bool) -> None:
    """Two devices on this machine, a handshake, a payload both ways, compared byte by byte."""
    raise SystemExit(run_demo(megabytes << 20, namespaces))


def run_demo(size: int, namespaces: bool) -> int:
    """`size` bytes each way. Exit status 0, or 1 when something was lost or changed on the way."""
    console = Console()
    payload = os.urandom(size)
    try:
        with progress_bar(console) as progress:
            result = demonstrate(payload, progress)
            if namespaces:
                result.transfers += _between_namespaces(payload, progress, console)
    except (ConfigError, DemoError, OSError) as error:
        console.print(f"[bold red]The demo failed:[/] {error}")
        return 1
    console.print(_summary(result))
    return 0


def progress_bar(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        TaskProgressColumn(),
        TransferSpeedColumn(),
        TimeElapsedColumn(),
    )
    # Where nobody watches a bar move, only how it ended is printed.
    return Progress(*columns, console=console, refresh_per_second=8)


# ---- in this process ----


def demonstrate(payload: bytes, progress: Progress) -> Result:
    """Two devices, `payload` from the first to the second and back."""
    result = Result()
    with _two_devices() as (devices, ends):
        _shake_hands(devices[0], ends, payload[:64], result)
        for source, target in ((0, 1), (1, 0)):
            transfer = Transfer(f"UDP on loopback, {'AB'[source]} to {'AB'[target]}", len(payload))
            task = progress.add_task(transfer.title, total=len(payload))
            headers = (ADDRESSES[source], ADDRESSES[target])
            carry(
                transfer,
                payload,
                ends[source],
                ends[target],
                headers,
                functools.partial(progress.advance, task),
            )
            result.transfers.append(transfer)
        for device in devices:
            for name, count in device.drops().items():
                result.drops[name] = result.drops.get(name, 0) + count
    return result


@contextlib.contextmanager
def _two_devices() -> Iterator[tuple[tuple[Device, Device], tuple[socket.socket, socket.socket]]]:
    with contextlib.ExitStack() as stack:
        devices: list[Device] = []
        ends: list[socket.socket] = []
        for number in range(2):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.callback(ours.close)
            stack.callback(theirs.close)
            ours.setblocking(False)
            device = Device(generate_private_key(), tun=theirs.fileno(), name=f"demo {'AB'[number]}")
            devices.append(stack.enter_context(device))
            ends.append(ours)
        for here, there, address in ((0, 1, ADDRESSES[1]), (1, 0, ADDRESSES[0])):
            key = devices[there].public_key
            assert key is not None
            endpoint = ("127.0.0.1", devices[there].listen_port)
            devices[here].add_peer(key, allowed_ips=f"{address}/32", endpoint=endpoint)
        yield (devices[0], devices[1]), (ends[0], ends[1])


def _shake_hands(
    device: Device, ends: tuple[socket.socket, socket.socket], payload: bytes, result: Result
) -> None:
    """Sends the first packet, which makes the device begin a handshake; it leaves when that is done."""
    done: queue.SimpleQueue[int] = queue.SimpleQueue()
    device.on("handshake", lambda news: done.put(news.at))
    packet = _header(*ADDRESSES, len(payload)) + payload
    begin = device.now()
    ends[0].send(packet)
    if _receive(ends[1]) != packet:
        raise DemoError("the first packet arrived changed")
    result.first_packet_ms = (device.now() - begin) / 1e6
    result.handshake_ms = (done.get(timeout=TIMEOUT) - begin) / 1e6


def _receive(end: socket.socket) -> bytes:
    if not select.select([end], [], [], TIMEOUT)[0]:
        raise DemoError(f"nothing arrived within {TIMEOUT:.0f} s: no handshake, or the packet was lost")
    return end.recv(_BUFFER)


def carry(
    transfer: Transfer,
    payload: bytes,
    source: socket.socket,
    target: socket.socket,
    addresses: tuple[str, str],
    advance: Callable[[int], object],
) -> None:
    """Sends the payload as packets into `source`, at most WINDOW at once, and compares what comes out of
    `target`, in order. DemoError names the first packet that is missing or differs."""
    room = PACKET_SIZE - _HEADERS.size
    pieces = memoryview(payload)
    count = -(-len(payload) // room)
    full = _header(*addresses, room)
    sent = received = reported = 0
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    begin = time.perf_counter()
    while received < count:
        while sent < count and sent - received < WINDOW:
            piece = pieces[sent * room : (sent + 1) * room]
            head = full if len(piece) == room else _header(*addresses, len(piece))
            try:
                source.sendmsg((head, piece))
            except BlockingIOError:
                break
            sent += 1
        _wait(target, transfer, received, sent)
        with contextlib.suppress(BlockingIOError):
            while received < sent:
                size = target.recv_into(buffer)
                expected = pieces[received * room : (received + 1) * room]
                if view[_HEADERS.size : size] != expected:
                    raise DemoError(f"{transfer.title}: packet {received} arrived changed or out of turn")
                received += 1
        if received - reported >= 512 or received == count:
            advance((received - reported) * room)
            reported = received
    transfer.seconds = time.perf_counter() - begin
    transfer.packets = count


def _wait(target: socket.socket, transfer: Transfer, received: int, sent: int) -> None:
    if not select.select([target], [], [], TIMEOUT)[0]:
        raise DemoError(f"{transfer.title}: packet {received} of {sent} is missing after {TIMEOUT:.0f} s")


def _header(source: str, target: str, size: int) -> bytes:
    """IPv4 and UDP headers for `size` bytes. A UDP checksum of zero means: none."""
    length = _HEADERS.size + size
    fields = [
        0x45,
        0,
        length,
        0,
        0x4000,
        64,
        socket.IPPROTO_UDP,
        0,
        socket.inet_aton(source),
        socket.inet_aton(target),
    ]
    fields += [4000, 4000, 8 + size, 0]
    header = _HEADERS.pack(*fields)
    total = sum(struct.unpack("!10H", header[:20]))
    total = (total & 0xFFFF) + (total >> 16)
    fields[7] = ~(total + (total >> 16)) & 0xFFFF
    return _HEADERS.pack(*fields)


# ---- what is shown ----


def _between_namespaces(payload: bytes, progress: Progress, console: Console) -> list[Transfer]:
    from wgfast.cli.demo_namespaces import demonstrate_namespaces, why_not

    reason = why_not()
    if reason:
        console.print(f"A tunnel between two network namespaces is left out: {reason}.")
        return []
    return demonstrate_namespaces(payload, progress)


def _summary(result: Result) -> Table:
    table = Table(title="What was carried", title_justify="left", show_header=False, caption_justify="left")
    table.add_row("crypto kernel", _core.aead_kernel())
    times = f"{result.handshake_ms:.2f} ms, first packet delivered after {result.first_packet_ms:.2f} ms"
    table.add_row("handshake", times)
    for transfer in result.transfers:
        packets = f"{transfer.packets} packets, " if transfer.packets else ""
        amount = f"{packets}{transfer.size / 1e6:.0f} MB"
        table.add_row(transfer.title, f"{transfer.gigabits:.2f} Gbit/s: {amount}, every byte as it was sent")
    dropped = {name: count for name, count in result.drops.items() if count}
    table.add_row(
        "drops by reason, UDP", ", ".join(f"{name} {count}" for name, count in dropped.items()) or "none"
    )
    table.caption = "Speeds include this program, which writes, reads and compares every packet in Python."
    return table
