"""Marks between the inner and the outer header, as Linux and RFC 6040 have them."""

from __future__ import annotations

import contextlib
import random
import socket
from dataclasses import dataclass

import pytest
from lab.capture import Capture
from lab.end import PORT, End
from lab.namespace import Namespace
from lab.programs import PEER, SUBJECT, beyond_peer, require
from lab.topology import Lab, Tunnel
from lab.traffic import udp_socket, wait_ping

pytestmark = pytest.mark.lab

NOT_ECT, ECT1, ECT0, CE = range(4)
NAMES = ["not-ect", "ect1", "ect0", "ce"]
DSCP = 0x2E << 2  # expedited forwarding: says something about the inner packet, so it stays inside
FAMILIES = pytest.mark.parametrize(
    ("inner", "outer"),
    [(4, 4), (6, 4), (4, 6), (6, 6)],
    ids=["ipv4-in-ipv4", "ipv6-in-ipv4", "ipv4-in-ipv6", "ipv6-in-ipv6"],
)


@dataclass
class Pipe:
    """UDP inside the tunnel from the sender's address to the receiver's, in one IP version."""

    sending: socket.socket
    receiving: socket.socket
    version: int

    @classmethod
    def open(cls, sender: End, receiver: End, version: int) -> Pipe:
        source, target = (
            (sender.address, receiver.address) if version == 4 else (sender.address6, receiver.address6)
        )
        receiving = udp_socket(receiver.namespace, target)
        sending = udp_socket(sender.namespace, source)
        if version == 4:
            receiving.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        else:
            receiving.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        return cls(sending, receiving, version)

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        self.sending.close()
        self.receiving.close()

    def send(self, tos: int, text: bytes) -> None:
        if self.version == 4:
            self.sending.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        else:
            self.sending.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
        self.sending.sendto(text, self.receiving.getsockname())

    def receive(self) -> tuple[int, bytes]:
        """(TOS or traffic class, data): the kernel has checked the header's sum before that."""
        text, ancillary, _, _ = self.receiving.recvmsg(4096, 64)
        (value,) = [data for _, _, data in ancillary]
        return value[0], text


def live_tunnel(lab: Lab, initiator: str, responder: str, family: int) -> Tunnel:
    tunnel = lab.tunnel(initiator, responder, family=family)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    return tunnel


@beyond_peer("knows nothing of ECN")
@FAMILIES
def test_the_inner_mark_appears_outside(lab: Lab, inner: int, outer: int) -> None:
    """Only the two ECN bits do, and CE as ECT(0): outside, congestion has not happened yet."""
    tunnel = live_tunnel(lab, SUBJECT, PEER, outer)
    for mark, expected in ((NOT_ECT, NOT_ECT), (ECT0, ECT0), (ECT1, ECT1), (CE, ECT0)):
        for dscp in (0, DSCP):
            with (
                Capture(tunnel.responder.namespace, "wire0") as wire,
                Pipe.open(tunnel.initiator, tunnel.responder, inner) as pipe,
            ):
                pipe.send(dscp | mark, b"marked")
                received, _ = pipe.receive()
                assert received == dscp | mark
                sent = [d for d in wire.datagrams() if d.source[0] == tunnel.outside[0]]
            assert [d.tos for d in sent if d.message_type == 4] == [expected]


def mark_outside(namespace: Namespace, mark: int) -> None:
    """From here on, what this end sends carries this mark, as if a router on the way had set it."""
    require("nft")
    rules = [f"udp dport {PORT} {ip} ecn set {NAMES[mark]}" for ip in ("ip", "ip6")]
    namespace.filter("postrouting", *rules)


# RFC 6040, section 4.2, as Linux applies it: what the outer header says wins where the inner one
# takes part in ECN at all; where it does not, the packet is delivered as it was.
DECAPSULATION = {
    (NOT_ECT, NOT_ECT): NOT_ECT,
    (NOT_ECT, CE): NOT_ECT,
    (ECT0, NOT_ECT): ECT0,
    (ECT0, ECT0): ECT0,
    (ECT0, ECT1): ECT1,
    (ECT0, CE): CE,
    (ECT1, ECT0): ECT1,
    (ECT1, ECT1): ECT1,
    (ECT1, CE): CE,
    (CE, ECT0): CE,
    (CE, CE): CE,
}


@beyond_peer("knows nothing of ECN")
@FAMILIES
@pytest.mark.parametrize("outside_mark", range(4), ids=[f"outside-{name}" for name in NAMES])
def test_the_outer_mark_comes_inside(lab: Lab, inner: int, outer: int, outside_mark: int) -> None:
    tunnel = live_tunnel(lab, PEER, SUBJECT, outer)
    mark_outside(tunnel.initiator.namespace, outside_mark)
    with Pipe.open(tunnel.initiator, tunnel.responder, inner) as pipe:
        for (inside, outside), expected in DECAPSULATION.items():
            if outside == outside_mark:
                for dscp in (0, DSCP):
                    pipe.send(dscp | inside, b"marked")
                    assert pipe.receive() == (dscp | expected, b"marked"), NAMES[inside]


@pytest.mark.parametrize("family", [4, 6], ids=["outside-ipv4", "outside-ipv6"])
def test_marks_in_a_stream_stay_with_their_packets(lab: Lab, family: int) -> None:
    """Packets that leave or arrive in one system call may carry different marks."""
    tunnel = live_tunnel(lab, SUBJECT, SUBJECT, family)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    marks = [source.choice((NOT_ECT, ECT0, ECT0, ECT0, CE)) for _ in range(200)]
    received: list[tuple[int, int]] = []
    with Pipe.open(tunnel.initiator, tunnel.responder, 4) as pipe:
        for number, mark in enumerate(marks):
            pipe.send(mark, number.to_bytes(2, "big") + bytes(1000))
        pipe.receiving.settimeout(0.5)
        # A burst may overflow a queue of the kernel's, so what is missing is not waited for long.
        with contextlib.suppress(TimeoutError):
            while len(received) < len(marks):
                tos, text = pipe.receive()
                received.append((int.from_bytes(text[:2], "big"), tos))
    assert len(received) > len(marks) // 2
    assert received == [(number, marks[number]) for number, _ in received]
    assert received == sorted(set(received))


@pytest.mark.parametrize("family", [4, 6], ids=["outside-ipv4", "outside-ipv6"])
@beyond_peer("does not mark handshakes")
@pytest.mark.parametrize(
    ("initiator", "responder"),
    [(SUBJECT, PEER), (PEER, SUBJECT)],
    ids=["initiation", "response"],
)
def test_handshake_messages_are_marked_af41(lab: Lab, initiator: str, responder: str, family: int) -> None:
    """0x88, as Linux does: they are worth more than data. Keepalives are not marked."""
    tunnel = lab.tunnel(initiator, responder, family=family)
    subject = tunnel.ends.index(tunnel.initiator if initiator == SUBJECT else tunnel.responder)
    with Capture(tunnel.responder.namespace, "wire0") as wire:
        wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
        sent = [d for d in wire.datagrams() if d.source[0] == tunnel.outside[subject]]
    assert sent[0].message_type == 1 + subject
    assert sent[0].tos == 0x88
    assert {d.tos for d in sent[1:]} == {0}
