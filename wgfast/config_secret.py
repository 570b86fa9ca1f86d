"""Keys that are not in a configuration file: in a file of their own, printed by a command (a vault's client,
say), or in the environment. What is wrong is said without a character of what was read."""

from __future__ import annotations

import contextlib
import os
import select
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

from .config_values import BLANKS, BadValueError, parse_key
from .errors import ConfigError

_MOST: Final = 4096  # bytes; a key is 44, and /dev/zero never ends
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


def key_from_file(path: str | os.PathLike[str], warn: Callable[[str], None] | None = None) -> bytes:
    """The key in a file, as `wg genkey > FILE` wrote it. ConfigError names the file. `warn` is told if others
    than its owner may use it."""
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            state = os.fstat(file.fileno())
            content = file.read(_MOST)
    except OSError as error:
        raise ConfigError(f"{name}: cannot be read: {error.strerror}") from None
    if warn is not None and stat.S_ISREG(state.st_mode) and state.st_mode & _OTHERS:
        warn(f"{name}: others than its owner may use this key; chmod 600 it")
    return _key(content, name)


def key_from_command(command: Sequence[str], timeout: float = 30.0) -> bytes:
    """The key that a program prints; no shell is asked. ConfigError if it fails, or prints none within
    `timeout` seconds; the program is then ended. Its arguments, which may be secrets too, are never shown."""
    program = command[0]
    try:
        child = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    except OSError as error:
        raise ConfigError(f"{program}: cannot be run: {error.strerror}") from None
    with child:
        try:
            content = _printed(child, time.monotonic() + timeout)
        except BaseException as error:
            child.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise ConfigError(f"{program}: printed no key within {timeout:g} s") from None
            raise
    if child.returncode != 0:
        raise ConfigError(f"{program}: ended with status {child.returncode}, so what it printed is not used")
    return _key(content, program)


def _printed(child: subprocess.Popen[bytes], end: float) -> bytes:
    """Until the program ends; of more than a key not all, and its pipe is broken then. TimeoutExpired."""
    assert child.stdout
    content = b""
    with contextlib.closing(child.stdout) as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while len(content) < _MOST:
            left = end - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise subprocess.TimeoutExpired(child.args, left)
            piece = os.read(pipe.fileno(), _MOST)
            if not piece:
                break
            content += piece
    child.wait(max(end - time.monotonic(), 0))
    return content


def key_from_environment(variable: str) -> bytes:
    """The key in a variable, which is then taken out of the environment: no child inherits it. ConfigError
    if it is not there or no key."""
    value = os.environb.pop(os.fsencode(variable), None)
    if value is None:
        raise ConfigError(f"{variable}: not in the environment; set it to a key, as from genkey")
    return _key(value, variable)


def _key(content: bytes, source: str) -> bytes:
    try:
        return parse_key(content.decode("latin-1").strip(BLANKS))
    except BadValueError as error:
        raise ConfigError(f"{source}: {error}") from None
