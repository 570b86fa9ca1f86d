"""What keeps `wgfast up` from its work: said as wg-quick says it, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab.process import run, wait_until
from lab.topology import Lab
from lab.traffic import udp_socket
from quickhost import ADDRESS, V4, WGFAST, Host, interface, peer, resolving_by

from wgfast import quick
from wgfast.quick import resolvconf_file

pytestmark = pytest.mark.lab


@pytest.fixture
def host(lab: Lab) -> Host:
    return Host.of(lab, "quick")


# ---- what is in the way ----


def test_an_address_that_another_interface_has_is_mentioned(host: Host) -> None:
    path = host.write(interface("Address = 192.0.2.1/32"))
    done = host.quick("wgfast", "up", path)
    assert done.returncode == 0
    assert "[!] wire0 has the address 192.0.2.1 as well" in done.stderr
    assert host.quick("wgfast", "down", path).returncode == 0


@dataclass(frozen=True)
class Obstacle:
    text: str
    message: str
    prepare: str = ""  # a shell command run before
    environ: tuple[tuple[str, str], ...] = ()
    status: int = 0  # where wg-quick does not do the same


OBSTACLES = {
    "a hook fails": Obstacle(interface(ADDRESS, "PostUp = exit 7"), "PostUp failed with exit status 7"),
    "a first hook fails": Obstacle(interface("PreUp = false"), "PreUp failed with exit status 1"),
    "a hook hangs": Obstacle(
        interface(ADDRESS, "PostUp = sleep 60"),
        "has not ended within 0.3 s",
        environ=(("WGFAST_HOOK_TIMEOUT", "0.3"),),
        status=124,
    ),
    "a route is taken": Obstacle(
        interface(ADDRESS, "Table = 77") + peer(0, "10.9.0.0/16"),
        "there is such a route already",
        "ip route add 10.9.0.0/16 dev wire0 table 77",
    ),
    "no such table": Obstacle(interface(ADDRESS, "Table = nosuch") + peer(0, "10.9.0.0/16"), "'nosuch'"),
    "too small for IPv6": Obstacle(
        interface("Address = fd66::1/64", "MTU = 1200") + peer(0, "fd09::/48"), "MTU below 1280"
    ),
    "no IPv6": Obstacle(
        interface("Address = fd66::1/64"),
        "is IPv6 switched off?",
        "sysctl -q net.ipv6.conf.default.disable_ipv6=1",
    ),
    "a resolver that is not there": Obstacle(
        interface(ADDRESS) + peer(0, "10.9.0.0/16", "Endpoint = vpn.example:51820"),
        "Endpoint = vpn.example:51820: Temporary failure in name resolution",
        "RESOLVE 192.0.2.1",
        environ=(("WG_ENDPOINT_RESOLUTION_RETRIES", "0"),),
    ),
    "a bad file": Obstacle(interface("Address = 10.66.0.999/24", "MTU = x"), "MTU: 'x'", status=1),
    "a port in use": Obstacle(
        interface(ADDRESS, "ListenPort = 51999"), "another program has that UDP port", "HOLD 51999", status=2
    ),
}


@pytest.mark.parametrize("obstacle", OBSTACLES.values(), ids=OBSTACLES.keys())
def test_what_fails_leaves_nothing_behind(host: Host, obstacle: Obstacle) -> None:
    with contextlib.ExitStack() as stack:
        if obstacle.prepare.startswith("HOLD"):
            port = int(obstacle.prepare.split()[1])
            stack.enter_context(udp_socket(host.namespace, "0.0.0.0", port))
        elif obstacle.prepare.startswith("RESOLVE"):
            stack.enter_context(resolving_by(host.namespace, obstacle.prepare.split()[1]))
        elif obstacle.prepare:
            host.namespace.run("sh", "-c", obstacle.prepare)
        before = host.state()
        path = host.write(obstacle.text)
        status = obstacle.status
        if not status:
            status = host.quick("wg-quick", "up", path, **dict(obstacle.environ)).returncode
            assert status != 0
            wait_until(host.is_gone, "wg-quick's daemon ended")
        done = host.quick("wgfast", "up", path, **dict(obstacle.environ))
        assert obstacle.message in done.stderr
        assert "Traceback" not in done.stderr
        assert done.returncode == status, done.stderr
        assert host.is_gone()
        after = host.state()
        after["sysctls"] = [line for line in after["sysctls"] if host.name not in line]
        assert after == before


def test_wrong_states_are_named_as_wg_quick_names_them(host: Host) -> None:
    path = host.write(interface(ADDRESS))
    for program in ("wg-quick", "wgfast"):
        done = host.quick(program, "down", path)
        assert done.returncode == 1
        assert f"`{host.name}' is not a WireGuard interface" in done.stderr
        done = host.quick(program, "save", path)
        assert done.returncode == 1
        assert f"`{host.name}' is not a WireGuard interface" in done.stderr
        done = host.quick(program, "up", "no-such-one")
        assert done.returncode == 1
        assert "`/etc/wireguard/no-such-one.conf' does not exist" in done.stderr
        done = host.quick(program, "up", host.write("", "much-too-long-a-name"))
        assert done.returncode == 1
        assert "The config file must be a valid interface name, followed by .conf" in done.stderr
    assert host.quick("wgfast", "up", path).returncode == 0
    before = host.state()
    for program in ("wg-quick", "wgfast"):
        done = host.quick(program, "up", path)
        assert done.returncode == 1
        assert f"`{host.name}' already exists" in done.stderr
    assert f"`wgfast down {path}` takes it down" in done.stderr
    assert host.state() == before
    assert host.quick("wgfast", "down", path).returncode == 0


def test_without_the_rights_or_the_means(host: Host) -> None:
    path = host.write(interface(ADDRESS) + peer(0, "0.0.0.0/0", V4))
    before = host.state()

    def up(*wrapper: str) -> subprocess.CompletedProcess[str]:
        done = host.namespace.run(*wrapper, *WGFAST, "up", str(path), check=False, timeout=30)
        assert "Traceback" not in done.stderr
        assert host.state() == before
        return done

    done = up("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    assert done.returncode == 1
    assert "wgfast up: this takes CAP_NET_ADMIN: run it as root, as in `sudo wgfast up" in done.stderr
    done = up("unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev/net; exec "$@"', "-")
    assert done.returncode == 1
    assert "there is no /dev/net/tun: `modprobe tun`" in done.stderr
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin")
    done = up("unshare", "-m", "sh", "-c", f'mount --bind /dev/null {nft}; exec "$@"', "-")
    assert done.returncode == 127
    assert "install nftables" in done.stderr


def test_where_no_sysctl_can_be_written(host: Host) -> None:
    """As in containers. It matters only beside a strict reverse path filter."""
    path = host.write(interface(ADDRESS) + peer(0, "0.0.0.0/0", V4))
    readonly = 'mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec "$@"'
    before: dict[str, Any] = {}
    for strict in (1, 0):
        host.namespace.sysctl("net/ipv4/conf/wire0/rp_filter", strict)
        before = host.state()
        argv = ("unshare", "-m", "sh", "-c", readonly, "-", *WGFAST, "up", str(path))
        done = host.namespace.run(*argv, check=False, timeout=30)
        assert done.returncode == strict, done.stderr
        if strict:
            assert "start the container with --sysctl net.ipv4.conf.all.src_valid_mark=1" in done.stderr
            assert host.state() == before
    assert host.quick("wgfast", "down", path).returncode == 0
    assert host.state() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_undoes_what_was_done(host: Host, number: int) -> None:
    mark = host.directory / "reached"
    path = host.write(
        interface(ADDRESS, f"PostUp = touch {mark}; sleep 60") + peer(0, "0.0.0.0/0, 10.9.0.0/16", V4)
    )
    before = host.state()
    process = host.namespace.spawn(*WGFAST, "up", str(path))
    wait_until(mark.exists, "the hook runs", 10)
    process.signal(number)
    assert process.wait(10) == 128 + number
    assert host.is_gone()
    assert host.state() == before


class InjectedError(Exception):
    pass


def test_failing_at_each_step_leaves_nothing_behind(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a library, in this process; after the last step the interface is up, and down() is the undoing."""
    resolv = host.directory / "resolv.conf"
    resolv.write_text("nameserver 192.0.2.53\n")
    monkeypatch.setattr(resolvconf_file, "PATH", str(resolv))
    monkeypatch.setattr(resolvconf_file, "KEPT", f"{resolv}.wgfast-")
    lines = (ADDRESS, "DNS = 10.66.0.53", "PreUp = true", "PostUp = true")
    path = host.write(interface(*lines) + peer(0, "0.0.0.0/0, 10.9.0.0/16", V4))
    before = host.state()
    with host.namespace.entered():
        steps = _fail_at_each(str(path), lambda: host.state() == before)
        assert steps >= 12
        quick.down(str(path))
    assert host.state() == before
    assert sorted(os.listdir(host.directory)) == sorted([path.name, resolv.name])
    assert resolv.read_text() == "nameserver 192.0.2.53\n"


def _fail_at_each(path: str, is_as_before: Callable[[], bool]) -> int:
    for number in range(1, 100):
        seen = 0

        def fail(mark: str, text: str, number: int = number) -> None:
            nonlocal seen
            seen += mark == "#"
            if seen == number:
                raise InjectedError(text)

        failed_before = ""
        try:
            quick.up(path, report=fail)
        except InjectedError as failure:
            failed_before = str(failure)
        if not failed_before:
            return number - 1
        assert is_as_before(), f"failed before {failed_before}"
    raise AssertionError("never comes to an end")


# ---- after a crash ----


def test_what_a_dead_daemon_left_is_in_nobodys_way(host: Host) -> None:
    """Rules, netfilter's and resolv.conf outlive the interface; the next `up` begins anew."""
    with resolving_by(host.namespace, "192.0.2.53"):
        before = host.state()
        path = host.write(
            interface(ADDRESS, "Address = fd66::1/64", "DNS = 10.66.0.53") + peer(0, "0.0.0.0/0, ::/0")
        )
        assert host.quick("wgfast", "up", path).returncode == 0
        expected = host.state()
        for again in (True, False):
            run(["kill", "-KILL", *_pids(host)])
            wait_until(lambda: not host.namespace.has_link(host.name), "the interface is gone")
            if again:
                done = host.quick("wgfast", "up", path)
                assert done.returncode == 0, done.stderr
                assert host.state() == expected
        done = host.quick("wgfast", "down", path)
        assert done.returncode == 1
        assert "is not a WireGuard interface" in done.stderr
        assert host.state() == before


def _pids(host: Host) -> list[str]:
    """Of the daemon: a process of the namespace with the interface's name in its arguments."""
    found = []
    for pid in run(["ip", "netns", "pids", host.namespace.name]).stdout.split():
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if host.name.encode() in arguments:
            found.append(pid)
    return found
