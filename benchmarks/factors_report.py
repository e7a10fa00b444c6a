"""The report of `factors.py`: tables, the plot, and their place in docs/benchmarks.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from factors_plot import drawn
from report import show_s

BEGIN, END = "<!-- benchmarks/factors.py writes from here on -->", "<!-- benchmarks/factors.py writes up to here -->"
PLOT = "factors.svg"
_QUIET = 0.2
_SHORT = {"svd": "SVD compressed", "fan-out": "wide fan-out"}
Runs = Sequence[Mapping[str, Any]]


def median(runs: Runs, figure: str | Callable[[Mapping[str, Any]], float]) -> float:
    """Return the median of a field of `factors.One`, or of what is made of one."""
    return statistics.median(each[figure] if isinstance(figure, str) else figure(each) for each in runs)


def ratios(runs: Runs, others: Runs, figure: str) -> list[float]:
    """Return the ratios of `runs` to the `others` of the same rounds, in order."""
    return sorted(each[figure] / other[figure] for each, other in zip(runs, others, strict=False) if other[figure])


def times(runs: Runs, others: Runs, figure: str = "wall_s") -> str:
    """Return the median of the ratios, with their spread; in bold if all runs were on one side of 1."""
    found = ratios(runs, others, figure)
    if not found:
        return ""
    text = f"{statistics.median(found):.2f}x"
    text = f"**{text}**" if found[0] > 1.05 or found[-1] < 0.95 else text
    return f"{text} ({found[0]:.2f} to {found[-1]:.2f})" if len(found) > 1 else text


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the tables, and what is needed to read them."""
    return "\n\n".join("\n".join(part) for part in (_switched_off(result), _all_runs(result), _reading(result)))


def _switched_off(result: Mapping[str, Any]) -> list[str]:
    """What each factor is worth if all the others are on."""
    workloads = result["workloads"]
    columns = [f"{workload}: {what}" for workload in workloads for what in ("time", "bytes", "cost")]
    lines = [
        "How many times as much it takes if one technique is switched off, and all others are on:",
        "",
        f"| off | {' | '.join(columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for title, without, with_it in result["pairs"]:
        cells = []
        for runs in (result["runs"][workload] for workload in workloads):
            off, on = runs[without], runs[with_it]
            cells += [times(off, on, figure) for figure in ("wall_s", "carried_bytes", "usd")]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def _all_runs(result: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for workload, title in result["workloads"].items():
        runs = result["runs"][workload]
        head = "s (range)", "of the step before", "MB put / got", "store calls", "invocations", "by the proxy"
        head += "$ per 1,000", "busiest link", "CPU"
        lines += [f"{title[0].upper()}{title[1:]}:", "", f"| | {' | '.join(head)} |", f"|---|{'---:|' * len(head)}"]
        before: Runs = ()
        for name in (*result["ladder"], *_others(result)):
            on_ladder = name in result["ladder"]
            lines.append(_row(name, runs[name], before if on_ladder else (), result["machine"]["cores"]))
            before = runs[name] if on_ladder else before
        lines.append("")
    return lines[:-1]


def _others(result: Mapping[str, Any]) -> list[str]:
    return [name for name in result["configurations"] if name not in result["ladder"]]


def _row(name: str, runs: Runs, before: Runs, cores: int) -> str:
    if not runs:
        return f"| {name} | not run{' |' * 9}"
    seconds = sorted(each["wall_s"] for each in runs)
    cpu = [each for each in runs if each["cpu_s"] is not None]
    cells = (
        f"**{show_s(statistics.median(seconds))}** ({show_s(seconds[0])} to {show_s(seconds[-1])})",
        times(runs, before),
        f"{median(runs, 'put_bytes') / 1e6:.1f} / {median(runs, 'got_bytes') / 1e6:.1f}",
        f"{median(runs, 'operations'):.0f}",
        f"{median(runs, 'executors'):.0f}",
        f"{median(runs, 'proxied'):.0f}",
        f"{median(runs, 'usd') * 1e3:.2f}",
        f"{median(runs, lambda each: each['link_s'] / each['wall_s']):.0%}",
        f"{median(cpu, lambda each: each['cpu_s'] / each['wall_s'] / cores):.0%}" if cpu else "",
    )
    return f"| {name} | {' | '.join(cells)} |"


def _reading(result: Mapping[str, Any]) -> list[str]:
    about, wires, runs = result["machine"], result["wires"], result["runs"]
    every = [one for each in runs.values() for some in each.values() for one in some]
    counts = sorted({len(some) for each in runs.values() for some in each.values()})
    others = [one for one in every if one["cpu_s"] is not None]
    busy = median(others, lambda one: max(0.0, one["cpu_all_s"] - one["cpu_s"]) / one["wall_s"]) if others else 0.0
    quiet = f"other programs kept {busy:.2f} cores busy meanwhile"
    quiet = f"**the machine was not quiet: {quiet}**" if busy > _QUIET else quiet
    again, unproxied = sum(one["again"] for one in every), sum(one["unproxied"] for one in every)
    number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return [
        f"Medians of {number} runs, ratios of runs of the same round and their range; bold: all of them beyond 5%. "
        f"{wires['shards']} shards against 1, each with {wires['bandwidth_mb_s']:g} MB/s each way and "
        f"{wires['latency_ms']:g} ms of round trip; {wires['invoke_ms']:g} ms for a call of Lambda's API. "
        "Busiest link: for how much of the time it was full. CPU: of all cores, by everything that the benchmark runs, "
        f"servers and links included; {quiet}. "
        f"Invocations made again: {again}; past the proxy: {unproxied}.",
        "",
        f"{about['day']}, {about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB, {about['system']}, "
        f"Python {about['python']}, {', '.join(f'{name} {number}' for name, number in about['versions'].items())}.",
    ]


def plot(result: Mapping[str, Any]) -> str:
    """Return the plot: an SVG of a bar for each configuration, the ladder above, the others below."""
    names = [*result["ladder"], *_others(result)]
    panels = []
    for workload in result["workloads"]:
        runs = result["runs"][workload]
        panels.append((f"{_SHORT[workload]}, seconds", [sorted(one["wall_s"] for one in runs[name]) for name in names]))
    return drawn(names, panels, gap_after=len(result["ladder"]))


def write(result: Mapping[str, Any], docs: Path) -> None:
    """Put tables and plot into `docs`: between the marks in benchmarks.md, and beside it.

    Raises ValueError if the marks are not there.
    """
    page = docs / "benchmarks.md"
    text = page.read_text()
    if BEGIN not in text or END not in text.partition(BEGIN)[2]:
        raise ValueError(f"{page} does not say where the tables go, between\n{BEGIN}\n{END}")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    described = "Bars: the time with nothing, with one technique after the other, and with each of them switched off"
    page.write_text(
        f"{before}{BEGIN}\n\n![{described}]({PLOT})\n\n{to_markdown(result)}\n\n{END}{after}",
    )
    (docs / PLOT).write_text(plot(result))
