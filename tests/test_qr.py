"""QR codes, read back by another library from what a camera sees: terminal, image, drawing."""

from __future__ import annotations

import base64
import configparser
import fcntl
import os
import pty
import re
import stat
import struct
import subprocess
import sys
import termios
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zxingcpp
from lab.programs import require
from numpy.typing import NDArray

from wgfast import config, generate_preshared_key, generate_private_key, public_key
from wgfast.cli.phone_config import phone_text
from wgfast.cli.qr import QUIET_ZONE, drawing, encode
from wgfast.errors import ConfigError

WGFAST = [sys.executable, "-m", "wgfast"]
KEY, PSK = str(generate_private_key()), str(generate_preshared_key())
SERVER = str(public_key(generate_private_key()))
PHONE = f"""\
[Interface]
# Name = phone
Address = 10.0.0.5/32, fd00::5/128
PrivateKey = {KEY}
DNS = 10.0.0.1, example-vpn.dev
MTU = 1380
ListenPort = 4711

[Peer]
# Name = public-server1
PublicKey = {SERVER}
PresharedKey = {PSK}
Endpoint = public-server1.example-vpn.dev:51820
AllowedIPs = 0.0.0.0/0, ::/0
PersistentKeepalive = 25
"""
FOR_WG_QUICK = (
    "FwMark = 7\nTable = off\nPreUp = a\nPostUp = b\nPreDown = c\nPostDown = d\nSaveConfig = true\n"
)


def run(*arguments: str, stdin: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*WGFAST, "qr", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        **options,
    )


def decode(dark: NDArray[np.bool_]) -> str:
    """What a camera reads in modules of 6 pixels; the ground beyond the quiet zone is dark."""
    image = np.where(dark, 0, 255).astype(np.uint8).repeat(6, 0).repeat(6, 1)
    (found,) = zxingcpp.read_barcodes(np.pad(image, 30), formats=zxingcpp.BarcodeFormat.QRCode)
    assert found.valid
    return str(found.text)


def modules(text: str, invert: bool = False) -> NDArray[np.bool_]:
    """Where half blocks leave a dark ground dark; with `invert`, where they darken a light one."""
    drawn = {"█": (1, 1), "▀": (1, 0), "▄": (0, 1), " ": (0, 0)}
    rows = [[drawn[character] for character in line] for line in text.splitlines()]
    assert len({len(row) for row in rows}) == 1
    halves = np.array(rows, dtype=bool)
    ink = halves.transpose(0, 2, 1).reshape(2 * len(rows), -1)
    return ink if invert else ~ink


@pytest.fixture
def phone(tmp_path: Path) -> Path:
    path = tmp_path / "phone.conf"
    path.touch(mode=0o600)
    path.write_text(PHONE)
    return path


# ---- what is in the code ----


def test_it_says_what_the_file_says_and_wg_quick_takes_it(phone: Path, tmp_path: Path) -> None:
    text, warnings = phone_text(config.read(phone))
    assert not warnings
    read = configparser.ConfigParser()
    read.read_string(text)
    expected = configparser.ConfigParser()
    expected.read_string(PHONE)
    assert {name: dict(read[name]) for name in read} == {name: dict(expected[name]) for name in expected}
    require("wg-quick")
    again = tmp_path / "again.conf"
    again.touch(mode=0o600)
    again.write_text(text)
    subprocess.run(["wg-quick", "strip", str(again)], check=True, capture_output=True, timeout=10)


def test_what_a_phone_does_not_know_is_left_out_and_said(tmp_path: Path) -> None:
    given = PHONE.replace("MTU", FOR_WG_QUICK + "MTU").replace("::/0", "+::/0, +10.0.0.0/8, -10.0.0.0/8")
    text, warnings = phone_text(config.parse(given, "phone.conf"))
    plain, _ = phone_text(config.parse(PHONE, "phone.conf"))
    assert text == plain
    (warning,) = warnings
    assert re.findall("[A-Z][A-Za-z]+", warning) == [line.split(" ")[0] for line in FOR_WG_QUICK.splitlines()]


@pytest.mark.parametrize(
    ("key", "said"), [("Address", "no Address"), ("Endpoint", "no peer has an Endpoint")]
)
def test_what_will_not_work_on_a_phone_is_said(key: str, said: str) -> None:
    given = re.sub(f"{key} = .*", "", PHONE)
    _, warnings = phone_text(config.parse(given, "phone.conf"))
    assert any(said in warning for warning in warnings)


def test_a_phone_needs_a_key() -> None:
    with pytest.raises(ConfigError, match=r"phone\.conf: has no PrivateKey"):
        phone_text(config.parse(PHONE.replace(f"PrivateKey = {KEY}", ""), "phone.conf"))


# ---- what is drawn ----


@pytest.mark.parametrize("size", [1, 50, 300, 1000, 2953])
@pytest.mark.parametrize("invert", [False, True])
def test_the_drawing_is_read_as_what_was_put_in(size: int, invert: bool) -> None:
    text = base64.b64encode(os.urandom(size)).decode()[:size]
    dark = modules("\n".join(drawing(encode(text), invert)), invert)
    assert decode(dark) == text
    assert not dark[:QUIET_ZONE].any()
    assert not dark[-QUIET_ZONE:].any()
    assert not dark[:, :QUIET_ZONE].any()
    assert not dark[:, -QUIET_ZONE:].any()
    assert dark[QUIET_ZONE, QUIET_ZONE]  # the finder's corner


def test_names_that_are_no_ascii() -> None:
    assert decode(modules("\n".join(drawing(encode("# Gerät: 电话"))))) == "# Gerät: 电话"


def test_too_much_for_any_code_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"2,954 bytes.*2,953: leave out"):
        encode("x" * 2954)


# ---- the command ----


def test_it_prints_the_code_where_no_terminal_is(phone: Path) -> None:
    done = run(str(phone))
    assert (done.returncode, done.stderr) == (0, "")
    assert decode(modules(done.stdout)) == phone_text(config.read(phone))[0]
    assert run("-", stdin=PHONE).stdout == done.stdout
    assert decode(modules(run(str(phone), "--invert").stdout, invert=True))


def on_terminal(path: Path, columns: int) -> tuple[int, str]:
    master, slave = pty.openpty()
    size = struct.pack("HHHH", 60, columns, 0, 0)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    with subprocess.Popen([*WGFAST, "qr", str(path)], stdout=slave, stderr=slave, stdin=slave) as process:
        os.close(slave)
        pieces = []
        while True:
            try:
                pieces.append(os.read(master, 1 << 16))
            except OSError:  # EIO: the other side is closed
                break
    os.close(master)
    return process.returncode, b"".join(pieces).decode().replace("\r\n", "\n")


def test_on_a_terminal_its_colours_are_its_own(phone: Path) -> None:
    status, printed = on_terminal(phone, 120)
    assert status == 0
    lines = printed.splitlines()
    assert all(line.startswith("\x1b[97;40m") and line.endswith("\x1b[0m") for line in lines)
    plain = "\n".join(line[len("\x1b[97;40m") : -len("\x1b[0m")] for line in lines)
    assert decode(modules(plain)) == phone_text(config.read(phone))[0]


def test_a_terminal_that_is_too_narrow_is_told(phone: Path) -> None:
    status, printed = on_terminal(phone, 40)
    assert status == 1
    assert "the terminal 40: make it wider" in printed.replace("\n", " ")
    assert "█" not in printed


def read_png(data: bytes) -> NDArray[np.bool_]:
    """Dark pixels of a PNG of one bit (PNG specification, 11.2.2 and 9.2)."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, packed, head = 8, b"", b""
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        assert zlib.crc32(kind + body) == struct.unpack_from(">I", data, at + 8 + length)[0]
        head, packed = (body if kind == b"IHDR" else head), packed + (body if kind == b"IDAT" else b"")
        at += 12 + length
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", head)
    assert (depth, colour) == (1, 0)
    rows = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, -1)
    lines = [np.zeros(rows.shape[1] - 1, np.uint8)]
    for row in rows:
        assert row[0] in (0, 2)  # as it is, or beside the line above
        lines.append(row[1:] + lines[-1] * (row[0] == 2))
    return np.unpackbits(np.array(lines[1:]), axis=1)[:, :width] == 0


def read_svg(text: str) -> NDArray[np.bool_]:
    """Dark modules of segno's way to draw: horizontal strokes, moved between."""
    found = re.search(r'viewBox="0 0 (\d+) (\d+)"', text) or re.search(r'width="(\d+)" height="(\d+)"', text)
    scale = float((re.search(r"scale\(([\d.]+)\)", text) or ["", "1"])[1])
    path = re.search(r'd="([^"]*)"', text)
    assert found
    assert path
    dark = np.zeros((round(int(found[2]) / scale), round(int(found[1]) / scale)), bool)
    x = y = 0.0
    for command, rest in re.findall(r"([Mmh])([^Mmhz]*)", path[1]):
        values = [float(value) for value in re.findall(r"-?[\d.]+", rest)]
        if command == "h":
            dark[int(y), int(x) : int(x + values[0])] = True
            x += values[0]
        else:
            x, y = (values[0], values[1]) if command == "M" else (x + values[0], y + values[1])
    return dark


def test_files_are_for_their_owner_only_and_can_be_read(phone: Path, tmp_path: Path) -> None:
    png, svg = tmp_path / "code.png", tmp_path / "code.svg"
    png.write_text("older")
    png.chmod(0o644)
    done = run(str(phone), "--png", str(png), "--svg", str(svg))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    expected = phone_text(config.read(phone))[0]
    for path in (png, svg):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (found,) = zxingcpp.read_barcodes(np.where(read_png(png.read_bytes()), 0, 255).astype(np.uint8))
    assert found.text == expected
    assert decode(read_svg(svg.read_text())) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code.png", "code.svg", "phone.conf"]


def test_a_file_that_others_read_is_warned_about(phone: Path, tmp_path: Path) -> None:
    goal = tmp_path / "code.txt"
    with goal.open("w") as file:
        goal.chmod(0o644)
        done = subprocess.run(
            [*WGFAST, "qr", str(phone)],
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            timeout=20,
            check=True,
        )
    assert "everybody may read" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nonexistent.conf"], "/nonexistent.conf: does not exist"),
        (["wgnone0"], "/etc/wireguard/wgnone0.conf: does not exist"),
        (["-", "--png", "/nonexistent/x.png"], "/nonexistent/x.png: No such file"),
    ],
)
def test_what_cannot_be_done_is_said_without_secrets(arguments: list[str], said: str) -> None:
    done = run(*arguments, stdin=PHONE)
    assert done.returncode == 1
    assert said in done.stderr
    assert KEY not in done.stderr
    assert "Traceback" not in done.stderr


def test_input_that_is_no_text_is_said() -> None:
    done = subprocess.run(
        [*WGFAST, "qr", "-"],
        input=b"[Interface]\nAddress = \xff\n",
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert b"standard input:2: not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr
