"""`wgfast up` and `down` beside wg-quick's: the same interfaces, addresses, routes, rules and hooks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from lab.process import wait_until
from lab.topology import Lab, genkey
from quickhost import ADDRESS, NARROW, NOWHERE, PEERS, V4, V6, Host, interface, peer, resolving_by

from wgfast.config import PeerSection, parse

pytestmark = pytest.mark.lab


@pytest.fixture
def host(lab: Lab) -> Host:
    return Host.of(lab, "quick")


CONFIGURATIONS = {
    "both families": interface("Address = 10.66.0.1/24, fd66::1/64", "ListenPort = 51888")
    + peer(0, "10.66.0.2/32, fd66::2/128, 10.9.0.0/16, fd09::/48", V6),
    "covered by an address": interface("Address = 10.66.0.1/24", "Address = fd66::1/64", "MTU = 1380")
    + peer(0, "10.66.0.7/32, 10.66.0.0/25, 10.66.0.0/16, fd66::7/128, fd66::/32"),
    "bare addresses": interface("Address = 10.66.0.1, fd66::1") + peer(0, "10.66.0.2, fd66::2", NARROW),
    "nested": interface("Address = 10.66.0.1/32")
    + peer(0, "10.0.0.0/8, 172.16.0.0/12", V4)
    + peer(1, "10.1.0.0/16, 10.66.0.0/24", NARROW)
    + peer(2, "10.1.2.0/24"),
    "halves": interface("Address = 10.66.0.1/24") + peer(0, "0.0.0.0/1, 128.0.0.0/1, ::/1, 8000::/1", V4),
    "default v4": interface("Address = 10.66.0.1/24") + peer(0, "0.0.0.0/0", V4),
    "default both": interface("Address = 10.66.0.1/24, fd66::1/64", "Address = 10.67.0.1/32")
    + peer(0, "0.0.0.0/0, ::/0, 10.8.0.0/16", V4)
    + peer(1, "10.66.0.9/32", NARROW),
    "default with a mark": interface("Address = 10.66.0.1/24", "FwMark = 0x1234", "Table = auto")
    + peer(0, "0.0.0.0/0, ::/0", V4),
    "table off": interface("Address = 10.66.0.1/24", "Table = off") + peer(0, "0.0.0.0/0, 10.9.0.0/16", V4),
    "table number": interface("Address = 10.66.0.1/24, fd66::1/64", "Table = 1234")
    + peer(0, "0.0.0.0/0, ::/0, 10.9.0.0/16, 10.66.0.3/32", V4),
    "table name": interface("Address = 10.66.0.1/24", "Table = default")
    + peer(0, "0.0.0.0/0, 10.9.0.0/16", V4),
    "endpoint without a route": interface("Address = 10.66.0.1/24") + peer(0, "10.9.0.0/16", NOWHERE),
}


@pytest.mark.parametrize("text", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_up_leaves_what_wg_quick_leaves_and_down_nothing(lab: Lab, text: str) -> None:
    theirs, ours = Host.of(lab, "theirs"), Host.of(lab, "ours")
    ours.name = theirs.name
    before = ours.state()
    assert before == theirs.state()
    done = theirs.quick("wg-quick", "up", theirs.write(text))
    assert done.returncode == 0, done.stderr
    expected, settings = theirs.state(), theirs.showconf()
    done = theirs.quick("wg-quick", "down", theirs.directory / f"{theirs.name}.conf")
    assert done.returncode == 0, done.stderr
    wait_until(theirs.is_gone, "wg-quick's daemon ended")

    done = ours.quick("wgfast", "up", ours.write(text))
    assert done.returncode == 0, done.stderr
    found = ours.state()
    assert ours.showconf() == settings
    assert found == expected
    done = ours.quick("wgfast", "down", ours.directory / f"{ours.name}.conf")
    assert done.returncode == 0, done.stderr
    assert ours.is_gone()
    assert ours.state() == before


@pytest.mark.parametrize("programs", [("wg-quick", "wgfast"), ("wgfast", "wg-quick")], ids="-then-".join)
def test_one_takes_down_what_the_other_brought_up(host: Host, programs: tuple[str, str]) -> None:
    before = host.state()
    path = host.write(CONFIGURATIONS["default both"])
    for program, command in zip(programs, ("up", "down"), strict=True):
        done = host.quick(program, command, path)
        assert done.returncode == 0, done.stderr
    wait_until(host.is_gone, "the daemon ended")
    # wg-quick knows nothing of putting a sysctl back.
    after = host.state()
    note = Path("/run/wgfast") / f"src_valid_mark.{Path('/run/netns', host.namespace.name).stat().st_ino}"
    assert note.exists() == (programs[0] == "wgfast")
    note.unlink(missing_ok=True)
    for state in (before, after):
        state["sysctls"] = [line for line in state["sysctls"] if "src_valid_mark" not in line]
    assert after == before


def test_two_default_routes_come_and_go_in_any_order(host: Host) -> None:
    other = Host(host.lab, host.namespace, f"{host.name}b"[-15:], host.directory)
    before = host.state()
    states = []
    paths = [one.write(CONFIGURATIONS["default v4"], one.name) for one in (host, other)]
    for path in paths:
        assert host.quick("wgfast", "up", path).returncode == 0
        states.append(host.state())
    assert states[1]["rules4"] != states[0]["rules4"]
    assert host.quick("wgfast", "down", paths[0]).returncode == 0
    rules = host.namespace.show("-4", "rule")
    assert "lookup 51821" in rules
    assert "lookup 51820" not in rules
    assert rules.count("suppress_prefixlength 0") == 1
    assert "src_valid_mark = 1" in "\n".join(host.state()["sysctls"])
    assert host.quick("wgfast", "down", paths[1]).returncode == 0
    assert host.state() == before


def test_a_mark_that_was_changed_takes_no_other_tunnels_rules_away(host: Host) -> None:
    """It is the daemon that says its mark, and that one may have been taken over: without the rules of the
    other tunnel, what should go through it would leave in the clear."""
    other = Host(host.lab, host.namespace, f"{host.name}b"[-15:], host.directory)
    before = host.state()
    paths = [one.write(CONFIGURATIONS["default v4"], one.name) for one in (host, other)]
    for path in paths:
        assert host.quick("wgfast", "up", path).returncode == 0
    host.namespace.run("wg", "set", host.name, "fwmark", "51821")
    assert host.quick("wgfast", "down", paths[0]).returncode == 0
    rules = host.namespace.show("-4", "rule")
    assert "not from all fwmark 0xca6d lookup 51821" in rules
    assert "lookup 51820" not in rules
    assert rules.count("suppress_prefixlength 0") == 1
    assert host.quick("wgfast", "down", paths[1]).returncode == 0
    assert host.state() == before


def test_a_sysctl_that_was_on_stays_on(host: Host) -> None:
    host.namespace.sysctl("net/ipv4/conf/all/src_valid_mark", 1)
    before = host.state()
    path = host.write(CONFIGURATIONS["default v4"])
    for command in ("up", "down"):
        assert host.quick("wgfast", command, path).returncode == 0
    assert host.state() == before


HOOK = (
    "echo {key} %i >> {log}; set +o >> {log}; shopt -p >> {log}; env >> {log}; ip link show %i >> {log} 2>&1"
)


def test_hooks_come_in_wg_quicks_order_with_its_environment(host: Host) -> None:
    log = host.directory / "log"
    lines = [
        f"{key} = {HOOK.format(key=f'{key} {number}', log=log)} || true"
        for number in (1, 2)
        for key in ("PostDown", "PreUp", "PostUp", "PreDown")
    ]
    path = host.write(interface("Address = 10.66.0.1/24", *lines))
    logs = []
    for program in ("wg-quick", "wgfast"):
        for command in ("up", "down"):
            done = host.quick(program, command, path)
            assert done.returncode == 0, done.stderr
        wait_until(host.is_gone, "the daemon ended")
        logs.append(_comparable(log.read_text()))
        log.unlink()
    assert logs[0] == logs[1]
    assert sum(line.startswith(("PreUp", "PostUp", "PreDown", "PostDown")) for line in logs[0]) == 8


def _comparable(log: str) -> list[str]:
    """Without what is the shell's own or differs by the place of the program."""
    own = ("PATH=", "SHLVL=", "_=", "PWD=", "OLDPWD=", "    link/")
    lines = [line for line in log.splitlines() if not line.startswith(own)]
    return [line.partition(": ")[2] if ": <" in line else line for line in lines]


# ---- DNS ----


RESOLVCONF = """#!/bin/sh
echo "$@" >> {directory}/resolvconf.log
case $1 in
-a) tee -a {directory}/resolvconf.log > {directory}/servers.$2 ;;
-l) cat {directory}/servers.$2 ;;
-d) rm -f {directory}/servers.$2 ;;
esac
"""
WITH_DNS = interface("Address = 10.66.0.1/24", "DNS = 10.66.0.53, corp.example", "DNS = fd66::53")


def test_resolvconf_is_asked_as_wg_quick_asks_it(host: Host) -> None:
    program = host.directory / "resolvconf"
    program.write_text(RESOLVCONF.format(directory=host.directory))
    program.chmod(0o755)
    path = host.write(WITH_DNS)
    environ = {"PATH": f"{host.directory}:{os.environ['PATH']}"}
    log = host.directory / "resolvconf.log"
    asked = []
    for name in ("wg-quick", "wgfast"):
        for command in ("up", "down"):
            done = host.quick(name, command, path, **environ)
            assert done.returncode == 0, done.stderr
        wait_until(host.is_gone, "the daemon ended")
        asked.append(log.read_text())
        log.unlink()
    assert asked[0] == asked[1]
    assert "corp.example" in asked[0]

    program.write_text("#!/bin/sh\necho 'no bus' >&2; exit 3\n")
    before = host.state()
    done = host.quick("wgfast", "up", path, **environ)
    assert done.returncode == 3
    assert "no bus: see that the system's resolver runs, or remove the DNS line" in done.stderr
    assert host.state() == before


def test_resolv_conf_is_replaced_and_put_back(host: Host) -> None:
    with resolving_by(host.namespace, "192.0.2.53"):
        before = host.state()
        path = host.write(WITH_DNS)
        assert host.quick("wgfast", "up", path).returncode == 0
        lines = host.state()["resolv.conf"]
        assert lines[0].startswith(f"# wgfast {host.name}:")
        assert lines[1:] == ["nameserver 10.66.0.53", "nameserver fd66::53", "search corp.example"]
        assert host.quick("wgfast", "down", path).returncode == 0
        assert host.state() == before


def test_a_name_is_resolved_for_the_mtu_given_to_the_daemon_and_saved(host: Host) -> None:
    with resolving_by(host.namespace, "192.0.2.1"):
        named = peer(0, "10.9.0.0/16", "Endpoint = vpn.example-vpn.dev:51820")
        path = host.write(interface(ADDRESS, "ListenPort = 51777") + named)
        assert host.quick("wg-quick", "up", path).returncode == 0
        expected = host.state()
        assert host.quick("wg-quick", "down", path).returncode == 0
        wait_until(host.is_gone, "the daemon ended")
        assert host.quick("wgfast", "up", path).returncode == 0
        assert host.state() == expected
        shown = host.namespace.run("wg", "show", host.name, "endpoints").stdout
        assert shown.split() == [PEERS[0], "198.51.100.7:51820"]
        text = path.read_text()
        assert host.quick("wgfast", "save", path).returncode == 0
        assert path.read_text() == text
        assert host.quick("wgfast", "down", path).returncode == 0


# ---- save ----


def test_save_says_what_wg_quick_says_and_keeps_the_rest(host: Host) -> None:
    text = (
        "# the office\n"
        + interface("Address = 10.66.0.1/24 # and this", "MTU = 1400", "PostUp = true", "ListenPort = 51777")
        + "\n# Name = gone soon\n"
        + peer(0, "10.66.0.2/32", V4)
        + "\n[Peer]\n# Name = stays\n"
        + f"publickey={PEERS[1]}\nAllowedIPs=10.66.0.3/32  , 10.66.0.4/32\n"
    )
    path = host.write(text)
    assert host.quick("wgfast", "up", path).returncode == 0
    unchanged = host.quick("wgfast", "save", path)
    assert unchanged.returncode == 0, unchanged.stderr
    assert path.read_text() == text
    psk = host.directory / "psk"
    psk.write_text(genkey() + "\n")
    host.namespace.run("wg", "set", host.name, "peer", PEERS[0], "remove")
    host.namespace.run("wg", "set", host.name, "listen-port", "51778", "fwmark", "0x77")
    change = ("peer", PEERS[1], "allowed-ips", "10.66.0.4/32,10.66.0.5/32", "endpoint", "192.0.2.7:1")
    host.namespace.run("wg", "set", host.name, *change)
    new = ("peer", PEERS[2], "preshared-key", str(psk), "persistent-keepalive", "25")
    host.namespace.run("wg", "set", host.name, *new, "allowed-ips", "fd66::9/128")
    host.namespace.add_address(host.name, "10.66.1.1/32")

    assert host.quick("wgfast", "save", path).returncode == 0
    saved = path.read_text()
    assert "# the office" in saved
    assert "# Name = stays" in saved
    assert "gone soon" not in saved
    assert path.stat().st_mode & 0o777 == 0o600
    ours = parse(saved, "ours")
    assert host.quick("wg-quick", "save", path).returncode == 0
    theirs = parse(path.read_text(), "theirs")
    theirs.interface.addresses = [
        address for address in theirs.interface.addresses if not address.is_link_local
    ]
    assert ours.interface == theirs.interface
    assert _by_key(ours.peers) == _by_key(theirs.peers)
    assert host.quick("wgfast", "down", path).returncode == 0


def _by_key(peers: list[PeerSection]) -> dict[bytes, PeerSection]:
    return {
        each.public_key: replace(each, name=None, allowed_ips=sorted(each.allowed_ips, key=str))
        for each in peers
    }


def test_down_saves_if_it_is_told_to(host: Host) -> None:
    path = host.write(interface(ADDRESS, "SaveConfig = true") + peer(0, "10.66.0.2/32"))
    assert host.quick("wgfast", "up", path).returncode == 0
    host.namespace.run("wg", "set", host.name, "peer", PEERS[1], "allowed-ips", "10.66.0.3/32")
    assert host.quick("wgfast", "down", path).returncode == 0
    saved = path.read_text()
    assert PEERS[1] in saved
    assert "ListenPort = " in saved
    assert host.quick("wgfast", "up", path).returncode == 0
    assert host.quick("wgfast", "down", path).returncode == 0
    assert path.read_text() == saved
