"""A daemon that says over its UAPI socket what a test wants said, and notes what it was asked."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

FINE = "errno=0\n\n"


class PlayedDaemon:
    """Listens on DIRECTORY/NAME.sock until closed. An operation that has no answer is hung up on.

    `get` is the answer to `get=1`, `set` that to every `set=1`, `wgfast` that to `wgfast=1`.
    """

    def __init__(self, directory: Path, name: str, get: str = FINE) -> None:
        self.path = directory / f"{name}.sock"
        self.name = name
        self.get: str | None = get
        self.set: str | None = FINE
        self.wgfast: str | None = None
        self.requests: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> PlayedDaemon:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def take_sets(self) -> list[str]:
        """The bodies of the `set=1` requests since the last time."""
        found = [request for request in self.requests if request.startswith("set=1\n")]
        self.requests.clear()
        return found

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        request = b""
        while not request.endswith(b"\n\n"):
            piece = connection.recv(1 << 16)
            if not piece:
                return
            request += piece
        text = request.decode()
        self.requests.append(text)
        answers = {"get=1": self.get, "set=1": self.set, "wgfast=1": self.wgfast}
        answer = answers.get(text.partition("\n")[0])
        if answer is not None:
            connection.sendall(answer.encode())
