"""Runs a call in a forked child and tells what became of it."""

from __future__ import annotations

import os
import select
import signal
import traceback
import warnings
from collections.abc import Callable


def forked(call: Callable[[], object], seconds: float = 10) -> str:
    """The name of the exception that `call` raised in the child, "" for none, "timeout" if it
    did not come back."""
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # Python warns of forking a process with threads; what happens then is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        outcome = ""
        try:
            call()
        except BaseException as error:
            outcome = type(error).__name__
            traceback.print_exc()
        finally:
            os.write(writer, outcome.encode())
            os._exit(0)
    os.close(writer)
    try:
        if not select.select([reader], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
            return "timeout"
        return os.read(reader, 4096).decode()
    finally:
        os.close(reader)
        os.waitpid(child, 0)
