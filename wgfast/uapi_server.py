"""The UAPI socket: many clients at once. One that stalls makes no other wait; what each sends has a limit.

The server owns no loop: it registers its descriptors with the selector it is given, each with the function
to call when it is ready. Whoever runs the selector calls `key.data()`.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from wgfast import uapi, uapi_apply
from wgfast.log import about

if TYPE_CHECKING:
    from wgfast.device import Device

log = logging.getLogger("wgfast")

REQUEST_MAX: Final = 64 << 20  # 100,000 peers with a preshared key and six allowed IPs each are 43 MB
CLIENTS_MAX: Final = 64
_RECEIVE: Final = 1 << 18
_GET: Final = b"get=1\n"
_SET: Final = b"set=1\n"
_WGFAST: Final = b"wgfast=1\n"
_OPERATIONS: Final = (_GET, _SET, _WGFAST)

Respond = Callable[[bytes | bytearray], Iterator[bytes]]


def respond(
    device: Device, interface: str, request: bytes | bytearray, between: Callable[[], object] | None = None
) -> Iterator[bytes]:
    """The answer to one whole request, in pieces. Whatever goes wrong becomes an errno. `between`: see
    uapi_apply.apply."""
    setting = request.startswith(_SET)
    code = 0
    try:
        if setting:
            changes = uapi.parse_set(memoryview(request)[len(_SET) : -1])
            request = b""  # it may be large
            uapi_apply.apply(device, changes, between)
            del changes
        else:
            yield from _show(device, request)
    except uapi.UapiError as error:
        log.error("%s: UAPI: %s", interface, error, extra=about("uapi_refused", errno=error.errno))
        code = error.errno
    except OSError as error:
        log.error("%s: UAPI: %s", interface, error, extra=about("uapi_refused", errno=error.errno))
        code = error.errno or errno.EIO
    except Exception:  # a mistake of ours must not end the tunnel
        log.exception("%s: UAPI", interface)
        code = errno.EIO
    # wg reads a set's errno negative, as wireguard-go writes it, and a get's as digits only.
    yield b"errno=%d\n\n" % (-code if setting else code)


def _show(device: Device, request: bytes | bytearray) -> Iterator[bytes]:
    for operation, answer in ((_GET, uapi.dump), (_WGFAST, uapi.statistics)):
        if request.startswith(operation):
            if request[len(operation) :] != b"\n":
                what = operation.decode().strip()
                raise uapi.UapiError(errno.EINVAL, f"{what}: an empty line was expected next")
            return answer(device)
    # Not shown: of a client that forgot the operation it may be a secret.
    raise uapi.UapiError(errno.EINVAL, f"{len(request)} bytes: begin with none of get=1, set=1 and wgfast=1")


class UapiServer:
    """Serves one listening socket until close()."""

    def __init__(self, listener: socket.socket, selector: selectors.BaseSelector, respond: Respond) -> None:
        self._listener = listener
        self._selector = selector
        self._respond = respond
        self._clients: dict[_Client, None] = {}  # the one that was served longest ago first
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        for client in list(self._clients):
            client.close()
        self._selector.unregister(self._listener)
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            # Out of descriptors: the connection stays readable, and asking again at once would spin.
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                self._make_room()
            return
        if len(self._clients) >= CLIENTS_MAX:
            self._make_room()
        client = _Client(connection, self._selector, self._respond, self._clients)
        self._clients[client] = None

    def _make_room(self) -> None:
        if self._clients:
            next(iter(self._clients)).close()


class _Client:
    """One connection: reads a request, answers it, and reads on only when the answer has left."""

    def __init__(
        self,
        connection: socket.socket,
        selector: selectors.BaseSelector,
        respond: Respond,
        clients: dict[_Client, None],
    ) -> None:
        self._socket = connection
        self._selector = selector
        self._respond = respond
        self._clients = clients
        self._inbox = bytearray()
        self._searched = 0  # of the inbox: no request ends before
        self._answer: Iterator[bytes] | None = None
        self._outbox = memoryview(b"")
        self._ended = False  # nothing more will come, or be listened to
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, self._readable)

    def close(self) -> None:
        self._clients.pop(self, None)
        if self._socket.fileno() >= 0:
            self._selector.unregister(self._socket)
            self._socket.close()

    def _readable(self) -> None:
        self._served()
        try:
            piece = self._socket.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._inbox += piece
        self._ended = not piece
        self._proceed()

    def _served(self) -> None:
        self._clients[self] = self._clients.pop(self, None)

    def _proceed(self) -> None:
        """Answers what is complete, as far as the client takes answers."""
        while True:
            self._answer = self._next_answer()
            if self._answer is None:
                break
            if not self._write():
                return
        if self._ended:
            self.close()

    def _next_answer(self) -> Iterator[bytes] | None:
        """None: there is no whole request yet."""
        inbox = self._inbox
        if not inbox:
            return None
        if not any(operation.startswith(inbox[: len(operation)]) for operation in _OPERATIONS):
            # There is no telling where the next request would begin.
            self._ended = True
            return self._respond(self._take(len(inbox)))
        end = inbox.find(b"\n\n", max(self._searched - 1, 0))
        if end >= 0:
            return self._respond(self._take(end + 2))
        self._searched = len(inbox)
        if len(inbox) > REQUEST_MAX:
            return self._refuse(errno.E2BIG)
        # Gone halfway, the client may have meant more than it said.
        return self._refuse(errno.EPROTO) if self._ended else None

    def _refuse(self, code: int) -> Iterator[bytes]:
        self._ended = True
        self._take(len(self._inbox))
        return iter((b"errno=%d\n\n" % -code,))

    def _take(self, size: int) -> bytes | bytearray:
        """A large request is most often all there is: it is handed on as it stands."""
        inbox = self._inbox
        self._searched = 0
        self._inbox = inbox[size:]
        del inbox[size:]
        return inbox

    def _writable(self) -> None:
        self._served()
        if self._write():
            self._proceed()

    def _write(self) -> bool:
        """Sends at most one piece of the answer, so that others get their turn. True: all of it has left."""
        if not self._outbox and self._answer is not None:
            piece = next(self._answer, None)
            if piece is None:
                self._answer = None
            else:
                self._outbox = memoryview(piece)
        try:
            if self._outbox:
                self._outbox = self._outbox[self._socket.send(self._outbox) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return False
        if self._answer is not None:
            self._selector.modify(self._socket, selectors.EVENT_WRITE, self._writable)
            return False
        self._selector.modify(self._socket, selectors.EVENT_READ, self._readable)
        return True
