"""What a command of `wg`'s says when it cannot do its work: usage, and why an interface cannot be reached.

The first line is `wg`'s own. Where that alone leaves one guessing, a second says what to do.
"""

from __future__ import annotations

import errno
from typing import Final, NoReturn

import click

from wgfast.uapi_socket import DIRECTORY

FIELDS: Final = (
    *("public-key", "private-key", "listen-port", "fwmark", "peers", "preshared-keys", "endpoints"),
    *("allowed-ips", "latest-handshakes", "transfer", "persistent-keepalive", "dump"),
)
_USAGE: Final = {
    "show": f"{{ <interface> | all | interfaces }} [{' | '.join(FIELDS)}]",
    "showconf": "<interface>",
    "set": "<interface> [listen-port <port>] [fwmark <mark>] [private-key <file path>] "
    "[peer <base64 public key> [remove] [preshared-key <file path>] [endpoint <ip>:<port>] "
    "[persistent-keepalive <interval seconds>] [allowed-ips <ip1>/<cidr1>[,<ip2>/<cidr2>]...] ]...",
    "setconf": "<interface> <configuration filename>",
    "addconf": "<interface> <configuration filename>",
    "syncconf": "<interface> <configuration filename>",
}


def usage(command: str) -> str:
    return f"Usage: wgfast {command} {_USAGE.get(command, '')}".rstrip()


def refuse_usage(command: str) -> NoReturn:
    """For arguments that do not fit; the exit status is `wg`'s."""
    complain(usage(command))
    raise SystemExit(1)


def complain(*lines: str) -> None:
    for line in lines:
        click.echo(line, err=True)


def refuse(what: str, error: OSError, name: str) -> NoReturn:
    """Ends the command because of the interface `name`; `what` are `wg`'s words for what it could not do."""
    complain(f"{what}: {error.strerror}", *hints(error, name))
    raise SystemExit(1)


def hints(error: OSError, name: str) -> list[str]:
    if error.errno in (errno.EPROTONOSUPPORT, errno.ENODEV):
        return [
            f"wgfast: nobody serves `{name}': no daemon answers on {DIRECTORY}/{name}.sock, and the kernel"
            " has no such WireGuard interface; is it up, and are you root?"
        ]
    if error.errno == errno.EOPNOTSUPP:
        return [f"wgfast: `{name}' is the kernel's, if it is WireGuard's at all: change it with wg(8)"]
    if error.errno in (errno.EPERM, errno.EACCES):
        return ["wgfast: run it as root"]
    if error.errno == errno.ETIMEDOUT:
        return [f"wgfast: the daemon of `{name}' takes connections but does not answer"]
    return []
