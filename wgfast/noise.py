"""Noise_IKpsk2 as WireGuard uses it: which message holds what, in which order it is mixed (whitepaper,
section 5.4).

Pure protocol. Nothing here reads a clock, opens a socket or decides when to shake hands. What is secret
stays in the C core (`_core.Handshake`, the peer's row); Python sees public keys, ciphertexts and indices
only. Messages are built with their two mac fields zero, which `Core.peer_send_handshake` fills in.

Whatever arrives may be hostile: a message that is refused yields the number of the drop reason (an index
into `_core.DROP_NAMES`), never an exception.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ._core import DROP_NAMES, Core, Handshake, use_x25519
from .keys import X25519

use_x25519(*X25519)

INITIATION_SIZE = 148
RESPONSE_SIZE = 92
_INITIATION = struct.Struct(
    "<II32s48s28s"
)  # type and reserved bytes, sender, e, sealed static, sealed timestamp
_RESPONSE = struct.Struct("<III32s16s")  # type and reserved bytes, sender, receiver, e, sealed nothing
_TYPE_INITIATION = 1
_TYPE_RESPONSE = 2

INVALID = DROP_NAMES.index("handshake_invalid")
UNKNOWN = DROP_NAMES.index("handshake_unknown")
REPLAYED = DROP_NAMES.index("handshake_replayed")
NO_KEY = DROP_NAMES.index("handshake_no_key")


class Initiation(NamedTuple):
    """A handshake we began: all it takes to understand the response."""

    peer: int
    local_index: int
    handshake: Handshake  # as it stood when the message left


class Received(NamedTuple):
    """Somebody's initiation that verified: what create_response goes on from."""

    peer: int
    remote_index: int
    handshake: Handshake


class Completed(NamedTuple):
    """A handshake of ours that was answered: the session's keys follow from it."""

    peer: int
    local_index: int
    remote_index: int
    handshake: Handshake


def create_initiation(core: Core, peer: int, stamp: bytes) -> tuple[Initiation, bytearray] | int:
    """The first message, to a peer (section 5.4.2), with a TAI64N `stamp` of 12 bytes.

    It takes the peer's handshake index, so an earlier attempt can no longer be answered. The number of a
    reason when the device has no private key, or the peer's public key is a point of low order.
    """
    own_public = core.public_key()
    if own_public is None:
        return NO_KEY
    remote_static = core.peer_info(peer).public_key
    handshake = Handshake()
    ephemeral_public = handshake.generate()
    handshake.begin(remote_static)
    handshake.mix_ephemeral(ephemeral_public)
    if not handshake.dh(remote_static):
        return INVALID
    handshake.mix_shared()
    sealed_static = handshake.seal(own_public)
    if not _mix_static(core, peer, handshake, remote_static):
        return INVALID
    sealed_timestamp = handshake.seal(stamp)

    local_index = core.peer_begin_handshake(peer)
    message = bytearray(INITIATION_SIZE)
    _INITIATION.pack_into(
        message, 0, _TYPE_INITIATION, local_index, ephemeral_public, sealed_static, sealed_timestamp
    )
    return Initiation(peer, local_index, handshake), message


def consume_initiation(core: Core, message: bytes, now: int) -> Received | int:
    """Reads a first message whose mac1 the core has found right. What it claims is true if this returns
    `Received`: the peer's key, and that the message is newer than every earlier one (sections 5.1 and
    5.4.2)."""
    own_public = core.public_key()
    if own_public is None:
        return NO_KEY
    if len(message) != INITIATION_SIZE:
        return INVALID
    kind, remote_index, ephemeral, sealed_static, sealed_timestamp = _INITIATION.unpack_from(message)
    if kind != _TYPE_INITIATION:
        return INVALID

    handshake = Handshake()
    handshake.begin(own_public)
    handshake.mix_ephemeral(ephemeral)
    if not core.dh_private(handshake, ephemeral):
        return INVALID
    handshake.mix_shared()
    remote_static = handshake.open(sealed_static)
    if remote_static is None:
        return INVALID
    if remote_static == own_public:
        return UNKNOWN
    peer = core.find_peer(remote_static)
    if not peer:
        return UNKNOWN
    if not _mix_static(core, peer, handshake, remote_static):
        return INVALID
    stamp = handshake.open(sealed_timestamp)
    if stamp is None:
        return INVALID
    if not core.peer_accept_timestamp(peer, stamp, now):
        return REPLAYED

    handshake.remote_ephemeral = ephemeral
    handshake.remote_static = remote_static
    return Received(peer, remote_index, handshake)


def create_response(core: Core, received: Received) -> tuple[int, bytearray] | int:
    """The second message (section 5.4.3) and the local index it announces, which the caller uses up with
    `Core.peer_begin_session_responder` or gives back with `Core.peer_end_answer`."""
    handshake = received.handshake
    ephemeral_public = handshake.generate()
    handshake.mix_ephemeral(ephemeral_public)
    if not handshake.dh(handshake.remote_ephemeral):
        return INVALID
    handshake.mix_chain()
    if not handshake.dh(handshake.remote_static):
        return INVALID
    handshake.mix_chain()
    core.peer_mix_psk(received.peer, handshake)
    sealed_nothing = handshake.seal(b"")

    local_index = core.peer_begin_answer(received.peer)
    message = bytearray(RESPONSE_SIZE)
    _RESPONSE.pack_into(
        message,
        0,
        _TYPE_RESPONSE,
        local_index,
        received.remote_index,
        ephemeral_public,
        sealed_nothing,
    )
    return local_index, message


def consume_response(core: Core, initiation: Initiation, message: bytes) -> Completed | int:
    """Reads the answer to `initiation`. One that is refused leaves the initiation as it was: whoever sees our
    messages can send an answer with a right mac1, and must not be able to end a handshake by it."""
    if len(message) != RESPONSE_SIZE:
        return INVALID
    kind, remote_index, local_index, ephemeral, sealed_nothing = _RESPONSE.unpack_from(message)
    if kind != _TYPE_RESPONSE or local_index != initiation.local_index:
        return INVALID

    handshake = Handshake()
    handshake.assign(initiation.handshake)
    handshake.mix_ephemeral(ephemeral)
    if not handshake.dh(ephemeral):
        return INVALID
    handshake.mix_chain()
    if not core.dh_private(handshake, ephemeral):
        return INVALID
    handshake.mix_chain()
    core.peer_mix_psk(initiation.peer, handshake)
    if handshake.open(sealed_nothing) is None:
        return INVALID
    return Completed(initiation.peer, local_index, remote_index, handshake)


def _mix_static(core: Core, peer: int, handshake: Handshake, remote_static: bytes) -> bool:
    """Mixes in the static-static secret, which the core remembers from the first handshake on. False: no
    private key, or the peer's public key is a point of low order."""
    if core.peer_mix_static(peer, handshake):
        return True
    if not core.dh_private(handshake, remote_static):
        return False
    core.peer_learn_static(peer, handshake)
    return True


_SLOT = 1 << 24  # ns; Linux rounds down to the power of two below 1/50 s, see INITIATIONS_PER_SECOND there
_SECOND = 1_000_000_000
_SLOTS_PER_SECOND = -(-_SECOND // _SLOT)
_TAI64_EPOCH = (1 << 62) + 10  # label of 1970-01-01, with the ten leap seconds TAI was ahead by then


class Tai64n:
    """Makes the time stamps of our initiations (section 5.1): 8 bytes of seconds, 4 of nanoseconds,
    big-endian.

    Whitened: nanoseconds are rounded down to a multiple of 2^24, so that a stamp tells no fine clock to
    whoever measures us. Monotone: stamps for one peer grow strictly, and go on growing when the wall clock
    is set back, because a responder refuses whatever is not later than the last it took."""

    def __init__(self) -> None:
        self._wall = 0
        self._now: int | None = None
        self._slot = -1
        self._given: set[int] = set()

    def stamp(self, peer: int, now: int, wall: int) -> bytes:
        """A stamp for `peer`. `now` is a clock that never steps back, `wall` ns since 1970; where the wall
        clock fell behind, it is carried on by `now`."""
        if self._now is not None:
            wall = max(wall, self._wall + max(now - self._now, 0))
        self._now, self._wall = now, wall
        slot = wall // _SECOND * _SLOTS_PER_SECOND + wall % _SECOND // _SLOT
        if slot > self._slot:
            self._slot = slot
            self._given.clear()
        elif peer in self._given:
            # Its second stamp within the slot: only then does the sequence run ahead of the clock.
            self._slot += 1
            self._given.clear()
        self._given.add(peer)
        seconds, part = divmod(self._slot, _SLOTS_PER_SECOND)
        return struct.pack(">QI", _TAI64_EPOCH + seconds, part * _SLOT)
