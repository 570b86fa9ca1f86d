"""Project Wycheproof's cases for ChaCha20-Poly1305 and XChaCha20-Poly1305 on every usable kernel: sealed and
opened, in place and apart, each alone and all of them in one batch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aeadjobs import TAG, Kernel, Packet
from numpy.typing import NDArray
from seeds import generator

import wgfast
from wgfast import _core

KERNELS = [name for name, usable, _ in _core.aead_kernels() if usable]


@dataclass(frozen=True)
class Case:
    number: int
    flag: str
    valid: bool
    key: bytes
    nonce: bytes
    ad: bytes
    plain: bytes
    sealed: bytes

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Case:
        key, nonce, ad, plain, text, tag = (
            bytes.fromhex(raw[name]) for name in ("key", "iv", "aad", "msg", "ct", "tag")
        )
        return cls(raw["id"], raw["flag"], raw["result"] == "valid", key, nonce, ad, plain, text + tag)


def load(name: str) -> list[Case]:
    path = Path(__file__).parent / "vectors" / f"wycheproof_{name}.json"
    return [Case.of(raw) for raw in json.loads(path.read_text())["tests"]]


ALL, ALL_X = load("chacha20_poly1305"), load("xchacha20_poly1305")
CASES = [case for case in ALL if len(case.nonce) == 12]
CASES_X = [case for case in ALL_X if len(case.nonce) == 24]


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    before = _core.aead_kernel()
    _core.aead_choose(request.param)
    yield request.param
    _core.aead_choose(before)


def test_the_files_are_whole() -> None:
    assert (len(ALL), len(ALL_X)) == (325, 315)
    assert (len(CASES), len(CASES_X)) == (316, 306)
    assert sum(case.valid for case in CASES) == 256
    assert sum(case.valid for case in CASES_X) == 246


def check(kernel: str, cases: Sequence[Case], places: Sequence[tuple[int, int]] | None) -> None:
    """In one batch. An invalid case has a wrong tag: what is sealed must not be it, and it does not open."""
    packets = [Packet(case.key, case.nonce, case.ad, case.plain, case.sealed) for case in cases]
    for case, sealed in zip(cases, Kernel(kernel).seal(packets, places), strict=True):
        assert sealed[:-TAG] == case.sealed[:-TAG], case
        assert (sealed == case.sealed) == case.valid, case
    for case, plain in zip(cases, Kernel(kernel).open(packets, places), strict=True):
        assert plain == (case.plain if case.valid else None), case


def as_row(data: bytes, room: int) -> NDArray[np.uint8]:
    return np.frombuffer(data.ljust(len(data) + room, b"\xa5"), np.uint8).reshape(1, -1).copy()


@pytest.mark.parametrize("in_place", [False, True], ids=["apart", "in place"])
def test_each_alone(kernel: str, in_place: bool) -> None:
    """Through the binding."""
    for case in CASES:
        row, lengths = as_row(case.plain, TAG), np.array([len(case.plain)], np.uint32)
        out = row if in_place else np.zeros_like(row)
        key, nonce = case.key, np.frombuffer(case.nonce, np.uint8).reshape(1, 12)
        wgfast.seal(row, lengths, key, nonce, out, case.ad)
        assert (out.tobytes() == case.sealed) == case.valid, case

        row, ok = as_row(case.sealed, 0), np.zeros(1, bool)
        out = row if in_place else np.full_like(row, 0xA5)
        assert wgfast.open(row, lengths + TAG, key, nonce, out, ok, case.ad) == ok[0] == case.valid, case
        n = len(case.plain)
        assert out[0, :n].tobytes() == (case.plain if case.valid else bytes(n)), case
        assert out[0, n:].tobytes() == (case.sealed[n:] if in_place else b"\xa5" * TAG), case


@pytest.mark.parametrize("in_place", [False, True], ids=["apart", "in place"])
def test_all_in_one_batch(kernel: str, in_place: bool) -> None:
    """In their order, which has like beside like, and shuffled, which has any lengths side by side."""
    rng = generator("test_all_in_one_batch")
    for round_ in range(6):
        cases = [CASES[i] for i in rng.permutation(len(CASES))] if round_ else CASES
        places = [(int(a), int(b)) for a, b in rng.integers(0, 64, (len(cases), 2))]
        check(kernel, cases, None if in_place else places)


def test_batches_of_every_size(kernel: str) -> None:
    """Lanes that stay empty must not matter."""
    rng = generator("test_batches_of_every_size")
    for n in range(1, 70):
        check(kernel, [CASES[i] for i in rng.permutation(len(CASES))[:n]], None)


def test_nonces_of_other_sizes_are_refused(kernel: str) -> None:
    refused = [case for case in ALL if len(case.nonce) != 12]
    assert len(refused) == 9
    one, lengths = np.zeros((1, 32), np.uint8), np.array([16], np.uint32)
    for case in refused:
        assert not case.valid
        nonce = np.frombuffer(case.nonce, np.uint8).reshape(1, len(case.nonce))
        with pytest.raises(wgfast.BatchError, match="nonces: "):
            wgfast.seal(one, lengths, case.key, nonce, one.copy())
        with pytest.raises(wgfast.BatchError, match="nonces: "):
            wgfast.open(one, lengths, case.key, nonce, one.copy(), np.zeros(1, bool))


def test_xchacha(kernel: str) -> None:
    for case in CASES_X:
        assert (_core.xseal(case.key, case.nonce, case.plain, case.ad) == case.sealed) == case.valid, case
        opened = _core.xopen(case.key, case.nonce, case.sealed, case.ad)
        assert opened == (case.plain if case.valid else None), case


def test_xchacha_nonces_of_other_sizes_are_refused() -> None:
    refused = [case for case in ALL_X if len(case.nonce) != 24]
    assert len(refused) == 9
    for case in refused:
        with pytest.raises(ValueError, match=r"nonce: \d+ bytes: expected 24"):
            _core.xseal(case.key, case.nonce, case.plain, case.ad)
        with pytest.raises(ValueError, match=r"nonce: \d+ bytes: expected 24"):
            _core.xopen(case.key, case.nonce, case.sealed, case.ad)
