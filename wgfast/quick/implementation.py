"""The WireGuard behind the interface: its daemon started, told its settings, seen to be gone."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Final

from wgfast import client, client_names, client_requests
from wgfast._core import Endpoint
from wgfast.config import Config, EndpointName
from wgfast.errors import ConfigError
from wgfast.quick.errors import REFUSED, TIMED_OUT, QuickError
from wgfast.quick.journal import Report
from wgfast.uapi import SetRequest
from wgfast.uapi_socket import socket_path

Start = Callable[[str], None]
Endpoints = dict[EndpointName, Endpoint]

TIMEOUT: Final = 30.0
_GONE: Final = 5.0
# These belong to the one who sets them, not to a daemon that goes to the background by itself.
_NOT_FOR_DAEMONS: Final = (
    *("WG_PROCESS_FOREGROUND", "WG_TUN_FD", "WG_UAPI_FD"),
    *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),  # how things stand, the service says
)


def daemon_environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in _NOT_FOR_DAEMONS}


def start_daemon(name: str) -> None:
    """Runs `wgfast NAME`, which returns when the interface is there and its socket answers. QuickError with
    its own words if it does not come about."""
    # A file, not a pipe: with LOG_LEVEL the daemon keeps it open.
    with tempfile.TemporaryFile() as said:
        output = said if os.environ.get("LOG_LEVEL", "silent") == "silent" else None
        child = subprocess.Popen(
            [sys.executable, "-m", "wgfast", "--", name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=daemon_environment(),
            cwd="/",  # with -m Python looks for modules in the present directory first
            start_new_session=True,  # the terminal's signals are for us
        )
        status = _await_start(child, name)
        said.seek(0)
        text = said.read().decode(errors="replace").strip().removeprefix("wgfast: ")
    if status:
        raise QuickError(text or f"{name}: the daemon did not start, see above", status)


def _await_start(child: subprocess.Popen[bytes], name: str) -> int:
    try:
        return child.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        raise QuickError(
            f"{name}: the daemon did not start within {TIMEOUT:.0f} s: see `wgfast doctor`", TIMED_OUT
        ) from None
    except BaseException:
        # Ended half-way, the command would leave a daemon that begins when everything was undone.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(TIMEOUT)
        raise


def resolve(config: Config, report: Report) -> Endpoints:
    """All endpoints' addresses, names tried again for a while as wg does. QuickError for one without."""
    found: Endpoints = {}
    for peer in config.peers:
        if peer.endpoint is not None and peer.endpoint not in found:
            try:
                found[peer.endpoint] = client_names.resolve(
                    str(peer.endpoint), lambda text: report("!", text)
                )
            except (client_names.ResolutionError, ConfigError) as error:
                raise QuickError(
                    f"{config.path}: Endpoint = {peer.endpoint}: {error}: check the name, and that "
                    "/etc/resolv.conf names a server that can be reached; or give an address"
                ) from error
    return found


def settings(config: Config, endpoints: Endpoints) -> SetRequest:
    """What `wg setconf` would set. A name goes with the address it has now: the daemon keeps it, and can do
    without asking for it while the system's name servers change."""
    request = client_requests.replacing(config)
    for block, peer in zip(request.peers, config.peers, strict=True):
        block.endpoint = endpoints[peer.endpoint] if peer.endpoint else None
    return request


def set(name: str, request: SetRequest) -> None:
    """QuickError in place of client.set()'s OSError and ConfigError."""
    try:
        client.set(name, request)
    except OSError as error:
        raise QuickError(f"{name}: its settings were refused: {error.strerror}") from error
    except ConfigError as error:
        raise QuickError(f"{name}: {error}") from error


def get(name: str) -> client.DeviceState:
    """QuickError in place of client.get()'s OSError."""
    try:
        return client.get(name)
    except OSError as error:
        raise QuickError(f"{name}: cannot be asked for its state: {error.strerror}") from error


def check_port(port: int) -> None:
    """QuickError if another program has it: a daemon would be up all the same, and hear nothing."""
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        try:
            probe = socket.socket(family, socket.SOCK_DGRAM)
        except OSError:
            continue  # a kernel without IPv6
        with probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise QuickError(
                        f"ListenPort = {port}: another program has that UDP port: `ss -lunp sport = :{port}` "
                        "says which; end it, or choose another port",
                        REFUSED,
                    ) from None


def await_gone(name: str) -> None:
    """Until the daemon has seen that its interface is gone and removed its socket; at most some seconds."""
    end = time.monotonic() + _GONE
    path = socket_path(name)
    while os.path.exists(path) and time.monotonic() < end:
        with contextlib.suppress(OSError):
            if name not in client.interfaces():
                return  # left over by one that crashed
        time.sleep(0.01)
