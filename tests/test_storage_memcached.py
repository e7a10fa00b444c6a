"""The store `memcached`: the conformance suite, and what is its own: names, sizes, contention, round trips."""

import os
import tracemalloc
from contextlib import ExitStack
from itertools import pairwise

import memcached_tools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memcached_tools import LARGE, RIDER, arrival, dumped, verb_of
from pymemcache.exceptions import MemcacheUnknownCommandError

from wukong.backends.storage import Outcome, Store, polling
from wukong.backends.storage.memcached import MemcachedStore
from wukong.backends.storage.memcached import shard as memcached_shard
from wukong.backends.storage.memcached.connection import MemcachedConnection
from wukong.backends.storage.memcached.names import MemcachedNames
from wukong.errors import StoreError, StoreUnavailable
from wukong.testing.remote_process import RemoteProcess
from wukong.testing.servers import MemcachedServer, free_port
from wukong.testing.storage import StoreTests

server, opened, store = memcached_tools.server, memcached_tools.opened, memcached_tools.store


@pytest.fixture(scope="module")
def servers():
    with ExitStack() as stack:
        yield [stack.enter_context(MemcachedServer()) for _ in range(2)]


@pytest.mark.long  # two do all that one does, and large values are in parts on either
class TestOneServer(StoreTests):
    @pytest.fixture(autouse=True)
    def _server(self, servers):
        self.server, self.endpoint = servers[0], servers[0].endpoint

    def restart_server(self) -> None:
        self.server.kill()
        self.server.start()

    def make_store(self) -> Store:
        return MemcachedStore(f"memcached://{self.endpoint}")

    def make_unreachable_store(self) -> Store:
        return MemcachedStore(endpoints=[f"127.0.0.1:{free_port()}"], item_bytes=1 << 20)


class TestTwoServers(StoreTests):
    @pytest.fixture(autouse=True)
    def _servers(self, servers):
        self.servers, self.endpoints = servers, [server.endpoint for server in servers]

    def restart_server(self) -> None:
        self.servers[1].kill()
        self.servers[1].start()

    def make_store(self) -> Store:
        return MemcachedStore(endpoints=self.endpoints)

    def make_unreachable_store(self) -> Store:
        return MemcachedStore(endpoints=[f"127.0.0.1:{free_port()}"], item_bytes=1 << 20)


# Names, times to live, sizes


@given(st.lists(st.binary(max_size=260), unique=True, max_size=5))
def test_no_two_keys_have_one_name_and_every_name_is_one_that_memcached_takes(keys):
    names = MemcachedNames("wukong:")
    keys += [names.value(key).partition(b"v")[2][1:] for key in keys]  # a name's own end, as a key
    named = [name(key) for key in dict.fromkeys(keys) for name in (names.value, names.record, names.rider)]
    assert len(set(named)) == len(named)
    for name in named:
        assert len(name) <= 250 or len(name) == len(names.rider(b"")) + 2 * 260, "a rider's name is ours: 28 bytes"
        assert all(0x21 <= byte <= 0x7E for byte in name)


def test_keys_of_two_prefixes_do_not_meet(server, opened):
    one, other = opened(server), opened(server, prefix="other:")
    one.put({b"a": b"1"})
    assert other.get([b"a"]) == [None]
    one.incr([arrival(0)])
    assert other.incr([arrival(1)]) == [Outcome(False, False)]


@pytest.mark.parametrize(
    ("ttl_s", "exptime"),
    [
        (None, 0),
        (float("inf"), 0),
        (0.0, 1),
        (0.2, 2),
        (10.0, 11),
        (30 * 86_400 - 1, 30 * 86_400),
        (30 * 86_400, 1_000_000 + 30 * 86_400 + 1),
        (2**31 - 100.0, 0),
    ],
)
def test_a_time_to_live_is_never_shortened(monkeypatch, ttl_s, exptime):
    monkeypatch.setattr(memcached_shard, "_unix_s", lambda: 1_000_000.0)
    assert memcached_shard._exptime(ttl_s) == exptime


def test_a_time_to_live_of_months_is_one(store):
    store.put({b"a": b"1"}, ttl_s=100 * 86_400.0)
    assert store.get([b"a"]) == [b"1"]


def test_the_servers_are_asked_how_large_an_item_may_be(opened):
    with MemcachedServer("-I", "512k") as small, MemcachedServer("-I", "2m") as large:
        store = opened(small, large)
        assert store.spec().options["item_bytes"] == 512 << 10
        items = {b"%d" % n: os.urandom(5_000_000) for n in range(4)}
        store.put(items)
        assert store.get(list(items)) == list(items.values())


def test_what_rides_may_be_no_larger_than_an_item_and_the_error_says_what_to_set(server, opened, store):
    with pytest.raises(StoreError, match="set ride_bytes to no more than"):
        store.incr([arrival(0, value=bytes(2 << 20))])
    believes_more = opened(server, item_bytes=8 << 20)
    with pytest.raises(StoreError, match=r"object too large for cache.*\n.*-I"):
        believes_more.incr([arrival(0, value=bytes(2 << 20))])


# Contention


def test_processes_that_hammer_one_record_lose_no_arrival_and_no_value(servers, opened):
    store = opened(*servers)
    others = [RemoteProcess() for _ in range(4)]
    of = 400
    try:
        for n, other in enumerate(others):
            arrivals = [
                arrival(m, of=of, who=b"%d" % m, value=RIDER + b"%d" % m, record=b"hammered") for m in range(n, of, 4)
            ]
            other.start(store.spec(), "arrive", arrivals)
        outcomes = [outcome for other in others for outcome in other.finish()]
    finally:
        for other in others:
            other.close()
    (claimed,) = [outcome for outcome in outcomes if outcome.claimed]
    assert sorted(claimed.values) == sorted(RIDER + b"%d" % m for m in range(of))
    store.delete([b"hammered"])


def test_an_arrival_that_is_overtaken_for_ever_gives_up_and_says_so(server, store, opened, monkeypatch):
    other = opened(server)
    records = memcached_shard._Cells.records
    members = iter(range(1, 100))
    pauses_s = []

    def overtaken(cells, keys):
        found = records(cells, keys)
        if cells._shard is store.shards[0]:
            other.incr([arrival(next(members), of=100, who=b"other")])
        return found

    monkeypatch.setattr(memcached_shard._Cells, "records", overtaken)
    monkeypatch.setattr(memcached_shard, "_TURNS", 12)
    monkeypatch.setattr(memcached_shard, "_sleep", pauses_s.append)
    with pytest.raises(StoreUnavailable, match=f"memcached {server.endpoint} .* others came first 12 times"):
        store.incr([arrival(0, of=100)])
    assert len(pauses_s) == 11
    assert all(0 <= pause_s <= 0.000_5 * 2**turn for turn, pause_s in enumerate(pauses_s, 1))
    assert max(pauses_s) <= 0.1


def test_a_server_without_compare_and_swap_is_refused(opened):
    with MemcachedServer("-C") as server:
        store = opened(server)
        store.incr([arrival(0, of=3)])
        with pytest.raises(StoreError, match=r"started with -C"):
            store.incr([arrival(1, of=3)])


# Round trips


@pytest.fixture
def round_trips(monkeypatch):
    """What every round trip sent first, as far as it is one word."""
    words = []

    def counted(name):
        plain = getattr(MemcachedConnection, name)

        def call(connection, first, *rest, **more):
            words.append((first[0] if isinstance(first, list) else first).split()[0])
            return plain(connection, first, *rest, **more)

        return call

    for name in ("_misc_cmd", "_fetch_cmd"):
        monkeypatch.setattr(MemcachedConnection, name, counted(name))
    return words


def test_a_batch_of_arrivals_takes_two_round_trips_and_a_third_for_what_rides_beside(store, round_trips):
    store.incr([arrival(0, record=b"%d" % n, value=b"small") for n in range(500)])
    assert round_trips == [b"gets", b"add"]
    round_trips.clear()
    outcomes = store.incr([arrival(1, record=b"%d" % n, value=b"small") for n in range(500)])
    assert round_trips == [b"gets", b"cas"]
    assert all(outcome.values == (b"small", b"small") for outcome in outcomes)
    round_trips.clear()
    store.incr([arrival(0, record=b"large", value=RIDER)])
    assert round_trips == [b"gets", b"add", b"add"]
    round_trips.clear()
    assert store.incr([arrival(1, record=b"large", value=RIDER)])[0].values == (RIDER, RIDER)
    assert round_trips == [b"gets", b"add", b"cas", b"get"]


def test_thousands_of_keys_are_deleted_in_a_few_round_trips(store, round_trips):
    keys = [b"%d" % n for n in range(3_000)]
    store.put(dict.fromkeys(keys, b"1"))
    store.incr([arrival(0, record=key) for key in keys[:100]])
    round_trips.clear()
    store.delete([*keys, *(b"never %d" % n for n in range(1_000))])
    assert len(round_trips) <= 15
    assert store.get(keys) == [None] * len(keys)


def test_large_values_are_sent_from_where_they_lie(store):
    value = os.urandom(8_000_000)
    store.get([b"connected"])
    tracemalloc.start()
    store.put({b"whole": value, b"parts": (b"head", memoryview(value), b"tail")})
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2_000_000
    assert store.get([b"whole", b"parts"]) == [value, b"head" + value + b"tail"]


def test_deleting_reads_no_value_but_manifests(store, monkeypatch):
    asked = []
    versions = MemcachedConnection.versions
    monkeypatch.setattr(MemcachedConnection, "versions", lambda self, keys: asked.extend(keys) or versions(self, keys))
    store.put({b"small": b"1", b"whole": bytes(400_000), b"large": LARGE})
    store.delete([b"small", b"whole", b"large"])
    assert asked == [b"wukong:v:large"]


def test_delete_leaves_nothing_behind(server, store):
    store.put({b"a": b"1", b"large": LARGE, b"\xff" * 300: LARGE})
    store.incr([arrival(n, of=9, who=b"%d" % n, value=RIDER + b"%d" % n) for n in range(5)])
    store.incr([arrival(6, of=9, only_if_last=True)])
    assert len(dumped(server)) > 10
    store.delete([b"a", b"large", b"\xff" * 300, b"f"])
    assert dumped(server) == []


def test_chunks_of_a_value_that_was_replaced_while_it_was_deleted_go_too(server, store, opened, monkeypatch):
    other = opened(server)
    ask = MemcachedConnection.ask
    replacements = iter([bytes(2_000_000)])

    def replaced_before(connection, commands):
        commands = list(commands)
        if any(verb_of(command) == b"md" for command in commands) and (value := next(replacements, None)):
            other.put({b"a": value}, ttl_s=600.0)
        return ask(connection, commands)

    store.put({b"a": LARGE})
    monkeypatch.setattr(MemcachedConnection, "ask", replaced_before)
    store.delete([b"a"])
    assert next(replacements, None) is None
    assert dumped(server) == []


def test_an_older_server_without_meta_commands_is_read_instead(server, store, monkeypatch):
    ask = MemcachedConnection.ask

    def older(connection, commands):
        commands = list(commands)
        if commands and verb_of(commands[0]) == b"mg":
            connection.close()
            raise MemcacheUnknownCommandError(b"mg")
        return ask(connection, commands)

    monkeypatch.setattr(MemcachedConnection, "ask", older)
    store.put({b"a": b"1", b"large": LARGE})
    store.incr([arrival(0, value=RIDER)])
    store.delete([b"a", b"large", b"f"])
    assert dumped(server) == []


def test_waiting_looks_ever_more_rarely(store, monkeypatch):
    clock_s, pauses_s = [0.0], []

    def sleep(pause_s):
        pauses_s.append(pause_s)
        clock_s[0] += pause_s

    monkeypatch.setattr(polling, "_now_s", lambda: clock_s[0])
    monkeypatch.setattr(polling, "_sleep", sleep)
    assert store.wait(b"a", 10.0) is None
    assert sum(pauses_s) == pytest.approx(10.0)
    assert (pauses_s[0], max(pauses_s)) == (0.001, 0.02)
    assert all(before <= after for before, after in pairwise(pauses_s[:-1]))
