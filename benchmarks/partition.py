"""Partitioning, shipping and running large DAGs: time and memory per task, which should not grow with the size.

    python benchmarks/partition.py                                   10k, 100k and 1M tasks; three shapes
    python benchmarks/partition.py --sizes 10000 --shapes join --no-run

Shapes: one chain; a binary tree; and `join`, in which half of the tasks are leaves that all join one chain of the other
half (copying each leaf's static schedule would make that quadratic: the last column has the number of node copies).

Each case is a process of its own, so that its peak memory is its own: the growth of the peak resident size over what
the process held once the Dask graph was built. Measured one after the other:

    ingest   a plain dict of tuples -> the culled, numbered DAG with its operations
    ship     pages, objects and the first invocation, encoded and put into the embedded store
    run      the whole call, client.get(dsk, keys), on the local emulator; memory of the client's process only
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import time
from operator import add
from pathlib import Path
from typing import Any

from report import machine

HERE = Path(__file__).parent
RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


def inc(i: int) -> int:
    return i + 1


def total(values: list[int]) -> int:
    return sum(values)


def chain(n: int) -> tuple[dict[str, Any], str, int, int]:
    """Return a graph of about `n` tasks, the key wanted, its value, and how many nodes the paper's schedules copy."""
    dsk: dict[str, Any] = {"t0": (inc, 0)}
    for i in range(1, n):
        dsk[f"t{i}"] = (inc, f"t{i - 1}")
    return dsk, f"t{n - 1}", n, n


def tree(n: int) -> tuple[dict[str, Any], str, int, int]:
    """As `chain`: a binary tree laid out as a heap, task i adding up tasks 2i + 1 and 2i + 2."""
    n -= n % 2 == 0
    first_leaf = n // 2
    dsk: dict[str, Any] = {f"t{i}": (inc, i) for i in range(first_leaf, n)}
    for i in reversed(range(first_leaf)):
        dsk[f"t{i}"] = (add, f"t{2 * i + 1}", f"t{2 * i + 2}")
    on_the_way_up = sum((i + 1).bit_length() for i in range(first_leaf, n))
    return dsk, "t0", sum(range(first_leaf + 1, n + 1)), on_the_way_up


def join(n: int) -> tuple[dict[str, Any], str, int, int]:
    """As `chain`: half of the tasks are leaves, all of which the first task of one chain needs."""
    half = n // 2
    leaves = [f"l{i}" for i in range(half)]
    dsk: dict[str, Any] = {leaf: (inc, i) for i, leaf in enumerate(leaves)}
    dsk["t0"] = (total, leaves)
    for i in range(1, half):
        dsk[f"t{i}"] = (inc, f"t{i - 1}")
    return dsk, f"t{half - 1}", half * (half + 1) // 2 + half - 1, half * (half + 1)


SHAPES = {"chain": chain, "tree": tree, "join": join}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES


def partition(shape: str, n: int) -> dict[str, Any]:
    """Ingest and ship one DAG in this process."""
    from wukong.backends.plugins import load_storage
    from wukong.core.codec import Codec
    from wukong.core.ground import Ground
    from wukong.core.ingest import ingest
    from wukong.core.job import Job
    from wukong.core.payload import Envelope
    from wukong.core.policy import Costs, Policy
    from wukong.core.shipment import ShippingPlan

    store = load_storage("local")
    codec = Codec(os.urandom(32), sign_buffers=not store.capabilities.trusted)
    spec = store.spec()
    envelope = Envelope((spec.target, dict(spec.options)), ("nowhere:nothing", {}), codec.sign_buffers, False, None)
    dsk, key, _, copies = SHAPES[shape](n)
    n_tasks = len(dsk)
    gc.collect()
    held, start = peak_bytes(), time.perf_counter()
    graph = ingest(dsk, [key])
    ingested, ingest_bytes = time.perf_counter(), peak_bytes() - held
    ground = Ground(
        envelope=lambda: envelope,
        store=store,
        codec=codec,
        costs=Costs(0.05, 0.001, 1e9),
        plan=ShippingPlan(),
        send=lambda names: lambda calls: None,
        failures=lambda job_id: (),
        stop=lambda label: None,
    )
    job = Job(ground, Policy(), graph)
    job.ship()
    shipped = time.perf_counter()
    result = {
        "n_tasks": n_tasks,
        "n_ingested": len(graph.ops),
        "n_edges": graph.dag.n_edges,
        "n_leaves": len(graph.dag.leaves()),
        "copies": copies,
        "ingest_s": ingested - start,
        "ingest_bytes": ingest_bytes,
        "ship_s": shipped - ingested,
        "peak_bytes": peak_bytes() - held,
    }
    store.close()
    return result


def run(shape: str, n: int) -> dict[str, Any]:
    """Run one DAG, after a small one to warm up."""
    import wukong

    with wukong.Client() as client:
        client.get({"x": (inc, 0)}, ["x"])
        dsk, key, expected, _ = SHAPES[shape](n)
        gc.collect()
        held, start = peak_bytes(), time.perf_counter()
        (answer,) = client.get(dsk, [key])
        seconds = time.perf_counter() - start
        assert answer == expected, f"wrong answer: {answer} instead of {expected}"
        summary = client.last_job.summary()
        return {
            "run_s": seconds,
            "run_ingest_s": summary.ingest_s,
            "run_peak_bytes": peak_bytes() - held,
            "executors": summary.executors,
        }


def in_process(kind: str, shape: str, n: int, timeout_s: float) -> dict[str, Any]:
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
    try:
        done = subprocess.run(
            [sys.executable, __file__, "--case", kind, shape, str(n)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        return {"note": f"{kind}: stopped after {timeout_s:.0f} s"}
    if done.returncode:
        return {"note": f"{kind}: {(done.stderr.strip().splitlines() or ['no output'])[-1][:200]}"}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def cells(case: dict[str, Any]) -> list[str]:
    n = case.get("n_tasks", case["size"])

    def show(name: str, unit: float, digits: int) -> str:
        return f"{case[name] / n * unit:.{digits}f}" if name in case else "-"

    return [
        f"{n:,}",
        show("ingest_s", 1e6, 2),
        show("ship_s", 1e6, 2),
        show("ingest_bytes", 1, 0),
        show("peak_bytes", 1, 0),
        show("run_s", 1e6, 2),
        show("run_peak_bytes", 1, 0),
        f"{case['run_s']:.2f}" if "run_s" in case else "-",
        f"{case.get('copies', 0):,}",
    ]


COLUMNS = (
    "tasks", "ingest us", "ship us", "bytes held by ingest", "peak bytes", "run us", "run: client's peak bytes",
    "run s in all", "node copies as in the paper",
)  # fmt: skip


def to_markdown(result: dict[str, Any]) -> str:
    about = result["machine"]
    lines = [
        f"Per task, on {about['cpu']}, {about['cores']} cores, Python {about['python']}, load {about['load']:.2f}:",
        "",
        f"| shape | {' | '.join(COLUMNS)} |",
        f"|---|{'---|' * len(COLUMNS)}",
    ]
    notes = []
    for shape, cases in result["cases"].items():
        for case in cases:
            lines.append(f"| {shape} | {' | '.join(cells(case))} |")
            notes += [f"- {shape}, {case['size']:,}: {note}" for note in case["notes"]]
    lines += ["", "Time per task at the largest size, in times that at the smallest:", ""]
    for shape, cases in result["cases"].items():
        grown = []
        for name in ("ingest_s", "ship_s", "run_s"):
            each = [case[name] / case["n_tasks"] for case in cases if name in case and "n_tasks" in case]
            if len(each) > 1:
                grown.append(f"{name[:-2]} {each[-1] / each[0]:.2f}")
        lines.append(f"- {shape}: {', '.join(grown) or 'one size only'}")
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000], help="tasks")
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--no-run", action="store_true", help="partition and ship only")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for one case; there are shapes x sizes x 2")
    parser.add_argument("--output", type=Path, help="also write the Markdown report here")
    parser.add_argument("--json", type=Path, help="write every figure here")
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        kind, shape, size = args.case
        print(json.dumps((partition if kind == "partition" else run)(shape, int(size))))
        return
    result: dict[str, Any] = {"machine": machine(), "cases": {}}
    for shape in args.shapes:
        for size in args.sizes:
            parts = [in_process("partition", shape, size, args.timeout)]
            if not args.no_run:
                parts.append(in_process("run", shape, size, args.timeout))
            case: dict[str, Any] = {"size": size, "notes": [part.pop("note") for part in parts if "note" in part]}
            for part in parts:
                case |= part
            result["cases"].setdefault(shape, []).append(case)
            print(shape, size, case, file=sys.stderr, flush=True)
    report = to_markdown(result)
    print(report)
    if args.output:
        args.output.write_text(report)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
