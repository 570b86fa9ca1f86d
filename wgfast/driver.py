"""Who calls Device.process, and when: a thread, or the event loop that runs already.

Both do the same: wait until the device's descriptor is readable or its deadline has come, then call process.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from typing import TYPE_CHECKING

from .alarm import Alarm
from .errors import ClosedError, ForkedError
from .priority import Courtesy

if TYPE_CHECKING:
    import asyncio

    from .device import Device

log = logging.getLogger("wgfast")


class ThreadDriver:
    """A daemon thread of its own: handlers are called on it."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._alarm = Alarm()
        self._stop = False
        device.control.courtesy = Courtesy()
        self._thread = threading.Thread(target=self._run, name=f"{device.name} control", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when the thread has ended; called on the thread itself, it ends after the current turn."""
        self._stop = True
        if threading.current_thread() is self._thread:
            os.close(self._wake)  # nobody waits for it, nor will
            return
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)

    def _run(self) -> None:
        poll = select.poll()
        try:
            for fd in (self._device.fileno(), self._wake, self._alarm.fileno()):
                poll.register(fd, select.POLLIN)
            while True:
                deadline = self._device.process()
                if self._stop:
                    break
                self._alarm.set(deadline)
                poll.poll()
        except (ClosedError, ForkedError):
            pass  # a handler closed it, or this thread was copied by a fork
        except Exception:
            log.exception("%s: the control thread ends", self._device.name)
        finally:
            self._alarm.close()


class LoopDriver:
    """The running asyncio loop: handlers are called on it."""

    def __init__(self, device: Device, loop: asyncio.AbstractEventLoop) -> None:
        self._device = device
        self._loop = loop
        self._alarm = Alarm()
        self._fds = (device.fileno(), self._alarm.fileno())
        self._running = True
        for fd in self._fds:
            loop.add_reader(fd, self._turn)
        self._turn()

    def stop(self) -> None:
        if not self._running:
            return
        self._running = False
        for fd in self._fds:
            self._loop.remove_reader(fd)
        self._alarm.close()

    def _turn(self) -> None:
        try:
            deadline = self._device.process()
        except (ClosedError, ForkedError):
            self.stop()
            return
        if self._running:
            self._alarm.set(deadline)
