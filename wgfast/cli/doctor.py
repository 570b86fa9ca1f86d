"""doctor: what of wgfast works on this machine, and why the rest does not."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Final, NamedTuple

import click
from rich.console import Console
from rich.table import Table

from wgfast import __version__, _core
from wgfast.device import Device
from wgfast.errors import ConfigError, InterfaceError, WgfastError
from wgfast.uapi_socket import DIRECTORY

_CAPABILITIES: Final = {
    "CAP_NET_ADMIN": (12, "creating interfaces, fwmark"),
    "CAP_SYS_ADMIN": (21, "following an interface into another namespace"),
    "CAP_NET_BROADCAST": (11, "hearing of changes in another namespace"),
}
_TUN: Final = "/dev/net/tun"
_AEAD: Final = "WGFAST_AEAD"
_OFFLOAD: Final = "WGFAST_OFFLOAD"


class Finding(NamedTuple):
    what: str
    state: str  # "yes", "no", "in use", or a value
    reason: str


@click.command("doctor")
def doctor_command() -> None:
    """What of wgfast works on this machine, and why the rest does not."""
    raise SystemExit(run_doctor())


def run_doctor() -> int:
    """Prints the table. Exit status 1 without a kernel for the packets, or the one WGFAST_AEAD names."""
    table = Table(title=f"wgfast {__version__}", title_justify="left")
    for column in ("What", "State", "Why"):
        table.add_column(column, overflow="fold")
    for finding in findings():
        style = {"no": "yellow", "yes": "green", "in use": "bold green"}.get(finding.state)
        table.add_row(finding.what, finding.state, finding.reason, style=style)
    Console().print(table)
    return 0 if _kernel_refused() is None else 1


def findings() -> Iterator[Finding]:
    yield from _kernels()
    yield _tun()
    yield from _offloads()
    yield from _capabilities()
    yield _socket_directory()
    yield _threads()
    yield _python()
    yield Finding("system", platform.release(), f"{platform.system()} on {platform.machine()}")


def _kernels() -> Iterator[Finding]:
    refused = _kernel_refused()
    in_use = _core.aead_kernel() if refused is None else None
    forced = os.environ.get(_AEAD)
    for name, usable, reason in _core.aead_kernels():
        state = "in use" if name == in_use else "yes" if usable else "no"
        by = f"; forced by {_AEAD}={forced}" if name == forced else ""
        yield Finding(f"AEAD kernel {name}", state, reason + by)
    if refused is not None:
        yield Finding(_AEAD, "no", str(refused))


def _kernel_refused() -> ConfigError | None:
    try:
        _core.aead_environment()
    except ConfigError as error:
        return error
    return None


def _tun() -> Finding:
    try:
        os.close(os.open(_TUN, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        remedy = "it does not exist: `modprobe tun`, or give the container that device"
        return Finding(_TUN, "no", remedy)
    except OSError as error:
        return Finding(_TUN, "no", f"{error.strerror}: run as root; `wgfast demo` works without")
    return Finding(_TUN, "yes", "opens")


def _offloads() -> Iterator[Finding]:
    """What the kernel says to each when a device opens its ports, with an interface of ours if we may."""
    try:
        try:
            device = Device(tun="wgdoctor%d")
        except InterfaceError:
            device = Device()
        with closing(device):
            device.up()
            found = device.offloads()
    except (WgfastError, OSError) as error:
        yield Finding("offloads", "no", str(error))
        return
    for name, text in zip(_core.OFFLOAD_NAMES, _core.OFFLOAD_TEXTS, strict=True):
        state, _, reason = found[name].partition(": ")
        if state == "untried":
            state, reason = "no", "needs an interface: run as root"
        elif state == "switched off":
            reason = f"by {_OFFLOAD}={os.environ.get(_OFFLOAD)}"
        elif reason:
            reason = f"the kernel: {reason}"
        yield Finding(f"offload {name}", state, text + (f"; {reason}" if reason else ""))


def _capabilities() -> Iterator[Finding]:
    try:
        with open("/proc/self/status") as status:
            fields = dict(line.partition(":")[::2] for line in status)
        effective = int(fields["CapEff"], 16)
    except (OSError, KeyError, ValueError):
        yield Finding("capabilities", "unknown", "/proc/self/status cannot be read")
        return
    for name, (bit, purpose) in _CAPABILITIES.items():
        has = effective >> bit & 1
        yield Finding(name, "yes" if has else "no", f"for {purpose}" + ("" if has else ": run as root"))


def _socket_directory() -> Finding:
    parent = DIRECTORY if os.path.isdir(DIRECTORY) else os.path.dirname(DIRECTORY)
    if os.access(parent, os.W_OK):
        return Finding(DIRECTORY, "yes", "sockets for wg(8) can be made")
    return Finding(DIRECTORY, "no", "not writable: run as root; Python's Device needs no socket")


def _threads() -> Finding:
    cores = len(os.sched_getaffinity(0))
    given = os.environ.get("WGFAST_THREADS")
    reason = (
        f"WGFAST_THREADS={given}" if given else "WGFAST_THREADS is not set: chosen by the number of cores"
    )
    return Finding("cores", str(cores), reason)


def _python() -> Finding:
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    build = "with the GIL" if has_gil else "free-threaded"
    return Finding(
        "Python", platform.python_version(), f"{sys.implementation.name}, {build}; {_core.__file__}"
    )
