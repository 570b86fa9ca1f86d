"""Captures: what is written, read by scapy and tcpdump, and the filters, judged by libpcap and the kernel."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import pytest
from lab.capture import Capture as Wire
from lab.end import PORT, End
from lab.process import Process, wait_until
from lab.programs import PEER, SUBJECT, require
from lab.topology import Lab, Tunnel
from lab.traffic import ping, transfer, wait_ping
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet, Raw
from scapy.utils import PcapNgReader
from seeds import generator

from wgfast import capture_filter
from wgfast.capture import Capture, _finished, create_file, datagrams
from wgfast.capture_filter import compile_expression, udp_port
from wgfast.cli.capture import parse_size
from wgfast.errors import ConfigError
from wgfast.pcapng import INBOUND, LINKTYPE_LINUX_SLL2, LINKTYPE_RAW, OUTBOUND, PcapngWriter

WGFAST = [sys.executable, "-m", "wgfast"]
SO_ATTACH_FILTER = 26
COOKED = struct.pack("!H2xIHBB8s", 0x0800, 1, 1, 4, 6, b"\2" * 6)


def read(file: Path | io.BytesIO) -> list[Packet]:
    with PcapNgReader(str(file) if isinstance(file, Path) else file) as reader:
        return list(reader)


def tcpdump(file: Path, *expression: str) -> list[str]:
    require("tcpdump")
    done = subprocess.run(
        ["tcpdump", "-n", "-v", "-r", str(file), *expression],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line]


# ---- the file ----


def test_what_is_written_is_what_others_read(tmp_path: Path) -> None:
    at = 1_700_000_000_123_456_789
    sent = [COOKED + bytes(IP(dst="192.0.2.1") / UDP(dport=9) / Raw(bytes(n))) for n in range(9)]
    path = tmp_path / "file"
    with path.open("wb") as file:
        writer = PcapngWriter(file, LINKTYPE_LINUX_SLL2, comment="a test")
        links = [writer.add_link("wg0", expression="udp"), writer.add_link("eth0", "the other")]
        assert links == [0, 1]
        assert writer.add_link("wg0") == 0
        for number, packet in enumerate(sent):
            assert writer.write(number % 2, at + number, packet, (INBOUND, OUTBOUND)[number % 2])
        writer.finish(at + 10, 9, 2)
        assert writer.size == path.stat().st_size
    found = read(path)
    assert [bytes(packet) for packet in found] == sent
    assert [packet.sniffed_on for packet in found] == ["wg0", "eth0"] * 4 + ["wg0"]
    assert [packet.direction for packet in found] == [1, 2] * 4 + [1]
    # scapy's EDecimal: exact.
    assert [int(packet.time * 10**9) for packet in found] == [at + n for n in range(9)]
    assert len([line for line in tcpdump(path) if "192.0.2.1.9" in line]) == 9


@pytest.mark.parametrize("most", [400, 1000, 4096, 65536])
def test_the_file_is_never_larger_than_asked_for(most: int) -> None:
    file = io.BytesIO()
    writer = PcapngWriter(file, LINKTYPE_RAW, most)
    link = writer.add_link("wg0")
    assert link is not None
    random = generator(f"most {most}")
    written = 0
    while writer.write(link, time.time_ns(), bytes(IP()) + random.bytes(int(random.integers(200))), INBOUND):
        written += 1
    assert writer.add_link("another" * 30) is None
    writer.finish(time.time_ns(), written, 0)
    assert most - 400 < len(file.getvalue()) == writer.size <= most
    assert len(read(io.BytesIO(file.getvalue()))) == written


def test_too_little_for_any_file_is_refused() -> None:
    with pytest.raises(ValueError, match="size: 50"):
        PcapngWriter(io.BytesIO(), LINKTYPE_RAW, 50)


def test_a_file_is_closed_to_others_even_where_it_was_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o666)
    os.close(create_file(str(path)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b""


@pytest.mark.lab
def test_a_file_of_somebody_else_is_not_written_to(tmp_path: Path) -> None:
    """He made it ready, in /tmp say, and would read what is inside the tunnel."""
    path = tmp_path / "file"
    path.write_text("his")
    os.chown(path, 65534, 65534)
    with pytest.raises(OSError, match="belongs to user 65534"):
        create_file(str(path))
    assert path.read_text() == "his"


def test_what_the_path_names_meanwhile_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o666)
    really = os.open

    def opened(name: str, *rest: int) -> int:
        fd = really(name, *rest)
        os.rename(name, f"{name}.moved")
        os.mkfifo(name)
        return fd

    monkeypatch.setattr(os, "open", opened)
    os.close(create_file(str(path)))
    moved = tmp_path / "file.moved"
    assert stat.S_IMODE(moved.stat().st_mode) == 0o600
    assert moved.read_bytes() == b""


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("65536", 65536), ("64K", 65536), ("2m", 2 << 20), ("1GiB", 1 << 30)]
)
def test_sizes(text: str, size: int) -> None:
    context = click.Context(click.Command("capture"))
    assert parse_size(context, click.Option(["--size"]), text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "64T", "1.5M", "x", "٣"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="expected a number of bytes"):
        parse_size(click.Context(click.Command("capture")), click.Option(["--size"]), text)


# ---- super-packets ----


@pytest.mark.parametrize("version", [4, 6])
def test_a_super_packet_is_cut_into_what_its_sender_meant(version: int) -> None:
    """Every length and checksum as scapy computes them."""
    random = generator(f"datagrams {version}")
    for _ in range(50):
        size = int(random.integers(1, 1400))
        total = size * int(random.integers(1, 9)) + int(random.integers(1, size + 1))
        payload = random.bytes(total)
        head: Packet = (
            IP(src="192.0.2.1", dst="192.0.2.2", id=0xFFFE) if version == 4 else IPv6(dst="2001:db8::1")
        )
        found = datagrams(bytes(head / UDP(sport=1, dport=2) / Raw(payload)), size)
        assert len(found) == -(-total // size)
        for number, raw in enumerate(found):
            again = (IP if version == 4 else IPv6)(raw)
            assert bytes(again[Raw]) == payload[number * size : (number + 1) * size]
            if version == 4:
                assert again.id == (0xFFFE + number) & 0xFFFF
                del again.chksum, again.len
            else:
                del again.plen
            del again[UDP].chksum, again[UDP].len
            assert bytes(again) == raw


def test_what_has_other_headers_before_udp_stays_whole() -> None:
    packet = bytes(IPv6() / IPv6ExtHdrDestOpt() / UDP() / Raw(bytes(500)))
    assert datagrams(packet, 100) == [packet]


def test_what_is_too_short_or_none_at_all_stays_as_it_is() -> None:
    """Whoever feeds a link, a guest say, may claim anything of his packets."""
    rng = generator("test_what_is_too_short_or_none_at_all_stays_as_it_is")
    whole = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(b"x" * 9))
    for length in range(28):
        assert datagrams(whole[:length], 4) == [whole[:length]]
    for _ in range(2000):
        packet = rng.bytes(int(rng.integers(0, 90)))
        datagrams(packet, int(rng.integers(1, 100)))
        datagrams(b"\x4f" + packet[1:9] + b"\x11" + packet[10:], 1)


@pytest.mark.parametrize("size", [0, 1, 1000, 1001])
def test_a_checksum_left_to_the_hardware_is_finished(size: int) -> None:
    right = bytes(IP(src="192.0.2.1", dst="192.0.2.2") / TCP() / Raw(b"\x5a" * size))
    length = len(right) - 20
    pseudo = sum(struct.unpack("!6H", right[12:20] + struct.pack("!HH", 6, length)))
    begun = right[:36] + struct.pack("!H", (pseudo & 0xFFFF) + (pseudo >> 16)) + right[38:]
    assert _finished(begun, 20, 16) == right


# ---- filters ----


def packets_of_every_kind() -> list[bytes]:
    kinds: list[Packet] = []
    for head in (IP(), IP(options=[b"\x01" * 4]), IPv6()):
        for sport, dport in ((PORT, 1), (1, PORT), (PORT, PORT), (1, 2), (PORT >> 8, PORT & 0xFF)):
            kinds += [
                head / UDP(sport=sport, dport=dport) / Raw(b"x" * 40),
                head / TCP(sport=sport, dport=dport),
            ]
    later = IP(frag=100, proto=17) / Raw(struct.pack("!HH", PORT, PORT) * 9)
    kinds += [IP() / ICMP(), later, IP(flags="MF") / UDP(dport=PORT)]
    return [bytes(packet) for packet in kinds] + [
        b"",
        b"\x45",
        b"\x00" * 60,
        bytes(IP() / UDP(dport=PORT))[:22],
    ]


def passing(program: list[tuple[int, int, int, int]], packets: list[bytes]) -> list[int]:
    """Which of them the kernel lets pass; Unix sockets take filters as well."""
    raw = b"".join(struct.pack("=HBBI", *each) for each in program)
    buffer = ctypes.create_string_buffer(raw, len(raw))
    sending, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sending, receiving:
        receiving.setblocking(False)
        pointer = struct.pack("@HP", len(program), ctypes.addressof(buffer))
        receiving.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointer)
        found = []
        for number, packet in enumerate(packets):
            sending.send(packet)
            try:
                receiving.recv(1 << 16)
            except BlockingIOError:
                continue
            found.append(number)
        return found


def test_the_filter_for_a_port_is_what_libpcap_makes_of_it() -> None:
    packets = packets_of_every_kind()
    ours = passing(udp_port(PORT), packets)
    assert len(ours) == 10
    assert ours == passing(compile_expression(f"udp port {PORT}"), packets)


def test_an_expression_that_is_none_is_refused_with_what_libpcap_says() -> None:
    with pytest.raises(ConfigError, match=r"filter: 'port nonsense': .*pcap-filter"):
        compile_expression("port nonsense")
    with pytest.raises(ConfigError, match="zero byte"):
        compile_expression("udp\0")
    assert compile_expression("icmp")


def test_without_libpcap_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    capture_filter._libpcap.cache_clear()
    monkeypatch.setattr(capture_filter, "_NAMES", ("libnothing.so.9",))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    try:
        with pytest.raises(ConfigError, match=r"libpcap, which is not installed: .*apt install libpcap"):
            compile_expression("udp")
    finally:
        capture_filter._libpcap.cache_clear()


# ---- the command ----


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WGFAST, *arguments], capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["wgnone0", "-w", "/dev/null"], "wgnone0: No such device"),
        (["wgnone0", "--outer", "-w", "/dev/null"], "is it a WireGuard interface?"),
        (["lo", "-w", "/nonexistent/file"], "/nonexistent/file: No such file"),
        (["lo", "-w", "/dev/null", "--filter", "((("], "filter: '((('"),
        (["lo", "-w", "/dev/null", "--size", "99"], "size: 99: is less"),
    ],
)
def test_what_cannot_be_captured_is_said_in_a_line(arguments: list[str], said: str) -> None:
    if os.geteuid() != 0:
        said = "CAP_NET_RAW" if arguments[0] == "lo" and "--filter" not in arguments else said
    done = run("capture", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="has no capability to lose")
def test_without_the_right_to_see_packets_it_says_so() -> None:
    require("setpriv")
    done = subprocess.run(
        ["setpriv", "--bounding-set=-net_raw", *WGFAST, "capture", "lo", "-w", "/dev/null"],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "CAP_NET_RAW: run as root" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="packets are shown to root only")
def test_what_passed_before_there_was_a_filter_is_not_seen() -> None:
    """While something passes all the time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as target, ThreadPoolExecutor(1) as pool:
        target.bind(("127.0.0.1", 0))
        over = threading.Event()
        sending = pool.submit(send_until, over, target.getsockname())
        try:
            for _ in range(50):
                with Capture(None, port=1) as capture:
                    assert list(capture.packets()) == []
                    assert capture._vnet
        finally:
            over.set()
        assert sending.result() > 50


def send_until(over: threading.Event, where: tuple[str, int]) -> int:
    count = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while not over.is_set():
            sender.sendto(b"", where)
            count += 1
    return count


@pytest.mark.skipif(os.geteuid() != 0, reason="packets are shown to root only")
def test_a_disk_that_is_full_is_named() -> None:
    done = run("capture", "lo", "-w", "/dev/full", "--seconds", "0.05")
    assert done.returncode == 1
    assert "/dev/full: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


# ---- in the lab ----


def start(end: End, file: Path, *options: str) -> Process:
    """A capture that sees whatever comes from now on."""
    process = end.namespace.spawn(*WGFAST, "capture", end.interface, "-w", str(file), *options)
    wait_until(lambda: "capturing to" in process.output or process.returncode is not None, "the capture runs")
    return process


def finish(process: Process) -> str:
    """Interrupted, and what it said."""
    process.signal(signal.SIGINT)
    assert process.wait() == 0, process.output
    return process.output


def pair(lab: Lab) -> Tunnel:
    tunnel = lab.tunnel(SUBJECT, PEER)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    return tunnel


@pytest.mark.lab
def test_the_inside_of_a_tunnel(lab: Lab, tmp_path: Path) -> None:
    tunnel = pair(lab)
    end, other = tunnel.ends
    every, requests = tmp_path / "every", tmp_path / "requests"
    running = (
        start(end, every),
        start(end, requests, "--filter", "icmp[icmptype] = icmp-echo", "--count", "2"),
    )
    assert ping(end.namespace, other.address, count=3).received == 3
    assert ping(end.namespace, other.address6, count=1).received == 1
    assert running[1].wait() == 0
    assert finish(running[0]).splitlines()[-1].startswith("8 packets, ")
    assert stat.S_IMODE(every.stat().st_mode) == 0o600
    found = read(every)
    assert {packet.sniffed_on for packet in found} == {end.interface}
    kinds = Counter((packet[IP].src, packet.direction) for packet in found if IP in packet)
    assert kinds == {(end.address, OUTBOUND): 3, (other.address, INBOUND): 3}
    assert abs(float(found[-1].time) - time.time()) < 30
    assert len([line for line in tcpdump(every) if "ICMP echo re" in line]) == 6
    assert len([line for line in tcpdump(every, "icmp6") if "ICMP6, echo" in line]) == 2
    assert [packet[ICMP].type for packet in read(requests)] == [8, 8]


@pytest.mark.lab
def test_the_outside_of_a_tunnel_is_what_the_wire_carries(lab: Lab, tmp_path: Path) -> None:
    """Also where the tunnel sends many datagrams in one: they are written one by one."""
    tunnel = pair(lab)
    end, other = tunnel.ends
    file = tmp_path / "outer"
    with Wire(end.namespace, "wire0") as wire:
        process = start(end, file, "--outer")
        begun = len(wire.datagrams())
        transfer(end.namespace, other.namespace, other.address, 1 << 20)
        whole = len(wire.super_packets())
        said = finish(process)
        expected = Counter(each.payload for each in wire.datagrams()[begun:])
    assert whole, "nothing was sent as one"
    assert "lost" not in said
    found = read(file)
    assert {packet.sniffed_on for packet in found} == {"wire0"}
    assert all(PORT in (packet[UDP].sport, packet[UDP].dport) for packet in found)
    payloads = Counter(bytes(packet[UDP].payload) for packet in found)
    # A keepalive may pass between the starts and the ends of the two.
    assert len(expected - payloads) + len(payloads - expected) <= 4
    assert sum(payloads.values()) > 700
    assert all(len(packet) <= 1500 for packet in found)
    assert not [line for line in tcpdump(file) if "bad udp cksum" in line or "truncated" in line]


@pytest.mark.lab
def test_super_packets_inside_have_their_lengths_and_checksums(lab: Lab, tmp_path: Path) -> None:
    tunnel = pair(lab)
    end, other = tunnel.ends
    file = tmp_path / "inner"
    process = start(end, file, "--filter", "tcp")
    transfer(end.namespace, other.namespace, other.address, 1 << 20)
    finish(process)
    found = [bytes(packet) for packet in read(file)]
    assert max(map(len, found)) > 1500
    assert sum(len(packet) - 40 for packet in found) >= 1 << 20
    for raw in found:
        again = IP(raw)
        assert again.len == len(raw)
        del again[TCP].chksum, again.chksum
        assert bytes(again) == raw


@pytest.mark.lab
def test_a_capture_ends_at_its_limits(lab: Lab, tmp_path: Path) -> None:
    tunnel = pair(lab)
    end, other = tunnel.ends
    small, short = tmp_path / "small", tmp_path / "short"
    running = start(end, small, "--size", "100K"), start(end, short, "--seconds", "0.2")
    assert running[1].wait() == 0
    transfer(end.namespace, other.namespace, other.address, 1 << 20)
    assert running[0].wait() == 0, running[0].output
    assert 20_000 < small.stat().st_size <= 100 << 10
    assert read(small)
    assert tcpdump(short) == []


@pytest.mark.lab
def test_a_capture_ends_whole_when_the_interface_goes_or_its_reader_does(lab: Lab, tmp_path: Path) -> None:
    tunnel = pair(lab)
    end, other = tunnel.ends
    file = tmp_path / "gone"
    process = start(end, file)
    piped = subprocess.Popen(
        end.namespace.argv(*WGFAST, "capture", end.interface),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert piped.stdout
    assert piped.stderr
    assert b"capturing" in piped.stderr.readline()
    assert ping(end.namespace, other.address).received
    piped.stdout.close()
    end.namespace.ip(f"link set {end.interface} down")
    assert process.wait() == 1
    assert f"{end.interface}: Network is down: it was set down" in process.output
    assert "Traceback" not in process.output
    assert len(read(file)) >= 2
    assert piped.wait(5) in (0, 1)
    assert b"Traceback" not in piped.stderr.read()
    piped.stderr.close()
