"""Names of endpoints asked for around the tunnel, judged by scapy and by a tunnel that is dead."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR
from seeds import generator

from wgfast import resolve_outside
from wgfast.resolve_outside import answers, lookup, name_servers, question

HOST = "vpn.example.org"
KINDS = {1: "A", 28: "AAAA"}


def answer(asked: bytes, *records: DNSRR, **fields: int) -> bytes:
    found = DNS(asked)
    given = {"id": found.id, "qr": 1, "ra": 1, **fields}
    return bytes(DNS(**given, qd=found.qd, an=list(records)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_is_what_scapy_reads(kind: int) -> None:
    found = DNS(question(4711, HOST + ".", kind))
    assert (found.id, found.qr, found.rd, found.qdcount, found.ancount) == (4711, 0, 1, 1, 0)
    assert (found.qd[0].qname, found.qd[0].qtype, found.qd[0].qclass) == (HOST.encode() + b".", kind, 1)
    assert DNS(question(1, "bücher.example", kind)).qd[0].qname == b"xn--bcher-kva.example."


@pytest.mark.parametrize("host", ["x" * 64 + ".example", "a..b", ".", "", ".".join(["x" * 60] * 5)])
def test_what_no_name_can_be_is_not_asked_for(host: str) -> None:
    with pytest.raises(socket.gaierror):
        question(1, host, 1)


def test_an_answer_that_scapy_wrote() -> None:
    asked = question(7, HOST, 1)
    alias = DNSRR(rrname=HOST, type="CNAME", rdata="home.example.net")
    found = [DNSRR(rrname="home.example.net", type="A", rdata=f"192.0.2.{n}") for n in (1, 2)]
    assert answers(asked, answer(asked, alias, *found)) == ["192.0.2.1", "192.0.2.2"]
    assert answers(asked, answer(asked, DNSRR(rrname=HOST, type="AAAA", rdata="2001:db8::1"))) == []
    asked = question(8, HOST.upper(), 28)
    found = [DNSRR(rrname=HOST, type="AAAA", rdata="2001:db8::1")]
    assert answers(asked, answer(asked, *found)) == ["2001:db8::1"]
    for error in (0, 2, 3):
        assert answers(asked, answer(asked, rcode=error)) == []


def test_what_is_no_answer_is_refused() -> None:
    asked = question(7, HOST, 1)
    good = answer(asked, DNSRR(rrname=HOST, type="A", rdata="192.0.2.1"))
    other = bytes(DNS(id=7, qr=1, qd=DNSQR(qname="other.example")))
    for bad in (answer(asked, id=8), answer(asked, qr=0), other):
        with pytest.raises(ValueError, match="another question"):
            answers(asked, bad)
    for length in range(len(good)):
        with pytest.raises(ValueError, match=r"too early|another question"):
            answers(asked, good[:length])


def test_rubbish_hurts_nobody() -> None:
    dice = generator("rubbish")
    asked = question(7, HOST, 1)
    good = answer(asked, *(DNSRR(rrname=HOST, type="A", rdata=f"192.0.2.{n}") for n in range(3)))
    for _ in range(3000):
        bad = bytearray(good)
        for _ in range(dice.integers(1, 9)):
            bad[dice.integers(len(bad))] = dice.integers(256)
        try:
            found = answers(asked, bytes(bad[: dice.integers(len(bad) + 1)]))
        except ValueError:
            continue
        assert all(socket.inet_aton(each) for each in found)


def test_servers_on_this_machine_are_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("# nameserver 192.0.2.9\nnameserver 127.0.0.53\nnameserver ::1\nsearch lan\n")
    real.write_text("nameserver 192.0.2.53 \nnameserver\tfe80::1%lo\nnameserver x\nnameserver 192.0.2.53\n")
    monkeypatch.setattr(resolve_outside, "_FILES", (str(stub), str(tmp_path / "none"), str(real)))
    assert name_servers() == ["192.0.2.53", "fe80::1%lo"]


def test_nobody_to_ask_and_nobody_who_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="no name server"):
        lookup(HOST, 9, [], lambda _: None)
    monkeypatch.setattr(resolve_outside, "PATIENCE", 0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        monkeypatch.setattr(resolve_outside, "_PORT", silent.getsockname()[1])
        with pytest.raises(OSError, match=r"127\.0\.0\.1 does not answer"):
            lookup(HOST, 9, ["127.0.0.1"], lambda _: None)
