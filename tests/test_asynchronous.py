"""A client of a program of asyncio: its methods and futures are awaited, and its loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from dask import delayed
from waiting import wait_for

import wukong
from wukong.client.registry import Registry
from wukong.core.time_left import time_left_s
from wukong.errors import ClientClosed, JobCancelled, JobTimeout


def test_an_asynchronous_client_is_awaited_throughout(tmp_path: Path) -> None:
    async def main() -> None:
        async with wukong.Client(asynchronous=True, progress=False) as client:
            assert client.asynchronous and wukong.get_client() is client
            total = client.compute(da.arange(10, chunks=5).sum())
            assert await total == 45 and await total.result() == 45 and await total.exception() is None
            assert await client.compute([delayed(pow)(2, 3), 7], sync=True) == [8, 7]
            partial = await client.compute(delayed(divmod)(1, 0), sync=True, on_error="collect")
            assert not partial.whole

            futures = client.map(operator.neg, range(3))
            assert await client.gather({"all": futures}) == {"all": [0, -1, -2]}
            assert [await future async for future in wukong.as_completed(futures[:1])] == [0]
            values = [pair async for pair in wukong.as_completed(futures, with_results=True)]
            assert {future.key: value for future, value in values} == {f.key: -i for i, f in enumerate(futures)}
            stored = await client.scatter(np.arange(4))
            assert await client.submit(np.sum, stored) == 6

            held, failed = client.submit(wait_for, str(tmp_path / "go"), 5), client.submit(divmod, 1, 0)
            done, left = await wukong.wait([held, failed], return_when="FIRST_EXCEPTION")
            assert (done, left) == ({failed}, {held})
            with pytest.raises(ZeroDivisionError):
                await failed.result()
            assert isinstance(await failed.exception(), ZeroDivisionError)
            with pytest.raises(JobTimeout):
                await held.result(timeout=0.01)
            (tmp_path / "go").touch()
            assert await held == 5

            never = client.submit(wait_for, str(tmp_path / "never"), 1)
            await client.cancel(never)
            with pytest.raises(JobCancelled):
                await never
            await client.retry([failed])
            with client.get_executor() as executor:
                assert await asyncio.wrap_future(executor.submit(pow, 3, 2)) == 9
        assert client.closed
        with pytest.raises(ClientClosed):
            client.submit(pow, 1, 1)

    asyncio.run(main())


def test_a_stored_value_is_read_within_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    fetch, left_s = Registry.fetch, list[float]()

    def noting(registry: Registry, values: Sequence[Any]) -> list[Any]:
        left_s.append(time_left_s())
        return fetch(registry, values)

    monkeypatch.setattr(Registry, "fetch", noting)

    async def main() -> None:
        async with wukong.Client(asynchronous=True, progress=False) as client:
            stored = await client.scatter(np.arange(4))
            assert list(await stored.result(timeout=600)) == [0, 1, 2, 3]

    asyncio.run(main())
    assert 0.0 < left_s[0] <= 600.0


def test_it_may_be_awaited_and_closed_by_hand() -> None:
    async def main() -> None:
        client = await wukong.Client(asynchronous=True, progress=False)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.ensure_future(tick())
        assert await client.submit(pow, 2, 2) == 4
        await client.close()
        assert client.closed and ticks > 1
        ticking.cancel()
        await client.close()

    asyncio.run(main())


def test_entered_by_a_plain_with_it_says_async_with() -> None:
    client = wukong.Client(asynchronous=True, progress=False, set_as_default=False)
    with pytest.raises(TypeError, match="'async with'"), client:
        pass
    asyncio.run(client.close())
