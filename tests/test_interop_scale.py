"""Configurations far larger than anybody's, within a bounded time."""

from __future__ import annotations

import base64
import random
import time

import pytest
from lab.end import End
from lab.programs import PEER, SUBJECT
from lab.topology import Lab, genkey, pubkey
from lab.traffic import wait_ping

pytestmark = pytest.mark.lab

PEERS = 10_000
PREFIXES = 65_000
# Seconds for a whole `wg setconf` or `wg show`, of which `wg` itself takes a part.
LIMIT = 20.0


def many_prefixes(count: int) -> list[str]:
    """Prefixes of both families that all differ."""
    half = count // 2
    four = [f"10.{i >> 8 & 255}.{i & 255}.0/24" for i in range(half)]
    six = [f"fd00:{i:x}::/64" for i in range(1, count - half + 1)]
    return four + six


def timed(end: End, command: str, text: str) -> None:
    began = time.monotonic()
    end.load(command, text)
    took = time.monotonic() - began
    print(f"wg {command}: {took:.2f} s")
    assert took < LIMIT


def test_65000_allowed_ips_on_one_peer(lab: Lab) -> None:
    end = lab.end(lab.namespace("alone"), SUBJECT).start(log_level="error")
    peer, prefixes = pubkey(genkey()), many_prefixes(PREFIXES)
    assert len(set(prefixes)) == PREFIXES
    lines = "".join(f"AllowedIPs = {prefix}\n" for prefix in prefixes)
    for _ in range(2):  # the second time over itself
        timed(end, "setconf", f"[Peer]\nPublicKey = {peer}\n{lines}")
        began = time.monotonic()
        shown = end.show("allowed-ips")[peer].split()
        assert time.monotonic() - began < LIMIT
        assert len(shown) == PREFIXES
        assert set(shown) == set(prefixes)
    end.set("peer", peer, "allowed-ips", "")
    assert end.show("allowed-ips") == {peer: "(none)"}


def test_10000_peers(lab: Lab) -> None:
    end = lab.end(lab.namespace("alone"), SUBJECT).start(log_level="error")
    end.up()
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    expected = {
        base64.b64encode(source.randbytes(32)).decode(): {
            *(f"10.{i >> 8}.{i & 255}.0/24", f"fd00:{i + 1:x}::/64")
        }
        for i in range(PEERS)
    }
    text = "".join(
        f"[Peer]\nPublicKey = {key}\nAllowedIPs = {', '.join(nets)}\nEndpoint = 192.0.2.9:{1000 + i}\n"
        for i, (key, nets) in enumerate(expected.items())
    )
    timed(end, "setconf", text)
    shown = {key: set(value.split()) for key, value in end.show("allowed-ips").items()}
    assert shown == expected
    assert len(set(end.show("endpoints").values())) == PEERS
    assert end.wg("show").count("peer: ") == PEERS
    # All of them go, and one comes.
    timed(end, "setconf", f"[Peer]\nPublicKey = {next(iter(expected))}\n")
    assert end.wg("show", "peers").count("\n") == 1


def test_a_tunnel_beside_10000_peers(lab: Lab) -> None:
    """Loaded under a live session, they neither stop it nor take its addresses."""
    tunnel = lab.tunnel(PEER, SUBJECT)
    end, other = tunnel.responder, tunnel.initiator
    wait_ping(other.namespace, end.address)
    source = random.Random(1)
    text = "".join(
        f"[Peer]\nPublicKey = {base64.b64encode(source.randbytes(32)).decode()}\n"
        f"AllowedIPs = 10.{100 + (i >> 8)}.{i & 255}.0/24\nPersistentKeepalive = 60\n"
        for i in range(PEERS)
    )
    timed(end, "addconf", text)
    wait_ping(other.namespace, end.address, deadline=1.0)
    wait_ping(end.namespace, other.address, deadline=1.0)
    assert end.latest_handshake(other) > 0
