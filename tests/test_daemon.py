"""The daemon: its arguments, what it loads, what it is given, how it begins and ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab.process import wait_until
from lab.topology import Lab

import wgfast.uapi_socket as uapi_socket
from wgfast.errors import InterfaceError
from wgfast.interface import Interface
from wgfast.uapi_socket import UapiSocket, refuse_live

WGFAST = [sys.executable, "-m", "wgfast"]
HEAVY = ("numpy", "click", "rich", "pyroute2", "asyncio")
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x1, 0x2, 0x1000, 0x4000


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WGFAST, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, **environ},
        check=False,
    )


# ---- a daemon without privileges: packet sockets in place of a TUN ----


class Handed:
    """A daemon in the foreground that was handed both its descriptors."""

    def __init__(self, directory: Path, *, listens: bool = True, **environ: str) -> None:
        self.path = str(directory / "handed.sock")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.path)
        if listens:
            listener.listen()
        self.inner, outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.log = directory / "log"
        given = {
            "WG_TUN_FD": str(outer.fileno()),
            "WG_UAPI_FD": str(listener.fileno()),
            "LOG_LEVEL": "verbose",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*WGFAST, "-f", "handed0"],
                pass_fds=(outer.fileno(), listener.fileno()),
                env={**os.environ, **given, **environ},
                stderr=log,
            )
        outer.close()
        listener.close()

    def close(self) -> None:
        self.inner.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def ask(self, request: str) -> str:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            client.connect(self.path)
            client.sendall(request.encode())
            answer = ""
            while not answer.endswith("\n\n"):
                piece = client.recv(1 << 16).decode()
                if not piece:
                    break
                answer += piece
            return answer


@pytest.fixture
def handed(tmp_path: Path) -> Iterator[Handed]:
    made = Handed(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_daemon_of_given_descriptors(handed: Handed, number: signal.Signals) -> None:
    """It answers, opens its port at once (a socket pair is never down), and removes its socket at the end."""
    assert handed.ask("set=1\nlisten_port=0\n\n") == "errno=0\n\n"
    assert "listen_port=" in handed.ask("get=1\n\n")
    handed.process.send_signal(number)
    assert handed.process.wait(5) == 0
    assert not Path(handed.path).exists()
    assert "Traceback" not in handed.log.read_text()


def test_a_socket_that_was_only_bound_is_listened_on(tmp_path: Path) -> None:
    made = Handed(tmp_path, listens=False)
    try:
        wait_until(lambda: "device started" in made.log.read_text(), "the daemon has started")
        assert made.ask("get=1\n\n").endswith("errno=0\n\n")
    finally:
        made.close()


def test_removing_its_socket_ends_it(handed: Handed) -> None:
    handed.ask("get=1\n\n")
    Path(handed.path).unlink()
    assert handed.process.wait(5) == 0


def test_another_file_in_its_socket_s_place_is_left_alone(handed: Handed) -> None:
    handed.ask("get=1\n\n")
    Path(handed.path).chmod(0o600)  # a change that is no removal
    handed.ask("get=1\n\n")
    other = Path(handed.path).with_suffix(".other")
    other.write_text("theirs")
    other.rename(handed.path)
    assert handed.process.wait(5) == 0
    assert Path(handed.path).read_text() == "theirs"


def test_it_loads_nothing_heavy_and_its_keys_go_into_no_core_file(tmp_path: Path) -> None:
    """A daemon that is configured and begins a handshake; its own interpreter says what it loaded."""
    script = (
        "import sys, threading, os, signal, socket\n"
        "from wgfast.__main__ import main\n"
        "a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
        "os.environ.update(WG_TUN_FD=str(os.dup(b.fileno())), WG_UAPI_FD=str(os.dup(s.fileno())))\n"
        "def ask():\n"
        "    c = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1])\n"
        "    c.sendall(b'set=1\\nprivate_key=' + b'41' * 32 + b'\\npublic_key=' + b'09' + b'00' * 31\n"
        "              + b'\\nendpoint=127.0.0.1:9\\npersistent_keepalive_interval=1\\n\\nget=1\\n\\n')\n"
        "    c.recv(1 << 16); os.kill(os.getpid(), signal.SIGTERM)\n"
        "threading.Timer(0.3, ask).start()\n"
        "assert main(['-f', 'light0']) == 0\n"
        "import ctypes\n"
        "assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0, 'PR_GET_DUMPABLE'\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "light.sock")],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "wgfast.daemon" in loaded
    assert not loaded & set(HEAVY)


def test_an_idle_daemon_sleeps(handed: Handed) -> None:
    handed.ask("get=1\n\n")
    time.sleep(0.3)

    def switches() -> int:
        status = Path(f"/proc/{handed.process.pid}/status").read_text()
        return sum(int(line.split()[1]) for line in status.splitlines() if "voluntary_ctxt" in line)

    before = switches()
    time.sleep(1.5)
    # Of the main thread; an unrelated change of the machine's routes may wake it.
    assert switches() - before <= 2


# ---- the socket's place ----


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(uapi_socket, "DIRECTORY", str(tmp_path / "wireguard"))
    return tmp_path / "wireguard"


def test_only_its_owner_can_reach_the_socket(directory: Path) -> None:
    made = UapiSocket.open("wg0")
    assert (directory / "wg0.sock").stat().st_mode & 0o077 == 0
    assert directory.stat().st_mode & 0o077 == 0
    made.listener.close()
    made.close()
    assert not (directory / "wg0.sock").exists()


def test_a_stale_socket_is_taken_over_and_a_live_one_refused(directory: Path) -> None:
    first = UapiSocket.open("wg0")
    with pytest.raises(InterfaceError, match="another daemon"):
        refuse_live("wg0")
    with pytest.raises(InterfaceError, match="another daemon"):
        UapiSocket.open("wg0")
    first.listener.close()
    refuse_live("wg0")
    second = UapiSocket.open("wg0")
    first.close()  # not its own any more
    assert (directory / "wg0.sock").exists()
    second.listener.close()
    second.close()


def test_a_file_in_the_way_is_not_removed(directory: Path) -> None:
    directory.mkdir()
    (directory / "wg0.sock").write_text("mine")
    with pytest.raises(InterfaceError, match="no socket"):
        UapiSocket.open("wg0")
    assert (directory / "wg0.sock").read_text() == "mine"


def test_of_many_that_open_at_once_one_wins(directory: Path) -> None:
    results: list[UapiSocket | InterfaceError] = []

    def try_open() -> None:
        try:
            results.append(UapiSocket.open("wg0"))
        except InterfaceError as error:
            results.append(error)

    threads = [threading.Thread(target=try_open) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [result for result in results if isinstance(result, UapiSocket)]
    winner.listener.close()
    winner.close()


def test_a_descriptor_that_is_no_listening_socket(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(InterfaceError, match="WG_UAPI_FD"):
        UapiSocket.adopt(file.fileno())
    with (tmp_path / "file").open("w") as file, pytest.raises(InterfaceError, match="WG_TUN_FD"):
        Interface.adopt(file.fileno(), "wg0")
    with pytest.raises(InterfaceError, match="not an open descriptor"):
        Interface.adopt(987, "wg0")


# ---- as root ----

pytest_lab = pytest.mark.lab


@pytest_lab
@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda name: f"link add {name} type veth", "ip link del"),
        (lambda name: f"tuntap add mode tun name {name}", ""),
    ],
    ids=["veth", "tun"],
)
def test_a_name_in_use(lab: Lab, make: Callable[[str], str], remedy: str) -> None:
    home = lab.namespace("home")
    name = f"wgfd{os.getpid()}"
    home.ip(make(name))
    done = home.run(*WGFAST, name, check=False)
    if remedy:
        assert done.returncode == 1
        assert remedy in done.stderr
        assert "Traceback" not in done.stderr
    else:
        # One that nobody holds is ours to use, as with every program that opens TUN interfaces.
        assert done.returncode == 0
        Path(uapi_socket.socket_path(name)).unlink()


@pytest_lab
def test_without_privileges_it_says_what_it_takes(lab: Lab) -> None:
    home = lab.namespace("home")
    command = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", *WGFAST]
    name = f"wgfd{os.getpid()}"
    done = home.run(*command, name, check=False)
    assert done.returncode == 1
    assert "CAP_NET_ADMIN" in done.stderr
    assert not Path(uapi_socket.socket_path(name)).exists()


@pytest_lab
@pytest.mark.parametrize(
    ("flags", "taken"),
    [
        (IFF_TUN | IFF_NO_PI, True),
        (IFF_TUN | IFF_NO_PI | IFF_VNET_HDR, True),
        (IFF_TAP | IFF_NO_PI, False),
        (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, False),
    ],
)
def test_which_forms_of_an_interface_are_taken(lab: Lab, flags: int, taken: bool) -> None:
    """One of IP, with a virtio-net header or without. Packet information: test_interop_daemon.py."""
    home = lab.namespace("home")
    with home.entered():
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"wgfd%d", flags))
    if taken:
        with contextlib.closing(Interface.adopt(fd, "wg0")) as interface:
            assert interface.name == "wgfd0"
        return
    with (
        contextlib.closing(os.fdopen(fd, "rb", buffering=0)),
        pytest.raises(InterfaceError, match="IFF_NO_PI"),
    ):
        Interface.adopt(fd, "wg0")


@pytest_lab
def test_a_port_in_use_is_told_and_another_one_taken(lab: Lab) -> None:
    """The interface is up and the sockets are not: as soon as there is a port, they are."""
    home = lab.namespace("home")
    end = lab.end(home, "wgfast").start()
    with home.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 51820))
        end.set("listen-port", "51820")
        home.ip(f"link set {end.interface} up")
        wait_until(lambda: "cannot open the UDP sockets" in end.log, "a line in the log")
        end.set("listen-port", "51821")
        wait_until(lambda: ":51821 " in home.run("ss", "-lun").stdout, "the other port is open")
