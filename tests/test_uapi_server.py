"""The UAPI on its socket: several clients at once, slow ones, ones that never end."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import selectors
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from configured import configure

from wgfast import Device, generate_private_key
from wgfast import uapi_server as server_module
from wgfast.uapi import dump
from wgfast.uapi_server import UapiServer, respond

KEY = "ab" * 32
PEER = f"public_key={KEY}\n"


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device(generate_private_key())
    yield made
    made.close()


def shown(device: Device) -> list[str]:
    return b"".join(dump(device)).decode().splitlines()


class Served:
    """A server on a socket, with a thread that turns its selector."""

    def __init__(self, path: str, answer: Callable[[bytes], Iterator[bytes]]) -> None:
        self.path = path
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen(128)
        self._selector = selectors.DefaultSelector()
        self._server = UapiServer(listener, self._selector, answer)
        self._stop, stop = os.pipe()
        self._wake = stop
        self._selector.register(self._stop, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._turn)
        self._thread.start()

    def _turn(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.data is None:
                    return
                key.data()

    def close(self) -> None:
        os.write(self._wake, b"x")
        self._thread.join()
        self._server.close()
        os.close(self._stop)
        os.close(self._wake)

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(5)
        client.connect(self.path)
        return client

    def ask(self, request: bytes) -> bytes:
        with self.connect() as client:
            client.sendall(request)
            return read_answer(client)


def read_answer(client: socket.socket) -> bytes:
    """Through the empty line, or to the end of what comes."""
    answer = b""
    while not answer.endswith(b"\n\n"):
        piece = client.recv(1 << 16)
        if not piece:
            break
        answer += piece
    return answer


@pytest.fixture
def served(device: Device, tmp_path: object) -> Iterator[Served]:
    made = Served(f"{tmp_path}/uapi.sock", functools.partial(respond, device, "test"))
    yield made
    made.close()


def test_answers(served: Served, device: Device) -> None:
    assert served.ask(b"set=1\nlisten_port=51999\n\n") == b"errno=0\n\n"
    assert device.listen_port == 51999
    answer = served.ask(b"get=1\n\n")
    assert b"listen_port=51999\n" in answer
    assert answer.endswith(b"errno=0\n\n")
    assert served.ask(b"set=1\n\n") == b"errno=0\n\n"
    assert served.ask(b"set=1\nlisten_port=x\n\n") == b"errno=%d\n\n" % -errno.EINVAL
    assert served.ask(b"set=1\nlisten_port\n\n") == b"errno=%d\n\n" % -errno.EPROTO
    assert served.ask(b"get=1\nlisten_port=1\n\n") == b"errno=%d\n\n" % errno.EINVAL
    assert served.ask(b"get=2\n\n") == b"errno=%d\n\n" % errno.EINVAL
    assert served.ask(b"\n") == b"errno=%d\n\n" % errno.EINVAL


@pytest.mark.parametrize("request_", [b"private_key=%b\n\n", b"%b\n\n", b"set=1 private_key=%b\n\n"])
def test_a_request_that_is_none_is_not_logged(
    device: Device, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It may begin with a secret, of a client that forgot the operation."""
    secret = "c3" * 32
    with caplog.at_level("ERROR", "wgfast"):
        answer = b"".join(respond(device, "test", request_ % secret.encode()))
    assert answer == b"errno=%d\n\n" % errno.EINVAL
    assert caplog.messages
    assert secret[:8] not in caplog.text


def test_one_connection_asks_often_and_in_pieces(served: Served) -> None:
    with served.connect() as client:
        for _ in range(3):
            client.sendall(b"set=1\nfwm")
            client.sendall(b"ark=0\n\nget=")
            assert read_answer(client) == b"errno=0\n\n"
            client.sendall(b"1\n\n")
            assert read_answer(client).endswith(b"errno=0\n\n")


def test_requests_in_one_piece_are_answered_in_order(served: Served) -> None:
    with served.connect() as client:
        client.sendall(b"set=1\nfwmark=x\n\nset=1\n\nget=1\n\n")
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert answer.startswith(b"errno=%d\n\nerrno=0\n\n" % -errno.EINVAL)
    assert answer.endswith(b"errno=0\n\n")


def test_half_a_set_is_not_done(served: Served, device: Device) -> None:
    with served.connect() as client:
        client.sendall(b"set=1\nlisten_port=51999\n")
        client.shutdown(socket.SHUT_WR)
        assert read_answer(client) == b"errno=%d\n\n" % -errno.EPROTO
    assert device.listen_port == 0


def test_a_request_without_end_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "REQUEST_MAX", 1 << 20)
    with served.connect() as client:
        line = b"set=1\n" + b"fwmark=1\n" * 1000
        with contextlib.suppress(OSError):
            for _ in range(1000):
                client.sendall(line)
                line = line.removeprefix(b"set=1\n")
        with contextlib.suppress(ConnectionResetError):
            assert read_answer(client) in (b"errno=%d\n\n" % -errno.E2BIG, b"")
    assert served.ask(b"get=1\n\n").endswith(b"errno=0\n\n")


def test_a_slow_client_keeps_nobody_waiting(served: Served, device: Device) -> None:
    """One never reads the answer, which no socket buffer can hold; one never ends its question."""
    prefixes = "".join(f"allowed_ip=10.{n >> 8}.{n & 255}.0/24\n" for n in range(60_000))
    configure(device, PEER + prefixes)
    with served.connect() as deaf, served.connect() as slow:
        deaf.sendall(b"get=1\n\n")
        slow.sendall(b"set=1\nfwmark=1\n")
        for _ in range(3):
            assert served.ask(b"set=1\n\n") == b"errno=0\n\n"
            answer = served.ask(b"get=1\n\n")
            assert answer.count(b"allowed_ip=") == 60_000
        assert device.fwmark == 0
        late = read_answer(deaf)
        assert late == answer


def test_many_clients_leave_room_for_one_more(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(server_module.CLIENTS_MAX + 20):
            client = stack.enter_context(served.connect())
            client.sendall(b"set=1\n")
        assert served.ask(b"get=1\n\n").endswith(b"errno=0\n\n")


def test_a_mistake_of_ours_is_an_errno(
    served: Served, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(mark: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(device, "set_fwmark", broken)
    assert served.ask(b"set=1\nfwmark=1\n\n") == b"errno=%d\n\n" % -errno.EIO
    assert served.ask(b"get=1\n\n").endswith(b"errno=0\n\n")
