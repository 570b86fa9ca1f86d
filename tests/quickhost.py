"""A namespace to run `wgfast up` and wg-quick in, and the configurations they are given."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import quickstate
from lab.namespace import Namespace, cable
from lab.programs import implementation, require
from lab.topology import Lab

from wgfast import generate_private_key, public_key

WGFAST = (sys.executable, "-m", "wgfast")
PRIVATE_KEY = str(generate_private_key())
PEERS = [str(public_key(generate_private_key())) for _ in range(3)]


@dataclass
class Host:
    """A namespace with an outer link, and a directory for its configurations."""

    lab: Lab
    namespace: Namespace
    name: str
    directory: Path

    @classmethod
    def of(cls, lab: Lab, label: str) -> Host:
        require("wg-quick", "nft")
        namespace = lab.namespace(label)
        cable(namespace, "wire0", namespace, "wire1")
        namespace.add_address("wire0", "192.0.2.1/24", "2001:db8::1/64")
        namespace.ip(
            "link set wire0 mtu 1450",
            "link set wire1 mtu 1450",
            "route add default via 192.0.2.254",
            "route add ::/0 via 2001:db8::fe",
            "route add 198.51.100.0/24 via 192.0.2.254 mtu 1400",
        )
        directory = lab.directory / label
        directory.mkdir()
        return cls(lab, namespace, lab.interface(), directory)

    def write(self, text: str, name: str = "") -> Path:
        path = self.directory / f"{name or self.name}.conf"
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def quick(
        self, program: str, command: str, path: Path | str, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """`program` is wg-quick or wgfast; what a daemon keeps open does not hold this up."""
        argv = (program,) if program == "wg-quick" else WGFAST
        given = {"WG_QUICK_USERSPACE_IMPLEMENTATION": implementation("wgfast").executable(self.directory)}
        return self.namespace.run(
            *argv, command, str(path), env={**given, **environ}, check=False, timeout=30
        )

    def state(self) -> dict[str, Any]:
        return quickstate.state(self.namespace)

    def showconf(self) -> list[str]:
        shown = self.namespace.run("wg", "showconf", self.name).stdout.splitlines()
        return [line for line in shown if not line.startswith("ListenPort")]

    def is_gone(self) -> bool:
        return not Path(f"/var/run/wireguard/{self.name}.sock").exists()


@contextlib.contextmanager
def resolving_by(namespace: Namespace, server: str) -> Iterator[None]:
    """`ip netns exec` mounts the namespace's own resolv.conf and hosts over the system's."""
    own = Path("/etc/netns") / namespace.name
    own.mkdir(parents=True)
    try:
        (own / "resolv.conf").write_text(f"# mine\nnameserver {server}\n")
        (own / "hosts").write_text("127.0.0.1 localhost\n198.51.100.7 vpn.example-vpn.dev\n")
        yield
    finally:
        shutil.rmtree(own)


def interface(*lines: str) -> str:
    return "\n".join(["[Interface]", f"PrivateKey = {PRIVATE_KEY}", *lines, ""])


def peer(number: int, allowed: str, *lines: str) -> str:
    return "\n".join(["[Peer]", f"PublicKey = {PEERS[number]}", f"AllowedIPs = {allowed}", *lines, ""])


ADDRESS = "Address = 10.66.0.1/24"
V4 = "Endpoint = 192.0.2.9:51820"
V6 = "Endpoint = [2001:db8::9]:51820"
NARROW = "Endpoint = 198.51.100.9:51820"
NOWHERE = "Endpoint = [fd99::1]:51820"
