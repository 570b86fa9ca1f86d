"""Names of endpoints: kept, asked for again when a peer falls silent, off the packet path and off the control
plane's thread.

`Names` is the policy: which peers have a name and when each is to be asked for. It reads no clock, sends no
query and holds no thread. `Resolver` is the one thread that asks. It exists while a name exists: whoever
configures addresses only pays nothing.

The thread lives as long as its process, and its names are those of today: glibc looks whether
/etc/resolv.conf has changed at every query since 2.26 (its NEWS, August 2017), musl reads it anew each time.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from . import resolve_outside
from ._core import Endpoint
from .errors import ClosedError, ForkedError, PeerRemovedError
from .keys import PublicKey
from .log import about

if TYPE_CHECKING:
    from ._core import Core
    from .control import Control
    from .device import Device

log = logging.getLogger("wgfast")

_SECOND: Final = 1_000_000_000
# As wg(8) waits for a name that cannot be resolved yet: 1 s, then each time a fifth longer.
RETRY_FIRST: Final = _SECOND
RETRY_MOST: Final = 20 * _SECOND
# A peer that should have answered and was not heard for so long may be elsewhere: two rekeys have failed.
SILENCE: Final = 135 * _SECOND
# A peer that stays silent is asked for so often, as by a reresolve-dns timer.
ASK_AGAIN: Final = 30 * _SECOND
# How often it is looked whether peers with a name were heard: how late silence may be noticed.
LOOK: Final = 15 * _SECOND

Lookup = Callable[[str, int], Sequence[Endpoint]]
_MAPPED: Final = "::ffff:"


def lookup(host: str, port: int) -> list[Endpoint]:
    """All addresses of a name, each once, in the order the system prefers them (RFC 6724). OSError: it cannot
    be resolved, or not now. It waits for the network."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except ValueError as error:  # no name can look like this, by IDNA's rules
        raise socket.gaierror(socket.EAI_NONAME, str(error)) from None
    endpoints: dict[Endpoint, None] = {}
    for family, _, _, _, address in found:
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        numeric = f"{address[0]}".partition("%")[0]
        if numeric.startswith(_MAPPED) and "." in numeric:
            numeric = numeric.removeprefix(_MAPPED)  # our IPv6 socket carries IPv6 only
        scope = f"%{address[3]}" if len(address) == 4 and address[3] else ""
        endpoints[Endpoint(numeric + scope, port)] = None
    if not endpoints:
        raise socket.gaierror(socket.EAI_NONAME, "it has neither an IPv4 nor an IPv6 address")
    return list(endpoints)


def format_name(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# ---- when ----


@dataclass(slots=True, eq=False)
class Name:
    """One peer's name. Another name of the same peer is another object: an answer that comes too late is
    told by that."""

    peer: int
    host: str
    port: int
    due: int | None  # when to ask; None: not before the peer is silent
    look_at: int  # when to look whether it was heard
    received: int  # bytes, when looked at last
    heard_at: int  # at the latest; before it was heard, since when it could have been
    silent: bool = False  # though we tried; until it is heard
    wanted: bool = True  # an answer counts even if the peer was heard meanwhile
    retry: int = RETRY_FIRST
    failed: bool = False  # and that was told
    tried: list[Endpoint] = field(default_factory=list)  # in this silence, without success

    def __str__(self) -> str:
        return format_name(self.host, self.port)


class Names:
    """The names of one device's peers. One caller at a time. `now`: ns of the device's clock."""

    def __init__(self, core: Core, control: Control) -> None:
        self._core = core
        self._control = control
        self._names: dict[int, Name] = {}  # by handle of the peer

    def __len__(self) -> int:
        return len(self._names)

    def of(self, peer: int) -> str | None:
        """NAME:PORT of a peer, None: it has none."""
        name = self._names.get(peer)
        return None if name is None else str(name)

    def all(self) -> dict[int, str]:
        """NAME:PORT by handle."""
        return {peer: str(name) for peer, name in self._names.items()}

    def keep(self, peer: int, host: str, port: int, now: int) -> None:
        """The peer is reached at that name from now on; its endpoint stays what it is until there is an
        answer. The name it has already is asked for again. PeerRemovedError."""
        known = self._names.get(peer)
        if known and (known.host, known.port) == (host, port):
            self.resolve(peer, now)
            return
        received = self._core.peer_info(peer).received_bytes
        self._names[peer] = Name(peer, host, port, now, now + LOOK, received, now)

    def resolve(self, peer: int, now: int) -> None:
        """Asks at once, on demand; nothing for a peer without a name."""
        name = self._names.get(peer)
        if name:
            name.due, name.wanted, name.retry = now, True, RETRY_FIRST

    def drop(self, peer: int) -> None:
        self._names.pop(peer, None)

    def next(self, now: int) -> Name | None:
        """A name that is to be asked for now. Of several, one that was not in vain before: a dead name
        server for one must not keep the others waiting."""
        for name in [name for name in self._names.values() if name.look_at <= now]:
            self._look(name, now)
        due = [(name.failed, name.due, name) for name in self._names.values() if name.due is not None]
        ready = [item for item in due if item[1] <= now]
        return min(ready, key=lambda item: item[:2])[2] if ready else None

    def deadline(self) -> int | None:
        """When `next` is to be called again at the latest; None: there are no names."""
        times = [name.look_at for name in self._names.values()]
        times += [name.due for name in self._names.values() if name.due is not None]
        return min(times, default=None)

    def _look(self, name: Name, now: int) -> bool:
        """Notes whether the peer was heard, or is silent though we try. False: there is no such peer any
        more."""
        try:
            info = self._core.peer_info(name.peer)
        except PeerRemovedError:
            self.drop(name.peer)
            return False
        name.look_at = now + LOOK
        if info.received_bytes != name.received:
            name.received, name.heard_at, name.silent = info.received_bytes, now, False
            name.tried.clear()
            if not name.wanted:
                name.due, name.retry, name.failed = None, RETRY_FIRST, False
        elif name.due is None and now - name.heard_at >= SILENCE and self._trying(name.peer, info.staged):
            name.due, name.silent = now, True
        return True

    def _trying(self, peer: int, staged: int) -> bool:
        # Not bytes sent: the last word of a conversation is ours as often as not, and wants no answer.
        return peer in self._control.pending or staged > 0

    # ---- what came of it ----

    def failed(self, name: Name, error: OSError, now: int) -> None:
        """Told once, then tried until it succeeds or the peer is heard."""
        if self._names.get(name.peer) is not name:
            return
        name.due = now + name.retry
        name.retry = min(name.retry * 6 // 5, RETRY_MOST)
        if not name.failed:
            name.failed = True
            why = error.strerror or str(error)
            self._tell(
                logging.ERROR, name, f"cannot resolve {name.host!r}: {why}; trying again", "unresolved"
            )

    def found(self, name: Name, endpoints: Sequence[Endpoint], now: int) -> None:
        """Makes one of them the peer's endpoint, or leaves the one it has."""
        if self._names.get(name.peer) is not name or not self._look(name, now):
            return
        if name.due is None:
            return  # heard while we asked
        name.due, name.retry, name.wanted, name.failed = None, RETRY_FIRST, False, False
        if name.silent:
            name.look_at = now + ASK_AGAIN  # the chosen one has so long to prove itself
        present = self._core.peer_info(name.peer).endpoint
        chosen = self._choose(name, endpoints, present)
        if present is not None and _same(chosen, present):
            return
        self._core.peer_set_endpoint(name.peer, chosen)
        if present is None:
            name.heard_at = now  # it could not be heard before
        where = format_name(*chosen[:2])
        self._tell(logging.DEBUG, name, f"{name.host} is at {where}", "resolved", endpoint=where)
        self._control.greet(name.peer, now)

    def _choose(self, name: Name, endpoints: Sequence[Endpoint], present: Endpoint | None) -> Endpoint:
        """Of several addresses the one it has; of a silent peer, the first that is not known to fail."""
        if present is None:
            return endpoints[0]
        if not name.silent:
            return present if any(_same(endpoint, present) for endpoint in endpoints) else endpoints[0]
        name.tried.append(present)
        untried = [e for e in endpoints if not any(_same(e, tried) for tried in name.tried)]
        if not untried:
            name.tried[:] = [present]
            untried = [endpoint for endpoint in endpoints if not _same(endpoint, present)]
        return untried[0] if untried else present

    def _tell(self, level: int, name: Name, text: str, event: str, **fields: object) -> None:
        key = PublicKey(self._core.peer_info(name.peer).public_key).short
        extra = about(event, peer=key, endpoint_host=str(name), **fields)
        log.log(level, "%s: peer(%s): %s", self._control.name, key, text, extra=extra)


def _same(one: Endpoint, other: Endpoint) -> bool:
    return one[:2] == other[:2]


# ---- who asks ----


class Resolver:
    """The names of one device, and the thread that asks for them while there are any. All methods may be
    called from any thread.

    An answer is put to use under the device's lock, as whatever else changes a device. `lookup` may be
    replaced: it is called without any lock, and raises OSError for what cannot be resolved. `mark` sets the
    mark of sockets, called as what Core.set_keeper() takes (resolve_outside.py)."""

    def __init__(self, device: Device, lookup: Lookup = lookup) -> None:
        self.lookup = lookup
        self.mark: Callable[[int, int, int], None] = _set_mark
        self._device = device
        self._servers = resolve_outside.name_servers()  # while there is no tunnel
        self._names = Names(device.core, device.control)
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._names)

    def all(self) -> dict[int, str]:
        """See Names.all."""
        with self._device.using():
            return self._names.all()

    def of(self, peer: int) -> str | None:
        """NAME:PORT of a peer, None: it has none."""
        return self._names.of(peer)  # one look into a dict: needs no lock

    def keep(self, peer: int, host: str, port: int) -> None:
        """See Names.keep."""
        with self._device.using():
            self._names.keep(peer, host, port, self._device.now())
            self._start()

    def resolve(self, peer: int) -> None:
        """See Names.resolve."""
        with self._device.using():
            self._names.resolve(peer, self._device.now())
            self._wake.set()

    def drop(self, peer: int) -> None:
        """The endpoint stays."""
        with self._device.using():
            self._names.drop(peer)
            self._wake.set()

    def stop(self) -> None:
        """The device was closed. A query that is under way cannot be interrupted: the thread, which keeps no
        process alive, ends after it."""
        self._wake.set()

    def _start(self) -> None:
        """Under the device's lock, as is the thread when it decides to end."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=f"{self._device.name} names", daemon=True)
            thread.start()
            self._thread = thread
        self._wake.set()

    def _run(self) -> None:
        try:
            while True:
                # Before looking, so that what is said meanwhile is not slept over.
                self._wake.clear()
                with self._device.using():
                    now = self._device.now()
                    name = self._names.next(now)
                    deadline = self._names.deadline()
                    if deadline is None:
                        self._thread = None
                        return
                if name is None:
                    self._wake.wait(max(deadline - now, 0) / _SECOND)
                else:
                    self._ask(name)
        except (ClosedError, ForkedError):
            pass
        except Exception:
            self._thread = None  # whoever names something next starts another
            log.exception("%s: names are no longer resolved", self._device.name)

    def _ask(self, name: Name) -> None:
        failure = OSError("no answer")
        endpoints: Sequence[Endpoint] = ()
        try:
            endpoints = self.lookup(name.host, name.port)
        except OSError as error:
            failure = error
            endpoints = self._ask_outside(name)
        except Exception as error:  # of a lookup that was put in place of ours
            log.exception("%s: %r cannot be looked up", self._device.name, name.host)
            failure = OSError(f"{type(error).__name__}")
        with self._device.using():
            try:
                if endpoints:
                    self._names.found(name, endpoints, self._device.now())
                else:
                    self._names.failed(name, failure, self._device.now())
            except PeerRemovedError:
                self._names.drop(name.peer)
            except OSError as error:  # an address that the core cannot take
                self._names.failed(name, error, self._device.now())

    def _ask_outside(self, name: Name) -> Sequence[Endpoint]:
        """Without a mark the system's questions go the same way as ours."""
        mark = self._device.fwmark
        if not mark:
            return ()

        def prepare(client: socket.socket) -> None:
            fd = client.fileno()
            self.mark(*((fd, -1) if client.family == socket.AF_INET else (-1, fd)), mark)

        servers = dict.fromkeys((*self._servers, *resolve_outside.name_servers()))
        try:
            return resolve_outside.lookup(name.host, name.port, servers, prepare)
        except OSError as error:
            log.debug("%s: %s, asked for outside of the tunnel: %s", self._device.name, name.host, error)
            return ()


def _set_mark(fd4: int, fd6: int, mark: int) -> None:
    with socket.socket(fileno=max(fd4, fd6)) as client:
        try:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark.to_bytes(4, sys.byteorder))
        finally:
            client.detach()
