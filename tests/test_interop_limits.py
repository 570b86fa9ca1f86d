"""Limits of a peer in tunnels to other implementations: how many packets and bytes come through."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab import uapi
from lab.end import End
from lab.process import wait_until
from lab.programs import PEER, SUBJECT
from lab.topology import Lab, Tunnel
from lab.traffic import connection, ping, wait_ping

pytestmark = pytest.mark.lab

ECHO = 20 + 8 + 56  # what one echo request of ping is inside the tunnel
ROLES = [pytest.param(SUBJECT, PEER, id="initiator"), pytest.param(PEER, SUBJECT, id="responder")]


def limited(tunnel: Tunnel) -> End:
    """The end that is under test."""
    return next(end for end in tunnel.ends if end.implementation.name == SUBJECT)


def set_limits(end: End, other: End, *words: str) -> None:
    """By the command."""
    command = [sys.executable, "-m", "wgfast", "set", end.interface, "peer", other.public_key, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def number(end: End, key: str) -> int:
    return int(dict(uapi.request(end.interface, "wgfast=1\n\n"))[key])


def echoes(end: End, other: End, count: int) -> int:
    return ping(end.namespace, other.address, count=count, interval=0.01, wait=0.3).received


def wait_session(tunnel: Tunnel) -> None:
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    wait_ping(tunnel.responder.namespace, tunnel.initiator.address)


@pytest.mark.parametrize("way", ["send", "receive"])
@pytest.mark.parametrize(("initiator", "responder"), ROLES)
def test_a_quota_stops_is_raised_and_goes_on(lab: Lab, initiator: str, responder: str, way: str) -> None:
    tunnel = lab.tunnel(initiator, responder)
    end = limited(tunnel)
    other = tunnel.other(end)
    wait_session(tunnel)
    # Requests go from the end that is to be limited, or to it.
    asking, asked = (end, other) if way == "send" else (other, end)
    set_limits(end, other, f"{way}-quota", str(5 * ECHO))
    assert echoes(asking, asked, 9) == 5
    assert number(end, f"{way}_used") == 5 * ECHO
    assert number(end, f"drop_{way}_quota") == 4
    assert echoes(asking, asked, 3) == 0
    set_limits(end, other, f"{way}-quota", str(8 * ECHO))
    assert echoes(asking, asked, 5) == 3
    set_limits(end, other, f"{way}-used", "0")  # begins anew
    assert echoes(asking, asked, 9) == 8
    set_limits(end, other, f"{way}-quota", "off")
    assert echoes(asking, asked, 9) == 9
    assert number(end, f"drop_{way}_limited") == 0
    assert end.latest_handshake(other) > 0


def test_packets_beyond_the_burst_do_not_pass(lab: Lab) -> None:
    """The burst, and one a second however long it takes."""
    tunnel = lab.tunnel(SUBJECT, PEER)
    wait_session(tunnel)
    began = time.monotonic()
    set_limits(tunnel.initiator, tunnel.responder, "send-packet-rate", "1", "send-packet-burst", "20")
    passed = echoes(tunnel.initiator, tunnel.responder, 200)
    assert 20 <= passed <= 21 + time.monotonic() - began
    assert number(tunnel.initiator, "drop_send_limited") == 200 - passed


@pytest.mark.parametrize("way", ["send", "receive"])
def test_super_packets_keep_to_the_quota(lab: Lab, way: str) -> None:
    """A TCP stream, which comes in pieces of up to 64 KiB, waits where the quota is used up, and goes on."""
    tunnel = lab.tunnel(SUBJECT, PEER)
    end, other, quota = tunnel.initiator, tunnel.responder, 1_000_000
    wait_session(tunnel)
    sender, receiver = (end, other) if way == "send" else (other, end)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    payload, received = random.Random(seed).randbytes(3 * quota), bytearray()
    set_limits(end, other, f"{way}-quota", str(quota))
    with (
        connection(sender.namespace, receiver.namespace, receiver.address) as (client, server),
        ThreadPoolExecutor(2) as pool,
    ):

        def receive() -> None:
            while len(received) < len(payload):
                received.extend(server.recv(1 << 20))

        sent, heard = pool.submit(client.sendall, payload), pool.submit(receive)
        wait_until(lambda: number(end, f"drop_{way}_quota") > 0, "the quota is used up")
        # What is shorter than a whole segment may still have fitted.
        wait_until(lambda: quota - 1420 < number(end, f"{way}_used") <= quota, "and nearly all of it")
        # The other end and the reading thread may be behind.
        wait_until(lambda: len(received) > quota // 2, "most of it is heard")
        assert len(received) <= quota
        assert not heard.done()
        set_limits(end, other, f"{way}-quota", "100M")
        sent.result()
        heard.result()
        assert number(end, f"{way}_used") > len(payload)
    assert hashlib.sha256(received).digest() == hashlib.sha256(payload).digest()


def test_other_daemons_are_not_asked_for_limits(lab: Lab) -> None:
    tunnel = lab.tunnel(PEER, PEER)
    words = ["peer", tunnel.responder.public_key, "persistent-keepalive", "7", "rate-limit", "1M"]
    command = [sys.executable, "-m", "wgfast", "set", tunnel.initiator.interface, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert "Unable to modify interface" in done.stderr
    assert "not supported" in done.stderr
    assert tunnel.initiator.show("persistent-keepalive") == {tunnel.responder.public_key: "off"}


def test_wg_passes_over_limits(lab: Lab) -> None:
    tunnel = lab.tunnel(SUBJECT, PEER)
    end, other = tunnel.initiator, tunnel.responder
    before = end.wg("show"), end.wg("showconf")
    set_limits(end, other, "rate-limit", "10M", "send-quota", "1G")
    assert (end.wg("show"), end.wg("showconf")) == before
    end.set("peer", other.public_key, "persistent-keepalive", "25")
    assert number(end, "send_rate") == 10**7
