"""The command line of bench/compare.py: its options, and what they choose."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from compare_contestants import (
    BUILT_IN,
    EVERYBODY,
    VETH,
    CommandLineError,
    Contestant,
    MissingError,
    assemble,
    parse_implementations,
    parse_pairs,
)
from compare_lab import kernel_refusal
from compare_measures import DEFAULT, SOAK, Measure, Settings

QUICK_MEASURES = ("tcp1", "tcp4", "tcp1-back", "udp64", "udp1372", "ping", "ping-loaded", "idle")
QUICK = {"rounds": 1, "seconds": 2, "trial_seconds": 0.4, "trials": 7, "quiet_timeout": 1.0, "attempts": 1}
LEAST = {"rounds": 1, "seconds": 1, "trials": 1, "trial_seconds": 0.1, "tolerance": 0, "soak": 0, "mtu": 1360}


def parser(description: str) -> argparse.ArgumentParser:
    """With the first paragraph of `description` above the options, and the rest below."""
    above, _, below = description.partition("\n\n")
    made = argparse.ArgumentParser(
        prog="compare.py",
        description=above,
        epilog=below,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(rounds=3, **asdict(Settings()))
    _add_who(made.add_argument_group("who takes part"))
    _add_what(made.add_argument_group("what is measured"))
    _add_how(made.add_argument_group("how"))
    _add_results(made.add_argument_group("what comes out, beside the report on stdout"))
    made.add_argument("--get-peers", action="store_true", help="only get the other implementations and tools")
    return made


def _add_who(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--impl",
        action="append",
        default=[],
        metavar="NAME,...|NAME=[VAR=VALUE...] COMMAND",
        help=f"built-in names ({', '.join(BUILT_IN)}; default: all but the last), or a command, {{if}} for "
        "the interface",
    )
    group.add_argument(
        "--pair",
        action="append",
        default=[],
        metavar="A/B",
        help="also A on one end and B on the other, and the other way round",
    )
    group.add_argument("--against", metavar="NAME", help="divide by its figures; default: wireguard-go")


def _add_what(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--measures", metavar="NAME,...", help=f"default: {','.join(DEFAULT)}")
    group.add_argument(
        "--soak",
        type=int,
        metavar="SECONDS",
        help="hold a TCP stream for so long and watch the memory; without --measures nothing else",
    )
    group.add_argument(
        "--quick",
        action="store_true",
        help="one short round of fewer measures; default: veth, wgfast and one wireguard-go",
    )


def _add_how(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--rounds", type=int, metavar="N", help="default: 3")
    group.add_argument(
        "--seconds", type=int, metavar="S", help="of TCP and idle; ping takes two times as long; default: 5"
    )
    group.add_argument(
        "--tolerance",
        type=float,
        metavar="SHARE",
        help="of its datagrams that a UDP trial may lose; default: 0.001; RFC 2544's is 0",
    )
    group.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="of a UDP search; default: 8, which leaves 2 %% between two rates",
    )
    group.add_argument("--trial-seconds", type=float, metavar="S", help="of each of them; default: 1.5")
    group.add_argument("--congestion", metavar="NAME", help="TCP's congestion control; default: cubic")
    group.add_argument(
        "--mtu", type=int, metavar="BYTES", help="the link's; default: 1500. A tunnel has 80 less"
    )


def _add_results(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--json", type=Path, metavar="FILE", help="all samples, written after each of them")
    group.add_argument("--markdown", type=Path, metavar="FILE", help="the report")
    group.add_argument("--plot", type=Path, metavar="DIR", help="PNGs (needs matplotlib)")
    group.add_argument(
        "--render", type=Path, metavar="FILE", help="measure nothing, report what --json wrote"
    )


def parse(arguments: Sequence[str], description: str) -> argparse.Namespace:
    """CommandLineError if a value cannot be meant. Whatever --quick stands for can be overridden."""
    made = parser(description)
    options = made.parse_args(arguments)
    if options.quick:
        made.set_defaults(**QUICK)
        options = made.parse_args(arguments)
    for name, least in LEAST.items():
        value = getattr(options, name)
        if not value >= least:
            raise CommandLineError(f"--{name.replace('_', '-')} {value}: {least} or more was expected")
    if options.tolerance >= 1:
        raise CommandLineError(f"--tolerance {options.tolerance}: a share below 1 was expected")
    return options


def settings_of(options: argparse.Namespace) -> Settings:
    return Settings(**{name: getattr(options, name) for name in asdict(Settings())})


def choose_measures(options: argparse.Namespace) -> list[Measure]:
    """Those asked for, each once. CommandLineError if there is no such measure."""
    if options.measures is not None:
        names = [name.strip() for name in options.measures.split(",")]
    elif options.soak:
        names = []
    else:
        names = list(QUICK_MEASURES if options.quick else DEFAULT)
    if SOAK in names and not options.soak:
        raise CommandLineError(f"--measures {SOAK}: --soak SECONDS says for how long")
    names += [SOAK] if options.soak else []
    return [Measure.of(name) for name in dict.fromkeys(names)]


def choose_contestants(options: argparse.Namespace) -> tuple[list[Contestant], dict[str, str]]:
    """Those that can take part, and why others cannot."""
    names = options.impl or [",".join(_quick_names() if options.quick else EVERYBODY)]
    wanted = parse_implementations(names)
    return assemble(wanted, parse_pairs(options.pair, wanted), kernel_refusal)


def _quick_names() -> list[str]:
    """Plain veth, wgfast and the newest wireguard-go there is."""
    try:
        BUILT_IN["wireguard-go"]()
    except MissingError:
        return [VETH, "wgfast", "wireguard-go-system"]
    return [VETH, "wgfast", "wireguard-go"]
