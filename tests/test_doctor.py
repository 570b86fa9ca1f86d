"""The doctor's checks of the host, on trees of /proc and /sys made up for them, and what it prints here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from wgfast.cli import doctor
from wgfast.cli.doctor_network import (
    default_route,
    forwarding,
    ipv6,
    network_findings,
    reverse_path,
    udp_port,
)
from wgfast.cli.doctor_system import (
    clock,
    configurations,
    dns,
    existing,
    firewall,
    kernel_module,
    random_numbers,
    socket_buffer,
    system_findings,
)
from wgfast.cli.finding import Finding

WGFAST = [sys.executable, "-m", "wgfast"]
CONF = "proc/sys/net/ipv4/conf"
# Made by Linux for: default via 10.0.0.1 dev eth0 metric 100, another dev wlan0 metric 600, and a network.
ROUTES = """\
Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
wlan0	00000000	0100A8C0	0003	0	0	600	00000000	0	0	0
eth0	00000000	0100000A	0003	0	0	100	00000000	0	0	0
eth0	0000000A	00000000	0001	0	0	0	00FFFFFF	0	0	0
"""
# default via fe80::1 dev eth0, and what Linux puts there when there is no route: unreachable, dev lo.
ROUTES6 = """\
fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000002 00000000 00000003     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
"""  # noqa: E501 - the file's own lines


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def put(root: Path, path: str, content: str | int) -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{content}\n")
    return root


def needs_remedy(finding: Finding, state: str, *words: str) -> None:
    assert finding.state == state
    assert finding.remedy
    assert all(word in f"{finding.reason} {finding.remedy}" for word in words), finding


def is_fine(finding: Finding, state: str, *words: str) -> None:
    assert (finding.state, finding.remedy) == (state, "")
    assert all(word in finding.reason for word in words), finding


# ---- the network ----


@pytest.mark.parametrize(
    ("version", "path", "key"),
    [
        ("IPv4", "proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward=1"),
        ("IPv6", "proc/sys/net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding=1"),
    ],
)
def test_forwarding(root: Path, version: str, path: str, key: str) -> None:
    is_fine(forwarding(root, version), "unknown", path)
    needs_remedy(forwarding(put(root, path, 0), version), "no", key)
    is_fine(forwarding(put(root, path, 1), version), "yes")


@pytest.mark.parametrize(
    ("everywhere", "eth0", "marked", "state", "fine"),
    [
        (0, 0, 0, "off", True),
        (0, 2, 0, "loose", True),
        (2, 0, 0, "loose", True),
        (2, 1, 0, "loose", True),  # the larger one counts: loose
        (0, 1, 0, "strict", False),
        (1, 0, 0, "strict", False),
        (1, 2, 0, "loose", True),
        (1, 1, 1, "strict", True),
    ],
)
def test_the_reverse_path_filter(
    root: Path, everywhere: int, eth0: int, marked: int, state: str, fine: bool
) -> None:
    put(root, f"{CONF}/all/rp_filter", everywhere)
    put(root, f"{CONF}/all/src_valid_mark", marked)
    put(root, f"{CONF}/default/rp_filter", 1)
    put(root, f"{CONF}/lo/rp_filter", 1)
    put(root, f"{CONF}/eth0/rp_filter", eth0)
    found = reverse_path(root)
    assert found.state == state
    assert bool(found.remedy) != fine
    assert ("eth0" in found.reason) == (state == "strict")


def test_the_reverse_path_filter_of_no_tree(root: Path) -> None:
    is_fine(reverse_path(root), "unknown")


def test_ipv6(root: Path) -> None:
    needs_remedy(ipv6(root), "no", "ipv6.disable=1")
    put(root, "proc/net/if_inet6", "")
    is_fine(ipv6(root), "yes")
    needs_remedy(ipv6(put(root, "proc/sys/net/ipv6/conf/all/disable_ipv6", 1)), "no", "disable_ipv6=0")


def test_the_default_route_says_how_large_a_packet_may_be(root: Path) -> None:
    is_fine(default_route(root, "IPv4"), "none")
    put(root, "proc/net/route", ROUTES)
    is_fine(default_route(root, "IPv4"), "eth0", "cannot be read")
    put(root, "sys/class/net/eth0/mtu", 1500)
    is_fine(default_route(root, "IPv4"), "eth0", "MTU 1500", "1420")
    put(root, "sys/class/net/eth0/mtu", 1492)
    needs_remedy(default_route(root, "IPv4"), "eth0", "MTU = 1412 under [Interface]")
    put(root, "sys/class/net/eth0/mtu", 1300)
    needs_remedy(default_route(root, "IPv4"), "eth0", "MTU = 1220", "1280", "at least 1360")
    # A tunnel that carries everything leads to no endpoint.
    put(root, "sys/class/net/wlan0/mtu", 1500)
    is_fine(default_route(root, "IPv4", ["eth0"]), "wlan0")


def test_a_route_may_have_an_mtu_of_its_own(root: Path) -> None:
    put(root, "sys/class/net/eth0/mtu", 1500)
    put(root, "proc/net/route", ROUTES.replace("100\t00000000\t0", "100\t00000000\t1400"))
    needs_remedy(default_route(root, "IPv4"), "eth0", "MTU = 1320")


def test_the_default_route_of_ipv6(root: Path) -> None:
    put(root, "proc/net/ipv6_route", ROUTES6)
    put(root, "sys/class/net/eth0/mtu", 9000)
    is_fine(default_route(root, "IPv6"), "eth0", "MTU 9000")
    put(root, "proc/net/ipv6_route", ROUTES6.splitlines()[2])
    is_fine(default_route(root, "IPv6"), "none")


def test_the_usual_port(root: Path) -> None:
    is_fine(udp_port(root, 51820), "free")
    head = "  sl  local_address rem_address   st\n"
    put(root, "proc/net/udp", f"{head}  1: 00000000:CA6D 00000000:0000 07")
    is_fine(udp_port(root, 51820), "free")
    put(root, "proc/net/udp6", f"{head}  1: {'0' * 32}:CA6C {'0' * 32}:0000 07")
    is_fine(udp_port(root, 51820), "in use", "another ListenPort")


# ---- the rest ----


@pytest.mark.parametrize(("direction", "key"), [("receive", "rmem_max"), ("send", "wmem_max")])
def test_socket_buffers(root: Path, direction: str, key: str) -> None:
    path = f"proc/sys/net/core/{key}"
    is_fine(socket_buffer(root, direction, False), "unknown", key)
    put(root, path, 212992)
    needs_remedy(socket_buffer(root, direction, False), "small", f"sysctl -w net.core.{key}=4194304")
    is_fine(socket_buffer(root, direction, True), "yes", "212,992")
    is_fine(socket_buffer(put(root, path, 4 << 20), direction, False), "yes")


@pytest.mark.parametrize(
    ("programs", "wall", "names"),
    [
        (set(), "no", "file"),
        ({"iptables"}, "iptables", "file"),
        ({"nft", "iptables", "resolvectl"}, "nft", "resolvectl"),
        ({"nft", "resolvectl", "resolvconf"}, "nft", "resolvconf"),
    ],
)
def test_programs(root: Path, programs: set[str], wall: str, names: str) -> None:
    def which(name: str) -> str | None:
        return f"/usr/sbin/{name}" if name in programs else None

    assert dns(which) == Finding("DNS", names, dns(which).reason)
    found = firewall(root, which)
    assert found.state == wall
    assert ("install nftables" in found.remedy) == (wall == "no")


def test_the_clock(root: Path) -> None:
    needs_remedy(clock(root, 3600.0), "wrong", "1970-01-01 01:00", "date -s")
    needs_remedy(clock(root, 1.8e9), "no chip", "time-sync.target")
    is_fine(clock(put(root, "proc/cpuinfo", "flags\t\t: sse hypervisor"), 1.8e9), "yes")
    (root / "proc/cpuinfo").unlink()
    (root / "sys/class/rtc/rtc0").mkdir(parents=True)
    is_fine(clock(root, 1.8e9), "yes")


def test_random_numbers(root: Path) -> None:
    path = "proc/sys/kernel/random/entropy_avail"
    is_fine(random_numbers(root), "unknown")
    is_fine(random_numbers(put(root, path, 256)), "yes")
    needs_remedy(random_numbers(put(root, path, 20)), "not yet", "virtio-rng")


def test_configurations(root: Path) -> None:
    is_fine(configurations(root), "none")
    directory = root / "etc/wireguard"
    directory.mkdir(parents=True)
    is_fine(configurations(root), "empty")
    put(root, "etc/wireguard/wg0.conf", "").joinpath("etc/wireguard/wg0.conf").chmod(0o600)
    is_fine(configurations(root), "1 file")
    put(root, "etc/wireguard/wg1.conf", "").joinpath("etc/wireguard/wg1.conf").chmod(0o644)
    directory.chmod(0o755)
    needs_remedy(configurations(root), "2 files", "wg1.conf", "chmod 600")
    assert "wg0.conf" not in configurations(root).reason
    directory.chmod(0o700)
    is_fine(configurations(root), "2 files")


def test_interfaces_and_the_kernels_module(root: Path) -> None:
    is_fine(existing([]), "none")
    is_fine(existing(["wg0", "wg1"]), "2", "wg0, wg1")
    is_fine(kernel_module(root), "no")
    (root / "sys/module/wireguard").mkdir(parents=True)
    is_fine(kernel_module(root), "yes")


def test_an_empty_tree_breaks_nothing(root: Path) -> None:
    every = [*network_findings((), root), *system_findings(1.8e9, False, [], root, lambda name: None)]
    assert len({finding.what for finding in every}) == len(every)


@pytest.mark.parametrize("text", ["", "nonsense", "CapEff:\t\n", "CapEff:\tzz\n"])
def test_capabilities_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "status").write_text(text)
    assert doctor.effective_capabilities(str(tmp_path / "status")) is None
    assert doctor.effective_capabilities(str(tmp_path / "none")) is None
    (tmp_path / "status").write_text("Name:\tx\nCapEff:\t0000000000001000\n")
    assert doctor.effective_capabilities(str(tmp_path / "status")) == 1 << 12


# ---- the command, here ----


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WGFAST, "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, **environ},
        check=False,
    )


def test_json_says_what_the_table_says() -> None:
    done = run("--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    whats = [finding["what"] for finding in document["findings"]]
    assert len(set(whats)) == len(whats)
    table = run(COLUMNS="400").stdout
    for finding in document["findings"]:
        assert set(finding) == {"what", "state", "reason", "remedy", "fine"}
        assert finding["fine"] == (not finding["remedy"])
        assert finding["what"] in table
    assert {"IPv4 forwarding", "reverse-path filter", "clock", "CAP_NET_RAW", "interfaces"} <= set(whats)
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == str(
        int(
            next(finding["state"] for finding in document["findings"] if finding["what"] == "IPv4 forwarding")
            == "yes"
        )
    )


def test_the_exit_status_is_that_of_the_cipher() -> None:
    done = run("--json", WGFAST_AEAD="nonsense")
    assert done.returncode == 1
    (finding,) = [each for each in json.loads(done.stdout)["findings"] if each["what"] == "WGFAST_AEAD"]
    assert "unset WGFAST_AEAD" in finding["remedy"]


def test_remedies_are_listed_below_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    two = [Finding("one", "yes", "fine [so]"), Finding("two", "no", "bad", "MTU = 1 under [Interface]")]
    monkeypatch.setattr(doctor, "findings", lambda: iter(two))
    assert doctor.run_doctor() == 0
    table, _, remedies = capsys.readouterr().out.partition("What to do")
    assert "fine [so]" in table
    assert "MTU = 1 under [Interface]" in remedies
    assert "one" not in remedies.replace("None", "")
