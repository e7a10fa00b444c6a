"""The store `redis` against real servers: the conformance suite, and what is its own.

Round trips, waiting without polling, fan-ins, expiry, shards. How servers are reached: test_storage_redis_access.
"""

import random
import re
import socket
import threading
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import ClassVar

import pytest
import redis
from certificates import make_certificates
from waiting import wait

from wukong.backends.storage import Arrival, Outcome, Store
from wukong.backends.storage.local import LocalStore
from wukong.backends.storage.redis import RedisStore
from wukong.backends.storage.redis import scripts as redis_scripts
from wukong.backends.storage.redis import server as redis_server
from wukong.backends.storage.redis.progress import Progress
from wukong.backends.storage.redis.reply import read_values
from wukong.backends.storage.redis.server import RedisNode
from wukong.backends.storage.redis.shard import RedisShard
from wukong.errors import StoreUnavailable
from wukong.testing.servers import RedisServer, free_port
from wukong.testing.storage import StoreTests
from wukong.testing.storage.opening import StoreOpeningTests
from wukong.testing.storage.values import ValueTests
from wukong.testing.storage.waiting import WaitingTests

PASSWORD = "pass/word@with, all:that%#?"
TTL_S = 600.0


@pytest.fixture(scope="module")
def server():
    with RedisServer(unix_socket=True) as server:
        yield server


@pytest.fixture(scope="module")
def shards():
    servers = [RedisServer() for _ in range(3)]
    try:
        yield [server.start() for server in servers]
    finally:
        for server in servers:
            server.stop()


@pytest.fixture(scope="module")
def guarded():
    with RedisServer(password=PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def secure(certificates):
    with RedisServer(tls=certificates) as server:
        yield server


@pytest.fixture
def bare(server):
    """A client of the plain server's that is not ours; the server is empty and counts from nothing."""
    client = redis.Redis(port=server.port, protocol=2)
    client.flushall()
    client.config_resetstat()
    yield client
    client.close()


@pytest.fixture
def store(server):
    store = RedisStore(endpoints=[server.endpoint])
    yield store
    store.close()


def calls(bare: redis.Redis) -> Mapping[str, int]:
    """How often each command was called, but for those that a test itself and a new connection call."""
    counted = {
        name.removeprefix("cmdstat_").partition("|")[0]: stat["calls"]
        for name, stat in bare.info("commandstats").items()
    }
    return {name: n for name, n in counted.items() if not re.match(r"info|config|flushall|ping|hello|client", name)}


# --- the suite; of other transports, what they could change


class TestOneServer(StoreTests):
    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.server = server

    def make_store(self) -> Store:
        return RedisStore(endpoints=[self.server.endpoint])

    def make_unreachable_store(self) -> Store:
        return RedisStore(f"redis://:{PASSWORD[:4]}@127.0.0.1:{free_port()}")

    def raw_get(self, store: Store, keys: Sequence[bytes]) -> list[bytes | None]:
        with redis.Redis(port=self.server.port, protocol=2) as bare:
            return bare.mget([b"wukong:v" + key for key in keys])

    def raw_put(self, store: Store, items: Mapping[bytes, bytes]) -> None:
        with redis.Redis(port=self.server.port, protocol=2) as bare:
            bare.mset({b"wukong:v" + key: value for key, value in items.items()})


class TestThreeShards(StoreTests):
    @pytest.fixture(autouse=True)
    def _shards(self, shards):
        self.shards = shards

    def make_store(self) -> Store:
        return RedisStore("redis://" + ",".join(server.endpoint for server in self.shards))

    def restart_server(self) -> None:
        self.shards[1].kill()
        self.shards[1].start()

    def raw_get(self, store: Store, keys: Sequence[bytes]) -> list[bytes | None]:
        found = []
        for server in self.shards:
            with redis.Redis(port=server.port, protocol=2) as bare:
                found.append(bare.mget([b"wukong:v" + key for key in keys]))
        there = [[value for value in values if value is not None] for values in zip(*found, strict=True)]
        assert all(len(values) <= 1 for values in there), "a key has one place"
        return [values[0] if values else None for values in there]


class UnixSocket:
    @pytest.fixture(autouse=True)
    def _server(self, server):
        self.server = server

    def make_store(self) -> Store:
        return RedisStore(f"unix://{self.server.socket_path}?db=3")


class Password:
    @pytest.fixture(autouse=True)
    def _server(self, guarded):
        self.server = guarded

    def make_store(self) -> Store:
        return RedisStore(endpoints=[self.server.endpoint], password=PASSWORD, db=1)


class Tls:
    @pytest.fixture(autouse=True)
    def _server(self, secure, certificates):
        self.server, self.ca_file = secure, str(certificates[2])

    def make_store(self) -> Store:
        return RedisStore(f"rediss://{self.server.endpoint}", ca_file=self.ca_file)


class TestUnixSocket(UnixSocket, StoreOpeningTests):
    pass


class TestPassword(Password, StoreOpeningTests):
    pass


class TestTls(Tls, StoreOpeningTests, WaitingTests):
    def test_large_values_come_whole(self, store, key):
        values = {key(f"{n}"): random.Random(n).randbytes(n) for n in (1_000_003, 16 << 20)}
        store.put(values)
        assert [bytes(value) for value in store.get(list(values))] == list(values.values())


@pytest.mark.long
class TestUnixSocketWaits(UnixSocket, WaitingTests):
    pass


@pytest.mark.long
class TestPasswordWaits(Password, WaitingTests):
    pass


@pytest.mark.long
class TestTlsValues(Tls, ValueTests):
    pass


# --- round trips


class TestRoundTrips:
    @pytest.fixture
    def asked(self, monkeypatch) -> list[int]:
        """Grows with every round trip."""
        trips: list[int] = []
        exchange = RedisNode._exchange

        def counted(self, request, read):
            trips.append(request.n_commands)
            return exchange(self, request, read)

        monkeypatch.setattr(RedisNode, "_exchange", counted)
        return trips

    def test_a_batch_of_arrivals_is_one_call_of_one_script(self, store, bare, asked):
        store.incr([Arrival(b"warm", (0,), 2, b"c")])
        bare.config_resetstat()
        asked.clear()
        store.incr([Arrival(b"f%d" % n, (n % 3,), 3, b"c", b"value") for n in range(900)], TTL_S)
        assert calls(bare)["evalsha"] == 1
        store.incr([Arrival(b"wide", tuple(range(0, 20_000, 2)), 20_000, b"c", b"value")], TTL_S)
        assert calls(bare)["evalsha"] == 2
        assert asked == [1, 1]

    def test_a_very_large_batch_is_several_calls_in_one_round_trip(self, store, bare, asked):
        store.incr([Arrival(b"warm", (0,), 2, b"c")])
        asked.clear()
        arrivals = [Arrival(b"f", (n,), 5_000, b"c%d" % n, bytes(3_000)) for n in range(5_000)]
        outcomes = store.incr(arrivals, TTL_S)
        assert len(asked) == 1
        assert asked[0] >= 5
        assert outcomes[:-1] == [Outcome(False, False)] * 4_999
        assert len(outcomes[-1].values) == 5_000

    def test_gets_puts_and_deletes_are_one_each(self, store, bare, asked):
        bare.script_flush()
        bare.config_resetstat()
        items = {b"k%d" % n: b"%d" % n for n in range(500)}
        store.put(items, TTL_S)
        assert store.get(list(items)) == list(items.values())
        store.delete(list(items))
        store.delete(list(items))
        assert store.get(list(items)) == [None] * 500
        assert calls(bare) == {
            "set": 500,
            "mget": 2,
            "script": 1,
            "evalsha": 3,
            "getrange": 1_000,
            "unlink": 2,  # the first call finds no script and loads it
        }
        assert len(asked) == 7

    def test_nothing_is_asked_for_an_empty_batch(self, store, asked):
        assert (store.get([]), store.incr([]), store.put({}), store.delete([])) == ([], [], None, None)
        assert asked == []

    def test_shards_are_asked_once_each(self, shards, asked):
        store = RedisStore(endpoints=[server.endpoint for server in shards])
        store.put({b"%d" % n: b"" for n in range(200)}, TTL_S)
        assert len(asked) == 3
        store.get([b"%d" % n for n in range(200)])
        assert len(asked) == 6
        store.get([b"1"])
        store.put({b"1": b"2"}, TTL_S)
        store.incr([Arrival(b"f", (0,), 2, b"c")], TTL_S)
        assert len(asked) in (9, 11)  # two more if that shard knew no script
        store.close()

    def test_one_thread_needs_one_connection_and_closing_leaves_none(self, server, bare):
        ours = RedisStore(endpoints=[server.endpoint], db=9)
        for n in range(20):
            ours.put({b"a": b"%d" % n}, TTL_S)
            ours.get([b"a"])
            ours.incr([Arrival(b"f", (0,), 2, b"c")], TTL_S)
        assert [client["db"] for client in bare.client_list()].count("9") == 1
        ours.close()
        wait(lambda: "9" not in [client["db"] for client in bare.client_list()])

    def test_a_large_value_is_sent_from_where_it_is(self, server):
        value = bytes(32 << 20)
        store = RedisStore(endpoints=[server.endpoint])
        store.get([b"connected"])
        tracemalloc.start()
        store.put({b"a": value, b"b": (b"head", memoryview(value), b"tail")}, TTL_S)
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak_bytes < 1 << 20
        assert store.get([b"a", b"b"]) == [value, b"head" + value + b"tail"]
        store.delete([b"a", b"b"])
        store.close()


class TestReplies:
    VALUES: ClassVar = [
        b"",
        None,
        b"$3\r\n",
        b"\r\n" * 10,
        bytes(70_000),
        b"\r" * 200_000,
        None,
        b"*1\r\n" * 50_000,
        b"z",
    ]

    def packed(self) -> bytes:
        values = (b"$-1\r\n" if value is None else b"$%d\r\n%b\r\n" % (len(value), value) for value in self.VALUES)
        return (b"*%d\r\n%b" % (len(self.VALUES), b"".join(values))) * 2

    def read(self, *pieces: bytes, n_replies: int = 2, timeout_s: float = 20.0):
        """What is read when these pieces arrive one by one, and then nothing more."""
        here, there = socket.socketpair()
        with here, there:
            here.settimeout(timeout_s)

            def send() -> None:
                for piece in pieces:
                    there.sendall(piece)
                if timeout_s >= 1.0:
                    there.shutdown(socket.SHUT_WR)

            sender, _ = in_thread(send)
            try:
                return read_values(SimpleNamespace(_sock=here), Progress(timeout_s, timeout_s), n_replies)
            finally:
                sender.join(20.0)

    @pytest.mark.parametrize("seed", range(8))
    def test_are_the_same_however_they_are_cut_up(self, seed):
        rnd, packed = random.Random(seed), self.packed()
        cuts = sorted([*rnd.sample(range(len(packed)), 60), 1, 2, 3, 4, 5, 6, len(packed) - 1])
        assert self.read(*(packed[a:b] for a, b in pairwise([0, *cuts, len(packed)]))) == [self.VALUES] * 2

    def test_are_the_servers_word_if_it_refuses(self):
        refusal, values = self.read(b"-NOPERM not for you\r\n*1\r\n$1\r\na\r\n")
        assert type(refusal) is redis.exceptions.NoPermissionError
        assert values == [b"a"]
        with pytest.raises(redis.BusyLoadingError):
            self.read(b"-LOADING Redis is loading the dataset in memory\r\n")

    def test_that_break_off_are_no_values(self):
        packed = self.packed()
        for n_bytes in (0, 3, 9, 80, 60_000, 80_000, 300_000, len(packed) - 1):
            with pytest.raises(redis.ConnectionError):
                self.read(packed[:n_bytes])
            with pytest.raises(redis.TimeoutError):
                self.read(packed[:n_bytes], timeout_s=0.01)

    def test_that_are_something_else_are_refused(self):
        for garbage in (b"HTTP/1.1 200 OK\r\n", b"+OK\r\n", b"*1\r\n:5\r\n", b"*x\r\n", b"*1\r\n$x\r\n"):
            with pytest.raises((redis.InvalidResponse, redis.ConnectionError)):
                self.read(garbage)


# --- waiting


def in_thread(call) -> tuple[threading.Thread, list]:
    answers: list = []

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:
            answers.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, answers


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


# --- time to live


class TestExpiry:
    def write_everything(self, store, ttl_s) -> None:
        store.put({b"small": b"1", b"empty": b"", b"large": bytes(2 << 20), b"huge": bytes(9 << 20)}, ttl_s)
        store.incr([Arrival(b"f", (0,), 3, b"c", b"v")], ttl_s)
        store.incr([Arrival(b"held", (0,), 2, b"c", b"v", True)], ttl_s)
        store.incr([Arrival(b"done", (0,), 1, b"c", b"v")], ttl_s)
        store.incr([Arrival(b"wide", tuple(range(9_000)), 10_000, b"c", b"v")], ttl_s)

    def remaining_s(self, servers) -> list[float]:
        found = []
        for server in servers:
            with redis.Redis(port=server.port) as bare:
                found += [bare.pttl(key) / 1000 for key in bare.scan_iter()]
        return found

    def test_every_key_has_one(self, shards):
        for server in shards:
            with redis.Redis(port=server.port) as bare:
                bare.flushall()
        store = RedisStore(endpoints=[server.endpoint for server in shards])
        self.write_everything(store, TTL_S)
        remaining_s = self.remaining_s(shards)
        assert len(remaining_s) == 8 + 5  # five chunks of the huge one
        assert all(TTL_S - 60 < each <= TTL_S for each in remaining_s)
        store.close()

    def test_is_set_anew_by_every_write_and_taken_away_by_one_without(self, store, server, bare):
        for ttl_s in (TTL_S, 2 * TTL_S):
            self.write_everything(store, ttl_s)
            assert all(ttl_s - 60 < each <= ttl_s for each in self.remaining_s([server]))
        self.write_everything(store, None)
        assert self.remaining_s([server]) == [-0.001] * 8

    def test_below_a_millisecond_is_a_millisecond(self, store, bare):
        store.put({b"a": b"1"}, 1e-6)
        store.incr([Arrival(b"f", (0,), 2, b"c")], 1e-6)
        wait(lambda: store.get([b"a"]) == [None])


# --- shards


class TestShards:
    def test_get_even_shares_of_values_and_records(self, shards):
        store = RedisStore(endpoints=[server.endpoint for server in shards])
        clients = [redis.Redis(port=server.port) for server in shards]
        for client in clients:
            client.flushall()
        store.put({b"job/v/%d" % n: b"1" for n in range(3_000)}, TTL_S)
        assert all(900 < client.dbsize() < 1_100 for client in clients)
        store.incr([Arrival(b"job/r/%d" % n, (0,), 2, b"c") for n in range(3_000)], TTL_S)
        assert all(1_800 < client.dbsize() < 2_200 for client in clients)
        store.delete([b"job/%s/%d" % (kind, n) for kind in (b"v", b"r") for n in range(3_000)])
        assert [client.dbsize() for client in clients] == [0] * 3
        store.close()

    def test_share_the_chunks_of_a_large_value_and_lose_them_together(self, shards):
        store = RedisStore(endpoints=[server.endpoint for server in shards], chunk_bytes=100_000)
        clients = [redis.Redis(port=server.port) for server in shards]
        for client in clients:
            client.flushall()
        value = random.Random(1).randbytes(24_000_000)
        store.put({b"a": value}, TTL_S)
        assert sum(client.dbsize() for client in clients) == 240 + 1
        assert all(client.dbsize() > 40 for client in clients)
        assert store.get([b"a"]) == [value]
        store.delete([b"a"])
        assert [client.dbsize() for client in clients] == [0] * 3
        store.close()

    def test_have_their_places_whatever_the_order_they_are_named_in(self, shards):
        names = [server.endpoint for server in shards]
        store, reversed_store = RedisStore(endpoints=names), RedisStore(endpoints=names[::-1])
        items = {b"%d" % n: b"%d" % n for n in range(100)}
        store.put(items, TTL_S)
        assert reversed_store.get(list(items)) == list(items.values())
        store.close()
        reversed_store.close()

    def test_one_that_is_down_is_named(self, shards):
        down = f"127.0.0.1:{free_port()}"
        store = RedisStore(endpoints=[*(server.endpoint for server in shards), down])
        with pytest.raises(StoreUnavailable, match=down):
            store.put({b"%d" % n: b"1" for n in range(100)}, TTL_S)
        store.close()
