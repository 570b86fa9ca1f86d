"""The lab of bench/compare.py: two network namespaces, a veth pair between them, and a tunnel over it.

    left                                       right
    198.18.0.1 wgc...a                         wgc...b 198.18.0.2     the tunnel
    192.0.2.1  wire   <-------- veth ------->  wire    192.0.2.2      the link

All that is made here is removed when the lab is left, however that happens. Processes are known by their
pid or by the namespace they run in; nothing is ended by its name.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from compare_contestants import Contestant, Implementation

# Addresses for documentation (RFC 5737), and for benchmarks (RFC 2544).
OUTSIDE = ("192.0.2.1", "192.0.2.2")
INSIDE = ("198.18.0.1", "198.18.0.2")
PORT = 51820
OVERHEAD = 80  # of WireGuard over IPv6: what a tunnel's MTU is less than its link's
START_TIMEOUT = 15.0
# So that wireguard-go runs where the kernel has WireGuard too, and nobody writes a log.
QUIET = {"LOG_LEVEL": "error", "WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1"}
# What a link needs to behave like a network card without offloads for UDP: packets cross it one by one, and
# the receiving side may put them together. A veth does GRO only while its peer does no TSO.
SEGMENTING = ("tx-udp-segmentation", "off", "tso", "off", "gro", "on")
OFFLOADS = (
    "tx-udp-segmentation",
    "tcp-segmentation-offload",
    "generic-segmentation-offload",
    "generic-receive-offload",
)
_numbers = itertools.count()


class LabError(Exception):
    """A command failed or something did not come about in time; the text says which and why."""


def run(*command: str, stdin: str = "", timeout: float = 20.0, check: bool = True) -> str:
    """What the command prints. LabError with what it said if it fails or takes too long."""
    try:
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"`{' '.join(command)}` was still running after {timeout:.0f} s") from None
    if check and done.returncode:
        said = (done.stderr.strip() or done.stdout.strip())[-500:]
        raise LabError(f"`{' '.join(command)}`: {said or f'exit status {done.returncode}'}")
    return done.stdout


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that whatever was made is removed."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C does not stop the removal that the first one began."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_until(condition: Callable[[], bool], what: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {timeout:.0f} s")
        time.sleep(0.01)


class Namespace:
    """One `ip netns`, with what runs in it. Whoever calls make() has seen to it that close() is called."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._children: list[subprocess.Popen[Any]] = []

    def make(self) -> None:
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *command: str) -> str:
        return run("ip", "-n", self.name, *command)

    def run(self, *command: str, stdin: str = "", timeout: float = 20.0, check: bool = True) -> str:
        return run(*self._argv(command), stdin=stdin, timeout=timeout, check=check)

    def spawn(
        self,
        *command: str,
        environment: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | IO[str] = subprocess.DEVNULL,
        directory: str | None = None,
    ) -> subprocess.Popen[str]:
        """A program that runs inside until it is stopped, or until the namespace is closed. It is out of
        reach of the terminal's Ctrl-C: this program ends it."""
        child = subprocess.Popen(
            self._argv(command),
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.DEVNULL if isinstance(stdout, int) else subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
            cwd=directory,
            start_new_session=True,
        )
        self._children.append(child)
        return child

    def _argv(self, command: Sequence[str]) -> list[str]:
        # `ip netns exec` replaces itself: the pid is the program's.
        return ["ip", "netns", "exec", self.name, *command]

    def pids(self) -> list[int]:
        return [int(pid) for pid in run("ip", "netns", "pids", self.name, check=False).split()]

    def close(self) -> None:
        """Ends all that runs inside, also what has detached itself, and removes the namespace."""
        self.end_processes()
        run("ip", "netns", "del", self.name, check=False)

    def end_processes(self) -> None:
        for number, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
            for pid in self._running():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(LabError):
                wait_until(lambda: not self._running(), f"{self.name}: its processes end", patience)
                return

    def _running(self) -> set[int]:
        """A child of ours may not have entered yet."""
        return {child.pid for child in self._children if child.poll() is None} | set(self.pids())


def kernel_refusal() -> str:
    """Why the kernel makes no WireGuard interface; empty if it does."""
    namespace = Namespace(f"wgfast-compare-{os.getpid()}-try")
    try:
        namespace.make()
        namespace.ip("link", "add", "try", "type", "wireguard")
    except LabError as error:
        said = str(error).rpartition(": ")[2].strip()
        return f"this machine's kernel has no WireGuard (`ip link add type wireguard`: {said})"
    finally:
        with _undisturbed():
            namespace.close()
    return ""


class Lab:
    """The two ends of one contestant, fresh; a context manager. For plain veth there is only the link."""

    def __init__(self, contestant: Contestant, *, segmenting: bool = False, mtu: int = 1500) -> None:
        self.contestant = contestant
        self._number = next(_numbers)
        self._stack = contextlib.ExitStack()
        self.directory = ""
        try:
            self._make(segmenting, mtu)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        with _undisturbed():
            self._stack.close()

    def _make(self, segmenting: bool, mtu: int) -> None:
        self.directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="wgfast-compare-"))
        self.left, self.right = (self._namespace(side) for side in "ab")
        self.sides = (self.left, self.right)
        self._lay_link(segmenting, mtu)
        self.addresses = OUTSIDE
        if self.contestant.has_tunnel:
            self._dig_tunnel(mtu - OVERHEAD)
            self.addresses = INSIDE
        self._await_answer()
        self.tunnel_pids = tuple(side.pids() for side in self.sides)

    def _namespace(self, side: str) -> Namespace:
        namespace = Namespace(f"wgfast-compare-{os.getpid()}-{self._number}{side}")
        self._stack.callback(namespace.close)
        namespace.make()
        return namespace

    def _lay_link(self, segmenting: bool, mtu: int) -> None:
        end = ("wire", "mtu", str(mtu))
        self.left.ip("link", "add", *end, "type", "veth", "peer", "name", *end, "netns", self.right.name)
        for side, address in zip(self.sides, OUTSIDE, strict=True):
            if segmenting:
                side.run("ethtool", "-K", "wire", *SEGMENTING)
            side.ip("address", "add", f"{address}/24", "dev", "wire")
            side.ip("link", "set", "wire", "up")

    def offloads(self) -> list[dict[str, str]]:
        """What the two ends of the link do for packets, by ethtool's names; empty without ethtool."""
        if shutil.which("ethtool") is None:
            return []
        return [parse_offloads(side.run("ethtool", "-k", "wire")) for side in self.sides]

    def _dig_tunnel(self, mtu: int) -> None:
        # The sockets of interfaces are files: names must be nobody else's.
        self.interfaces = [f"wgc{os.getpid()}{side}" for side in "ab"]
        implementations = (self.contestant.left, self.contestant.right)
        ends = list(zip(self.sides, self.interfaces, implementations, strict=True))
        for side, interface, implementation in ends:
            self._start(side, interface, implementation)
        keys = [run("wg", "genkey").strip() for _ in ends]
        for index, (side, interface, _) in enumerate(ends):
            other = 1 - index
            settings = ["private-key", "/dev/stdin", "listen-port", str(PORT)]
            settings += ["peer", run("wg", "pubkey", stdin=keys[other]).strip()]
            settings += ["allowed-ips", f"{INSIDE[other]}/32", "endpoint", f"{OUTSIDE[other]}:{PORT}"]
            side.run("wg", "set", interface, *settings, stdin=keys[index])
            side.ip("address", "add", f"{INSIDE[index]}/24", "dev", interface)
            side.ip("link", "set", interface, "mtu", str(mtu), "up")

    def _start(self, side: Namespace, interface: str, implementation: Implementation) -> None:
        if not implementation.command:
            side.ip("link", "add", interface, "type", "wireguard")
            return
        socket = Path("/var/run/wireguard", f"{interface}.sock")
        self._stack.callback(socket.unlink, missing_ok=True)
        self._stack.callback(side.end_processes)  # first the process, then its socket
        log = Path(self.directory, f"{interface}.log")
        with log.open("w") as output:
            # Not in the directory we were called from: `python -m wgfast` would prefer a checkout there.
            child = side.spawn(
                *implementation.argv(interface),
                environment={**QUIET, **implementation.environment},
                stdout=output,
                directory=self.directory,
            )

        def answers() -> bool:
            if child.poll():  # one that goes to the background leaves with 0
                raise LabError(f"ended with status {child.returncode}")
            return socket.exists() and bool(side.run("wg", "show", interface, check=False))

        try:
            wait_until(answers, "an interface that answers `wg show`", START_TIMEOUT)
        except LabError as error:
            said = log.read_text(errors="replace")[-500:].strip()
            raise LabError(f"{implementation.described()}: {error}; it said: {said!r}") from None

    def _await_answer(self) -> None:
        """The first packet makes the handshake, or finds out the link's addresses."""
        ping = ("ping", "-n", "-q", "-c", "1", "-W", "1", self.addresses[1])
        wait_until(
            lambda: " 1 received" in self.left.run(*ping, check=False),
            f"{self.contestant.name}: an answer from the other end",
            START_TIMEOUT,
        )


def parse_offloads(text: str) -> dict[str, str]:
    """Of what `ethtool -k` prints, the features that matter to a tunnel: on or off."""
    found = dict(re.findall(r"^\s*([\w-]+): (on|off)\b", text, re.MULTILINE))
    return {name: found[name] for name in OFFLOADS if name in found}
