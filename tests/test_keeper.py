"""Whoever carries packets without privileges, and whoever keeps them for it."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.process import wait_until
from lab.programs import SUBJECT
from lab.topology import Lab
from lab.traffic import exchange, wait_ping

from wgfast import Device, keeper, uapi_socket

DROPS = """
import sys
from wgfast.keeper import drop_privileges
drop_privileges(*sys.argv[1:])
print(open("/proc/self/status").read())
"""


@contextlib.contextmanager
def kept() -> Iterator[keeper.Keeper]:
    """A keeper that serves until the test is over."""
    made = keeper.Keeper()

    def serve() -> None:
        while made.serve():
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield made
    finally:
        made.close()  # a daemon may still have the other end
        thread.join(5)
        assert not thread.is_alive()


def udp(family: socket.AddressFamily) -> socket.socket:
    return socket.socket(family, socket.SOCK_DGRAM)


def mark_of(end: socket.socket) -> int:
    return int(struct.unpack("=I", end.getsockopt(socket.SOL_SOCKET, socket.SO_MARK, 4))[0])


@pytest.mark.lab
def test_marks_and_buffers_are_set_for_whoever_may_not() -> None:
    with kept() as made, udp(socket.AF_INET) as four, udp(socket.AF_INET6) as six:
        prepare = keeper.Kept(made.theirs).prepare
        prepare(four.fileno(), six.fileno(), 0xFFFFFFFE)
        for end in (four, six):
            assert mark_of(end) == 0xFFFFFFFE
            for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                assert end.getsockopt(socket.SOL_SOCKET, option) == 2 * keeper.BUFFER
        prepare(four.fileno(), -1, 0)
        assert (mark_of(four), mark_of(six)) == (0, 0xFFFFFFFE)


def test_nothing_else_is_done_for_them(tmp_path: Path) -> None:
    with kept() as made, socket.socket() as stream, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as local:
        prepare = keeper.Kept(made.theirs).prepare
        for end in (stream, local):
            with pytest.raises(OSError, match=r"\[Errno") as raised:
                prepare(end.fileno(), -1, 7)
            assert raised.value.errno == errno.EPROTOTYPE
        made.theirs.send(b"a mark of seven bytes"[:7])
        assert struct.unpack("=Ii", made.theirs.recv(8))[1] == errno.EPROTO


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def ask(end: socket.socket, fds: list[int]) -> int:
    """An errno."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    end.sendmsg([struct.pack("=II", 1, 7)], rights)
    return int(struct.unpack("=Ii", end.recv(8))[1])


@pytest.mark.lab
def test_whatever_is_sent_the_keeper_goes_on_and_keeps_nothing() -> None:
    """Whoever carries packets may have been taken over by what it carried."""
    with kept() as made, udp(socket.AF_INET) as good, socket.socket() as stream:
        made.theirs.settimeout(5)
        before = descriptors()
        reading, writing = os.pipe()
        for fds, code in (
            ([reading], errno.ENOTSOCK),
            ([writing, good.fileno()], errno.ENOTSOCK),
            ([stream.fileno(), reading], errno.EPROTOTYPE),
            ([good.fileno()] * 3, errno.EBADF),  # more than it takes
            ([], errno.EBADF),  # nothing was marked
            ([good.fileno()], 0),
        ):
            assert ask(made.theirs, fds) == code
        os.close(reading)
        os.close(writing)
        assert descriptors() == before
        assert mark_of(good) == 7


@pytest.mark.lab
def test_only_udp_is_marked_of_all_that_has_datagrams() -> None:
    lite = 136  # IPPROTO_UDPLITE
    with kept() as made:
        try:
            end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, lite)
        except OSError:
            pytest.skip("this kernel has no UDP-Lite")
        with end:
            assert ask(made.theirs, [end.fileno()]) == errno.EPROTOTYPE
            assert mark_of(end) == 0


def test_a_keeper_that_says_nothing_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What made it readable was an answer, which another thread has taken meanwhile."""
    monkeypatch.setattr(keeper, "_PATIENCE", 0.05)
    keeps, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        kept_by = keeper.Kept(ours)
        assert not kept_by.is_gone()
        keeps.send(struct.pack("=Ii", 7, 0))
        assert not kept_by.is_gone()
        keeps.close()
        assert kept_by.is_gone()


def test_a_late_answer_is_none_to_what_was_asked_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a mark would count as set that was refused."""
    monkeypatch.setattr(keeper, "_PATIENCE", 0.1)
    keeps, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with keeps, ours, udp(socket.AF_INET) as end:
        kept_by = keeper.Kept(ours)
        with pytest.raises(OSError, match="does not answer"):
            kept_by.prepare(end.fileno(), -1, 1)
        number, _ = struct.unpack("=II", keeps.recv(64))
        keeps.send(struct.pack("=Ii", number, 0))
        keeps.send(struct.pack("=Ii", number + 1, errno.EPERM))
        with pytest.raises(PermissionError):
            kept_by.prepare(end.fileno(), -1, 2)


@pytest.mark.lab
def test_an_answer_is_left_to_the_thread_that_asked() -> None:
    """While another one, which waits for the keeper's end, sees that there is something to read."""
    with kept() as made, udp(socket.AF_INET) as four:
        side = keeper.Kept(made.theirs)
        asked = threading.Event()

        def wait_for_the_end() -> None:
            while not asked.is_set():
                assert not side.is_gone()

        watcher = threading.Thread(target=wait_for_the_end)
        watcher.start()
        try:
            for mark in range(1000):
                side.prepare(four.fileno(), -1, mark)
                assert mark_of(four) == mark
        finally:
            asked.set()
            watcher.join()
        assert not side.is_gone()


def test_a_keeper_that_is_gone_or_silent_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with udp(socket.AF_INET) as end:
        monkeypatch.setattr(keeper, "_PATIENCE", 0.05)
        silent = keeper.Keeper()
        prepare = keeper.Kept(silent.theirs).prepare
        with pytest.raises(OSError, match="does not answer"):
            prepare(end.fileno(), -1, 0)
        gone, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gone.close()
        with pytest.raises(OSError, match=r"gone|Broken pipe"):
            keeper.Kept(theirs).prepare(end.fileno(), -1, 0)
        silent.close()
        theirs.close()


def test_a_device_leaves_its_sockets_to_the_keeper_before_it_uses_them() -> None:
    asked: list[int] = []

    def prepare(fd4: int, fd6: int, mark: int) -> None:
        assert all(fd < 0 or os.fstat(fd) for fd in (fd4, fd6))
        asked.append(mark)
        if mark == 13:
            raise PermissionError(errno.EPERM, "no")
        if mark == 14:
            raise ValueError("not an OSError")

    with contextlib.closing(Device(fwmark=5)) as device:
        device.core.set_keeper(prepare)
        device.up()
        device.listen_port = 0
        device.fwmark = 6
        port = device.listen_port
        for bad, code in ((13, errno.EPERM), (14, errno.EIO)):
            with pytest.raises(OSError, match=r"\[Errno") as raised:
                device.fwmark = bad
            assert (raised.value.errno, device.fwmark, device.listen_port) == (code, 6, port)
        assert asked == [5, 5, 6, 13, 14]


def status_after_dropping(*arguments: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", DROPS, *arguments], capture_output=True, text=True, timeout=20, check=True
    )
    return {
        key: value.strip() for key, _, value in (line.partition(":") for line in done.stdout.splitlines())
    }


@pytest.mark.lab
def test_nothing_is_left_once_privileges_are_dropped() -> None:
    for arguments, user in (((), "0"), (("nobody",), "65534")):
        status = status_after_dropping(*arguments)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0, name
        assert status["NoNewPrivs"] == "1"
        assert status["Uid"].split() == [user] * 4


def test_a_user_there_is_none_of_is_named() -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        status_after_dropping("no-such-user")
    assert "no-such-user" in raised.value.stderr


def capabilities(pid: int) -> set[int]:
    """Of every thread."""
    found = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        (line,) = (line for line in (task / "status").read_text().splitlines() if line.startswith("CapEff"))
        found.add(int(line.split()[1], 16))
    return found


@pytest.mark.lab
def test_a_tunnel_without_privileges(lab: Lab) -> None:
    with kept() as made:
        left, right = lab.cabled()
        end, other = lab.end(left, SUBJECT), lab.end(right, SUBJECT)
        environ = {"WGFAST_KEEPER_FD": str(made.theirs.fileno()), "WGFAST_THREADS": "2"}
        end.start(environ=environ, keep=[made.theirs.fileno()])
        other.start()
        for each in (end, other):
            each.up()
        other.add_peer(end)
        end.add_peer(other, at="192.0.2.2:51820")
        wait_ping(left, other.address)
        assert capabilities(end.pid) == {0}
        end.set("fwmark", "0x77")
        end.set("listen-port", "51999")
        exchange(left, right, other.address)
        assert "fwmark: 0x77" in end.wg("show")
        left.ip("rule add fwmark 0x77 blackhole")
        wait_until(lambda: end.wg("show", "fwmark").strip() == "0x77", "the mark")
        with pytest.raises(Exception, match="ping"):
            wait_ping(left, other.address, 1.0)


@pytest.mark.lab
def test_its_uapi_socket_is_in_place_for_who_cannot_look_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes its mode must not end a daemon that runs as another user."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(uapi_socket, "DIRECTORY", str(closed))
    made = uapi_socket.UapiSocket.open("wg0")

    def seen_by_nobody() -> bool:
        os.seteuid(65534)
        try:
            return made.is_in_place()
        finally:
            os.seteuid(0)

    assert made.is_in_place()
    assert seen_by_nobody()
    (closed / "wg0.sock").unlink()
    assert not seen_by_nobody()
    made.close()
    made.listener.close()


@pytest.mark.lab
def test_a_user_without_a_keeper_is_refused(lab: Lab) -> None:
    """Else it would run as root, and who asked for nobody not know."""
    home, name = lab.namespace("home"), lab.interface()
    argv = (sys.executable, "-m", "wgfast", "-f", name)
    done = home.run(*argv, env={"WGFAST_USER": "nobody"}, check=False, timeout=20)
    assert done.returncode == 1
    assert "WGFAST_USER=nobody" in done.stderr
    assert not home.has_link(name)
