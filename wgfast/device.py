"""A WireGuard device: the core's ports, workers and peers, and the control plane that drives it. Wiring only.

What moves packets is the core; what shakes hands is control.py. A Device is made down: `up` (or entering it
by `with` or `async with`) opens its sockets and starts its workers. All methods may be called from any
thread."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import _core, bulk
from ._core import Endpoint
from .control import Control, EventName, Handler
from .errors import ClosedError, ConfigError, ForkedError
from .keylog import open_keylog
from .keys import PrivateKey, PublicKey, clamp, parse_key, public_key
from .limits import Limits, check_limits
from .peer import Peer, Peers
from .resolve import Resolver
from .settings import (
    AllowedIPsArgument,
    EndpointArgument,
    check_keepalive,
    count_queues,
    count_threads,
    may_use,
    number,
    offloads_off,
    parse_allowed_ips,
    parse_endpoint,
    parse_endpoint_host,
)
from .stats import DeviceStats as DeviceStats
from .stats import statistics_of
from .tun import open_tun

if TYPE_CHECKING:
    from typing_extensions import Buffer, Self

    from .driver import LoopDriver, ThreadDriver

MTU = 1420
MTU_MIN = 68  # what every IPv4 link carries (RFC 791)
_NO_KEY = bytes(32)
_WALL_TOLERANCE = 500_000_000  # ns by which the wall clock may drift before it counts as set
_numbers = itertools.count()


class Device:
    """A WireGuard device.

    `private_key` in any form keys.py reads, None: none yet. `listen_port` 0: any. `tun`, the inner port: the
    name of an interface to create or attach to, a descriptor (TUN, or one end of a Unix datagram or
    seqpacket pair; it stays the caller's to close), or None. `mtu` None: that of an interface whose
    descriptor was given, else 1420. `threads`: workers, 1 to THREADS_MAX; None: WGFAST_THREADS from the
    environment, or what suits the machine. `queues`: of an interface that is created, 1 to QUEUES_MAX, as far
    as the system can keep a flow in one; None: WGFAST_QUEUES, or what suits the threads. `without`: names of
    offloads that shall not be used (OFFLOAD_NAMES); None: those WGFAST_OFFLOAD names. `keylog`: a file for
    every session's keys, see keylog.py; None: that of WGFAST_KEYLOG, "": none. Raises ConfigError for what
    cannot be, InterfaceError when the interface or the key log cannot be opened.
    """

    def __init__(
        self,
        private_key: str | Buffer | None = None,
        listen_port: int = 0,
        *,
        fwmark: int = 0,
        mtu: int | None = None,
        tun: str | int | None = None,
        threads: int | None = None,
        queues: int | None = None,
        without: Iterable[str] | None = None,
        keylog: str | None = None,
        name: str | None = None,
    ) -> None:
        key = None if private_key is None else parse_key(private_key, "private_key")
        self._port = number("listen_port", listen_port, 0, 65535)
        self._fwmark = number("fwmark", fwmark, 0, 0xFFFFFFFF)
        if mtu is not None:
            number("mtu", mtu, MTU_MIN, _core.MTU_MAX)
        workers, off = count_threads(threads), offloads_off(without)
        lanes = count_queues(queues, workers) if isinstance(tun, str) or queues is not None else 1
        self._lock = threading.RLock()
        self.changing = threading.RLock()  # one setting is applied at a time; taken before the lock
        self._closed = self._closing = self._processing = self._up = False
        self._driver: ThreadDriver | LoopDriver | None = None
        self._bound = 0
        self._wall_offset = time.time_ns() - _core.clock_now()
        self._tun, own_tun, interface = open_tun(tun, may_use("vnet", off), lanes > 1)
        self._own_tun = self._tun if own_tun else -1
        self._has_interface = interface is not None
        self.name = name or interface or f"wgfast{next(_numbers)}"
        try:
            self.core = _core.Core(workers, off, lanes)
            self.control = Control(self.core, self.name)
            self.control.enabled = False
            self.names = Resolver(self)
            if self._tun >= 0:
                self.core.set_tun(self._tun)
            if mtu is None and interface and not own_tun:
                self.set_mtu(_core.tun_mtu(self._tun), interface=False)
            else:
                self.set_mtu(MTU if mtu is None else mtu)
            self.set_private_key(key)
            self.control.keylog = open_keylog(keylog, self.name)
        except BaseException:
            self._close_tun()
            raise

    def __repr__(self) -> str:
        state = "closed" if self._closed else "up" if self._up else "down"
        return f"<Device {self.name}, {state}>"

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError(
            "a Device cannot be pickled or copied: a second one would use its keys and counters again"
        )

    # ---- identity ----

    @property
    def private_key(self) -> PrivateKey | None:
        with self.using() as core:
            key = core.private_key()
        return None if key is None else PrivateKey(key)

    @private_key.setter
    def private_key(self, value: str | Buffer | None) -> None:
        self.set_private_key(None if value is None else parse_key(value, "private_key"))

    @property
    def public_key(self) -> PublicKey | None:
        with self.using() as core:
            key = core.public_key()
        return None if key is None else PublicKey(key)

    def set_private_key(self, key: bytes | None) -> None:
        """32 bytes, clamped here; None or zeros: none. Every handshake and session of the old key ends. A
        peer that has our new public key is removed, as in Linux."""
        with self.using() as core:
            if key is None or key == _NO_KEY:
                self.control.forget_all()
                core.set_identity(None, None)
                return
            scalar = clamp(key)
            if scalar == core.private_key():
                return
            public = public_key(scalar)
            if ourselves := core.find_peer(public):
                self.drop_peer(ourselves)
            self.control.forget_all()
            core.set_identity(scalar, public)

    # ---- the outer port ----

    @property
    def listen_port(self) -> int:
        """The port in use, or, down, the one that will be asked for. Setting it while up rebinds under
        traffic, and peers with a session are told; an OSError (in use, not allowed) leaves the old one."""
        with self.using():
            return self._bound if self._up else self._port

    @listen_port.setter
    def listen_port(self, port: int) -> None:
        self.set_listen_port(port)

    @property
    def configured_port(self) -> int:
        """As it was asked for; 0: any."""
        self._check()
        return self._port

    def set_listen_port(self, port: int) -> None:
        number("listen_port", port, 0, 65535)
        with self.using():
            if self._up and (port == 0 or port != self._bound):
                self._bound = self._bind(port)
                self.control.moved(self.now())
            self._port = port

    @property
    def fwmark(self) -> int:
        """The mark of every datagram we send (SO_MARK), 0: none. OSError leaves the old one."""
        self._check()
        return self._fwmark

    @fwmark.setter
    def fwmark(self, mark: int) -> None:
        self.set_fwmark(mark)

    def set_fwmark(self, mark: int) -> None:
        number("fwmark", mark, 0, 0xFFFFFFFF)
        with self.using() as core:
            if self._up and mark != self._fwmark:
                core.set_fwmark(mark)
                self.control.moved(self.now())
            self._fwmark = mark

    @property
    def mtu(self) -> int:
        """Largest inner packet, bytes. Setting it also sets the interface's, where there is one."""
        self._check()
        return self._mtu

    @mtu.setter
    def mtu(self, mtu: int) -> None:
        self.set_mtu(mtu)

    def set_mtu(self, mtu: int, *, interface: bool = True) -> None:
        """`interface` False: only ours, because it is the interface that has changed."""
        number("mtu", mtu, MTU_MIN, _core.MTU_MAX)
        with self.using() as core:
            if interface and self._has_interface and _core.tun_mtu(self._tun) != mtu:
                _core.tun_set_mtu(self._tun, mtu)
            core.set_mtu(mtu)
            self._mtu = mtu

    # ---- peers ----

    def add_peer(
        self,
        public_key: str | Buffer,
        *,
        allowed_ips: AllowedIPsArgument = (),
        endpoint: EndpointArgument | None = None,
        endpoint_host: str | None = None,
        preshared_key: str | Buffer | None = None,
        persistent_keepalive: int | None = None,
        limits: Limits | None = None,
    ) -> Peer:
        """Adds a peer. ConfigError names what does not fit, and nothing has changed: every argument is read
        before the first is applied. Nor has it where the table of allowed IPs is full: OSError
        (ENOSPC). A name in `endpoint` is resolved now, once; that of `endpoint_host`
        ("vpn.example.org:51820") soon and whenever it takes, see Peer.endpoint_host."""
        key = parse_key(public_key, "public_key")
        prefixes = parse_allowed_ips(allowed_ips)
        where = None if endpoint is None else parse_endpoint(endpoint)
        psk = None if preshared_key is None else parse_key(preshared_key, "preshared_key")
        seconds = check_keepalive(persistent_keepalive or 0)
        host = None if endpoint_host is None else parse_endpoint_host(endpoint_host)
        limited = check_limits(limits)
        with self.using() as core:
            if key == core.public_key():
                raise ConfigError(f"public_key: {PublicKey(key)}: is this device's own; a peer has another")
            if core.find_peer(key):
                raise ConfigError(f"public_key: {PublicKey(key)}: is a peer already: device.peer() has it")
            handle = core.add_peer(key)
            try:
                if psk is not None:
                    core.peer_set_psk(handle, psk)
                core.peer_set_limits(handle, limited, self.now())
                core.peer_set_endpoint(handle, where)
                core.peer_allow_many(handle, prefixes)
                if host:
                    self.names.keep(handle, *host)
                self.set_keepalive(handle, seconds)
            except BaseException:
                self.drop_peer(handle)
                raise
            return Peer(self, handle)

    def update(self, peers: Iterable[bulk.PeerSettings], *, replace: bool = False) -> None:
        """Adds and changes many peers while traffic flows; `replace`: all others go. ConfigError, naming what
        does not fit, or that the table of allowed IPs is full: nothing has changed."""
        bulk.update(self, peers, replace)

    def remove_peer(self, peer: Peer | str | Buffer) -> None:
        """Removes a peer, given as Peer or public key. KeyError or PeerRemovedError when there is none."""
        self.drop_peer((peer if isinstance(peer, Peer) else self.peer(peer)).handle)

    def peer(self, public_key: str | Buffer) -> Peer:
        """The peer of that key; KeyError when there is none."""
        return self.peers[public_key]

    @property
    def peers(self) -> Peers:
        """The peers by public key, live: what is added or removed shows."""
        return Peers(self)

    def ensure_peer(self, public_key: bytes) -> int:
        """Handle of the peer of that key, made if need be. 0 for our own key: that peer is ignored, as in
        Linux."""
        with self.using() as core:
            if public_key == core.public_key():
                return 0
            return core.find_peer(public_key) or core.add_peer(public_key)

    def drop_peer(self, handle: int) -> None:
        with self.using() as core:
            self.control.forget(handle)
            self.names.drop(handle)
            core.remove_peer(handle)

    def set_endpoint(self, handle: int, endpoint: Endpoint | None) -> None:
        """It has no name any more."""
        with self.using() as core:
            self.names.drop(handle)
            core.peer_set_endpoint(handle, endpoint)

    def set_psk(self, handle: int, psk: bytes) -> None:
        """Zeros: none. A changed one counts at once, see Control.set_psk."""
        with self.using():
            self.control.set_psk(handle, psk, self.now(), time.time_ns())

    def set_keepalive(self, handle: int, seconds: int) -> None:
        with self.using() as core:
            core.peer_set_persistent_keepalive(handle, seconds, self.now())

    def begin_handshake(self, handle: int) -> None:
        with self.using():
            self.control.handshake(handle, self.now(), time.time_ns())

    # ---- numbers and news ----

    def drops(self) -> dict[str, int]:
        """Dropped packets by reason (the names of core/drops.h)."""
        return self.statistics().drops

    def offloads(self) -> dict[str, str]:
        """Each by name: "untried" (no port yet), "in use", "switched off", or "absent" or "given up": why."""
        with self.using() as core:
            found = core.offloads()
        return {
            name: _core.OFFLOAD_STATES[state] + (f": {os.strerror(error)}" if error else "")
            for name, (state, error) in zip(_core.OFFLOAD_NAMES, found, strict=True)
        }

    def statistics(self) -> DeviceStats:
        with self.using() as core:
            return statistics_of(core, self.control)

    def on(self, event: EventName, handler: Handler) -> None:
        """Calls `handler(News)` when `event` happens (the names: control.News), on the thread that calls
        `process`: the control thread in a `with`, the loop in an `async with`. What it raises is logged and
        counted. The device is locked meanwhile: it may change it, but not wait for a thread that does."""
        with self.using():
            self.control.on(event, handler)

    def off(self, event: EventName, handler: Handler) -> None:
        """Undoes `on`."""
        with self.using():
            self.control.off(event, handler)

    # ---- life ----

    @property
    def is_up(self) -> bool:
        return self._up

    def up(self) -> None:
        """Opens the sockets and starts the workers; peers with a persistent keepalive are greeted. OSError:
        the port is in use or not allowed, and the device stays down."""
        with self.using() as core:
            if self._up:
                return
            self._bound = self._bind(self._port)
            try:
                core.start()
            except BaseException:
                core.unbind()
                raise
            self._up = True
            self.control.enable(self.now())

    def down(self) -> None:
        """Stops the workers, closes the sockets, ends every session and handshake, drops what waits; the
        configuration stays. What `ip link set down` does to a kernel's device."""
        with self.using() as core:
            if not self._up:
                return
            core.stop()
            core.unbind()
            self._up = False
            self.control.disable()

    def close(self) -> None:
        """Ends the device and wipes its keys; every later use raises ClosedError. From an event handler it
        takes effect when the handler's round is done. After `async with` it is the loop's thread that closes.
        In a forked child it does nothing: there is nothing there any more."""
        if self._closed or not self.core.alive:
            return
        driver, self._driver = self._driver, None
        if driver:
            driver.stop()
        with self._lock:
            if self._processing:
                self._closing = True
            elif not self._closed:
                self._finish()

    def _finish(self) -> None:
        self._closed = True
        self._up = False
        self.core.close()
        self.names.stop()
        if self.control.keylog:
            self.control.keylog.close()
        self._close_tun()

    def _close_tun(self) -> None:
        if self._own_tun >= 0:
            os.close(self._own_tun)
            self._own_tun = -1

    def fileno(self) -> int:
        """A descriptor that is readable when `process` is to be called. Only to be waited for."""
        with self.using() as core:
            return core.event_fd()

    def process(self) -> int | None:
        """Does what the control plane has to do now. Returns when to call again at the latest, in ns of
        `now()`; None: not before `fileno()` is readable. Whoever uses neither `with` nor `async with` calls
        this."""
        with self.using():
            self._processing = True
            try:
                return self.control.process(self.now(), time.time_ns())
            finally:
                self._processing = False
                if self._closing and not self._closed:
                    self._finish()

    def now(self) -> int:
        """The device's clock: CLOCK_BOOTTIME, ns."""
        return _core.clock_now()

    def wall_of(self, at: int) -> int:
        """When that was, in ns since 1970. The same moment gives the same answer until somebody sets the wall
        clock."""
        offset = time.time_ns() - self.now()
        if abs(offset - self._wall_offset) > _WALL_TOLERANCE:
            self._wall_offset = offset
        return at + self._wall_offset

    def __enter__(self) -> Self:
        from .driver import ThreadDriver

        self._refuse_second_driver()
        self.up()
        self._driver = ThreadDriver(self)
        return self

    def _refuse_second_driver(self) -> None:
        self._check()
        if self._driver:
            raise RuntimeError(f"{self.name}: its control plane runs already")

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        import asyncio

        from .driver import LoopDriver

        self._refuse_second_driver()
        self.up()
        self._driver = LoopDriver(self, asyncio.get_running_loop())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    @contextmanager
    def using(self) -> Iterator[_core.Core]:
        """The core, while nobody else changes the device. ClosedError, ForkedError."""
        # Before the lock: in a forked child it may be held for ever by a thread that was not copied.
        self._check()
        with self._lock:
            self._check()
            yield self.core

    def _check(self) -> None:
        if self._closed:
            raise ClosedError(f"{self.name}: the device was closed")
        if not self.core.alive:
            raise ForkedError("device")

    def _bind(self, port: int) -> int:
        try:
            return self.core.bind(port, self._fwmark)
        except OSError as error:
            raise type(error)(error.errno, f"listen_port {port}: {error.strerror}") from None
