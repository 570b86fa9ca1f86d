"""`wgfast run`: a service in the foreground, its packets carried by a process without privileges."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from lab.process import Process, run, wait_until
from lab.programs import SUBJECT, require
from lab.topology import Lab
from lab.traffic import exchange, ping, wait_ping
from quickhost import ADDRESS, V4, WGFAST, Host, interface, peer

from wgfast import notify as notify_module
from wgfast.notify import notify, watchdog_interval
from wgfast.quick.service import Service

UNIT = Path(__file__).parent.parent / "examples/systemd/wgfast@.service"
lab_only = pytest.mark.lab


@pytest.fixture
def host(lab: Lab) -> Host:
    return Host.of(lab, "run")


def answers(host: Host) -> bool:
    return host.name in host.namespace.run("wg", "show", "interfaces").stdout.split()


def start(host: Host, path: Path, *before: str, **environ: str) -> Process:
    return host.namespace.spawn(*before, *WGFAST, "run", str(path), env=environ)


def end(service: Process, number: signal.Signals = signal.SIGTERM) -> int:
    service.signal(number)
    return service.wait(20)


def daemon_of(service: Process) -> int:
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text().split()
    (pid,) = (int(child) for child in children if b"\0-f\0" in command_line(child))
    return pid


def command_line(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # a hook that has ended


def capabilities(pid: int) -> int:
    (line,) = (s for s in Path(f"/proc/{pid}/status").read_text().splitlines() if s.startswith("CapEff"))
    return int(line.split()[1], 16)


FULL = interface(ADDRESS, "PostUp = echo up %i", "PreDown = echo going", "PostDown = echo down %i") + peer(
    0, "0.0.0.0/0", V4
)


# ---- a service's life ----


@lab_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_stays_until_it_is_told_and_leaves_nothing(host: Host, number: signal.Signals) -> None:
    before = host.state()
    service = start(host, host.write(FULL))
    wait_until(lambda: f"up {host.name}" in service.output, "it is up", 15)
    assert host.state()["rules4"] != before["rules4"]
    assert capabilities(daemon_of(service)) == 0
    assert end(service, number) == 0
    assert host.is_gone()
    assert host.state() == before
    shown = [line for line in service.output.splitlines() if not line.startswith("[")]
    assert shown == [f"up {host.name}", "going", f"down {host.name}"]


@pytest.mark.parametrize("step", range(30))
def test_a_signal_is_heard_whenever_it_comes(step: int) -> None:
    """Also between the steps of waiting for it, where a handler must not wait for what it has interrupted."""
    nothing: Any = None
    service = Service(nothing, nothing)
    steps = itertools.count()

    def at_each_line(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
        if event == "line" and next(steps) == step:
            signal.raise_signal(signal.SIGHUP)
        return at_each_line

    def give_up(number: int, _: object) -> None:
        raise TimeoutError

    alarm, hangup = signal.signal(signal.SIGALRM, give_up), signal.getsignal(signal.SIGHUP)
    try:
        signal.setitimer(signal.ITIMER_REAL, 10)
        signal.signal(signal.SIGHUP, service._ask)
        threading.Timer(0.5, service._wake).start()  # where there are fewer steps than that
        sys.settrace(at_each_line)
        service._wait()
    finally:
        sys.settrace(None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        signal.signal(signal.SIGHUP, hangup)
    assert service._asked or next(steps) <= step


@lab_only
def test_it_carries_traffic_and_marks_it(lab: Lab) -> None:
    """With nothing but CAP_NET_ADMIN, and the packets by nobody."""
    require("setpriv")
    left, right = lab.cabled()
    other = lab.end(right, SUBJECT).start()
    other.up()
    key, name = run(["wg", "genkey"]).stdout.strip(), lab.interface()
    public = run(["wg", "pubkey"], stdin=key).stdout.strip()
    other.set("peer", public, "allowed-ips", "10.77.0.9/32")
    host = Host(lab, left, name, lab.directory)
    path = host.write(
        f"[Interface]\nPrivateKey = {key}\nAddress = 10.77.0.9/24\nFwMark = 0x42\n"
        f"[Peer]\nPublicKey = {other.public_key}\nAllowedIPs = 10.77.0.1/32\nEndpoint = 192.0.2.2:51820\n"
    )
    caps = ("--bounding-set", "-all,+net_admin,+setuid,+setgid", "--inh-caps", "-all")
    service = left.spawn("setpriv", *caps, *WGFAST, "run", "--user", "nobody", str(path))
    wait_until(lambda: answers(host), "it answers", 15)
    wait_ping(left, other.address)
    exchange(left, right, other.address)
    assert capabilities(service.pid) == (1 << 12) | (1 << 6) | (1 << 7)
    daemon = daemon_of(service)
    assert capabilities(daemon) == 0
    assert os.stat(f"/proc/{daemon}").st_uid == 65534
    left.ip("rule add fwmark 0x42 blackhole")
    assert ping(left, other.address, wait=0.3).received == 0
    run(["wg", "set", name, "fwmark", "0", "listen-port", "50505"])
    wait_ping(left, other.address)
    assert end(service) == 0
    assert not left.has_link(name)


@lab_only
def test_the_daemon_dies_and_all_of_it_goes(host: Host) -> None:
    before = host.state()
    service = start(host, host.write(FULL))
    wait_until(lambda: f"up {host.name}" in service.output, "it is up", 15)
    os.kill(daemon_of(service), signal.SIGKILL)
    assert service.wait(20) == 1
    assert "its daemon has ended" in service.output
    assert service.output.count(f"\ndown {host.name}\n") == 1
    assert host.state() == before


@lab_only
def test_interrupted_when_the_daemon_has_died(host: Host) -> None:
    """Half a clean-up would leave rules and name servers behind."""
    before = host.state()
    hooks = ("PostDown = echo first; sleep 1; echo still", "PostDown = echo last")
    service = start(
        host, host.write(interface(ADDRESS, "PostUp = echo up", *hooks) + peer(0, "0.0.0.0/0", V4))
    )
    wait_until(lambda: "\nup\n" in service.output, "it is up", 15)
    os.kill(daemon_of(service), signal.SIGKILL)
    wait_until(lambda: "\nfirst\n" in service.output, "it cleans up", 15)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        service.signal(number)
    assert service.wait(20) == 1
    assert "\nstill\n" in service.output
    assert "\nlast\n" in service.output
    assert host.state() == before


@lab_only
def test_nobody_sees_what_it_does_any_more(host: Host, tmp_path: Path) -> None:
    """Its terminal was closed: half a way down would leave rules and name servers behind."""
    before = host.state()
    command = ("bash", "-c", 'exec "$@" 2>/dev/full', "-", *WGFAST, "run", str(host.write(FULL)))
    with listening(tmp_path / "notify") as told:
        service = host.namespace.spawn(*command, env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert told.recv(200).startswith(b"READY=1")
    assert end(service) == 0
    assert f"down {host.name}" in service.output
    assert host.state() == before


@lab_only
def test_a_port_that_it_could_never_open(host: Host) -> None:
    """Else the service is up, and hears nothing."""
    before = host.state()
    host.namespace.run("sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=1024")
    path = host.write(interface(ADDRESS, "ListenPort = 443", "PreUp = echo begun", "PostUp = echo up %i"))
    refused = host.namespace.run(*WGFAST, "run", str(path), check=False, timeout=20)
    assert refused.returncode == 2
    assert "ListenPort = 443" in refused.stderr
    assert "ip_unprivileged_port_start=443" in refused.stderr
    assert "begun" not in refused.stdout
    assert host.state() == before
    host.namespace.run("sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=443")
    service = start(host, path)
    wait_until(lambda: f"up {host.name}" in service.output, "it is up", 15)
    wait_until(lambda: ":443" in host.namespace.run("ss", "-lun").stdout, "it listens", 15)
    assert end(service) == 0


@lab_only
@pytest.mark.parametrize("hook", ["PreUp", "PostUp"])
def test_interrupted_on_the_way_up(host: Host, hook: str) -> None:
    before = host.state()
    service = start(
        host, host.write(interface(ADDRESS, f"{hook} = echo waiting; sleep 30") + peer(0, "0.0.0.0/0", V4))
    )
    wait_until(lambda: "\nwaiting" in service.output, "the hook runs", 15)
    assert end(service) == 128 + signal.SIGTERM
    assert host.state() == before
    assert host.is_gone()


@lab_only
def test_what_cannot_be_brought_up(host: Host) -> None:
    before = host.state()
    service = start(
        host,
        host.write(interface(ADDRESS, "PostUp = exit 3", "PostDown = echo never") + peer(0, "0.0.0.0/0", V4)),
    )
    assert service.wait(20) == 3
    assert "PostUp failed" in service.output
    assert "never\n" not in service.output.replace("echo never", "")
    assert host.state() == before
    wrong = host.namespace.run(*WGFAST, "run", "--user", "no-such-user", str(host.write(FULL)), check=False)
    assert wrong.returncode == 1
    assert "no-such-user" in wrong.stderr
    assert host.state() == before


# ---- systemd ----


@contextlib.contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end_:
        end_.bind(str(path))
        end_.settimeout(15)
        yield end_


@lab_only
def test_systemd_is_told(host: Host, tmp_path: Path) -> None:
    with listening(tmp_path / "notify") as told:
        service = start(
            host,
            host.write(interface(ADDRESS)),
            NOTIFY_SOCKET=str(tmp_path / "notify"),
            WATCHDOG_USEC="100000",
        )
        assert told.recv(200) == f"READY=1\nSTATUS={host.name} is up".encode()
        assert answers(host)
        for _ in range(3):
            assert told.recv(200) == b"WATCHDOG=1"
        daemon = daemon_of(service)
        os.kill(daemon, signal.SIGSTOP)  # it hangs: systemd is not told that all is well
        told.settimeout(0.5)
        with contextlib.suppress(TimeoutError):  # at most what was on its way
            assert [told.recv(200) for _ in range(3)] == []
        os.kill(daemon, signal.SIGCONT)
        told.settimeout(15)
        assert told.recv(200) == b"WATCHDOG=1"
        assert end(service) == 0
        while (last := told.recv(200)) == b"WATCHDOG=1":
            pass
        assert last == b"STOPPING=1"


def test_nobody_listens(tmp_path: Path) -> None:
    for where in ("", "relative", str(tmp_path / "nothing"), "@wgfast-nobody-is-here"):
        notify("READY=1", {"NOTIFY_SOCKET": where})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end_:
        end_.bind(f"\0wgfast-test-{os.getpid()}")
        notify("READY=1", {"NOTIFY_SOCKET": f"@wgfast-test-{os.getpid()}"})
        assert end_.recv(99) == b"READY=1"


def test_somebody_listens_and_never_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that waits for him for ever could not be ended."""
    monkeypatch.setattr(notify_module, "PATIENCE", 0.05)
    with listening(tmp_path / "notify") as told:
        for _ in range(2000):
            if not notify("WATCHDOG=1", {"NOTIFY_SOCKET": str(tmp_path / "notify")}):
                break
        else:
            pytest.fail("its queue has no end")
        assert told.recv(99) == b"WATCHDOG=1"


def test_when_the_watchdog_wants_to_hear() -> None:
    assert watchdog_interval({}) is None
    assert watchdog_interval({"WATCHDOG_USEC": "30000000"}) == 30
    assert watchdog_interval({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}) == 0.5
    for other in (
        {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "x"},
    ):
        assert watchdog_interval(other) is None


def test_the_unit_file_is_one(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("missing: systemd-analyze")
    text = UNIT.read_text().replace("/usr/local/bin/wgfast", shutil.which("true") or "")
    copy = tmp_path / "wgfast@wg0.service"
    copy.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "wgfast@" not in done.stderr, done.stderr
