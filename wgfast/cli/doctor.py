"""doctor: what of wgfast works on this machine, why the rest does not, and what to do about it.

What is said of wgfast itself stands here; what is said of the host in doctor_network.py and doctor_system.py.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Final

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wgfast import __version__, _core
from wgfast.cli.doctor_network import network_findings
from wgfast.cli.doctor_system import system_findings
from wgfast.cli.finding import Finding
from wgfast.client import interfaces
from wgfast.device import Device
from wgfast.errors import ConfigError, InterfaceError, WgfastError
from wgfast.uapi_socket import DIRECTORY

_CAPABILITIES: Final = {
    "CAP_NET_ADMIN": (12, "creating interfaces, fwmark"),
    "CAP_SYS_ADMIN": (21, "following an interface into another namespace"),
    "CAP_NET_RAW": (13, "captures (wgfast capture)"),
    "CAP_NET_BROADCAST": (11, "hearing of changes in another namespace"),
}
_TUN: Final = "/dev/net/tun"
_AEAD: Final = "WGFAST_AEAD"
_OFFLOAD: Final = "WGFAST_OFFLOAD"


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor_command(as_json: bool) -> None:
    """What of wgfast works on this machine, why the rest does not, and what to do about it.

    Exit status 1: there is no cipher kernel for the packets, or WGFAST_AEAD names none that can be used.
    """
    raise SystemExit(run_doctor(as_json))


def run_doctor(as_json: bool = False) -> int:
    """Prints the findings. Exit status 1 without a kernel for the packets, or the one WGFAST_AEAD names."""
    found = list(findings())
    if as_json:
        click.echo(
            json.dumps({"version": __version__, "findings": [_as_dict(each) for each in found]}, indent=2)
        )
    else:
        _print(found)
    return 0 if _kernel_refused() is None else 1


def _as_dict(finding: Finding) -> dict[str, str | bool]:
    """`fine`: there is nothing to be done."""
    return {**finding._asdict(), "fine": not finding.remedy}


def _print(found: Sequence[Finding]) -> None:
    table = Table(title=f"wgfast {__version__}", title_justify="left")
    for column in ("What", "State", "Why"):
        table.add_column(column, overflow="fold")
    for finding in found:
        style = {"no": "yellow", "yes": "green", "in use": "bold green"}.get(finding.state)
        style = "yellow" if finding.remedy else style
        table.add_row(finding.what, finding.state, escape(finding.reason), style=style)
    remedies = Table(title="What to do", title_justify="left")
    for column in ("About", "Remedy"):
        remedies.add_column(column, overflow="fold")
    for finding in found:
        if finding.remedy:
            remedies.add_row(finding.what, escape(finding.remedy))
    console = Console()
    console.print(table)
    if remedies.row_count:
        console.print(remedies)


def findings() -> Iterator[Finding]:
    capabilities = effective_capabilities()
    yield from _kernels()
    yield _tun()
    yield from _offloads()
    yield from _capabilities(capabilities)
    yield _socket_directory()
    tunnels = _interfaces()
    yield from network_findings(tunnels)
    yield from system_findings(time.time(), _has(capabilities, "CAP_NET_ADMIN"), tunnels)
    yield _threads()
    yield _python()
    yield Finding("system", platform.release(), f"{platform.system()} on {platform.machine()}")


def _interfaces() -> list[str]:
    try:
        return interfaces()
    except OSError:
        return []


def _kernels() -> Iterator[Finding]:
    refused = _kernel_refused()
    in_use = _core.aead_kernel() if refused is None else None
    forced = os.environ.get(_AEAD)
    for name, usable, reason in _core.aead_kernels():
        state = "in use" if name == in_use else "yes" if usable else "no"
        by = f"; forced by {_AEAD}={forced}" if name == forced else ""
        yield Finding(f"AEAD kernel {name}", state, reason + by)
    if refused is not None:
        yield Finding(_AEAD, "no", str(refused), f"unset {_AEAD}: the best that works is taken")


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
        remedy = "`modprobe tun`, or give the container that device (--device /dev/net/tun)"
        return Finding(_TUN, "no", "it does not exist: no interface can be made", remedy)
    except OSError as error:
        reason = f"{error.strerror}: no interface can be made"
        return Finding(_TUN, "no", reason, "run as root; `wgfast demo` works without")
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
        yield _offload(name, text, state, reason)


def _offload(name: str, text: str, state: str, reason: str) -> Finding:
    remedy = ""
    if state == "untried":
        state, reason, remedy = "no", "needs an interface: run as root", "run as root"
    elif state == "switched off":
        reason = f"by {_OFFLOAD}={os.environ.get(_OFFLOAD)}"
        remedy = f"leave {name} out of {_OFFLOAD}"
    elif reason:
        reason = f"the kernel: {reason}"
        remedy = "a newer kernel (6.2 has them all); packets pass without, one by one"
    return Finding(f"offload {name}", state, text + (f"; {reason}" if reason else ""), remedy)


def effective_capabilities(status: str = "/proc/self/status") -> int | None:
    """The mask of what this process may do; None: it cannot be read."""
    try:
        with open(status) as lines:
            fields = dict(line.partition(":")[::2] for line in lines)
        return int(fields["CapEff"], 16)
    except (OSError, KeyError, ValueError):
        return None


def _has(capabilities: int | None, name: str) -> bool:
    return bool((capabilities or 0) >> _CAPABILITIES[name][0] & 1)


def _capabilities(effective: int | None) -> Iterator[Finding]:
    if effective is None:
        yield Finding("capabilities", "unknown", "/proc/self/status cannot be read")
        return
    for name, (_, purpose) in _CAPABILITIES.items():
        if _has(effective, name):
            yield Finding(name, "yes", f"for {purpose}")
        else:
            remedy = f"run as root, or with {name} (containers: --cap-add {name.removeprefix('CAP_')})"
            yield Finding(name, "no", f"for {purpose}", remedy)


def _socket_directory() -> Finding:
    parent = DIRECTORY if os.path.isdir(DIRECTORY) else os.path.dirname(DIRECTORY)
    if os.access(parent, os.W_OK):
        return Finding(DIRECTORY, "yes", "sockets for wg(8) can be made")
    return Finding(DIRECTORY, "no", "not writable; Python's Device needs no socket", "run as root")


def _threads() -> Finding:
    cores = len(os.sched_getaffinity(0))
    given = {name: os.environ.get(name) for name in ("WGFAST_THREADS", "WGFAST_QUEUES")}
    said = [f"{name}={value}" for name, value in given.items() if value]
    reason = " and ".join(said) or "they decide how many threads and queues there are"
    return Finding("cores", str(cores), reason)


def _python() -> Finding:
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    build = "with the GIL" if has_gil else "free-threaded"
    return Finding(
        "Python", platform.python_version(), f"{sys.implementation.name}, {build}; {_core.__file__}"
    )
