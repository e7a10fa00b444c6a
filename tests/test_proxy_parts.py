"""Parts of the proxy by themselves: the memory, what is remembered, what is open, how work is shared out."""

import asyncio
from typing import ClassVar

import pytest

from wukong.backends.faas import FaaS
from wukong.backends.spec import PluginSpec
from wukong.proxy import backend_cache
from wukong.proxy.backend_cache import BackendCache
from wukong.proxy.duplicate_cache import DuplicateCache, keyed
from wukong.proxy.invoker import InvokerThreads, pieces
from wukong.proxy.memory_budget import MemoryBudget


class TestRoom:
    def test_is_given_in_turn_also_to_a_small_one_behind_a_large_one(self):
        async def scene():
            budget, order = MemoryBudget(100), []

            async def one(name, size):
                assert await budget.take(size, 10.0)
                order.append(name)

            await one("first", 80)
            waiting = [asyncio.create_task(one(name, size)) for name, size in (("large", 50), ("small", 10))]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert order == ["first"]  # the small one would fit, and does not overtake
            budget.give(80)
            await asyncio.gather(*waiting)
            assert order == ["first", "large", "small"]
            assert budget.free_bytes == 40

        asyncio.run(scene())

    def test_who_gives_up_is_not_in_the_way_of_others(self):
        async def scene():
            budget = MemoryBudget(100)
            assert await budget.take(80, 10.0)
            large = asyncio.create_task(budget.take(50, 0.01))
            await asyncio.sleep(0)
            small = asyncio.create_task(budget.take(10, 10.0))
            assert await large is False
            assert await small is True
            assert budget.free_bytes == 10

        asyncio.run(scene())

    @pytest.mark.parametrize("granted", [False, True])
    def test_who_is_cancelled_while_waiting_leaves_nothing_taken(self, granted):
        async def scene():
            budget = MemoryBudget(100)
            assert await budget.take(80, 10.0)
            waiting = asyncio.create_task(budget.take(50, 10.0))
            await asyncio.sleep(0)
            if granted:
                budget.give(80)  # it is its turn, and it does not know yet
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            if not granted:
                budget.give(80)
            assert budget.free_bytes == 100
            assert await budget.take(100, 0.01)

        asyncio.run(scene())


class TestRecent:
    def test_is_forgotten_after_its_time_and_when_there_are_too_many(self):
        now = [0.0]
        recent = DuplicateCache(3, 10.0, lambda: now[0])
        for name in "abc":
            recent.add((name, b""))
            now[0] += 1.0
        assert all((name, b"") in recent for name in "abc")
        recent.add(("a", b""))  # anew
        recent.add(("d", b""))
        assert [name for name in "abcd" if (name, b"") in recent] == ["a", "c", "d"]
        now[0] = 12.5
        assert [name for name in "abcd" if (name, b"") in recent] == ["a", "d"]
        recent.add(("e", b""))
        assert len(recent) == 3

    def test_an_invocation_is_known_by_label_backend_and_payload(self):
        one = keyed(("m:c", {"a": 1, "b": 2}))
        assert one(("j/0", b"x")) == keyed(("m:c", {"b": 2, "a": 1}))(("j/0", b"x"))
        others = [one(("j/1", b"x")), one(("j/0", b"y")), keyed(("m:c", {"a": 1}))(("j/0", b"x"))]
        assert len({one(("j/0", b"x")), *others}) == 4


@pytest.mark.parametrize(
    ("count", "threads", "sizes"),
    [(1, 4, [1]), (64, 4, [64]), (65, 4, [32, 33]), (300, 4, [75] * 4), (1_000, 8, [125] * 8), (0, 4, [])],
)
def test_a_message_is_shared_out_in_pieces_that_are_worth_it(count, threads, sizes):
    found = pieces(count, threads)
    assert [each.stop - each.start for each in found] == sizes
    assert [number for each in found for number in range(count)[each]] == list(range(count))


class Fragile(FaaS):
    """Refuses what it is told to."""

    made: ClassVar[list["Fragile"]] = []

    def __init__(self, **options):
        self.closed = False
        self.made.append(self)

    def invoke(self, invocations):
        if invocations[0].id == "bad":
            raise RuntimeError("on\npurpose")

    def spec(self):
        return PluginSpec(f"{__name__}:Fragile")

    def close(self):
        self.closed = True


class TestOpened:
    @pytest.fixture(autouse=True)
    def none_yet(self, monkeypatch):
        monkeypatch.setattr(Fragile, "made", [])

    def address(self, number=0):
        return f"{__name__}:Fragile", {"n": number}

    def test_a_backend_stays_open_and_the_one_used_least_recently_makes_room(self, monkeypatch):
        monkeypatch.setattr(backend_cache, "_MOST_OPEN", 2)
        backends = BackendCache()
        first, second = backends.get(self.address(1)), backends.get(self.address(2))
        assert backends.get(self.address(1)) is first
        backends.get(self.address(3))
        assert [each.closed for each in Fragile.made] == [False, True, False]
        assert backends.get(self.address(2)) is not second
        backends.close()
        assert all(each.closed for each in Fragile.made)

    def test_one_that_failed_is_opened_anew_next_time(self):
        threads = InvokerThreads(1)
        try:
            for label in ("good", "bad", "good"):
                [refusal] = threads.pool.submit(threads.make, self.address(), [(label, b"")]).result(20)
                wrong = "test_proxy_parts:Fragile broke its contract: invoke raised RuntimeError: on purpose"
                assert refusal == (f"the FaaS plug-in {wrong}" if label == "bad" else None)
        finally:
            threads.stop()
        assert len(Fragile.made) == 2
        assert all(each.closed for each in Fragile.made)

    def test_one_that_cannot_be_opened_is_a_reason(self):
        threads = InvokerThreads(1)
        try:
            [refusal] = threads.pool.submit(threads.make, ("no_such_module:x", {}), [("j", b"")]).result(20)
        finally:
            threads.stop()
        assert refusal == "ModuleNotFoundError: No module named 'no_such_module'"
