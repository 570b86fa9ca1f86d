"""Devices configured as by a UAPI set, and watched while they are."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from wgfast import Device, generate_private_key, public_key
from wgfast.uapi import parse_set
from wgfast.uapi_apply import apply


def new_key() -> str:
    return public_key(generate_private_key()).hex()


def configure(device: Device, text: str) -> None:
    apply(device, parse_set(text.encode()))


@contextlib.contextmanager
def never_without_owner(device: Device, address: bytes) -> Iterator[None]:
    """A thread asks all the time whose the IPv4 address is; fails if once it was nobody's."""
    gaps: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            if device.core.route(4, address) == 0:
                gaps.append(1)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        done.set()
        asking.join()
    assert not gaps
