"""joblib on a client: batches, ways to return, errors, nested parallelism, shared arguments; scikit-learn on it."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed
from waiting import wait, wait_for

import wukong
from wukong.integrations.joblib import SHARED_BYTES


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


@pytest.fixture(autouse=True)
def backend(client: wukong.Client) -> Iterator[None]:
    with joblib.parallel_config("wukong", client=client):
        yield


def square(x: int) -> int:
    return x * x


def test_values_come_in_order_in_batches_of_any_size(client: wukong.Client) -> None:
    assert Parallel()(delayed(square)(i) for i in range(50)) == [i * i for i in range(50)]
    before = client.cost().jobs.total()
    assert Parallel(n_jobs=2, batch_size=10, pre_dispatch="all")(delayed(square)(i) for i in range(40)) == [
        i * i for i in range(40)
    ]
    assert client.cost().jobs.total() - before == 4
    assert Parallel()([]) == []


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_values_are_returned_as_they_come(tmp_path: Path, return_as: str) -> None:
    def held(i: int) -> int:
        return i if i else wait_for(str(tmp_path / "go"), 0)

    values = Parallel(n_jobs=2, return_as=return_as, batch_size=1)(delayed(held)(i) for i in range(4))
    if return_as == "generator":
        (tmp_path / "go").touch()
        assert list(values) == [0, 1, 2, 3]
    else:
        first = [next(values) for _ in range(3)]  # while the one submitted first still runs
        (tmp_path / "go").touch()
        assert sorted(first) == [1, 2, 3] and list(values) == [0]


def test_an_error_is_raised_as_itself_and_what_is_under_way_is_cancelled(client: wukong.Client, tmp_path: Path) -> None:
    def bad(i: int) -> Any:
        if i == 1:
            wait_for(str(tmp_path / "begun"), None)
            raise LookupError("one")
        (tmp_path / "begun").touch()
        return wait_for(str(tmp_path / "never"), None)

    before = client.cost().jobs["cancelled"]
    with pytest.raises(LookupError, match="one"):
        Parallel(n_jobs=2, batch_size=1)(delayed(bad)(i) for i in range(2))
    wait(lambda: client.cost().jobs["cancelled"] > before)
    assert Parallel()(delayed(square)(i) for i in range(3)) == [0, 1, 4]
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(n_jobs=2, timeout=0.1)([delayed(wait_for)(str(tmp_path / "never"), 1)])


def test_inside_a_task_joblib_uses_threads_of_the_function() -> None:
    def outer(n: int) -> tuple[list[int], str]:
        import threading

        seen = Parallel(n_jobs=2)(delayed(square)(i) for i in range(n))
        names = Parallel(n_jobs=2)(delayed(lambda: type(threading.current_thread()).__name__)() for _ in range(2))
        return seen, names[0]

    values = Parallel()(delayed(outer)(n) for n in (2, 3))
    assert [seen for seen, _ in values] == [[0, 1], [0, 1, 4]]
    assert {name for _, name in values} == {"DummyProcess"}  # multiprocessing's word for a thread of a pool


def test_a_large_argument_is_stored_once_for_each_call_of_parallel(client: wukong.Client) -> None:
    data = np.arange(SHARED_BYTES // 4)
    totals = Parallel(n_jobs=2, batch_size=1)(delayed(lambda a, i: int(a[i]))(data, i) for i in range(6))
    assert totals == list(range(6))
    job = client.last_job
    assert job is not None and job.graph is not None and len(job.graph.objects) == 1
    data[:6] = -1  # the same array with other items
    assert Parallel(n_jobs=2)(delayed(lambda a, i: int(a[i]))(data, i) for i in range(3)) == [-1] * 3


def test_an_asynchronous_client_takes_large_arguments() -> None:
    def computed(client: wukong.Client) -> Any:
        with joblib.parallel_config("wukong", client=client):
            return Parallel()(delayed(len)(each) for each in [np.zeros(SHARED_BYTES, "u1")])

    async def main() -> None:
        async with wukong.Client(asynchronous=True, progress=False) as client:
            assert await asyncio.to_thread(computed, client) == [SHARED_BYTES]

    asyncio.run(main())


def test_n_jobs_is_how_many_batches_are_under_way(client: wukong.Client) -> None:
    assert joblib.effective_n_jobs(7) == 7 and joblib.effective_n_jobs(-1) >= 1
    with pytest.raises(ValueError, match="no meaning"):
        Parallel(n_jobs=0)([delayed(square)(2)])


def test_scikit_learn_searches_and_validates_on_it() -> None:
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score

    x, y = make_classification(n_samples=600, n_features=16, random_state=0)
    search = GridSearchCV(LogisticRegression(), {"C": [0.01, 1.0]}, cv=3, n_jobs=-1).fit(x, y)
    with joblib.parallel_config("sequential"):
        here = GridSearchCV(LogisticRegression(), {"C": [0.01, 1.0]}, cv=3).fit(x, y)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"])
    forest = RandomForestClassifier(n_estimators=8, random_state=0, n_jobs=2)  # parallel inside, too
    assert cross_val_score(forest, x, y, cv=3, n_jobs=3).min() > 0.7
