# cython: language_level=3, binding=True, freethreading_compatible=True, embedsignature=False
# cython: boundscheck=False, wraparound=False, cdivision=True, auto_pickle=False
"""The binding of the C core: take buffers, drop the GIL, one C call, map one error. _core.pyi is its manual.

The GIL is dropped wherever a call makes a system call, may wait for a lock of the core, or takes time in
proportion to its arguments or to what it frees; not around hashing a few bytes or looking up one address, which is
over sooner than the GIL is back.
Nothing here relies on the GIL: what the core wants done by one thread at a time has a lock of its own.
"""

import os
import sys
from collections import namedtuple

from wgfast.errors import BatchError, ClosedError, ConfigError, ForkedError, PeerRemovedError

cimport cython
from cpython.buffer cimport (
    PyBUF_FORMAT,
    PyBUF_SIMPLE,
    PyBUF_STRIDES,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EALREADY, EBUSY, EINVAL, EIO, EMLINK, EMSGSIZE, ENOENT, ENOSPC, ESTALE, errno
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

REKEY_AFTER_MESSAGES = WGF_REKEY_AFTER_MESSAGES
REJECT_AFTER_MESSAGES = WGF_REJECT_AFTER_MESSAGES
REKEY_AFTER_TIME = WGF_REKEY_AFTER_TIME
REJECT_AFTER_TIME = WGF_REJECT_AFTER_TIME
REKEY_ATTEMPT_TIME = WGF_REKEY_ATTEMPT_TIME
REKEY_TIMEOUT = WGF_REKEY_TIMEOUT
REKEY_TIMEOUT_JITTER = WGF_REKEY_TIMEOUT_JITTER
KEEPALIVE_TIMEOUT = WGF_KEEPALIVE_TIMEOUT
COOKIE_REFRESH_TIME = WGF_COOKIE_REFRESH_TIME
MESSAGE_MAX = WGF_MESSAGE_MAX
MTU_MAX = WGF_MTU_MAX
BATCH_PACKETS = WGF_BATCH_PACKETS
THREADS_MAX = WGF_THREADS_MAX
QUEUES_MAX = WGF_QUEUES_MAX
PEERS_MAX = WGF_PEERS_MAX
REPLAY_WINDOW = WGF_REPLAY_WINDOW
STATUS_OK = WGF_DROP_NOT
STATUS_STAGED = WGF_DROP_STAGED
STATUS_CONSUMED = WGF_DROP_CONSUMED
DROP_NAMES = tuple([wgf_drop_name(reason).decode() for reason in range(WGF_DROP_COUNT)])
DROP_TEXTS = tuple([wgf_drop_text(reason).decode() for reason in range(WGF_DROP_COUNT)])
OFFLOAD_NAMES = tuple([wgf_offload_name(offload).decode() for offload in range(WGF_OFFLOAD_COUNT)])
OFFLOAD_TEXTS = tuple([wgf_offload_text(offload).decode() for offload in range(WGF_OFFLOAD_COUNT)])
OFFLOAD_STATES = ("untried", "in use", "switched off", "absent", "given up")  # enum wgf_offload_state
LIMIT_NAMES = tuple([wgf_limit_name(limit).decode() for limit in range(WGF_LIMIT_COUNT)])
LIMIT_MOSTS = tuple([wgf_limit_most(limit) for limit in range(WGF_LIMIT_COUNT)])
DEBT_RETRANSMIT = WGF_DEBT_RETRANSMIT
DEBT_KEEPALIVE = WGF_DEBT_KEEPALIVE
DEBT_NEW_HANDSHAKE = WGF_DEBT_NEW_HANDSHAKE
DEBT_ZERO_KEYS = WGF_DEBT_ZERO_KEYS
DEBT_PERSISTENT = WGF_DEBT_PERSISTENT
DEBT_HANDSHAKE = WGF_DEBT_HANDSHAKE
EVENT_CONFIRMED = WGF_EVENT_CONFIRMED
EVENT_ROAMED = WGF_EVENT_ROAMED
EVENT_COOKIE = WGF_EVENT_COOKIE
EVENT_LOOP = WGF_EVENT_LOOP
EVENT_LOAD = WGF_EVENT_LOAD
EVENT_TUN_GONE = WGF_EVENT_TUN_GONE
SAID_REMOVE = WGF_SAID_REMOVE
SAID_UPDATE_ONLY = WGF_SAID_UPDATE_ONLY
SAID_PSK = WGF_SAID_PSK
SAID_ENDPOINT = WGF_SAID_ENDPOINT
SAID_KEEPALIVE = WGF_SAID_KEEPALIVE
SAID_REPLACE = WGF_SAID_REPLACE
SAID_HOST = WGF_SAID_HOST
SAID_LIMITS = WGF_SAID_LIMITS
NEWS_REMOVED = WGF_NEWS_REMOVED
NEWS_PSK = WGF_NEWS_PSK
NEWS_ENDPOINT = WGF_NEWS_ENDPOINT
NEWS_RESET = WGF_NEWS_RESET
NEWS_HOST = WGF_NEWS_HOST

Endpoint = namedtuple("Endpoint", "host port source interface", defaults=(None, 0), module=__name__)
Event = namedtuple("Event", "kind value peer endpoint", module=__name__)
Queued = namedtuple("Queued", "peer endpoint data", module=__name__)
PeerInfo = namedtuple(
    "PeerInfo",
    "handle public_key endpoint sent_bytes received_bytes sent_packets received_packets handshake_at"
    " session_birth session_sent staged persistent_keepalive has_psk session_initiator",
    module=__name__,
)
DeviceInfo = namedtuple(
    "DeviceInfo",
    "peers indices keypairs threads queues events_waiting handshakes_waiting staged packet_memory_ceiling listen_port"
    " rows rows_memory allowedips_memory",
    module=__name__,
)

cdef bint LITTLE_ENDIAN = sys.byteorder == "little"
cdef enum:
    EVENTS_A_CALL = 128
    QUEUED_A_CALL = 64
    OWED_A_CALL = 1024
    NEWS_A_STEP = 4096
    DUMP_A_CALL = 65536


# ---- errors ----

cdef int64_t check(int64_t result) except -1:
    """A C function's result; its error, if it is one, as the exception it stands for."""
    if result >= 0:
        return result
    if result == -EOWNERDEAD:
        raise ForkedError("device")
    if result == -ESTALE:
        raise PeerRemovedError("the peer was removed, or its handshake has been replaced by a newer one")
    raise OSError(-result, os.strerror(-result))


cdef str FULL_REMEDY = "remove prefixes, or join them into shorter ones"


cdef int check_allowed(int64_t result) except -1:
    """The same for what puts a prefix into a table of allowed IPs."""
    if result == -ENOSPC:
        raise OSError(ENOSPC, f"the table of allowed IPs is at its limit: {FULL_REMEDY}")
    check(result)
    return 0


cdef class Fixed:
    """What owns memory of the core stays where it is."""

    def _refuse(self):
        raise TypeError(
            f"{type(self).__name__} cannot be pickled or copied: it owns keys, counters or tables of the C core"
        )

    def __reduce__(self):
        self._refuse()

    def __reduce_ex__(self, protocol):
        self._refuse()

    def __copy__(self):
        self._refuse()

    def __deepcopy__(self, memo):
        self._refuse()


# ---- buffers ----

@cython.final
@cython.freelist(32)
cdef class Array:
    """The buffer behind one argument, held until the call is over."""

    cdef Py_buffer buf
    cdef bint held
    cdef str name

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.buf)

    cdef char code(self):
        """The one letter of a native format such as "B" or "<I"; 0 for anything else."""
        cdef const char *text = self.buf.format
        if text == NULL:
            return b"B"
        if text[0] == b"@" or text[0] == b"=" or text[0] == (b"<" if LITTLE_ENDIAN else b">"):
            text += 1
        return text[0] if text[0] != 0 and text[1] == 0 else 0

    cdef bint holds(self, char kind):
        """kind: "B" uint8, "?" uint8 or bool, "I" uint32, "Q" uint64."""
        cdef char code = self.code()
        if kind == b"?" and code == b"?":
            return True
        if code not in (b"B", b"H", b"I", b"L", b"Q", b"N"):
            return False
        return self.buf.itemsize == (8 if kind == b"Q" else 4 if kind == b"I" else 1)

    cdef bint contiguous(self):
        """All but the first axis, and the first."""
        cdef Py_ssize_t step = self.buf.itemsize
        cdef int axis = self.buf.ndim
        while axis > 0:
            axis -= 1
            if self.buf.shape[axis] > 1 and self.buf.strides[axis] != step:
                return False
            step *= self.buf.shape[axis]
        return True

    cdef str described(self):
        cdef char code = self.code()
        bits = 8 * self.buf.itemsize
        if code in (b"B", b"H", b"I", b"L", b"Q", b"N"):
            dtype = f"uint{bits}"
        elif code in (b"b", b"h", b"i", b"l", b"q", b"n"):
            dtype = f"int{bits}"
        elif code in (b"e", b"f", b"d", b"g"):
            dtype = f"float{bits}"
        elif code == b"?":
            dtype = "bool"
        else:
            dtype = f"format {(<bytes>self.buf.format).decode('ascii', 'replace')!r}"
        return f"{dtype} of shape {tuple([self.buf.shape[i] for i in range(self.buf.ndim)])}"

    cdef int refuse(self, str problem, str expected) except -1:
        raise BatchError(f"{self.name}: {self.described()}{problem}: expected {expected}")

    cdef int must_be_writable(self, str expected) except -1:
        if self.buf.readonly:
            self.refuse(", read-only", f"{expected}, writable")
        return 0

    cdef wgf_row_block block(self):
        """As rows of bytes, whatever it holds."""
        cdef wgf_row_block block
        block.data = <uint8_t *>self.buf.buf
        block.n = self.buf.shape[0]
        block.width = self.buf.itemsize
        if self.buf.ndim == 2:
            block.width *= self.buf.shape[1]
        block.stride = self.buf.strides[0] if block.n > 1 else block.width
        return block


cdef Array array_of(object argument, str name, str expected):
    cdef Array array = Array.__new__(Array)
    array.name = name
    try:
        PyObject_GetBuffer(argument, &array.buf, PyBUF_STRIDES | PyBUF_FORMAT)
    except (TypeError, BufferError, ValueError) as error:
        raise BatchError(f"{name}: {type(argument).__name__}: {error}: expected {expected}") from None
    array.held = True
    return array


cdef Array rows_of(object argument, str name, bint writable):
    """(n, width) uint8 whose rows may stand apart: what a slice of columns is."""
    expected = "uint8 of shape (n, width), each row contiguous"
    cdef Array array = array_of(argument, name, expected)
    if array.buf.ndim != 2 or not array.holds(b"B"):
        array.refuse("", expected)
    if array.buf.shape[1] > 1 and array.buf.strides[1] != 1:
        array.refuse(f" with strides {(array.buf.strides[0], array.buf.strides[1])}", expected)
    if array.buf.shape[0] > 1 and array.buf.strides[0] < array.buf.shape[1]:
        array.refuse(
            f" with strides {(array.buf.strides[0], array.buf.strides[1])}",
            "rows that follow each other and do not overlap",
        )
    if writable:
        array.must_be_writable(expected)
    return array


cdef Array column_of(object argument, str name, char kind, Py_ssize_t n, bint writable):
    """n numbers, contiguous and aligned. n -1: however many."""
    dtype = "uint64" if kind == b"Q" else "uint32" if kind == b"I" else "uint8 or bool" if kind == b"?" else "uint8"
    expected = f"contiguous {dtype} of shape ({'n' if n < 0 else n},)"
    cdef Array array = array_of(argument, name, expected)
    if array.buf.ndim != 1 or not array.holds(kind) or (n >= 0 and array.buf.shape[0] != n):
        array.refuse("", expected)
    if not array.contiguous():
        array.refuse(f" with stride {array.buf.strides[0]}", expected)
    if <size_t>array.buf.buf % <size_t>array.buf.itemsize:
        array.refuse(" at an unaligned address", expected)
    if writable:
        array.must_be_writable(expected)
    return array


cdef Array table_of(object argument, str name, Py_ssize_t n, Py_ssize_t width, bint writable):
    """n rows of width bytes, contiguous as a whole. -1: however many."""
    expected = f"contiguous uint8 of shape ({'n' if n < 0 else n}, {'k' if width < 0 else width})"
    cdef Array array = array_of(argument, name, expected)
    if (
        array.buf.ndim != 2
        or not array.holds(b"B")
        or (n >= 0 and array.buf.shape[0] != n)
        or (width >= 0 and array.buf.shape[1] != width)
    ):
        array.refuse("", expected)
    if not array.contiguous():
        array.refuse(f" with strides {(array.buf.strides[0], array.buf.strides[1])}", expected)
    if writable:
        array.must_be_writable(expected)
    return array


cdef Array endpoints_of(object argument, Py_ssize_t n, bint writable):
    cdef Array array = table_of(argument, "endpoints", n, sizeof(wgf_endpoint), writable)
    if <size_t>array.buf.buf % 4:
        array.refuse(" at an unaligned address", "an address that is a multiple of 4")
    return array


cdef Array bytes_of(object argument, str name, Py_ssize_t size):
    """The bytes of one thing (a key, a message). Its value is never part of an error. size -1: any."""
    cdef Array array = Array.__new__(Array)
    array.name = name
    try:
        PyObject_GetBuffer(argument, &array.buf, PyBUF_SIMPLE)
    except TypeError:
        raise TypeError(f"{name}: {type(argument).__name__}: expected a bytes-like object") from None
    except (BufferError, ValueError) as error:
        raise ValueError(f"{name}: {error}: expected contiguous bytes") from None
    array.held = True
    if size >= 0 and array.buf.len != size:
        raise ValueError(f"{name}: {array.buf.len} bytes: expected {size}")
    return array


cdef int must_lie_apart(Array written, list others) except -1:
    cdef wgf_row_block mine = written.block(), theirs
    cdef Array other
    for other in others:
        theirs = other.block()
        if not wgf_rows_apart(&mine, &theirs):
            raise BatchError(f"{written.name}: shares memory with {other.name}: expected memory of its own")
    return 0


# ---- the AEAD of a batch ----

def aead_kernels():
    """Each kernel of this build, best first: (name, usable, reason)."""
    cdef wgf_aead_state state
    cdef int i = 0
    kernels = []
    while wgf_aead_kernels[i] != NULL:
        state = wgf_aead_examine(wgf_aead_kernels[i])
        kernels.append((wgf_aead_kernels[i].name.decode(), state == WGF_AEAD_USABLE, wgf_aead_reason(state).decode()))
        i += 1
    return kernels


def aead_kernel():
    """The name of the kernel in use."""
    return wgf_aead_chosen().name.decode()


def aead_choose(name):
    """Use this kernel; None: the best. ConfigError names what exists when it is unknown or unusable."""
    cdef bytes encoded = b"" if name is None else name.encode()
    cdef const char *text = NULL if name is None else PyBytes_AS_STRING(encoded)
    cdef int result
    with nogil:
        result = wgf_aead_choose(text)
    if result < 0:
        refuse_kernel("AEAD kernel", name)


def aead_environment():
    """ConfigError if WGFAST_AEAD names no kernel that can be used; a Core, seal and open say the same. Once there
    is a choice, the environment is not read again."""
    heed_environment()


cdef int heed_environment() except -1:
    # Examines kernels once in a process, a few milliseconds; after that it is one load.
    if wgf_aead_environment() < 0:
        refuse_kernel("WGFAST_AEAD", os.environ.get("WGFAST_AEAD") or None)
    return 0


cdef int refuse_kernel(str what, object name) except -1:
    known = ", ".join([f"{kernel} ({reason})" for kernel, _, reason in aead_kernels()])
    if name is None:
        raise ConfigError(f"{what}: none of this build can be used: {known}")
    raise ConfigError(f"{what}: {name!r}: cannot be used; this build has {known}")


cdef list fill_jobs(wgf_row_jobs *jobs, packets, lengths, keys, nonces, out, ok, ad):
    """Every array of seal and open, checked; those that are returned keep the memory alive."""
    memset(jobs, 0, sizeof(jobs[0]))
    cdef Array p = rows_of(packets, "packets", False)
    cdef Py_ssize_t n = p.buf.shape[0]
    cdef Array m = column_of(lengths, "lengths", b"I", n, False)
    cdef Array k = array_of(keys, "keys", f"uint8 of shape ({n}, 32) or (32,)")
    k = column_of(keys, "keys", b"B", 32, False) if k.buf.ndim == 1 else table_of(keys, "keys", n, 32, False)
    cdef Array c = array_of(nonces, "nonces", f"uint64 of shape ({n},) or uint8 of shape ({n}, 12)")
    if c.buf.ndim == 1:
        c = column_of(nonces, "nonces", b"Q", n, False)
    else:
        c = table_of(nonces, "nonces", n, 12, False)
    cdef Array o = rows_of(out, "out", True)
    if o.buf.shape[0] != n:
        o.refuse("", f"{n} rows, as packets has")
    jobs.src = p.block()
    jobs.dst = o.block()
    jobs.lengths = <const uint32_t *>m.buf.buf
    jobs.keys = <const uint8_t *>k.buf.buf
    jobs.key_stride = 0 if k.buf.ndim == 1 else 32
    jobs.nonces = c.buf.buf
    jobs.nonce_size = 8 if c.buf.ndim == 1 else 12
    others = [m, k, c]
    fill_ad(jobs, ad, n, others)
    must_lie_apart(o, others)
    if not (jobs.src.data == jobs.dst.data and (n < 2 or jobs.src.stride == jobs.dst.stride)):
        must_lie_apart(o, [p])
    if ok is not None:
        fill_ok(jobs, ok, n, [p, o, *others], others)
    return [p, o, others]


cdef int fill_ad(wgf_row_jobs *jobs, object ad, Py_ssize_t n, list held) except -1:
    if ad is None:
        return 0
    cdef Array a = array_of(ad, "ad", f"bytes, or uint8 of shape ({n}, k)")
    a = column_of(ad, "ad", b"B", -1, False) if a.buf.ndim == 1 else table_of(ad, "ad", n, -1, False)
    jobs.ad = <const uint8_t *>a.buf.buf
    jobs.ad_len = a.buf.shape[a.buf.ndim - 1]
    jobs.ad_stride = 0 if a.buf.ndim == 1 else jobs.ad_len
    held.append(a)
    return 0


cdef int fill_ok(wgf_row_jobs *jobs, object ok, Py_ssize_t n, list others, list held) except -1:
    cdef Array flags = column_of(ok, "ok", b"?", n, True)
    must_lie_apart(flags, others)
    jobs.ok = <uint8_t *>flags.buf.buf
    held.append(flags)
    return 0


cdef int64_t check_rows(wgf_row_jobs *jobs, int64_t result, str need) except -1:
    if result != -EMSGSIZE:
        return check(result)
    if jobs.bad_length > jobs.src.width:
        where = f"a row of packets holds {jobs.src.width} bytes"
    else:
        where = f"a row of out holds {jobs.dst.width} bytes, {need}"
    raise BatchError(f"lengths[{jobs.bad_row}]: {jobs.bad_length}: {where}")


def seal(packets, lengths, keys, nonces, out, ad=None):
    """Seal a batch with ChaCha20-Poly1305 (RFC 8439), in place or into another array.

    packets: (n, width) uint8, lengths[i] bytes of row i used. Rows may stand apart (a slice of columns).
    lengths: (n,) uint32, bytes.
    keys: (n, 32) uint8, or (32,) uint8 for all.
    nonces: (n,) uint64, WireGuard's counters; or (n, 12) uint8, RFC 8439 nonces.
    out: (n, width) uint8, written: ciphertext, then 16 bytes of tag; room for lengths[i] + 16 in each row.
        It may be packets itself (rows that begin at the same address), or lie apart.
    ad: None, one bytes-like for all, or (n, k) uint8.

    BatchError names the array that is wrong and what was expected; then nothing was written.
    """
    cdef wgf_row_jobs jobs
    cdef int64_t result
    heed_environment()
    held = fill_jobs(&jobs, packets, lengths, keys, nonces, out, None, ad)
    with nogil:
        result = wgf_rows_seal(&jobs)
    check_rows(&jobs, result, "sealing needs 16 more than the length")


def open(packets, lengths, keys, nonces, out, ok, ad=None):
    """Open a batch: the reverse of seal. Returns how many tags were right.

    packets: (n, width) uint8: ciphertext and tag; lengths (n,) uint32 counts both. Keys, nonces and ad as for seal.
    out: (n, width) uint8, written: lengths[i] - 16 bytes of plaintext, or as many zeros where the tag was wrong. It
        may be packets itself (rows that begin at the same address), or lie apart.
    ok: (n,) uint8 or bool, written: 1 where the tag was right. A length below 16 is not ok.

    BatchError names the array that is wrong and what was expected; then nothing was written.
    """
    cdef wgf_row_jobs jobs
    cdef int64_t result
    if ok is None:
        raise BatchError("ok: None: expected contiguous uint8 or bool of shape (n,)")
    heed_environment()
    held = fill_jobs(&jobs, packets, lengths, keys, nonces, out, ok, ad)
    with nogil:
        result = wgf_rows_open(&jobs)
    return check_rows(&jobs, result, "opening needs the length less 16")


# ---- the replay window ----

cdef class ReplayWindow(Fixed):
    """The sliding window of RFC 6479, REPLAY_WINDOW counters wide. Any thread may call; they take turns."""

    cdef wgf_replay window
    cdef cython.pymutex turn

    def __cinit__(self):
        wgf_replay_reset(&self.window)

    def accept(self, uint64_t counter):
        """True, and remembered, if the counter is new, not too old, and below REJECT_AFTER_MESSAGES."""
        with self.turn:
            return wgf_replay_accept(&self.window, counter)

    def accept_many(self, counters, accepted):
        """The same for counters ((n,) uint64) in order; accepted ((n,) uint8 or bool) is written. Returns how many."""
        cdef Array c = column_of(counters, "counters", b"Q", -1, False)
        cdef Array a = column_of(accepted, "accepted", b"?", c.buf.shape[0], True)
        cdef size_t count
        must_lie_apart(a, [c])
        with self.turn:
            with nogil:
                count = wgf_replay_accept_many(
                    &self.window, <const uint64_t *>c.buf.buf, c.buf.shape[0], <uint8_t *>a.buf.buf
                )
        return count

    def reset(self):
        """Forget everything: a new key."""
        with self.turn:
            wgf_replay_reset(&self.window)


# ---- allowed IPs ----

cdef const uint8_t *address_of(int family, bytes address, unsigned length) except NULL:
    """The bytes of an address whose size and prefix length belong to its family."""
    if family != WGF_IPV4 and family != WGF_IPV6:
        raise ValueError(f"family: {family}: expected 4 or 6")
    cdef Py_ssize_t size = 4 if family == WGF_IPV4 else 16
    if len(address) != size:
        raise ValueError(f"address: {len(address)} bytes: IPv{family} has {size}")
    if length > 8 * size:
        raise ValueError(f"prefix length: {length}: IPv{family} has 0 to {8 * size}")
    return <const uint8_t *>PyBytes_AS_STRING(address)


cdef tuple prefix_of(const wgf_prefix *prefix):
    return prefix.family, prefix.address[: 4 if prefix.family == WGF_IPV4 else 16], prefix.length


cdef uint32_t owner_of(object owner) except? 0xffffffff:
    if not 0 <= owner <= WGF_OWNER_MAX:
        raise ValueError(f"owner: {owner}: expected 0 to {WGF_OWNER_MAX}")
    return owner


cdef Array addresses_of(object addresses):
    cdef Array a = array_of(addresses, "addresses", "uint32 of shape (n,) or uint8 of shape (n, 16)")
    if a.buf.ndim == 1:
        return column_of(addresses, "addresses", b"I", -1, False)
    return table_of(addresses, "addresses", -1, 16, False)


cdef class Routes(Fixed):
    """Longest-prefix match from address to owner (0 to PEERS_MAX - 1). Lookups never lock; any thread may call."""

    cdef wgf_routes *routes

    def __cinit__(self):
        self.routes = wgf_routes_create()
        if self.routes == NULL:
            raise MemoryError("no memory for allowed IPs")

    def __dealloc__(self):
        if self.routes != NULL:
            with nogil:
                wgf_routes_destroy(self.routes)

    def insert(self, int family, bytes address, unsigned length, owner):
        """Give the prefix to owner, whoever had it. Host bits are masked."""
        cdef const uint8_t *a = address_of(family, address, length)
        cdef uint32_t to = owner_of(owner)
        cdef int result
        with nogil:
            result = wgf_allowedips_insert(self.routes.table, family, a, length, to)
        check_allowed(result)

    def insert_many(self, addresses, lengths, owners):
        """addresses: as for lookup_many; lengths: (n,) uint8; owners: (n,) uint32. All are looked at before the first
        is inserted."""
        cdef Array a = addresses_of(addresses)
        cdef Py_ssize_t n = a.buf.shape[0]
        cdef Array lengths_ = column_of(lengths, "lengths", b"B", n, False)
        cdef Array owners_ = column_of(owners, "owners", b"I", n, False)
        cdef int family = WGF_IPV4 if a.buf.ndim == 1 else WGF_IPV6, result
        cdef const uint8_t *l = <const uint8_t *>lengths_.buf.buf
        cdef const uint32_t *o = <const uint32_t *>owners_.buf.buf
        cdef size_t at
        with nogil:
            result = wgf_allowedips_insert_many(self.routes.table, family, a.buf.buf, l, o, n, &at)
        if result == -EINVAL:
            if o[at] > WGF_OWNER_MAX:
                raise ValueError(f"owners[{at}]: {o[at]}: expected 0 to {WGF_OWNER_MAX}")
            raise ValueError(f"lengths[{at}]: {l[at]}: expected 0 to {32 if family == WGF_IPV4 else 128}")
        check_allowed(result)

    def remove(self, int family, bytes address, unsigned length, owner=None):
        """Remove the prefix if owner (None: anybody) has it; False if not."""
        cdef const uint8_t *a = address_of(family, address, length)
        cdef uint32_t of = WGF_OWNER_NONE if owner is None else owner_of(owner)
        cdef int result
        with nogil:
            result = wgf_allowedips_remove(self.routes.table, family, a, length, of)
        check(0 if result == -ENOENT else result)
        return result == 0

    def remove_owner(self, owner):
        """Remove every prefix of owner; returns how many there were."""
        cdef uint32_t of = owner_of(owner)
        cdef size_t count
        with nogil:
            count = wgf_allowedips_remove_owner(self.routes.table, of)
        return count

    def lookup(self, int family, bytes address):
        """The owner of the longest prefix that matches, or None."""
        cdef const uint8_t *a = address_of(family, address, 0)
        cdef uint32_t owner, number
        # The epoch's lock is all it may wait for, which nobody holds for longer than it takes to have the GIL again.
        if family == WGF_IPV4:
            number = <uint32_t>a[0] << 24 | <uint32_t>a[1] << 16 | <uint32_t>a[2] << 8 | a[3]
            wgf_allowedips_lookup4_many(self.routes.table, &number, 1, &owner)
        else:
            wgf_allowedips_lookup6_many(self.routes.table, a, 1, &owner)
        return None if owner == WGF_OWNER_NONE else owner

    def lookup_many(self, addresses, owners):
        """addresses: (n,) uint32 in host order (IPv4) or (n, 16) uint8 (IPv6); owners: (n,) uint32, written,
        0xffffffff where nothing matches."""
        cdef Array a = addresses_of(addresses)
        cdef Array o = column_of(owners, "owners", b"I", a.buf.shape[0], True)
        must_lie_apart(o, [a])
        cdef uint32_t *into = <uint32_t *>o.buf.buf
        with nogil:
            if a.buf.ndim == 1:
                wgf_allowedips_lookup4_many(self.routes.table, <const uint32_t *>a.buf.buf, a.buf.shape[0], into)
            else:
                wgf_allowedips_lookup6_many(self.routes.table, <const uint8_t *>a.buf.buf, a.buf.shape[0], into)

    def entries(self, owner=None):
        """[(family, address, length, owner)], IPv4 first, in order of address, then length."""
        cdef uint32_t of = WGF_OWNER_NONE if owner is None else owner_of(owner)
        cdef wgf_prefix *prefixes = NULL
        cdef size_t room = 0, count, i
        try:
            while True:
                with nogil:
                    count = wgf_allowedips_list(self.routes.table, of, prefixes, room)
                if count <= room:
                    return [(*prefix_of(&prefixes[i]), prefixes[i].owner) for i in range(count)]
                free(prefixes)
                prefixes = <wgf_prefix *>malloc(count * sizeof(wgf_prefix))
                if prefixes == NULL:
                    raise MemoryError("no memory for a list of allowed IPs")
                room = count
        finally:
            free(prefixes)

    def memory(self):
        """Bytes for lookups and changes together."""
        cdef size_t size
        with nogil:
            size = wgf_allowedips_memory(self.routes.table)
        return size

    def __len__(self):
        cdef size_t count
        with nogil:
            count = wgf_allowedips_count(self.routes.table)
        return count


# ---- hashing ----

def blake2s(data, int size=32, key=b""):
    """BLAKE2s (RFC 7693) of data: size 1 to 32 bytes, keyed by 0 to 32 bytes."""
    cdef Array d = bytes_of(data, "data", -1), k = bytes_of(key, "key", -1)
    if not 1 <= size <= 32:
        raise ValueError(f"size: {size}: expected 1 to 32")
    if k.buf.len > 32:
        raise ValueError(f"key: {k.buf.len} bytes: expected at most 32")
    cdef uint8_t out[32]
    with nogil:
        wgf_blake2s(out, size, <uint8_t *>k.buf.buf, k.buf.len, <uint8_t *>d.buf.buf, d.buf.len)
    return out[:size]


def kdf(key, data, int n):
    """KDF_n of the WireGuard paper (HKDF of HMAC-BLAKE2s): a 32-byte key and data to n (1 to 3) times 32 bytes."""
    cdef Array k = bytes_of(key, "key", WGF_HASH_SIZE), d = bytes_of(data, "data", -1)
    if not 1 <= n <= 3:
        raise ValueError(f"n: {n}: expected 1 to 3")
    cdef uint8_t out[3][32]
    wgf_kdf(
        out[0], out[1] if n > 1 else NULL, out[2] if n > 2 else NULL,
        <uint8_t *>k.buf.buf, <uint8_t *>d.buf.buf, d.buf.len,
    )
    outputs = tuple([out[i][:32] for i in range(n)])
    wgf_wipe(out, sizeof(out))
    return outputs


def xseal(key, nonce, data, ad=b""):
    """XChaCha20-Poly1305: data and a tag of 16 bytes. key 32 bytes, nonce 24 bytes."""
    cdef Array k = bytes_of(key, "key", 32), x = bytes_of(nonce, "nonce", 24)
    cdef Array d = bytes_of(data, "data", -1), a = bytes_of(ad, "ad", -1)
    cdef bytes out = PyBytes_FromStringAndSize(NULL, d.buf.len + WGF_TAG_SIZE)
    wgf_aead_xseal(
        <uint8_t *>PyBytes_AS_STRING(out), <uint8_t *>d.buf.buf, d.buf.len, <uint8_t *>a.buf.buf, a.buf.len,
        <uint8_t *>x.buf.buf, <uint8_t *>k.buf.buf,
    )
    return out


def xopen(key, nonce, data, ad=b""):
    """The reverse of xseal; None if the tag is wrong."""
    cdef Array k = bytes_of(key, "key", 32), x = bytes_of(nonce, "nonce", 24)
    cdef Array d = bytes_of(data, "data", -1), a = bytes_of(ad, "ad", -1)
    cdef Py_ssize_t size = d.buf.len - WGF_TAG_SIZE
    if size < 0:
        return None
    cdef bytes out = PyBytes_FromStringAndSize(NULL, size)
    cdef bint right = wgf_aead_xopen(
        <uint8_t *>PyBytes_AS_STRING(out), <uint8_t *>d.buf.buf, size, <uint8_t *>a.buf.buf, a.buf.len,
        <uint8_t *>x.buf.buf, <uint8_t *>k.buf.buf,
    )
    return out if right else None


# ---- X25519 ----

cdef wgf_x25519 x25519  # none until use_x25519


def use_x25519(size_t multiply, size_t base):
    """From now on X25519 is computed by the functions at these addresses, libsodium's crypto_scalarmult and
    crypto_scalarmult_base or what takes and returns the same. They are called with the GIL released."""
    if multiply == 0 or base == 0:
        raise ValueError("multiply, base: expected the addresses of functions")
    x25519.multiply = <int (*)(uint8_t *, const uint8_t *, const uint8_t *) noexcept nogil><void *>multiply
    x25519.base = <int (*)(uint8_t *, const uint8_t *) noexcept nogil><void *>base


cdef const wgf_x25519 *x25519_functions() except NULL:
    if x25519.multiply == NULL:
        raise RuntimeError("no X25519: wgfast.noise was not imported")
    return &x25519


# ---- the state of a handshake ----

@cython.final
cdef class SecretField:
    """Exports 32 bytes of a handshake's state; a memoryview of it keeps the state alive."""

    cdef Handshake owner
    cdef uint8_t *field

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.field, WGF_KEY_SIZE, 0, flags)


cdef object view_of(Handshake owner, uint8_t *field):
    cdef SecretField secret = SecretField.__new__(SecretField)
    secret.owner = owner
    secret.field = field
    return memoryview(secret)


cdef class Handshake(Fixed):
    """The symmetric state of one Noise_IKpsk2 handshake, in secret memory; wiped when it goes. One thread at a time."""

    cdef wgf_handshake *hs

    def __cinit__(self):
        self.hs = wgf_handshake_take()
        if self.hs == NULL:
            raise MemoryError("no secret memory for a handshake")

    def __dealloc__(self):
        # In a forked child the memory is zeros already, and its pool belongs to the parent.
        if self.hs != NULL and wgf_handshake_alive(self.hs):
            wgf_handshake_give(self.hs)

    cdef wgf_handshake *state(self) except NULL:
        if not wgf_handshake_alive(self.hs):
            raise ForkedError("handshake")
        return self.hs

    @property
    def ephemeral(self):
        """32 writable bytes of secret memory: our ephemeral private key."""
        return view_of(self, self.state().ephemeral)

    @property
    def shared(self):
        """32 writable bytes of secret memory: where X25519 puts its result. Tests and tools only."""
        return view_of(self, self.state().shared)

    @property
    def remote_ephemeral(self):
        """The peer's ephemeral public key, 32 bytes."""
        return self.state().remote_ephemeral[:WGF_KEY_SIZE]

    @remote_ephemeral.setter
    def remote_ephemeral(self, value):
        cdef Array key = bytes_of(value, "remote_ephemeral", WGF_KEY_SIZE)
        memcpy(self.state().remote_ephemeral, key.buf.buf, WGF_KEY_SIZE)

    @property
    def remote_static(self):
        """The peer's static public key, 32 bytes."""
        return self.state().remote_static[:WGF_KEY_SIZE]

    @remote_static.setter
    def remote_static(self, value):
        cdef Array key = bytes_of(value, "remote_static", WGF_KEY_SIZE)
        memcpy(self.state().remote_static, key.buf.buf, WGF_KEY_SIZE)

    @property
    def hash(self):
        """H, 32 bytes."""
        return self.state().hash[:WGF_HASH_SIZE]

    def assign(self, Handshake other not None):
        """Takes over the state of another, which stays as it is."""
        memcpy(self.state(), other.state(), sizeof(wgf_handshake))

    def generate(self):
        """A new ephemeral key pair, of which the public key is returned, 32 bytes."""
        cdef wgf_handshake *hs = self.state()
        cdef const wgf_x25519 *functions = x25519_functions()
        cdef uint8_t public_key[32]
        cdef bint made
        with nogil:
            made = wgf_handshake_generate(hs, functions, public_key)
        if not made:
            raise OSError("no ephemeral key: the system has no random bytes")
        return public_key[:32]

    def dh(self, point):
        """X25519 of our ephemeral key and point (32 bytes) into shared. False: a point of low order."""
        cdef Array p = bytes_of(point, "point", WGF_KEY_SIZE)
        cdef wgf_handshake *hs = self.state()
        cdef const wgf_x25519 *functions = x25519_functions()
        cdef bint sound
        with nogil:
            sound = wgf_handshake_dh(hs, functions, <uint8_t *>p.buf.buf)
        return sound

    def begin(self, responder_static):
        """C and H from the construction's name, the identifier and the responder's static public key."""
        cdef Array key = bytes_of(responder_static, "responder_static", WGF_KEY_SIZE)
        wgf_handshake_begin(self.state(), <uint8_t *>key.buf.buf)

    def mix_hash(self, data):
        """H := HASH(H || data)"""
        cdef Array d = bytes_of(data, "data", -1)
        wgf_handshake_mix_hash(self.state(), <uint8_t *>d.buf.buf, d.buf.len)

    def mix_ephemeral(self, public_key):
        """C := KDF1(C, public_key); H := HASH(H || public_key)"""
        cdef Array key = bytes_of(public_key, "public_key", WGF_KEY_SIZE)
        wgf_handshake_mix_ephemeral(self.state(), <uint8_t *>key.buf.buf)

    def mix_shared(self):
        """(C, key) := KDF2(C, shared); shared is wiped."""
        wgf_handshake_mix_shared(self.state())

    def mix_chain(self):
        """C := KDF1(C, shared); shared is wiped."""
        wgf_handshake_mix_chain(self.state())

    def mix_psk(self, psk):
        """(C, tau, key) := KDF3(C, psk); H := HASH(H || tau). psk: 32 bytes of Python's memory."""
        cdef Array key = bytes_of(psk, "psk", WGF_KEY_SIZE)
        wgf_handshake_mix_psk(self.state(), <uint8_t *>key.buf.buf)

    def seal(self, plaintext):
        """The plaintext sealed under the current key and H, which takes it in; 16 bytes longer."""
        cdef wgf_handshake *hs = self.state()
        cdef Array d = bytes_of(plaintext, "plaintext", -1)
        cdef bytes out = PyBytes_FromStringAndSize(NULL, d.buf.len + WGF_TAG_SIZE)
        wgf_handshake_seal(hs, <uint8_t *>PyBytes_AS_STRING(out), <uint8_t *>d.buf.buf, d.buf.len)
        return out

    def open(self, ciphertext):
        """The reverse of seal; None, and H as it was, if it does not verify."""
        cdef wgf_handshake *hs = self.state()
        cdef Array d = bytes_of(ciphertext, "ciphertext", -1)
        cdef Py_ssize_t size = d.buf.len - WGF_TAG_SIZE
        if size < 0:
            return None
        cdef bytes out = PyBytes_FromStringAndSize(NULL, size)
        cdef bint right = wgf_handshake_open(hs, <uint8_t *>PyBytes_AS_STRING(out), <uint8_t *>d.buf.buf, size)
        return out if right else None

    def split(self):
        """The transport keys, initiator's first, as bytes: tests and tools only; wipes the state."""
        cdef wgf_handshake *hs = self.state()
        cdef uint8_t keys[2][32]
        wgf_handshake_split(hs, keys[0], keys[1])
        wgf_handshake_wipe(hs)
        pair = keys[0][:32], keys[1][:32]
        wgf_wipe(keys, sizeof(keys))
        return pair

    def wipe(self):
        """Overwrite the whole state with zeros."""
        wgf_handshake_wipe(self.state())


# ---- endpoints ----

cdef int parse_address(str what, text, int *family, uint8_t *address) except -1:
    cdef bytes raw = text.encode("ascii", "replace")
    if b"\0" not in raw:
        if inet_pton(AF_INET, PyBytes_AS_STRING(raw), address) == 1:
            family[0] = WGF_IPV4
            return 0
        if inet_pton(AF_INET6, PyBytes_AS_STRING(raw), address) == 1:
            family[0] = WGF_IPV6
            return 0
    raise ValueError(f"{what}: {text!r}: expected a numeric IPv4 or IPv6 address")


cdef uint32_t parse_number(str what, object value, uint32_t limit) except? 0xffffffff:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number <= limit:
        raise ValueError(f"{what}: {value!r}: expected a number from 0 to {limit}")
    return number


cdef int fill_endpoint(wgf_endpoint *raw, object endpoint) except -1:
    cdef int family = 0, source_family = 0
    host, port, source, interface = endpoint
    memset(raw, 0, sizeof(raw[0]))
    text, percent, scope = host.partition("%")
    parse_address("host", text, &family, raw.address)
    if percent:
        if family != WGF_IPV6:
            raise ValueError(f"host: {host!r}: only an IPv6 address has a scope")
        raw.scope = parse_number("scope of the host", scope, 0xffffffff)
    raw.family = family
    raw.port = parse_number("port", port, 65535)
    raw.interface = parse_number("interface", interface, 0x7fffffff)
    if source is not None:
        parse_address("source", source, &source_family, raw.source)
        if source_family != family:
            raise ValueError(f"source: {source!r}: expected an IPv{family} address, as the host is")
        raw.has_source = 1
    return 0


cdef str address_text(int family, const uint8_t *address):
    cdef char text[INET6_ADDRSTRLEN]
    inet_ntop(AF_INET if family == WGF_IPV4 else AF_INET6, address, text, INET6_ADDRSTRLEN)
    return text.decode("ascii")


cdef object endpoint_of(const wgf_endpoint *raw):
    if raw.family != WGF_IPV4 and raw.family != WGF_IPV6:
        return None
    host = address_text(raw.family, raw.address)
    if raw.scope:
        host = f"{host}%{raw.scope}"
    return Endpoint(host, raw.port, address_text(raw.family, raw.source) if raw.has_source else None, raw.interface)


def pack_endpoint(endpoint):
    """The 48 bytes of struct wgf_endpoint. ValueError names a host, source or port that is none."""
    cdef wgf_endpoint raw
    fill_endpoint(&raw, endpoint)
    return (<uint8_t *>&raw)[: sizeof(raw)]


def unpack_endpoint(raw):
    """The Endpoint in 48 bytes, None if they hold none."""
    cdef Array a = bytes_of(raw, "raw", sizeof(wgf_endpoint))
    cdef wgf_endpoint endpoint
    memcpy(&endpoint, a.buf.buf, sizeof(endpoint))
    return endpoint_of(&endpoint)


# ---- the device ----

cdef int ask_keeper(void *context, int fd4, int fd6, uint32_t fwmark) noexcept with gil:
    try:
        (<object>context)(fd4, fd6, fwmark)
    except OSError as error:
        return -(error.errno or EIO)
    except BaseException:
        return -EIO
    return 0


ctypedef int64_t (*take_t)(wgf_device *, wgf_queued_handshake *, size_t) noexcept nogil


cdef class Core(Fixed):
    """struct wgf_device: see wgfast.h, whose functions these are by name. Dead after fork()."""

    cdef wgf_device *device
    cdef wgf_gate gate  # no call is inside the device when it goes
    cdef bint has_gate
    cdef cython.pymutex events_turn
    cdef wgf_event *events
    cdef object keeper  # called by C for as long as the device lives

    def __cinit__(self, uint32_t threads, uint32_t offloads_off=0, uint32_t queues=1):
        cdef wgf_device_options options
        cdef int error
        heed_environment()
        check(wgf_gate_init(&self.gate))
        self.has_gate = True
        self.events = <wgf_event *>malloc(EVENTS_A_CALL * sizeof(wgf_event))
        if self.events == NULL:
            raise MemoryError("no memory for a device's events")
        options.threads = threads
        options.offloads_off = offloads_off
        options.queues = queues
        with nogil:
            self.device = wgf_device_create(&options)
            error = errno
        if self.device == NULL:
            check(-error)

    def __dealloc__(self):
        if self.device != NULL and wgf_gate_close(&self.gate):
            with nogil:
                wgf_device_destroy(self.device)
        if self.has_gate:
            wgf_gate_destroy(&self.gate)
        free(self.events)

    cdef int enter(self) except -1:
        """Between enter and leave nothing may raise and no Python code may run: close waits for leave."""
        if not wgf_gate_enter(&self.gate):
            raise ClosedError("the device is closed")
        if not wgf_device_alive(self.device):
            wgf_gate_leave(&self.gate)
            raise ForkedError("device")
        return 0

    cdef int64_t leave(self, int64_t result) except -1:
        wgf_gate_leave(&self.gate)
        return check(result)

    def close(self):
        """Stop the workers, close the sockets, wipe every key, once every call in other threads has returned."""
        if not wgf_gate_close(&self.gate):
            return
        with nogil:
            if wgf_device_alive(self.device):
                wgf_gate_wait(&self.gate)
            wgf_device_destroy(self.device)

    @property
    def alive(self):
        """False once closed, and in a forked child."""
        if not wgf_gate_enter(&self.gate):
            return False
        alive = wgf_device_alive(self.device)
        wgf_gate_leave(&self.gate)
        return alive

    def set_identity(self, private_key, public_key):
        """Private key (clamped) and its public key; None and None: no identity. Ends every session of the old one."""
        if (private_key is None) != (public_key is None):
            raise ValueError("public_key: expected with a private key, and only then")
        cdef Array private = bytes_of(private_key if private_key is not None else b"", "private_key", -1)
        cdef Array public = bytes_of(public_key if public_key is not None else b"", "public_key", -1)
        cdef uint8_t *a = NULL
        cdef uint8_t *b = NULL
        if private_key is not None:
            a, b = <uint8_t *>key_of(private), <uint8_t *>key_of(public)
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_set_identity(self.device, a, b)
        self.leave(result)

    def private_key(self):
        """32 bytes, or None."""
        cdef uint8_t key[32]
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_identity(self.device, key, NULL)
        self.leave(0 if result == -ENOKEY else result)
        copied = key[:32] if result == 0 else None
        wgf_wipe(key, sizeof(key))
        return copied

    def public_key(self):
        """32 bytes, or None."""
        cdef uint8_t key[32]
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_identity(self.device, NULL, key)
        self.leave(0 if result == -ENOKEY else result)
        return key[:32] if result == 0 else None

    def dh_private(self, Handshake handshake not None, point):
        """X25519 of the device's private key and point (32 bytes) into handshake.shared. False: no private key, or a
        point of low order."""
        cdef Array p = bytes_of(point, "point", WGF_KEY_SIZE)
        cdef wgf_handshake *hs = handshake.state()
        cdef const wgf_x25519 *functions = x25519_functions()
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_dh(self.device, hs, functions, <uint8_t *>p.buf.buf)
        self.leave(0 if result == -ENOKEY or result == -EDOM else result)
        return result == 0

    def set_mtu(self, uint32_t mtu):
        """The interface's MTU: padding never goes past it."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_set_mtu(self.device, mtu)
        self.leave(result)

    def set_tun(self, int fd):
        """The inner port; once, before start. The descriptor stays the caller's to close, after close()."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_set_tun(self.device, fd)
        self.leave(result)

    def set_keeper(self, prepare):
        """From now on `prepare(fd4, fd6, fwmark)` sets the mark and the buffers of the sockets that are opened (-1:
        there is none of that family); an OSError of it is that of `bind` or `set_fwmark`. It may call nothing here."""
        cdef int result
        cdef void *context = <void *>prepare
        before, self.keeper = self.keeper, prepare  # the one before must outlive its last call
        self.enter()
        with nogil:
            result = wgf_device_set_keeper(self.device, ask_keeper, context)
        self.leave(result)

    def bind(self, uint16_t port, uint32_t fwmark):
        """Open the sockets (port 0: any) in place of those there were. Returns the port."""
        cdef uint16_t bound = 0
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_bind(self.device, port, fwmark, &bound)
        self.leave(result)
        return bound

    def unbind(self):
        """Close the sockets."""
        self.enter()
        with nogil:
            wgf_device_unbind(self.device)
        self.leave(0)

    def set_fwmark(self, uint32_t fwmark):
        """Of the sockets that are open."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_set_fwmark(self.device, fwmark)
        self.leave(result)

    def start(self):
        """Start the workers."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_start(self.device)
        self.leave(result)

    def stop(self):
        """Stop the workers."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_stop(self.device)
        self.leave(result)

    def clear_sources(self):
        """Every peer forgets the address it is answered from."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_clear_sources(self.device)
        self.leave(result)

    def rotate_cookie(self, secret, uint64_t now):
        """A new cookie secret, 32 bytes."""
        cdef Array s = bytes_of(secret, "secret", WGF_HASH_SIZE)
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_rotate_cookie(self.device, <uint8_t *>s.buf.buf, now)
        self.leave(result)

    def under_load(self, uint64_t now):
        """True while handshakes stand in line, and for a moment after."""
        cdef bint loaded
        self.enter()
        with nogil:
            loaded = wgf_device_under_load(self.device, now)
        self.leave(0)
        return loaded

    def drops(self):
        """How many packets were dropped, by reason, in the order of DROP_NAMES."""
        cdef uint64_t counts[WGF_DROP_COUNT]
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_drops(self.device, counts)
        self.leave(result)
        return [counts[i] for i in range(WGF_DROP_COUNT)]

    def offloads(self):
        """(state, errno) of each, in the order of OFFLOAD_NAMES; state: an index into OFFLOAD_STATES."""
        cdef uint32_t states[WGF_OFFLOAD_COUNT]
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_offloads(self.device, states)
        self.leave(result)
        return [(states[i] & 0xff, states[i] >> 8) for i in range(WGF_OFFLOAD_COUNT)]

    def count_drop(self, uint32_t reason):
        """Python dropped a packet: reason is an index into DROP_NAMES."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_count_drop(self.device, reason)
        self.leave(result)

    def info(self):
        """DeviceInfo: sizes of its tables, its port."""
        cdef wgf_device_info i
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_get_info(self.device, &i)
        self.leave(result)
        return DeviceInfo(
            i.peers, i.indices, i.keypairs, i.threads, i.queues, i.events_waiting, i.handshakes_waiting,
            i.staged, i.packet_memory_ceiling, i.listen_port, i.rows, i.rows_memory, i.allowedips_memory,
        )

    def trim(self):
        """After many peers have gone: the system gets back what the C library keeps of them."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_trim(self.device)
        self.leave(result)

    # Peers, by handle.

    def add_peer(self, public_key):
        """Its handle. FileExistsError: there is a peer of that key."""
        cdef Array key = bytes_of(public_key, "public_key", WGF_KEY_SIZE)
        cdef uint64_t handle = 0
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_add_peer(self.device, <uint8_t *>key.buf.buf, &handle)
        self.leave(result)
        return handle

    def remove_peer(self, uint64_t peer):
        """Its routes, sessions, staged packets and timers go with it."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_remove_peer(self.device, peer)
        self.leave(result)

    def find_peer(self, public_key):
        """The handle of a public key, 0: none."""
        cdef Array key = bytes_of(public_key, "public_key", WGF_KEY_SIZE)
        cdef uint64_t handle = 0
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_find_peer(self.device, <uint8_t *>key.buf.buf, &handle)
        self.leave(0 if result == -ENOENT else result)
        return handle if result == 0 else 0

    def peers(self):
        """Every handle."""
        cdef uint64_t *handles = NULL
        cdef size_t room = 0, i
        cdef int64_t count
        try:
            while True:
                self.enter()
                with nogil:
                    count = wgf_device_peers(self.device, handles, room)
                self.leave(count)
                if <size_t>count <= room:
                    return [handles[i] for i in range(<size_t>count)]
                free(handles)
                handles = <uint64_t *>malloc(count * sizeof(uint64_t))
                if handles == NULL:
                    raise MemoryError("no memory for a list of peers")
                room = count
        finally:
            free(handles)

    def peer_info(self, uint64_t peer):
        """PeerInfo: one peer's numbers at this moment."""
        cdef wgf_peer_info i
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_get_info(self.device, peer, &i)
        self.leave(result)
        return PeerInfo(
            i.handle, i.public_key[:32], endpoint_of(&i.endpoint), i.sent_bytes, i.received_bytes, i.sent_packets,
            i.received_packets, i.handshake_at, i.session_birth, i.session_sent, i.staged, i.persistent_keepalive,
            i.has_psk != 0, i.session_initiator != 0,
        )

    def peer_set_psk(self, uint64_t peer, psk):
        """The preshared key, 32 bytes; zeros: none."""
        cdef Array key = bytes_of(psk, "psk", WGF_KEY_SIZE)
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_set_psk(self.device, peer, <uint8_t *>key.buf.buf)
        self.leave(result)

    def peer_psk(self, uint64_t peer):
        """32 bytes; zeros: none."""
        cdef uint8_t key[32]
        cdef int result
        memset(key, 0, sizeof(key))
        self.enter()
        with nogil:
            result = wgf_peer_psk(self.device, peer, key)
        self.leave(result)
        copied = key[:32]
        wgf_wipe(key, sizeof(key))
        return copied

    def peer_set_endpoint(self, uint64_t peer, endpoint):
        """Where it is reached; None: not known."""
        cdef wgf_endpoint raw
        cdef int result
        memset(&raw, 0, sizeof(raw))
        if endpoint is not None:
            fill_endpoint(&raw, endpoint)
        self.enter()
        with nogil:
            result = wgf_peer_set_endpoint(self.device, peer, &raw)
        self.leave(result)

    def peer_clear_source(self, uint64_t peer):
        """Forget the address it is answered from."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_clear_source(self.device, peer)
        self.leave(result)

    def peer_set_persistent_keepalive(self, uint64_t peer, uint16_t seconds, uint64_t now):
        """Seconds, 0: off."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_set_persistent_keepalive(self.device, peer, seconds, now)
        self.leave(result)

    def peer_set_limits(self, uint64_t peer, dict limits, uint64_t now):
        """By name (LIMIT_NAMES); the others stay."""
        cdef wgf_limits said
        cdef uint32_t limit
        cdef int result
        memset(&said, 0, sizeof(said))
        for name, value in limits.items():
            limit = LIMIT_NAMES.index(name)
            said.value[limit] = value
            said.said |= <uint32_t>1 << limit
        self.enter()
        with nogil:
            result = wgf_peer_set_limits(self.device, peer, &said, now)
        self.leave(result)

    def peer_limits(self, uint64_t peer):
        """In the order of LIMIT_NAMES; 0: none."""
        cdef wgf_limits found
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_limits(self.device, peer, &found)
        self.leave(result)
        return tuple([found.value[i] for i in range(WGF_LIMIT_COUNT)])

    def peer_allow(self, uint64_t peer, int family, bytes address, unsigned length):
        """The prefix is this peer's from now on, whoever had it."""
        cdef const uint8_t *a = address_of(family, address, length)
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_allow(self.device, peer, family, a, length)
        self.leave(0 if result == -ENOSPC else result)
        check_allowed(result)

    def peer_allow_many(self, uint64_t peer, list prefixes):
        """[(family, address, length)], all of them this peer's from now on. OSError (ENOSPC): the table may not hold them
        all, and nothing has changed."""
        cdef size_t n = len(prefixes), i = 0
        cdef const uint8_t *a
        cdef int result
        cdef wgf_prefix *raw = <wgf_prefix *>calloc(n + 1, sizeof(wgf_prefix))
        if raw == NULL:
            raise MemoryError("no memory for a list of allowed IPs")
        try:
            for family, address, length in prefixes:
                a = address_of(family, address, length)
                raw[i].family, raw[i].length = family, length
                memcpy(raw[i].address, a, 4 if family == WGF_IPV4 else 16)
                i += 1
            self.enter()
            with nogil:
                result = wgf_peer_allow_many(self.device, peer, raw, n)
            self.leave(0 if result == -ENOSPC else result)
        finally:
            free(raw)
        if result == -ENOSPC:
            self.refuse_prefixes()

    cdef int refuse_prefixes(self) except -1:
        cdef int64_t count
        self.enter()
        with nogil:
            count = wgf_device_prefixes(self.device)
        self.leave(count)
        raise OSError(ENOSPC, f"allowed IPs: the table is full ({count} prefixes): {FULL_REMEDY}")

    def peer_disallow(self, uint64_t peer, int family, bytes address, unsigned length):
        """False: the prefix was not this peer's."""
        cdef const uint8_t *a = address_of(family, address, length)
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_disallow(self.device, peer, family, a, length)
        self.leave(0 if result == -ENOENT else result)
        return result == 0

    def peer_disallow_all(self, uint64_t peer):
        """It owns no prefix any more."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_disallow_all(self.device, peer)
        self.leave(result)

    def peer_allowed(self, uint64_t peer):
        """[(family, address, length)], in order."""
        cdef wgf_prefix *prefixes = NULL
        cdef size_t room = 0, i
        cdef int64_t count
        try:
            while True:
                self.enter()
                with nogil:
                    count = wgf_peer_allowed(self.device, peer, prefixes, room)
                self.leave(count)
                if <size_t>count <= room:
                    return [prefix_of(&prefixes[i]) for i in range(<size_t>count)]
                free(prefixes)
                prefixes = <wgf_prefix *>malloc(count * sizeof(wgf_prefix))
                if prefixes == NULL:
                    raise MemoryError("no memory for a list of allowed IPs")
                room = count
        finally:
            free(prefixes)

    def setting_peers(self, Setting setting not None):
        """How many peers there will be while it is applied; more than PEERS_MAX cannot be. OSError (ENOSPC): the table of
        allowed IPs may not hold its prefixes."""
        cdef uint64_t peers = 0
        cdef int result
        self.enter()
        with nogil:
            result = wgf_setting_check(self.device, setting.setting, &peers)
        self.leave(0 if result == -ENOSPC or result == -EMLINK else result)
        if result == -EMLINK:
            self.refuse_prefixes()
        return peers

    def route(self, int family, bytes address):
        """The handle of the peer that owns an address, 0: none."""
        cdef const uint8_t *a = address_of(family, address, 0)
        cdef uint64_t handle = 0
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_route(self.device, family, a, &handle)
        self.leave(result)
        return handle

    # Handshakes.

    def peer_mix_static(self, uint64_t peer, Handshake handshake not None):
        """False: the static-static secret is not known yet; compute it and call peer_learn_static."""
        cdef wgf_handshake *hs = handshake.state()
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_mix_static(self.device, peer, hs)
        self.leave(0 if result == -ENOKEY else result)
        return result == 0

    def peer_learn_static(self, uint64_t peer, Handshake handshake not None):
        """Keep handshake.shared as the peer's static-static secret, and mix it in."""
        cdef wgf_handshake *hs = handshake.state()
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_learn_static(self.device, peer, hs)
        self.leave(result)

    def peer_mix_psk(self, uint64_t peer, Handshake handshake not None):
        """Mix the peer's preshared key in."""
        cdef wgf_handshake *hs = handshake.state()
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_mix_psk(self.device, peer, hs)
        self.leave(result)

    def peer_accept_timestamp(self, uint64_t peer, bytes stamp, uint64_t now):
        """False: an initiation with this or a later TAI64N stamp came before, or one came a moment ago."""
        cdef Array s = bytes_of(stamp, "stamp", WGF_TIMESTAMP_SIZE)
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_accept_timestamp(self.device, peer, <uint8_t *>s.buf.buf, now)
        self.leave(0 if result == -EALREADY or result == -EBUSY else result)
        return result == 0

    def peer_begin_handshake(self, uint64_t peer):
        """A random receiver index for a handshake that we begin."""
        cdef uint32_t index = 0
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_begin_handshake(self.device, peer, &index)
        self.leave(result)
        return index

    def peer_end_handshake(self, uint64_t peer):
        """The running handshake's index is forgotten."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_end_handshake(self.device, peer)
        self.leave(result)

    def peer_send_handshake(self, uint64_t peer, bytearray message not None, uint64_t now):
        """Add the macs in place and send. OSError: EDESTADDRREQ no endpoint, ENOTCONN no socket, or the system's."""
        cdef Array m = bytes_of(message, "message", -1)
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_send_handshake(self.device, peer, <uint8_t *>m.buf.buf, m.buf.len, now)
        self.leave(result)

    def peer_begin_session_initiator(
        self, uint64_t peer, Handshake handshake not None, uint32_t local_index, uint32_t remote_index, uint64_t now
    ):
        """PeerRemovedError also if local_index is no longer the running handshake's."""
        cdef wgf_handshake *hs = handshake.state()
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_begin_session_initiator(self.device, peer, hs, local_index, remote_index, now)
        self.leave(result)

    def peer_begin_answer(self, uint64_t peer):
        """A random receiver index for a response."""
        cdef uint32_t index = 0
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_begin_answer(self.device, peer, &index)
        self.leave(result)
        return index

    def peer_end_answer(self, uint64_t peer, uint32_t local_index):
        """The response was not sent: its index is forgotten."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_end_answer(self.device, peer, local_index)
        self.leave(result)

    def peer_begin_session_responder(
        self, uint64_t peer, Handshake handshake not None, uint32_t local_index, uint32_t remote_index, uint64_t now
    ):
        """The session waits for its first packet. Call before the response is sent."""
        cdef wgf_handshake *hs = handshake.state()
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_begin_session_responder(self.device, peer, hs, local_index, remote_index, now)
        self.leave(result)

    def peer_heard(self, uint64_t peer, endpoint, size_t message_length, uint64_t now):
        """An authenticated handshake message of so many bytes came from there. True: the peer was elsewhere until now."""
        cdef wgf_endpoint raw
        cdef int result
        fill_endpoint(&raw, endpoint)
        self.enter()
        with nogil:
            result = wgf_peer_heard(self.device, peer, &raw, message_length, now)
        return self.leave(result) != 0

    # What peers owe, and news.

    def scan(self, uint64_t now, int64_t most=0x7FFFFFFF):
        """([(peer, bits of DEBT_*)], time of the next deadline or None): of no more peers than `most`; if more owe
        something, the time is `now`."""
        cdef wgf_owed *owed = <wgf_owed *>malloc(OWED_A_CALL * sizeof(wgf_owed))
        cdef uint64_t next_at = now
        cdef int64_t count, wanted, i
        if owed == NULL:
            raise MemoryError("no memory for a scan of the timers")
        debts = []
        try:
            while next_at <= now and most > 0:
                wanted = min(most, <int64_t>OWED_A_CALL)
                self.enter()
                with nogil:
                    count = wgf_device_scan(self.device, now, owed, wanted, &next_at)
                self.leave(count)
                for i in range(count):
                    debts.append((owed[i].peer, owed[i].debts))
                if count < wanted:
                    break
                most -= count
        finally:
            free(owed)
        return debts, None if next_at == <uint64_t>-1 else next_at

    def peer_send_keepalive(self, uint64_t peer, uint64_t now):
        """An empty packet, if there is a session to send it with."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_send_keepalive(self.device, peer, now)
        self.leave(result)

    def peer_handshake_sent(self, uint64_t peer):
        """When our last initiation or response left, 0: never."""
        cdef uint64_t at = 0
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_handshake_sent(self.device, peer, &at)
        self.leave(result)
        return at

    def peer_want_handshake(self, uint64_t peer, uint64_t now):
        """It will be among the debts, unless the last handshake message is not REKEY-TIMEOUT old."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_want_handshake(self.device, peer, now)
        self.leave(result)

    def peer_want_handshake_done(self, uint64_t peer):
        """The debt of a handshake was dealt with: it may be reported again."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_want_handshake_done(self.device, peer)
        self.leave(result)

    def peer_arm_retransmit(self, uint64_t peer, uint64_t at):
        """When our initiation is to be sent again."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_arm_retransmit(self.device, peer, at)
        self.leave(result)

    def peer_give_up(self, uint64_t peer, uint64_t now):
        """No handshake came about: staged packets go, keys are zeroed in time."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_give_up(self.device, peer, now)
        self.leave(result)

    def peer_stop(self, uint64_t peer):
        """The device goes down: sessions, timers and staged packets end."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_stop(self.device, peer)
        self.leave(result)

    def peer_zero_keys(self, uint64_t peer):
        """Wipe its sessions."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_peer_zero_keys(self.device, peer)
        self.leave(result)

    def event_fd(self):
        """A descriptor that becomes readable when there is news."""
        cdef int result
        self.enter()
        with nogil:
            result = wgf_device_event_fd(self.device)
        return self.leave(result)

    def take_events(self):
        """Events in order, a bounded number at a time: call again until there are none."""
        cdef int64_t count, i
        with self.events_turn:
            self.enter()
            with nogil:
                count = wgf_device_take_events(self.device, self.events, EVENTS_A_CALL)
            self.leave(count)
            return [event_of(&self.events[i]) for i in range(count)]

    def take_answers(self, uint32_t most=QUEUED_A_CALL):
        """Up to so many of those that wait, and at most a number of ours: call again until there are none."""
        return self.take_queued(wgf_device_take_answers, most)

    def take_initiations(self, uint32_t most=QUEUED_A_CALL):
        """The same of strangers' initiations, of every source in turn."""
        return self.take_queued(wgf_device_take_initiations, most)

    cdef list take_queued(self, take_t take, uint32_t most):
        cdef wgf_queued_handshake taken[QUEUED_A_CALL]
        cdef int64_t count, i
        self.enter()
        with nogil:
            count = take(self.device, taken, min(most, <uint32_t>QUEUED_A_CALL))
        self.leave(count)
        return [queued_of(&taken[i]) for i in range(count)]

    def quiet(self):
        """Before sleeping on event_fd: True, do not sleep, there is news."""
        cdef bint news
        self.enter()
        with nogil:
            news = wgf_device_quiet(self.device)
        self.leave(0)
        return news

    # The path over a caller's arrays.

    def engine_send(self, packets, lengths, out, out_lengths, endpoints, tos, peers, status, uint64_t now):
        """Inner packets to outer messages; _core.pyi has the shapes. `out` lies apart from `packets`, or begins 16
        bytes before it with equal strides."""
        cdef wgf_rows source, target
        cdef Array p = rows_of(packets, "packets", False)
        cdef Py_ssize_t n = p.buf.shape[0]
        cdef Array m = column_of(lengths, "lengths", b"I", n, False)
        cdef Array o = table_of(out, "out", n, -1, True)
        cdef Array r = column_of(out_lengths, "out_lengths", b"I", n, True)
        cdef Array e = endpoints_of(endpoints, n, True)
        cdef Array t = column_of(tos, "tos", b"B", n, True)
        cdef Array h = column_of(peers, "peers", b"Q", n, True)
        cdef Array s = column_of(status, "status", b"B", n, True)
        copy = fit_rows(&source, p, m)
        fill_rows(&target, o, r)
        if n == 0:
            return
        if n > 1 and p.buf.strides[0] != o.buf.strides[0] or target.data != source.data - 16:
            must_lie_apart(o, [p])
        must_not_share([o, r, e, t, h, s], [m])
        cdef int result
        self.enter()
        with nogil:
            result = wgf_engine_send(
                self.device, &source, &target, n, <wgf_endpoint *>e.buf.buf, <uint8_t *>t.buf.buf,
                <uint64_t *>h.buf.buf, <uint8_t *>s.buf.buf, now,
            )
        self.leave(result)

    def engine_receive(self, packets, lengths, endpoints, tos, out, out_lengths, peers, status, uint64_t now):
        """Outer messages to inner packets; _core.pyi has the shapes. `out` lies apart from `packets`."""
        cdef wgf_rows source, target
        cdef Array p = rows_of(packets, "packets", False)
        cdef Py_ssize_t n = p.buf.shape[0]
        cdef Array m = column_of(lengths, "lengths", b"I", n, False)
        cdef Array e = endpoints_of(endpoints, n, False)
        cdef Array t = column_of(tos, "tos", b"B", n, False)
        cdef Array o = table_of(out, "out", n, -1, True)
        cdef Array r = column_of(out_lengths, "out_lengths", b"I", n, True)
        cdef Array h = column_of(peers, "peers", b"Q", n, True)
        cdef Array s = column_of(status, "status", b"B", n, True)
        copy = fit_rows(&source, p, m)
        fill_rows(&target, o, r)
        if n == 0:
            return
        must_not_share([o, r, h, s], [p, m, e, t])
        cdef int result
        self.enter()
        with nogil:
            result = wgf_engine_receive(
                self.device, &source, &target, n, <wgf_endpoint *>e.buf.buf, <uint8_t *>t.buf.buf,
                <uint64_t *>h.buf.buf, <uint8_t *>s.buf.buf, now,
            )
        self.leave(result)

    def engine_drain(self, out, out_lengths, endpoints, tos, peers, uint64_t now):
        """What the device itself has to say, into as many rows as there are; returns how many were filled."""
        cdef wgf_rows target
        cdef Array o = table_of(out, "out", -1, -1, True)
        cdef Py_ssize_t n = o.buf.shape[0]
        cdef Array r = column_of(out_lengths, "out_lengths", b"I", n, True)
        cdef Array e = endpoints_of(endpoints, n, True)
        cdef Array t = column_of(tos, "tos", b"B", n, True)
        cdef Array h = column_of(peers, "peers", b"Q", n, True)
        fill_rows(&target, o, r)
        if n == 0:
            return 0
        must_not_share([o, r, e, t, h], [])
        cdef int64_t result
        self.enter()
        with nogil:
            result = wgf_engine_drain(
                self.device, &target, n, <wgf_endpoint *>e.buf.buf, <uint8_t *>t.buf.buf, <uint64_t *>h.buf.buf, now
            )
        return self.leave(result)


# ---- settings ----

cdef class Setting(Fixed):
    """What a UAPI `set` or Device.update asks for, read and checked whole: see core/setting.h. It never changes."""

    cdef wgf_setting *setting
    cdef readonly list hosts
    cdef readonly object fault

    def __cinit__(self, text=None):
        cdef Array a = bytes_of(text if text is not None else b"", "text", -1)
        cdef const char *at = <const char *>a.buf.buf
        cdef wgf_setting_fault fault
        cdef int result
        cdef size_t i
        cdef wgf_setting_host *host
        self.hosts = []
        self.setting = wgf_setting_create()
        if self.setting == NULL:
            raise MemoryError("no memory for a setting")
        with nogil:
            result = wgf_setting_parse(self.setting, at, a.buf.len, &fault)
        if result == -EINVAL:
            self.fault = (fault.line, fault.offset, fault.length, fault.of_peer)
        else:
            check(result)
        for i in range(self.setting.hosts_n):
            host = &self.setting.hosts[i]
            self.hosts.append((host.peer, at[host.offset : host.offset + host.length].decode("ascii")))

    def __dealloc__(self):
        with nogil:
            wgf_setting_destroy(self.setting)

    @staticmethod
    def of(list peers, bint replace):
        """From [(public key, bits SAID_..., psk, endpoint, keepalive, [(family, address, length)], {name of a limit: value})].
        `replace`: peers that are not mentioned go."""
        cdef Setting made = Setting()
        if replace:
            made.setting.said |= WGF_SAID_REPLACE_PEERS
        for public_key, said, psk, endpoint, keepalive, prefixes, limits in peers:
            made.add(public_key, said, psk, endpoint, keepalive, prefixes, limits)
        return made

    cdef add(self, public_key, uint8_t said, psk, endpoint, uint16_t keepalive, list prefixes, dict limits):
        cdef Array key = bytes_of(public_key, "public_key", WGF_KEY_SIZE)
        cdef Array secret
        cdef wgf_endpoint where
        cdef wgf_setting_peer *peer = wgf_setting_add_peer(self.setting, <uint8_t *>key.buf.buf)
        if peer == NULL:
            raise MemoryError("no memory for a setting")
        peer.said, peer.keepalive = said, keepalive
        if psk is not None:
            secret = bytes_of(psk, "psk", WGF_KEY_SIZE)
            memcpy(peer.psk, secret.buf.buf, WGF_KEY_SIZE)
        if endpoint is not None:
            fill_endpoint(&where, endpoint)
            memcpy(peer.address, where.address, sizeof(where.address))
            peer.scope, peer.port, peer.family = where.scope, where.port, where.family
        for family, address, length in prefixes:
            check(wgf_setting_add_prefix(self.setting, family, address_of(family, address, length), length, False))
        for name, value in limits.items():
            check(wgf_setting_add_limit(self.setting, LIMIT_NAMES.index(name), value))

    @property
    def private_key(self):
        """32 bytes; zeros: none. None: not mentioned, as below."""
        return self.setting.private_key[:32] if self.setting.said & WGF_SAID_PRIVATE_KEY else None

    @property
    def listen_port(self):
        return self.setting.listen_port if self.setting.said & WGF_SAID_LISTEN_PORT else None

    @property
    def fwmark(self):
        return self.setting.fwmark if self.setting.said & WGF_SAID_FWMARK else None

    @property
    def replace_peers(self):
        return bool(self.setting.said & WGF_SAID_REPLACE_PEERS)

    def __len__(self):
        """How many peers are mentioned; one that is mentioned twice counts twice."""
        return self.setting.peers_n

    def peer(self, size_t i):
        """What is said of the i-th peer, as in `of`, and of each prefix whether it is taken away."""
        cdef wgf_limits *limits
        if i >= self.setting.peers_n:
            raise IndexError(f"{i}: {self.setting.peers_n} peers are mentioned")
        cdef wgf_setting_peer *peer = &self.setting.peers[i]
        cdef wgf_setting_prefix *prefix
        cdef wgf_endpoint where
        memset(&where, 0, sizeof(where))
        memcpy(where.address, peer.address, sizeof(where.address))
        where.scope, where.port, where.family = peer.scope, peer.port, peer.family
        prefixes = []
        for at in range(peer.first, peer.first + peer.count):
            prefix = &self.setting.prefixes[at]
            address = prefix.address[: 4 if prefix.family == WGF_IPV4 else 16]
            prefixes.append((prefix.family, address, prefix.length, prefix.away != 0))
        said = {}
        if peer.said & WGF_SAID_LIMITS:
            limits = &self.setting.limits[peer.limits]
            said = {LIMIT_NAMES[n]: limits.value[n] for n in range(WGF_LIMIT_COUNT) if limits.said >> n & 1}
        return peer.public_key[:32], peer.said, peer.psk[:32], endpoint_of(&where), peer.keepalive, prefixes, said


cdef class SettingPlan(Fixed):
    """A setting that is being applied to a device: struct wgf_setting_plan."""

    cdef wgf_setting_plan *plan
    cdef Core core
    cdef Setting setting

    def __cinit__(self, Core core not None, Setting setting not None):
        self.core, self.setting = core, setting
        core.enter()
        with nogil:
            self.plan = wgf_setting_begin(core.device, setting.setting)
        core.leave(0)
        if self.plan == NULL:
            raise MemoryError("no memory to apply a setting")

    def __dealloc__(self):
        with nogil:
            wgf_setting_end(self.plan)

    def step(self, uint64_t now, uint32_t wanted):
        """Applies some more. (all is done, [(handle, number of the peer in the setting, NEWS_... bits)]): news of the kinds
        in `wanted`."""
        cdef cbool done = False
        cdef int64_t n
        cdef wgf_setting_news *news = <wgf_setting_news *>malloc(NEWS_A_STEP * sizeof(wgf_setting_news))
        if news == NULL:
            raise MemoryError("no memory for what a setting has changed")
        try:
            self.core.enter()
            with nogil:
                n = wgf_setting_step(self.plan, now, wanted, news, NEWS_A_STEP, &done)
            self.core.leave(n)
            return bool(done), [(news[i].handle, news[i].peer, news[i].what) for i in range(n)]
        finally:
            free(news)


cdef class Dump(Fixed):
    """The peers of a device as the UAPI tells them, piece by piece. `names`: of endpoints, by handle. `wall`: what to add
    to the device's time for ns since 1970."""

    cdef Core core
    cdef list held
    cdef wgf_dump_name *names
    cdef size_t names_n, size
    cdef int64_t wall
    cdef uint32_t cursor
    cdef char *text

    def __cinit__(self, Core core not None, dict names not None, int64_t wall):
        cdef bytes text
        self.core, self.wall = core, wall
        self.size = DUMP_A_CALL
        self.text = <char *>malloc(self.size)
        self.held = [
            (handle, name.encode("ascii")) for handle, name in sorted(names.items(), key=lambda item: item[0] & 0xffffffff)
        ]
        self.names = <wgf_dump_name *>malloc((len(self.held) + 1) * sizeof(wgf_dump_name))
        if self.names == NULL or self.text == NULL:
            raise MemoryError("no memory for what a device tells")
        for handle, text in self.held:
            self.names[self.names_n] = [handle, PyBytes_AS_STRING(text), len(text)]
            self.names_n += 1

    def __dealloc__(self):
        if self.text != NULL:
            wgf_wipe(self.text, self.size)
        free(self.text)
        free(self.names)

    def take(self):
        """The next piece, b"": there is no more. A peer is told whole, as it is when its turn comes."""
        cdef size_t need = 0
        cdef int64_t size
        cdef char *larger
        while True:
            self.core.enter()
            with nogil:
                size = wgf_device_dump(
                    self.core.device, &self.cursor, self.names, self.names_n, self.wall, self.text, self.size, &need
                )
            self.core.leave(0 if size == -EMSGSIZE else size)
            if size != -EMSGSIZE:
                return PyBytes_FromStringAndSize(self.text, size)
            larger = <char *>malloc(need)
            if larger == NULL:
                raise MemoryError("no memory for what a device tells")
            wgf_wipe(self.text, self.size)
            free(self.text)
            self.text, self.size = larger, need


cdef void *key_of(Array array) except NULL:
    if array.buf.len != WGF_KEY_SIZE:
        raise ValueError(f"{array.name}: {array.buf.len} bytes: expected {WGF_KEY_SIZE}")
    return array.buf.buf


cdef object event_of(const wgf_event *event):
    return Event(event.kind, event.value, event.peer, endpoint_of(&event.endpoint))


cdef object queued_of(const wgf_queued_handshake *message):
    return Queued(message.peer, endpoint_of(&message.endpoint), message.data[: message.length])


cdef int fill_rows(wgf_rows *rows, Array data, Array lengths) except -1:
    cdef wgf_row_block block = data.block()
    rows.data = block.data
    rows.stride = block.stride
    rows.length = <uint32_t *>lengths.buf.buf
    return 0


cdef bytes fit_rows(wgf_rows *rows, Array data, Array lengths):
    """As fill_rows, where the rows hold packets: no length may reach past its row. The core gets the copy that was
    checked, which is returned, because another thread may change the caller's array meanwhile."""
    cdef bytes copy = PyBytes_FromStringAndSize(<char *>lengths.buf.buf, lengths.buf.len)
    cdef size_t n = data.buf.shape[0], width = data.buf.shape[1], misfit
    fill_rows(rows, data, lengths)
    rows.length = <uint32_t *>PyBytes_AS_STRING(copy)
    misfit = wgf_rows_misfit(rows.length, n, width)
    if misfit < n:
        raise BatchError(f"{lengths.name}[{misfit}]: {rows.length[misfit]}: a row of {data.name} holds {width} bytes")
    return copy


cdef int must_not_share(list written, list read) except -1:
    """Each array that is written has memory of its own."""
    for i, array in enumerate(written):
        must_lie_apart(array, written[i + 1 :])
        must_lie_apart(array, read)
    return 0


# ---- the clock and the interface ----

def clock_now():
    """CLOCK_BOOTTIME, ns."""
    return wgf_clock_now()


cdef int check_tun(int result, object what) except -1:
    if result < 0:
        raise OSError(-result, os.strerror(-result), what)
    return result


def tun_open(str name, bint vnet=True, bint several=False):
    """Create the interface; ("wg%d": the system numbers it). Returns its descriptor and its name. `vnet`: with a
    header before each packet, which super-packets need, where the system knows such a thing. `several`: so that
    more queues can be added."""
    cdef char buffer[IFNAMSIZ]
    cdef bytes encoded = os.fsencode(name)
    cdef int fd
    if not 0 < len(encoded) < IFNAMSIZ or b"\0" in encoded:
        raise OSError(EINVAL, f"an interface name has 1 to {IFNAMSIZ - 1} bytes", name)
    memset(buffer, 0, IFNAMSIZ)
    memcpy(buffer, PyBytes_AS_STRING(encoded), len(encoded))
    with nogil:
        fd = wgf_link_open(buffer, vnet, several)
    check_tun(fd, name)
    return fd, os.fsdecode(buffer)


def tun_name(int fd):
    """The name of the interface behind a descriptor."""
    cdef char buffer[IFNAMSIZ]
    cdef int result
    memset(buffer, 0, IFNAMSIZ)
    with nogil:
        result = wgf_link_name(fd, buffer)
    check_tun(result, None)
    return os.fsdecode(buffer)


def tun_mtu(int fd):
    """Its MTU, seen from the namespace it lives in now."""
    cdef int result
    with nogil:
        result = wgf_link_mtu(fd)
    return check_tun(result, None)


def tun_set_mtu(int fd, int mtu):
    """Set its MTU."""
    cdef int result
    with nogil:
        result = wgf_link_set_mtu(fd, mtu)
    check_tun(result, None)


def tun_is_up(int fd):
    """True: up; False: down. OSError: gone."""
    cdef int result
    with nogil:
        result = wgf_link_is_up(fd)
    return check_tun(result, None) == 1
