"""The report of `engines.py`: one table of medians, the start-up table, and what is needed to read them."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from peers import BLAS, ENGINES, N_WORKERS
from workloads import BY_NAME, Reach

PACKAGES = ("dask", "distributed", "ray", "parsl", "numpy", "scipy", "scikit-learn", "dask-ml", "wukong-serverless")
IMPORT_REACH_S, START_REACH_S = 0.5, 1.0


def machine(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Return a description of the machine, and the versions that were measured."""
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "versions": versions,
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def show_s(seconds: float) -> str:
    """Return a time to three significant digits."""
    if seconds >= 100:
        return f"{seconds:.0f}"
    return f"{seconds:.{2 if seconds >= 1 else 3 if seconds >= 0.1 else 4}f}"


def judge(reach: Reach, row: Mapping[str, Any], n_tasks: int) -> tuple[str, str]:
    """Return Wukong's time compared with the best other engine, and whether the aim is reached, as two table cells."""
    ours = row.get("wukong", {}).get("median_s")
    others = {name: cell["median_s"] for name, cell in row.items() if name != "bare" and "median_s" in cell}
    others.pop("wukong", None)
    if ours is None:
        return "-", "not measured"
    best = min(others, key=others.__getitem__) if others else None
    against = f"{ours / others[best]:.2f}x {best}" if best else "-"
    if reach.seconds is not None:
        return against, _verdict(ours, reach.seconds)
    if reach.times_bare is not None:
        inside_s = _inside_s(row["wukong"])
        bare_s = row.get("bare", {}).get("median_s")
        return against, "not measured" if inside_s is None or bare_s is None else _verdict(
            inside_s, reach.times_bare * bare_s
        )
    if reach.except_for:
        spared = others.pop(reach.except_for, None)
        verdicts = [_verdict(ours, reach.times_that * spared, f"{reach.except_for}: ")] if spared else []
        if others:
            verdicts.append(_verdict(ours, min(others.values()), "the rest: "))
        return against, "; ".join(verdicts) or "no other engine"
    if best is None or reach.times_best is None:
        return against, "no other engine"
    return against, _verdict(ours, reach.times_best * others[best])


def _verdict(ours_s: float, aim_s: float, prefix: str = "") -> str:
    return f"{prefix}{'yes' if ours_s <= aim_s else '**no**'}, {ours_s / aim_s:.2f} of the aim"


def _inside_s(cell: Mapping[str, Any], of: str = "wall_s", less: str = "ingest_s") -> float | None:
    """Return the median time from the first invocation to the last value, if the engine reports it."""
    inside = [details[of] - details.get(less, 0.0) for details in cell.get("details", []) if of in details]
    return statistics.median(inside) if inside else None


def _cell(cell: Mapping[str, Any] | None, footnotes: list[str], where: str, repeat: int) -> str:
    if cell is None:
        return ""
    if "median_s" not in cell:
        footnotes.append(f"{where}: {cell.get('note', '')}")
        return f"failed[{len(footnotes)}]"
    shown = show_s(cell["median_s"])
    if cell["n"] == 0:
        return f"{shown} (first run)"
    return shown if cell["n"] >= repeat else f"{shown} (n={cell['n']})"


def to_markdown(result: Mapping[str, Any]) -> str:
    """Return the whole report."""
    lines: list[str] = []
    footnotes: list[str] = []
    repeat = int(result["arguments"]["repeat"])
    rows = result["rows"]
    engines = [name for name in ENGINES if any(name in row for row in rows.values())]
    if rows:
        lines += [
            f"Medians of {repeat} runs after one warm-up, in seconds; start-up not counted.",
            "",
            f"| workload | {' | '.join(engines)} | Wukong to the best other | reach | reached |",
            f"|---|{'---|' * (len(engines) + 3)}",
        ]
    for name, row in rows.items():
        workload = BY_NAME[name]
        cells = [_cell(row.get(engine), footnotes, f"{name}, {engine}", repeat) for engine in engines]
        against, reached = judge(workload.reach, row, workload.n_tasks)
        lines.append(f"| {workload.title} | {' | '.join(cells)} | {against} | {workload.reach.text} | {reached} |")
    lines += ["", *_per_task(rows)]
    lines += _start_up(result.get("start_up", {}), footnotes)
    if footnotes:
        lines += ["", *(f"[{i}] {text}" for i, text in enumerate(footnotes, 1))]
    lines += ["", *_reading(result, engines)]
    return "\n".join(lines).strip() + "\n"


def _per_task(rows: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name in ("tree", "noop-10k", "chains", "chain", "tiny-chain", "tiny-tree"):
        row, n = rows.get(name, {}), BY_NAME[name].n_tasks
        whole_s, inside_s = row.get("wukong", {}).get("median_s"), _inside_s(row.get("wukong", {}))
        figures = {
            "Wukong, whole call": whole_s,
            "of that ingest and shipping": None if whole_s is None or inside_s is None else whole_s - inside_s,
            "and from invocation to last value": inside_s,
            "executors": _inside_s(row.get("wukong", {}), "executors", ""),
            "bare": row.get("bare", {}).get("median_s"),
            "functions alone": _inside_s(row.get("bare", {}), "calls_s", ""),
        }
        if not any(figures.values()):
            continue
        if not lines:
            lines = ["Microseconds per task:", "", f"| workload | {' | '.join(figures)} |"]
            lines.append(f"|---|{'---|' * len(figures)}")
        cells = [
            "-" if value is None else f"{value:.0f}" if title == "executors" else f"{value / n * 1e6:.2f}"
            for title, value in figures.items()
        ]
        lines.append(f"| {BY_NAME[name].title.split(': cost')[0]} | {' | '.join(cells)} |")
    if lines:
        lines += ["", "`bare` calls Dask's task nodes; `functions alone` is a loop without even these.", ""]
    return lines


def _start_up(start_up: Mapping[str, Any], footnotes: list[str]) -> list[str]:
    if not start_up:
        return []
    lines = [
        "Start-up, each time in a new process, seconds:",
        "",
        "| engine | import, on top of `import dask` | start | first result | start to first result |",
        "|---|---|---|---|---|",
    ]
    for engine, cell in start_up.items():
        if "note" in cell:
            footnotes.append(f"start-up, {engine}: {cell['note']}")
            lines.append(f"| {engine} | failed[{len(footnotes)}] | | | |")
            continue
        shown = [cell["import_s"], cell["start_s"], cell["first_s"], cell["start_s"] + cell["first_s"]]
        lines.append(f"| {engine} | {' | '.join(map(show_s, shown))} |")
    ours = start_up.get("wukong", {})
    if "import_s" in ours:
        imported = _verdict(ours["import_s"], IMPORT_REACH_S)
        started = _verdict(ours["start_s"] + ours["first_s"], START_REACH_S)
        lines += ["", f"Import of wukong within {IMPORT_REACH_S} s: {imported}."]
        lines += [f"A client's start to its first result within {START_REACH_S} s: {started}."]
    return lines


def _reading(result: Mapping[str, Any], engines: list[str]) -> list[str]:
    about = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    lines = [
        "How this was measured:",
        "",
        f"- Machine: {about['cpu']}, {about['cores']} cores, {about['memory_gb']} GB, {about['system']}; "
        f"load {about['load']:.2f} when it started.",
        f"- Python {about['python']}; {versions}.",
        f"- Dask's, Ray's and Parsl's engines have {N_WORKERS} workers; each engine is a process of its own, all of "
        "them started beforehand, and they run in turn. Graphs are built anew before each run, which is not timed.",
        "- `bare` is the tasks alone in one topological loop in one process, graph preparation not counted; "
        "it is a floor, not an engine, and not in the ratios.",
        f"- An engine that used up {float(result['arguments']['timeout']):g} s on a workload got no further repeats "
        "there: (n=...).",
    ]
    threads = result["arguments"]["blas_threads"]
    if threads == "None":
        each = "; ".join(f"{name}: {BLAS[name]}" for name in engines)
        lines.append(f"- BLAS threads as users get them: {each}.")
    else:
        lines.append(f"- BLAS threads set to {threads} in every process.")
    forms: dict[str, list[str]] = {}
    for name in result["rows"]:
        forms.setdefault(BY_NAME[name].form, []).append(name)
    lines += [f"- Timed as `{form}`: {', '.join(names)}." for form, names in forms.items()]
    return lines
