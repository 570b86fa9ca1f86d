"""An Engine and an independent implementation that judges it."""

from __future__ import annotations

from noisepeer import NO_PSK, NoisePeer

from wgfast import Batch, Engine, _core, generate_private_key
from wgfast.engine import OVERHEAD
from wgfast.testing import ManualClock, packet

OK, STAGED, CONSUMED = Batch.OK, Batch.STAGED, Batch.CONSUMED
THERE = "198.51.100.7:4711"


def reason(status: int) -> str:
    return _core.DROP_NAMES[status] if status < len(_core.DROP_NAMES) else f"status {status}"


class Judged:
    """An Engine and, as its only peer, an independent implementation that decides whether it was right."""

    def __init__(self, psk: bytes = NO_PSK, mtu: int = 1420, endpoint: str | None = THERE) -> None:
        self.clock = ManualClock()
        self.engine = Engine(generate_private_key(), mtu=mtu)
        public = self.engine.public_key
        assert public
        self.other = NoisePeer(public, psk)
        self.peer = self.engine.add_peer(
            self.other.public, allowed_ips="10.0.0.2/32, fd00::2/128", endpoint=endpoint, preshared_key=psk
        )

    def drain(self) -> list[bytes]:
        out, found = Batch.empty(64, 4096), []
        while count := self.engine.drain(self.clock.now, out):
            found += out.first(count).packets()
        return found

    def process(self) -> list[bytes]:
        self.engine.process(self.clock.now, self.clock.wall)
        return self.drain()

    def begin(self) -> Judged:
        """The engine begins a session; what it then says first is a keepalive with counter 0."""
        self.engine.handshake(self.peer, self.clock.now, self.clock.wall)
        (initiation,) = self.drain()
        self.other.read_initiation(initiation)
        assert self.hear(self.other.response()) == [CONSUMED]
        (confirmation,) = self.process()
        message = self.other.open(confirmation)
        assert message
        assert (message.receiver, message.counter, message.inner) == (self.other.index, 0, b"")
        return self

    def hear(self, *datagrams: bytes, source: str = THERE, tos: int = 0) -> list[int]:
        batch = Batch.of(datagrams, source)
        batch.tos[:] = tos
        self.heard = Batch.empty(len(batch), batch.data.shape[1])
        self.engine.receive(batch.data, batch.lengths, batch.endpoints, self.clock.now, self.heard, batch.tos)
        return [int(status) for status in self.heard.status]

    def say(self, *packets: bytes) -> Batch:
        batch = Batch.of(packets)
        out = Batch.empty(len(batch), batch.data.shape[1] + OVERHEAD + 16)
        self.engine.send(batch.data, batch.lengths, self.clock.now, out)
        return out

    def endpoint(self) -> str:
        endpoint = self.engine.peer_info(self.peer).endpoint
        assert endpoint
        return f"{endpoint.host}:{endpoint.port}"


def to_them(payload: bytes = b"") -> bytes:
    return packet("10.0.0.1", "10.0.0.2", payload)


def from_them(payload: bytes = b"", source: str = "10.0.0.2") -> bytes:
    return packet(source, "10.0.0.1", payload)
