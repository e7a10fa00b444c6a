"""What `factors.py` runs: the techniques and how each is switched off, the configurations, and the two workloads."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dask
import numpy as np
import workloads
from side_by_side import NEVER_LARGE

HERE = "the proxy's address"
FULL, NONE, PLAIN = "everything on", "everything off", "no setting made"


@dataclass(frozen=True)
class Factor:
    """One technique.

    Attributes:
        name: on the command line. title: in tables and the plot.
        on, off: the settings of `wukong.Client` that switch it. Shards are switched by the store's address.
    """

    name: str
    title: str
    on: Mapping[str, Any] = field(default_factory=dict)
    off: Mapping[str, Any] = field(default_factory=dict)


FACTORS = (
    Factor("shards", "many shards"),
    # Set to what a link carries in the time of an invocation. If it were not set, a client's first job would begin with
    # what the store's plug-in declares, ten times these links, and its next one with what executors found.
    Factor("clustering", "task clustering", {"large_object_bytes": 1_000_000}, {"large_object_bytes": NEVER_LARGE}),
    # The papers set it. If it were not set, it would be as long as moving the value takes: at most twice the optimum.
    Factor("delayed-io", "delayed I/O", {"delay_budget_s": 1.0}, {"delay_budget_s": 0.0}),
    Factor("patience", "patience", {"fan_out": "patience"}, {"fan_out": "eager"}),
    Factor("proxy", "fan-out proxy", {"proxy": HERE}, {"proxy": None}),
)
"""In the order of the ladder, which begins with the papers'."""


@dataclass(frozen=True)
class Configuration:
    """Which factors are on. `name`: in tables and the plot. `plain`: nothing is set but the store's address."""

    name: str
    on: frozenset[str]
    plain: bool = False

    def settings(self, proxy: str = HERE) -> dict[str, Any]:
        """Return the settings of `wukong.Client`, without its backends. `proxy`: where the proxy is."""
        settings: dict[str, Any] = {}
        for factor in () if self.plain else FACTORS:
            settings |= factor.on if factor.name in self.on else factor.off
        return {name: proxy if value == HERE else value for name, value in settings.items()}


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        configurations: each once.
        ladder: their names, from nothing to everything.
        pairs: title, and the names of two configurations that differ in one factor only, the one without it first.
    """

    configurations: Sequence[Configuration]
    ladder: Sequence[str]
    pairs: Sequence[tuple[str, str, str]]


def planned(names: Sequence[str]) -> Plan:
    """Return what is measured with these factors; the others are off."""
    order = [factor.name for factor in FACTORS if factor.name in names]
    title = {factor.name: factor.title for factor in FACTORS}
    found: dict[frozenset[str], Configuration] = {}

    def of(name: str, on: Sequence[str]) -> str:
        return found.setdefault(frozenset(on), Configuration(name, frozenset(on))).name

    ladder = [of(NONE, ())]
    ladder += [of(f"+ {title[name]}" if n + 1 < len(order) else FULL, order[: n + 1]) for n, name in enumerate(order)]
    pairs = [(title[name], of(f"without {title[name]}", [x for x in order if x != name]), FULL) for name in order]
    if order[-2:] == ["patience", "proxy"]:
        pairs.append(("fan-out proxy, both without patience", of("", order[:-2]), of("", [*order[:-2], "proxy"])))
    plain = Configuration(PLAIN, frozenset({"shards"}), plain=True)
    return Plan([*found.values(), plain], ladder, pairs)


@dataclass(frozen=True)
class Sizes:
    """How large the workloads are.

    Attributes:
        svd_n, svd_chunk: edges of the square matrix and of its chunks.
        load_ms: how long a chunk takes to load, asleep: work that takes none of the cores which all environments
            share here.
        width: tasks of the fan-out. source_bytes, part_bytes: the value that all get, and what each returns.
        task_ms: how long each is at work, asleep.
    """

    svd_n: int = 2_500
    svd_chunk: int = 500
    load_ms: float = 100.0
    width: int = 64
    source_bytes: int = 65_536
    part_bytes: int = 524_288
    task_ms: float = 20.0


TINY = Sizes(80, 40, 1.0, 12, 20_000, 40_000, 1.0)


def loaded(chunk: np.ndarray, load_s: float) -> np.ndarray:
    """One chunk of the matrix, after a while."""
    time.sleep(load_s)
    return chunk


def svd(sizes: Sizes) -> workloads.Run:
    """The five largest singular values and their vectors of a square matrix of random numbers."""
    import dask.array as da

    n, chunk = sizes.svd_n, sizes.svd_chunk
    x = da.random.default_rng(1).random((n, n), chunks=(chunk, chunk))
    x = x.map_blocks(loaded, sizes.load_ms / 1e3, dtype=x.dtype, meta=np.empty((0, 0)))
    u, s, v = da.linalg.svd_compressed(x, k=5, seed=2)
    return lambda get: dask.compute(u, s, v, scheduler=get)


def source(size_bytes: int) -> np.ndarray:
    """The value that all tasks of the fan-out get."""
    return np.random.default_rng(0).random(size_bytes // 8)


def part(whole: np.ndarray, i: int, size_bytes: int, task_s: float) -> np.ndarray:
    """One task of the fan-out."""
    time.sleep(task_s)
    return np.random.default_rng(i).random(size_bytes // 8) + whole[i % len(whole)]


def gathered(parts: Sequence[np.ndarray]) -> float:
    """The fan-in."""
    return float(sum(each.sum() for each in parts))


def fan_out(sizes: Sizes) -> workloads.Run:
    """One source, many tasks, one fan-in."""
    whole = dask.delayed(source)(sizes.source_bytes)
    one = dask.delayed(part)
    parts = [one(whole, i, sizes.part_bytes, sizes.task_ms / 1e3) for i in range(sizes.width)]
    result = dask.delayed(gathered)(parts)
    return lambda get: result.compute(scheduler=get)


WORKLOADS: Mapping[str, Callable[[Sizes], workloads.Run]] = {"svd": svd, "fan-out": fan_out}


def titles(sizes: Sizes) -> dict[str, str]:
    """Return what each workload is called in tables and the plot."""
    chunk_bytes = 8 * sizes.svd_chunk**2
    return {
        "svd": f"SVD compressed {sizes.svd_n:,}² in chunks of {chunk_bytes / 1e6:.2g} MB, {sizes.load_ms:g} ms each",
        "fan-out": f"fan-out to {sizes.width} tasks of {sizes.task_ms:g} ms, {sizes.part_bytes / 1e6:.2g} MB each",
    }
