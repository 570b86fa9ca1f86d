"""The life of a daemon: how it starts, what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct

import pytest
from lab import uapi
from lab.end import End
from lab.process import TOKEN_VARIABLE, run, wait_until
from lab.programs import PEER, SUBJECT, beyond_peer
from lab.topology import Lab, Tunnel
from lab.traffic import background_ping, wait_ping

pytestmark = pytest.mark.lab


def single(lab: Lab) -> End:
    return lab.end(lab.namespace("alone"), SUBJECT)


@beyond_peer("stays in its parent's session")
def test_the_command_returns_when_the_socket_answers(lab: Lab) -> None:
    """No waiting, no second try: what a script does next has to work."""
    end = single(lab)
    assert end.daemonise() == 0
    assert uapi.answers(end.interface)
    assert end.namespace.has_link(end.interface)
    assert f"interface: {end.interface}" in end.wg("show")
    (pid,) = end.pids
    # A daemon has no controlling terminal, and holds no directory that somebody may unmount.
    assert os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_foreground_by_environment(lab: Lab) -> None:
    end = single(lab)
    argv = (*end.implementation.argv, end.interface)
    process = end.namespace.spawn(*argv, env={"WG_PROCESS_FOREGROUND": "1", TOKEN_VARIABLE: end.interface})
    wait_until(lambda: uapi.answers(end.interface), "the socket answers")
    assert process.returncode is None
    assert end.pids == [process.pid]
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    end.wait_gone()


@beyond_peer("now and then does not heed signals yet when the command returns")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("foreground", [True, False], ids=["foreground", "daemon"])
def test_a_signal_ends_it(lab: Lab, number: signal.Signals, foreground: bool) -> None:
    end = single(lab)
    if foreground:
        end.start()
    else:
        assert end.daemonise() == 0
    os.kill(end.pid, number)
    end.wait_gone()
    if end.process:
        assert end.process.wait() == 0


def running(lab: Lab) -> Tunnel:
    tunnel = lab.tunnel(SUBJECT, PEER)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    return tunnel


@pytest.mark.parametrize("how", ["link-deleted", "SIGTERM"])
def test_it_ends_under_traffic(lab: Lab, how: str) -> None:
    tunnel = running(lab)
    end = tunnel.initiator
    traffic = background_ping(end.namespace, tunnel.responder.address, interval=0.002)
    inward = background_ping(tunnel.responder.namespace, end.address, interval=0.002)
    if how == "SIGTERM":
        os.kill(end.pid, signal.SIGTERM)
    else:
        end.namespace.ip(f"link del {end.interface}")
    end.wait_gone()
    assert end.process is not None
    assert end.process.wait() == 0
    traffic.stop()
    inward.stop()


def test_deleting_an_idle_interface_ends_the_daemon(lab: Lab) -> None:
    end = single(lab)
    assert end.daemonise() == 0
    end.namespace.ip(f"link del {end.interface}")
    end.wait_gone()


@beyond_peer("now and then does not watch its socket yet when the command returns")
def test_removing_the_socket_ends_the_daemon(lab: Lab) -> None:
    """wg-quick and scripts of old do that instead of a signal."""
    end = single(lab)
    assert end.daemonise() == 0
    uapi.socket_path(end.interface).unlink()
    end.wait_gone()


def test_a_deleted_namespace_ends_the_daemon(lab: Lab) -> None:
    """The interface goes with the namespace it was moved to."""
    end = single(lab)
    assert end.daemonise() == 0
    elsewhere = lab.namespace("elsewhere")
    end.namespace.ip(f"link set {end.interface} netns {elsewhere.name}")
    elsewhere.close()
    end.wait_gone()


def test_a_stale_socket_is_taken_over(lab: Lab) -> None:
    end = single(lab)
    assert end.daemonise() == 0
    (pid,) = end.pids
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not end.pids, "the killed daemon is gone")
    assert uapi.socket_path(end.interface).exists()
    wait_until(lambda: not end.namespace.has_link(end.interface), "its interface is gone")
    assert end.daemonise() == 0
    assert end.pid != pid
    assert uapi.answers(end.interface)


def test_a_live_socket_is_refused(lab: Lab) -> None:
    """Another daemon of the same name, even in another namespace, and the first goes on."""
    end = single(lab)
    assert end.daemonise() == 0
    pid = end.pid
    end.set_private_key(end.private_key)
    again = lab.end(lab.namespace("again"), SUBJECT)
    again.interface = end.interface
    assert again.daemonise() != 0
    assert not again.namespace.has_link(end.interface)
    assert end.pids == [pid]
    assert end.wg("show", "public-key").strip() == end.public_key


def test_the_name_of_another_interface_is_refused(lab: Lab) -> None:
    left, _ = lab.cabled()
    end = lab.end(left, SUBJECT)
    left.ip(f"link set wire0 down name {end.interface}")
    assert end.daemonise() != 0
    # The command has failed; what it forked may take a moment more to end.
    wait_until(lambda: not end.pids, "nothing of it still runs", 1.0)
    assert not uapi.socket_path(end.interface).exists()
    assert left.has_link(end.interface)


@beyond_peer("takes an empty name for any name")
@pytest.mark.parametrize("name", ["", "sixteen-letters-", "with/slash", "with blank", "..", "."])
def test_a_name_no_interface_can_have_is_refused(lab: Lab, name: str) -> None:
    end = single(lab)
    end.interface = name
    assert end.daemonise() != 0
    # The command has failed; what it forked may take a moment more to end.
    wait_until(lambda: not end.pids, "nothing of it still runs", 1.0)


@beyond_peer("prints a box")
def test_it_is_silent_when_told_so(lab: Lab) -> None:
    end = single(lab)
    end.start(log_level="silent")
    end.up()
    assert end.process is not None
    assert end.process.stop() == 0
    assert end.log == ""


IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x1, 0x1000, 0x4000


def open_tun(name: str, flags: int) -> int:
    """A new TUN interface in the namespace of the calling thread."""
    tunsetiff = 0x400454CA
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, tunsetiff, struct.pack("16sH22x", name.encode(), flags))
    return tun


def start_with_descriptors(end: End, flags: int) -> None:
    """Makes the TUN interface and the listening socket, and lets the daemon inherit both."""
    path = uapi.socket_path(end.interface)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with end.namespace.entered():
        tun = open_tun(end.interface, flags)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        handed = {"WG_TUN_FD": str(tun), "WG_UAPI_FD": str(listener.fileno())}
        end.process = end.namespace.spawn(
            *end.implementation.argv,
            *("-f", end.interface),
            env={**handed, TOKEN_VARIABLE: end.interface, "LOG_LEVEL": "verbose"},
            keep=(tun, listener.fileno()),
        )
    os.close(tun)


# Which form a handed-over interface has is its maker's choice, and TUNGETIFF tells: wireguard-go
# of 2022 expects packet information before each packet, later ones a virtio-net header.
@beyond_peer("of 2022 takes packet information only")
@pytest.mark.parametrize(
    "flags",
    [IFF_TUN, IFF_TUN | IFF_NO_PI, IFF_TUN | IFF_NO_PI | IFF_VNET_HDR],
    ids=["packet-information", "bare", "virtio-net-header"],
)
def test_an_interface_handed_over_by_descriptor(lab: Lab, flags: int) -> None:
    """WG_TUN_FD and WG_UAPI_FD: a parent made both, the daemon uses them, or says why it cannot."""
    left, right = lab.cabled()
    end, other = lab.end(left, SUBJECT), lab.end(right, PEER)
    start_with_descriptors(end, flags)
    assert end.process is not None
    process = end.process
    wait_until(lambda: process.returncode is not None or uapi.answers(end.interface), "an answer")
    if process.returncode is not None:
        assert process.returncode > 0
        assert "WG_TUN_FD" in end.log
        assert flags != IFF_TUN | IFF_NO_PI, "the plainest form is the least to ask for"
        return
    other.start()
    for one in (end, other):
        one.up()
    other.add_peer(end)
    end.add_peer(other, at="192.0.2.2:51820")
    wait_ping(left, other.address)


def test_of_two_at_once_one_wins(lab: Lab) -> None:
    first = single(lab)
    second = lab.end(lab.namespace("other"), SUBJECT)
    second.interface = first.interface
    processes = [
        end.namespace.spawn(
            *end.implementation.argv,
            *("-f", end.interface),
            env={TOKEN_VARIABLE: end.interface},
        )
        for end in (first, second)
    ]
    wait_until(lambda: any(p.returncode is not None for p in processes), "one gives up")
    assert sum(p.returncode is None for p in processes) == 1
    wait_until(lambda: uapi.answers(first.interface), "the other one answers")


def test_wg_show_interfaces_lists_it(lab: Lab) -> None:
    end = single(lab)
    assert end.daemonise() == 0
    assert end.interface in run(["wg", "show", "interfaces"]).stdout.split()
