"""The store `redis` against real servers: the conformance suite, and what is its own.

Round trips, expiry, shards. Waiting and fan-ins: test_storage_redis_fan_ins. How servers are reached:
test_storage_redis_access; what they refuse and when they are away: test_storage_redis_outages.
"""

import random
import socket
import tracemalloc
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import SimpleNamespace
from typing import ClassVar

import pytest
import redis
from storage_redis_tools import (  # noqa: F401
    PASSWORD,
    TTL_S,
    a_bare_client,
    a_guarded_server,
    a_secure_server,
    a_server,
    a_store,
    calls,
    in_thread,
    some_certificates,
    some_shards,
)
from waiting import wait

from wukong.backends.storage import Arrival, Outcome, Store
from wukong.backends.storage.redis import RedisStore
from wukong.backends.storage.redis.progress import Progress
from wukong.backends.storage.redis.reply import read_values
from wukong.backends.storage.redis.server import RedisNode
from wukong.errors import StoreUnavailable
from wukong.testing.servers import free_port
from wukong.testing.storage import StoreTests
from wukong.testing.storage.opening import StoreOpeningTests
from wukong.testing.storage.values import ValueTests
from wukong.testing.storage.waiting import WaitingTests

# --- the suite; of other transports, what they could change


class TestOneServer(StoreTests):
    """Several do what one does, but for values: one server keeps them whole, and others may write them into it."""

    in_short_run = (
        "test_bytes_out_are_bytes_in",
        "test_what_is_written_elsewhere_is_read_here",
        "test_a_value_in_parts_is_stored_back_to_back",
        "test_large_values_ride_whole",
    )

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

    def make_unreachable_store(self) -> Store:
        return RedisStore(f"redis://:{PASSWORD[:4]}@127.0.0.1:{free_port()}")

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
