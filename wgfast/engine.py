"""The Engine: a WireGuard endpoint without sockets and without a clock. Batches of packets in numpy arrays
go in, batches come out, and `now` is an argument.

The same C functions seal and open here as in a Device, and the same control plane shakes hands. A program
that brings its own I/O (a userspace stack, a simulator, a capture) drives it like this:

    engine.send(packets, lengths, now, out)      inner packets  -> datagrams in `out`
    engine.receive(data, lengths, endpoints, now, out)      datagrams -> inner packets in `out`
    deadline = engine.process(now)               handshakes and timers
    while engine.drain(now, out): ...            what the engine itself has to send

Times are integers in ns of any clock that never goes back and goes on in suspend.
"""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._core import Endpoint
from .control import Control, EventName, Handler
from .errors import BatchError, ConfigError
from .keys import PrivateKey, PublicKey, clamp, parse_key, public_key
from .limits import Limits, Usage, check_limits, check_usage, limits_of, usage_of
from .settings import (
    AllowedIPsArgument,
    EndpointArgument,
    check_keepalive,
    number,
    parse_allowed_ips,
    parse_endpoint,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

# struct wgf_endpoint (core/endpoint.h). Addresses in network order, IPv4 in the first four bytes; numbers in
# host order.
ENDPOINT = np.dtype(
    [
        ("address", np.uint8, 16),
        ("source", np.uint8, 16),
        ("scope", np.uint32),
        ("interface", np.uint32),
        ("port", np.uint16),
        ("family", np.uint8),
        ("has_source", np.uint8),
        ("zero", np.uint32),
    ]
)
OVERHEAD = 32  # header and tag of a data message
HANDSHAKE_MAX = 148  # the longest message that is no data


class Batch:
    """Rows of packets in memory that belongs to the caller.

    data       (n, stride) uint8    row i holds lengths[i] bytes
    lengths    (n,) uint32
    endpoints  (n,) ENDPOINT        where row i goes to or came from
    tos        (n,) uint8           its TOS byte or traffic class
    peers      (n,) uint64          handle of the peer it belongs to, 0: none
    status     (n,) uint8           what became of it: OK, STAGED, CONSUMED, or an index into DROP_NAMES

    Attributes may be any arrays of these shapes and types, rows contiguous; BatchError names the one that is
    not."""

    OK = _core.STATUS_OK
    STAGED = _core.STATUS_STAGED
    CONSUMED = _core.STATUS_CONSUMED

    __slots__ = ("data", "endpoints", "lengths", "peers", "status", "tos")

    def __init__(
        self,
        data: NDArray[np.uint8],
        lengths: NDArray[np.uint32],
        endpoints: NDArray[Any],
        tos: NDArray[np.uint8],
        peers: NDArray[np.uint64],
        status: NDArray[np.uint8],
    ) -> None:
        self.data, self.lengths, self.endpoints = data, lengths, endpoints
        self.tos, self.peers, self.status = tos, peers, status
        n = len(data)
        for name in self.__slots__:
            if len(getattr(self, name)) != n:
                raise BatchError(f"{name}: {len(getattr(self, name))} rows: expected {n}, as data has")

    @classmethod
    def empty(cls, n: int, stride: int = 2048) -> Batch:
        """New arrays of n rows, zeroed."""
        number("n", n, 0, 1 << 31)
        number("stride", stride, 1, 1 << 31)
        return cls(
            np.zeros((n, stride), np.uint8),
            np.zeros(n, np.uint32),
            np.zeros(n, ENDPOINT),
            np.zeros(n, np.uint8),
            np.zeros(n, np.uint64),
            np.zeros(n, np.uint8),
        )

    @classmethod
    def of(cls, packets: Sequence[bytes], endpoint: EndpointArgument | None = None, stride: int = 0) -> Batch:
        """New arrays that hold copies of `packets`, all from or to `endpoint`. The stride is at least the
        longest."""
        batch = cls.empty(len(packets), max(stride, 1, *map(len, packets)) if packets else max(stride, 1))
        for row, packet in zip(batch.data, packets, strict=True):
            row[: len(packet)] = np.frombuffer(packet, np.uint8)
        batch.lengths[:] = [len(packet) for packet in packets]
        if endpoint is not None:
            batch.endpoints[:] = pack_endpoint(endpoint)
        return batch

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} rows of {self.data.shape[1]} bytes>"

    def first(self, n: int) -> Batch:
        """The first n rows, in the same memory."""
        return Batch(
            self.data[:n], self.lengths[:n], self.endpoints[:n], self.tos[:n], self.peers[:n], self.status[:n]
        )

    def packet(self, i: int | np.integer[Any]) -> bytes:
        """A copy of row i's packet."""
        return self.data[i, : self.lengths[i]].tobytes()

    def packets(self) -> list[bytes]:
        """Copies of what rows with a packet hold (length above 0)."""
        return [self.packet(i) for i in np.flatnonzero(self.lengths)]

    def endpoint(self, i: int) -> Endpoint | None:
        """Row i's endpoint; None: none."""
        return _core.unpack_endpoint(self.endpoints[i : i + 1].tobytes())


def pack_endpoint(endpoint: EndpointArgument) -> NDArray[Any]:
    """One element of dtype ENDPOINT. ConfigError when it is no endpoint; an Endpoint must be numeric,
    anything else is read as `Device.add_peer` does."""
    if isinstance(endpoint, Endpoint):
        try:
            raw = _core.pack_endpoint(endpoint)
        except ValueError as error:
            raise ConfigError(f"endpoint: {error}") from None
    else:
        raw = _core.pack_endpoint(parse_endpoint(endpoint))
    return np.frombuffer(raw, ENDPOINT)[0]  # type: ignore[no-any-return]


class Engine:
    """A WireGuard endpoint whose I/O and clock are the caller's.

    `private_key` in any form keys.py reads. `mtu`, bytes: padding never goes past it. Any thread may send and
    receive, several at once; `process` and the configuration are one thread's at a time. In a forked child
    every call raises ForkedError; it cannot be pickled or copied."""

    def __init__(
        self, private_key: str | Buffer | None = None, *, mtu: int = 1420, name: str = "engine"
    ) -> None:
        key = None if private_key is None else clamp(parse_key(private_key, "private_key"))
        number("mtu", mtu, 68, _core.MTU_MAX)
        self.core = _core.Core(0)
        self.control = Control(self.core, name)
        # numpy's stubs know the buffer protocol from Python 3.12 on only.
        self._batches: Any = self.core
        self._last = 0
        self._deadline: int | None = 0
        self.core.set_mtu(mtu)
        if key is not None:
            self.core.set_identity(key, public_key(key))
        self._poll = select.poll()
        self._poll.register(self.core.event_fd(), select.POLLIN)

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError(
            "an Engine cannot be pickled or copied: a second one would use its keys and counters again"
        )

    def close(self) -> None:
        """Wipes its keys; every later call raises ClosedError."""
        self.core.close()

    @property
    def private_key(self) -> PrivateKey | None:
        key = self.core.private_key()
        return None if key is None else PrivateKey(key)

    @property
    def public_key(self) -> PublicKey | None:
        key = self.core.public_key()
        return None if key is None else PublicKey(key)

    # ---- peers: handles are the numbers in Batch.peers ----

    def add_peer(
        self,
        public_key: str | Buffer,
        *,
        allowed_ips: AllowedIPsArgument = (),
        endpoint: EndpointArgument | None = None,
        preshared_key: str | Buffer | None = None,
        persistent_keepalive: int = 0,
        limits: Limits | None = None,
        now: int = 0,
    ) -> int:
        """Adds a peer and returns its handle. ConfigError names what does not fit; then nothing has
        changed."""
        key = parse_key(public_key, "public_key")
        prefixes = parse_allowed_ips(allowed_ips)
        where = None if endpoint is None else parse_endpoint(endpoint)
        psk = None if preshared_key is None else parse_key(preshared_key, "preshared_key")
        check_keepalive(persistent_keepalive)
        limited = check_limits(limits)
        if key == self.core.public_key():
            raise ConfigError(f"public_key: {PublicKey(key)}: is this engine's own; a peer has another")
        if self.core.find_peer(key):
            raise ConfigError(f"public_key: {PublicKey(key)}: is a peer already")
        peer = self.core.add_peer(key)
        try:
            if psk is not None:
                self.core.peer_set_psk(peer, psk)
            self.core.peer_set_limits(peer, limited, now)
            self.core.peer_set_endpoint(peer, where)
            self.core.peer_allow_many(peer, prefixes)
            self.core.peer_set_persistent_keepalive(peer, persistent_keepalive, now)
        except BaseException:
            self.remove_peer(peer)
            raise
        return peer

    def remove_peer(self, peer: int) -> None:
        """PeerRemovedError when it is gone already."""
        self.control.forget(peer)
        self.core.remove_peer(peer)

    def set_preshared_key(
        self, peer: int, psk: str | Buffer | None, now: int, wall: int | None = None
    ) -> None:
        """None: none. A changed one counts at once, see Control.set_psk."""
        raw = bytes(32) if psk is None else parse_key(psk, "preshared_key")
        self.control.set_psk(peer, raw, now, now if wall is None else wall)

    def set_limits(self, peer: int, limits: Limits | None, now: int, usage: Usage | None = None) -> None:
        """As Peer.limits and, unless None, Peer.usage."""
        changes = check_limits(limits) | ({} if usage is None else check_usage(usage))
        self.core.peer_set_limits(peer, changes, now)

    def limits(self, peer: int) -> tuple[Limits, Usage]:
        values = self.core.peer_limits(peer)
        return limits_of(values), usage_of(values)

    def handshake(self, peer: int, now: int, wall: int | None = None) -> None:
        """Begins a handshake now, or as soon as REKEY-TIMEOUT since the last allows."""
        self.control.handshake(peer, now, now if wall is None else wall)

    def peer_info(self, peer: int) -> _core.PeerInfo:
        return self.core.peer_info(peer)

    def drops(self) -> dict[str, int]:
        """Dropped packets by reason (core/drops.h)."""
        return dict(zip(_core.DROP_NAMES, self.core.drops(), strict=True))

    def on(self, event: EventName, handler: Handler) -> None:
        """As Device.on; handlers are called from `process`."""
        self.control.on(event, handler)

    # ---- packets ----

    def send(self, packets: NDArray[np.uint8], lengths: NDArray[np.uint32], now: int, out: Batch) -> None:
        """Seals inner packets: row i of `packets` ((n, stride) uint8, lengths (n,) uint32) becomes row i of
        `out`, a datagram for out.endpoints[i] with out.tos[i]. `out` needs n rows or more; rows that are to
        hold a packet of k bytes need k + 32, and up to 15 for padding.

        out.status[i] is OK, STAGED (the packet was copied and waits for a handshake: call `process`), or the
        number of a drop reason; out.lengths[i] is 0 unless it is OK. BatchError: an array does not fit.
        """
        rows = self._rows(out, packets)
        self._batches.engine_send(
            packets,
            lengths,
            rows.data,
            rows.lengths,
            _raw(rows.endpoints),
            rows.tos,
            rows.peers,
            rows.status,
            now,
        )
        self._last = now

    def receive(
        self,
        data: NDArray[np.uint8],
        lengths: NDArray[np.uint32],
        endpoints: NDArray[Any],
        now: int,
        out: Batch,
        tos: NDArray[np.uint8] | None = None,
    ) -> None:
        """Opens datagrams: row i of `data` ((n, stride) uint8, lengths (n,) uint32), which came from
        endpoints[i] ((n,) ENDPOINT) with tos[i] ((n,) uint8; None: zeros), becomes row i of `out`, an inner
        packet of out.peers[i].

        out.status[i] is OK, CONSUMED (a handshake message, cookie reply or keepalive: call `process`), or the
        number of a drop reason; out.lengths[i] is 0 unless it is OK. `data` is not written. BatchError: an
        array does not fit."""
        rows = self._rows(out, data)
        if tos is None:
            tos = np.zeros(len(data), np.uint8)
        self._batches.engine_receive(
            data, lengths, _raw(endpoints), tos, rows.data, rows.lengths, rows.peers, rows.status, now
        )
        self._last = now

    def drain(self, now: int, out: Batch) -> int:
        """Writes what the engine itself has to send (handshake messages, cookie replies, keepalives, staged
        packets that may go) into the first rows of `out`, which are at least HANDSHAKE_MAX bytes wide.
        Returns how many; call it again until it returns 0."""
        self._last = now
        count: int = self._batches.engine_drain(
            out.data, out.lengths, _raw(out.endpoints), out.tos, out.peers, now
        )
        out.status[:count] = Batch.OK
        return count

    # ---- time ----

    def process(self, now: int, wall: int | None = None) -> int | None:
        """Shakes hands and does what timers ask for at `now`; `wall`, ns since 1970, goes into the time
        stamps of our initiations (None: `now`, right where no peer outlives this engine). Then `drain`.
        Returns when to call again at the latest, None: not before something is sent or received."""
        self._last = now
        self._deadline = self.control.process(now, now if wall is None else wall)
        return self._deadline

    def next_timeout(self) -> int | None:
        """When `process` is to be called at the latest; None: not before something is sent or received. A
        time that has passed: at once, because what was sent or received needs attention."""
        if self._poll.poll(0):
            return self._last
        return self._deadline

    @staticmethod
    def _rows(out: Batch, packets: NDArray[np.uint8]) -> Batch:
        n = len(packets)
        if len(out) == n or packets.ndim != 2:  # the core says what is wrong with it
            return out
        if len(out) < n:
            raise BatchError(f"out: {len(out)} rows: expected at least {n}, one for each packet")
        return out.first(n)


def _raw(endpoints: NDArray[Any]) -> NDArray[np.uint8]:
    """The same memory as (n, 48) uint8, which is how the core takes it."""
    if endpoints.dtype != ENDPOINT or endpoints.ndim != 1 or not endpoints.flags.c_contiguous:
        shape = "x".join(map(str, endpoints.shape))
        raise BatchError(
            f"endpoints: {endpoints.dtype} of shape {shape}: expected contiguous ENDPOINT of shape (n,)"
        )
    return endpoints.view(np.uint8).reshape(-1, ENDPOINT.itemsize)
