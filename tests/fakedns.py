"""A name server in the process: a lookup for wgfast.resolve that tests can fill, hold up and watch."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence

from devicepair import PATIENCE

from wgfast import Endpoint

TEMPORARY = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


class FakeDns:
    """Names it has no addresses for cannot be resolved now. While `free` is not set, all wait."""

    def __init__(self, **records: Sequence[str]) -> None:
        self.records: dict[str, Sequence[str]] = dict(records)
        self.asked: list[str] = []
        self.threads: set[str] = set()
        self.free = threading.Event()
        self.free.set()

    def __call__(self, host: str, port: int) -> Sequence[Endpoint]:
        self.asked.append(host)
        self.threads.add(threading.current_thread().name)
        assert self.free.wait(PATIENCE)
        if host not in self.records:
            raise TEMPORARY
        return [Endpoint(address, port) for address in self.records[host]]
