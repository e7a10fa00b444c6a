"""The store `redis`: waiting without polling, fan-ins, and taking."""

import random
from dataclasses import replace

import pytest
import redis
from storage_redis_tools import TTL_S, a_bare_client, a_server, a_store, calls, in_thread  # noqa: F401
from waiting import wait

from wukong.backends.storage import Arrival, Outcome
from wukong.backends.storage.local import LocalStore
from wukong.backends.storage.redis import scripts as redis_scripts
from wukong.backends.storage.redis import server as redis_server
from wukong.backends.storage.redis.server import RedisNode
from wukong.backends.storage.redis.shard import RedisShard


def watchers(bare: redis.Redis) -> list[dict]:
    """Connections that wait for a key: they track, and a GET was the last that they sent."""
    return [each for each in bare.client_list() if "t" in each["flags"] and each["cmd"] == "get"]


class TestWaiting:
    def test_asks_once_and_writers_do_nothing_for_it(self, store, bare, server):
        before = len(watchers(bare))
        thread, answers = in_thread(lambda: store.wait(b"a", 60.0))
        wait(lambda: len(watchers(bare)) > before)
        assert store.wait(b"b", 1.0) is None
        assert calls(bare) == {"get": 2}
        store.put({b"a": b"1"}, TTL_S)
        thread.join(20.0)
        assert answers == [b"1"]
        assert calls(bare) == {"get": 3, "set": 1}

    def test_sleeps_through_what_does_not_concern_it(self, store, bare):
        thread, answers = in_thread(lambda: store.wait(b"a", 60.0))
        wait(lambda: watchers(bare))
        store.put({b"b%d" % n: b"1" for n in range(100)}, TTL_S)
        assert calls(bare)["get"] == 1
        store.put({b"a": b"1"}, TTL_S)
        thread.join(20.0)
        assert answers == [b"1"]

    def test_many_threads_wait_at_once(self, store, bare):
        waiting = [in_thread(lambda key=b"%d" % (n % 20): store.wait(key, 60.0)) for n in range(40)]
        wait(lambda: calls(bare).get("get") == 40)
        store.put({b"%d" % n: b"value %d" % n for n in range(20)}, TTL_S)
        for thread, _ in waiting:
            thread.join(20.0)
        assert [answers for _, answers in waiting] == [[b"value %d" % (n % 20)] for n in range(40)]

    def test_goes_on_over_a_new_connection_if_one_breaks(self, store, bare):
        thread, answers = in_thread(lambda: store.wait(b"a", 60.0))
        killed: set[str] = set()
        for _ in range(3):
            (watcher,) = wait(lambda: [each for each in watchers(bare) if each["id"] not in killed])
            bare.client_kill_filter(_id=watcher["id"])
            killed.add(watcher["id"])
        store.put({b"a": b"1"}, TTL_S)
        thread.join(20.0)
        assert answers == [b"1"]

    def test_goes_on_if_the_key_is_deleted_before_it_was_seen(self, store, bare, monkeypatch):
        look = redis_server._look
        looks: list[bool] = []

        def look_too_late(connection, key, progress, *, remember):
            looks.append(remember)
            if looks == [True, False]:
                bare.delete(key)
            return look(connection, key, progress, remember=remember)

        monkeypatch.setattr(redis_server, "_look", look_too_late)
        thread, answers = in_thread(lambda: store.wait(b"a", 60.0))
        wait(lambda: watchers(bare))
        store.put({b"a": b"missed"}, TTL_S)
        wait(lambda: calls(bare).get("get") == 3)
        store.put({b"a": b"seen"}, TTL_S)
        thread.join(20.0)
        assert answers == [b"seen"]

    def test_what_is_told_of_a_key_later_disturbs_nobody(self, store):
        for turn in range(5):
            assert store.wait(b"late", 0.001) is None
            store.put({b"late": b"%d" % turn}, TTL_S)  # the connection that waited is told, and nobody listens
            assert store.wait(b"late", 10.0) == b"%d" % turn
            store.delete([b"late"])

    def test_looks_again_now_and_then_lest_the_server_is_gone(self, store, bare, monkeypatch):
        monkeypatch.setattr(redis_server, "_LOOK_S", 0.01)
        thread, answers = in_thread(lambda: store.wait(b"a", 60.0))
        wait(lambda: calls(bare).get("get", 0) >= 3)
        store.put({b"a": b"1"}, TTL_S)
        thread.join(20.0)
        assert answers == [b"1"]


# --- fan-ins


class TestFanIns:
    @pytest.mark.parametrize("of", [1, 2, 3, 4, 32, 33, 70, 300, 70_000])
    def test_agree_with_the_embedded_store_whatever_comes(self, of, store, bare):
        """Two stores that have nothing in common but their contract."""
        rnd = random.Random(of)
        local = LocalStore()
        for turn in range(200 if of < 10 else 50 if of < 1_000 else 6):
            for step in range(rnd.randint(2, 15)):
                n_members = min(of, rnd.choice([1, 1, 2, of // 3 + 1, max(1, of - 1), of]))
                if of > 1_000 or rnd.random() < 0.5:
                    first = rnd.randint(0, of - n_members)
                    members = tuple(range(first, first + n_members))
                else:
                    members = tuple(rnd.sample(range(of), n_members))
                value = rnd.choice([None, b"", b"%d" % step, bytes(300)])
                who, last = b"claimant %d" % rnd.randrange(4), rnd.random() < 0.6
                arrival = Arrival(b"%d/%d" % (of, turn), members, of, who, value, last)
                ours, theirs = (
                    replace(outcome, values=tuple(sorted(outcome.values)))
                    for each in (store, local)
                    for outcome in each.incr([arrival], TTL_S)
                )
                assert ours == theirs, (turn, step)
        local.close()

    def test_an_arrival_costs_the_same_however_many_have_arrived(self, store, bare):
        of = 20_000
        arrivals = [Arrival(b"f", (n,), of, b"c%d" % n, b"value") for n in range(of)]
        store.incr(arrivals[:1], TTL_S)
        bare.config_resetstat()
        store.incr(arrivals[1:2], TTL_S)
        early = calls(bare)
        store.incr(arrivals[2:-2], TTL_S)
        bare.config_resetstat()
        store.incr(arrivals[-2:-1], TTL_S)
        assert calls(bare) == early == {"evalsha": 1, "hmget": 1, "hset": 1, "pexpire": 1}
        bare.config_resetstat()
        assert len(store.incr(arrivals[-1:], TTL_S)[0].values) == of
        assert calls(bare) == {"evalsha": 1, "hmget": 1, "hset": 1, "hgetall": 1, "pexpire": 1}

    def test_a_claim_of_another_size_changes_nothing_not_even_the_time_to_live(self, store, bare):
        store.incr([Arrival(b"f", (0,), 3, b"c")], TTL_S)
        before = bare.hgetall(b"wukong:rf")
        with pytest.raises(ValueError, match="has 3 members, and an arrival says 4"):
            store.incr([Arrival(b"f", (1,), 4, b"c")])
        assert bare.hgetall(b"wukong:rf") == before
        assert bare.pttl(b"wukong:rf") > 0

    def test_one_that_contradicts_does_not_keep_the_others_of_its_batch_away(self, store):
        store.incr([Arrival(b"contradicted", (0,), 3, b"c")], TTL_S)
        with pytest.raises(ValueError):
            store.incr(
                [
                    Arrival(b"beside it", (0,), 2, b"c"),
                    Arrival(b"contradicted", (1,), 4, b"c"),
                    Arrival(b"beside it", (1,), 2, b"d"),
                ]
            )
        assert store.incr([Arrival(b"beside it", (1,), 2, b"d")]) == [Outcome(True, True)]

    def test_scripts_that_a_server_has_forgotten_are_loaded_again(self, store, bare):
        for n, verb in enumerate(
            (lambda: store.incr([Arrival(b"f", (0,), 1, b"c")], TTL_S), lambda: store.delete([b"f"]))
        ):
            verb()
            bare.script_flush()
            bare.config_resetstat()
            answer = verb()
            assert answer == ([Outcome(True, True)] if n == 0 else None)
            assert calls(bare)["script"] == 1

    def test_only_the_calls_that_found_no_script_are_made_again(self, store, bare, monkeypatch):
        """Another client may load it in between. What was taken by then must not be asked for once more."""
        shard = store.inner.inner
        assert isinstance(shard, RedisShard)
        monkeypatch.setattr(shard, "_most_keys", 1)
        store.put({b"a": b"MAGIC a", b"b": b"MAGIC b"})
        bare.script_flush()
        ask = RedisNode.ask
        asked = []

        def load_in_between(self, request):
            asked.append(request.n_commands)
            replies = ask(self, request)
            if len(asked) == 1:
                bare.script_load(redis_scripts.TAKE.source)
                replies[1] = bare.evalsha(redis_scripts.TAKE.sha, 2, b"wukong:vb", b"wukong:rb", b"MAGIC", 100)[0:]
            return replies

        monkeypatch.setattr(RedisNode, "ask", load_in_between)
        assert shard.take([b"a", b"b"], b"MAGIC", 100) == [b"MAGIC a", b"MAGIC b"]
        assert asked == [2, 1, 1]


class TestTake:
    def test_takes_what_begins_with_the_magic_and_is_short_and_deletes_everything(self, store, bare):
        shard = store.inner.inner
        values = {
            b"yes": b"MAGIC 1",
            b"only": b"MAGIC",
            b"no": b"other",
            b"part": b"MAG",
            b"": b"",
            b"long": b"MAGIC" * 9,
        }
        store.put(values, TTL_S)
        store.incr([Arrival(key, (0,), 2, b"c") for key in (b"yes", b"no", b"just a record")], TTL_S)
        keys = [b"no", b"yes", b"missing", b"only", b"part", b"", b"long", b"just a record"]
        expected = [None, b"MAGIC 1", None, b"MAGIC", None, None, None, None]
        assert shard.take(keys, b"MAGIC", 20) == expected
        assert bare.dbsize() == 0
        assert shard.take(keys, b"MAGIC", 20) == [None] * 8

    def test_takes_very_many_in_one_round_trip(self, store, bare):
        keys = [b"%d" % n for n in range(12_000)]
        store.put({key: b"MAGIC" + key if n % 3 == 0 else key for n, key in enumerate(keys)}, TTL_S)
        taken = store.inner.inner.take(keys, b"MAGIC", 100)
        assert taken == [b"MAGIC" + key if n % 3 == 0 else None for n, key in enumerate(keys)]
        assert bare.dbsize() == 0
