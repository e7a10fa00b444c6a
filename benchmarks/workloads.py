"""The workloads of `engines.py`: how each is built, in which form an engine gets it, and how its answer is checked.

Building is not timed and is done anew for every run, so that no engine meets a key it has seen. What is timed is the
call that a user makes: ``x.compute(scheduler=get)`` for collections, ``get(dsk, keys)`` for plain graphs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import add
from pathlib import Path
from typing import Any

import dask
import numpy as np

Get = Callable[..., Any]
Run = Callable[[Get], Any]
Arrays = Mapping[str, np.ndarray]

COLLECTION = "x.compute(scheduler=get)"
PLAIN_GRAPH = "get(dsk, keys), a plain dict of tuples"


@dataclass(frozen=True)
class Reach:
    """What the project wants of one workload.

    Attributes:
        text: the aim in words.
        times_best: the most that is allowed, as a multiple of the best other engine's time (without `bare` and
            `except_for`).
        seconds: the most that is allowed, in seconds.
        except_for, times_that: one engine that need not be beaten, and the multiple of its time that is allowed.
        times_bare: the most that is allowed per task inside the executor, as a multiple of the bare loop's time.
    """

    text: str
    times_best: float | None = None
    seconds: float | None = None
    except_for: str | None = None
    times_that: float = 1.0
    times_bare: float | None = None


@dataclass(frozen=True)
class Workload:
    """One row of the table.

    Attributes:
        build: returns what is timed: a function of an engine's `get`.
        check: raises AssertionError if an answer is wrong; gets the arrays of `reference`.
        reference: computes, once per benchmark, what answers are checked against. Not timed.
        bare: the bare loop runs it too (if tasks are long it would take for ever, or show nothing).
        n_tasks: number of tasks, if the time of one is worth showing.
        only: the engines that run it; empty: all.
    """

    name: str
    title: str
    form: str
    reach: Reach
    build: Callable[[], Run]
    check: Callable[[Any, Arrays], None]
    reference: Callable[[], dict[str, np.ndarray]] = dict
    bare: bool = False
    n_tasks: int = 0
    only: tuple[str, ...] = ()


def slow_add(a: int, b: int, delay_s: float) -> int:
    time.sleep(delay_s)
    return a + b


def noop(i: int) -> int:
    return i


def total(values: list[int]) -> int:
    return sum(values)


def inc(i: int) -> int:
    return i + 1


def tree(delay_s: float, n: int = 1024) -> Run:
    """Sum up n integers, pair by pair."""
    delayed_add = dask.delayed(add) if not delay_s else dask.delayed(slow_add)
    extra = (delay_s,) if delay_s else ()
    level: list[Any] = list(range(n))
    while len(level) > 1:
        level = [delayed_add(a, b, *extra) for a, b in zip(level[::2], level[1::2], strict=True)]
    return lambda get: level[0].compute(scheduler=get)


def pairs(leaves: int) -> tuple[dict[Any, Any], Any]:
    """The sum of that many numbers (a power of two), pair by pair, as a plain graph; and its key."""
    graph: dict[Any, Any] = {("t", 0, i): (noop, i) for i in range(leaves)}
    level, width = 0, leaves
    while width > 1:
        width, level = width // 2, level + 1
        graph |= {("t", level, i): (add, ("t", level - 1, 2 * i), ("t", level - 1, 2 * i + 1)) for i in range(width)}
    return graph, ("t", level, 0)


def block(i: int, size_bytes: int) -> np.ndarray:
    return np.random.default_rng(i).random(size_bytes // 8)


def block_tree(n: int, block_bytes: int) -> Run:
    """Sum up n blocks of this size, pair by pair."""
    delayed_block, delayed_add = dask.delayed(block), dask.delayed(add)
    level: list[Any] = [delayed_block(i, block_bytes) for i in range(n)]
    while len(level) > 1:
        level = [delayed_add(*level[i : i + 2]) if i + 1 < len(level) else level[i] for i in range(0, len(level), 2)]
    return lambda get: level[0].compute(scheduler=get)


def _fan_out_fan_in(n: int) -> Run:
    leaf = dask.delayed(noop)
    result = dask.delayed(total)([leaf(i) for i in range(n)])
    return lambda get: result.compute(scheduler=get)


def _chains(n_chains: int, length: int) -> Run:
    dsk: dict[str, Any] = {}
    for chain in range(n_chains):
        dsk[f"chain-{chain}-0"] = (inc, chain)
        for i in range(1, length):
            dsk[f"chain-{chain}-{i}"] = (inc, f"chain-{chain}-{i - 1}")
    keys = [f"chain-{chain}-{length - 1}" for chain in range(n_chains)]
    return lambda get: list(get(dsk, keys))


def _plain_tree(n: int) -> Run:
    dsk: dict[str, Any] = {f"t{i}": (inc, i) for i in range(n // 2, n)}
    for i in range(n // 2):
        dsk[f"t{i}"] = (add, f"t{2 * i + 1}", f"t{2 * i + 2}")
    return lambda get: list(get(dsk, ["t0"]))


def _equals(expected: Any) -> Callable[[Any, Arrays], None]:
    def check(answer: Any, reference: Arrays) -> None:
        assert answer == expected, f"{str(answer)[:80]} instead of {str(expected)[:80]}"

    return check


TSQR_SHAPE, TSQR_ROWS = (200_000, 100), 10_000


def _tall(shape: tuple[int, int] = TSQR_SHAPE, chunk_rows: int = TSQR_ROWS) -> Any:
    import dask.array as da

    return da.random.default_rng(1).random(shape, chunks=(chunk_rows, shape[1]))


def tsqr(shape: tuple[int, int] = TSQR_SHAPE, chunk_rows: int = TSQR_ROWS, *, only_v: bool) -> Run:
    """The singular values and vectors of a tall matrix of random numbers, or `only_v` of them."""
    import dask.array as da

    u, s, v = da.linalg.svd(_tall(shape, chunk_rows))
    if only_v:
        return lambda get: v.compute(scheduler=get)
    return lambda get: dask.compute(u, s, v, scheduler=get)


def _tall_reference() -> dict[str, np.ndarray]:
    x = _tall().compute(scheduler="threads")
    return {"x": x, "gram": x.T @ x}


def _is_orthonormal(columns: np.ndarray) -> bool:
    return np.allclose(columns.T @ columns, np.eye(columns.shape[1]), atol=1e-8)


def _check_v(v: np.ndarray, reference: Arrays) -> None:
    assert _is_orthonormal(v.T), "v is not orthonormal"
    diagonal = v @ reference["gram"] @ v.T
    assert np.allclose(diagonal, np.diag(np.diag(diagonal)), atol=1e-8 * diagonal[0, 0]), "v does not diagonalise X'X"


def _check_usv(usv: tuple[np.ndarray, ...], reference: Arrays) -> None:
    u, s, v = usv
    assert _is_orthonormal(u), "u is not orthonormal"
    _check_v(v, reference)
    assert np.allclose((u * s) @ v, reference["x"], atol=1e-8), "u s v is not X"


def svd_compressed(n: int = 10_000, chunk: int = 2_000) -> Run:
    """The five largest singular values and their vectors of a square matrix of random numbers."""
    import dask.array as da

    x = da.random.default_rng(1).random((n, n), chunks=(chunk, chunk))
    u, s, v = da.linalg.svd_compressed(x, k=5, seed=2)
    return lambda get: dask.compute(u, s, v, scheduler=get)


def _svd_compressed_reference() -> dict[str, np.ndarray]:
    u, s, v = svd_compressed()(dask.get)
    assert _is_orthonormal(u)
    assert _is_orthonormal(v.T)
    return {"u": u, "s": s, "v": v}


def _check_same(answer: tuple[np.ndarray, ...], reference: Arrays) -> None:
    for name, value in zip(reference, answer, strict=True):
        assert np.allclose(value, reference[name], rtol=1e-6, atol=1e-6), f"{name} differs from the synchronous answer"


def _square(n: int = 4_000, chunk: int = 1_000) -> tuple[Any, Any]:
    import dask.array as da

    rng = da.random.default_rng(1)
    return tuple(rng.random((n, n), chunks=(chunk, chunk)) for _ in range(2))  # type: ignore[return-value]


def gemm(n: int = 4_000, chunk: int = 1_000) -> Run:
    """The product of two square matrices of random numbers."""
    a, b = _square(n, chunk)
    product = a @ b
    return lambda get: product.compute(scheduler=get)


def _gemm_reference() -> dict[str, np.ndarray]:
    a, b = dask.compute(*_square(), scheduler="threads")
    x = np.random.default_rng(2).standard_normal(4_000)
    return {"x": x, "abx": a @ (b @ x)}


def _check_gemm(c: np.ndarray, reference: Arrays) -> None:
    assert np.allclose(c @ reference["x"], reference["abx"], rtol=1e-8, atol=1e-4), "(A B) x is not A (B x)"


def _samples() -> Any:
    import dask.array as da

    return da.random.default_rng(3).normal(size=(100_000, 20), chunks=(5_000, 20))


def _classifier() -> Any:
    from dask_ml.wrappers import ParallelPostFit
    from sklearn.datasets import make_classification
    from sklearn.svm import SVC

    return ParallelPostFit(SVC(gamma="scale")).fit(*make_classification(n_samples=1_000, random_state=0))


def _svc() -> Run:
    predicted = _classifier().predict(_samples())
    return lambda get: predicted.compute(scheduler=get)


def _svc_reference() -> dict[str, np.ndarray]:
    return {"predicted": _classifier().estimator.predict(_samples().compute(scheduler="threads"))}


def _check_svc(answer: np.ndarray, reference: Arrays) -> None:
    assert np.array_equal(answer, reference["predicted"]), "predictions differ from scikit-learn's own"


BUT_THREADED = Reach("ahead of all but threaded, within 1.15x of it", 1.0, except_for="threaded", times_that=1.15)
TREE_SUM = 1023 * 512
N_TINY = 100_001

WORKLOADS = (
    Workload(
        "tree",
        "tree reduction of 1,024 integers",
        COLLECTION + ", delayed",
        Reach("ahead of every engine", 1.0),
        lambda: tree(0),
        _equals(TREE_SUM),
        bare=True,
        n_tasks=1023,
    ),
    Workload(
        "tree-10ms",
        "the same, 10 ms per task",
        COLLECTION + ", delayed",
        Reach("1 s", seconds=1.0),
        lambda: tree(0.010),
        _equals(TREE_SUM),
    ),
    Workload(
        "tree-100ms",
        "the same, 100 ms per task",
        COLLECTION + ", delayed",
        Reach("2 s, at most 128 workers", seconds=2.0),
        lambda: tree(0.100),
        _equals(TREE_SUM),
    ),
    Workload(
        "noop-10k",
        "10,000 no-op tasks, fan-out and fan-in",
        COLLECTION + ", delayed",
        Reach("half of the best engine", 0.5),
        lambda: _fan_out_fan_in(10_000),
        _equals(sum(range(10_000))),
        bare=True,
        n_tasks=10_001,
    ),
    Workload(
        "chains",
        "100 chains of 100",
        PLAIN_GRAPH,
        Reach("half of the best engine", 0.5),
        lambda: _chains(100, 100),
        _equals([100 + i for i in range(100)]),
        bare=True,
        n_tasks=10_000,
    ),
    Workload(
        "chain",
        "chain of 1,000",
        PLAIN_GRAPH,
        Reach("half of the best engine", 0.5),
        lambda: _chains(1, 1_000),
        _equals([1_000]),
        bare=True,
        n_tasks=1_000,
    ),
    Workload(
        "tiny-chain",
        f"chain of {N_TINY:,}: cost per task inside executors",
        PLAIN_GRAPH,
        Reach("3x bare", times_bare=3.0),
        lambda: _chains(1, N_TINY),
        _equals([N_TINY]),
        bare=True,
        n_tasks=N_TINY,
        only=("wukong", "sync", "bare"),
    ),
    Workload(
        "tiny-tree",
        f"tree of {N_TINY:,}: cost per task inside executors",
        PLAIN_GRAPH,
        Reach("3x bare", times_bare=3.0),
        lambda: _plain_tree(N_TINY),
        _equals([sum(range(N_TINY // 2 + 1, N_TINY + 1))]),
        bare=True,
        n_tasks=N_TINY,
        only=("wukong", "sync", "bare"),
    ),
    Workload(
        "tsqr-v",
        "TSQR 200000 x 100 in 20 chunks: v",
        COLLECTION,
        BUT_THREADED,
        lambda: tsqr(only_v=True),
        _check_v,
        _tall_reference,
    ),
    Workload(
        "tsqr-usv",
        "the same: u, s, v",
        COLLECTION,
        BUT_THREADED,
        lambda: tsqr(only_v=False),
        _check_usv,
        _tall_reference,
    ),
    Workload(
        "svd-compressed",
        "SVD compressed, 10000^2 in 2000^2 chunks, k = 5",
        COLLECTION,
        BUT_THREADED,
        svd_compressed,
        _check_same,
        _svd_compressed_reference,
    ),
    Workload(
        "gemm",
        "GEMM 4000^2 in 1000^2 chunks",
        COLLECTION,
        BUT_THREADED,
        gemm,
        _check_gemm,
        _gemm_reference,
    ),
    Workload(
        "svc",
        "SVC prediction, 100,000 samples in 20 chunks",
        COLLECTION,
        BUT_THREADED,
        _svc,
        _check_svc,
        _svc_reference,
    ),
)
BY_NAME = {workload.name: workload for workload in WORKLOADS}


def save_reference(workload: Workload, folder: Path) -> None:
    """Compute what the answers are checked against and leave it in `folder`."""
    for name, value in workload.reference().items():
        np.save(folder / f"{workload.name}.{name}.npy", value)


def load_reference(workload: Workload, folder: Path) -> dict[str, np.ndarray]:
    """Map what `save_reference` left."""
    order = ("u", "s", "v")
    names = sorted(
        (path.name.split(".")[1] for path in folder.glob(f"{workload.name}.*.npy")),
        key=lambda name: order.index(name) if name in order else -1,
    )
    return {name: np.load(folder / f"{workload.name}.{name}.npy", mmap_mode="r") for name in names}
