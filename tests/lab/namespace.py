"""Network namespaces and the cables between them."""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .process import Process, run

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _setns(fd: int) -> None:
    # os.setns() exists since Python 3.12 only.
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


class Namespace:
    """One `ip netns`, made here and deleted, with all that is in it, by close()."""

    def __init__(self, name: str, logs: Path) -> None:
        self.name = name
        self.logs = logs
        run(["ip", "netns", "add", name])
        # Removing a primary address must not take the others of its subnet with it.
        self.ip("link set lo up")
        self.sysctl("net/ipv4/conf/all/promote_secondaries", 1)

    def close(self) -> None:
        run(["ip", "netns", "del", self.name], check=False)

    def ip(self, *commands: str) -> None:
        """iproute2 commands, without the leading `ip`, executed in order as one batch."""
        run(["ip", "-n", self.name, "-batch", "-"], stdin="\n".join(commands) + "\n")

    def show(self, *arguments: str) -> str:
        return run(["ip", "-n", self.name, *arguments]).stdout

    def argv(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]

    def run(
        self,
        *command: str,
        stdin: str = "",
        timeout: float = 10.0,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        return run(self.argv(*command), stdin=stdin, timeout=timeout, check=check, env=env)

    def spawn(self, *command: str, env: Mapping[str, str] | None = None, keep: Sequence[int] = ()) -> Process:
        """Starts a program inside; `ip netns exec` replaces itself, so the pid is the program's."""
        count = len(list(self.logs.iterdir()))
        program = re.sub(r"[^\w.-]", "_", os.path.basename(command[0]))
        return Process(self.argv(*command), self.logs / f"{count:02}-{program}.log", env, keep)

    def nft(self, rules: str) -> None:
        self.run("nft", "-f", "-", stdin=rules)

    def filter(self, hook: str, *rules: str) -> None:
        """Replaces the rules that apply to what passes `hook`; without any, all of it passes."""
        lines = [f"add table inet {hook}", f"delete table inet {hook}"]
        if rules:
            lines += [f"table inet {hook} {{", "chain only {"]
            lines += [f"type filter hook {hook} priority 0;", *rules, "}", "}"]
        self.nft("\n".join(lines) + "\n")

    def sysctl(self, path: str, value: object) -> None:
        # /proc/sys/net shows the namespace of the thread that opens it.
        with self.entered():
            Path("/proc/sys", path).write_text(str(value))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside: sockets it opens belong to this namespace for good."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        inside = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(inside)
            try:
                yield
            finally:
                _setns(before)
        finally:
            os.close(inside)
            os.close(before)

    def add_address(self, interface: str, *addresses: str) -> None:
        """Addresses as `10.0.0.1/24`; IPv6 ones are usable at once (no duplicate detection)."""
        self.ip(*(f"addr add {a} dev {interface}{_nodad(a)}" for a in addresses))

    def remove_address(self, interface: str, *addresses: str) -> None:
        self.ip(*(f"addr del {address} dev {interface}" for address in addresses))

    def has_link(self, interface: str) -> bool:
        return run(["ip", "-n", self.name, "link", "show", interface], check=False).returncode == 0


def _nodad(address: str) -> str:
    return " nodad" if ipaddress.ip_interface(address).version == 6 else ""


def cable(left: Namespace, left_name: str, right: Namespace, right_name: str) -> None:
    """A veth pair, both ends up."""
    left.ip(
        f"link add {left_name} type veth peer name {right_name} netns {right.name}",
        f"link set {left_name} up",
    )
    right.ip(f"link set {right_name} up")
