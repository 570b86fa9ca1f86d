"""Two Engines on a network in memory, configured for each other."""

from __future__ import annotations

from wgfast import Engine, generate_private_key
from wgfast.testing import Datagram, Fate, ManualClock, Network, Weather, packet

ALICE, BOB = "192.0.2.1:1", "192.0.2.2:2"


class Pair:
    """alice begins (she knows where bob is), bob answers. 10.0.0.1 is her, 10.0.0.2 is he."""

    def __init__(self, *weather: Weather, psk: bytes | None = None) -> None:
        self.clock = ManualClock()
        self.network = Network(self.clock, *weather)
        self.heard = self.network.heard
        private_a, private_b = generate_private_key(), generate_private_key()
        engine_a, engine_b = Engine(private_a, name="alice"), Engine(private_b, name="bob")
        self.alice = self.network.attach(engine_a, ALICE)
        self.bob = self.network.attach(engine_b, BOB)
        key_a, key_b = engine_a.public_key, engine_b.public_key
        assert key_a
        assert key_b
        self.to_bob = engine_a.add_peer(
            key_b, allowed_ips="10.0.0.2/32", endpoint=BOB, preshared_key=psk, now=self.clock.now
        )
        self.to_alice = engine_b.add_peer(
            key_a, allowed_ips="10.0.0.1/32", preshared_key=psk, now=self.clock.now
        )
        self.start = self.clock.now

    def alice_says(self, payload: bytes = b"from alice") -> int:
        return self.alice.send(packet("10.0.0.1", "10.0.0.2", payload))[0]

    def bob_says(self, payload: bytes = b"from bob") -> int:
        return self.bob.send(packet("10.0.0.2", "10.0.0.1", payload))[0]

    def connect(self) -> Pair:
        """A session that alice began and bob saw confirmed; nothing of it is remembered as heard."""
        self.alice.engine.handshake(self.to_bob, self.clock.now, self.clock.wall)
        self.network.settle()
        assert self.bob.engine.peer_info(self.to_alice).session_birth
        self.heard.forget()
        self.start = self.clock.now
        return self

    def times(self, *kinds: str, source: str | None = None) -> list[float]:
        """Seconds since the start at which such datagrams were sent."""
        return [(datagram.at - self.start) / 1e9 for datagram in self.heard.of(*kinds, source=source)]

    def drops(self) -> dict[str, int]:
        """Of both together, those that are not zero."""
        a, b = self.alice.engine.drops(), self.bob.engine.drops()
        return {reason: a[reason] + b[reason] for reason in a if a[reason] + b[reason]}


def without(*kinds: str, source: str | None = None) -> Weather:
    """Loses every datagram of these kinds (all, if none is given), from one source or from any."""

    def weather(datagram: Datagram) -> Fate:
        hit = not kinds or datagram.kind in kinds
        if source is not None:
            hit = hit and f"{datagram.source.host}:{datagram.source.port}" == source
        return () if hit else ((0, datagram),)

    return weather
