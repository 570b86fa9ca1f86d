"""The handshake against an independent one, and what it does with hostile messages."""

from __future__ import annotations

import copy
import hmac
import pickle
import struct
from hashlib import blake2s

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from forking import forked
from hypothesis import given, settings
from hypothesis import strategies as st
from noisepeer import NO_PSK, PROLOGUE, PROTOCOL, NoisePeer, mac1, public_of, tai64n
from scapy.contrib.wireguard import Wireguard, WireguardInitiation, WireguardResponse

from wgfast import _core, noise
from wgfast.errors import ForkedError
from wgfast.keys import clamp, generate_private_key, public_key

SECOND = 10**9
PSK = bytes(range(1, 33))
P = 2**255 - 19
# The points of low order (cr.yp.to/ecdh.html), also as integers that are not reduced.
LOW_ORDER = [
    point.to_bytes(32, "little")
    for point in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        P - 1,
        P,
        P + 1,
    )
]


class Side:
    """A core with an identity and, as its peer, somebody who uses other code."""

    def __init__(self, psk: bytes = NO_PSK) -> None:
        self.core = _core.Core(0)
        private = generate_private_key()
        self.public = public_key(private)
        self.core.set_identity(private, self.public)
        self.other = NoisePeer(self.public, psk)
        self.peer = self.core.add_peer(self.other.public)
        self.core.peer_set_psk(self.peer, psk)
        self.core.peer_set_endpoint(self.peer, _core.Endpoint("192.0.2.1", 1))

    def with_macs(self, message: bytearray, now: int = SECOND) -> bytes:
        self.core.peer_send_handshake(self.peer, message, now)
        return bytes(message)


def keys_of(side: Side) -> tuple[bytes, bytes]:
    """What the independent side sends and receives with."""
    return side.other.send_key, side.other.receive_key


@pytest.mark.parametrize("psk", [NO_PSK, PSK], ids=["without psk", "with psk"])
def test_initiates(psk: bytes) -> None:
    side = Side(psk)
    stamp = tai64n(1_700_000_000)
    made = noise.create_initiation(side.core, side.peer, stamp)
    assert not isinstance(made, int)
    initiation, message = made
    assert side.other.read_initiation(side.with_macs(message)) == stamp

    response = side.other.response(0x01020304)
    done = noise.consume_response(side.core, initiation, response)
    assert isinstance(done, noise.Completed)
    assert (done.peer, done.local_index, done.remote_index) == (side.peer, initiation.local_index, 0x01020304)
    assert done.handshake.split() == (side.other.receive_key, side.other.send_key)


@pytest.mark.parametrize("psk", [NO_PSK, PSK], ids=["without psk", "with psk"])
def test_responds(psk: bytes) -> None:
    side = Side(psk)
    received = noise.consume_initiation(side.core, side.other.initiation(0xA1B2C3D4), SECOND)
    assert isinstance(received, noise.Received)
    assert (received.peer, received.remote_index) == (side.peer, 0xA1B2C3D4)
    answer = noise.create_response(side.core, received)
    assert not isinstance(answer, int)
    index, message = answer
    side.other.read_response(side.with_macs(message))
    assert side.other.remote_index == index
    assert received.handshake.split() == (side.other.send_key, side.other.receive_key)


def test_two_handshakes_share_no_key() -> None:
    side = Side()
    seen = set()
    for second in (1, 2):
        received = noise.consume_initiation(
            side.core, side.other.initiation(stamp=tai64n(second)), second * SECOND
        )
        assert isinstance(received, noise.Received)
        answer = noise.create_response(side.core, received)
        assert not isinstance(answer, int)
        seen.add(bytes(answer[1][12:44]))
        seen.update(received.handshake.split())
    assert len(seen) == 6


def test_scapy_dissects_both_messages() -> None:
    side = Side()
    made = noise.create_initiation(side.core, side.peer, tai64n(1))
    assert not isinstance(made, int)
    raw = side.with_macs(made[1])
    initiation = Wireguard(raw)
    assert (initiation.message_type, initiation.reserved_zero) == (1, 0)
    fields = initiation[WireguardInitiation]
    assert fields.sender_index == made[0].local_index
    assert fields.unencrypted_ephemeral == raw[8:40]
    assert fields.encrypted_static == raw[40:88]
    assert fields.encrypted_timestamp == raw[88:116]
    assert fields.mac1 == mac1(raw[:116], side.other.public)
    assert fields.mac2 == bytes(16)
    assert not fields.payload

    received = noise.consume_initiation(side.core, side.other.initiation(77), SECOND)
    assert isinstance(received, noise.Received)
    answer = noise.create_response(side.core, received)
    assert not isinstance(answer, int)
    raw = side.with_macs(answer[1])
    response = Wireguard(raw)
    assert (response.message_type, response.reserved_zero) == (2, 0)
    fields = response[WireguardResponse]
    assert (fields.sender_index, fields.receiver_index) == (answer[0], 77)
    assert fields.mac1 == mac1(raw[:60], side.other.public)
    assert not fields.payload


# ---- what is refused ----


def flips(message: bytes, *unsigned: range) -> list[bytes]:
    """The message with each bit flipped, but for the bytes that only mac1 protects."""
    found = []
    for bit in range(8 * len(message)):
        if not any(bit // 8 in some for some in unsigned):
            changed = bytearray(message)
            changed[bit // 8] ^= 1 << bit % 8
            found.append(bytes(changed))
    return found


def test_every_flipped_bit_of_an_initiation_is_refused() -> None:
    side = Side()
    message = side.other.initiation()
    for changed in flips(message, range(4, 8), range(116, 148)):
        assert noise.consume_initiation(side.core, changed, SECOND) in (noise.INVALID, noise.UNKNOWN)
    assert isinstance(noise.consume_initiation(side.core, message, SECOND), noise.Received)


def test_every_flipped_bit_of_a_response_is_refused_and_the_right_one_still_counts() -> None:
    side = Side(PSK)
    made = noise.create_initiation(side.core, side.peer, tai64n(1))
    assert not isinstance(made, int)
    side.other.read_initiation(side.with_macs(made[1]))
    response = side.other.response()
    for changed in flips(response, range(4, 8), range(60, 92)):
        assert noise.consume_response(side.core, made[0], changed) == noise.INVALID
    done = noise.consume_response(side.core, made[0], response)
    assert isinstance(done, noise.Completed)
    assert done.handshake.split() == (side.other.receive_key, side.other.send_key)


@pytest.mark.parametrize("size", [0, 1, 4, 91, 92, 93, 147, 149, 65507])
def test_wrong_sizes_are_refused(size: int) -> None:
    side = Side()
    made = noise.create_initiation(side.core, side.peer, tai64n(1))
    assert not isinstance(made, int)
    assert noise.consume_initiation(side.core, bytes(size), SECOND) == noise.INVALID
    assert noise.consume_response(side.core, made[0], bytes(size)) == noise.INVALID


def test_unknown_and_own_keys_are_refused() -> None:
    side = Side()
    stranger = NoisePeer(side.public)
    assert noise.consume_initiation(side.core, stranger.initiation(), SECOND) == noise.UNKNOWN

    private = side.core.private_key()
    assert private is not None
    mirror = NoisePeer(side.public, private=private)
    assert noise.consume_initiation(side.core, mirror.initiation(), SECOND) == noise.UNKNOWN
    side.core.add_peer(side.public)
    assert noise.consume_initiation(side.core, mirror.initiation(), SECOND) == noise.UNKNOWN


def test_no_key_no_handshake() -> None:
    side = Side()
    message = side.other.initiation()
    side.core.set_identity(None, None)
    assert noise.consume_initiation(side.core, message, SECOND) == noise.NO_KEY
    assert noise.create_initiation(side.core, side.peer, tai64n(1)) == noise.NO_KEY


def test_replayed_and_older_initiations_are_refused() -> None:
    side = Side()
    first = side.other.initiation(stamp=tai64n(100))
    assert isinstance(noise.consume_initiation(side.core, first, SECOND), noise.Received)
    assert noise.consume_initiation(side.core, first, 2 * SECOND) == noise.REPLAYED
    older = side.other.initiation(stamp=tai64n(99.9))
    assert noise.consume_initiation(side.core, older, 3 * SECOND) == noise.REPLAYED
    newer = side.other.initiation(stamp=tai64n(100.1))
    assert isinstance(noise.consume_initiation(side.core, newer, 4 * SECOND), noise.Received)


def test_initiations_too_close_together_are_refused() -> None:
    side = Side()
    soon = SECOND + SECOND // 50 - 1
    assert isinstance(
        noise.consume_initiation(side.core, side.other.initiation(stamp=tai64n(1)), SECOND), noise.Received
    )
    second = side.other.initiation(stamp=tai64n(2))
    assert noise.consume_initiation(side.core, second, soon) == noise.REPLAYED
    assert isinstance(noise.consume_initiation(side.core, second, soon + 1), noise.Received)


def test_another_psk_is_refused_by_the_initiator() -> None:
    side = Side(PSK)
    made = noise.create_initiation(side.core, side.peer, tai64n(1))
    assert not isinstance(made, int)
    side.other.psk = NO_PSK
    side.other.read_initiation(side.with_macs(made[1]))
    assert noise.consume_response(side.core, made[0], side.other.response()) == noise.INVALID


def test_an_answer_to_an_earlier_attempt_is_refused() -> None:
    side = Side()
    first = noise.create_initiation(side.core, side.peer, tai64n(1))
    assert not isinstance(first, int)
    side.other.read_initiation(side.with_macs(first[1]))
    second = noise.create_initiation(side.core, side.peer, tai64n(2))
    assert not isinstance(second, int)
    assert second[0].local_index != first[0].local_index
    assert noise.consume_response(side.core, second[0], side.other.response()) == noise.INVALID


# ---- points of low order ----


def kdf(n: int, key: bytes, data: bytes) -> list[bytes]:
    def prf(key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, "blake2s")

    secret, found, last = prf(key, data), [], b""
    for i in range(1, n + 1):
        last = prf(secret, last + bytes([i]))
        found.append(last)
    return found


def forged_initiation(responder: bytes, static: bytes, ephemeral: bytes | None = None) -> bytes:
    """An initiation by somebody whose `static` public key has low order, so that the static-static secret
    is zero, or whose `ephemeral` one has, so that all secrets are."""

    def digest(*parts: bytes) -> bytes:
        return blake2s(b"".join(parts)).digest()

    private = X25519PrivateKey.generate()
    public = public_of(private.private_bytes_raw())
    shared = private.exchange(X25519PublicKey.from_public_bytes(responder))
    if ephemeral is not None:
        public, shared = ephemeral, bytes(32)
    chain = digest(PROTOCOL)
    state = digest(digest(digest(chain, PROLOGUE), responder), public)
    (chain,) = kdf(1, chain, public)
    chain, key = kdf(2, chain, shared)
    sealed_static = ChaCha20Poly1305(key).encrypt(bytes(12), static, state)
    state = digest(state, sealed_static)
    chain, key = kdf(2, chain, bytes(32))
    sealed_stamp = ChaCha20Poly1305(key).encrypt(bytes(12), tai64n(1), state)
    body = struct.pack("<II", 1, 1) + public + sealed_static + sealed_stamp
    return body + mac1(body, responder) + bytes(16)


@pytest.mark.parametrize("point", LOW_ORDER, ids=lambda point: point.hex()[:8])
def test_low_order_points_are_refused(point: bytes) -> None:
    side = Side()
    low = side.core.add_peer(point)
    assert noise.consume_initiation(side.core, forged_initiation(side.public, point), SECOND) == noise.INVALID
    all_zero = forged_initiation(side.public, side.other.public, ephemeral=point)
    assert noise.consume_initiation(side.core, all_zero, SECOND) == noise.INVALID
    assert noise.create_initiation(side.core, low, tai64n(1)) == noise.INVALID

    made = noise.create_initiation(side.core, side.peer, tai64n(1))
    assert not isinstance(made, int)
    answer = struct.pack("<III", 2, 1, made[0].local_index) + point + bytes(16 + 32)
    assert noise.consume_response(side.core, made[0], answer) == noise.INVALID


def test_the_forger_forges_well_enough() -> None:
    """An honest key in the same forged message gets as far as the search for its peer."""
    side = Side()
    forged = forged_initiation(side.public, side.other.public)
    assert noise.consume_initiation(side.core, forged, SECOND) == noise.INVALID
    stranger = forged_initiation(side.public, public_of(clamp(bytes(32))))
    assert noise.consume_initiation(side.core, stranger, SECOND) == noise.UNKNOWN


# ---- time stamps ----

MOMENT = 1_700_000_000 * SECOND


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(0, 10 * SECOND) | st.just(0),
            st.integers(-(10**6), 10**6) | st.sampled_from([0, 1, -1]),
        ),
        max_size=60,
    )
)
@settings(max_examples=300, deadline=None)
def test_stamps_of_a_peer_grow_whatever_the_wall_clock_does(steps: list[tuple[int, int, int]]) -> None:
    stamper = noise.Tai64n()
    now, wall = 0, MOMENT
    last: dict[int, bytes] = {}
    for peer, elapsed, jump in steps:
        now += elapsed
        wall += elapsed + jump * SECOND // 1000
        stamp = stamper.stamp(peer, now, wall)
        assert len(stamp) == 12
        assert stamp > last.get(peer, b"")
        nanoseconds = struct.unpack(">QI", stamp)[1]
        assert nanoseconds % (1 << 24) == 0
        assert nanoseconds < SECOND
        last[peer] = stamp


def test_a_stamp_is_the_time_rounded_down() -> None:
    stamp = noise.Tai64n().stamp(1, 0, MOMENT + 999_999_999)
    seconds, nanoseconds = struct.unpack(">QI", stamp)
    assert seconds == 0x4000000000000000 + 10 + 1_700_000_000
    assert nanoseconds == 999_999_999 & ~((1 << 24) - 1)


def test_many_peers_at_once_do_not_drive_stamps_into_the_future() -> None:
    stamper = noise.Tai64n()
    stamps = {stamper.stamp(peer, 5, MOMENT) for peer in range(10_000)}
    assert len(stamps) == 1


def test_a_clock_set_back_goes_on_from_where_it_was() -> None:
    stamper = noise.Tai64n()
    before = stamper.stamp(1, 0, MOMENT)
    after = stamper.stamp(1, 5 * SECOND, MOMENT - 3600 * SECOND)
    assert struct.unpack(">QI", after)[0] == struct.unpack(">QI", before)[0] + 5


# ---- the state ----


def test_a_handshake_cannot_be_copied() -> None:
    handshake = _core.Handshake()
    for copier in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copier(handshake)


def test_a_handshake_does_not_survive_a_fork() -> None:
    handshake = _core.Handshake()
    handshake.begin(bytes(32))

    def use() -> None:
        handshake.mix_hash(b"")

    assert forked(use) == ForkedError.__name__
    handshake.mix_hash(b"")
