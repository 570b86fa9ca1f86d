"""What `wgfast up` is made of: names and files, the journal, resolv.conf, netfilter's rules, statuses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from seeds import generator

from wgfast.quick import (
    QuickError,
    dns,
    firewall,
    implementation,
    locate,
    programs,
    resolvconf_file,
    rights,
    routes,
    sysctl,
    target,
)
from wgfast.quick.errors import refusals
from wgfast.quick.journal import Journal, Step

# ---- names and files ----


def test_a_name_is_a_file_of_etc_wireguard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "DIRECTORY", str(tmp_path))
    (tmp_path / "wg0.conf").write_text("")
    assert locate("wg0") == ("wg0", str(tmp_path / "wg0.conf"))
    assert locate(f"{tmp_path}/wg0.conf") == ("wg0", str(tmp_path / "wg0.conf"))
    monkeypatch.chdir(tmp_path)
    # What could be a name is one, as for wg-quick; the remedy is said.
    with pytest.raises(QuickError, match=r"/wgnone0\.conf' does not exist: .* as in \./wgnone0\.conf"):
        locate("wgnone0")
    with pytest.raises(QuickError, match=r"wg0\.conf\.conf' does not exist: .* say \./wg0\.conf"):
        locate("wg0.conf")
    assert locate("./wg0.conf") == ("wg0", str(tmp_path / "wg0.conf"))


def test_a_link_is_followed_but_gives_the_name(tmp_path: Path) -> None:
    (tmp_path / "office.conf").write_text("")
    (tmp_path / "wg7.conf").symlink_to(tmp_path / "office.conf")
    assert locate(f"{tmp_path}/wg7.conf") == ("wg7", str(tmp_path / "office.conf"))


@pytest.mark.parametrize("name", ["sixteen-letters.", "with blank", "ünlaut", "wg0;reboot", ".", ""])
def test_names_that_no_interface_has(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.conf"
    path.write_text("")
    with pytest.raises(QuickError, match="must be a valid interface name, followed by"):
        locate(str(path))


# ---- the journal ----


class Recorded:
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.marks: list[tuple[str, str]] = []

    def call(self, name: str) -> Callable[[], None]:
        return lambda: self.steps.append(name)

    def report(self, mark: str, text: str) -> None:
        self.marks.append((mark, text))


def fail() -> None:
    raise QuickError("no")


def work(recorded: Recorded, last: Callable[[], None]) -> None:
    with Journal(recorded.report) as journal:
        journal.do("a", recorded.call("a"), Step("undo a", recorded.call("undo a")))
        journal.do("b", recorded.call("b"))
        journal.do("c", recorded.call("c"), Step("undo c", recorded.call("undo c")))
        journal.do("d", last, Step("undo d", recorded.call("undo d")))


def test_what_was_done_is_undone_in_reverse() -> None:
    recorded = Recorded()
    with pytest.raises(QuickError, match="no"):
        work(recorded, fail)
    assert recorded.steps == ["a", "b", "c", "undo c", "undo a"]
    assert [text for _, text in recorded.marks] == ["a", "b", "c", "d", "undo c", "undo a"]


def test_what_was_interrupted_is_undone_as_well() -> None:
    recorded = Recorded()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(recorded, interrupt)
    assert recorded.steps[3:] == ["undo d", "undo c", "undo a"]


def test_an_undo_that_fails_does_not_keep_the_others() -> None:
    recorded = Recorded()

    def fail_twice(journal: Journal) -> None:
        with journal:
            journal.do("a", recorded.call("a"), Step("undo a", recorded.call("undo a")))
            journal.do("b", recorded.call("b"), Step("undo b", fail))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_twice(Journal(recorded.report))
    assert recorded.steps == ["a", "b", "undo a"]
    assert ("!", "could not be undone: undo b: no") in recorded.marks


def test_an_interruption_does_not_end_the_undoing() -> None:
    """Ctrl-C, by someone to whom it takes too long."""
    recorded = Recorded()
    interrupted: list[str] = []

    def interrupt_once() -> None:
        if not interrupted:
            interrupted.append("b")
            raise KeyboardInterrupt
        recorded.steps.append("undo b")

    def work_and_fail() -> None:
        with Journal(recorded.report) as journal:
            journal.do("a", recorded.call("a"), Step("undo a", recorded.call("undo a")))
            journal.do("b", recorded.call("b"), Step("undo b", interrupt_once))
            raise ZeroDivisionError

    with pytest.raises(KeyboardInterrupt):
        work_and_fail()
    assert recorded.steps == ["a", "b", "undo b", "undo a"]


def test_all_well_undoes_nothing() -> None:
    recorded = Recorded()
    with Journal(recorded.report) as journal:
        assert journal.do("a", lambda: 5, Step("undo a", recorded.call("undo a"))) == 5
    assert recorded.steps == []


# ---- routes ----


def test_routes_are_ordered_as_sort_orders_them() -> None:
    """wg-quick pipes them through `sort -nr -k 2 -t /`."""
    rng = generator("test_routes_are_ordered_as_sort_orders_them")
    networks = [
        ip_network((rng.bytes(width // 8), int(rng.integers(width + 1))), strict=False)
        for width in (32, 128) * 100
    ]
    text = "\n".join(map(str, networks))
    done = subprocess.run(
        ["sort", "-nr", "-k", "2", "-t", "/"],
        input=text,
        env={"LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [str(each) for each in routes.ordered(networks)] == done.stdout.split()


def test_tables_have_numbers_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tmp_path / "rt_tables"
    names.write_text("# comment\n100 office # mine\n255\tlocal\nnonsense\nx nosuch\n0x nosuch\n010 ten\n")
    (tmp_path / "rt_tables.conf").mkdir()
    monkeypatch.setattr(routes, "_TABLE_FILES", (str(names), f"{tmp_path}/*.conf"))
    found = [
        routes.table_number(text) for text in ("office", "main", "1234", "0x10", "4294967295", "0", "ten")
    ]
    assert found == [100, 254, 1234, 16, 0xFFFFFFFF, 254, 10]
    for text in ("nosuch", "-1", "4294967296", "1e3"):
        with pytest.raises(QuickError, match=f"Table = '{text}'") as failure:
            routes.table_number(text)
        assert failure.value.status == 255


def test_refusals_of_the_kernel_name_a_remedy() -> None:
    from pyroute2.netlink.exceptions import NetlinkError

    with (
        pytest.raises(QuickError, match=r"^route: File exists: look$") as failure,
        refusals("route", {17: "look"}),
    ):
        raise NetlinkError(17)
    assert failure.value.status == 2


# ---- /etc/resolv.conf ----


@pytest.fixture
def resolv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.53\n")
    monkeypatch.setattr(resolvconf_file, "PATH", str(path))
    monkeypatch.setattr(resolvconf_file, "KEPT", f"{path}.wgfast-")
    return path


def servers(path: Path) -> list[str]:
    return [line.split()[1] for line in path.read_text().splitlines() if line.startswith("nameserver")]


def test_it_comes_back_as_it_was(resolv: Path) -> None:
    inode = resolv.stat().st_ino
    resolvconf_file.replace("wg0", ["10.0.0.1"], ["corp.example"])
    assert resolv.read_text().splitlines()[1:] == ["nameserver 10.0.0.1", "search corp.example"]
    assert resolv.stat().st_mode & 0o777 == 0o644
    assert resolvconf_file.is_replaced("wg0")
    resolvconf_file.put_back("wg0")
    assert resolv.stat().st_ino == inode
    assert os.listdir(resolv.parent) == ["resolv.conf"]
    assert not resolvconf_file.is_replaced("wg0")


def test_a_link_comes_back_as_a_link(resolv: Path) -> None:
    resolv.rename(resolv.parent / "stub")
    resolv.symlink_to("stub")
    resolvconf_file.replace("wg0", ["10.0.0.1"], [])
    assert not resolv.is_symlink()
    assert servers(resolv.parent / "stub") == ["192.0.2.53"]
    resolvconf_file.put_back("wg0")
    assert os.readlink(resolv) == "stub"


def test_none_before_is_none_after(resolv: Path) -> None:
    resolv.unlink()
    resolvconf_file.replace("wg0", ["10.0.0.1"], [])
    assert servers(resolv) == ["10.0.0.1"]
    resolvconf_file.put_back("wg0")
    assert os.listdir(resolv.parent) == []


@pytest.mark.parametrize("order", [("wg0", "wg1", "wg2"), ("wg2", "wg1", "wg0"), ("wg1", "wg2", "wg0")])
def test_tunnels_come_and_go_in_any_order(resolv: Path, order: tuple[str, ...]) -> None:
    up = {"wg0": "10.0.0.1", "wg1": "10.0.0.2", "wg2": "10.0.0.3"}
    for name, server in up.items():
        resolvconf_file.replace(name, [server], [])
    for name in order:
        resolvconf_file.put_back(name)
        del up[name]
        assert servers(resolv) == [list(up.values())[-1] if up else "192.0.2.53"]
    assert os.listdir(resolv.parent) == ["resolv.conf"]


def test_what_others_write_meanwhile_stays(resolv: Path) -> None:
    resolvconf_file.replace("wg0", ["10.0.0.1"], [])
    resolv.write_text("nameserver 198.51.100.53\n")
    resolvconf_file.put_back("wg0")
    assert servers(resolv) == ["198.51.100.53"]
    assert os.listdir(resolv.parent) == ["resolv.conf"]
    resolvconf_file.put_back("wg0")
    assert servers(resolv) == ["198.51.100.53"]


def test_what_a_crash_left_is_not_taken_for_the_original(resolv: Path) -> None:
    resolvconf_file.replace("wg0", ["10.0.0.1"], [])
    resolvconf_file.replace("wg0", ["10.0.0.2"], [])
    assert servers(resolv) == ["10.0.0.2"]
    resolvconf_file.put_back("wg0")
    assert servers(resolv) == ["192.0.2.53"]


def test_a_directory_that_cannot_be_written(resolv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted", str(resolv))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(QuickError, match="install resolvconf, or remove the DNS line"):
        resolvconf_file.replace("wg0", ["10.0.0.1"], [])
    assert servers(resolv) == ["192.0.2.53"]
    assert os.listdir(resolv.parent) == ["resolv.conf"]


def test_systemd_resolved_is_asked_where_it_answers(
    resolv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    log = tmp_path / "log"
    program = commands / "resolvectl"
    program.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(commands))
    monkeypatch.setattr(programs, "_SYSTEM", ())
    monkeypatch.setattr(dns, "_RESOLVED", str(commands))
    assert isinstance(dns.resolver(), dns.ResolvConfFile)  # it runs, and nobody asks it
    resolv.write_text("nameserver 127.0.0.53\noptions edns0\n")
    resolved = dns.resolver()
    assert isinstance(resolved, dns.Resolved)
    resolved.set("wg0", ["10.0.0.1", "fd00::1"], ["corp.example"])
    resolved.unset("wg0")
    assert log.read_text().splitlines() == [
        "dns wg0 10.0.0.1 fd00::1",
        "domain wg0 corp.example ~.",
        "revert wg0",
    ]


def test_debians_resolvconf_ranks_by_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = tmp_path / "interface-order"
    monkeypatch.setattr(dns, "_ORDER", str(order))
    assert dns.Resolvconf().set_text("wg0") == "resolvconf -a wg0 -m 0 -x"
    order.write_text("# comment\nlo.inet6\nlo.inet\nlo.@(dnsmasq|pdnsd)\ntun*\ntap*\n")
    assert dns.Resolvconf().unset_text("wg0") == "resolvconf -d tun.wg0 -f"


# ---- netfilter ----


SAVED = """\
# Generated by iptables-save
*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -p udp -m comment --comment "wg-quick(8) rule for wg0" -j CONNMARK --restore-mark
-A PREROUTING -p udp -m comment --comment "wg-quick(8) rule for wg01" -j CONNMARK --restore-mark
-A POSTROUTING -p udp -m mark --mark 0xca6c -m comment --comment "wg-quick(8) rule for wg0" -j CONNMARK --save-mark
COMMIT
*raw
-A PREROUTING -d 10.0.0.1/32 ! -i wg0 -m addrtype ! --src-type LOCAL -m comment --comment "wg-quick(8) rule for wg0" -j DROP
-A PREROUTING -s 192.0.2.1/32 -j DROP
COMMIT
"""  # noqa: E501


def test_of_iptables_rules_only_ours_are_removed() -> None:
    removal = firewall.iptables_removal("wg0", SAVED).splitlines()
    assert [line.split()[0] for line in removal] == ["*mangle", "-D", "-D", "COMMIT", "*raw", "-D", "COMMIT"]
    assert not any("wg01" in line or "192.0.2.1" in line for line in removal)
    assert firewall.iptables_removal("wg9", SAVED) == ""


def test_iptables_rules_are_wg_quicks() -> None:
    """As wg-quick's source spells them."""
    note = '-m comment --comment "wg-quick(8) rule for wg0"'
    assert firewall.iptables_rules("wg0", ["10.0.0.1"], 51820) == (
        "*raw\n"
        f"-I PREROUTING ! -i wg0 -d 10.0.0.1 -m addrtype ! --src-type LOCAL -j DROP {note}\n"
        "COMMIT\n*mangle\n"
        f"-I POSTROUTING -m mark --mark 51820 -p udp -j CONNMARK --save-mark {note}\n"
        f"-I PREROUTING -p udp -j CONNMARK --restore-mark {note}\n"
        "COMMIT\n"
    )


def test_iptables_is_taken_where_there_is_no_nft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "saved").write_text(SAVED)
    for name, source, sink in (("restore", "", "restored"), ("save", "saved", "")):
        program = tmp_path / f"iptables-{name}"
        source, sink = (f"{tmp_path}/{file}" if file else "-" for file in (source, sink))
        program.write_text(f"#!/bin/sh\n/bin/cat {source}" + (f" >> {sink}\n" if sink != "-" else "\n"))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "_SYSTEM", ())
    firewall.add("wg0", 4, ["10.0.0.1"], 51820)
    assert (tmp_path / "restored").read_text() == firewall.iptables_rules("wg0", ["10.0.0.1"], 51820)
    (tmp_path / "restored").unlink()
    recorded = Recorded()
    firewall.remove("wg0", 4, recorded.report)
    assert (tmp_path / "restored").read_text() == firewall.iptables_removal("wg0", SAVED)
    assert recorded.marks == [("#", "iptables-restore -n")]
    with pytest.raises(QuickError, match="install nftables") as failure:
        firewall.add("wg0", 6, [], 1)
    assert failure.value.status == 127


def test_a_firewall_that_this_kernel_has_not_holds_no_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nft without nf_tables, ip6tables without IPv6: installed, and fail at everything."""
    for name in ("nft", "iptables-save", "ip6tables-save"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'Protocol not supported' >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "_SYSTEM", ())
    recorded = Recorded()
    for version in (4, 6):
        firewall.remove("wg0", version, recorded.report)
    assert recorded.marks == []


class WithoutIPv6:
    """What rtnetlink says where IPv6 is switched off: of routes it shows what it has, IPv4's."""

    def get_routes(self, family: int, **_: object) -> list[dict[str, Any]]:
        return [Message(family=socket.AF_INET, dst_len=0, table=254, RTA_TABLE=254, RTA_OIF=7)]


class Message(dict[str, Any]):
    def get_attr(self, name: str) -> Any:
        return self.get(name)


def test_routes_of_another_family_are_none_of_ours() -> None:
    asked = routes.Routes(WithoutIPv6())
    assert asked.leading_to(7) == {ip_network("0.0.0.0/0")}
    assert (asked.tables(4), asked.tables(6)) == ({254}, set())


# ---- programs and the daemon ----


def test_where_nobody_can_tell_the_kernel_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rights, "_STATUS", str(tmp_path / "none"))
    rights.require_net_admin("up")


def test_a_program_that_hangs_or_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QuickError, match="no-such-program: there is no such program"):
        programs.run(["no-such-program"])
    with pytest.raises(QuickError, match="sleep 60: no end within 0 s") as failure:
        programs.run(["sleep", "60"], timeout=0.1)
    assert failure.value.status == 124
    with pytest.raises(QuickError, match="cannot access") as failure:
        programs.run(["ls", str(tmp_path / "none")])
    assert failure.value.status == 2


def test_a_daemon_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOG_LEVEL", raising=False)
    monkeypatch.setenv("WG_PROCESS_FOREGROUND", "1")
    with pytest.raises(QuickError, match="17 bytes: an interface's name has 1 to 15"):
        implementation.start_daemon("seventeen-letters")


def test_only_what_was_ours_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = tmp_path / "src_valid_mark"
    monkeypatch.setattr(sysctl, "_PATH", str(value))
    monkeypatch.setattr(sysctl, "_NOTES", str(tmp_path / "notes"))
    value.write_text("1\n")
    sysctl.switch_on(others=False)
    sysctl.switch_off()
    assert value.read_text() == "1\n"
    value.write_text("0\n")
    sysctl.switch_on(others=False)
    sysctl.switch_on(others=True)
    assert (value.read_text(), sysctl.was_ours()) == ("1", True)
    sysctl.switch_off()
    assert (value.read_text(), sysctl.was_ours()) == ("0", False)
    assert not (tmp_path / "notes").exists()
    # A note of another namespace with the same number, long gone.
    sysctl.switch_on(others=False)
    value.write_text("1\n")
    sysctl.switch_on(others=False)
    sysctl.switch_off()
    assert value.read_text() == "1\n"
    value.unlink()
    value.mkdir()
    for name, filtering in (("all", "0"), ("default", "0"), ("lo", "1"), ("eth0", "2")):
        (tmp_path / "conf" / name).mkdir(parents=True)
        (tmp_path / "conf" / name / "rp_filter").write_text(f"{filtering}\n")
    monkeypatch.setattr(sysctl, "_FILTERS", str(tmp_path / "conf/*/rp_filter"))
    sysctl.switch_on(others=False)  # cannot be, and is not needed
    assert not sysctl.was_ours()
    (tmp_path / "conf/default/rp_filter").write_text("1\n")
    with pytest.raises(QuickError, match="start the container with --sysctl"):
        sysctl.switch_on(others=False)


# ---- the command line ----


@pytest.mark.parametrize("command", ["up", "down", "save", "strip"])
@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["--no-such-option"]])
def test_a_wrong_command_line_ends_as_wg_quicks(command: str, arguments: list[str]) -> None:
    from wgfast.cli import run_command

    assert run_command([command, *arguments]) == 1


def test_strip_prints_wg_quicks_bytes(tmp_path: Path) -> None:
    path = tmp_path / "wg0.conf"
    path.write_text(
        "[Interface]\nAddress = 10.0.0.1\n# kept\n  ListenPort = 1\nPostUp = x\n[Peer]\nMTU = 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "wgfast", "strip", str(path)], capture_output=True, timeout=20, check=True
    )
    assert done.stdout == b"[Interface]\n# kept\nListenPort = 1\n[Peer]\nMTU = 1\n\n"
