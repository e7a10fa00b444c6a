"""A client is Dask's default scheduler from its making to its closing, and is not taken for one of `distributed`."""

from __future__ import annotations

import gc
import multiprocessing
import os
import weakref
from collections.abc import Iterator
from typing import Any

import dask
import dask.array as da
import pytest
from dask.base import get_scheduler
from dask.utils import get_default_shuffle_method

import wukong
from wukong.errors import NoClient


@pytest.fixture(autouse=True)
def _nothing_is_set() -> Iterator[None]:
    with dask.config.set({"scheduler": None, "dataframe.shuffle.method": None, "array.rechunk.method": None}):
        yield
        assert not dask.config.get("scheduler")


def client(**options: Any) -> wukong.Client:
    return wukong.Client(progress=False, **options)


def inc(x: int) -> int:
    return x + 1


def ran_on() -> str:
    """Compute without a word about the scheduler; return where that was."""
    return str(dask.delayed(os.getpid)().compute())


def default() -> wukong.Client | None:
    """Return the client that a computation would run on."""
    try:
        found = dask.config.get("scheduler").client()
    except AttributeError:
        return None
    return found if isinstance(found, wukong.Client) else None


def test_a_program_that_only_makes_a_client_runs_on_it_until_it_is_closed() -> None:
    made = wukong.Client(wukong.LocalCluster(), progress=False)
    assert ran_on() != str(os.getpid())
    assert made.last_job is not None
    made.close()
    assert ran_on() == str(os.getpid())


def test_the_last_client_is_the_default_and_closing_it_restores_the_one_before() -> None:
    with client() as first:
        with client() as second:
            assert default() is wukong.get_client() is second
        assert default() is wukong.get_client() is first
    assert default() is None


def test_closing_the_older_client_leaves_the_newer_one_the_default() -> None:
    older, newer = client(), client()
    older.close()
    assert default() is newer
    newer.close()
    assert default() is None


def test_a_client_need_not_be_the_default_and_is_inside_with() -> None:
    with client() as first, client(set_as_default=False) as second:
        assert default() is second
        with client(set_as_default=False) as other:
            other.close()
        assert default() is second
        third = client(set_as_default=False)
        assert default() is second
        third.close()
        second.close()
        assert default() is first


def test_what_the_user_says_wins() -> None:
    with client() as made:
        x = dask.delayed(inc)(1)
        assert x.compute(scheduler="threads") == 2
        with dask.config.set(scheduler="threads"):
            assert x.compute() == 2
        with dask.config.set({"dataframe.shuffle.method": "disk"}):
            assert get_default_shuffle_method() == "disk"
        assert made.last_job is None
        assert default() is made


def test_what_the_user_has_set_before_and_meanwhile_stays() -> None:
    with dask.config.set(scheduler="sync"):
        first = client()
        dask.config.set(scheduler="threads")
        second = client()
        first.close()
        second.close()
        assert dask.config.get("scheduler") == "threads"
        third = client()
        with dask.config.set(scheduler="processes"):
            third.close()
            assert dask.config.get("scheduler") == "processes"
        assert ran_on() == str(os.getpid())  # by threads, as it was set before
        assert dask.persist(dask.delayed(inc)(1))[0].compute() == 2
        dask.config.set(scheduler=None)


def test_shuffles_go_by_tasks_while_there_is_a_client() -> None:
    before = get_default_shuffle_method()
    with client():
        assert get_default_shuffle_method() == "tasks"
        with client():
            pass
        assert get_default_shuffle_method() == "tasks"
    assert get_default_shuffle_method() == before


def test_the_default_client_need_not_be_held_and_one_that_is_not_the_default_any_more_ends() -> None:
    client()
    gc.collect()
    forgotten = weakref.ref(wukong.get_client())
    assert ran_on() != str(os.getpid())
    with client():
        gc.collect()
        assert forgotten() is None
    assert default() is None
    with pytest.raises(NoClient, match=r"wukong\.Client"):
        wukong.get_client()


def test_persist_leaves_the_chunks_in_the_store() -> None:
    with client():
        assert all(isinstance(each, wukong.Future) for each in da.ones(4, chunks=2).persist().__dask_graph__().values())


def test_in_a_forked_process_the_parents_client_is_not_the_default() -> None:
    with client():
        context = multiprocessing.get_context("fork")
        told, tell = context.Pipe(duplex=False)
        process = context.Process(target=lambda: tell.send(bool(dask.config.get("scheduler"))))
        process.start()
        assert told.recv() is False
        process.join()


def test_inside_a_task_there_is_no_client() -> None:
    def inside() -> tuple[Any, bool]:
        try:
            return wukong.get_client(), bool(get_scheduler())
        except NoClient:
            return None, bool(get_scheduler())

    with client():
        assert dask.delayed(inside)().compute() == (None, False)


def test_a_library_that_looks_for_distributed_finds_a_scheduler_of_its_own_kind() -> None:
    from dask_ml.model_selection import GridSearchCV
    from sklearn.datasets import load_iris
    from sklearn.svm import SVC

    with client() as made:
        for scheduler in (None, made, made.get):
            before = made.last_job
            search = GridSearchCV(SVC(), {"C": [1, 2]}, cv=2, scheduler=scheduler)
            assert search.fit(*load_iris(return_X_y=True)).best_params_["C"] in (1, 2)
            assert made.last_job is not before


def test_the_scheduler_function_of_a_client_is_one_whenever_it_is_asked_for() -> None:
    with client() as made, client() as other:
        assert made.get == made.get != other.get
        assert get_scheduler(scheduler=made) == made.get
        assert made.id in repr(made.get)
