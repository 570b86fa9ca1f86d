"""A device whose table of allowed IPs is at its limit: what does not fit is refused whole."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent

import pytest

# Where addresses are limited the table is a small one, so the limit is near. Both last: a process of its own.
BEGIN = """
import errno, random, resource, socket, struct, sys
from wgfast import Device, generate_private_key, public_key
from wgfast.uapi_server import respond

keys = [public_key(generate_private_key()) for _ in range(6)]
device = Device(generate_private_key())
device.update([{"public_key": keys[0], "allowed_ips": ["10.0.0.0/24"]}])
core, owner = device.core, device.peer(keys[0]).handle
for family, size in (4, 4), (6, 16):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + (14 << 20), resource.RLIM_INFINITY))
    first = [bytes([11, i >> 8, i & 255]) + bytes(size - 3) for i in range(600)]
    core.peer_allow_many(owner, [(family, address, 24) for address in first])
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def who():
    found = core.route(4, socket.inet_aton("10.0.0.1"))
    return [number for number, key in enumerate(keys) if core.find_peer(key) == found]
"""


def run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", dedent(BEGIN) + dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_does_not_fit_changes_nothing() -> None:
    """The same 3,000 host routes too many by every way, behind a route that another peer has."""
    run("""
    number = 0
    try:
        while True:
            core.peer_allow(owner, 4, struct.pack(">I", number * 2654435761 & 0xFFFFFFFF), 32)
            number += 1
    except OSError as error:
        assert error.errno == errno.ENOSPC
    more = ["10.0.0.0/24"]
    hosts = [struct.pack(">I", (0x80000001 + i * 2654435761 * 7) & 0xFFFFFFFF) for i in range(3000)]
    more += [socket.inet_ntoa(host) + "/32" for host in hosts]

    def refused(what):
        before = list(respond(device, "wg", b"get=1\\n\\n"))
        try:
            what()
        except (OSError, ValueError) as error:
            text = str(error)
            assert error.errno == errno.ENOSPC and "allowed IPs: the table is full (" in text, text
        else:
            raise AssertionError("it was not refused")
        assert list(respond(device, "wg", b"get=1\\n\\n")) == before and who() == [0]

    other = device.add_peer(keys[5])
    refused(lambda: device.add_peer(keys[1], allowed_ips=more, preshared_key=bytes(31) + b"1"))
    refused(lambda: other.allow(more))
    refused(lambda: other.allow(more[:31]))  # pieces that are free but too small are no room
    refused(lambda: setattr(other, "allowed_ips", more))
    changes = [(keys[2], more[:1]), (keys[3], more[1:])]
    changes = [{"public_key": key, "allowed_ips": prefixes} for key, prefixes in changes]
    refused(lambda: device.update(changes, replace=True))
    said = f"private_key={'11' * 32}\\nreplace_peers=true\\npublic_key={keys[4].hex()}\\n"
    before = list(respond(device, "wg", b"get=1\\n\\n"))
    asked = ["set=1\\n" + said, *(f"allowed_ip={prefix}\\n" for prefix in more), "\\n"]
    answer = b"".join(respond(device, "wg", "".join(asked).encode()))
    assert answer == b"errno=%d\\n\\n" % -errno.ENOSPC, answer
    assert list(respond(device, "wg", b"get=1\\n\\n")) == before and who() == [0]
    # What is there already takes no room, nor what goes.
    everything = [str(prefix) for prefix in device.peer(keys[0]).allowed_ips]
    device.update([{"public_key": keys[0], "allowed_ips": everything}], replace=True)
    assert who() == [0] and len(device.peers) == 1
    device.update([{"public_key": keys[0], "allowed_ips": everything[: len(everything) // 2]}])
    device.update([{"public_key": keys[2], "allowed_ips": more}])
    assert who() == [2]
    """)


@pytest.mark.parametrize("kind", ["hosts", "networks", "nested", "hosts6", "nested6", "moved"])
def test_what_is_admitted_fits(kind: str) -> None:
    """Changes of all sizes until one is refused, some prefixes going in between: none that was admitted
    fails on the way, and the table has three quarters of what it can hold, at least."""
    print(
        run(
            """
    kind, rng = sys.argv[1], random.Random(7)
    def prefix():
        if kind in ("hosts", "moved"):
            return 4, rng.randbytes(4), 32
        if kind == "networks":
            return 4, struct.pack(">I", rng.getrandbits(24) << 8), 24
        if kind == "nested":
            length = rng.randint(8, 32)
            return 4, struct.pack(">I", rng.getrandbits(32) >> (32 - length) << (32 - length)), length
        if kind == "hosts6":
            return 6, rng.randbytes(16), 128
        length = rng.randint(16, 128)
        return 6, (rng.getrandbits(128) >> (128 - length) << (128 - length)).to_bytes(16, "big"), length

    other = device.add_peer(keys[1]).handle
    held, rest, known = [], 0, set(map(tuple, core.peer_allowed(owner)))
    try:
        while True:
            some = [prefix() for _ in range(rng.choice((1, 50, 3000)))]
            core.peer_allow_many(rng.choice((owner, other)) if kind == "moved" else owner, some)
            held += some
            known.update(some)
            if kind == "moved":
                core.peer_allow_many(other, rng.sample(held, min(len(held), 500)))
            if rng.random() < 0.1:
                for _ in range(min(len(held), 1000)):
                    at = rng.randrange(len(held))
                    one, held[at] = held[at], held[-1]
                    held.pop()
                    core.peer_disallow(owner, *one) or core.peer_disallow(other, *one)
                    known.discard(one)
    except OSError as error:
        assert error.errno == errno.ENOSPC and "is full" in str(error), error
    # Refused before it was begun: had it failed on the way, some of it would be there.
    admitted = len(known)
    assert {tuple(one) for peer in (owner, other) for one in core.peer_allowed(peer)} == known
    try:
        while rest < 10 * admitted:
            core.peer_allow(owner, *prefix())
            rest += 1
    except OSError as error:
        assert error.errno == errno.ENOSPC
    print(kind, "admitted", admitted, "then single ones", rest)
    assert rest < admitted / 3
    """,
            kind,
        )
    )


def test_what_grows_fits() -> None:
    """Each prefix makes another node larger by the most that is likely, and hangs two below it."""
    print(
        run("""
    rng, places = random.Random(7), list(range(28_000))
    other = device.add_peer(keys[1]).handle
    for place in range(0, len(places), 100):  # sixteen of each, by turns: a line
        for start, peer in (1, owner), (2, other):
            core.peer_allow_many(peer, [
                (4, struct.pack(">I", (32 << 24) + (at << 14) + (i << 8)), 24)
                for at in places[place : place + 100] for i in range(start, 17, 2)
            ])
    known, refused = set(map(tuple, core.peer_allowed(owner))), 0
    rng.shuffle(places)
    while places and refused < 20:
        some = [(4, struct.pack(">I", (32 << 24) + (place << 14) + 0x2007), 32)
                for place in places[: rng.randint(2000, 4000)]]
        try:
            core.peer_allow_many(owner, some)
            known.update(some)
            del places[: len(some)]
        except OSError as error:
            assert error.errno == errno.ENOSPC and "is full" in str(error), error
            refused += 1
    assert refused
    assert set(map(tuple, core.peer_allowed(owner))) == known
    print("left", len(places), "refused", refused)
    """)
    )
