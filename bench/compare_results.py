"""What bench/compare.py has measured, as it is kept in JSON, and the figures drawn from it."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Sample:
    """One measure of one contestant in one round. With an `error` there are no values."""

    round: int
    measure: str
    contestant: str
    values: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    disturbed: bool = False
    attempt: int = 1
    error: str = ""


@dataclass(frozen=True)
class Figure:
    """The median of the rounds, with the least and the greatest; and the median of the ratios to
    the baseline, each taken within a round."""

    median: float
    least: float
    greatest: float
    rounds: int
    ratio: float | None


@dataclass
class Results:
    machine: dict[str, str]
    settings: dict[str, Any]
    measures: list[str]
    contestants: list[dict[str, str]]  # name, command, version
    left_out: dict[str, str]  # what does not take part, and why
    offloads: dict[str, list[dict[str, str]]]  # of the link's ends, by the kind of link
    baseline: str | None
    samples: list[Sample] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [contestant["name"] for contestant in self.contestants]

    def save(self, path: Path) -> None:
        """Whole or not at all, for it is written again and again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.getpid()}")
        new.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        new.replace(path)

    @classmethod
    def load(cls, path: Path) -> Results:
        """ValueError if the file is none of ours."""
        try:
            read = json.loads(path.read_text())
            return cls(**{**read, "samples": [Sample(**sample) for sample in read["samples"]]})
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: not written by bench/compare.py --json: {error}") from None

    def of(self, measure: str, contestant: str) -> list[Sample]:
        return [
            sample
            for sample in self.samples
            if (sample.measure, sample.contestant) == (measure, contestant) and not sample.error
        ]

    def figure(self, measure: str, metric: str, contestant: str) -> Figure | None:
        """None if it was not measured, or has no such metric."""
        own = self._by_round(measure, metric, contestant)
        if not own:
            return None
        others = self._by_round(measure, metric, self.baseline) if contestant != self.baseline else {}
        ratios = [value / others[number] for number, value in own.items() if others.get(number)]
        values = list(own.values())
        return Figure(
            statistics.median(values),
            min(values),
            max(values),
            len(values),
            statistics.median(ratios) if ratios else None,
        )

    def _by_round(self, measure: str, metric: str, contestant: str | None) -> dict[int, float]:
        samples = self.of(measure, contestant) if contestant else []
        return {sample.round: sample.values[metric] for sample in samples if metric in sample.values}

    def limits(self, measure: str, contestant: str) -> list[str]:
        """What ended the searches of a udp measure that no loss has ended."""
        found = [str(sample.values.get("limit", "")) for sample in self.of(measure, contestant)]
        return sorted({limit for limit in found if limit not in ("", "loss")})


def growth(samples: Sequence[Sequence[float]], column: int) -> float:
    """Of a soak's samples, MiB an hour in the second half, by the least squares; what a start takes is no
    growth."""
    half = [(row[0], row[column]) for row in samples[len(samples) // 2 :]]
    if len(half) < 2:
        return 0.0
    mean_time = statistics.fmean(at for at, _ in half)
    mean_size = statistics.fmean(size for _, size in half)
    spread = sum((at - mean_time) ** 2 for at, _ in half)
    slope = sum((at - mean_time) * (size - mean_size) for at, size in half) / spread if spread else 0.0
    return slope * 3600
