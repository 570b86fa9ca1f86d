"""One end of a tunnel: an implementation in a namespace, configured by `wg`."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from . import uapi
from .namespace import Namespace
from .process import (
    TOKEN_VARIABLE,
    LabError,
    Process,
    alive,
    pids_with_token,
    run,
    wait_until,
)
from .programs import Implementation

PORT = 51820
CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGILL, -signal.SIGFPE}


def endpoint(address: str, port: int = PORT) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class End:
    """A daemon and its interface.

    `address` and `address6` are what the tunnel knows it by. UAPI sockets are files, not bound to
    a namespace: every end has an interface name of its own.
    """

    def __init__(
        self,
        namespace: Namespace,
        implementation: Implementation,
        interface: str,
        number: int,
        keep: Callable[[str], Path],
    ) -> None:
        self.namespace = namespace
        self.implementation = implementation
        self.interface = interface
        self.address = f"10.77.0.{number}"
        self.address6 = f"fd77::{number}"
        self.process: Process | None = None
        self._keep = keep
        self.private_key = run(["wg", "genkey"]).stdout.strip()

    @property
    def public_key(self) -> str:
        return run(["wg", "pubkey"], stdin=self.private_key).stdout.strip()

    # Life

    def start(
        self,
        *options: str,
        log_level: str = "verbose",
        environ: Mapping[str, str] | None = None,
        keep: Sequence[int] = (),
    ) -> End:
        """Runs the daemon in the foreground, where its exit status and its log can be seen. It inherits the
        descriptors in `keep`."""
        self.process = self._spawn(("-f", *options), log_level, environ, keep)
        wait_until(self._answers, f"{self.implementation.name} {self.interface}: its socket")
        return self

    def daemonise(self, log_level: str = "verbose") -> int:
        """Runs the command as a user does; whatever is true when it returns is its own doing."""
        return self._spawn((), log_level).wait(10)

    def _spawn(
        self,
        options: Sequence[str],
        log_level: str,
        environ: Mapping[str, str] | None = None,
        keep: Sequence[int] = (),
    ) -> Process:
        return self.namespace.spawn(
            *self.implementation.argv,
            *options,
            self.interface,
            env={"LOG_LEVEL": log_level, TOKEN_VARIABLE: self.interface, **(environ or {})},
            keep=keep,
        )

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.returncode is not None:
            raise LabError(f"{self.interface}: the daemon ended: {self.process.output}")
        return uapi.answers(self.interface)

    @property
    def pids(self) -> list[int]:
        return [pid for pid in pids_with_token(self.interface) if alive(pid)]

    @property
    def pid(self) -> int:
        (pid,) = self.pids
        return pid

    @property
    def log(self) -> str:
        assert self.process is not None, "only a foreground daemon's log is one file"
        return self.process.output

    def wait_gone(self, deadline: float = 5.0) -> None:
        """No process, no socket, no interface."""
        wait_until(lambda: not self.pids, f"{self.interface}: the daemon has ended", deadline)
        wait_until(
            lambda: not uapi.socket_path(self.interface).exists(),
            f"{self.interface}: its socket is removed",
            deadline,
        )
        assert not self.namespace.has_link(self.interface)

    def close(self) -> None:
        """Ends every process of this end; a crash or a Python traceback fails the test."""
        status = self.process.stop() if self.process else 0
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(FileNotFoundError):
            uapi.socket_path(self.interface).unlink()
        if status in CRASHES:
            raise LabError(f"{self.interface}: the daemon died of signal {-status}")
        if self.process and "Traceback (most recent call last)" in self.log:
            raise LabError(f"{self.interface}: traceback in the daemon's log:\n{self.log[-4000:]}")

    # Configuration

    def wg(self, command: str, *arguments: str, check: bool = True) -> str:
        return run(["wg", command, self.interface, *arguments], check=check, timeout=30).stdout

    def try_wg(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(["wg", command, self.interface, *arguments], check=False)

    def set(self, *arguments: str) -> None:
        self.wg("set", *arguments)

    def load(self, command: str, text: str) -> None:
        """`setconf`, `addconf` or `syncconf` from a file with this text."""
        self.wg(command, str(self._keep(text)))

    def set_private_key(self, key: str) -> None:
        self.private_key = key
        self.set("private-key", str(self._keep(key)))

    def set_preshared_key(self, other: End, key: str) -> None:
        self.set("peer", other.public_key, "preshared-key", str(self._keep(key)))

    def add_peer(
        self,
        other: End,
        *,
        allowed_ips: Sequence[str] | None = None,
        at: str | None = None,
        preshared_key: str | None = None,
        keepalive: int | None = None,
    ) -> None:
        """`at` is the endpoint; without it this end waits to be spoken to."""
        owned = [f"{other.address}/32", f"{other.address6}/128"]
        arguments = ["peer", other.public_key]
        arguments += ["allowed-ips", ",".join(owned if allowed_ips is None else allowed_ips)]
        if at is not None:
            arguments += ["endpoint", at]
        if preshared_key is not None:
            arguments += ["preshared-key", str(self._keep(preshared_key))]
        if keepalive is not None:
            arguments += ["persistent-keepalive", str(keepalive)]
        self.set(*arguments)

    def up(self, mtu: int = 1420, namespace: Namespace | None = None) -> None:
        """Key, port, addresses, MTU and link state; `namespace` if the interface was moved."""
        self.set_private_key(self.private_key)
        self.set("listen-port", str(PORT))
        place = namespace or self.namespace
        place.ip(f"link set {self.interface} mtu {mtu} up")
        place.add_address(self.interface, f"{self.address}/24", f"{self.address6}/64")

    # Observation

    def show(self, what: str) -> dict[str, str]:
        """`wg show INTERFACE what` for the per-peer listings: public key -> the rest."""
        lines = (line.partition("\t") for line in self.wg("show", what).splitlines())
        return {key: value for key, _, value in lines}

    def endpoint_of(self, other: End) -> tuple[str, int]:
        """The peer's endpoint as (address, port); ("", 0) while it is unknown."""
        text = self.show("endpoints")[other.public_key]
        if text == "(none)":
            return "", 0
        host, _, port = text.rpartition(":")
        return str(ipaddress.ip_address(host.strip("[]"))), int(port)

    def wait_endpoint(self, other: End, address: str, port: int = PORT) -> None:
        wait_until(
            lambda: self.endpoint_of(other) == (address, port),
            f"{self.interface}: the endpoint of its peer is {address} port {port}",
            2.0,
        )

    def latest_handshake(self, other: End) -> int:
        return int(self.show("latest-handshakes")[other.public_key])
