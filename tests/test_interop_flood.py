"""Junk, replays and floods: what strangers send changes nothing for those who belong."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab import uapi
from lab.capture import Capture, Datagram
from lab.end import PORT, End
from lab.namespace import Namespace
from lab.process import alive, wait_until
from lab.programs import PEER, SUBJECT, require
from lab.topology import Lab, Tunnel
from lab.traffic import ping, udp_socket, wait_ping

pytestmark = pytest.mark.lab

STRANGER = {4: "192.0.2.66", 6: "2001:db8::66"}
LARGEST = {4: 65507, 6: 65527}  # that one UDP datagram carries


def quiet_tunnel(lab: Lab, family: int = 4) -> tuple[Tunnel, End]:
    """A live tunnel whose wgfast end logs errors only, and a stranger's address beside its peer."""
    tunnel = lab.tunnel(PEER, SUBJECT, family=family, log_level="error")
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    for version, prefix in ((4, 24), (6, 64)):
        tunnel.initiator.namespace.add_address("wire0", f"{STRANGER[version]}/{prefix}")
    return tunnel, tunnel.responder


def check_unharmed(tunnel: Tunnel) -> None:
    """The session goes on, in both directions and without a new handshake, and nothing was said."""
    end, other = tunnel.responder, tunnel.initiator
    assert ping(other.namespace, end.address).received == 1
    assert ping(end.namespace, other.address6).received == 1
    assert end.endpoint_of(other) == (tunnel.outside[0], PORT)
    assert end.implementation.name != SUBJECT or end.log == ""


def junk(source: random.Random, largest: int) -> Iterator[bytes]:
    """Every type with every wrong length, reserved bytes, and noise."""
    for kind in (*range(8), 255):
        for length in (0, 1, 3, 4, 15, 16, 31, 32, 33, 63, 64, 65, 91, 92, 93, 147, 148, 149, 1500):
            yield (bytes([kind, 0, 0, 0]) + source.randbytes(1500))[:length]
        for place in (1, 2, 3):
            message = bytearray(bytes([kind, 0, 0, 0]) + source.randbytes(144))
            message[place] = source.randrange(1, 256)
            yield bytes(message)
        yield bytes([kind, 0, 0, 0]) + source.randbytes(largest - 4)
        yield bytes([kind, 0, 0, 0]) + bytes(largest - 4)
    for _ in range(300):
        yield source.randbytes(source.randrange(0, 2000))
    yield source.randbytes(largest)


@pytest.mark.parametrize("from_peer", [False, True], ids=["stranger", "peer-address"])
@pytest.mark.parametrize("family", [4, 6], ids=["outside-ipv4", "outside-ipv6"])
def test_junk_is_dropped(lab: Lab, family: int, from_peer: bool) -> None:
    tunnel, end = quiet_tunnel(lab, family)
    before = end.show("latest-handshakes")
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    address = tunnel.outside[0] if from_peer else STRANGER[family]
    with udp_socket(tunnel.initiator.namespace, address) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for message in junk(source, LARGEST[family]):
            client.sendto(message, (tunnel.outside[1], PORT))
    check_unharmed(tunnel)
    assert end.show("latest-handshakes") == before


def captured_packets(tunnel: Tunnel) -> list[Datagram]:
    """What the initiator sent during a handshake and some pings."""
    with Capture(tunnel.initiator.namespace, "wire0") as capture:
        wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
        ping(tunnel.initiator.namespace, tunnel.responder.address, count=20, interval=0.002)
        return [d for d in capture.datagrams() if d.source[0] == tunnel.outside[0]]


def test_replays_are_dropped(lab: Lab) -> None:
    """Neither answered, nor delivered a second time, nor followed to where they came from."""
    tunnel = lab.tunnel(PEER, SUBJECT, log_level="error")
    sent = captured_packets(tunnel)
    assert {d.message_type for d in sent} == {1, 4}
    tunnel.initiator.namespace.add_address("wire0", f"{STRANGER[4]}/24")
    with (
        Capture(tunnel.responder.namespace, tunnel.responder.interface) as inside,
        Capture(tunnel.responder.namespace, "wire0") as outside,
        udp_socket(tunnel.initiator.namespace, STRANGER[4]) as client,
    ):
        for datagram in sent * 3:
            client.sendto(datagram.payload, (tunnel.outside[1], PORT))
        check_unharmed(tunnel)
        # Of all that, the two pings and their answers came out, and nobody answered the stranger.
        assert len(inside.packets()) == 4
        assert not [d for d in outside.datagrams() if d.destination[0] == STRANGER[4]]


def test_bits_flipped_on_the_way_are_noticed(lab: Lab) -> None:
    """Each byte of a packet that was never delivered, changed in turn; then the packet itself."""
    require("nft")
    tunnel = lab.tunnel(PEER, SUBJECT, log_level="error")
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    left, right = tunnel.initiator.namespace, tunnel.responder.namespace
    right.filter("input", f"udp dport {PORT} drop")
    with Capture(right, "wire0") as wire:  # a packet socket sees what the filter drops
        ping(left, tunnel.responder.address, wait=0.1)
        held = [d for d in wire.datagrams() if d.message_type == 4][-1].payload
    right.filter("input")
    with (
        Capture(right, tunnel.responder.interface) as inside,
        udp_socket(left, tunnel.outside[0]) as client,
    ):
        for place in range(len(held)):
            spoiled = bytearray(held)
            spoiled[place] ^= 1 << place % 8
            client.sendto(spoiled, (tunnel.outside[1], PORT))
        wait_ping(left, tunnel.responder.address)
        assert len(inside.packets()) == 2
        client.sendto(held, (tunnel.outside[1], PORT))
        wait_until(lambda: len(inside.packets()) >= 4, "the packet itself, and the answer to it")


def mac1(public_key: str, message: bytes) -> bytes:
    """Section 5.4.4 of the whitepaper, by the standard library."""
    key = hashlib.blake2s(b"mac1----" + bytes.fromhex(uapi.hexadecimal(public_key))).digest()
    return hashlib.blake2s(message, key=key, digest_size=16).digest()


def forged_initiation(public_key: str) -> bytes:
    """Only mac1 is right, which anybody who knows the public key can compute."""
    head = b"\1\0\0\0" + os.urandom(112)
    return head + mac1(public_key, head) + bytes(16)


@contextmanager
def flooded(source: Namespace, target: End, address: str) -> Iterator[None]:
    """Forged initiations from STRANGER, in bursts that no handshake queue keeps up with.

    Bursts and not a steady stream: a queue that is full all the time would leave it to chance
    whether an honest initiation ever enters it.
    """
    source.add_address("wire0", f"{STRANGER[4]}/24")
    key = target.public_key
    bursts = [[forged_initiation(key) for _ in range(250)] for _ in range(16)]
    stop = threading.Event()

    def send() -> None:
        with udp_socket(source, STRANGER[4]) as client:
            for burst in itertools.cycle(bursts):
                for message in burst:
                    client.sendto(message, (address, PORT))
                if stop.wait(0.01):
                    return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)


def open_cookie(reply: bytes, public_key: str, initiation_mac1: bytes) -> bytes:
    """Section 5.4.7, by libsodium; raises unless it is sealed as it should be."""
    bindings = pytest.importorskip("nacl.bindings")
    key = hashlib.blake2s(b"cookie--" + bytes.fromhex(uapi.hexadecimal(public_key))).digest()
    nonce, sealed = reply[8:32], reply[32:64]
    cookie: bytes = bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, initiation_mac1, nonce, key)
    return cookie


def test_under_load_it_answers_with_cookies(lab: Lab) -> None:
    tunnel = lab.tunnel(PEER, SUBJECT, log_level="error")
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    end = tunnel.responder
    with (
        Capture(tunnel.initiator.namespace, "wire0") as wire,
        flooded(tunnel.initiator.namespace, end, tunnel.outside[1]),
    ):
        reply = wire.wait_for(lambda d: d.message_type == 3, "a cookie reply")
        # Those that belong are served all the while, but for what a full socket buffer loses.
        assert ping(tunnel.initiator.namespace, end.address, count=10, interval=0.02).received > 4
        forged = {d.payload[4:8]: d.payload for d in wire.datagrams() if d.message_type == 1}
    assert reply.destination[0] == STRANGER[4]
    assert len(reply.payload) == 64
    assert reply.payload[1:4] == bytes(3)
    cause = forged[reply.payload[4:8]]
    assert len(open_cookie(reply.payload, end.public_key, cause[116:132])) == 16
    check_unharmed(tunnel)


@pytest.mark.parametrize("flooded_role", [SUBJECT, PEER], ids=["wgfast-flooded", "wireguard-go-flooded"])
def test_a_handshake_succeeds_under_load(lab: Lab, flooded_role: str) -> None:
    """It costs a cookie and a retry after 5 s, and another where a full buffer loses one."""
    other_role = PEER if flooded_role == SUBJECT else SUBJECT
    tunnel = lab.tunnel(other_role, flooded_role, log_level="error")
    target = tunnel.responder
    with (
        Capture(tunnel.responder.namespace, "wire0") as wire,
        flooded(tunnel.initiator.namespace, target, tunnel.outside[1]),
    ):
        wire.wait_for(lambda d: d.message_type == 3, "a cookie reply: it is under load")
        wait_ping(tunnel.initiator.namespace, target.address, deadline=17.0)
    assert alive(target.pid)
