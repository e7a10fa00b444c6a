"""Cubed on a client, by Cubed's own public API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cubed
import cubed.array_api as xp
import cubed.random
import numpy as np
import pytest
from cubed.runtime.types import Callback

import wukong
from wukong.integrations.cubed import WukongExecutor


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


@pytest.fixture
def spec(client: wukong.Client, tmp_path: Path) -> cubed.Spec:
    return cubed.Spec(work_dir=str(tmp_path), allowed_mem="200MB", executor=WukongExecutor(client))


def test_plans_of_several_operations_are_one_job_each(client: wukong.Client, spec: cubed.Spec) -> None:
    a = xp.asarray(np.arange(36.0).reshape(6, 6), chunks=(2, 3), spec=spec)
    before = client.cost().jobs.total()
    np.testing.assert_array_equal((a + 1).compute(), np.arange(36.0).reshape(6, 6) + 1)
    np.testing.assert_allclose(xp.matmul(a, a.T).compute(), (m := np.arange(36.0).reshape(6, 6)) @ m.T)
    np.testing.assert_allclose(xp.mean(xp.negative(a), axis=0).compute(), -m.mean(axis=0))
    assert client.cost().jobs.total() - before == 3
    np.testing.assert_array_equal(a.rechunk((6, 1)).compute(), m)


def test_several_arrays_and_functions_of_blocks_and_random_numbers(spec: cubed.Spec) -> None:
    a = cubed.random.random((8, 8), chunks=(4, 4), spec=spec)
    b, c = cubed.map_blocks(lambda x: x * 2, a, dtype=a.dtype), xp.sum(a)
    two, total = cubed.compute(b, c)
    assert two.shape == (8, 8) and 0 < total < 64
    np.testing.assert_allclose(two.sum(), 2 * total)


def test_arrays_are_stored_in_zarr(spec: cubed.Spec, tmp_path: Path) -> None:
    a = xp.ones((4, 4), chunks=(2, 2), spec=spec)
    target = str(tmp_path / "stored.zarr")
    cubed.to_zarr(a + 1, store=target)
    np.testing.assert_array_equal(cubed.from_zarr(target, spec=spec).compute(), np.full((4, 4), 2.0))


class Noted(Callback):
    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def on_operation_start(self, event: Any) -> None:
        self.events.append(("start", event.name))

    def on_operation_end(self, event: Any) -> None:
        self.events.append(("end", event.name))

    def on_task_end(self, event: Any) -> None:
        assert event.function_start_tstamp <= event.function_end_tstamp and event.peak_measured_mem_end > 0
        self.events.append(("task", event.name))


def test_callbacks_hear_of_each_task_between_begin_and_end_of_its_operation(spec: cubed.Spec) -> None:
    noted = Noted()
    a = xp.ones((4, 4), chunks=(2, 2), spec=spec)
    result = xp.sum(a.rechunk((4, 1)) + 1).compute(callbacks=[noted], optimize_graph=False)
    assert result == 32
    names = list(dict.fromkeys(name for _, name in noted.events))
    for name in names:
        mine = [what for what, of in noted.events if of == name]
        assert mine[0] == "start" and mine[-1] == "end" and set(mine[1:-1]) == {"task"}
    assert len(names) >= 3 and noted.events[-1] == ("end", names[-1])


@pytest.mark.parametrize("callbacks", [None, [Noted()]])
def test_tasks_are_run_again_and_an_error_ends_the_plan(spec: cubed.Spec, tmp_path: Path, callbacks: Any) -> None:
    def second(x: Any, block_id: Any = None) -> Any:
        path = Path(tmp_path, f"tried-{block_id[0]}")
        there = path.exists()
        path.touch()
        if not there:
            raise OSError("not yet")
        return x

    a = xp.ones(4, chunks=2, spec=spec)
    np.testing.assert_array_equal(cubed.map_blocks(second, a, dtype=a.dtype).compute(callbacks=callbacks), np.ones(4))

    def never(x: Any) -> Any:
        raise LookupError("never")

    with pytest.raises(LookupError, match="never"):
        cubed.map_blocks(never, a, dtype=a.dtype).compute(callbacks=callbacks)


def test_a_plan_goes_on_where_it_stood(client: wukong.Client, spec: cubed.Spec) -> None:
    a = xp.ones((4, 4), chunks=(2, 2), spec=spec)
    b = a.rechunk((4, 1)) + 1
    b.compute(optimize_graph=False)
    noted = Noted()
    xp.sum(b).compute(resume=True, optimize_graph=False, callbacks=[noted])
    again = {name for _, name in noted.events}
    fresh = Noted()
    xp.sum(b).compute(optimize_graph=False, callbacks=[fresh])
    assert len(again) < len({name for _, name in fresh.events})


def test_more_memory_than_functions_have_is_refused(tmp_path: Path) -> None:
    with wukong.Client({"name": "local", "memory_bytes": 1 << 30}, progress=False) as client:
        spec = cubed.Spec(work_dir=str(tmp_path), allowed_mem="4GB", executor=WukongExecutor(client))
        with pytest.raises(ValueError, match="less than allowed_mem"):
            xp.ones(4, chunks=2, spec=spec).compute()
