"""bench/compare.py: its plan and its report without a lab, and tiny runs in one."""

from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lab.process import run, wait_until
from lab.programs import require, require_lab

BENCH = Path(__file__).parent.parent / "bench"
sys.path.append(str(BENCH))
compare = importlib.import_module("compare")
contestants = importlib.import_module("compare_contestants")
lab_module = importlib.import_module("compare_lab")
measures = importlib.import_module("compare_measures")
plan_module = importlib.import_module("compare_plan")
report = importlib.import_module("compare_report")
results_module = importlib.import_module("compare_results")
usage = importlib.import_module("compare_usage")


# The plan


class Turned(measures.Measure):
    """A measure that notes whose turn it is, and fails for `bad`."""

    log: list[tuple[str, str]]

    def make(self, contestant: object, settings: object) -> object:
        self.log.append((self.name, contestant.name))
        if contestant.name == "bad":
            raise lab_module.LabError("it does not start")
        spent = usage.Usage(1.0, 0.5, 0.0, 0.2 if contestant.name == "disturbed" else 0.0, (0, 0), (0, 0))
        return {"gbps": 1.0}, spent


def turned(*names: str) -> tuple[list[object], list[tuple[str, str]]]:
    log: list[tuple[str, str]] = []
    found = [Turned(**vars(measures.Measure.of(name))) for name in names]
    for each in found:
        object.__setattr__(each, "log", log)
    return found, log


def made_plan(wanted: list[object], names: list[str], rounds: int, **settings: object) -> object:
    who = [contestants.Contestant(name, *[contestants.Implementation(name, ("true",))] * 2) for name in names]
    return plan_module.Plan(who, wanted, rounds, measures.Settings(**settings))


def test_implementations_take_turns_at_each_measure() -> None:
    wanted, log = turned("tcp1", "idle", "soak")
    plan = made_plan(wanted, ["veth", "a", "b"], 2, soak=9)
    plan.carry_out(canned([]), lambda text, seconds: None, lambda: None)
    first = [("tcp1", "veth"), ("tcp1", "a"), ("tcp1", "b"), ("idle", "a"), ("idle", "b")]
    soaked = [("soak", "a"), ("soak", "b")]
    second = [("tcp1", "b"), ("tcp1", "a"), ("tcp1", "veth"), ("idle", "b"), ("idle", "a")]
    assert log == first + soaked + second
    assert plan.duration() > 2 * 9


def test_failures_are_noted_and_end_a_contestant() -> None:
    wanted, log = turned("tcp1", "ping")
    done: list[None] = []
    results = canned([])
    plan = made_plan(wanted, ["a", "bad", "disturbed"], 3)
    plan.carry_out(results, lambda text, seconds: None, lambda: done.append(None))
    tries = [name for _, name in log]
    assert tries.count("a") == 6
    assert tries.count("bad") == 2 * plan_module.GIVEN_UP
    assert tries.count("disturbed") == 2 * 6
    assert len(done) == len(results.samples) == 15
    assert results.left_out == {"bad": "given up after 3 failures in a row"}
    assert {sample.error for sample in results.samples} == {"", "it does not start"}


# The report


def canned(samples: list[object]) -> object:
    return results_module.Results(
        machine={"kernel": "Linux 6.1", "processor": "A Processor, 2 of 2 usable"},
        settings={**vars(measures.Settings(soak=60)), "rounds": 3},
        measures=["tcp1", "udp64", "ping", "soak"],
        contestants=[
            {"name": name, "version": "1", "command": f"{name} {{if}}"} for name in ("veth", "a", "b")
        ],
        left_out={},
        offloads={"link": [{"tx-udp-segmentation": "on"}, {"tx-udp-segmentation": "off"}]},
        baseline="a",
        samples=samples,
    )


def filled() -> object:
    sample = results_module.Sample
    samples = [
        sample(number, "tcp1", name, {"gbps": gbps, "machine_cpu_per_gb": 1 / gbps})
        for name, rates in {"veth": (20, 24, 22), "a": (2.0, 3.0, 2.5), "b": (3.0, 3.0, 1.25)}.items()
        for number, gbps in enumerate(rates, 1)
    ]
    samples += [
        sample(1, "udp64", "veth", {"kpps": 190.0, "limit": "sender"}),
        sample(1, "udp64", "b", {"kpps": 50.0, "limit": "loss"}),
        sample(1, "ping", "b", {"median_us": 446.0, "p99_us": 12345.0, "lost": 0.02}),
        sample(2, "ping", "b", error="no answer\nfrom | b"),
        sample(1, "soak", "b", {"gbps": 2.0, "samples": [[0, 5, 6], [20, 9, 6], [40, 9, 6], [60, 9.5, 6]]}),
    ]
    samples[-1].disturbed = True
    samples[-1].usage = {"strangers": 7.0, "stolen": 0.1, "seconds": 60.0}
    return canned(samples)


def test_the_report() -> None:
    results = filled()
    results.left_out = {"kernel": "no module"}
    text = report.markdown(results)
    for line in (
        "| kernel | Linux 6.1 |",
        "| link (ethtool -k) | tx-udp-segmentation on; tx-udp-segmentation off |",
        "- kernel: no module",
        "| a | 2.50 (2.00 to 3.00) |",
        "| b | 3.00 (1.25 to 3.00), 1.00 x |",  # of 1.5, 1 and 0.5
        "| veth | 22.0 (20.0 to 24.0), 8.80 x |",
        "| veth | at least 190 |",
        "| b | 50.0 |",
        "| b | 12,345 |",
        "| b | sending | 2.00 | 5.00 | 9.50 | 9.50 | 90.0 |",
        "- b, ping, round 2: no answer from | b",
        "- b, soak, round 1: others 7.00 s, stolen 0.10 s of 60.0 s",
        "- b, ping, round 1: 2.0%",
        "which up to 0.10% may be lost.",
    ):
        assert line in text.splitlines(), line
    assert "15 samples" not in text
    assert "14 samples, 1 of them disturbed, 1 failed." in text
    assert "Disturbed, also when repeated:" in text
    assert "sender_cpu" not in text


def test_numbers_keep_three_digits() -> None:
    values = {
        0: "0",
        0.00094: "0.001",
        0.5: "0.50",
        9.994: "9.99",
        36.66: "36.7",
        446.4: "446",
        18900: "18,900",
    }
    assert {value: report.number(value) for value in values} == values


def test_results_survive_their_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, path = filled(), tmp_path / "made" / "results.json"
    del results.settings["udp_program"]
    results.save(path)
    assert results_module.Results.load(path) == results
    assert compare.main(["--render", str(path), "--markdown", str(tmp_path / "report.md")]) == 0
    assert capsys.readouterr().out == (tmp_path / "report.md").read_text() == report.markdown(results)
    assert [each.name for each in path.parent.iterdir()] == ["results.json"]


def test_the_plots(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot = importlib.import_module("compare_plot")
    written = plot.plot(filled(), tmp_path)
    assert [path.name for path in written] == ["compare.png", "soak.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert plot.plot(canned([]), tmp_path / "none") == []


# In a lab


COMPARE = (sys.executable, str(BENCH / "compare.py"), "--impl", "wgfast")


def namespaces_of(pid: int) -> list[str]:
    return [line for line in run(["ip", "netns"]).stdout.splitlines() if f"wgfast-compare-{pid}-" in line]


@pytest.mark.lab
def test_a_tiny_run(tmp_path: Path) -> None:
    require_lab()
    require("iperf3", "gcc")
    written = tmp_path / "tiny.json"
    arguments = ["--quick", "--measures", "tcp1,udp64,idle", "--seconds", "1", "--trials", "2"]
    done = subprocess.run(
        [*COMPARE, *arguments, "--trial-seconds", "0.1", "--json", str(written)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| wgfast |" in done.stdout
    values = {sample["measure"]: sample["values"] for sample in json.loads(written.read_text())["samples"]}
    assert values["tcp1"]["gbps"] > 0.01
    assert values["tcp1"]["machine_cpu_per_gb"] > values["tcp1"]["sender_cpu_per_gb"] > 0
    assert values["udp64"]["kpps"] > 0
    assert 1 < values["idle"]["sender_mib"] <= values["idle"]["sender_peak_mib"] < 200


@pytest.mark.lab
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_an_interrupted_run_leaves_nothing_behind(number: signal.Signals) -> None:
    require_lab()
    require("iperf3")
    process = subprocess.Popen(
        [*COMPARE, "--measures", "tcp1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background of a script, SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_until(lambda: namespaces_of(process.pid), "a namespace", 10)
        time.sleep(1)  # the tunnel is being made, or the stream has begun
        process.send_signal(number)
        assert process.wait(10) == 128 + number
    finally:
        process.kill()
        process.communicate()
    assert not namespaces_of(process.pid)
    assert not list(Path("/var/run/wireguard").glob(f"wgc{process.pid}*"))
