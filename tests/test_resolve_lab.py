"""Names in a daemon, resolved by the system from name servers that come, change and go."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import uapi
from lab.end import End
from lab.namespace import Namespace, cable
from lab.process import wait_until
from lab.programs import SUBJECT
from lab.topology import Lab, genkey, pubkey

from wgfast.keeper import Keeper

pytestmark = pytest.mark.lab

NAME = "vpn.wgfast.example"


class NameServer:
    """Answers for NAME with one IPv4 address, with nothing for its IPv6, and knows no other."""

    def __init__(self, namespace: Namespace, listen: str, address: str) -> None:
        with namespace.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((listen, 53))
        self.address = address
        self.asked = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                query, client = self._socket.recvfrom(512)
                if not query:
                    return
                self.asked += 1
                self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        """RFC 1035, section 4.1."""
        end = query.index(b"\0", 12) + 5
        labels = b"".join(bytes([len(part)]) + part.encode() for part in NAME.split("."))
        known = query[12 : end - 5].lower() == labels
        wants_address = query[end - 4 : end - 2] == b"\0\1"
        records = b""
        if known and wants_address:
            records = struct.pack(">HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton(self.address)
        flags = 0x8180 if known else 0x8183
        header = struct.pack(">HHHHHH", *struct.unpack(">H", query[:2]), flags, 1, bool(records), 0, 0)
        return header + query[12:end] + records

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def home(lab: Lab) -> Iterator[Namespace]:
    """A namespace whose programs have a resolv.conf of their own (ip-netns(8))."""
    namespace = lab.namespace("home")
    directory = Path("/etc/netns", namespace.name)
    directory.mkdir(parents=True)
    try:
        use(namespace, "127.0.0.53")
        yield namespace
    finally:
        shutil.rmtree(directory)
        with contextlib.suppress(OSError):
            directory.parent.rmdir()


def use(namespace: Namespace, server: str) -> None:
    path = Path("/etc/netns", namespace.name, "resolv.conf")
    path.write_text(f"nameserver {server}\noptions timeout:1 attempts:1\n")


@pytest.fixture
def serve(home: Namespace) -> Iterator[Callable[[str, str], NameServer]]:
    with contextlib.ExitStack() as stack:

        def start(listen: str, address: str) -> NameServer:
            return stack.enter_context(contextlib.closing(NameServer(home, listen, address)))

        yield start


def threads(end: End) -> int:
    return len(os.listdir(f"/proc/{end.pid}/task"))


def test_a_daemon_finds_a_name_whatever_happens_to_its_name_servers(
    lab: Lab, home: Namespace, serve: Callable[[str, str], NameServer]
) -> None:
    end = lab.end(home, SUBJECT).start()
    before = threads(end)
    key = pubkey(genkey())
    lines = (f"public_key={uapi.hexadecimal(key)}", f"endpoint_host={NAME}:51820")

    # Nobody answers: the daemon does, and tries again.
    assert uapi.set_errno(end.interface, *lines) == 0
    wait_until(lambda: "cannot resolve" in end.log, "a line in the log")
    assert end.show("endpoints") == {key: "(none)"}
    assert threads(end) == before + 1
    first = serve("127.0.0.53", "192.0.2.1")
    wait_until(lambda: end.show("endpoints") == {key: "192.0.2.1:51820"}, "the name is found")

    # The record changes; asked for again, the endpoint does.
    first.address = "192.0.2.2"
    assert uapi.set_errno(end.interface, *lines) == 0
    wait_until(lambda: end.show("endpoints") == {key: "192.0.2.2:51820"}, "the new address")

    # Another network, other name servers: the thread that has asked before must see it.
    second = serve("127.0.0.54", "192.0.2.3")
    use(home, "127.0.0.54")
    asked = first.asked
    assert uapi.set_errno(end.interface, *lines) == 0
    wait_until(lambda: end.show("endpoints") == {key: "192.0.2.3:51820"}, "the other name server is asked")
    assert first.asked == asked
    assert second.asked

    # `wg` names an address: no name, no thread.
    end.set("peer", key, "endpoint", "192.0.2.9:9")
    wait_until(lambda: threads(end) == before, "the thread has ended")
    assert end.log.count("cannot resolve") == 1


def test_a_name_server_that_is_silent_holds_nobody_up(lab: Lab, home: Namespace) -> None:
    """A query takes a while to fail: the daemon answers meanwhile, and ends when it is told to."""
    path = Path("/etc/netns", home.name, "resolv.conf")
    path.write_text("nameserver 127.0.0.55\noptions timeout:30 attempts:5\n")
    with home.entered(), contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as silent:
        silent.bind(("127.0.0.55", 53))
        silent.settimeout(5)
        end = lab.end(home, SUBJECT).start()
        key = pubkey(genkey())
        lines = (f"public_key={uapi.hexadecimal(key)}", f"endpoint_host={NAME}:51820")
        assert uapi.set_errno(end.interface, *lines) == 0
        assert silent.recv(512)
        assert end.show("endpoints") == {key: "(none)"}
        assert end.process
        end.process.signal(signal.SIGTERM)
        assert end.process.wait(3) == 0


@pytest.mark.parametrize("keeps_privileges", [True, False])
def test_a_dead_tunnel_that_takes_all_traffic_finds_its_server_again(
    lab: Lab, home: Namespace, keeps_privileges: bool
) -> None:
    """The system's questions go into the tunnel: those for its own end go around it, to the name server there
    was before."""
    isp = lab.namespace("isp")
    cable(home, "wire0", isp, "wire1")
    home.add_address("wire0", "192.0.2.1/24")
    isp.add_address("wire1", "192.0.2.53/24")
    home.ip("route add default via 192.0.2.53")
    use(home, "192.0.2.53")
    key = pubkey(genkey())
    lines = (f"public_key={uapi.hexadecimal(key)}", f"endpoint_host={NAME}:51820")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(contextlib.closing(NameServer(isp, "192.0.2.53", "192.0.2.7")))
        end = lab.end(home, SUBJECT)
        if keeps_privileges:
            end.start()
        else:
            keeper = stack.enter_context(contextlib.closing(Keeper()))
            given = keeper.theirs.fileno()
            end.start(environ={"WGFAST_KEEPER_FD": str(given)}, keep=(given,))
            keeper.hand_over()
            threading.Thread(target=lambda: all(iter(keeper.serve, False)), daemon=True).start()
        assert uapi.set_errno(end.interface, "fwmark=51820", *lines, "allowed_ip=0.0.0.0/0") == 0
        home.ip(
            f"address add 10.77.0.1/32 dev {end.interface}",
            f"link set {end.interface} up",
            f"route add default dev {end.interface} table 51820",
            "rule add not fwmark 51820 table 51820",
            "rule add table main suppress_prefixlength 0",
        )
        wait_until(lambda: end.show("endpoints") == {key: "192.0.2.7:51820"}, "the name is found")
        use(home, "10.77.0.53")  # as DNS= does: it is behind the tunnel
        server.address = "192.0.2.8"
        assert uapi.set_errno(end.interface, *lines) == 0
        wait_until(lambda: end.show("endpoints") == {key: "192.0.2.8:51820"}, "the new address", 10)
