"""Whole laboratories: namespaces, cables and two ends that know each other."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .end import PORT, End, endpoint
from .namespace import Namespace, cable
from .process import run
from .programs import implementation

# RFC 5737 and RFC 3849: addresses that mean nothing outside documentation.
OUTSIDE = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
PREFIX = {4: 24, 6: 64}


@dataclass
class Tunnel:
    """Two ends on one cable. Only the initiator knows where the other is."""

    initiator: End
    responder: End
    family: int

    @property
    def ends(self) -> tuple[End, End]:
        return self.initiator, self.responder

    @property
    def outside(self) -> tuple[str, str]:
        return OUTSIDE[self.family]

    def other(self, end: End) -> End:
        return self.responder if end is self.initiator else self.initiator


class Lab:
    """Owns everything a test makes; close() takes all of it down, whatever happened."""

    def __init__(self) -> None:
        # Namespace and interface names must not collide with another run's, or its leftovers.
        self._token = f"{os.getpid():x}{os.urandom(1).hex()}"
        self.directory = Path(tempfile.mkdtemp(prefix="wgfast-lab-"))
        self.logs = self.directory / "logs"
        self.logs.mkdir()
        self.namespaces: list[Namespace] = []
        self.ends: list[End] = []
        self._kept = 0

    def close(self) -> None:
        failures: list[BaseException] = []
        for end in self.ends:
            try:
                end.close()
            except BaseException as failure:
                failures.append(failure)
        for namespace in self.namespaces:
            # What still runs inside (pings, servers) is known by the namespace it is in.
            self._end_processes(namespace)
            namespace.close()
        self._print_logs()
        shutil.rmtree(self.directory, ignore_errors=True)
        if failures:
            raise failures[0]

    @staticmethod
    def _end_processes(namespace: Namespace) -> None:
        for pid in run(["ip", "netns", "pids", namespace.name], check=False).stdout.split():
            try:
                os.kill(int(pid), 9)
            except ProcessLookupError:
                continue

    def _print_logs(self) -> None:
        # pytest shows what a teardown prints only if the test failed.
        for log in sorted(self.logs.iterdir()):
            lines = log.read_text(errors="replace").splitlines()
            if lines:
                sys.stdout.write(f"--- {log.name}, last of {len(lines)} lines\n")
                sys.stdout.write("\n".join(lines[-40:]) + "\n")

    def keep(self, text: str) -> Path:
        """A file with this text, for the commands that read keys and configurations from files."""
        self._kept += 1
        path = self.directory / f"kept{self._kept}"
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def namespace(self, label: str) -> Namespace:
        namespace = Namespace(f"wgfast-{self._token}-{label}", self.logs)
        self.namespaces.append(namespace)
        return namespace

    def interface(self) -> str:
        return f"w{self._token}{len(self.ends)}"

    def end(self, namespace: Namespace, role: str, number: int | None = None) -> End:
        """An end that is not started yet, played by the implementation named `role`."""
        position = number or len(self.ends) + 1
        end = End(namespace, implementation(role), self.interface(), position, self.keep)
        self.ends.append(end)
        return end

    def cabled(self) -> tuple[Namespace, Namespace]:
        """Two namespaces joined by `wire0` on either side, with the OUTSIDE addresses."""
        left, right = self.namespace("left"), self.namespace("right")
        cable(left, "wire0", right, "wire0")
        for family, pair in OUTSIDE.items():
            left.add_address("wire0", f"{pair[0]}/{PREFIX[family]}")
            right.add_address("wire0", f"{pair[1]}/{PREFIX[family]}")
        return left, right

    def tunnel(
        self,
        initiator: str,
        responder: str,
        *,
        family: int = 4,
        mtu: int = 1420,
        preshared_keys: tuple[str | None, str | None] = (None, None),
        log_level: str = "verbose",
        environs: tuple[Mapping[str, str] | None, Mapping[str, str] | None] = (None, None),
    ) -> Tunnel:
        """A configured tunnel over a cable; no packet has been sent through it yet."""
        left, right = self.cabled()
        tunnel = Tunnel(self.end(left, initiator), self.end(right, responder), family)
        for end, environ in zip(tunnel.ends, environs, strict=True):
            end.start(log_level=log_level, environ=environ)
            end.up(mtu)
        tunnel.responder.add_peer(tunnel.initiator, preshared_key=preshared_keys[1])
        tunnel.initiator.add_peer(
            tunnel.responder,
            at=endpoint(tunnel.outside[1], PORT),
            preshared_key=preshared_keys[0],
        )
        return tunnel


def genpsk() -> str:
    return run(["wg", "genpsk"]).stdout.strip()


def genkey() -> str:
    return run(["wg", "genkey"]).stdout.strip()


def pubkey(private_key: str) -> str:
    return run(["wg", "pubkey"], stdin=private_key).stdout.strip()
