"""The binding itself: what cannot be copied, forked or used after it was closed, secret memory, endpoints,
and calls that meet a closing device."""

from __future__ import annotations

import copy
import ctypes
import gc
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nacl import bindings
from watchedx25519 import watched

import wgfast
from wgfast import _core
from wgfast.errors import ClosedError, ForkedError, PeerRemovedError

KEY = bytes([8]) + bytes(30) + bytes([64])  # clamped
PUBLIC = bindings.crypto_scalarmult_base(KEY)
OTHER = bindings.crypto_scalarmult_base(bytes([16]) + bytes(30) + bytes([64]))


@pytest.fixture
def core() -> _core.Core:
    return _core.Core(0)


def in_child(act: Callable[[], object]) -> None:
    """Runs act in a forked child; fails unless it returned there."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("make", [lambda: _core.Core(0), _core.Handshake, _core.Routes, _core.ReplayWindow])
def test_nothing_is_copied(make: Callable[[], Any], duplicate: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        duplicate(make())


# ---- after fork ----


def test_core_is_dead_in_a_forked_child(core: _core.Core) -> None:
    core.set_identity(KEY, PUBLIC)
    peer = core.add_peer(OTHER)

    def child() -> None:
        assert not core.alive
        for use in (
            core.peers,
            core.private_key,
            lambda: core.peer_info(peer),
            lambda: core.scan(1),
            core.drops,
        ):
            with pytest.raises(ForkedError):
                use()
        core.close()
        with pytest.raises(ClosedError):
            core.peers()

    in_child(child)
    assert core.alive
    assert core.private_key() == KEY


def test_handshake_is_dead_in_a_forked_child() -> None:
    handshake = _core.Handshake()
    handshake.begin(PUBLIC)
    handshake.shared[:] = b"s" * 32

    def child() -> None:
        assert bytes(view) == bytes(32)
        for use in (handshake.mix_shared, handshake.split, lambda: handshake.hash, lambda: handshake.shared):
            with pytest.raises(ForkedError):
                use()

    view = handshake.shared
    in_child(child)
    assert bytes(view) == b"s" * 32


# ---- closing ----


def test_closed(core: _core.Core) -> None:
    core.close()
    core.close()
    assert not core.alive
    for use in (core.peers, core.info, core.take_events, core.event_fd, lambda: core.add_peer(OTHER)):
        with pytest.raises(ClosedError):
            use()


def test_close_waits_for_calls_in_other_threads() -> None:
    """Calls end as calls or as ClosedError, whenever the device is closed under them."""
    for _ in range(30):
        core = _core.Core(0)
        problems: list[BaseException] = []
        ready = threading.Barrier(4)

        def call(core: _core.Core = core, problems: Any = problems, ready: Any = ready) -> None:
            n = 64
            arrays = (
                np.zeros((n, 256), np.uint8),
                np.full(n, 100, np.uint32),
                np.zeros((n, 48), np.uint8),
                np.zeros(n, np.uint8),
                np.zeros((n, 256), np.uint8),
                np.zeros(n, np.uint32),
                np.zeros(n, np.uint64),
                np.zeros(n, np.uint8),
            )
            ready.wait()
            try:
                while True:
                    core.engine_receive(*arrays, 1)
                    core.peers()
            except ClosedError:
                pass
            except BaseException as error:
                problems.append(error)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        ready.wait()
        core.close()
        for thread in threads:
            thread.join()
        assert problems == []


# ---- errors ----


def test_errors_of_the_core(core: _core.Core) -> None:
    peer = core.add_peer(OTHER)
    with pytest.raises(FileExistsError):
        core.add_peer(OTHER)
    core.remove_peer(peer)
    with pytest.raises(PeerRemovedError):
        core.peer_info(peer)
    assert core.find_peer(OTHER) == 0
    assert core.private_key() is None
    with pytest.raises(OSError, match="name has 1 to 15 bytes"):
        _core.tun_open("a name that is too long")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda core: core.add_peer(bytes(31)), "public_key: 31 bytes: expected 32"),
        (lambda core: core.set_identity(KEY, None), "public_key: expected with a private key"),
        (lambda core: core.set_identity(b"", b""), "private_key: 0 bytes: expected 32"),
        (lambda core: core.peer_allow(1, 5, bytes(4), 8), "family: 5: expected 4 or 6"),
        (lambda core: core.peer_allow(1, 4, bytes(16), 8), "address: 16 bytes: IPv4 has 4"),
        (lambda core: core.peer_allow(1, 4, bytes(4), 33), "prefix length: 33: IPv4 has 0 to 32"),
        (lambda core: core.route(6, bytes(4)), "address: 4 bytes: IPv6 has 16"),
        (lambda core: core.peer_allow_many(1, [(4, bytes(4), 8), (6, bytes(16), 129)]), "prefix length: 129"),
    ],
)
def test_arguments_that_are_wrong(core: _core.Core, call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(core)


def test_errors_never_show_a_key(core: _core.Core) -> None:
    with pytest.raises(ValueError, match="private_key: 33 bytes: expected 32") as raised:
        core.set_identity(b"secret" + bytes(27), PUBLIC)
    assert "secret" not in str(raised.value)


ENGINE = {
    "packets": np.zeros((3, 128), np.uint8),
    "lengths": np.full(3, 60, np.uint32),
    "out": np.zeros((3, 160), np.uint8),
    "out_lengths": np.zeros(3, np.uint32),
    "endpoints": np.zeros((3, 48), np.uint8),
    "tos": np.zeros(3, np.uint8),
    "peers": np.zeros(3, np.uint64),
    "status": np.zeros(3, np.uint8),
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("packets", np.zeros((3, 128), np.int16), "packets: int16"),
        (
            "lengths",
            np.array([60, 60, 129], np.uint32),
            r"lengths\[2\]: 129: a row of packets holds 128 bytes",
        ),
        ("out", np.zeros((3, 320), np.uint8)[:, :160], r"out: .*strides \(320, 1\)"),
        ("out", np.zeros((2, 160), np.uint8), r"out: .*expected contiguous uint8 of shape \(3, k\)"),
        ("out_lengths", bytes(12), "out_lengths: "),
        ("endpoints", np.zeros((3, 47), np.uint8), r"endpoints: .*\(3, 48\)"),
        ("endpoints", np.zeros(145, np.uint8)[1:].reshape(3, 48), "endpoints: .*unaligned"),
        ("tos", np.zeros(3, bool), "tos: bool"),
        ("peers", np.zeros(3, np.int64), "peers: int64"),
        ("status", np.zeros(4, np.uint8), r"status: uint8 of shape \(4,\)"),
    ],
)
def test_engine_arrays_that_are_wrong(core: _core.Core, name: str, value: Any, message: str) -> None:
    arguments = {**{key: array.copy() for key, array in ENGINE.items()}, name: value}
    for call in (core.engine_send, core.engine_receive):
        with pytest.raises(wgfast.BatchError, match=message):
            call(**arguments, now=1)


def test_engine_arrays_share_no_memory(core: _core.Core) -> None:
    packets = np.zeros((3, 160), np.uint8)
    for call in (core.engine_send, core.engine_receive):
        with pytest.raises(wgfast.BatchError, match="out: shares memory with packets"):
            call(**{**ENGINE, "packets": packets, "out": packets}, now=1)
    core.engine_send(**{**ENGINE, "packets": packets[:, 16:], "out": packets}, now=1)


# ---- the private key and X25519 ----


def test_dh_private(core: _core.Core) -> None:
    handshake = _core.Handshake()
    assert not core.dh_private(handshake, OTHER)  # no key yet
    core.set_identity(KEY, PUBLIC)
    with watched() as scalars:
        assert core.dh_private(handshake, OTHER)
        assert bytes(handshake.shared) == bindings.crypto_scalarmult(KEY, OTHER)
        assert not core.dh_private(handshake, bytes(32))  # a point of low order
        assert bytes(handshake.shared) == bytes(32)
    # The key was wiped where it stood.
    assert [ctypes.string_at(scalar, 32) for scalar in scalars] == [bytes(32)] * 2
    assert bytes(handshake.ephemeral) == bytes(32)


def test_an_ephemeral_key_pair() -> None:
    handshake = _core.Handshake()
    seen = set()
    for _ in range(20):
        public = handshake.generate()
        private = bytes(handshake.ephemeral)
        assert public == bindings.crypto_scalarmult_base(private)
        assert handshake.dh(OTHER)
        assert bytes(handshake.shared) == bindings.crypto_scalarmult(private, OTHER)
        seen.add(private)
    assert len(seen) == 20
    assert not handshake.dh(bytes(32))
    assert bytes(handshake.shared) == bytes(32)
    for short in (b"", OTHER[:31], OTHER + b"."):
        with pytest.raises(ValueError, match=f"point: {len(short)} bytes: expected 32"):
            handshake.dh(short)


def test_without_x25519() -> None:
    script = "from wgfast import _core; _core.Handshake().generate()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "RuntimeError: no X25519: wgfast.noise was not imported" in done.stderr


def test_addresses_of_functions_are_none() -> None:
    for addresses in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="expected the addresses"):
            _core.use_x25519(*addresses)


def test_a_view_keeps_the_secret_memory() -> None:
    handshake = _core.Handshake()
    view = handshake.ephemeral
    view[:] = b"e" * 32
    del handshake
    gc.collect()
    assert bytes(view) == b"e" * 32
    view[0] = 0
    with pytest.raises(ValueError, match="different structures"):
        view[:] = bytes(33)


# ---- a handshake's state ----


def test_handshake_state_both_ways() -> None:
    """Two states fed the same secrets seal, open and split alike."""
    one, two = _core.Handshake(), _core.Handshake()
    for state in (one, two):
        state.begin(PUBLIC)
        state.mix_ephemeral(OTHER)
        state.shared[:] = b"d" * 32
        state.mix_shared()
        assert bytes(state.shared) == bytes(32)
        state.mix_psk(bytes(32))
    sealed = one.seal(b"payload")
    assert len(sealed) == 7 + 16
    before = two.hash
    assert two.open(sealed[:-1] + bytes([sealed[-1] ^ 1])) is None
    assert two.open(b"short") is None
    assert two.hash == before
    assert two.open(sealed) == b"payload"
    assert one.hash == two.hash
    keys = one.split()
    assert keys == two.split()
    assert [len(key) for key in keys] == [32, 32]
    assert one.hash == bytes(32)


def test_handshake_remote_keys() -> None:
    handshake = _core.Handshake()
    handshake.remote_static, handshake.remote_ephemeral = PUBLIC, OTHER
    assert (handshake.remote_static, handshake.remote_ephemeral) == (PUBLIC, OTHER)
    with pytest.raises(ValueError, match="remote_static: 5 bytes: expected 32"):
        handshake.remote_static = b"12345"
    handshake.wipe()
    assert handshake.remote_static == bytes(32)


def test_xchacha_round_trip_and_forgery() -> None:
    """draft-irtf-cfrg-xchacha-03, against libsodium."""
    key, nonce, ad = bytes(range(32)), bytes(range(24)), b"mac1"
    sealed = _core.xseal(key, nonce, b"c" * 16, ad)
    assert sealed == bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(b"c" * 16, ad, nonce, key)
    assert _core.xopen(key, nonce, sealed, ad) == b"c" * 16
    assert _core.xopen(key, nonce, sealed, b"mac2") is None
    assert _core.xopen(key, nonce, b"short", ad) is None


# ---- endpoints ----


@pytest.mark.parametrize(
    "endpoint",
    [
        _core.Endpoint("192.0.2.1", 51820),
        _core.Endpoint("192.0.2.1", 1, "192.0.2.9", 7),
        _core.Endpoint("2001:db8::1", 65535, "2001:db8::2", 1),
        _core.Endpoint("fe80::1%12", 51820, None, 12),
    ],
)
def test_endpoint_there_and_back(core: _core.Core, endpoint: _core.Endpoint) -> None:
    raw = _core.pack_endpoint(endpoint)
    assert len(raw) == 48
    assert _core.unpack_endpoint(raw) == endpoint
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint
    peer = core.add_peer(OTHER)
    core.peer_set_endpoint(peer, endpoint)
    assert core.peer_info(peer).endpoint[:2] == endpoint[:2]
    core.peer_set_endpoint(peer, None)
    assert core.peer_info(peer).endpoint is None


def test_no_endpoint() -> None:
    assert _core.unpack_endpoint(bytes(48)) is None
    with pytest.raises(ValueError, match="raw: 47 bytes: expected 48"):
        _core.unpack_endpoint(bytes(47))


@pytest.mark.parametrize(
    ("endpoint", "message"),
    [
        (_core.Endpoint("example.org", 1), "host: 'example.org': expected a numeric"),
        (_core.Endpoint("192.0.2.1\0", 1), "host: "),
        (_core.Endpoint("192.0.2.1%1", 1), "only an IPv6 address has a scope"),
        (_core.Endpoint("fe80::1%eth0", 1), "scope of the host: 'eth0': expected a number"),
        (_core.Endpoint("192.0.2.1", 65536), "port: 65536: expected a number from 0 to 65535"),
        (_core.Endpoint("192.0.2.1", -1), "port: -1"),
        (_core.Endpoint("192.0.2.1", 1, "::1"), "source: '::1': expected an IPv4 address"),
        (_core.Endpoint("192.0.2.1", 1, "here"), "source: 'here'"),
        (_core.Endpoint("192.0.2.1", 1, None, -1), "interface: -1"),
    ],
)
def test_endpoints_that_are_wrong(endpoint: _core.Endpoint, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.pack_endpoint(endpoint)
