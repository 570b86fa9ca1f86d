"""Numbered datagrams inside a tunnel: what is missing, what came twice, what was overtaken."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys
from collections.abc import Iterator, Sequence

from .end import End
from .traffic import udp_socket

UDP_SEGMENT = 103
UDP_GRO = 104
PATIENCE = 5  # seconds, for what takes a millisecond
_NUMBER = struct.Struct("!I")


class Flow:
    """UDP from one end's inner address to the other's, in one IP version.

    `together`: that many datagrams leave in one call and are cut up by the kernel, or by the tunnel.
    `whole`: the receiver may be given several at once.
    """

    def __init__(self, sender: End, receiver: End, version: int, together: int = 1, whole: bool = False):
        source, target = (
            (sender.address, receiver.address) if version == 4 else (sender.address6, receiver.address6)
        )
        self._receiving = udp_socket(receiver.namespace, target)
        self._sending = udp_socket(sender.namespace, source)
        self._receiving.setblocking(False)
        if whole:
            self._receiving.setsockopt(socket.SOL_UDP, UDP_GRO, 1)
        self._together = together
        self.sent = 0
        self.numbers: list[int] = []
        self.pieces = 0  # most datagrams that were received as one
        self.wrong: list[bytes] = []
        self.marks: list[int] = []  # the TOS of each that was received, once mark() was called

    def mark(self, tos: int) -> None:
        """Of what is sent from now on. IPv4."""
        self._sending.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        self._receiving.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)

    def __enter__(self) -> Flow:
        return self

    def __exit__(self, *_: object) -> None:
        self._sending.close()
        self._receiving.close()

    def fileno(self) -> int:
        return self._receiving.fileno()

    def echo(self, payload: bytes) -> bytes:
        """One datagram as it arrives; BlockingIOError if it does not."""
        self._sending.sendto(payload, self._receiving.getsockname())
        select.select([self], [], [], PATIENCE)
        return self._receiving.recv(1 << 16)

    def send(self, count: int, size: int = 64) -> None:
        while count > 0:
            n = min(self._together, count)
            data = b"".join(_numbered(number, size) for number in range(self.sent, self.sent + n))
            control = [(socket.SOL_UDP, UDP_SEGMENT, struct.pack("H", size))] if n > 1 else []
            with contextlib.suppress(BlockingIOError, InterruptedError):
                self._sending.sendmsg([data], control, 0, self._receiving.getsockname())
            self.sent += n
            count -= n

    def receive(self, size: int = 64) -> None:
        """Takes what is there."""
        with contextlib.suppress(BlockingIOError):
            while True:
                data, control, _, _ = self._receiving.recvmsg(1 << 16, 64)
                told = {(level, kind): value for level, kind, value in control}
                step = int.from_bytes(told.get((socket.SOL_UDP, UDP_GRO), b""), sys.byteorder) or size
                pieces = [data[at : at + step] for at in range(0, len(data), step)]
                self._take(pieces, size)
                self.marks += told.get((socket.IPPROTO_IP, socket.IP_TOS), b"") * len(pieces)

    def _take(self, pieces: Sequence[bytes], size: int) -> None:
        self.pieces = max(self.pieces, len(pieces))
        for piece in pieces:
            number = _NUMBER.unpack_from(piece)[0]
            self.numbers.append(number)
            if piece != _numbered(number, size):
                self.wrong.append(piece)

    def check(self, least: int) -> None:
        """In order, none twice, none changed, and at least so many of them."""
        assert not self.wrong, f"{len(self.wrong)} changed: {self.wrong[0]!r}"
        seen: set[int] = set()
        twice = [number for number in self.numbers if number in seen or seen.add(number)]
        assert not twice, f"{len(twice)} came twice: {twice[:9]}"
        late = [b for a, b in zip(self.numbers, self.numbers[1:], strict=False) if b < a]
        assert not late, f"{len(late)} of {len(self.numbers)} were overtaken: {late[:9]}"
        assert len(self.numbers) >= least, f"{len(self.numbers)} of {self.sent} arrived"


def _numbered(number: int, size: int) -> bytes:
    return _NUMBER.pack(number) + bytes([number & 0xFF]) * (size - _NUMBER.size)


def drain(flows: Sequence[Flow], quiet: float = 0.2) -> None:
    """Receives until nothing came for so long, or all that was sent is there."""
    while any(len(flow.numbers) < flow.sent for flow in flows):
        ready, _, _ = select.select(flows, [], [], quiet)
        if not ready:
            return
        for flow in ready:
            flow.receive()


@contextlib.contextmanager
def opened(flows: Sequence[Flow]) -> Iterator[Sequence[Flow]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(flow) for flow in flows]
