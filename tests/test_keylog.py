"""The key log: it is enough to read a capture, by other people's code; who may read it; how loud it is."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import hmac
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from devicepair import Tunnel, driven
from noisepeer import PROLOGUE, PROTOCOL, public_of
from scapy.layers.inet import IP, UDP
from scapy.utils import wrpcap
from test_daemon import Handed

from wgfast import Device, Engine, InterfaceError, generate_preshared_key, generate_private_key, public_key
from wgfast.keylog import KeyLog
from wgfast.testing import ManualClock, Network, packet

KINDS = (
    "LOCAL_STATIC_PRIVATE_KEY",
    "REMOTE_STATIC_PUBLIC_KEY",
    "LOCAL_EPHEMERAL_PRIVATE_KEY",
    "PRESHARED_KEY",
)
INNER = packet("10.0.0.1", "10.0.0.2", b"what was said in secret")
ANSWER = packet("10.0.0.2", "10.0.0.1", b"and what was answered")


# ---- somebody else's reading of the whitepaper, section 5.4 ----


def digest(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def kdf(n: int, key: bytes, data: bytes) -> list[bytes]:
    secret, found, last = hmac.digest(key, data, "blake2s"), [], b""
    for i in range(1, n + 1):
        last = hmac.digest(secret, last + bytes([i]), "blake2s")
        found.append(last)
    return found


def shared(private: bytes, public: bytes) -> bytes:
    key = X25519PrivateKey.from_private_bytes(private)
    return key.exchange(X25519PublicKey.from_public_bytes(public))


def transport_keys(
    initiation: bytes, response: bytes, log: dict[str, bytes], initiator: bool
) -> tuple[bytes, bytes]:
    """What the initiator and the responder send with, from what was on the wire and one side's log. Every
    tag on the way is checked by the AEAD."""
    own, ephemeral = log[KINDS[0]], log[KINDS[2]]
    remote, psk = log[KINDS[1]], log.get(KINDS[3], bytes(32))
    e_i, sealed_static, sealed_stamp = initiation[8:40], initiation[40:88], initiation[88:116]
    e_r, sealed_nothing = response[12:44], response[44:60]
    responder = remote if initiator else public_of(own)
    assert public_of(ephemeral) == (e_i if initiator else e_r)

    chain = digest(PROTOCOL)
    state = digest(digest(digest(chain, PROLOGUE), responder), e_i)
    (chain,) = kdf(1, chain, e_i)
    chain, key = kdf(2, chain, shared(ephemeral, responder) if initiator else shared(own, e_i))
    static = ChaCha20Poly1305(key).decrypt(bytes(12), sealed_static, state)
    assert static == (public_of(own) if initiator else remote)
    state = digest(state, sealed_static)
    chain, key = kdf(2, chain, shared(own, remote))
    assert len(ChaCha20Poly1305(key).decrypt(bytes(12), sealed_stamp, state)) == 12
    state = digest(digest(state, sealed_stamp), e_r)

    (chain,) = kdf(1, chain, e_r)
    (chain,) = kdf(1, chain, shared(ephemeral, e_r if initiator else e_i))
    (chain,) = kdf(1, chain, shared(own, e_r) if initiator else shared(ephemeral, static))
    chain, tau, key = kdf(3, chain, psk)
    state = digest(state, tau)
    assert ChaCha20Poly1305(key).decrypt(bytes(12), sealed_nothing, state) == b""
    send, receive = kdf(2, chain, b"")
    return send, receive


def opened(message: bytes, key: bytes) -> bytes:
    """The inner packet, padding included."""
    return ChaCha20Poly1305(key).decrypt(bytes(4) + message[8:16], message[16:], b"")


def blocks(path: Path) -> list[dict[str, bytes]]:
    """One for each handshake."""
    found: list[dict[str, bytes]] = []
    for line in path.read_text().splitlines():
        kind, equals, value = line.split(" ")
        assert kind in KINDS
        assert equals == "="
        assert len(value) == 44
        if kind == KINDS[0]:
            found.append({})
        found[-1][kind] = base64.b64decode(value, validate=True)
    return found


class Overheard:
    """A handshake and a word each way between two Engines that log their keys."""

    def __init__(self, directory: Path, psk: bytes | None) -> None:
        self.logs = [directory / "alice.keys", directory / "bob.keys"]
        clock = ManualClock()
        network = Network(clock)
        keys = generate_private_key(), generate_private_key()
        engines = [Engine(key) for key in keys]
        addresses = ("198.51.100.1", 51820), ("198.51.100.2", 51821)
        nodes = [network.attach(engine, at) for engine, at in zip(engines, addresses, strict=True)]
        for i, engine in enumerate(engines):
            engine.add_peer(
                public_key(keys[1 - i]),
                allowed_ips=f"10.0.0.{2 - i}/32",
                endpoint=addresses[1 - i] if i == 0 else None,
                preshared_key=psk,
                now=clock.now,
            )
            engine.control.keylog = KeyLog(str(self.logs[i]), f"engine{i}")
        nodes[0].send(INNER)
        network.settle()
        nodes[1].send(ANSWER)
        network.run(15)
        self.heard = network.heard
        for engine in engines:
            assert engine.control.keylog
            engine.control.keylog.close()


@pytest.mark.parametrize("psk", [None, generate_preshared_key()], ids=["without psk", "with psk"])
def test_either_side_s_log_and_a_capture_are_enough(tmp_path: Path, psk: bytes | None) -> None:
    overheard = Overheard(tmp_path, psk)
    (initiation,), (response,) = (overheard.heard.of(kind) for kind in ("initiation", "response"))
    first, second = overheard.heard.of("data")[:2]
    for log, initiator in zip(overheard.logs, (True, False), strict=True):
        (block,) = blocks(log)
        assert tuple(block) == KINDS[: 3 + bool(psk)]
        send, receive = transport_keys(initiation.data, response.data, block, initiator)
        assert opened(first.data, send).startswith(INNER)
        assert opened(second.data, receive).startswith(ANSWER)


@pytest.mark.skipif(shutil.which("tshark") is None, reason="missing: the program tshark")
def test_tshark_reads_it(tmp_path: Path) -> None:
    """The program the format is of."""
    overheard = Overheard(tmp_path, generate_preshared_key())
    capture = tmp_path / "outer.pcap"
    wrpcap(
        str(capture),
        [
            IP(src=sent.source.host, dst=sent.destination.host)
            / UDP(sport=sent.source.port, dport=sent.destination.port)
            / sent.data
            for sent in overheard.heard.datagrams
        ],
    )
    for log in overheard.logs:
        argv = ["tshark", "-r", str(capture), "-o", f"wg.keylog_file:{log}", "-Y", "data", "-T", "fields"]
        done = subprocess.run(
            [*argv, "-e", "data.data"], capture_output=True, text=True, timeout=60, check=False
        )
        said = [bytes.fromhex(line) for line in done.stdout.split()]
        assert said == [b"what was said in secret", b"and what was answered"], done.stderr


# ---- the file ----


def test_it_is_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WGFAST_KEYLOG", raising=False)
    with contextlib.closing(Device(generate_private_key())) as device:
        assert device.control.keylog is None
    monkeypatch.setenv("WGFAST_KEYLOG", str(tmp_path / "keys"))
    with contextlib.closing(Device(generate_private_key(), keylog="")) as device:
        assert device.control.keylog is None
    assert not (tmp_path / "keys").exists()


def test_only_its_owner_reads_it_and_nothing_is_overwritten(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    path.write_text("# somebody's notes\n")
    path.chmod(0o644)
    monkeypatch.setenv("WGFAST_KEYLOG", str(path))
    with contextlib.closing(Tunnel(threads=1)) as tunnel, driven(tunnel):
        tunnel.exchange()
        privates = {device.private_key for device in (tunnel.a.device, tunnel.b.device)}
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text()
    assert text.startswith("# somebody's notes\n")
    path.write_text(text.partition("\n")[2])
    assert {block[KINDS[0]] for block in blocks(path)} == privates
    fresh = tmp_path / "fresh"
    KeyLog(str(fresh), "wg0").close()
    assert fresh.stat().st_mode & 0o777 == 0o600


def test_a_file_that_may_be_a_trap_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "target"
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "fifo")
    for trap in ("link", "fifo", ".", "missing/keys"):
        with pytest.raises(InterfaceError, match="WGFAST_KEYLOG"):
            Device(generate_private_key(), keylog=str(tmp_path / trap))
    assert not target.exists()
    if os.geteuid() == 0:
        target.touch()
        os.chown(target, 12345, 12345)
        with pytest.raises(InterfaceError, match="12345"):
            Device(generate_private_key(), keylog=str(target))


def test_a_full_disk_is_told_once_and_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tunnel = Tunnel(threads=1, keylog=str(tmp_path / "keys"))
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if b"PRIVATE_KEY" in bytes(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    with contextlib.closing(tunnel), driven(tunnel), caplog.at_level(logging.ERROR, "wgfast"):
        tunnel.exchange()
        control = tunnel.a.device.control
        with tunnel.a.device.using() as core:
            control._initiate(core.peers()[0], 0, tunnel.a.device.now(), 1)
    told = [
        record.message for record in caplog.records if record.name == "wgfast" and "end1" in record.message
    ]
    assert len(told) == 1
    assert "No space left" in told[0]


# ---- loud ----


def test_a_daemon_warns_of_it_at_every_level_but_silent(tmp_path: Path) -> None:
    for level, loud in (("error", True), ("", True), ("verbose", True), ("silent", False)):
        directory = tmp_path / f"at {level}"
        directory.mkdir()
        handed = Handed(directory, WGFAST_KEYLOG=str(directory / "keys"), LOG_LEVEL=level)
        try:
            assert handed.ask("get=1\n\n").endswith("errno=0\n\n")
        finally:
            handed.close()
        log = handed.log.read_text()
        assert ("WARNING: handed0: WGFAST_KEYLOG" in log) is loud
        assert (directory / "keys").stat().st_mode & 0o777 == 0o600


@pytest.mark.lab
def test_the_command_warns_before_it_goes_to_the_background(tmp_path: Path) -> None:
    """And a file that cannot be written is no start; a relative name is that of the command's directory."""
    for path, reason in (("nowhere/keys", "nowhere/keys"), (".", "directory")):
        done = subprocess.run(
            [sys.executable, "-m", "wgfast", f"wgk{os.getpid()}"],
            capture_output=True,
            text=True,
            timeout=20,
            env={**os.environ, "WGFAST_KEYLOG": path},
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 1
        assert "WARNING" in done.stderr
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
