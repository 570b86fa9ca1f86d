"""The binding of the C core: one call for one C function (wgfast/core/wgfast.h), no logic.

Buffers are anything with the buffer protocol (numpy arrays, bytes, bytearray, memoryview); arrays must be
C-contiguous unless said otherwise and are used in place. Times are integers, CLOCK_BOOTTIME nanoseconds
(or the clock of an Engine's caller). Errors are those of wgfast.errors: BatchError (a batch's array has the
wrong dtype, shape, layout, or is read-only), ConfigError (WGFAST_AEAD), ForkedError (device used in a forked child), PeerRemovedError
(a handle outlived its peer), OSError otherwise.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from numpy.typing import NDArray
from typing_extensions import Buffer

# numpy's own stubs know the buffer protocol from Python 3.12 on.
_Array = Buffer | NDArray[Any]

# limits.h and wgfast.h, names without the WGF_ prefix
REKEY_AFTER_MESSAGES: Final[int]
REJECT_AFTER_MESSAGES: Final[int]
REKEY_AFTER_TIME: Final[int]  # ns, as all times
REJECT_AFTER_TIME: Final[int]
REKEY_ATTEMPT_TIME: Final[int]
REKEY_TIMEOUT: Final[int]
REKEY_TIMEOUT_JITTER: Final[int]
KEEPALIVE_TIMEOUT: Final[int]
COOKIE_REFRESH_TIME: Final[int]
MESSAGE_MAX: Final[int]
MTU_MAX: Final[int]
BATCH_PACKETS: Final[int]
THREADS_MAX: Final[int]
QUEUES_MAX: Final[int]
PEERS_MAX: Final[int]
REPLAY_WINDOW: Final[int]
STATUS_OK: Final[int]  # WGF_DROP_NOT: the row's packet is in the output
STATUS_STAGED: Final[int]
STATUS_CONSUMED: Final[int]
DROP_NAMES: Final[tuple[str, ...]]  # in the order of the counters; a status below len() is one of these
DROP_TEXTS: Final[tuple[str, ...]]
LIMIT_NAMES: Final[tuple[str, ...]]
LIMIT_MOSTS: Final[tuple[int, ...]]
OFFLOAD_NAMES: Final[tuple[str, ...]]
OFFLOAD_TEXTS: Final[tuple[str, ...]]
OFFLOAD_STATES: Final[tuple[str, ...]]
DEBT_RETRANSMIT: Final[int]
DEBT_KEEPALIVE: Final[int]
DEBT_NEW_HANDSHAKE: Final[int]
DEBT_ZERO_KEYS: Final[int]
DEBT_PERSISTENT: Final[int]
DEBT_HANDSHAKE: Final[int]
EVENT_CONFIRMED: Final[int]
EVENT_ROAMED: Final[int]
EVENT_COOKIE: Final[int]
EVENT_LOOP: Final[int]
EVENT_LOAD: Final[int]
EVENT_TUN_GONE: Final[int]
SAID_REMOVE: Final[int]
SAID_UPDATE_ONLY: Final[int]
SAID_PSK: Final[int]
SAID_ENDPOINT: Final[int]
SAID_KEEPALIVE: Final[int]
SAID_REPLACE: Final[int]
SAID_HOST: Final[int]
SAID_LIMITS: Final[int]
NEWS_REMOVED: Final[int]
NEWS_PSK: Final[int]
NEWS_ENDPOINT: Final[int]
NEWS_RESET: Final[int]
NEWS_HOST: Final[int]

class Endpoint(NamedTuple):
    """An address a peer is reached at. `host` is a numeric IPv4 or IPv6 address (with %scope as a number where
    it has one), `source` the address of ours it talks to or None."""

    host: str
    port: int
    source: str | None = None
    interface: int = 0

class Event(NamedTuple):
    kind: int
    value: int
    peer: int  # handle, 0: none
    endpoint: Endpoint | None

class Queued(NamedTuple):
    """A handshake message that waited."""

    peer: int  # handle of whose handshake an answer is for, 0: an initiation
    endpoint: Endpoint | None
    data: bytes

class PeerInfo(NamedTuple):
    handle: int
    public_key: bytes
    endpoint: Endpoint | None
    sent_bytes: int
    received_bytes: int
    sent_packets: int
    received_packets: int
    handshake_at: int  # 0: never
    session_birth: int  # 0: no session to send with
    session_sent: int
    staged: int
    persistent_keepalive: int  # seconds, 0: off
    has_psk: bool
    session_initiator: bool

class DeviceInfo(NamedTuple):
    peers: int
    indices: int
    keypairs: int
    threads: int
    queues: int  # of the interface
    events_waiting: int
    handshakes_waiting: int
    staged: int
    packet_memory_ceiling: int  # bytes
    listen_port: int  # 0: no socket
    rows: int  # of peers, and of those removed that a reader may still see
    rows_memory: int  # bytes, of peers and sessions
    allowedips_memory: int  # bytes, for lookups and changes

# ---- the AEAD of a batch ----

def aead_kernels() -> list[tuple[str, bool, str]]:
    """Each kernel of this build, best first: name, usable, reason ("usable", "not supported ...", ...)."""

def aead_kernel() -> str:
    """The one in use."""

def aead_choose(name: str | None) -> None:
    """Use this kernel; None: the best. ConfigError names what exists when it is unknown or unusable."""

def aead_environment() -> None:
    """ConfigError if WGFAST_AEAD names no kernel that can be used; a Core, seal and open say the same. Once there is a
    choice, the environment is not read again."""

def seal(
    packets: _Array,
    lengths: _Array,
    keys: _Array,
    nonces: _Array,
    out: _Array,
    ad: _Array | None = None,
) -> None:
    """Seal row i of `packets` ((n, stride) uint8, row-contiguous, lengths[i] bytes used; lengths (n,) uint32)
    under keys[i] ((n, 32) uint8, or (32,) for all) and nonces[i] ((n,) uint64: WireGuard's counters, or (n, 12)
    uint8: RFC 8439 nonces) into row i of `out` ((n, >= stride) uint8): ciphertext, then 16 bytes of tag. `ad`: None, one
    bytes-like for all, or (n, k) uint8. `out` may be `packets` (rows long enough)."""

def open(
    packets: _Array,
    lengths: _Array,
    keys: _Array,
    nonces: _Array,
    out: _Array,
    ok: _Array,
    ad: _Array | None = None,
) -> int:
    """The reverse: lengths[i] counts the tag. ok ((n,) uint8 or bool) becomes 1 where the tag was right; the output of
    the others is zeros. Returns how many were right. A length below 16 is not ok."""

# ---- the replay window ----

class ReplayWindow:
    def __init__(self) -> None: ...
    def accept(self, counter: int) -> bool: ...
    def accept_many(self, counters: _Array, accepted: _Array) -> int:
        """counters (n,) uint64, accepted (n,) uint8 or bool, written. Returns how many were accepted."""
    def reset(self) -> None: ...

# ---- allowed IPs ----

class Routes:
    """allowedips.h alone; wgfast.AllowedIPs puts ipaddress objects on top of it."""

    def __init__(self) -> None: ...
    def insert(self, family: int, address: bytes, length: int, owner: int) -> None: ...
    def insert_many(self, addresses: _Array, lengths: _Array, owners: _Array) -> None:
        """addresses: as for lookup_many; lengths: (n,) uint8; owners: (n,) uint32."""
    def remove(self, family: int, address: bytes, length: int, owner: int | None = None) -> bool: ...
    def remove_owner(self, owner: int) -> int: ...
    def lookup(self, family: int, address: bytes) -> int | None: ...
    def lookup_many(self, addresses: _Array, owners: _Array) -> None:
        """addresses: (n,) uint32 in host order (IPv4) or (n, 16) uint8 (IPv6); owners (n,) uint32, written, 0xffffffff
        where nothing matches."""
    def entries(self, owner: int | None = None) -> list[tuple[int, bytes, int, int]]:
        """(family, address, length, owner) in order."""
    def memory(self) -> int: ...
    def __len__(self) -> int: ...

# ---- hashing, as noise.py and tests need it ----

def blake2s(data: Buffer, size: int = 32, key: Buffer = b"") -> bytes: ...
def kdf(key: Buffer, data: Buffer, n: int) -> tuple[bytes, ...]: ...
def xseal(key: Buffer, nonce: Buffer, data: Buffer, ad: Buffer = b"") -> bytes: ...
def xopen(key: Buffer, nonce: Buffer, data: Buffer, ad: Buffer = b"") -> bytes | None: ...
def use_x25519(multiply: int, base: int) -> None:
    """From now on X25519 is computed by the functions at these addresses, libsodium's crypto_scalarmult and
    crypto_scalarmult_base or what takes and returns the same. They are called with the GIL released."""

# ---- the state of a handshake, in secret memory ----

class Handshake:
    """handshake.h. Cannot be pickled or copied; wiped when it goes."""

    def __init__(self) -> None: ...
    @property
    def ephemeral(self) -> memoryview:
        """32 writable bytes of secret memory: our ephemeral private key."""
    @property
    def shared(self) -> memoryview:
        """32 writable bytes of secret memory: where X25519 puts its result. Tests and tools only."""
    remote_ephemeral: bytes
    remote_static: bytes
    @property
    def hash(self) -> bytes: ...
    def assign(self, other: Handshake) -> None:
        """Takes over the state of another, which stays as it is."""
    def generate(self) -> bytes:
        """A new ephemeral key pair, of which the public key is returned, 32 bytes."""
    def dh(self, point: Buffer) -> bool:
        """X25519 of our ephemeral key and `point` into shared. False: the result is zero (a point of low order)."""
    def begin(self, responder_static: Buffer) -> None: ...
    def mix_hash(self, data: Buffer) -> None: ...
    def mix_ephemeral(self, public_key: Buffer) -> None: ...
    def mix_shared(self) -> None: ...
    def mix_chain(self) -> None: ...
    def mix_psk(self, psk: Buffer) -> None:
        """From Python's memory: tests and tools. A peer's own goes through Core.peer_mix_psk."""
    def seal(self, plaintext: Buffer) -> bytes: ...
    def open(self, ciphertext: Buffer) -> bytes | None: ...
    def split(self) -> tuple[bytes, bytes]:
        """The transport keys as bytes: tests and tools only; wipes the state."""
    def wipe(self) -> None: ...

# ---- the device ----

class Setting:
    """What a UAPI `set` or Device.update asks for, read and checked whole (core/setting.h). It never changes. Cannot be
    pickled or copied."""

    def __init__(self, text: Buffer | None = None) -> None:
        """The lines of a UAPI `set`; OSError if they are too many."""
    @property
    def fault(self) -> tuple[int, int, int, bool] | None:
        """Why there is no setting: (line, offset, length, it comes after a public_key) of the line that was refused.
        Line 0: the byte at offset is not ASCII."""
    @property
    def hosts(self) -> list[tuple[int, str]]:
        """(number of the peer, value) of each endpoint_host line before the fault; nothing is known of the values."""
    @staticmethod
    def of(
        peers: list[
            tuple[
                bytes, int, bytes | None, Endpoint | None, int, list[tuple[int, bytes, int]], dict[str, int]
            ]
        ],
        replace: bool,
    ) -> Setting:
        """From (public key, SAID_... bits, psk, endpoint, keepalive, prefixes, limits by name) of each; SAID_LIMITS
        follows from the last. `replace`: other peers go."""
    @property
    def private_key(self) -> bytes | None:
        """None: not mentioned, as below. Zeros: none."""
    @property
    def listen_port(self) -> int | None: ...
    @property
    def fwmark(self) -> int | None: ...
    @property
    def replace_peers(self) -> bool: ...
    def __len__(self) -> int: ...
    def peer(
        self, i: int
    ) -> tuple[bytes, int, bytes, Endpoint | None, int, list[tuple[int, bytes, int, bool]], dict[str, int]]:
        """What is said of the i-th peer, as in `of`, and of each prefix whether it is taken away. For tests."""

class SettingPlan:
    """A setting that is being applied to a device (core/setting_apply.c)."""

    def __init__(self, core: Core, setting: Setting) -> None: ...
    def step(self, now: int, wanted: int) -> tuple[bool, list[tuple[int, int, int]]]:
        """Applies some more. (all is done, [(handle, number of the peer in the setting, NEWS_... bits)]): news of the
        kinds in `wanted`."""

class Dump:
    """The peers of a device as the UAPI tells them. `names` of endpoints by handle, ASCII. `wall`: what to add to the
    device's time for ns since 1970."""

    def __init__(self, core: Core, names: dict[int, str], wall: int) -> None: ...
    def take(self) -> bytes:
        """The next piece, b"": there is no more."""

class Core:
    """struct wgf_device. Cannot be pickled or copied; dead after fork()."""

    def __init__(self, threads: int, offloads_off: int = 0, queues: int = 1) -> None:
        """threads 0: an Engine's core, no workers, no ports. offloads_off: a bit for each of OFFLOAD_NAMES.
        queues: that many of the interface, at most QUEUES_MAX, if it was made for several."""
    def close(self) -> None: ...
    @property
    def alive(self) -> bool: ...
    def set_identity(self, private_key: Buffer | None, public_key: Buffer | None) -> None: ...
    def private_key(self) -> bytes | None: ...
    def public_key(self) -> bytes | None: ...
    def dh_private(self, handshake: Handshake, point: Buffer) -> bool:
        """X25519 of the device's own private key and `point` into handshake.shared. False: no key, or the result is
        zero (a point of low order)."""
    def set_mtu(self, mtu: int) -> None: ...
    def set_tun(self, fd: int) -> None: ...
    def set_keeper(self, prepare: Callable[[int, int, int], object]) -> None:
        """From now on `prepare(fd4, fd6, fwmark)` sets the mark and the buffers of the sockets that are opened
        (-1: there is none of that family); an OSError of it is that of `bind` or `set_fwmark`. It may call
        nothing here."""
    def bind(self, port: int, fwmark: int) -> int: ...
    def unbind(self) -> None: ...
    def set_fwmark(self, fwmark: int) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def clear_sources(self) -> None: ...
    def rotate_cookie(self, secret: Buffer, now: int) -> None: ...
    def under_load(self, now: int) -> bool: ...
    def drops(self) -> list[int]: ...
    def offloads(self) -> list[tuple[int, int]]:
        """(index into OFFLOAD_STATES, errno) of each, in the order of OFFLOAD_NAMES."""
    def count_drop(self, reason: int) -> None: ...
    def info(self) -> DeviceInfo: ...
    def trim(self) -> None: ...
    def add_peer(self, public_key: Buffer) -> int:
        """FileExistsError: there is a peer of that key."""
    def remove_peer(self, peer: int) -> None: ...
    def find_peer(self, public_key: Buffer) -> int:
        """0: none."""
    def peers(self) -> list[int]: ...
    def peer_info(self, peer: int) -> PeerInfo: ...
    def peer_set_psk(self, peer: int, psk: Buffer) -> None: ...
    def peer_psk(self, peer: int) -> bytes: ...
    def peer_set_endpoint(self, peer: int, endpoint: Endpoint | None) -> None: ...
    def peer_clear_source(self, peer: int) -> None: ...
    def peer_set_persistent_keepalive(self, peer: int, seconds: int, now: int) -> None: ...
    def peer_set_limits(self, peer: int, limits: dict[str, int], now: int) -> None:
        """By name (LIMIT_NAMES); the others stay."""
    def peer_limits(self, peer: int) -> tuple[int, ...]:
        """In the order of LIMIT_NAMES; 0: none."""
    def peer_allow(self, peer: int, family: int, address: bytes, length: int) -> None: ...
    def peer_allow_many(self, peer: int, prefixes: list[tuple[int, bytes, int]]) -> None: ...
    def peer_disallow(self, peer: int, family: int, address: bytes, length: int) -> bool:
        """False: the prefix was not this peer's."""
    def peer_disallow_all(self, peer: int) -> None: ...
    def peer_allowed(self, peer: int) -> list[tuple[int, bytes, int]]: ...
    def route(self, family: int, address: bytes) -> int: ...
    def setting_peers(self, setting: Setting) -> int:
        """How many peers there will be while it is applied; more than PEERS_MAX cannot be. OSError (ENOSPC): the table
        of allowed IPs may not hold its prefixes."""
    def peer_mix_static(self, peer: int, handshake: Handshake) -> bool:
        """False: the secret is not known yet; compute it into handshake.shared and call peer_learn_static."""
    def peer_learn_static(self, peer: int, handshake: Handshake) -> None: ...
    def peer_mix_psk(self, peer: int, handshake: Handshake) -> None: ...
    def peer_accept_timestamp(self, peer: int, stamp: bytes, now: int) -> bool: ...
    def peer_begin_handshake(self, peer: int) -> int: ...
    def peer_end_handshake(self, peer: int) -> None: ...
    def peer_send_handshake(self, peer: int, message: bytearray, now: int) -> None:
        """Adds the macs in place and sends. OSError: EDESTADDRREQ no endpoint, ENOTCONN no socket, ..."""
    def peer_begin_session_initiator(
        self, peer: int, handshake: Handshake, local_index: int, remote_index: int, now: int
    ) -> None: ...
    def peer_begin_answer(self, peer: int) -> int: ...
    def peer_end_answer(self, peer: int, local_index: int) -> None: ...
    def peer_begin_session_responder(
        self, peer: int, handshake: Handshake, local_index: int, remote_index: int, now: int
    ) -> None: ...
    def peer_heard(self, peer: int, endpoint: Endpoint, message_length: int, now: int) -> bool:
        """An authenticated handshake message of so many bytes came from there. True: the peer had another address or
        port until now."""
    def scan(self, now: int, most: int = ...) -> tuple[list[tuple[int, int]], int | None]:
        """[(peer, debts)], time of the next deadline or None."""
    def peer_send_keepalive(self, peer: int, now: int) -> None: ...
    def peer_handshake_sent(self, peer: int) -> int:
        """When our last initiation or response left, 0: never."""
    def peer_want_handshake(self, peer: int, now: int) -> None:
        """It will be among the debts, unless the last handshake message is not REKEY-TIMEOUT old."""
    def peer_want_handshake_done(self, peer: int) -> None: ...
    def peer_arm_retransmit(self, peer: int, at: int) -> None: ...
    def peer_give_up(self, peer: int, now: int) -> None: ...
    def peer_zero_keys(self, peer: int) -> None: ...
    def peer_stop(self, peer: int) -> None:
        """The device goes down: sessions, timers and staged packets end."""
    def event_fd(self) -> int: ...
    def take_events(self) -> list[Event]: ...
    def take_answers(self, most: int = ...) -> list[Queued]: ...
    def take_initiations(self, most: int = ...) -> list[Queued]: ...
    def quiet(self) -> bool: ...
    def engine_send(
        self,
        packets: _Array,
        lengths: _Array,
        out: _Array,
        out_lengths: _Array,
        endpoints: _Array,
        tos: _Array,
        peers: _Array,
        status: _Array,
        now: int,
    ) -> None:
        """packets (n, stride) uint8, lengths (n,) uint32, out (n, stride) uint8, out_lengths (n,) uint32, endpoints (n, 48)
        uint8 (struct wgf_endpoint; engine.py has the numpy dtype), tos (n,) uint8, peers (n,) uint64, status (n,) uint8."""
    def engine_receive(
        self,
        packets: _Array,
        lengths: _Array,
        endpoints: _Array,
        tos: _Array,
        out: _Array,
        out_lengths: _Array,
        peers: _Array,
        status: _Array,
        now: int,
    ) -> None: ...
    def engine_drain(
        self, out: _Array, out_lengths: _Array, endpoints: _Array, tos: _Array, peers: _Array, now: int
    ) -> int: ...

def pack_endpoint(endpoint: Endpoint) -> bytes:
    """The 48 bytes of struct wgf_endpoint. ValueError names a host or port that is none."""

def unpack_endpoint(raw: Buffer) -> Endpoint | None: ...

# ---- the clock and the interface (worker.h, tun.h) ----

def clock_now() -> int: ...
def tun_open(name: str, vnet: bool = True, several: bool = False) -> tuple[int, str]: ...
def tun_name(fd: int) -> str: ...
def tun_mtu(fd: int) -> int: ...
def tun_set_mtu(fd: int, mtu: int) -> None: ...
def tun_is_up(fd: int) -> bool: ...
