"""A host: a process that holds namespaces of its own for the network, mounts, processes and the host's name.

It has an /etc and a /run of its own, so every host may have a wg0, a /etc/wireguard/wg0.conf and a
/etc/resolv.conf as it would have alone on a computer. Nothing of it has a name outside: the kernel ends its
processes and removes its links when the holding process ends, and that one ends with the program that
started it, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

from .topology import ProofError

T = TypeVar("T")

COMMAND_TIMEOUT: Final = 15.0
_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

# An ignored SIGCHLD stays ignored in `sleep`, so daemons that are orphaned here do not become zombies.
# Where the kernel refuses an overlay, /etc is copied.
_HOLDER: Final = """
set -e
mount -t tmpfs tmpfs /run
[ -L /var/run ] || mount --bind /run /var/run
mount -t sysfs sysfs /sys
mkdir -p /run/etc/upper /run/etc/work /run/wireguard
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work overlay /etc 2>/dev/null || {
    cp -a /etc/. /run/etc/upper
    mount --bind /run/etc/upper /etc
}
mkdir -p /etc/wireguard
mount -t tmpfs -o mode=0700 tmpfs /etc/wireguard
rm -f /etc/resolv.conf /etc/hosts /etc/nsswitch.conf
echo "nameserver $2" >/etc/resolv.conf
echo "127.0.0.1 localhost $1" >/etc/hosts
echo "hosts: files dns" >/etc/nsswitch.conf
hostname "$1"
ip link set lo up
for set in all default; do
    echo 0 >/proc/sys/net/ipv6/conf/$set/accept_dad
    echo 0 >/proc/sys/net/ipv6/conf/$set/router_solicitations
    echo 0 >/proc/sys/net/ipv6/conf/$set/accept_ra
done
echo ready
trap "" CHLD
exec sleep infinity
"""


class Host:
    """`held` is the pid, as seen from outside, of the process that holds the namespaces."""

    def __init__(self, name: str, name_server: str) -> None:
        self.name = name
        # The parent-death signal follows the thread that started a process: that must be the main one.
        self._holder = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"),
                *("--mount-proc", "--propagation", "private"),
                *("sh", "-c", _HOLDER, "sh", name, name_server),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.held = 0

    def wait_ready(self) -> None:
        """OSError if the host cannot be made, with what the kernel said."""
        assert self._holder.stdout is not None
        assert self._holder.stderr is not None
        if self._holder.stdout.readline() != "ready\n":
            said = self._holder.stderr.read().strip()
            raise OSError(f"{self.name}: its namespaces cannot be made (root is needed): {said}")
        pid = self._holder.pid
        self.held = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def close(self) -> None:
        """Every process inside is killed by the kernel with the first; waits until it has done so."""
        with contextlib.suppress(ProcessLookupError):
            # `unshare` ends when it has seen the first process inside end, and with it all the others.
            os.kill(self.held or self._holder.pid, signal.SIGKILL)
        try:
            self._holder.wait(COMMAND_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()
        for stream in (self._holder.stdout, self._holder.stderr):
            if stream is not None:
                stream.close()

    def path(self, inside: str) -> Path:
        """Where a file of the host is seen from outside."""
        return Path(f"/proc/{self.held}/root{inside}")

    @property
    def network_path(self) -> Path:
        return Path(f"/proc/{self.held}/ns/net")

    @property
    def entrance(self) -> str:
        return f"nsenter -t {self.held} -a"

    def argv(self, *command: str) -> list[str]:
        return ["nsenter", "-t", str(self.held), "-m", "-u", "-i", "-n", "-p", "--", *command]

    def run(
        self,
        *command: str,
        stdin: str = "",
        timeout: float = COMMAND_TIMEOUT,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Output of a command inside. ProofError with its output if it fails or does not end in time."""
        path = f"{os.path.dirname(sys.executable)}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        # A file, not a pipe: a daemon that is left behind may keep what it inherited open.
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as given:
            given.write(stdin)
            given.seek(0)
            try:
                status: object = subprocess.run(
                    self.argv(*command),
                    stdin=given,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    timeout=timeout,
                    env={**os.environ, "PATH": path, "HOME": "/root", **(env or {})},
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                status = f"not done after {timeout:.0f} s"
            output.seek(0)
            said = output.read()
        if check and status != 0:
            raise ProofError(f"{self.name}: `{' '.join(command)}`: {status}\n{said.strip()[-1500:]}")
        return said

    def batch(self, *commands: str) -> None:
        """iproute2 commands without the leading `ip`. Pids in them are those seen from outside."""
        net = f"--net={self.network_path}"
        done = subprocess.run(
            ["nsenter", net, "ip", "-batch", "-"],
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise OSError(f"{self.name}: ip: {done.stderr.strip()}")

    def nft(self, rules: str) -> None:
        self.run("nft", "-f", "-", stdin=rules)

    def sysctl(self, name: str, value: object) -> None:
        # /proc/sys/net shows the namespace of the thread that opens it.
        with self.entered():
            Path("/proc/sys", name.replace(".", "/")).write_text(str(value))

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in the host's network: sockets it opens belong there for good."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        inside = os.open(self.network_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _set_namespace(inside)
            try:
                yield
            finally:
                _set_namespace(before)
        finally:
            os.close(inside)
            os.close(before)


class Container(Host):
    """A network namespace that a host's configuration makes (`ip netns add NAME`)."""

    def __init__(self, name: str, outer: Host) -> None:
        self.name = name
        self.outer = outer

    def wait_ready(self) -> None:
        self.held = self.outer.held

    def close(self) -> None:
        """It ends with the host it is on."""

    @property
    def network_path(self) -> Path:
        return self.path(f"/run/netns/{self.name}")

    @property
    def entrance(self) -> str:
        return f"{self.outer.entrance} ip netns exec {self.name} sh"

    def argv(self, *command: str) -> list[str]:
        return self.outer.argv("ip", "netns", "exec", self.name, *command)


def wait_until(condition: Callable[[], T], what: str, deadline: float = 5.0) -> T:
    """Polls until `condition()` is truthy and returns its value. TimeoutError names `what` if it never is."""
    end = time.monotonic() + deadline
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline:.0f} s for {what}")
        time.sleep(0.02)
    return value


def _set_namespace(descriptor: int) -> None:
    # os.setns() exists since Python 3.12 only.
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
