"""Batches in the core's own form (struct wgf_aead_job, aead.h), for what the binding cannot say: additional
data of another length in each job, and every buffer at an address of one's own choice."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wgfast import _core

TAG = 16
STRAY = 0xA5
MARGIN = 64  # untouched bytes on either side of an output

Bytes = NDArray[np.uint8]
Places = Sequence[tuple[int, int]] | None  # misalignments of source and destination; None: in place


class _Job(ctypes.Structure):
    _fields_ = (
        ("key", ctypes.c_void_p),
        ("counter", ctypes.c_uint64),
        ("prefix", ctypes.c_uint32),
        ("ok", ctypes.c_bool),
        ("ad", ctypes.c_void_p),
        ("ad_len", ctypes.c_size_t),
        ("src", ctypes.c_void_p),
        ("dst", ctypes.c_void_p),
        ("len", ctypes.c_size_t),
    )


_Work = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Job), ctypes.c_size_t)


class _Kernel(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("supported", ctypes.c_void_p),
        ("seal", _Work),
        ("open", _Work),
    )


@dataclass(frozen=True)
class Packet:
    """What one job seals, and what it opens: the two need not fit each other."""

    key: bytes
    nonce: bytes  # 12 bytes
    ad: bytes
    plain: bytes
    sealed: bytes = b""


class _Memory:
    """One buffer, `misalignment` bytes after a multiple of 64, between margins."""

    def __init__(self, content: bytes, room: int, misalignment: int) -> None:
        self._all = np.full(room + 2 * MARGIN + 128, STRAY, np.uint8)
        self._begin = MARGIN + (-(self._all.ctypes.data + MARGIN)) % 64 + misalignment
        self._room, self._content = room, content
        self.bytes: Bytes = self._all[self._begin : self._begin + room]
        self.bytes[: len(content)] = np.frombuffer(content, np.uint8)

    @property
    def address(self) -> int:
        return self._all.ctypes.data + self._begin

    def check_margins(self) -> None:
        assert (self._all[: self._begin] == STRAY).all()
        assert (self._all[self._begin + self._room :] == STRAY).all()

    def check_unchanged(self) -> None:
        self.check_margins()
        assert self.bytes.tobytes() == self._content


class Kernel:
    """The two functions of a kernel, whichever is chosen."""

    def __init__(self, name: str) -> None:
        find = ctypes.CDLL(_core.__file__).wgf_aead_find
        find.restype = ctypes.POINTER(_Kernel)
        found = find(ctypes.c_char_p(name.encode()))
        assert found, name
        self._kernel = found.contents

    def seal(self, packets: Sequence[Packet], places: Places = None) -> list[bytes]:
        return self._run(packets, [packet.plain for packet in packets], places, False)[1]

    def open(self, packets: Sequence[Packet], places: Places = None) -> list[bytes | None]:
        """None where the tag was wrong; that the output is zeros then is checked here."""
        rights, outputs = self._run(packets, [packet.sealed for packet in packets], places, True)
        for right, output in zip(rights, outputs, strict=True):
            assert right or not any(output)
        return [output if right else None for right, output in zip(rights, outputs, strict=True)]

    def _run(
        self, packets: Sequence[Packet], contents: list[bytes], places: Places, opening: bool
    ) -> tuple[list[bool], list[bytes]]:
        jobs, read, outputs = (_Job * len(packets))(), [], []
        for i, (packet, content) in enumerate(zip(packets, contents, strict=True)):
            size = len(content) - TAG if opening else len(content)
            at, to = places[i] if places is not None else (0, 0)
            room = size + TAG if opening or places is None else size
            source = _Memory(content, room, at)
            target = source if places is None else _Memory(b"", size if opening else size + TAG, to)
            key, ad = _Memory(packet.key, 32, at), _Memory(packet.ad, len(packet.ad), to)
            nonce = int.from_bytes(packet.nonce, "little")
            jobs[i] = _Job(
                key=key.address,
                counter=nonce >> 32,
                prefix=nonce & 0xFFFFFFFF,
                ok=bool(i & 1),  # whatever it was before must not matter
                ad=ad.address if packet.ad else None,
                ad_len=len(packet.ad),
                src=source.address,
                dst=target.address,
                len=size,
            )
            read += [key, ad, source] if target is not source else [key, ad]
            outputs.append((target, size if opening else size + TAG))
        (self._kernel.open if opening else self._kernel.seal)(jobs, len(packets))
        for memory in read:
            memory.check_unchanged()
        for memory, _ in outputs:
            memory.check_margins()
        return [bool(job.ok) for job in jobs], [memory.bytes[:size].tobytes() for memory, size in outputs]
