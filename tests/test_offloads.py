"""Offloads by name: how they are switched off, what is said of them, and that it is true."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from wgfast import ConfigError, Device, _core
from wgfast.cli import doctor
from wgfast.settings import may_use, offloads_off

WGFAST = [sys.executable, "-m", "wgfast"]
VARIABLE = "WGFAST_OFFLOAD"
NAMES = _core.OFFLOAD_NAMES
INNER = ("vnet", "tso", "uso")
OUTER = ("udp-segment", "udp-gro")
UDP_GRO = 104


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


def off_by(wanted: Iterable[str] | None) -> set[str]:
    mask = offloads_off(wanted)
    return {name for name in NAMES if not may_use(name, mask)}


def test_the_names_are_those_of_the_documentation() -> None:
    assert (*INNER, *OUTER) == NAMES
    assert len(_core.OFFLOAD_TEXTS) == len(NAMES)


# ---- what switches off what ----


@pytest.mark.parametrize(
    ("text", "off"),
    [
        ("", set()),
        ("  ", set()),
        (" , ,", set()),
        ("none", set(NAMES)),
        (" none\t", set(NAMES)),
        ("-tso,-udp-gro", {"tso", "udp-gro"}),
        ("  -tso ,  -udp-gro,", {"tso", "udp-gro"}),
        ("-vnet,-vnet", {"vnet"}),
        *((f"-{name}", {name}) for name in NAMES),
    ],
)
def test_the_environment_switches_off_by_name(
    monkeypatch: pytest.MonkeyPatch, text: str, off: set[str]
) -> None:
    monkeypatch.setenv(VARIABLE, text)
    assert off_by(None) == off


@pytest.mark.parametrize(
    "text",
    [
        "tso",
        "-tso,uso",
        "-tcp",
        "--tso",
        "- tso",
        "-",
        "-TSO",
        "none,-tso",
        "-none",
        "None",
        "all",
        "0",
        "-tso uso",
    ],
)
def test_what_is_no_offload_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ConfigError) as refused:
        Device()
    said = str(refused.value)
    assert said.startswith(f"{VARIABLE}: ")
    assert "\n" not in said
    assert all(name in said for name in NAMES)
    wrong = next(part for part in text.split(",") if part.strip() not in {f"-{name}" for name in NAMES})
    assert wrong.strip().removeprefix("-") in said


@pytest.mark.parametrize("wanted", [["tcp"], ["-tso"], ["tso", ""], [None], [3], "tso", b"tso", 3, [["tso"]]])
def test_a_wrong_argument_is_refused(wanted: Any) -> None:
    with pytest.raises(ConfigError, match=r"^without: ") as refused:
        Device(without=wanted)
    assert all(name in str(refused.value) for name in NAMES)


def test_the_argument_counts_and_the_environment_is_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "none")
    with Device(without=()) as device:
        assert {device.offloads()[name] for name in OUTER} == {"in use"}
    monkeypatch.setenv(VARIABLE, "nonsense")
    with Device(without=iter(["udp-gro"])) as device:
        assert [device.offloads()[name] for name in OUTER] == ["in use", "switched off"]


# ---- what a device says ----


@contextlib.contextmanager
def over_a_pair(kind: int = socket.SOCK_SEQPACKET, **options: Any) -> Iterator[Device]:
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    with near, far, contextlib.closing(Device(tun=far.fileno(), **options)) as device:
        yield device


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_a_pair_of_sockets_has_no_super_packets(kind: socket.SocketKind) -> None:
    """And nothing is known of the outer port until there is one; then it stays known."""
    with over_a_pair(kind) as device:
        absent = dict.fromkeys(INNER, "absent: Operation not supported")
        assert device.offloads() == {**absent, **dict.fromkeys(OUTER, "untried")}
        device.up()
        assert device.offloads() == {**absent, **dict.fromkeys(OUTER, "in use")}
        device.down()
        assert device.offloads() == {**absent, **dict.fromkeys(OUTER, "in use")}


def test_without_an_inner_port_nothing_is_said_of_it() -> None:
    with Device() as device:
        assert device.offloads() == {**dict.fromkeys(INNER, "untried"), **dict.fromkeys(OUTER, "in use")}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_switched_off_says_so(name: str) -> None:
    with over_a_pair(without=[name]) as device:
        assert device.offloads()[name] == "switched off"
        device.up()
        off = [other for other, state in device.offloads().items() if state == "switched off"]
        assert off == (list(INNER) if name == "vnet" else [name])  # super-packets need the header


def test_all_of_them_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "none")
    with over_a_pair() as device:
        device.up()
        assert set(device.offloads().values()) == {"switched off"}


def sockets_here() -> set[str]:
    """This process's UDP sockets: their descriptors."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(fd))) as copy:
            if copy.type == socket.SOCK_DGRAM and copy.family in (socket.AF_INET, socket.AF_INET6):
                found.add(fd)
    return found


def receives_whole(fd: str) -> bool:
    with socket.socket(fileno=os.dup(int(fd))) as copy:
        return bool(copy.getsockopt(socket.SOL_UDP, UDP_GRO))


@pytest.mark.parametrize("off", [False, True])
def test_the_sockets_are_as_it_says_whichever_port_they_have(off: bool) -> None:
    before = sockets_here()
    with over_a_pair(without=["udp-gro"] if off else ()) as device:
        device.up()
        device.listen_port = 0
        opened = sockets_here() - before
        assert opened
        assert {receives_whole(fd) for fd in opened} == {not off}


def test_a_closed_device_says_nothing() -> None:
    device = Device()
    device.close()
    with pytest.raises(Exception, match="closed"):
        device.offloads()


# ---- the commands ----


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WGFAST, *arguments],
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, **environ},
        check=False,
    )


@pytest.mark.parametrize("options", [["-f"], []], ids=["foreground", "background"])
@pytest.mark.parametrize("value", ["-tcp", "tso"])
def test_a_daemon_refuses_a_wrong_setting(options: list[str], value: str) -> None:
    """Before it makes anything, so it needs no privileges for that."""
    done = run(*options, "wgfnothing", **{VARIABLE: value})
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert VARIABLE in line
    assert value.removeprefix("-") in line
    assert all(name in line for name in NAMES)
    assert not os.path.exists("/sys/class/net/wgfnothing")


def test_the_help_names_the_variable() -> None:
    assert VARIABLE in run("--help").stdout


def findings() -> dict[str, doctor.Finding]:
    return {finding.what: finding for finding in doctor.findings()}


def test_the_doctor_lists_each_with_a_reason() -> None:
    """Whether or not an interface may be made here."""
    found = findings()
    for name, text in zip(NAMES, _core.OFFLOAD_TEXTS, strict=True):
        finding = found[f"offload {name}"]
        assert finding.state in ("in use", "no", "absent")
        assert text in finding.reason
        assert finding.state == "in use" or finding.reason != text
    assert "wgdoctor" not in " ".join(os.listdir("/sys/class/net"))


def test_the_doctor_without_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(_core, "tun_open", refuse)
    found = findings()
    for name in INNER:
        assert found[f"offload {name}"].state == "no"
        assert "run as root" in found[f"offload {name}"].reason
    for name in OUTER:
        assert found[f"offload {name}"].state == "in use"


def test_the_doctor_says_what_was_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "-udp-gro")
    finding = findings()["offload udp-gro"]
    assert finding.state == "switched off"
    assert f"{VARIABLE}=-udp-gro" in finding.reason


def test_the_doctor_prints_them() -> None:
    done = run("doctor", COLUMNS="200")
    assert done.returncode == 0
    for name in NAMES:
        (line,) = [line for line in done.stdout.splitlines() if f"offload {name} " in line]
        assert any(option in line for option in ("IFF_VNET_HDR", "TUN_F_", "UDP_"))


def test_the_doctor_goes_on_where_the_setting_is_wrong() -> None:
    done = run("doctor", COLUMNS="300", **{VARIABLE: "-tcp"})
    assert f"{VARIABLE}: 'tcp'" in done.stdout
    assert "Python" in done.stdout
    assert not done.stderr
