"""bench/compare.py: its search, its parsers and its command line; test_compare_run.py has the rest."""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
sys.path.append(str(BENCH))
compare = importlib.import_module("compare")
contestants = importlib.import_module("compare_contestants")
lab_module = importlib.import_module("compare_lab")
measures = importlib.import_module("compare_measures")
options_module = importlib.import_module("compare_options")
peers = importlib.import_module("compare_peers")
search_module = importlib.import_module("compare_search")
usage = importlib.import_module("compare_usage")

TOLERANCE = 0.001


# The search


class Link:
    """Carries so many packets a second and loses the rest; its sender can make so many."""

    def __init__(self, capacity: float, sender: float = 1e9) -> None:
        self.capacity = capacity
        self.sender = sender
        self.asked: list[float] = []
        self.hiccups: dict[int, float] = {}  # share that the trial of this number loses in addition

    def __call__(self, rate: float) -> object:
        self.asked.append(rate)
        sent = min(rate, self.sender)
        received = min(sent, self.capacity) * (1 - self.hiccups.get(len(self.asked), 0))
        return search_module.Trial(rate, round(sent), round(received), 1.0)

    def found(self, tolerance: float = TOLERANCE, steps: int = 8) -> object:
        return search_module.search(self, tolerance=tolerance, steps=steps)


def test_the_search_ends_close_below_the_capacity() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    generator = random.Random(seed)
    for _ in range(300):
        link = Link(generator.uniform(2_100, 390_000))
        found = link.found()
        assert link.capacity * 0.97 <= found.rate <= link.capacity * (1 + 2 * TOLERANCE) + 1
        assert found.limit == "loss"
        assert found.loss <= TOLERANCE
        assert found.trials == len(link.asked) <= 8 + search_module.SECOND_CHANCES


def test_a_hiccup_is_given_a_second_chance_and_no_more() -> None:
    link = Link(50_000)
    link.hiccups[1] = 0.005
    assert link.found().rate == pytest.approx(50_000, rel=0.03)
    assert link.asked[0] == link.asked[1]
    link = Link(50_000)
    link.hiccups = {1: 0.005, 2: 0.005}
    assert link.found().rate < link.asked[0]


def test_a_tolerance_of_nothing_takes_no_loss() -> None:
    link = Link(50_000)
    link.hiccups = dict.fromkeys(range(1, 12), 0.0005)
    assert link.found(tolerance=0).rate == 0
    assert Link(50_000).found(tolerance=0).loss == 0


def test_what_ended_a_search_is_told() -> None:
    found = Link(500_000, sender=100_000).found()
    assert found.limit == "sender"
    assert found.rate == pytest.approx(100_000, rel=0.05)
    assert Link(1e9).found().limit == "search"
    nothing = Link(10).found()
    assert (nothing.rate, nothing.loss, nothing.limit) == (0, 1, "loss")


# What programs print


def test_processor_time_of_a_process_with_a_strange_name() -> None:
    text = "7 (a) b (c)) S 3 7 7 0 -1 4 0 0 0 0 150 50 30 20 20 0 1 0 99"
    tick = usage.TICK
    assert usage.parse_stat(text) == (3, 200 / tick, 50 / tick)
    assert usage.process_seconds([os.getpid(), 1 << 30]) > 0


def test_the_machine_s_time_is_all_but_idle() -> None:
    busy, stolen = usage.parse_machine("cpu  100 10 200 5000 60 7 8 9 0 0\n")
    assert busy * usage.TICK == pytest.approx(325)
    assert stolen * usage.TICK == pytest.approx(9)


def test_resident_memory() -> None:
    assert usage.parse_memory("Name:\tx\nVmHWM:\t    4096 kB\nVmRSS:\t    2048 kB\n") == (2.0, 4.0)
    assert usage.parse_memory("Name:\tkthreadd\n") == (0.0, 0.0)
    now, highest = usage.memory([os.getpid()])
    assert 1 < now <= highest


def test_what_strangers_spent_is_counted_once() -> None:
    before = {10: (1.0, 0.0), 11: (5.0, 0.0)}
    after = {10: (1.5, 6.0)}  # 11 has ended after another second, and 10 has waited for it
    assert usage.spent_between(before, after) == pytest.approx(1.5)
    assert usage.spent_between({11: (5.0, 0.0)}, {}) == 0
    assert usage.spent_between({}, {12: (0.25, 0.5)}) == pytest.approx(0.75)


def test_iperf_s_report() -> None:
    end = {
        "sum_sent": {"bytes": 11e9, "bits_per_second": 8.8e9, "retransmits": 3},
        "sum_received": {"bytes": 10e9, "bits_per_second": 8e9},
    }
    values = measures.parse_iperf(json.dumps({"end": end}))
    assert values == {"gbps": 8.0, "gigabytes": 10.0, "retransmits": 3}
    with pytest.raises(lab_module.LabError, match="unable to connect"):
        measures.parse_iperf(json.dumps({"error": "unable to connect to server"}))
    with pytest.raises(lab_module.LabError, match="no report"):
        measures.parse_iperf("")


def test_ping_s_lines_with_and_without_the_time_of_day() -> None:
    lines = ["PING 198.18.0.2 (198.18.0.2) 56(84) bytes of data."]
    for number in range(1, 100):
        stamp = "[1700000000.123456] " if number % 2 else ""
        lines.append(f"{stamp}64 bytes from 198.18.0.2: icmp_seq={number} ttl=64 time={number / 1000:.3f} ms")
    lines += [
        "",
        "--- 198.18.0.2 ping statistics ---",
        "100 packets transmitted, 99 received, 1% packet loss",
    ]
    values = measures.parse_ping("\n".join(lines))
    assert values["median_us"] == pytest.approx(50)
    assert values["p99_us"] == pytest.approx(99)
    assert (values["echoes"], values["lost"]) == (99, 0.01)
    with pytest.raises(lab_module.LabError, match="no answer"):
        measures.parse_ping("100 packets transmitted, 0 received")


def test_percentiles_are_values_that_occurred() -> None:
    assert measures.percentile(list(range(1, 101)), 0.99) == 99
    assert measures.percentile([3, 1, 2], 0.99) == 3
    assert measures.percentile([3, 1, 2], 0.0) == 1


def test_offloads_of_a_link() -> None:
    text = (
        "Features for wire:\nrx-checksumming: on\ntcp-segmentation-offload: off\n\ttx-tcp-segmentation: off\n"
        "generic-segmentation-offload: on\ngeneric-receive-offload: on [fixed]\ntx-udp-segmentation: off\n"
    )
    assert lab_module.parse_offloads(text) == {
        "tx-udp-segmentation": "off",
        "tcp-segmentation-offload": "off",
        "generic-segmentation-offload": "on",
        "generic-receive-offload": "on",
    }


# The command line


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tcp4-back-segmented", ("tcp", 4, False, True, True)),
        ("udp1372", ("udp", 1372, False, False, False)),
        ("ping-loaded", ("ping", 1, True, False, False)),
        ("idle", ("idle", 1, False, False, False)),
    ],
)
def test_the_names_of_measures(name: str, expected: tuple[object, ...]) -> None:
    made = measures.Measure.of(name)
    assert (made.kind, made.number, made.loaded, made.back, made.segmented) == expected


@pytest.mark.parametrize(
    "name", ["", "tcp", "tcp0", "tcp129", "udp", "udp7", "udp65508", "ping3", "udp64-back", "idle-segmented"]
)
def test_names_that_are_no_measures(name: str) -> None:
    with pytest.raises(contestants.CommandLineError, match="there is no"):
        measures.Measure.of(name)


def made(text: str) -> object:
    ((_, make),) = contestants.parse_implementations([text]).items()
    return make()


def test_an_implementation_is_a_command_with_an_environment() -> None:
    implementation = made(f"mine=WGFAST_OFFLOAD=off B='x y' {sys.executable} -m wgfast -f {{if}}")
    assert implementation.name == "mine"
    assert implementation.environment == {"WGFAST_OFFLOAD": "off", "B": "x y"}
    assert implementation.argv("wg9") == [sys.executable, "-m", "wgfast", "-f", "wg9"]
    assert implementation.described().startswith("WGFAST_OFFLOAD=off B='x y' ")


def test_a_relative_command_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "tunnel"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert made("mine=./tunnel {if}").command[0] == str(program)
    with pytest.raises(contestants.MissingError, match="no program"):
        made("mine=./other {if}")


def test_a_built_in_name_takes_another_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = contestants.Implementation("wgfast", ("wgfast", "-f", "{if}"), {"A": "1"}, "7.0")
    monkeypatch.setitem(contestants.BUILT_IN, "wgfast", lambda: plain)
    two = made("two=WGFAST_THREADS=2 wgfast")
    assert (two.name, two.command, two.version) == ("two", plain.command, "7.0")
    assert two.environment == {"A": "1", "WGFAST_THREADS": "2"}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["nonesuch"], "is none of veth, kernel"),
        (["veth,veth"], "two of the name"),
        (["x=wireguard-go -f wg0"], "{if}"),
        (["x="], "{if}"),
        (["veth=other {if}"], "a name of"),
        (["a/b=other {if}"], "a name of"),
        (["x='open {if}"], "quotation"),
    ],
)
def test_implementations_that_cannot_be_meant(given: list[str], complaint: str) -> None:
    with pytest.raises(contestants.CommandLineError, match=complaint):
        contestants.parse_implementations(given)


def test_pairs_go_both_ways() -> None:
    wanted = contestants.parse_implementations(["new=wg {if}"])
    pairs = contestants.parse_pairs(["new/wireguard-go", "wireguard-go/new"], wanted)
    assert pairs == [("new", "wireguard-go"), ("wireguard-go", "new")]
    for text in ("new", "new/", "new/new", "new/veth", "new/nobody", "a/b/c"):
        with pytest.raises(contestants.CommandLineError, match="--pair"):
            contestants.parse_pairs([text], wanted)


def fake(name: str) -> object:
    return contestants.Implementation(name, ("true", "{if}"))


def test_what_is_missing_is_left_out_with_its_reason() -> None:
    def missing() -> object:
        raise contestants.MissingError("it is not here")

    wanted = {"a": lambda: fake("a"), "b": missing, "kernel": contestants.BUILT_IN["kernel"]}
    found, left_out = contestants.assemble(wanted, [("a", "b")], lambda: "no module")
    assert [each.name for each in found] == ["a"]
    assert left_out == {"b": "it is not here", "kernel": "no module", "a/b": "there is no b"}
    found, left_out = contestants.assemble(wanted, [], lambda: "")
    assert [each.name for each in found] == ["a", "kernel"]


def test_the_baseline() -> None:
    veth, mine, go = (
        contestants.Contestant(name, fake(name), fake(name)) for name in ("veth", "x", "wireguard-go")
    )
    assert contestants.choose_baseline([veth, mine, go], None) == "wireguard-go"
    assert contestants.choose_baseline([veth, mine], None) == "x"
    assert contestants.choose_baseline([mine], None) is None
    assert contestants.choose_baseline([veth, mine], "veth") == "veth"
    with pytest.raises(contestants.CommandLineError, match="nobody"):
        contestants.choose_baseline([mine], "nobody")


def test_options() -> None:
    quick = options_module.parse(["--quick", "--seconds", "9"], "")
    assert (quick.rounds, quick.seconds, quick.attempts) == (1, 9, 1)
    names = [each.name for each in options_module.choose_measures(quick)]
    assert names == list(options_module.QUICK_MEASURES)
    soak = options_module.parse(["--soak", "60"], "")
    assert [each.name for each in options_module.choose_measures(soak)] == ["soak"]
    both = options_module.parse(["--soak", "60", "--measures", "tcp1, tcp1"], "")
    assert [each.name for each in options_module.choose_measures(both)] == ["tcp1", "soak"]
    assert options_module.settings_of(both).soak == 60


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--rounds", "0"], "--rounds 0: 1 or more"),
        (["--trial-seconds", "0"], "--trial-seconds 0.0"),
        (["--tolerance", "1"], "below 1"),
        (["--tolerance", "nan"], "--tolerance nan"),
        (["--render", os.devnull], "not written by"),
        (["--render", "/nonexistent"], "No such file"),
    ],
)
def test_errors_are_told_in_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(arguments) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.startswith("compare.py: ")
    assert said.count("\n") == 1


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert compare.main([]) == 2
    assert "as root" in capsys.readouterr().err


def test_missing_tools_leave_measures_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name in ("iperf3", "ethtool") else name)
    wanted = [measures.Measure.of(name) for name in ("tcp1-segmented", "udp64", "ping", "ping-loaded")]
    left_out: dict[str, str] = {}
    kept = compare.drop_what_lacks_tools(wanted, left_out)
    assert [each.name for each in kept] == ["udp64", "ping"]
    assert left_out == {"tcp1-segmented": "missing: iperf3, ethtool", "ping-loaded": "missing: iperf3"}


def test_peers_that_cannot_be_got_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    said: list[str] = []
    peers.get_peers(said.append, tmp_path)
    assert any("there is no apt-get" in line and "wireguard-go" in line for line in said)
    assert "the current wireguard-go: could not be got: there is no go" in said
    assert "boringtun: could not be got: there is no cargo" in said
