"""Configuration files: what wg(8) reads (`setconf` and its like), and wg-quick(8)'s additions to it.

Files are accepted and refused as those two do; all errors of a file are reported at once, with line, key,
value and remedy, and none shows a key's bytes. config_parser.py has the grammar of lines, config_values.py
that of values; config_edit.py changes a file and keeps its comments.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from dataclasses import dataclass, field
from typing import BinaryIO, Final

from .config_parser import Parser, in_quick_section, split_quick
from .config_sections import CANONICAL, QUICK_KEYS, InterfaceSection, PeerSection
from .config_values import Address, AllowedIP, BadValueError, EndpointName, InterfaceAddress, folded, quoted
from .errors import ConfigError

__all__ = [
    "Address",
    "AllowedIP",
    "BadValueError",
    "Config",
    "ConfigFileError",
    "EndpointName",
    "InterfaceAddress",
    "InterfaceSection",
    "PeerSection",
    "contents",
    "decode",
    "encode",
    "parse",
    "read",
    "strip",
    "write",
]


SIZE_MAX: Final = 256 << 20  # bytes; a million peers are about that


class ConfigFileError(ConfigError):
    """A configuration file that cannot be used; `problems` has one line of text for each thing wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(slots=True)
class Config:
    """A file that was read. `warnings` are sentences, without a "Warning: " before them."""

    path: str
    interface: InterfaceSection
    peers: list[PeerSection]
    warnings: list[str] = field(default_factory=list)
    text: str = field(default="", repr=False)

    def to_text(self) -> str:
        """Exactly what was read; `encode` makes the same bytes of it."""
        return self.text

    def strip(self) -> str:
        """What `wg-quick strip` prints: the file without wg-quick's keys, so that wg can read it."""
        return strip(self.text, self.path)


def parse(text: str, path: str, *, quick: bool = True) -> Config:
    """Parses a file's text; `path` is for messages. `quick` False: wg's own grammar (setconf, addconf,
    syncconf), to which wg-quick's keys are errors.

    ConfigFileError with all that is wrong. A peer whose key is the interface's own is a peer like any other:
    the device ignores it.
    """
    if "\0" in text:
        raise ConfigFileError([f"{path}: has NUL bytes, so it is no text, or UTF-16; save it as UTF-8"])
    parser = Parser(path, quick)
    for number, line in enumerate(text.split("\n"), 1):
        parser.read_line(number, line)
    parser.finish()
    if parser.problems:
        problems = sorted(parser.problems, key=lambda problem: problem[0])
        raise ConfigFileError([message for _, message in problems])
    return Config(path, parser.interface, parser.peers, parser.warnings, text)


def strip(text: str, path: str) -> str:
    """What `wg-quick strip` prints of a text, byte for byte (see `encode`).

    Like it, this checks nothing that is wg's: the text may be one that `parse` refuses. ConfigFileError if
    SaveConfig is neither true nor false, the one thing it does refuse.
    """
    lines = text.replace("\0", "").split("\n")
    # bash reads a last line without its newline too, if anything is on it.
    if not lines[-1].strip(" \t"):
        lines.pop()
    kept, problems = [], []
    in_interface = False
    for number, line in enumerate(lines, 1):
        key, value = split_quick(line)
        in_interface = in_quick_section(key, in_interface)
        canonical = CANONICAL.get(folded(key)) if in_interface else None
        if canonical not in QUICK_KEYS:
            kept.append(line.strip(" \t") + "\n")
        elif canonical == "SaveConfig" and folded(value) not in ("true", "false"):
            problems.append(f"{path}:{number}: SaveConfig: {quoted(value)}: must be true or false")
    if problems:
        raise ConfigFileError(problems)
    return "".join(kept) + "\n"


# ---- files ----


def read(path: str | os.PathLike[str], *, quick: bool = True) -> Config:
    """Reads and parses a file, or a pipe as `<(command)` is, and also warns if others may read it.

    ConfigFileError if it cannot be read, or with all that is wrong in it."""
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            state = os.fstat(file.fileno())
            text = decode(contents(file))
        open_to_all = stat.S_ISREG(state.st_mode) and _is_open_to_all(name, state)
    except FileNotFoundError:
        raise ConfigFileError([f"{name}: does not exist; give the path of a configuration file"]) from None
    except OSError as error:
        raise ConfigFileError([f"{name}: cannot be read: {error.strerror}"]) from None
    config = parse(text, name, quick=quick)
    if open_to_all:
        config.warnings.insert(0, f"`{os.path.realpath(name)}' is world accessible")
    return config


def contents(file: BinaryIO) -> bytes:
    """All that is in a file. OSError also for one that is larger than any configuration: /dev/zero, say."""
    data = file.read(SIZE_MAX + 1)
    if len(data) > SIZE_MAX:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return data


def _is_open_to_all(path: str, state: os.stat_result) -> bool:
    """As wg-quick, but not only if file and directory grant others the very same bit: the x of a directory is
    enough to read a file in it."""
    directory = os.stat(os.path.dirname(os.path.realpath(path)))
    return bool(state.st_mode & stat.S_IRWXO and directory.st_mode & stat.S_IRWXO)


def decode(data: bytes) -> str:
    """A file's bytes as text. What is not UTF-8 is kept as lone surrogates, which `parse` lets stand in
    comments only."""
    return data.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """The bytes that `decode` was given."""
    return text.encode("utf-8", "surrogateescape")


def write(path: str | os.PathLike[str], text: str) -> None:
    """Replaces a file (the one a link points to) as a whole: mode 0600, on the disk before it has the name.
    OSError; the old file is untouched then."""
    target = os.path.realpath(path)
    temporary = f"{target}.{os.getpid()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(encode(text))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
