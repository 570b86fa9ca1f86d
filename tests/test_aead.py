"""wgfast.seal and wgfast.open: published vectors, the AEAD of `cryptography` as oracle over every length,
alignment and placement, forgeries, and every way in which an array can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from numpy.typing import NDArray
from seeds import generator

import wgfast
from wgfast import _core

RFC8439 = json.loads((Path(__file__).parent / "vectors" / "rfc8439.json").read_text())["vectors"]
LONGEST = 2100
KERNELS = [name for name, usable, _ in _core.aead_kernels() if usable]

Bytes = NDArray[np.uint8]


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _core.aead_kernel()
    _core.aead_choose(request.param)
    yield request.param
    _core.aead_choose(before)


def as_row(data: bytes, room: int = 0) -> Bytes:
    row = np.zeros((1, len(data) + room), np.uint8)
    row[0, : len(data)] = np.frombuffer(data, np.uint8)
    return row


def random_bytes(rng: np.random.Generator, *shape: int) -> Bytes:
    return rng.integers(0, 256, shape, np.uint8)


# ---- published vectors ----


@pytest.mark.parametrize("vector", RFC8439, ids=[v["section"] for v in RFC8439])
def test_rfc8439(kernel: str, vector: dict[str, str]) -> None:
    field = {name: bytes.fromhex(text) for name, text in vector.items() if name != "section"}
    sealed = field["ciphertext"] + field["tag"]
    key, nonce = field["key"], as_row(field["nonce"])
    plain = as_row(field["plaintext"])
    out = np.zeros((1, len(sealed)), np.uint8)
    wgfast.seal(plain, np.array([plain.size], np.uint32), key, nonce, out, field["ad"])
    assert out.tobytes() == sealed

    back, ok = np.zeros_like(plain), np.zeros(1, bool)
    assert wgfast.open(out, np.array([out.size], np.uint32), key, nonce, back, ok, field["ad"]) == 1
    assert ok[0]
    assert back.tobytes() == field["plaintext"]


# ---- every length, alignment and placement against an independent implementation ----


@dataclass
class Case:
    """n packets with all that belongs to them, and what they seal to."""

    lengths: NDArray[np.uint32]
    keys: Bytes
    counters: NDArray[np.uint64]
    ad: Bytes
    plain: list[bytes]
    sealed: list[bytes]

    @property
    def width(self) -> int:
        return int(self.lengths.max()) + 16


def make_case(rng: np.random.Generator, lengths: NDArray[np.uint32], ad_size: int = 0) -> Case:
    n = len(lengths)
    keys, ad = random_bytes(rng, n, 32), random_bytes(rng, n, ad_size)
    counters = rng.integers(0, 1 << 64, n, np.uint64)
    plain = [rng.bytes(int(length)) for length in lengths]
    sealed = [
        ChaCha20Poly1305(key.tobytes()).encrypt(bytes(4) + counter.tobytes(), packet, extra.tobytes())
        for key, counter, packet, extra in zip(keys, counters, plain, ad, strict=True)
    ]
    return Case(lengths, keys, counters, ad, plain, sealed)


@pytest.fixture(scope="module")
def every_length() -> Case:
    return make_case(generator("every_length"), np.arange(LONGEST + 1, dtype=np.uint32))


def rows(n: int, width: int, misalignment: int = 0, gap: int = 0) -> Bytes:
    """n rows that begin `misalignment` bytes after a multiple of 64 and stand `gap` bytes apart."""
    stride = width + gap
    memory = np.full(n * stride + 128, 0xA5, np.uint8)
    begin = -memory.ctypes.data % 64 + misalignment
    return memory[begin : begin + n * stride].reshape(n, stride)[:, :width]


def fill(array: Bytes, packets: list[bytes]) -> None:
    for row, packet in zip(array, packets, strict=True):
        row[: len(packet)] = np.frombuffer(packet, np.uint8)


def read(array: Bytes, packets: list[bytes]) -> list[bytes]:
    return [row[: len(packet)].tobytes() for row, packet in zip(array, packets, strict=True)]


def check_both_ways(case: Case, source: Bytes, target: Bytes) -> None:
    """Seals from source to target, opens back from target to source; nothing past a packet's end changes."""
    n = len(case.lengths)
    ad = case.ad if case.ad.shape[1] else None
    source[:], target[:] = 0xA5, 0xA5
    fill(source, case.plain)
    wgfast.seal(source, case.lengths, case.keys, case.counters, target, ad)
    assert read(target, case.sealed) == case.sealed
    for i in range(n):
        assert (target[i, case.lengths[i] + 16 :] == 0xA5).all()

    ok = np.zeros(n, np.uint8)
    if source.ctypes.data != target.ctypes.data:
        source[:] = 0xA5
    assert wgfast.open(target, case.lengths + 16, case.keys, case.counters, source, ok, ad) == n
    assert ok.all()
    assert read(source, case.plain) == case.plain


@pytest.mark.parametrize(
    ("source_at", "target_at", "gap"),
    [(0, 0, 0), (1, 0, 3), (0, 1, 7), (7, 9, 13), (15, 2, 1), (33, 63, 64)],
)
def test_every_length(kernel: str, every_length: Case, source_at: int, target_at: int, gap: int) -> None:
    n, width = len(every_length.lengths), every_length.width
    check_both_ways(every_length, rows(n, width, source_at, gap), rows(n, width, target_at, gap + 5))


@pytest.mark.parametrize("misalignment", [0, 1, 3, 8, 17])
def test_every_length_in_place(kernel: str, every_length: Case, misalignment: int) -> None:
    array = rows(len(every_length.lengths), every_length.width, misalignment, gap=misalignment)
    check_both_ways(every_length, array, array)


def test_large_and_mixed(kernel: str) -> None:
    rng = generator("test_large_and_mixed")
    lengths = np.concatenate([rng.integers(LONGEST, 70_000, 40), rng.integers(0, 200, 90)])
    case = make_case(rng, rng.permutation(lengths).astype(np.uint32), ad_size=13)
    n, width = len(lengths), case.width
    check_both_ways(case, rows(n, width, 5), rows(n, width, 11))


def test_columns_of_one_array(kernel: str) -> None:
    """Source and destination may be columns of the same rows, as a program with headroom has them."""
    case = make_case(generator("test_columns_of_one_array"), np.arange(70, dtype=np.uint32))
    arena = rows(70, 16 + 2 * case.width)
    check_both_ways(case, arena[:, 16 : 16 + case.width], arena[:, 16 + case.width :])


def test_one_key_one_ad_and_rfc_nonces(kernel: str) -> None:
    rng = generator("test_one_key_one_ad_and_rfc_nonces")
    key, ad, nonces = rng.bytes(32), rng.bytes(29), random_bytes(rng, 100, 12)
    packets, out = random_bytes(rng, 100, 64), np.zeros((100, 80), np.uint8)
    wgfast.seal(packets, np.full(100, 64, np.uint32), key, nonces, out, ad)
    oracle = ChaCha20Poly1305(key)
    expected = [oracle.encrypt(nonces[i].tobytes(), packets[i].tobytes(), ad) for i in range(100)]
    assert [row.tobytes() for row in out] == expected


@pytest.mark.parametrize("flags", [np.uint8, bool])
def test_no_packets(flags: type) -> None:
    nothing, lengths, counters = np.zeros((0, 64), np.uint8), np.zeros(0, np.uint32), np.zeros(0, np.uint64)
    wgfast.seal(nothing, lengths, bytes(32), counters, nothing.copy())
    assert wgfast.open(nothing, lengths, bytes(32), counters, nothing.copy(), np.zeros(0, flags)) == 0


def test_any_buffer_will_do() -> None:
    """No numpy: memoryviews of a bytearray in and out."""
    packets = memoryview(bytearray(b"p" * 40)).cast("B", (2, 20))
    out = memoryview(bytearray(72)).cast("B", (2, 36))
    counters = memoryview((5).to_bytes(8, "little") + (6).to_bytes(8, "little")).cast("Q")
    lengths = memoryview((20).to_bytes(4, "little") * 2).cast("I")
    wgfast.seal(packets, lengths, bytes(32), counters, out)
    assert bytes(out)[:36] == ChaCha20Poly1305(bytes(32)).encrypt(
        bytes(4) + (5).to_bytes(8, "little"), b"p" * 20, None
    )


# ---- forgeries ----


def test_tampering(kernel: str) -> None:
    """One bit is wrong in each row, except every fifth; a wrong one opens to zeros and harms no other."""
    rng = generator("test_tampering")
    n = 400
    lengths = rng.integers(0, 300, n).astype(np.uint32)
    case = make_case(rng, lengths, ad_size=8)
    sealed = rows(n, case.width)
    fill(sealed, case.sealed)
    keys, counters, ad = case.keys.copy(), case.counters.copy(), case.ad.copy()
    for i in range(n):
        bit = np.uint8(1 << int(rng.integers(8)))
        match i % 5:
            case 0:
                sealed[i, rng.integers(lengths[i] + 16)] ^= bit
            case 1:
                keys[i, rng.integers(32)] ^= bit
            case 2:
                counters[i] ^= np.uint64(1 << int(rng.integers(64)))
            case 3:
                ad[i, rng.integers(8)] ^= bit
    out, ok = np.full((n, case.width), 0xA5, np.uint8), np.full(n, 7, np.uint8)
    right = np.arange(n) % 5 == 4
    assert wgfast.open(sealed, lengths + 16, keys, counters, out, ok, ad) == right.sum()
    assert (ok == right).all()
    for i in range(n):
        expected = case.plain[i] if right[i] else bytes(int(lengths[i]))
        assert out[i, : lengths[i]].tobytes() == expected
        assert (out[i, lengths[i] :] == 0xA5).all()


def test_a_tag_of_every_wrong_bit(kernel: str) -> None:
    case = make_case(generator("test_a_tag_of_every_wrong_bit"), np.full(128, 33, np.uint32))
    sealed = rows(128, 49)
    fill(sealed, case.sealed)
    for bit in range(128):
        sealed[bit, 33 + bit // 8] ^= np.uint8(1 << bit % 8)
    ok = np.ones(128, bool)
    assert wgfast.open(sealed, case.lengths + 16, case.keys, case.counters, sealed, ok) == 0
    assert not ok.any()
    assert not sealed[:, :33].any()


def test_shorter_than_a_tag_is_not_ok(kernel: str) -> None:
    case = make_case(generator("test_shorter_than_a_tag"), np.zeros(17, np.uint32))
    sealed = rows(17, 16)
    fill(sealed, case.sealed)
    out, ok = np.full((17, 4), 0xA5, np.uint8), np.ones(17, bool)
    assert wgfast.open(sealed, np.arange(17, dtype=np.uint32), case.keys, case.counters, out, ok) == 1
    assert ok.tolist() == [False] * 16 + [True]
    assert (out == 0xA5).all()


# ---- arrays that are wrong ----

ARGUMENTS: dict[str, Any] = {
    "packets": np.zeros((4, 64), np.uint8),
    "lengths": np.full(4, 40, np.uint32),
    "keys": np.zeros((4, 32), np.uint8),
    "nonces": np.arange(4, dtype=np.uint64),
    "out": np.zeros((4, 80), np.uint8),
    "ok": np.zeros(4, np.uint8),
    "ad": np.zeros((4, 8), np.uint8),
}


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    array = array.copy()
    array.flags.writeable = False
    return array


def unaligned(array: NDArray[Any]) -> NDArray[Any]:
    memory = np.zeros(array.nbytes + 1, np.uint8)
    memory[1:] = array.view(np.uint8).reshape(-1)
    return memory[1:].view(array.dtype)


BAD: list[tuple[str, str, Callable[[Any], Any], str]] = [
    ("packets", "float", lambda a: a.astype(float), r"packets: float64 of shape \(4, 64\): expected uint8"),
    ("packets", "signed", lambda a: a.astype(np.int8), "packets: int8"),
    ("packets", "flat", lambda a: a.reshape(-1), r"packets: uint8 of shape \(256,\)"),
    ("packets", "columns", lambda a: np.asfortranarray(a), "each row contiguous"),
    ("packets", "every other byte", lambda a: a[:, ::2], "each row contiguous"),
    ("packets", "backwards", lambda a: a[::-1], "do not overlap"),
    ("packets", "one row again and again", lambda a: np.broadcast_to(a[0], (4, 64)), "do not overlap"),
    ("packets", "list", lambda a: a.tolist(), "packets: list"),
    ("packets", "too narrow", lambda a: a[:, :39], r"lengths\[0\]: 40: a row of packets holds 39 bytes"),
    ("lengths", "int64", lambda a: a.astype(np.int64), "lengths: int64"),
    ("lengths", "uint64", lambda a: a.astype(np.uint64), "expected contiguous uint32"),
    ("lengths", "big-endian", lambda a: a.astype(">u4"), "lengths: format '>I'"),
    ("lengths", "too few", lambda a: a[:3], r"lengths: uint32 of shape \(3,\): expected .* \(4,\)"),
    ("lengths", "two axes", lambda a: a.reshape(2, 2), r"shape \(2, 2\)"),
    ("lengths", "strided", lambda a: np.repeat(a, 2)[::2], "lengths: .* stride 8"),
    ("lengths", "unaligned", unaligned, "lengths: .* unaligned"),
    ("lengths", "one too long", lambda a: a + np.array([0, 0, 41, 0], np.uint32), r"lengths\[2\]: 81"),
    (
        "lengths",
        "huge",
        lambda a: a + np.array([0, 0, 0, 0xFFFFFFD7], np.uint32),
        r"lengths\[3\]: 4294967295",
    ),
    ("keys", "short", lambda a: a[:, :31], "keys: "),
    ("keys", "too few", lambda a: a[:3], r"keys: uint8 of shape \(3, 32\)"),
    ("keys", "one of 31", lambda a: bytes(31), r"keys: uint8 of shape \(31,\)"),
    ("keys", "none", lambda a: None, "keys: NoneType"),
    ("nonces", "signed", lambda a: a.astype(np.int64), "nonces: int64"),
    (
        "nonces",
        "eight bytes",
        lambda a: np.zeros((4, 8), np.uint8),
        r"nonces: .*\(4, 8\): expected .*\(4, 12\)",
    ),
    ("nonces", "too few", lambda a: a[:3], "nonces: "),
    ("out", "read-only", read_only, r"out: uint8 of shape \(4, 80\), read-only"),
    ("out", "bytes", lambda a: bytes(320), "out: "),
    ("out", "too few rows", lambda a: a[:3], "4 rows, as packets has"),
    ("out", "float", lambda a: a.astype(np.float32), "out: float32"),
    ("ad", "too few", lambda a: a[:3], "ad: "),
    ("ad", "numbers", lambda a: np.zeros(4, np.uint32), "ad: uint32"),
    ("ad", "text", lambda a: "header", "ad: str"),
]
BAD_SEAL = [("out", "too narrow", lambda a: a[:, :55], r"lengths\[0\]: 40: a row of out holds 55 bytes")]
BAD_OPEN = [
    ("out", "too narrow", lambda a: a[:, :23], r"lengths\[0\]: 40: a row of out holds 23 bytes"),
    ("ok", "too few", lambda a: a[:3], "ok: "),
    ("ok", "read-only", read_only, "ok: .*read-only"),
    ("ok", "wide", lambda a: a.astype(np.uint32), "ok: uint32 .* expected contiguous uint8 or bool"),
    ("ok", "none", lambda a: None, "ok: None"),
]


def bad(extra: list[Any]) -> Any:
    return [pytest.param(*entry, id=f"{entry[0]}-{entry[1]}") for entry in BAD + extra]


@pytest.mark.parametrize(("name", "problem", "spoil", "message"), bad(BAD_SEAL))
def test_seal_refuses(name: str, problem: str, spoil: Callable[[Any], Any], message: str) -> None:
    arguments = {key: value.copy() for key, value in ARGUMENTS.items() if key != "ok"}
    arguments[name] = spoil(arguments[name])
    with pytest.raises(wgfast.BatchError, match=message):
        wgfast.seal(**arguments)
    if name != "out":
        assert not arguments["out"].any()


@pytest.mark.parametrize(("name", "problem", "spoil", "message"), bad(BAD_OPEN))
def test_open_refuses(name: str, problem: str, spoil: Callable[[Any], Any], message: str) -> None:
    arguments = {key: value.copy() for key, value in ARGUMENTS.items()}
    arguments["out"][:] = 0xA5
    arguments[name] = spoil(arguments[name])
    with pytest.raises(wgfast.BatchError, match=message):
        wgfast.open(**arguments)
    if name != "out":
        assert (arguments["out"] == 0xA5).all()


OVERLAPS: list[tuple[str, Callable[[Bytes], tuple[Bytes, Bytes]]]] = [
    ("a byte later", lambda a: (a[:, :80], a[:, 1:81])),
    ("a byte earlier", lambda a: (a[:, 1:81], a[:, :80])),
    ("a row later", lambda a: (a[:4, :80], a[1:, :80])),
    ("other strides", lambda a: (a[:4, :80], a.reshape(-1)[:320].reshape(4, 80))),
    ("last byte", lambda a: (a[:, :81], a[:, 80:160])),
]


@pytest.mark.parametrize(("where", "cut"), OVERLAPS, ids=[where for where, _ in OVERLAPS])
def test_overlaps_are_refused(where: str, cut: Callable[[Bytes], tuple[Bytes, Bytes]]) -> None:
    packets, out = cut(np.zeros((5, 200), np.uint8))
    n = len(packets)
    with pytest.raises(wgfast.BatchError, match="out: shares memory with packets"):
        wgfast.seal(packets, np.full(n, 40, np.uint32), bytes(32), np.arange(n, dtype=np.uint64), out)


def test_out_shares_no_memory_with_the_rest() -> None:
    memory = np.zeros(1024, np.uint8)
    out, keys = memory[:320].reshape(4, 80), memory[256:384].reshape(4, 32)
    with pytest.raises(wgfast.BatchError, match="out: shares memory with keys"):
        wgfast.seal(ARGUMENTS["packets"], ARGUMENTS["lengths"], keys, ARGUMENTS["nonces"], out)
    with pytest.raises(wgfast.BatchError, match="ok: shares memory with out"):
        wgfast.open(
            ARGUMENTS["packets"], ARGUMENTS["lengths"], bytes(32), ARGUMENTS["nonces"], out, memory[316:320]
        )


def test_unknown_kernel() -> None:
    before = _core.aead_kernel()
    with pytest.raises(ValueError, match=r"'no such'.*portable \(usable\)"):
        _core.aead_choose("no such")
    assert _core.aead_kernel() == before
