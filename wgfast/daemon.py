"""The daemon: one thread that waits, and hands on what comes to those who know what to do.

It waits for the device's news and deadlines, for clients of the UAPI, for changes of interfaces, addresses
and routes, and for signals. Packets are none of its business: the core's threads carry them.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import selectors
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from wgfast import background, log
from wgfast.errors import InterfaceError, WgfastError

if TYPE_CHECKING:
    from wgfast.control import News
    from wgfast.interface import Interface

logger = logging.getLogger("wgfast")

NAME_MAX: Final = 15  # IFNAMSIZ less the final zero
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_DUMPABLE: Final = 4


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says; the first four names are those of every userspace WireGuard."""

    log_level: str | None = None  # LOG_LEVEL
    foreground: bool = False  # WG_PROCESS_FOREGROUND=1
    tun_fd: int | None = None  # WG_TUN_FD: an interface that was opened for us
    uapi_fd: int | None = None  # WG_UAPI_FD: a socket that listens for us
    threads: int | None = None  # WGFAST_THREADS
    keeper_fd: int | None = None  # WGFAST_KEEPER_FD: to whoever keeps the privileges that are then dropped
    user: str | None = None  # WGFAST_USER: as whom to go on then
    keylog: str = ""  # WGFAST_KEYLOG: a file for every session's keys, see keylog.py
    log_format: str = "text"  # WGFAST_LOG_FORMAT

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Settings:
        """InterfaceError or ConfigError names the variable whose value is not what it should be."""
        keylog = environ.get("WGFAST_KEYLOG")
        return cls(
            log_level=environ.get("LOG_LEVEL"),
            foreground=environ.get("WG_PROCESS_FOREGROUND") == "1",
            tun_fd=_number(environ, "WG_TUN_FD"),
            uapi_fd=_number(environ, "WG_UAPI_FD"),
            threads=_number(environ, "WGFAST_THREADS", 1),
            keeper_fd=_number(environ, "WGFAST_KEEPER_FD"),
            user=environ.get("WGFAST_USER") or None,
            # The background has another directory.
            keylog=os.path.abspath(keylog) if keylog else "",
            log_format=log.parse_format(environ.get("WGFAST_LOG_FORMAT", "")),
        )


def _number(environ: Mapping[str, str], name: str, least: int = 0) -> int | None:
    text = environ.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise InterfaceError(f"{name}={text!r}: a number from {least} on was expected")
    return int(text)


def check_name(name: str) -> None:
    """InterfaceError if the system would not take it for an interface's name."""
    raw = os.fsencode(name)
    if not 1 <= len(raw) <= NAME_MAX:
        raise InterfaceError(f"{name!r}: {len(raw)} bytes: an interface's name has 1 to {NAME_MAX}")
    if name in (".", "..") or any(character in "/:" or character.isspace() for character in name):
        raise InterfaceError(
            f"{name!r}: an interface's name has no slash, colon or blank, and is not . or .."
        )


def forbid_dumps() -> None:
    """Of what Python has held of keys nothing goes into a core file, nor to a debugger but root's. The core
    keeps its own memory out of both (DESIGN.md: Secrets)."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def run(name: str, foreground: bool, environ: Mapping[str, str] = os.environ) -> int:
    """Runs a daemon for the interface `name`; its exit status, or that of the command that started it."""
    report = background.Report()
    try:
        check_name(name)
        settings = Settings.of(environ)
        if not foreground and not settings.foreground:
            if settings.keylog:
                # Where the daemon's own warning goes, nobody may ever look.
                print(f"wgfast: WARNING: {name}: WGFAST_KEYLOG is set: keys are logged", file=sys.stderr)
            given = [fd for fd in (settings.tun_fd, settings.uapi_fd) if fd is not None]
            # Only whoever asked for a log wants lines on the terminal afterwards.
            outcome = background.detach(given, settings.log_level in ("error", "verbose", "debug"))
            if isinstance(outcome, int):
                return outcome
            report = outcome
        log.configure(settings.log_level or "", settings.log_format)
        forbid_dumps()
        return _serve(name, settings, report)
    except (WgfastError, OSError) as error:
        report.failed(str(error))
        return 1


def _serve(name: str, settings: Settings, report: background.Report) -> int:
    try:
        daemon = Daemon(name, settings)
    except (WgfastError, OSError):
        raise
    except Exception as error:  # the terminal is gone: say it through the command
        report.failed(f"{name}: {type(error).__name__}: {error}")
        raise
    with daemon:
        report.ready()
        daemon.run()
    return 0


class Descriptor(Protocol):
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Daemon:
    """A device, its interface and its socket, from creation to close()."""

    def __init__(self, name: str, settings: Settings) -> None:
        # Only now, in the process that is going to use it.
        from wgfast import _core
        from wgfast.alarm import Alarm
        from wgfast.device import Device
        from wgfast.monitor import Monitor
        from wgfast.priority import Courtesy
        from wgfast.uapi_server import UapiServer

        _core.aead_environment()  # as Device would, but before there is an interface
        self._stopping = False
        with contextlib.ExitStack() as stack:
            self._selector = stack.enter_context(selectors.DefaultSelector())
            self._stack = stack
            self._signals = Signals()
            self._watch(self._signals, self._signalled)
            self.interface = self._open_interface(name, settings)
            self._open_socket(settings)
            self._device = Device(
                tun=self.interface.fd,
                mtu=self._mtu(),
                threads=settings.threads,
                queues=self._queues,
                keylog=settings.keylog,
                name=self.interface.name,
            )
            stack.callback(self._device.close)
            self._device.control.courtesy = Courtesy()
            self._selector.register(self._device.fileno(), selectors.EVENT_READ, _nothing)
            self._alarm = Alarm()
            self._watch(self._alarm, self._alarm.ring)
            self._log_events()
            self._monitor = Monitor()
            self._watch(self._monitor, self._system_changed)
            self._selector.register(self.interface, selectors.EVENT_READ, self._interface_changed)
            self._wants_up = False  # the interface is up, and the sockets could not be opened
            self._drop_privileges(settings)
            stack.callback(UapiServer(self._socket.listener, self._selector, self._answer).close)
            self._refresh()
            self._stack = stack.pop_all()
        statistics = self._device.statistics()
        logger.debug(
            "%s: device started; %d threads, %d queues, packets use at most %.1f MiB",
            self.interface.name,
            statistics.threads,
            statistics.queues,
            statistics.packet_memory_ceiling / 2**20,
            extra=log.about("started", threads=statistics.threads, queues=statistics.queues),
        )

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        logger.debug("%s: shutting down", self.interface.name, extra=log.about("stopped"))
        self._stack.close()

    def run(self) -> None:
        """Until the interface or the socket is removed, or a signal says so."""
        while not self._stopping:
            self._alarm.set(self._device.process())
            for key, _ in self._selector.select():
                try:
                    key.data()
                except Exception:  # whatever it was, the tunnel goes on
                    logger.exception("%s: daemon", self.interface.name)

    def _watch(self, descriptor: Descriptor, call: Any) -> None:
        self._stack.callback(descriptor.close)
        self._selector.register(descriptor, selectors.EVENT_READ, call)

    def _open_interface(self, name: str, settings: Settings) -> Interface:
        from wgfast.interface import Interface
        from wgfast.settings import count_queues, count_threads, may_use, offloads_off
        from wgfast.uapi_socket import refuse_live

        if settings.uapi_fd is None and "%" not in name:
            # Before there is an interface: it may have the name in another namespace.
            refuse_live(name)
        fd = settings.tun_fd
        vnet = may_use("vnet", offloads_off(None))
        # Of an interface that was opened for us the other queues may be somebody else's.
        self._queues = count_queues(None, count_threads(settings.threads)) if fd is None else 1
        interface = Interface.open(name, vnet, self._queues > 1) if fd is None else Interface.adopt(fd, name)
        self._stack.callback(interface.close)
        return interface

    def _drop_privileges(self, settings: Settings) -> None:
        """Before there is another thread than this one."""
        if settings.keeper_fd is None:
            if settings.user is not None:
                raise InterfaceError(
                    f"WGFAST_USER={settings.user}: takes WGFAST_KEEPER_FD too: `wgfast run --user` does both"
                )
            return
        from wgfast.keeper import Kept, drop_privileges

        self._kept = Kept(socket.socket(fileno=settings.keeper_fd))
        self._watch(self._kept, self._keeper_spoke)
        self._device.core.set_keeper(self._kept.prepare)
        self._device.names.mark = self._kept.prepare
        drop_privileges(settings.user)

    def _mtu(self) -> int:
        state = self.interface.state()
        if state is None:
            raise InterfaceError(f"{self.interface.name}: the interface was deleted while it was opened")
        return state.mtu

    def _open_socket(self, settings: Settings) -> None:
        from wgfast.inotify import FileWatch
        from wgfast.uapi_socket import UapiSocket

        fd = settings.uapi_fd
        self._socket = UapiSocket.open(self.interface.name) if fd is None else UapiSocket.adopt(fd)
        self._stack.callback(self._socket.close)
        if self._socket.path is not None:
            self._file = FileWatch(self._socket.path)
            self._watch(self._file, self._file_changed)

    # ---- what comes ----

    def _stop(self, why: str) -> None:
        logger.debug("%s: %s", self.interface.name, why, extra=log.about("stopping", why=why))
        self._stopping = True

    def _signalled(self) -> None:
        self._stop(self._signals.take())

    def _keeper_spoke(self) -> None:
        if self._kept.is_gone():
            self._stop("whoever keeps its privileges is gone")

    def _file_changed(self) -> None:
        self._file.take()
        if not self._socket.is_in_place():
            self._stop(f"{self._socket.path} was removed")

    def _system_changed(self) -> None:
        news = self._monitor.read()
        if news.sources:
            self._device.core.clear_sources()
        if news.links:
            self._refresh()

    def _interface_changed(self) -> None:
        self.interface.look()
        self._refresh()

    def _refresh(self) -> None:
        """Makes the device what the interface is now, wherever that is."""
        try:
            self.interface.follow(self._monitor)
        except OSError as error:
            logger.error("%s: its changes are not followed: %s", self.interface.name, error)
        state = self.interface.state()
        if state is None:
            self._stop("the interface was deleted")
            return
        if state.mtu != self._device.mtu:
            self._device.set_mtu(state.mtu, interface=False)
        if not state.up and self._device.is_up:
            logger.debug("%s: interface down", self.interface.name, extra=log.about("down"))
            self._device.down()
        self._wants_up = state.up and not self._device.is_up
        if self._wants_up:
            self._go_up()
        self.interface.watch(not self._device.is_up)

    def _go_up(self) -> None:
        try:
            self._device.up()
            self._wants_up = False
            port = self._device.listen_port
            logger.debug(
                "%s: interface up, UDP port %d", self.interface.name, port, extra=log.about("up", port=port)
            )
        except OSError as error:
            extra = log.about("no_sockets", errno=error.errno)
            logger.error("%s: cannot open the UDP sockets: %s", self.interface.name, error, extra=extra)

    def _answer(self, request: bytes | bytearray) -> Iterator[bytes]:
        from wgfast.uapi_server import respond

        setting = request.startswith(b"set")
        answer = respond(self._device, self.interface.name, request, self._device.process)
        del request  # it may be large
        yield from answer
        if self._wants_up and setting:
            self._refresh()  # another port may be free

    # ---- what is told ----

    def _log_events(self) -> None:
        self._device.on("tun_gone", lambda _: self._stop("the interface was deleted"))
        self._device.on("handshake", self._log_handshake)
        self._device.on("roamed", self._log_roamed)
        self._device.on("cookie", self._log_cookie)

    def _log_handshake(self, news: News) -> None:
        how = "Received handshake response" if news.value else "Received handshake initiation, sent response"
        self._log_peer(news, f"{how}: session with")

    def _log_roamed(self, news: News) -> None:
        self._log_peer(news, "Roamed to")

    def _log_cookie(self, news: News) -> None:
        self._log_peer(news, "Received cookie response from")

    def _log_peer(self, news: News, text: str) -> None:
        where = f"{news.endpoint.host}:{news.endpoint.port}" if news.endpoint else "(none)"
        name = news.peer.short if news.peer else ""
        fields = {"initiator": bool(news.value)} if news.name == "handshake" else {}
        extra = log.about(news.name, peer=name, endpoint=where, **fields)
        logger.debug("%s: peer(%s) - %s %s", self.interface.name, name, text, where, extra=extra)


def _nothing() -> None:
    """The device's news are taken at every turn."""


class Signals:
    """SIGTERM, SIGINT and SIGHUP as a descriptor that becomes readable."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        for number in _SIGNALS:
            # SIGHUP stays ignored for whoever was started by nohup.
            if number != signal.SIGHUP or self._before[number] != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)

    def fileno(self) -> int:
        return self._reader.fileno()

    def take(self) -> str:
        numbers = self._reader.recv(64)
        return signal.Signals(numbers[0]).name

    def close(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        self._reader.close()
        self._writer.close()
