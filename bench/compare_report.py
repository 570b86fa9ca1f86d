"""The results of bench/compare.py as a report in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from compare_results import Figure, Results, Sample, growth

TCP, UDP, PING, IDLE, SOAK = "tcp", "udp", "ping", "idle", "soak"


@dataclass(frozen=True)
class Table:
    """One metric: a row for each contestant, a column for each measure of these kinds."""

    title: str
    metric: str
    kinds: tuple[str, ...]
    note: str = ""
    more_is_better: bool = False


TABLES = (
    Table(
        "TCP, Gbit/s",
        "gbps",
        (TCP,),
        "One and more streams; `-back` from right to left.",
        more_is_better=True,
    ),
    Table(
        "UDP without loss, 1,000 packets a second",
        "kpps",
        (UDP,),
        "By the bytes of a datagram's payload. `at least`: the sender could not keep a higher rate, or "
        "none was searched for.",
        more_is_better=True,
    ),
    Table("Processor seconds per GB: the whole machine", "machine_cpu_per_gb", (TCP, SOAK)),
    Table(
        "Processor seconds per GB: the sending tunnel's process",
        "sender_cpu_per_gb",
        (TCP, SOAK),
        "The kernel charges what an interrupt does, like most of the way to the far end's socket, to "
        "whoever runs at that moment.",
    ),
    Table("Processor seconds per GB: the receiving tunnel's process", "receiver_cpu_per_gb", (TCP, SOAK)),
    Table("Ping, median, µs", "median_us", (PING,), "`-loaded`: beside one TCP stream the same way."),
    Table("Ping, 99th percentile, µs", "p99_us", (PING,)),
    Table(
        "Highest resident memory of the sending tunnel's process, MiB",
        "sender_peak_mib",
        (IDLE, TCP, UDP, SOAK),
    ),
    Table(
        "Highest resident memory of the receiving tunnel's process, MiB",
        "receiver_peak_mib",
        (IDLE, TCP, UDP, SOAK),
    ),
)


def kind_of(measure: str) -> str:
    return next(kind for kind in (TCP, UDP, PING, IDLE, SOAK) if measure.startswith(kind))


def columns_of(table: Table, results: Results) -> list[str]:
    """The measures that have anything to show in this table."""
    return [
        measure
        for measure in results.measures
        if kind_of(measure) in table.kinds
        and any(results.figure(measure, table.metric, name) for name in results.names)
    ]


def number(value: float) -> str:
    """Three digits that count, all of them behind the point at most."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3
    return f"{value:,.{digits}f}" if value else "0"


def markdown(results: Results) -> str:
    """The whole report."""
    parts = [
        "# WireGuard implementations side by side",
        _machine(results),
        _contestants(results),
        _method(results),
    ]
    parts += [_table(table, results) for table in TABLES if columns_of(table, results)]
    parts += [_soak(results), _doubts(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    rule = ["---" if index < left else "---:" for index in range(len(heads))]
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(heads), rule, *escaped])


def _machine(results: Results) -> str:
    rows = [[name, value] for name, value in results.machine.items()]
    for link, ends in results.offloads.items():
        states = [", ".join(f"{name} {state}" for name, state in end.items()) for end in ends]
        text = states[0] if len(set(states)) == 1 else "; ".join(states)
        rows.append([f"{link} (ethtool -k)", text])
    if not results.offloads:
        rows.append(["link's offloads", "unknown, there is no ethtool"])
    return _rows(["machine", ""], rows, left=2)


def _contestants(results: Results) -> str:
    rows = [[one["name"], one["version"], f"`{one['command']}`"] for one in results.contestants]
    text = _rows(["implementation", "version", "command"], rows, left=3)
    if results.left_out:
        text += "\n\nLeft out:\n\n" + "\n".join(f"- {name}: {why}" for name, why in results.left_out.items())
    return text


def _method(results: Results) -> str:
    settings, kinds = results.settings, {kind_of(measure) for measure in results.measures}
    rounds, tolerance = settings["rounds"], settings["tolerance"]
    lines = [
        "Two network namespaces on one machine share its processors with the programs that make the traffic:",
        "what counts is how the rows compare.",
        f"{_counted(rounds, 'round')}, in each of which the implementations take turns at every measure,",
        f"with new tunnels each time; {settings['seconds']} s of TCP, twice that of pings.",
    ]
    if rounds > 1:
        lines.append("Medians, from the least to the greatest in parentheses.")
    if TCP in kinds:
        lines.append(f"TCP with {settings['congestion']}; GB are 10^9 bytes that arrived.")
    if UDP in kinds:
        lines.append(
            f"UDP: a binary search of {settings['trials']} trials of {settings['trial_seconds']:g} s, in"
        )
        lines.append(f"which {f'up to {tolerance:.2%}' if tolerance else 'nothing'} may be lost.")
    if results.baseline:
        lines.append(f"`x`: times {results.baseline}, within a round.")
    return "\n".join(lines)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _table(table: Table, results: Results) -> str:
    columns = columns_of(table, results)
    rows = []
    for name in results.names:
        figures = [results.figure(measure, table.metric, name) for measure in columns]
        if any(figures):
            cells = [
                _cell(figure, table.metric == "kpps" and bool(results.limits(measure, name)))
                for measure, figure in zip(columns, figures, strict=True)
            ]
            rows.append([name, *cells])
    better = "more is better" if table.more_is_better else "less is better"
    note = f"\n\n{table.note}" if table.note else ""
    return f"## {table.title} ({better}){note}\n\n{_rows(['', *columns], rows)}"


def _cell(figure: Figure | None, at_least: bool = False) -> str:
    if figure is None:
        return ""
    text = ("at least " if at_least else "") + number(figure.median)
    if figure.rounds > 1:
        text += f" ({number(figure.least)} to {number(figure.greatest)})"
    if figure.ratio is not None:
        text += f", {number(figure.ratio)} x"
    return text


def _soak(results: Results) -> str:
    rows = []
    for name in results.names:
        for sample in results.of(SOAK, name):
            series = sample.values["samples"]
            for column, end in ((1, "sending"), (2, "receiving")):
                sizes = [row[column] for row in series]
                if not any(sizes):
                    continue
                shown = (sizes[0], max(sizes), sizes[-1], growth(series, column))
                rows.append([name, end, number(sample.values["gbps"]), *map(number, shown)])
    if not rows:
        return ""
    heads = ["", "end", "Gbit/s", "first", "highest", "last", "growth an hour in the second half"]
    title = f"## Soak: resident memory in MiB during {results.settings['soak']:g} s of one TCP stream"
    return f"{title}\n\n{_rows(heads, rows, left=2)}"


def _doubts(results: Results) -> str:
    """What speaks against these figures."""
    failed = [sample for sample in results.samples if sample.error]
    disturbed = [sample for sample in results.samples if sample.disturbed]
    lossy = [sample for sample in results.samples if sample.values.get("lost")]
    samples = _counted(len(results.samples), "sample")
    parts = [f"{samples}, {len(disturbed)} of them disturbed, {len(failed)} failed."]
    if disturbed:
        again = ", also when repeated" if results.settings["attempts"] > 1 else ""
        parts += [f"Disturbed{again}: others, or the hypervisor, took more than 5 % of a processor."]
        parts += [_listed(disturbed, _disturbance)]
    if failed:
        parts += ["Failed:", _listed(failed, lambda sample: " ".join(sample.error.split()))]
    if lossy:
        parts += ["Echoes lost:", _listed(lossy, lambda sample: f"{sample.values['lost']:.1%}")]
    return "## Doubts\n\n" + "\n\n".join(parts)


def _disturbance(sample: Sample) -> str:
    usage = sample.usage
    others = f"others {usage['strangers']:.2f} s, stolen {usage['stolen']:.2f} s"
    return f"{others} of {usage['seconds']:.1f} s"


def _listed(samples: Sequence[Sample], say: Callable[[Sample], str]) -> str:
    return "\n".join(
        f"- {sample.contestant}, {sample.measure}, round {sample.round}: {say(sample)}" for sample in samples
    )
