"""How does wgfast compare with other WireGuards on this machine?

Builds a lab of two network namespaces itself, lets implementations take turns in it, and reports TCP and UDP
throughput, latency, processor time and memory of each, with plain veth as the ceiling. Needs root; sends
nothing outside the namespaces it makes, and removes them on every exit.

    python bench/compare.py --quick
    python bench/compare.py --json out/compare.json --markdown out/compare.md --plot out
    python bench/compare.py --impl veth,wgfast,kernel --measures tcp1,udp64 --rounds 5
    python bench/compare.py --impl wgfast --impl 'two=WGFAST_THREADS=2 wgfast' --against wgfast
    python bench/compare.py --impl 'old=/other/checkout/.venv/bin/python -m wgfast -f {if}' --impl wgfast
    python bench/compare.py --impl wgfast,wireguard-go --pair wgfast/wireguard-go
    python bench/compare.py --impl wgfast --soak 3600 --json soak.json --plot .
    python bench/compare.py --render out/compare.json

`make bench-compare` gets the other implementations first. Built-in names: veth (no tunnel), kernel, wgfast
(this checkout), wireguard-go (the current one, built by `make bench-compare`), wireguard-go-system (the one
in PATH), boringtun. compare_measures.py says what each measure is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import compare_peers
import compare_plot
import compare_udp
from compare_contestants import BUILT_IN, VETH, CommandLineError, Contestant, choose_baseline
from compare_lab import Lab, LabError, terminated_as_interrupted
from compare_machine import describe
from compare_measures import Measure
from compare_options import choose_contestants, choose_measures, parse, settings_of
from compare_plan import Plan, progress_bar
from compare_report import markdown
from compare_results import Results

NEEDED = ("ip", "wg", "ping")


def drop_what_lacks_tools(measures: Sequence[Measure], left_out: dict[str, str]) -> list[Measure]:
    """The measures whose programs are there; of the others, `left_out` says what they lack."""
    kept = []
    for measure in measures:
        missing = [tool for tool in measure.tools if shutil.which(tool) is None]
        if missing:
            left_out[measure.name] = f"missing: {', '.join(missing)}"
        else:
            kept.append(measure)
    return kept


def check_machine() -> None:
    """CommandLineError unless namespaces can be made here and looked into."""
    if os.geteuid() != 0:
        raise CommandLineError("it makes network namespaces and interfaces: run it as root")
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        raise CommandLineError(f"missing: {', '.join(missing)}; `make bench-compare` installs them on Debian")
    if not Path("/dev/net/tun").exists():
        raise CommandLineError("there is no /dev/net/tun")


def begin(options: argparse.Namespace) -> tuple[Plan, Results]:
    """What is to be done, and results without samples."""
    check_machine()
    measures = choose_measures(options)
    contestants, left_out = choose_contestants(options)
    measures = drop_what_lacks_tools(measures, left_out)
    for name, why in left_out.items():
        print(f"left out: {name}: {why}", file=sys.stderr)
    plan = Plan(contestants, measures, options.rounds, settings_of(options))
    if not plan.turns():
        raise CommandLineError("nothing is left to be measured")
    settings = {**asdict(plan.settings), "rounds": plan.rounds}
    del settings["udp_program"]
    return plan, Results(
        describe(options.mtu),
        settings,
        [measure.name for measure in measures],
        [_described(contestant) for contestant in contestants],
        left_out,
        offloads(measures, options.mtu),
        choose_baseline(contestants, options.against),
    )


def _described(contestant: Contestant) -> dict[str, str]:
    ends = [contestant.left]
    if contestant.right != contestant.left:
        ends.append(contestant.right)
    return {
        "name": contestant.name,
        "version": " / ".join(end.version for end in ends),
        "command": " / ".join(end.described() for end in ends),
    }


def offloads(measures: Sequence[Measure], mtu: int) -> dict[str, list[dict[str, str]]]:
    """The state of each kind of link that is measured over."""
    found = {}
    plain = BUILT_IN[VETH]()
    for segmenting in sorted({measure.segmented for measure in measures}):
        with Lab(Contestant(VETH, plain, plain), segmenting=segmenting, mtu=mtu) as lab:
            ends = lab.offloads()
        if ends:
            found["segmenting link" if segmenting else "link"] = ends
    return found


def measure(options: argparse.Namespace) -> Results:
    """Carries the plan out. What has been measured is in the file of --json, however it ends."""
    plan, results = begin(options)
    total = plan.duration()
    print(f"about {total / 60:.0f} minutes" if total >= 90 else f"about {total:.0f} s", file=sys.stderr)

    def save() -> None:
        if options.json:
            results.save(options.json)

    with tempfile.TemporaryDirectory(prefix="wgfast-compare-") as directory, progress_bar(total) as advance:
        if any(measure.kind == "udp" for measure in plan.measures):
            program = compare_udp.build(Path(directory))
            plan = replace(plan, settings=replace(plan.settings, udp_program=program))
        try:
            plan.carry_out(results, advance, save)
        except (KeyboardInterrupt, SystemExit):
            if options.json and results.samples:
                print(f"interrupted; what was measured: --render {options.json}", file=sys.stderr)
            raise
    return results


def show(results: Results, options: argparse.Namespace) -> None:
    report = markdown(results)
    print(report, end="")
    if options.markdown:
        options.markdown.parent.mkdir(parents=True, exist_ok=True)
        options.markdown.write_text(report)
    if options.plot:
        for path in compare_plot.plot(results, options.plot):
            print(f"written: {path}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"
    try:
        options = parse(sys.argv[1:] if arguments is None else arguments, __doc__ or "")
        if options.get_peers:
            compare_peers.get_peers()
            return 0
        if options.plot and compare_plot.why_not():
            raise CommandLineError(compare_plot.why_not())
        with terminated_as_interrupted():
            results = Results.load(options.render) if options.render else measure(options)
            show(results, options)
    except (CommandLineError, LabError, ValueError, OSError) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 1 if any(sample.error for sample in results.samples) and not options.render else 0


if __name__ == "__main__":
    sys.exit(main())
