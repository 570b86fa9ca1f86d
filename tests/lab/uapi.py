"""The cross-platform userspace interface, spoken by hand over the socket."""

from __future__ import annotations

import base64
import socket
from pathlib import Path

DIRECTORY = Path("/var/run/wireguard")


def socket_path(interface: str) -> Path:
    return DIRECTORY / f"{interface}.sock"


def connect(interface: str, timeout: float = 5.0) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(timeout)
    try:
        client.connect(str(socket_path(interface)))
    except OSError:
        client.close()
        raise
    return client


def answers(interface: str) -> bool:
    """Whether a `get=1` gets a complete answer."""
    try:
        with connect(interface, 1.0) as client:
            return bool(exchange(client, "get=1\n\n"))
    except OSError:
        return False


def exchange(client: socket.socket, request: str) -> list[tuple[str, str]]:
    """Sends one operation and reads its answer to the empty line; the connection stays usable."""
    client.sendall(request.encode())
    answer = b""
    while not answer.endswith(b"\n\n"):
        piece = client.recv(1 << 16)
        if not piece:
            raise ConnectionError(f"the answer ends early: {answer[-80:]!r}")
        answer += piece
    lines = answer.decode().strip().splitlines()
    return [(key, value) for key, _, value in (line.partition("=") for line in lines)]


def request(interface: str, text: str) -> list[tuple[str, str]]:
    with connect(interface) as client:
        return exchange(client, text)


def set_errno(interface: str, *lines: str) -> int:
    """Sends a `set=1` with these lines and returns the errno of its answer."""
    answer = request(interface, "\n".join(("set=1", *lines)) + "\n\n")
    assert [key for key, _ in answer] == ["errno"], answer
    return int(answer[0][1])


def hexadecimal(key: str) -> str:
    """The UAPI writes keys in hexadecimal, the tools in base64."""
    return base64.b64decode(key).hex()
