"""The results of bench/compare.py as bars, and a soak's memory as lines: PNG files, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compare_contestants import VETH
from compare_report import SOAK, TABLES, Table, columns_of, number
from compare_results import Results


def why_not() -> str:
    """Why nothing can be plotted; empty if matplotlib is there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        return f"--plot needs matplotlib ({error}); wgfast[bench] installs it"
    return ""


def plot(results: Results, directory: Path) -> list[Path]:
    """Writes compare.png and, after a soak, soak.png, each if there is something to show."""
    import matplotlib

    matplotlib.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    return [path for path in (_bars(results, directory), _lines(results, directory)) if path]


def _bars(results: Results, directory: Path) -> Path | None:
    from matplotlib import pyplot

    tables = [table for table in TABLES if columns_of(table, results)]
    if not tables:
        return None
    wide = min(2, len(tables))
    high = -(-len(tables) // wide)
    size = (7.5 * wide, 3.6 * high)
    figure, grid = pyplot.subplots(high, wide, figsize=size, squeeze=False, layout="constrained")
    for axes in grid.flat[len(tables) :]:
        axes.set_visible(False)
    for axes, table in zip(grid.flat, tables, strict=False):
        _panel(axes, table, results)
    handles, names = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=len(names), fontsize=8)
    figure.suptitle(
        f"{results.machine['processor']}; {results.machine['kernel']}", x=0.02, ha="left", fontsize=9
    )
    path = directory / "compare.png"
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _panel(axes: Any, table: Table, results: Results) -> None:
    """Groups of bars, a group for each measure; a line from the least to the greatest of the rounds. Plain
    veth would dwarf the tunnels: it stands in the title."""
    columns = columns_of(table, results)
    names = [name for name in results.names if name != VETH] or results.names
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        figures = [results.figure(measure, table.metric, name) for measure in columns]
        there = [(place, figure) for place, figure in enumerate(figures) if figure]
        places = [place + (index - (len(names) - 1) / 2) * width for place, _ in there]
        medians = [figure.median for _, figure in there]
        below = [figure.median - figure.least for _, figure in there]
        above = [figure.greatest - figure.median for _, figure in there]
        spread = {"yerr": (below, above), "capsize": 2} if any(below + above) else {}
        bars = axes.bar(places, medians, width, label=name, color=f"C{index}", **spread)
        axes.bar_label(bars, [number(median) for median in medians], fontsize=6, padding=2)
    axes.set_title(_title(table, results, columns, VETH not in names), fontsize=9)
    axes.set_xticks(range(len(columns)), columns, fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    axes.margins(y=0.15)


def _title(table: Table, results: Results, columns: Sequence[str], with_veth: bool) -> str:
    title = f"{table.title} ({'more' if table.more_is_better else 'less'} is better)"
    figures = [results.figure(measure, table.metric, VETH) for measure in columns]
    if with_veth and any(figures):
        title += f"\n{VETH}: " + ", ".join(number(figure.median) if figure else "none" for figure in figures)
    return title


def _lines(results: Results, directory: Path) -> Path | None:
    from matplotlib import pyplot

    soaks = [sample for name in results.names for sample in results.of(SOAK, name)]
    if not soaks:
        return None
    figure, axes = pyplot.subplots(figsize=(10, 5.5))
    for sample in soaks:
        times = [row[0] for row in sample.values["samples"]]
        colour = f"C{results.names.index(sample.contestant)}"
        for column, end, style in ((1, "sending", "-"), (2, "receiving", "--")):
            sizes = [row[column] for row in sample.values["samples"]]
            axes.plot(times, sizes, style, color=colour, label=f"{sample.contestant}, {end}")
    axes.set_xlabel("seconds of one TCP stream")
    axes.set_ylabel("resident MiB")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    path = directory / "soak.png"
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)
    return path
