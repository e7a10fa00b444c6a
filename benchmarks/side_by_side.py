"""The same DAGs through the stateless baseline and through Wukong, on one store, in turn: what went through the store.

Wukong runs three times. Once as it is. Once without delayed I/O (``delay_budget_s=0``): a large value is stored as soon
as there is nothing else to do, if its fan-in has not come to it. And once without task clustering either: no value
counts as large, so that every value that a fan-in elsewhere may need is stored at once.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import workloads
from counted import Counted
from stateless import TUNED, Stateless
from store_servers import Ground

NEVER_LARGE = 1 << 60
WUKONG: Mapping[str, dict[str, Any]] = {
    "Wukong": {},
    "Wukong, no delayed I/O": {"delay_budget_s": 0.0},
    "Wukong, nor clustering": {"delay_budget_s": 0.0, "large_object_bytes": NEVER_LARGE},
}
BASELINES: Mapping[str, dict[str, Any]] = {"stateless": {}, "stateless, tuned": TUNED}
ENGINES = (*BASELINES, *WUKONG)
LARGE_ENGINES = ("stateless", "Wukong")
LARGE_OPTIONS = {"heartbeat_s": 5.0}  # LAPACK's factors of a large chunk hold the interpreter for most of a second
_FLOAT_BYTES = 8
_TOLD = ("operations", "put_bytes", "got_bytes", "peak_store_bytes", "repeated", "restored")


@dataclass(slots=True)
class Sizes:
    """How large the DAGs are. The defaults take minutes; `tiny` ones take a second.

    Attributes:
        tsqr_rows, tsqr_columns, tsqr_chunk_rows: of the tall matrix.
        svd_n, svd_chunk, gemm_n, gemm_chunk: edges of the square matrices and of their chunks.
        leaves: integers that the tree sums up. blocks, block_bytes: of the tree of blocks.
        large_rows: rows of a second TSQR; 0: none; -1: the largest power of two that fits (`largest_rows`).
        large_chunk_rows: its chunks; the default is Dask's own default size, 128 MiB.
    """

    tsqr_rows: int = 1 << 19
    tsqr_columns: int = 128
    tsqr_chunk_rows: int = 1 << 16
    svd_n: int = 10_000
    svd_chunk: int = 2_000
    gemm_n: int = 4_000
    gemm_chunk: int = 1_000
    leaves: int = 1_024
    blocks: int = 64
    block_bytes: int = 4_000_000
    large_rows: int = -1
    large_chunk_rows: int = 1 << 17


TINY = Sizes(2_048, 16, 256, 400, 100, 200, 100, 32, 8, 80_000, 4_096, 512)


def largest_rows(columns: int, room_bytes: int) -> int:
    """Return the largest power of two of rows for which all that the baseline stores fits into `room_bytes`.

    The baseline stores the matrix twice: the random chunks, and the factors of each.
    """
    fits = room_bytes // (2 * columns * _FLOAT_BYTES)
    return 1 << max(fits.bit_length() - 1, 0) if fits else 0


def free_bytes() -> int:
    """Return the memory that values may take: three quarters of what is available now (Linux; elsewhere 4 GB)."""
    try:
        with open("/proc/meminfo") as lines:
            available_kb = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 4 << 30
    return available_kb * 1024 * 3 // 4


def cases(sizes: Sizes) -> dict[str, tuple[str, Callable[[], workloads.Run]]]:
    """Return by name: a title, and what builds the DAG anew."""
    rows, columns, chunk_rows = sizes.tsqr_rows, sizes.tsqr_columns, sizes.tsqr_chunk_rows
    found: dict[str, tuple[str, Callable[[], workloads.Run]]] = {
        "tsqr": (
            f"TSQR {rows:,} x {columns} in {rows // chunk_rows} chunks: v",
            lambda: workloads.tsqr((rows, columns), chunk_rows, only_v=True),
        ),
        "svd": (
            f"SVD compressed {sizes.svd_n:,}² in {sizes.svd_chunk:,}² chunks, k = 5",
            lambda: workloads.svd_compressed(sizes.svd_n, sizes.svd_chunk),
        ),
        "gemm": (
            f"GEMM {sizes.gemm_n:,}² in {sizes.gemm_chunk:,}² chunks",
            lambda: workloads.gemm(sizes.gemm_n, sizes.gemm_chunk),
        ),
        "tree": (f"tree reduction of {sizes.leaves:,} integers", lambda: workloads.tree(0, sizes.leaves)),
        "block-tree": (
            f"tree reduction of {sizes.blocks} blocks of {sizes.block_bytes / 1e6:g} MB",
            lambda: workloads.block_tree(sizes.blocks, sizes.block_bytes),
        ),
    }
    large = sizes.large_rows if sizes.large_rows >= 0 else largest_rows(columns, free_bytes())
    if large:
        found["tsqr-large"] = (
            f"TSQR {large:,} x {columns} in {large // sizes.large_chunk_rows} chunks: v",
            lambda: workloads.tsqr((large, columns), sizes.large_chunk_rows, only_v=True),
        )
    return found


@dataclass(slots=True)
class One:
    """One run of one engine: all that the tables are made of.

    Attributes:
        seconds: from the call to the last value.
        work, client: what the workers or executors, and what the client, asked of the store.
        queue_operations: the baseline's. executors: Wukong's. tasks: how many have run.
        put_of: the baseline's: bytes written, by kind of task.
        seen: what the servers saw (`store_servers.Seen`). told: what the job's own summary says of its executors.
    """

    seconds: float
    work: dict[str, int]
    client: dict[str, int]
    tasks: int
    executors: int = 0
    queue_operations: int = 0
    put_of: dict[str, int] | None = None
    seen: dict[str, Any] | None = None
    told: dict[str, int] | None = None


class Side:
    """One engine on a counting store of its own. Used as a context manager."""

    def __init__(self, name: str, ground: Ground, workers: int, **options: Any) -> None:
        self.name, self.ground, self.workers = name, ground, workers
        self.options = {**WUKONG.get(name, {}), **options}
        self.is_wukong = name in WUKONG

    def __enter__(self) -> Side:
        self.store = Counted.around(self.ground.storage)
        if self.is_wukong:
            import wukong

            faas = {"name": "local", "slots": self.workers}
            self.engine: Any = wukong.Client(faas=faas, storage=self.store, progress=False, **self.options)
        else:
            self.engine = Stateless(self.store, self.workers, **BASELINES[self.name])
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        self.store.close()

    def run(self, build: Callable[[], workloads.Run]) -> tuple[Any, One]:
        """Build and run a DAG once; return its answer and what it took."""
        run = build()
        seen_before, (client_before, work_before) = self.ground.seen(), self.store.counts()
        start = time.perf_counter()
        answer = run(self.engine.get)
        seconds = time.perf_counter() - start
        summary = self.engine.last_job.summary() if self.is_wukong else None  # also waits for the clean-up
        client, work = self.store.counts()
        seen = self.ground.seen()
        asking = self.ground.seen() - seen
        one = One(
            seconds,
            asdict(work - work_before),
            asdict(client - client_before),
            summary.tasks if summary else self.engine.last.tasks,
            executors=summary.executors if summary else 0,
            queue_operations=0 if summary else self.engine.last.queue_operations,
            put_of=None if summary else self.engine.last.put_of,
            seen=asdict(seen - seen_before - asking) if self.ground.servers else None,
            told={name: getattr(summary, name) for name in _TOLD} if summary else None,
        )
        return answer, one


@contextmanager
def sides(names: Sequence[str], ground: Ground, workers: int, **options: Any) -> Iterator[list[Side]]:
    """Yield these engines, all of them started. `options` are settings of Wukong."""
    with ExitStack() as stack:
        yield [stack.enter_context(Side(name, ground, workers, **options)) for name in names]


def same(answer: Any, other: Any) -> bool:
    """Whether two answers are equal but for the order of sums."""
    if isinstance(answer, (tuple, list)):
        return len(answer) == len(other) and all(map(same, answer, other))
    return bool(np.allclose(answer, other, rtol=1e-6, atol=1e-6))


def measure(
    ground: Ground,
    sizes: Sizes,
    names: Sequence[str],
    *,
    engines: Sequence[str] = ENGINES,
    workers: int,
    repeat: int,
    until: float,
) -> dict[str, dict[str, Any]]:
    """Run each case on each engine: once unmeasured, then `repeat` times in turn. Raises if answers differ.

    The large TSQR runs once on each of `LARGE_ENGINES`, without a warm-up.
    """
    results: dict[str, dict[str, Any]] = {}
    everything = cases(sizes)
    usual = [name for name in names if name != "tsqr-large" and name in everything]
    if usual:
        with sides(engines, ground, workers) as up:
            for name in usual:
                results[name] = _case(up, *everything[name], repeat=repeat, warm_up=True, until=until)
    if "tsqr-large" in names and "tsqr-large" in everything:
        some = [name for name in LARGE_ENGINES if name in engines]
        with sides(some, ground, workers, **LARGE_OPTIONS) as up:
            for side in up:  # imports, connections
                side.run(lambda: workloads.tsqr((256, 4), 64, only_v=True))
            results["tsqr-large"] = _case(up, *everything["tsqr-large"], repeat=1, warm_up=False, until=until)
    return results


def _case(
    engines: list[Side],
    title: str,
    build: Callable[[], workloads.Run],
    *,
    repeat: int,
    warm_up: bool,
    until: float,
) -> dict[str, Any]:
    print(f"  {title}", file=sys.stderr, flush=True)
    runs: dict[str, list[One]] = {side.name: [] for side in engines}
    expected: Any = None
    for turn in range(-warm_up, repeat):
        for side in engines:
            if time.monotonic() > until and runs[side.name]:
                continue
            answer, one = side.run(build)
            expected = answer if expected is None else expected
            if not same(answer, expected):
                raise AssertionError(f"{side.name} gives another answer for {title}")
            del answer
            if turn >= 0:
                runs[side.name].append(one)
    for name, each in runs.items():
        spoken = f"{median_s(each):.3f} s, {_bytes_of(each, 'put_bytes') / 1e6:.3f} MB written" if each else "not run"
        print(f"    {name:24} {spoken}", file=sys.stderr, flush=True)
    return {"title": title, "runs": {name: [asdict(one) for one in each] for name, each in runs.items()}}


def median_s(runs: list[One]) -> float:
    """Return the median time of some runs."""
    return statistics.median(one.seconds for one in runs)


def _bytes_of(runs: list[One], figure: str) -> float:
    return statistics.median(one.work[figure] + one.client[figure] for one in runs)
