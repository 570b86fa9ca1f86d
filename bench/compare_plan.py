"""The order in which bench/compare.py takes its turns, and the bar that shows where it is."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from compare_contestants import Contestant
from compare_lab import LabError
from compare_measures import Measure, Settings
from compare_results import Results, Sample

GIVEN_UP = 3  # failed samples in a row, after which a contestant takes no more turns
Advance = Callable[[str, float], None]


@dataclass(frozen=True)
class Turn:
    round: int
    measure: Measure
    contestant: Contestant


@dataclass(frozen=True)
class Plan:
    """Within a round, everybody has one measure before the next begins: what is compared is as close in time
    as it can be. Every other round goes in the reverse order, so that nobody is always first."""

    contestants: Sequence[Contestant]
    measures: Sequence[Measure]
    rounds: int
    settings: Settings

    def turns(self) -> list[Turn]:
        """A soak is made once."""
        return [
            Turn(number, measure, contestant)
            for number in range(1, self.rounds + 1)
            for measure in self.measures
            for contestant in self.contestants[:: 1 if number % 2 else -1]
            if measure.fits(contestant) and (measure.kind != "soak" or number == 1)
        ]

    def duration(self) -> float:
        """About how many seconds it takes if nothing is repeated."""
        return sum(turn.measure.duration(self.settings) for turn in self.turns())

    def carry_out(self, results: Results, advance: Advance, after: Callable[[], None]) -> None:
        """Adds a sample for each turn to the results, and calls `after` each time."""
        failures: Counter[str] = Counter()
        for turn in self.turns():
            name = turn.contestant.name
            if failures[name] < GIVEN_UP:
                advance(f"round {turn.round}: {name}, {turn.measure.name}", 0)
                sample = self._sample(turn)
                results.samples.append(sample)
                failures[name] = failures[name] + 1 if sample.error else 0
                if failures[name] == GIVEN_UP:
                    results.left_out[name] = f"given up after {GIVEN_UP} failures in a row"
                after()
            advance("", turn.measure.duration(self.settings))

    def _sample(self, turn: Turn) -> Sample:
        """The first one that neither failed nor was disturbed, or else the last."""
        sample = Sample(turn.round, turn.measure.name, turn.contestant.name)
        for attempt in range(1, self.settings.attempts + 1):
            sample = dataclasses.replace(sample, attempt=attempt, values={}, usage={}, error="")
            try:
                values, usage = turn.measure.make(turn.contestant, self.settings)
            except (LabError, OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
                named = "" if isinstance(error, LabError) else f"{type(error).__name__}: "
                sample.error = f"{named}{error}"
                continue
            sample.values, sample.usage = values, dataclasses.asdict(usage)
            sample.disturbed = usage.disturbed
            if not sample.disturbed or turn.measure.kind == "soak":
                break
        return sample


@contextlib.contextmanager
def progress_bar(total: float) -> Iterator[Advance]:
    """A function that shows what is being done and moves a bar on by so many seconds. It does nothing unless
    stderr is a terminal; without rich it writes one line there, again and again."""
    if not sys.stderr.isatty():
        yield lambda text, seconds: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ImportError:
        yield _line(total)
        return
    columns = (TextColumn("{task.description:48}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    # Drawing takes processor time too.
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=1) as bar:
        task = bar.add_task("", total=total)

        def advance(text: str, seconds: float) -> None:
            bar.update(task, advance=seconds, description=text or None)

        yield advance


def _line(total: float) -> Advance:
    begin, done, shown = time.monotonic(), 0.0, ""

    def advance(text: str, seconds: float) -> None:
        nonlocal done, shown
        done, shown = done + seconds, text or shown
        spent = time.monotonic() - begin
        sys.stderr.write(f"\r\x1b[K{done / total:4.0%} {spent:5.0f} s  {shown}")
        sys.stderr.write("\n" if done >= total else "")
        sys.stderr.flush()

    return advance
