"""An interface as a service in the foreground: two processes, of which only this small one keeps privileges.

The other one, a daemon as any, carries the packets and has dropped all privileges (keeper.py). This one runs
hooks, sets up what is around the interface and takes it down again, sets the marks of the other's sockets,
and tells systemd how things stand.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from wgfast import client
from wgfast.daemon import forbid_dumps
from wgfast.keeper import Keeper
from wgfast.notify import notify, watchdog_interval
from wgfast.quick import bringup, teardown
from wgfast.quick.errors import REFUSED, TIMED_OUT, QuickError
from wgfast.quick.implementation import TIMEOUT, daemon_environment
from wgfast.quick.journal import Report
from wgfast.quick.target import Target

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_FREE_PORTS: Final = "net.ipv4.ip_unprivileged_port_start"
_LOOK: Final = 0.02  # seconds between looks at a daemon that starts
_END: Final = 5.0  # that a daemon may take to end by itself


class Service:
    """`user`: as whom the packets are carried, None: as ourselves, without privileges."""

    def __init__(self, target: Target, report: Report, user: str | None = None) -> None:
        self._target = target
        self._report = report
        self._user = user
        self._keeper = Keeper()
        self._daemon: subprocess.Popen[bytes] | None = None
        # No threading.Event: a handler that sets one waits for ever for the lock of whom it has interrupted.
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._asked = False  # to end
        self._is_up = False

    def run(self) -> None:
        """Up, until a signal or the daemon's end, and down. QuickError and ConfigFileError as for up() and
        down(), and if the daemon has died."""
        forbid_dumps()
        self._check_port()
        asked = False
        try:
            bringup.up(self._target, self._report, self._start)
            self._is_up = True
            with _answered_by(self._ask):
                notify(f"READY=1\nSTATUS={self._target.interface} is up")
                self._wait()
                notify("STOPPING=1")
                asked = self._asked
                if asked:
                    self._is_up = False
                    teardown.down(self._target, self._report)
        finally:
            with _answered_by(self._ask):  # an impatient one would leave half of it behind
                self._end()
        if not asked:
            raise QuickError(f"{self._target.interface}: its daemon has ended: LOG_LEVEL=verbose shows why")

    def _check_port(self) -> None:
        """QuickError if the daemon could never open it: it has no privileges when it does."""
        port = self._target.config.interface.listen_port
        if port and port < _first_free_port():
            raise QuickError(
                f"ListenPort = {port}: the process that carries the packets has no privileges, and this port "
                f"takes one: choose a higher one, or `sysctl {_FREE_PORTS}={port}`",
                REFUSED,
            )

    # ---- the other process ----

    def _start(self, name: str) -> None:
        """A quick.Start."""
        given = self._keeper.theirs.fileno()
        environ = {**daemon_environment(), "WGFAST_KEEPER_FD": str(given)}
        if self._user:
            environ["WGFAST_USER"] = self._user
        self._daemon = subprocess.Popen(
            [sys.executable, "-m", "wgfast", "-f", "--", name],
            stdin=subprocess.DEVNULL,
            env=environ,
            cwd="/",
            pass_fds=[given],
            start_new_session=True,  # a terminal's interrupt is for us: we end it
        )
        self._keeper.hand_over()
        threading.Thread(target=self._keep, daemon=True).start()
        self._await_answer(name)

    def _await_answer(self, name: str) -> None:
        assert self._daemon
        deadline = time.monotonic() + TIMEOUT
        while not client.answers(name):
            if self._daemon.poll() is not None:
                raise QuickError(f"{name}: the daemon did not start, see above", self._daemon.returncode or 1)
            if time.monotonic() > deadline:
                raise QuickError(f"{name}: the daemon did not start within {TIMEOUT:.0f} s", TIMED_OUT)
            time.sleep(_LOOK)

    def _keep(self) -> None:
        """A thread: serves the daemon while it lives, and says when it does no more."""
        while self._keeper.serve():
            pass
        self._wake()

    def _end(self) -> None:
        """Nothing is left behind, whatever was reached."""
        # An interruption between the last step's end and our noting it has undone nothing.
        left = self._is_up or (self._daemon is not None and client.answers(self._target.interface))
        self._keeper.close()
        if self._daemon:
            try:
                self._daemon.wait(_END)  # it sees that the keeper is gone
            except subprocess.TimeoutExpired:
                with contextlib.suppress(PermissionError):  # as another user, without CAP_KILL
                    self._daemon.kill()
                    self._daemon.wait()
        if left:
            teardown.clean_up(self._target, self._report)

    # ---- until it ends ----

    def _ask(self, number: int, _: FrameType | None) -> None:
        self._asked = True
        self._wake()

    def _wake(self) -> None:
        os.eventfd_write(self._woken, 1)

    def _wait(self) -> None:
        interval = watchdog_interval()
        while not select.select([self._woken], [], [], interval / 2 if interval else None)[0]:
            if client.answers(self._target.interface):
                notify("WATCHDOG=1")


def _first_free_port() -> int:
    try:
        with open(f"/proc/sys/{_FREE_PORTS.replace('.', '/')}") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


@contextlib.contextmanager
def _answered_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """The signals that end a service are its own to heed."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        for number in _SIGNALS:
            if before[number] != signal.SIG_IGN:
                signal.signal(number, handler)
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
