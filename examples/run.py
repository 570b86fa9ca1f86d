"""Builds a topology of this folder out of network namespaces, proves its claims and takes it down again.

    python examples/run.py --list
    python examples/run.py full
    python examples/run.py full --keep        stay up afterwards, to look around
    python examples/run.py full --dry-run     only draw it
    python examples/run.py dynamic_address --patient
    python examples/run.py path/to/a/copy     the same with a changed copy of a folder

As root, on Linux. Exit status 0 if every claim was proved, 1 if not, 2 if it cannot be built here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.status import Status

sys.path.insert(0, str(Path(__file__).resolve().parent))

from testbed import drawing
from testbed.network import Network
from testbed.topology import ProofError, Topology, TopologyError, load

from wgfast.config import ConfigFileError

HERE: Final = Path(__file__).resolve().parent
WIDTH: Final = 110  # where the output is no terminal
PROGRAMS: Final = {
    "ip": "iproute2",
    "nft": "nftables",
    "ping": "iputils-ping",
    "sysctl": "procps",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", required=False)
@click.option("--list", "listing", is_flag=True, help="Show what there is and leave.")
@click.option("--dry-run", is_flag=True, help="Draw it, with its claims unproved, and leave.")
@click.option("--keep", is_flag=True, help="Stay up afterwards until Ctrl-C, with hints how to enter.")
@click.option("-x", "--exit-first", is_flag=True, help="Leave at the first claim that does not hold.")
@click.option("--patient", is_flag=True, help="Wait for what takes minutes, where it could be hastened.")
@click.option(
    "--timeout", type=click.IntRange(1), help="Seconds, for all of it.  [default: 60; patient: 300]"
)
def main(
    name: str | None,
    listing: bool,
    dry_run: bool,
    keep: bool,
    exit_first: bool,
    patient: bool,
    timeout: int | None,
) -> None:
    """Builds the topology NAME, or the one in the folder NAME, and proves what it claims."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    if listing or name is None:
        show_list(console)
        return
    try:
        topology = load(Path(name) if Path(name, "topology.py").exists() else HERE / name)
        console.print(drawing.draw(topology))
        console.print()
        if dry_run:
            for claim in topology.claims:
                console.print(drawing.claim_line(claim, "·"))
            return
        demand_means()
        with ended_by_signals(timeout or (300 if patient else 60)):
            status = run(topology, console, keep, exit_first, patient)
    except (TopologyError, ProofError, ConfigFileError, OSError) as error:
        click.echo(f"run.py: {error}", err=True)
        raise SystemExit(2) from None
    raise SystemExit(status)


def show_list(console: Console) -> None:
    for folder in sorted({path.parent.parent for path in HERE.glob("*/*/wg0.conf")}):
        console.print(f"[bold]{folder.name:<26}[/]{load(folder).title}")


def demand_means() -> None:
    """TopologyError names what is missing here, all at once."""
    missing = [f"root (try: sudo {sys.executable} {' '.join(sys.argv)})"] if os.geteuid() else []
    missing += [] if Path("/dev/net/tun").exists() else ["/dev/net/tun (try: modprobe tun)"]
    packages = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    missing += [f"the programs of {package}" for package in packages]
    if missing:
        raise TopologyError(f"this takes {', and '.join(missing)}")


@contextlib.contextmanager
def ended_by_signals(timeout: int) -> Iterator[None]:
    """What should end the program, or takes too long, unwinds its stack: so nothing is left behind."""

    ours = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGALRM)

    def leave(number: int, _: object) -> None:
        # What takes the network down is not to be interrupted by a second one.
        for each in ours:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGALRM:
            raise TopologyError(f"not done within {timeout} s; --timeout gives it longer")
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in ours}
    signal.alarm(timeout)
    try:
        yield
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def run(topology: Topology, console: Console, keep: bool, exit_first: bool, patient: bool) -> int:
    """Exit status: whether every claim was proved."""
    with contextlib.ExitStack() as stack:
        status = stack.enter_context(console.status("building"))
        network = stack.enter_context(
            Network(topology, patient, lambda what: status.update(f"building: {what}"))
        )
        failed = prove(topology, network, console, status, exit_first)
        status.stop()
        if keep:
            signal.alarm(0)
            drawing.hints(network.entrances, console)
            while True:
                signal.pause()
    return 1 if failed else 0


def prove(topology: Topology, network: Network, console: Console, status: Status, exit_first: bool) -> int:
    """Proves one claim after the other and says how it went; how many do not hold."""
    failed = 0
    for claim in topology.claims:
        status.update(f"proving: {claim.text}")
        began = time.monotonic()
        try:
            shown = claim.prove(network)
        except (ProofError, OSError) as error:
            failed += 1
            console.print(drawing.claim_line(claim, "✗", str(error)))
            if exit_first:
                return failed
        else:
            took = f"in {time.monotonic() - began:.1f} s"
            console.print(drawing.claim_line(claim, "✓", f"{shown}; {took}" if shown else took))
    proved = len(topology.claims) - failed
    console.print()
    console.print(f"{proved} of {len(topology.claims)} claims proved", style="red" if failed else "green")
    return failed


if __name__ == "__main__":
    main()
