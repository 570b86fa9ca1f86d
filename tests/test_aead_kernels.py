"""Every usable kernel against `cryptography`: lengths, alignments, mixed batches, nonces at their edges,
Poly1305 driven to its limits, and every single bit that can be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from aeadjobs import STRAY, TAG, Bytes, Kernel, Packet, Places
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray
from seeds import generator
from test_aead_wycheproof import CASES

import wgfast
from wgfast import _core

KERNELS = [name for name, usable, _ in _core.aead_kernels() if usable]
LONGEST = 2100
ALIGNMENTS = 64


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _core.aead_kernel()
    _core.aead_choose(request.param)
    yield request.param
    _core.aead_choose(before)


def judged(key: bytes, nonce: bytes, ad: bytes, plain: bytes) -> Packet:
    """With what `cryptography` seals it to."""
    return Packet(key, nonce, ad, plain, ChaCha20Poly1305(key).encrypt(nonce, plain, ad))


def check(kernel: str, packets: Sequence[Packet], places: Places = None) -> None:
    """In one batch, both ways."""
    assert Kernel(kernel).seal(packets, places) == [packet.sealed for packet in packets]
    assert Kernel(kernel).open(packets, places) == [packet.plain for packet in packets]


def random_places(rng: np.random.Generator, n: int) -> Places:
    return [(int(at), int(to)) for at, to in rng.integers(0, ALIGNMENTS, (n, 2))]


# ---- every length and every alignment ----


@dataclass
class EveryLength:
    """One packet of each length, as rows with STRAY behind them: what was to be sealed, and sealed."""

    lengths: NDArray[np.uint32]
    keys: Bytes
    counters: NDArray[np.uint64]
    ad: Bytes | None
    plain: Bytes
    sealed: Bytes


@pytest.fixture(scope="module", params=[0, 21], ids=["without ad", "with ad"])
def every_length(request: pytest.FixtureRequest) -> EveryLength:
    rng, n = generator("every_length"), LONGEST + 1
    keys, ad = (rng.integers(0, 256, (n, size), np.uint8) for size in (32, request.param))
    counters = rng.integers(0, 1 << 64, n, np.uint64)
    plain, sealed = (np.full((n, LONGEST + TAG), STRAY, np.uint8) for _ in range(2))
    for i in range(n):
        text = rng.bytes(i)
        packet = judged(keys[i].tobytes(), bytes(4) + counters[i].tobytes(), ad[i].tobytes(), text)
        plain[i, :i] = np.frombuffer(text, np.uint8)
        sealed[i, : i + TAG] = np.frombuffer(packet.sealed, np.uint8)
    lengths = np.arange(n, dtype=np.uint32)
    return EveryLength(lengths, keys, counters, ad if request.param else None, plain, sealed)


def rows(like: Bytes, misalignment: int) -> Bytes:
    """As many rows as `like` has, each `misalignment` bytes after a multiple of 64."""
    n, width = like.shape
    stride = width + -width % ALIGNMENTS + ALIGNMENTS
    memory = np.empty(n * stride + 2 * ALIGNMENTS, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENTS + misalignment
    return memory[begin : begin + n * stride].reshape(n, stride)[:, :width]


def check_every_length(case: EveryLength, source: Bytes, target: Bytes) -> None:
    source[:] = case.plain
    if target is not source:
        target[:] = STRAY
    wgfast.seal(source, case.lengths, case.keys, case.counters, target, case.ad)
    assert np.array_equal(target, case.sealed)
    if target is not source:
        assert np.array_equal(source, case.plain)
        source[:] = STRAY
    ok = np.zeros(len(source), np.uint8)
    n = wgfast.open(target, case.lengths + TAG, case.keys, case.counters, source, ok, case.ad)
    assert n == ok.sum() == len(source)
    if target is source:  # the tags stay behind the packets
        for row, length in zip(source, case.lengths, strict=True):
            row[length : length + TAG] = STRAY
    assert np.array_equal(source, case.plain)


def test_every_length_at_every_alignment(kernel: str, every_length: EveryLength) -> None:
    for at in range(ALIGNMENTS):
        to = (29 * at + 5) % ALIGNMENTS  # 29 has no factor in common with 64: each comes once
        check_every_length(every_length, rows(every_length.plain, at), rows(every_length.plain, to))


def test_every_length_in_place_at_every_alignment(kernel: str, every_length: EveryLength) -> None:
    for at in range(ALIGNMENTS):
        array = rows(every_length.plain, at)
        check_every_length(every_length, array, array)


def test_every_pair_of_alignments(kernel: str) -> None:
    """Keys and additional data lie askew too."""
    rng = generator("test_every_pair_of_alignments")
    places = [(at, to) for at in range(ALIGNMENTS) for to in range(ALIGNMENTS)]
    sizes = rng.choice([0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 130, 200, 300, 513], len(places))
    packets = [
        judged(rng.bytes(32), rng.bytes(12), rng.bytes(int(rng.integers(20))), rng.bytes(int(size)))
        for size in sizes
    ]
    for begin in range(0, len(places), 512):
        check(kernel, packets[begin : begin + 512], places[begin : begin + 512])


# ---- batches whose packets agree in nothing ----


def random_size(rng: np.random.Generator) -> int:
    match int(rng.integers(5)):
        case 0:
            return int(rng.integers(0, 81))
        case 1:
            return int(rng.choice([0, 64, 594, 1420]))
        case 2:
            return 64 * int(rng.integers(0, 40)) + int(rng.integers(-1, 2)) % 64
        case 3:
            return int(rng.integers(LONGEST, 9000))
        case _:
            return int(rng.integers(0, LONGEST + 1))


def random_packets(rng: np.random.Generator, n: int) -> list[Packet]:
    """Keys are shared by runs of packets, as in batches that span peers."""
    packets, key = [], rng.bytes(32)
    for _ in range(n):
        key = rng.bytes(32) if rng.integers(3) == 0 else key
        prefix = rng.bytes(4) if rng.integers(2) else bytes(4)
        ad = rng.bytes(int(rng.integers(0, 70))) if rng.integers(3) == 0 else b""
        packets.append(judged(key, prefix + rng.bytes(8), ad, rng.bytes(random_size(rng))))
    return packets


def test_random_batches(kernel: str) -> None:
    rng = generator("test_random_batches")
    for n in [*range(1, 36), *rng.integers(36, 200, 15)]:
        packets = random_packets(rng, int(n))
        check(kernel, packets, random_places(rng, int(n)) if n % 2 else None)


def spoil(rng: np.random.Generator, packet: Packet) -> Packet:
    """One bit of one of them is wrong."""
    names = ["key", "nonce", "sealed", *(["ad"] if packet.ad else [])]
    name = names[int(rng.integers(len(names)))]
    value = getattr(packet, name)
    return replace(packet, **{name: flipped(value, int(rng.integers(8 * len(value))))})


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_random_forgeries(kernel: str) -> None:
    rng = generator("test_random_forgeries")
    for n in [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 150]:
        packets = random_packets(rng, n)
        wrong = rng.integers(0, 2, n).astype(bool)
        given = [spoil(rng, packet) if bad else packet for packet, bad in zip(packets, wrong, strict=True)]
        expected = [None if bad else packet.plain for packet, bad in zip(packets, wrong, strict=True)]
        for places in (None, random_places(rng, n)):
            assert Kernel(kernel).open(given, places) == expected


@pytest.mark.parametrize("in_place", [False, True], ids=["apart", "in place"])
def test_every_wrong_bit(kernel: str, in_place: bool) -> None:
    """Of ciphertext, tag, additional data, nonce and key, each in a packet of its own between right ones."""
    rng = generator("test_every_wrong_bit")
    packet = judged(rng.bytes(32), rng.bytes(12), rng.bytes(13), rng.bytes(100))
    given: list[Packet] = []
    for name in ("sealed", "ad", "nonce", "key"):
        value = getattr(packet, name)
        for bit in range(8 * len(value)):
            given += [replace(packet, **{name: flipped(value, bit)}), packet]
    places = None if in_place else random_places(rng, len(given))
    assert Kernel(kernel).open(given, places) == [None, packet.plain] * (len(given) // 2)


# ---- nonces at their edges ----

EDGES = sorted({(edge + d) % (1 << 64) for edge in (0, 1 << 31, 1 << 32, 1 << 63) for d in range(-20, 21)})


@pytest.mark.parametrize("size", [0, 16, 64, 65, 200, 1420])
def test_counters_around_powers_of_two(kernel: str, size: int) -> None:
    """As counters, and as whole nonces with a prefix that the counter must not carry into."""
    rng, n = generator("test_counters_around_powers_of_two"), len(EDGES)
    key, lengths = rng.bytes(32), np.full(n, size, np.uint32)
    plain = rng.integers(0, 256, (n, size), np.uint8)
    counters = np.array(EDGES, np.uint64)
    for prefix in (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        nonces = [prefix.to_bytes(4, "little") + edge.to_bytes(8, "little") for edge in EDGES]
        expected = [judged(key, nonces[i], b"", plain[i].tobytes()).sealed for i in range(n)]
        tables = [
            np.frombuffer(b"".join(nonces), np.uint8).reshape(n, 12),
            *([counters] if prefix == 0 else []),
        ]
        for table in tables:
            out, ok = np.zeros((n, size + TAG), np.uint8), np.zeros(n, bool)
            wgfast.seal(plain, lengths, key, table, out)
            assert [row.tobytes() for row in out] == expected
            assert wgfast.open(out, lengths + TAG, key, table, out, ok) == n
            assert np.array_equal(out[:, :size], plain)


# ---- Poly1305 at its limits ----

P = (1 << 130) - 5
CLAMP = 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
# Keys and nonces whose one-time key has words of ones or of zeros.
EXTREME_KEYS = [(case.key, case.nonce) for case in CASES if case.flag == "EdgeCasePolyKey"]
BLOCKS = [
    bytes([0xFF] * 16),
    bytes(16),
    bytes([0xFB] + [0xFF] * 15),
    bytes([0xFC] + [0xFF] * 15),
    bytes([0x01] + [0x00] * 15),
    bytes([0x00] * 15 + [0x80]),
    bytes([0xFE] * 16),
]


def key_stream(key: bytes, nonce: bytes, n: int) -> tuple[int, int, bytes]:
    """r and s of the one-time key, and n bytes to cipher with."""
    stream = Cipher(ChaCha20(key, bytes(4) + nonce), None).encryptor().update(bytes(64 + n))
    r, s = (int.from_bytes(stream[i : i + 16], "little") for i in (0, 16))
    return r & CLAMP, s, stream[64:]


def sealing_to(key: bytes, nonce: bytes, ciphertext: bytes) -> Packet:
    """The packet whose ciphertext this is."""
    stream = key_stream(key, nonce, len(ciphertext))[2]
    plain = bytes(a ^ b for a, b in zip(ciphertext, stream, strict=True))
    packet = judged(key, nonce, b"", plain)
    assert packet.sealed[:-TAG] == ciphertext
    return packet


def test_there_are_extreme_keys() -> None:
    words = {
        key_stream(key, nonce, 0)[0] >> 32 * i & 0xFFFFFFFF for key, nonce in EXTREME_KEYS for i in range(4)
    }
    assert {0, 0x0FFFFFFF, 0x0FFFFFFC} <= words


@pytest.mark.parametrize("block", BLOCKS, ids=[block.hex()[:4] for block in BLOCKS])
def test_extreme_blocks_under_extreme_keys(kernel: str, block: bytes) -> None:
    """Long enough that every lane of a wide kernel is full of the same extreme."""
    rng = generator("test_extreme_blocks")
    keys = EXTREME_KEYS + [(rng.bytes(32), rng.bytes(12)) for _ in range(8)]
    for base in (0, 16, 17, 63, 64, 128, 255, 256, 500, 1024, 1420, 2100):
        sizes = [base, base + 16, *rng.integers(0, 2 * base + 1, 2)]
        packets = [
            sealing_to(key, nonce, (block * (size // 16 + 1))[:size]) for key, nonce in keys for size in sizes
        ]
        check(kernel, packets)


def test_extreme_blocks_after_each_other(kernel: str) -> None:
    rng = generator("test_extreme_blocks_after_each_other")
    packets = []
    for key, nonce in EXTREME_KEYS:
        text = b"".join(BLOCKS[i] for i in rng.integers(0, len(BLOCKS), 130))
        packets.append(sealing_to(key, nonce, text[: int(rng.integers(0, len(text)))]))
    check(kernel, packets, random_places(rng, len(packets)))


def steered(rng: np.random.Generator, blocks: int, target: str, value: int) -> Packet:
    """A packet of `blocks` whole blocks, the last one computed so that Poly1305 comes to `value` mod
    2^130 - 5: at the end ("sum"), or when this block was added ("last"; two blocks at least); or so that the
    tag is `value` mod 2^128 ("tag"). One nonce in four has such a block."""
    key = rng.bytes(32)
    while True:
        nonce = rng.bytes(12)
        r, s, _ = key_stream(key, nonce, 0)
        head = BLOCKS[int(rng.integers(len(BLOCKS)))] * (blocks - 1)
        h = 0
        for i in range(0, len(head), 16):
            h = (h + int.from_bytes(head[i : i + 16] + b"\x01", "little")) * r % P
        lengths = (16 * blocks << 64) + (1 << 128)
        inverse = pow(r, -1, P)
        if target == "last":
            before = value
        else:
            end = value if target == "sum" else (value - s) % (1 << 128)
            before = (end * inverse - lengths) * inverse
        last = (before - h) % P - (1 << 128)
        if 0 <= last < 1 << 128:
            return sealing_to(key, nonce, head + last.to_bytes(16, "little"))


@pytest.mark.parametrize("target", ["sum", "tag", "last"])
@pytest.mark.parametrize("value", [0, 1, 2, 3, 4, 5, 6, -1, -2, -3, -4, -5, -6, (1 << 128) - 1, 1 << 128])
def test_sums_around_the_modulus(kernel: str, target: str, value: int) -> None:
    rng = generator("test_sums_around_the_modulus")
    counts = [*range(2 if target == "last" else 1, 20), 31, 32, 33, 64, 65, 89, 131]
    packets = [steered(rng, blocks, target, value) for blocks in counts]
    for packet in packets:
        if target == "tag":
            assert int.from_bytes(packet.sealed[-TAG:], "little") == value % (1 << 128)
    check(kernel, packets)


def steered_lanes(rng: np.random.Generator, lanes: int, value: int, tail: int) -> Packet:
    """A packet of which a kernel that spreads its blocks over so many lanes, and multiplies by that power of
    r, has `value` in every lane after the first step; then come blocks of ones."""
    key = rng.bytes(32)
    while True:
        nonce = rng.bytes(12)
        r = key_stream(key, nonce, 0)[0]
        block = value * pow(r, -lanes, P) % P - (1 << 128)
        if 0 <= block < 1 << 128:
            return sealing_to(key, nonce, block.to_bytes(16, "little") * lanes + b"\xff" * (16 * tail))


@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 8, 16, 32])
def test_lanes_around_the_modulus(kernel: str, lanes: int) -> None:
    rng = generator("test_lanes_around_the_modulus")
    limbs = [sum(((1 << radix) - 1) << radix * i for i in range(130 // radix)) for radix in (26, 44, 52, 64)]
    values = [*range(7), *range(-7, 0), *limbs, (1 << 64) - 1, (1 << 128) - (1 << 64)]
    tails = [0, 1, lanes - 1, lanes, lanes + 1, 2 * lanes, 4 * lanes + 1]
    packets = [steered_lanes(rng, lanes, value, tail) for value in values for tail in tails if value % P]
    check(kernel, packets)
    check(kernel, [packets[i] for i in rng.permutation(len(packets))])
