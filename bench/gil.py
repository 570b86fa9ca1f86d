"""No packet touches Python: shown by taking Python away.

Two Devices of this process are joined over loopback; another process pumps packets through both of them
and counts. Meanwhile this interpreter is kept busy in three ways:

    same       a thread of this interpreter runs a Python loop (and so holds the GIL most of the time)
    other      another process runs the same loop: the same load on the same cores, no GIL in common
    held       one C call holds this interpreter's GIL for the whole time

`same / other` is what sharing an interpreter with a busy program costs a tunnel; `held / free` compares
the call that holds the GIL with one that sleeps as long and does not. Runs alternate; medians are printed.

    python bench/gil.py [--seconds 2] [--rounds 7]
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import wgfast

SIZE = 1420
WINDOW = 48
HEADER = struct.Struct("!BBHHHBBH4s4sI")
LOOP = "while True: sum(range(1000))"


def packet(number: int) -> bytes:
    """An IPv4 packet of 10.0.0.1 to 10.0.0.2 that carries its number."""
    head = HEADER.pack(0x45, 0, SIZE, 0, 0, 64, 253, 0, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), number)
    return head + bytes(SIZE - len(head))


def pump(into: int, out_of: int) -> None:
    """The other process: keeps WINDOW packets on their way and prints, each tenth of a second, the time and
    how many have arrived. A window that nothing comes back from within a tenth of a second is sent anew."""
    sent = arrived = 0
    poller = select.poll()
    poller.register(out_of, select.POLLIN)
    os.set_blocking(out_of, False)
    said = time.monotonic()
    while True:
        while sent - arrived < WINDOW:
            os.write(into, packet(sent))
            sent += 1
        if not poller.poll(100):
            sent = arrived
        with contextlib.suppress(BlockingIOError):
            while os.read(out_of, 65536):
                arrived += 1
        if time.monotonic() - said >= 0.1:
            said = time.monotonic()
            print(json.dumps([said, arrived]), flush=True)


class Tunnel:
    """Two devices, the pump between their inner ports, and what it counted."""

    def __init__(self) -> None:
        self.counts: list[tuple[float, int]] = []
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Tunnel:
        keys = [wgfast.generate_private_key() for _ in range(2)]
        inner: list[socket.socket] = []
        devices = []
        for key in keys:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._stack.callback(ours.close)
            device = self._stack.enter_context(wgfast.Device(private_key=key, tun=theirs.detach(), threads=1))
            inner.append(ours)
            devices.append(device)
        for number, device in enumerate(devices):
            other = devices[1 - number]
            device.add_peer(
                other.public_key,
                allowed_ips=[f"10.0.0.{2 - number}/32"],
                endpoint=("127.0.0.1", other.listen_port),
            )
        fds = [end.fileno() for end in inner]
        command = [sys.executable, __file__, "--pump", *map(str, fds)]
        self._pump = subprocess.Popen(command, pass_fds=fds, stdout=subprocess.PIPE, text=True)
        self._stack.callback(self._pump.wait)
        self._stack.callback(self._pump.terminate)
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        deadline = time.monotonic() + 10
        while not self.counts or not self.counts[-1][1]:
            if time.monotonic() > deadline:
                raise TimeoutError("no packet came through the tunnel in 10 s")
            time.sleep(0.05)
        return self

    def _read(self) -> None:
        assert self._pump.stdout
        for line in self._pump.stdout:
            at, arrived = json.loads(line)
            self.counts.append((at, arrived))

    def __exit__(self, *failure: object) -> None:
        self._stack.close()

    def rate(self, begin: float, end: float) -> float:
        """Packets a second between two times, by the pump's own clock and count."""
        time.sleep(0.3)  # for its last line
        within = [count for count in self.counts if begin <= count[0] <= end]
        (first, before), (last, after) = within[0], within[-1]
        return (after - before) / (last - first)


@contextlib.contextmanager
def busy_thread() -> Iterator[None]:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def busy_process() -> Iterator[None]:
    child = subprocess.Popen([sys.executable, "-c", LOOP])
    try:
        yield
    finally:
        child.terminate()
        child.wait()


def sleep_in_c(seconds: float, *, holding: bool) -> None:
    """One C call that sleeps; PyDLL keeps the GIL during a call, CDLL lets it go."""
    library = ctypes.PyDLL(None) if holding else ctypes.CDLL(None)
    library.usleep(int(seconds * 1e6))


def measure(tunnel: Tunnel, seconds: float) -> dict[str, float]:
    """One round: packets a second in each way of keeping Python busy."""
    rates = {}
    for name, busy in (("same", busy_thread), ("other", busy_process)):
        with busy():
            begin = time.monotonic()
            time.sleep(seconds)
            end = time.monotonic()
        rates[name] = tunnel.rate(begin, end)
    for name, holding in (("held", True), ("free", False)):
        begin = time.monotonic()
        sleep_in_c(seconds, holding=holding)
        rates[name] = tunnel.rate(begin, time.monotonic())
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--pump", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pump:
        pump(*options.pump)
    with Tunnel() as tunnel:
        rounds = [measure(tunnel, options.seconds) for _ in range(options.rounds)]
    for name in rounds[0]:
        values = [each[name] for each in rounds]
        print(f"{name:6} {statistics.median(values):10.0f} packets/s  {min(values):.0f} to {max(values):.0f}")
    for over, under in (("same", "other"), ("held", "free")):
        ratios = [each[over] / each[under] for each in rounds]
        middle = statistics.median(ratios)
        print(f"{over} / {under}: median {middle:.3f}, {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
