"""The tools themselves, asked what they make of a configuration file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab.end import End
from lab.process import run
from lab.topology import Lab

# The names of the corpus; no other has an address.
HOSTS = {
    "public-server1.example-vpn.dev": "192.0.2.101",
    "public-server1.example-vpn.tld": "192.0.2.101",
    "public-server2.example-vpn.dev": "192.0.2.102",
    "home-server.example-vpn.dev": "192.0.2.103",
    "node1.example.tld": "192.0.2.104",
    "peer2.example-vpn.dev": "192.0.2.105",
    "test.wireguard.com": "192.0.2.106",
    "demo.wireguard.com": "192.0.2.107",
    "under_score.example.org": "192.0.2.108",
    "peer": "192.0.2.109",
}
INTERFACE = "wgcorpus"

# wg-quick as it is installed, with everything it would call replaced by functions that write down how they
# were called: its parsing is seen, and no hook is run.
RECORDER = """
eval() { note "eval $COMMAND" "$1"; }
note() { local IFS=$'\\x1f'; printf '%s\\n' "$*" >> "$RECORD/calls"; }
ip() { note ip "$@"; }
nft() { :; }
iptables() { :; }
sysctl() { :; }
resolvconf() { note resolvconf "$@"; [[ $1 != -a ]] || cat >> "$RECORD/resolv.conf"; }
wg() {
    note wg "$@"
    case "$1 $3" in
    setconf*) cat "$3" > "$RECORD/setconf" ;;
    "show ") echo "$INTERFACE" ;;
    "show allowed-ips") printf 'key\\t10.9.0.0/24\\n' ;;
    "showconf "*) echo '[Interface]' ;;
    esac
}
"""


@dataclass
class Quick:
    """What wg-quick made of a file: what it gave to wg, and how it would have called the others."""

    accepted: bool
    for_wg: bytes = b""
    addresses: list[str] = field(default_factory=list)
    mtu: str = ""
    table: str | None = None
    routed: bool = False
    dns: list[str] = field(default_factory=list)
    search: list[str] = field(default_factory=list)
    hooks_up: list[str] = field(default_factory=list)
    hooks_down: list[str] = field(default_factory=list)
    saved: bool = False


class Judge:
    """A live interface in a namespace of its own, and the installed tools."""

    def __init__(self, lab: Lab, role: str) -> None:
        self.namespace = lab.namespace("corpus")
        self.directory = lab.directory
        self.role = role
        self.end: End = lab.end(self.namespace, role)
        self.end.start(log_level="silent")

    # wg

    def configure(self, data: bytes) -> bool:
        """Whether `wg setconf` takes this; the interface is then configured so."""
        path = self.directory / "for-wg"
        path.write_bytes(data)
        status, _ = _run(
            self.namespace.argv("wg", "setconf", self.end.interface, str(path)),
            {"WG_ENDPOINT_RESOLUTION_RETRIES": "0"},
        )
        return status == 0

    def dump(self) -> tuple[list[str], dict[str, list[str]]]:
        """`wg show dump`: the interface's fields, and each peer's by its public key."""
        interface, *peers = (line.split("\t") for line in self.end.wg("show", "dump").splitlines())
        return interface, {peer[0]: peer[1:] for peer in peers}

    # wg-quick

    def strip(self, data: bytes) -> tuple[bool, bytes]:
        status, output = _run(["wg-quick", "strip", str(self._place(data))])
        return status == 0, output

    def _place(self, data: bytes) -> Path:
        path = self.directory / f"{INTERFACE}.conf"
        path.write_bytes(data)
        path.chmod(0o600)
        return path

    def run_quick(self, data: bytes) -> Quick:
        """`wg-quick up`, and `down` if there is anything to see in it."""
        record = self.directory / "record"
        shutil.rmtree(record, ignore_errors=True)
        record.mkdir()
        environment = record / "environment"
        environment.write_text(RECORDER)
        path = self._place(data)
        variables = {"BASH_ENV": str(environment), "RECORD": str(record), "INTERFACE": INTERFACE}
        found = Quick(True)
        for command in ("up", "down"):
            if command == "down" and not any(word in data.lower() for word in (b"down", b"saveconfig")):
                break
            status, _ = _run(["wg-quick", command, str(path)], {**variables, "COMMAND": command})
            found.accepted &= status == 0
        if found.accepted:
            self._read_record(record, found)
        return found

    @staticmethod
    def _read_record(record: Path, found: Quick) -> None:
        found.for_wg = (record / "setconf").read_bytes()
        for line in (record / "calls").read_bytes().decode(errors="surrogateescape").split("\n"):
            match line.split("\x1f"):
                case ["ip", _, "address", "add", address, *_]:
                    found.addresses.append(address)
                case ["ip", "link", "set", "mtu", mtu, *_]:
                    found.mtu = mtu
                case ["ip", _, "route", "add", _, "dev", _, *table]:
                    found.routed = True
                    found.table = table[1] if table else None
                case ["eval up", hook]:
                    found.hooks_up.append(hook)
                case ["eval down", hook]:
                    found.hooks_down.append(hook)
                case ["wg", "showconf", _]:
                    found.saved = True
        resolver = record / "resolv.conf"
        for line in resolver.read_text().splitlines() if resolver.exists() else ():
            kind, *words = line.split()
            (found.dns if kind == "nameserver" else found.search).extend(words)

    def link_takes(self, quick: Quick) -> bool:
        """Whether iproute2 and the kernel take what wg-quick would give them."""
        name = self.end.interface
        commands = [f"address add {address} dev {name}" for address in quick.addresses]
        commands.append(f"link set mtu {quick.mtu} up dev {name}")
        if quick.table:
            commands.append(f"route add 10.9.0.0/24 dev {name} table {quick.table}")
        done = run(
            ["ip", "-n", self.namespace.name, "-batch", "-"], stdin="\n".join(commands) + "\n", check=False
        )
        self.namespace.ip(f"link set mtu 1420 up dev {name}", f"address flush dev {name}")
        if quick.table and done.returncode == 0:
            self.namespace.ip(f"route flush table {quick.table}")
        return done.returncode == 0


def _run(command: list[str], environment: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Exit status and output, which need not be text."""
    done = subprocess.run(
        command, capture_output=True, timeout=20, check=False, env={**os.environ, **(environment or {})}
    )
    return done.returncode, done.stdout


@contextmanager
def judging(role: str) -> Iterator[Judge]:
    """A Judge whose interface `role` plays; its namespace has the names of HOSTS and no resolver."""
    lab = Lab()
    etc = None
    try:
        judge = Judge(lab, role)
        etc = Path("/etc/netns", judge.namespace.name)
        etc.mkdir(parents=True)
        (etc / "hosts").write_text("".join(f"{address} {name}\n" for name, address in HOSTS.items()))
        (etc / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        yield judge
    finally:
        if etc is not None:
            shutil.rmtree(etc, ignore_errors=True)
        lab.close()
