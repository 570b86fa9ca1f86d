"""X25519 as the core computes it, with somebody watching."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

import wgfast.noise  # noqa: F401  gives the core its X25519
from wgfast import _core
from wgfast.keys import X25519

_Multiply = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_in_use = [X25519[0]]  # the innermost last


@contextlib.contextmanager
def watched() -> Iterator[list[int]]:
    """Yields a list to which each multiplication adds the address of its scalar."""
    scalars: list[int] = []
    multiply = _Multiply(_in_use[-1])

    @_Multiply
    def noted(out: int, scalar: int, point: int) -> int:
        scalars.append(scalar)
        return int(multiply(out, scalar, point))

    address = ctypes.cast(noted, ctypes.c_void_p).value
    assert address
    _in_use.append(address)
    _core.use_x25519(address, X25519[1])
    try:
        yield scalars
    finally:
        _in_use.pop()
        _core.use_x25519(_in_use[-1], X25519[1])
