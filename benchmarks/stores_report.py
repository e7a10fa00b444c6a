"""The report of `stores.py`: tables in Markdown from the figures of single runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from report import show_s
from side_by_side import BASELINES
from workloads import BY_NAME

AIM_FEWER_BYTES = 1_000
AIM_OF_RAW = 0.8
_MB = 1_000_000
Run = Mapping[str, Any]


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the whole report."""
    lines: list[str] = []
    for store, cases in result["sides"].items():
        lines += [*_sides(store, cases), ""]
    for store in result["stores"]:
        rows = {name: runs[store] for name, runs in result["per_task"].items() if store in runs}
        if rows:
            lines += [*_per_task(store, rows), ""]
    if result["raw"]:
        lines += [*_large(result["raw"]), "", *_small(result["raw"]), ""]
    return "\n".join([*lines, *_about(result)]).strip() + "\n"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> list[str]:
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * left + "---:|" * (len(heads) - left)]
    return lines + [f"| {' | '.join(map(str, row))} |" for row in rows]


def _mb(size_bytes: float) -> str:
    mb = size_bytes / _MB
    return f"{mb:,.0f}" if mb >= 100 else f"{mb:.1f}" if mb >= 10 else f"{mb:.2f}" if mb >= 1 else f"{mb:.3f}"


def _median(runs: Sequence[Run], *path: str) -> float:
    figures = []
    for run in runs:
        found: Any = run
        for name in path:
            found = found[name]
        figures.append(found)
    return statistics.median(figures)


def _both(runs: Sequence[Run], figure: str) -> float:
    return statistics.median(run["work"][figure] + run["client"][figure] for run in runs)


def _calls(runs: Sequence[Run], who: str) -> float:
    return statistics.median(sum(run[who][verb] for verb in ("gets", "puts", "incrs")) for run in runs)


# --- side by side


def _sides(store: str, cases: Mapping[str, Any]) -> list[str]:
    heads = ("DAG", "engine", "MB written", "fewer", "MB read", "fewer", "calls", "get", "put", "incr")
    heads = (*heads, "arrivals", "client's calls", "queue", "executors", "s")
    rows = []
    for case in cases.values():
        baseline = case["runs"].get("stateless", [])
        title = f"{case['title']} ({_median(baseline, 'tasks'):.0f} tasks)" if baseline else case["title"]
        for engine, runs in case["runs"].items():
            if not runs:
                continue
            first, title = title, ""
            figures = [_median(runs, "work", name) for name in ("gets", "puts", "incrs", "arrivals")]
            rows.append(
                [
                    first,
                    engine,
                    *_against(runs, baseline, "put_bytes"),
                    *_against(runs, baseline, "got_bytes"),
                    f"{_calls(runs, 'work'):.0f}",
                    *(f"{figure:.0f}" for figure in figures),
                    f"{_calls(runs, 'client'):.0f}",
                    f"{_median(runs, 'queue_operations'):.0f}" if engine in BASELINES else "",
                    "" if engine in BASELINES else f"{_median(runs, 'executors'):.0f}",
                    show_s(_median(runs, "seconds")),
                ]
            )
    lines = [f"Through the store, {store}:", "", *_table(heads, rows, left=2)]
    return [*lines, "", *_claim(cases["tsqr-large"])] if "tsqr-large" in cases else lines


def _against(runs: Sequence[Run], baseline: Sequence[Run], figure: str) -> tuple[str, str]:
    size_bytes = _both(runs, figure)
    if runs is baseline or not baseline or not size_bytes:
        return _mb(size_bytes), ""
    ratio = _both(baseline, figure) / size_bytes
    return _mb(size_bytes), f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


def _claim(case: Mapping[str, Any]) -> list[str]:
    """Compare bytes written with the aim; also without the random input, which the baseline stores as well."""
    baseline, wukong = case["runs"].get("stateless"), case["runs"].get("Wukong")
    if not baseline or not wukong:
        return []
    ours = max(_both([run], "put_bytes") for run in wukong)
    whole = _both(baseline, "put_bytes")
    lean = whole - statistics.median(run["put_of"].get("random", 0) for run in baseline)
    ratios = [theirs / ours for theirs in (whole, lean)]
    verdicts = ["yes" if ratio >= AIM_FEWER_BYTES else "**no**" for ratio in ratios]
    return [
        f"{case['title']}: Wukong writes {_mb(ours)} MB in its worst run, the baseline {_mb(whole)} MB: "
        f"{ratios[0]:,.0f}x fewer (aim {AIM_FEWER_BYTES:,}x: {verdicts[0]}); not counting the random chunks, which "
        f"are input, {_mb(lean)} MB: {ratios[1]:,.0f}x ({verdicts[1]})."
    ]


# --- per task


def _per_task(store: str, rows: Mapping[str, Sequence[Run]]) -> list[str]:
    served = any(runs[0]["seen"] for runs in rows.values())
    heads = ["workload", "tasks", "executors", "s", "calls", "calls/task", "client's calls"]
    heads += ["MB put", "MB got", "bytes/task"]
    if served:
        heads += ["commands/task", "requests/task", "MB in", "MB out", "wire bytes/task"]
    cells = []
    for name, runs in rows.items():
        n = _median(runs, "tasks")
        calls, put, got = _calls(runs, "work"), _both(runs, "put_bytes"), _both(runs, "got_bytes")
        row = [BY_NAME[name].title.split(": cost")[0], f"{n:,.0f}", f"{_median(runs, 'executors'):.0f}"]
        row += [show_s(_median(runs, "seconds")), f"{calls:.0f}", _each(calls / n), f"{_calls(runs, 'client'):.0f}"]
        row += [_mb(put), _mb(got), f"{(put + got) / n:,.0f}"]
        if served:
            requests = runs[0]["seen"]["requests"]
            into, out = _median(runs, "seen", "in_bytes"), _median(runs, "seen", "out_bytes")
            row += [_each(_median(runs, "seen", "commands") / n)]
            row += ["" if requests is None else _each(_median(runs, "seen", "requests") / n)]
            row += [_mb(into), _mb(out), f"{(into + out) / n:,.0f}"]
        cells.append(row)
    return [f"Round trips and bytes on {store}:", "", *_table(heads, cells)]


def _each(figure: float) -> str:
    return f"{figure:.4f}" if figure < 0.01 else f"{figure:.2f}"


# --- against the raw clients


def _ratio(pair: Mapping[str, Sequence[float]]) -> float:
    """Return the speed of the plug-in as a multiple of the raw client's: the median of the pairs."""
    return statistics.median(raw / ours for ours, raw in zip(pair["plugin"], pair["raw"], strict=True))


def _large(raw: Mapping[str, Any]) -> list[str]:
    heads = ("store", "value", "put MB/s", "raw", "of raw", "get MB/s", "raw", "of raw")
    rows = []
    for store in raw.values():
        for size_mb, verbs in store["large"].items():
            row = [store["title"], f"{size_mb} MB"]
            for pair in verbs.values():
                rates = [int(size_mb) / statistics.median(pair[side]) for side in ("plugin", "raw")]
                ratio = _ratio(pair)
                row += [f"{rate:,.0f}" for rate in rates]
                row.append(f"{ratio:.2f}" if ratio >= AIM_OF_RAW else f"**{ratio:.2f}**")
            rows.append(row)
    return [f"Large values, plug-in against raw client (aim {AIM_OF_RAW}):", "", *_table(heads, rows, left=2)]


def _small(raw: Mapping[str, Any]) -> list[str]:
    heads = ("store", "call", "us", "raw us", "calls/s", "raw calls/s", "of raw")
    rows = []
    for store in raw.values():
        for name, pair in store["small"].items():
            ours, theirs = (statistics.median(pair[side]) for side in ("plugin", "raw"))
            row = [store["title"], name, f"{ours * 1e6:.1f}", f"{theirs * 1e6:.1f}"]
            rows.append([*row, f"{1 / ours:,.0f}", f"{1 / theirs:,.0f}", f"{_ratio(pair):.2f}"])
    return ["Small calls, plug-in against raw client:", "", *_table(heads, rows, left=2)]


# --- how to read it


def _about(result: Mapping[str, Any]) -> list[str]:
    about, arguments = result["machine"], result["arguments"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        "How this was measured:",
        "",
        f"- Machine: {about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB, {about['system']}; "
        f"load {about['load']:.2f} when it started, {about['load_after']:.2f} when it ended.",
        f"- Python {about['python']}; {versions}.",
        "- Servers run on the same machine, on the loopback interface, started for this run.",
    ]
    if result["sides"]:
        lines += [
            f"- `stateless` is `benchmarks/stateless.py`: {arguments['workers']} worker processes, a queue, every "
            "value through the store; `tuned` keeps its last 5 values and goes on with a task that it made ready. "
            f"Wukong has {arguments['workers']} slots, and more while executors wait. One BLAS thread each.",
            f"- Medians of {arguments['repeat']} runs after one warm-up, all engines in turn; TSQR of the largest size "
            "once. Answers are compared. `calls` are calls of the store by workers or executors, each a round trip to "
            "every server that has a share; of Wukong's, one `get` and one `put` per executor and second are signs of "
            "life. `queue` are takes from and additions to the baseline's queue. `fewer` is against `stateless`.",
        ]
    if result["per_task"]:
        lines.append(
            "- Round trips per task: medians after one warm-up, stores in turn, answers checked. `commands` and "
            "`requests` are the servers' own counters, the client's part and the clean-up included: `requests` are "
            "reads from a connection, of which a large value needs many."
        )
    if result["raw"]:
        lines.append("- Against raw clients: alternating pairs from one process; the ratio is the median of the pairs.")
    return lines
