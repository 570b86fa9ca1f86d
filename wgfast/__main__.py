"""The command `wgfast`: a subcommand, or else the name of an interface for which a daemon is wanted.

The daemon's way through here loads nothing that the subcommands need: an idle tunnel is small.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Final

COMMANDS: Final = (
    "addconf",
    "capture",
    "completion",
    "demo",
    "doctor",
    "down",
    "genkey",
    "genpsk",
    "metrics",
    "pubkey",
    "qr",
    "run",
    "save",
    "set",
    "setconf",
    "show",
    "showconf",
    "strip",
    "syncconf",
    "top",
    "up",
)

USAGE: Final = f"""\
usage: wgfast [-f|--foreground] INTERFACE   run the WireGuard interface INTERFACE, configured by wg(8)
       wgfast [-f|--foreground] -- NAME     the same, if NAME is that of a command
       wgfast COMMAND [OPTION]...           one of: {", ".join(COMMANDS)}; with --help: what it does
       wgfast --help | --version

environment: LOG_LEVEL=silent|error|verbose|debug, WG_PROCESS_FOREGROUND=1, WG_TUN_FD, WG_UAPI_FD,
             WGFAST_THREADS=N, WGFAST_QUEUES=N, WGFAST_AEAD=KERNEL, WGFAST_OFFLOAD=none|-NAME,... (see
             wgfast doctor), WGFAST_LOG_FORMAT=text|json, WGFAST_KEYLOG=FILE (every session's keys!)
"""
USAGE_STATUS: Final = 2
# What writing to standard output fails with.
_OUTPUT: Final = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
COMPLETE: Final = "_WGFAST_COMPLETE"  # a shell asks how the command line may go on


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line (without the program's name) and returns the exit status."""
    _open_standard_files()
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        if arguments is None:
            # It is done: an interruption now would make it look as if it were not.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except OSError as error:
        if error.errno not in _OUTPUT or error.filename:
            raise
        # Whoever closed a pipe has seen enough.
        if error.errno != errno.EPIPE:
            print(f"wgfast: standard output: {error.strerror}", file=sys.stderr)
        _let_go(1)
        return 1
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            _let_go(2)
    return status


def _let_go(fd: int) -> None:
    """What is left to be written there would fail again when Python ends, and decide its exit status."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), fd)


def _open_standard_files() -> None:
    """A program may be started without; then what it opens next would take their numbers, and be written to
    as output or errors. Output is opened so that writing fails."""
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # the lowest number that is free
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _run(given: list[str]) -> int:
    if COMPLETE in os.environ:
        from wgfast.cli.completion import answer

        return answer()
    if given and given[0] in COMMANDS:
        from wgfast.cli import run_command

        return run_command(given)
    if given in (["--help"], ["-h"], ["help"]):
        print(USAGE, end="")
        return 0
    if given == ["--version"]:
        from wgfast import __version__

        print(f"wgfast {__version__}")
        return 0
    try:
        name, foreground = _parse_daemon(given)
    except ValueError as error:
        print(f"wgfast: {error}\n{USAGE}", end="", file=sys.stderr)
        return USAGE_STATUS
    from wgfast.daemon import run

    if "--" not in given and sys.stderr.isatty():
        _mention_command(name)
    return run(name, foreground)


def _mention_command(name: str) -> None:
    """To whoever mistyped one: an interface is there in silence."""
    import difflib  # rarely wanted, and not small

    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.75)
    if near:
        undo = f"ip link delete {name}"
        print(
            f"wgfast: {name} is taken for an interface; if `wgfast {near[0]}` was meant: `{undo}`",
            file=sys.stderr,
        )


def _parse_daemon(given: list[str]) -> tuple[str, bool]:
    """The interface's name and whether to stay in the foreground. ValueError says what does not fit."""
    names: list[str] = []
    foreground = False
    rest = iter(given)
    for argument in rest:
        if argument == "--":
            names += rest
        elif argument in ("-f", "--foreground"):
            foreground = True
        elif argument.startswith("-"):
            raise ValueError(
                f"unknown option {argument!r}; an interface of that name would be: wgfast -- {argument}"
            )
        else:
            names.append(argument)
    if len(names) != 1:
        raise ValueError(
            "one interface was expected, none was named"
            if not names
            else f"one interface was expected, not {len(names)}: {' '.join(names)}"
        )
    return names[0], foreground


if __name__ == "__main__":
    sys.exit(main())
