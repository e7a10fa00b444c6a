"""The store `memcached`: the conformance suite, and what is its own: loss, refusal, restarts, contention, advice."""

import os
import re
import socket
import ssl
import subprocess
import threading
import tracemalloc
from contextlib import ExitStack, nullcontext, suppress
from itertools import pairwise
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymemcache import Client
from pymemcache.exceptions import MemcacheServerError, MemcacheUnknownCommandError
from waiting import wait

from wukong.backends.storage import Arrival, Outcome, Store, blob_size, memcached_connection, memcached_shard
from wukong.backends.storage.memcached import MemcachedStore
from wukong.backends.storage.memcached_advice import advice
from wukong.backends.storage.memcached_connection import Connection
from wukong.backends.storage.memcached_names import Names
from wukong.errors import ConfigError, StoreError, StoreFull, StoreUnavailable
from wukong.testing.elsewhere import Elsewhere
from wukong.testing.servers import MemcachedServer, free_port
from wukong.testing.storage import StoreTests

LARGE = os.urandom(1_300_000)
RIDER = b"r" * 10_000


@pytest.fixture(scope="module")
def servers():
    with ExitStack() as stack:
        yield [stack.enter_context(MemcachedServer()) for _ in range(2)]


class TestOneServer(StoreTests):
    @pytest.fixture(autouse=True)
    def _server(self, servers):
        self.endpoint = servers[0].endpoint

    def make_store(self) -> Store:
        return MemcachedStore(f"memcached://{self.endpoint}")

    def make_unreachable_store(self) -> Store:
        return MemcachedStore(endpoints=[f"127.0.0.1:{free_port()}"], item_bytes=1 << 20)


class TestTwoServers(StoreTests):
    @pytest.fixture(autouse=True)
    def _servers(self, servers):
        self.endpoints = [server.endpoint for server in servers]

    def make_store(self) -> Store:
        return MemcachedStore(endpoints=self.endpoints)


@pytest.fixture
def opened():
    """A function that opens a store on servers, and closes it after the test."""
    stores = []

    def opened(*servers, **options):
        stores.append(MemcachedStore(endpoints=[server.endpoint for server in servers], **options))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


@pytest.fixture
def server():
    """A server of this test only."""
    with MemcachedServer() as server:
        yield server


@pytest.fixture
def store(server, opened):
    """A store on it."""
    return opened(server)


def bare(server):
    return Client((server.host, server.port), default_noreply=False, timeout=5)


def arrival(*members, of=2, who=b"me", value=None, record=b"f", only_if_last=False):
    return Arrival(record, members, of, who, value, only_if_last)


def verb_of(command):
    return (command[0] if isinstance(command, tuple) else command).split()[0]


def everything(store):
    """Each verb once, by name."""
    return {
        "get": lambda: store.get([b"a", b"b"]),
        "put": lambda: store.put({b"a": b"1"}),
        "delete": lambda: store.delete([b"a"]),
        "wait": lambda: store.wait(b"a", 5.0),
        "incr": lambda: store.incr([arrival(0)]),
        "advice": lambda: store.advice(),
    }


# Servers are named


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("memcached://h1:1,h2:2", ["h1:1", "h2:2"]),
        ("memcached://H1", ["h1:11211"]),
        ("memcached://[::1]:5,[fe80::1]/", ["[::1]:5", "[fe80::1]:11211"]),
    ],
)
def test_a_url_names_servers(url, names):
    assert MemcachedStore(url, item_bytes=1 << 20).spec().options["endpoints"] == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a url or as endpoints"),
        ({"url": "memcached://h", "endpoints": ["h"]}, "a url or as endpoints"),
        ({"url": "redis://h"}, "does not begin with memcached://"),
        ({"url": "memcached://user:hunter2@h"}, "no user and no password"),
        ({"url": "memcached://h/0"}, "more than servers"),
        ({"url": "memcached://h?tls=true"}, "more than servers"),
        ({"url": "memcached://"}, "'' is not the address"),
        ({"endpoints": []}, "no memcached server is named"),
        ({"endpoints": ["h:0"]}, "'h:0' is not the address"),
        ({"endpoints": ["h:x"]}, "'h:x' is not the address"),
        ({"endpoints": ["[::1"]}, "is not the address"),
        ({"endpoints": ["h", "h:11211"]}, "h:11211 is named twice"),
        ({"endpoints": ["h"], "timeout_s": 0.0}, "timeout_s is 0.0"),
        ({"endpoints": ["h"], "item_bytes": 1_000}, "item_bytes is 1,000"),
        ({"endpoints": ["h"], "prefix": "a b"}, "prefix is 'a b'"),
        ({"endpoints": ["h"], "ca_data": "x"}, "certificates are for TLS"),
        ({"endpoints": ["h"], "tls": True, "ca_data": "x"}, "cannot be read"),
        ({"endpoints": ["h"], "tls": True, "ca_file": "/nowhere.pem"}, "ca_file cannot be read"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")) as refused:
        MemcachedStore(**options)
    assert "hunter2" not in str(refused.value)


def test_elsewhere_it_opens_without_asking_the_servers(server, store):
    spec = store.spec()
    server.stop()
    second = spec.open()
    assert second.spec() == spec
    second.close()


def test_every_address_of_a_name_is_tried(server, monkeypatch):
    resolve = socket.getaddrinfo
    nobody = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", free_port()))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: [nobody, *resolve(*args, **more)])
    store = MemcachedStore(endpoints=[server.endpoint])
    store.put({b"a": b"1"})
    assert store.get([b"a"]) == [b"1"]
    store.close()


# Names, times to live, sizes


@given(st.lists(st.binary(max_size=260), unique=True, max_size=5))
def test_no_two_keys_have_one_name_and_every_name_is_one_that_memcached_takes(keys):
    names = Names("wukong:")
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


# Loss and refusal


@pytest.mark.parametrize(("size_bytes", "n_values"), [(3_000_000, 12), (50_000, 500)])
def test_a_server_that_evicts_loses_values_and_never_gives_wrong_ones(opened, size_bytes, n_values):
    with MemcachedServer(memory_mb=16) as server:
        store = opened(server)
        values = {b"%d" % n: os.urandom(size_bytes) for n in range(n_values)}
        for key, value in values.items():
            store.put({key: value})
        found = store.get(list(values))
        assert all(got in (None, value) for got, value in zip(found, values.values(), strict=True))
        assert 0 < found.count(None) < n_values
        assert int(store.shards[0].stats()["evictions"]) > 0
        assert any("has evicted" in line for line in store.advice())


def test_arrivals_at_a_server_that_evicts_are_lost_whole_or_without_what_rode(opened):
    with MemcachedServer(memory_mb=16) as server:
        store = opened(server)
        n_fanins = 1_000
        store.incr([arrival(0, record=b"%d" % n, value=RIDER * 2 + b"%d" % n) for n in range(n_fanins)])
        outcomes = store.incr([arrival(1, record=b"%d" % n) for n in range(n_fanins)])
        assert all(outcome.claimed == outcome.complete for outcome in outcomes)
        assert all(outcome.values in ((), (RIDER * 2 + b"%d" % n,)) for n, outcome in enumerate(outcomes))
        n_whole = sum(bool(outcome.values) for outcome in outcomes)
        assert 0 < n_whole < n_fanins


def test_a_full_server_that_does_not_evict_refuses_and_takes_again_what_has_room(opened):
    with MemcachedServer("-M", memory_mb=16) as server:
        store = opened(server)
        stored = {}

        def put_many():
            for n in range(100):
                store.put({b"%d" % n: LARGE})
                stored[b"%d" % n] = LARGE

        with pytest.raises(StoreFull, match=rf"memcached at {server.endpoint} has no room.*\n.*-m"):
            put_many()
        assert len(stored) > 5
        assert store.get(list(stored)) == list(stored.values())
        store.delete(list(stored))
        store.put({b"again": LARGE})
        assert store.get([b"again"]) == [LARGE]


def test_a_value_that_an_item_holds_is_one(store):
    for n, (size_bytes, n_items) in enumerate([(600_000, 1), (1_000_000, 1), (1_100_000, 4)]):
        key, value = b"%d" % n, os.urandom(size_bytes)
        before = n_items_of(store)
        store.put({key: value})
        assert n_items_of(store) - before == n_items
        assert store.get([key]) == [value]
        store.delete([key])
        assert n_items_of(store) == before


def n_items_of(store):
    return sum(int(shard.stats()["curr_items"]) for shard in store.shards)


@pytest.mark.parametrize(("size_bytes", "stored"), [(500_000, False), (600_000, True), (1_000_000, True)])
def test_only_what_may_fit_in_pieces_is_tried_again(store, monkeypatch, size_bytes, stored):
    ask, value = Connection.ask, os.urandom(size_bytes)

    def refused(connection, commands):
        commands = list(commands)
        if any(blob_size(command) > (524_288 if stored else 100_000) for command in commands):
            connection.close()
            raise MemcacheServerError(b"out of memory storing object")
        return ask(connection, commands)

    monkeypatch.setattr(Connection, "ask", refused)
    monkeypatch.setattr(memcached_shard, "_sleep", lambda _: None)
    with nullcontext() if stored else pytest.raises(StoreFull):
        store.put({b"a": value, b"b": b"1"})
    assert store.get([b"a", b"b"]) == ([value, b"1"] if stored else [None, None])


@pytest.mark.parametrize("verb", ["put", "incr"])
@pytest.mark.parametrize(("n_refusals", "stored"), [(5, True), (6, False)])
def test_for_a_moment_without_room_it_is_tried_again(store, monkeypatch, verb, n_refusals, stored):
    ask = Connection.ask
    refusals = iter(range(n_refusals))
    pauses_s = []

    def refused(connection, commands):
        if next(refusals, None) is not None:
            connection.close()
            raise MemcacheServerError(b"out of memory storing object")
        return ask(connection, commands)

    monkeypatch.setattr(Connection, "ask", refused)
    monkeypatch.setattr(memcached_shard, "_sleep", pauses_s.append)
    with nullcontext() if stored else pytest.raises(StoreFull):
        everything(store)[verb]()
    assert len(pauses_s) == 5
    assert 0.3 < sum(pauses_s) < 1.0
    if verb == "put":
        assert store.get([b"a"]) == [b"1" if stored else None]
    else:
        assert store.incr([arrival(1)])[0].complete == stored


def test_a_value_that_rode_and_is_gone_is_handed_over_by_nobody(server, store):
    store.incr([arrival(0, of=3, value=RIDER + b"0"), arrival(1, of=3, value=RIDER + b"1")])
    client = bare(server)
    riders = [key for key in dumped(server) if key.startswith(b"wukong:a:")]
    assert len(riders) == 2
    assert client.delete(riders[0])
    (outcome,) = store.incr([arrival(2, of=3, value=b"2")])
    assert outcome.claimed
    assert sorted(outcome.values)[0] == b"2"
    assert len(outcome.values) == 2
    client.close()


def dumped(server):
    """The keys of a server, as its own crawler finds them."""
    with socket.create_connection((server.host, server.port), 5) as connection:
        connection.sendall(b"lru_crawler metadump all\r\n")
        found = b""
        while not found.endswith(b"END\r\n"):
            found += connection.recv(65_536)
    return [unquote_to_bytes(line.split()[0].removeprefix(b"key=")) for line in found.splitlines()[:-1]]


# Restarts, silence, limits


def test_after_a_restart_everything_is_missing_and_nothing_fails(server, store):
    def many_at_once():
        threads = [threading.Thread(target=store.get, args=([b"a"],)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    store.put({b"a": b"1", b"large": LARGE})
    store.incr([arrival(0, of=3, value=RIDER)])
    many_at_once()
    for verb in ("get", "put", "wait", "incr", "delete", "advice"):
        server.kill()
        server.start()
        if verb == "incr":
            assert store.incr([arrival(1, of=3, value=b"1")]) == [Outcome(False, False)]
            assert store.incr([arrival(0, 2, of=3, value=b"02")])[0].values == (b"1", b"02")
        elif verb == "wait":
            assert store.wait(b"a", 0.01) is None
        else:
            answer = everything(store)[verb]()
            assert verb != "get" or answer == [None, None]
        many_at_once()


def test_a_version_read_before_a_restart_swaps_nothing_after_it(server, store, monkeypatch):
    swap = memcached_shard._Cells.swap
    lives = iter([True])

    def restarted_before(cells, records):
        if next(lives, False):
            server.kill()
            server.start()
            other = MemcachedStore(endpoints=[server.endpoint])
            other.incr([arrival(0, of=3, who=b"new life")])  # versions begin at 1 again
            other.close()
        return swap(cells, records)

    store.incr([arrival(1, of=3, who=b"old life")])
    monkeypatch.setattr(memcached_shard._Cells, "swap", restarted_before)
    assert store.incr([arrival(2, of=3)]) == [Outcome(False, False)]
    assert store.incr([arrival(1, of=3, who=b"last")])[0].claimed, "what arrived in the new life is lost"


@pytest.mark.parametrize("verb", [b"cas ", b"add "])
def test_an_arrival_whose_answer_was_lost_counts_once(store, monkeypatch, verb):
    ask = Connection.ask
    losses = iter([True])

    def lost(connection, commands):
        commands = list(commands)
        lines = ask(connection, commands)
        if any(command.startswith(verb) for command in commands) and next(losses, False):
            raise ConnectionResetError("on the way back")
        return lines

    store.incr([arrival(0, of=3, value=RIDER + b"0")])
    monkeypatch.setattr(Connection, "ask", lost)
    for _ in range(2):
        outcome = store.incr([arrival(1, 2, of=3, value=RIDER + b"12")])[0]
        assert outcome.claimed
        assert sorted(outcome.values) == [RIDER + b"0", RIDER + b"12"]
    assert next(losses, None) is None


def test_a_server_that_is_gone_is_named_and_the_other_one_serves(opened):
    with MemcachedServer() as here, MemcachedServer() as there:
        store = opened(here, there)
        keys = [b"%d" % n for n in range(200)]
        store.put(dict.fromkeys(keys, b"1"))
        there.kill()
        with pytest.raises(StoreUnavailable, match=f"memcached at {there.endpoint} "):
            store.get(keys)
        with pytest.raises(StoreUnavailable, match=f"memcached at {there.endpoint} "):
            store.advice()
        served = 0
        for key in keys:
            with suppress(StoreUnavailable):
                assert store.get([key]) == [b"1"]
                served += 1
        assert 0 < served < len(keys)
        there.start()
        assert store.get(keys).count(None) == len(keys) - served


def test_where_both_are_gone_both_are_named(opened):
    ports = [free_port(), free_port()]
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{ports[0]} .*127.0.0.1:{ports[1]} "):
        MemcachedStore(endpoints=[f"127.0.0.1:{port}" for port in ports])


@pytest.mark.parametrize("verb", ["get", "put", "delete", "wait", "incr", "advice"])
def test_a_server_that_is_gone_is_never_taken_for_one_that_lost_something(server, store, verb):
    store.put({b"a": b"1"})
    server.kill()
    with pytest.raises(StoreUnavailable, match=rf"memcached at {server.endpoint} ") as error:
        everything(store)[verb]()
    assert error.value.hint


def test_a_server_that_falls_silent_is_given_up_and_found_again(server, opened):
    store = opened(server, timeout_s=0.2, connect_timeout_s=0.2)

    def answers():
        with suppress(StoreUnavailable):
            return store.get([b"a"]) == [b"1"]

    opened(server).put({b"a": b"1"})
    wait(answers, "it answers in time")
    server.freeze()
    for act in everything(store).values():
        with pytest.raises(StoreUnavailable, match=rf"memcached at {server.endpoint} did not answer in time"):
            act()
    server.thaw()
    wait(answers, "it is found again")


def test_a_server_with_no_connection_left_is_unavailable_and_the_hint_says_so(opened):
    with MemcachedServer("-c", "64") as server, ExitStack() as stack:
        store = opened(server, item_bytes=1 << 20)
        for _ in range(100):
            taken = stack.enter_context(socket.create_connection((server.host, server.port), 5))
            taken.sendall(b"version\r\n")
            if not taken.recv(100).startswith(b"VERSION"):
                break
        with pytest.raises(StoreUnavailable, match=r"-c 16384|does the server run"):
            store.get([b"a"])


def test_a_connection_that_was_idle_for_long_is_not_used_again(server, store, monkeypatch):
    def n_connections():
        return int(store.shards[0].stats()["total_connections"])

    before = n_connections()
    store.get([b"a"])
    assert n_connections() == before
    later_s = memcached_connection._now_s() + 61
    monkeypatch.setattr(memcached_connection, "_now_s", lambda: later_s)
    assert n_connections() == before + 1


# Contention


def test_processes_that_hammer_one_record_lose_no_arrival_and_no_value(servers, opened):
    store = opened(*servers)
    others = [Elsewhere() for _ in range(4)]
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
        plain = getattr(Connection, name)

        def call(connection, first, *rest, **more):
            words.append((first[0] if isinstance(first, list) else first).split()[0])
            return plain(connection, first, *rest, **more)

        return call

    for name in ("_misc_cmd", "_fetch_cmd"):
        monkeypatch.setattr(Connection, name, counted(name))
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
    versions = Connection.versions
    monkeypatch.setattr(Connection, "versions", lambda self, keys: asked.extend(keys) or versions(self, keys))
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
    ask = Connection.ask
    replacements = iter([bytes(2_000_000)])

    def replaced_before(connection, commands):
        commands = list(commands)
        if any(verb_of(command) == b"md" for command in commands) and (value := next(replacements, None)):
            other.put({b"a": value}, ttl_s=600.0)
        return ask(connection, commands)

    store.put({b"a": LARGE})
    monkeypatch.setattr(Connection, "ask", replaced_before)
    store.delete([b"a"])
    assert next(replacements, None) is None
    assert dumped(server) == []


def test_an_older_server_without_meta_commands_is_read_instead(server, store, monkeypatch):
    ask = Connection.ask

    def older(connection, commands):
        commands = list(commands)
        if commands and verb_of(commands[0]) == b"mg":
            connection.close()
            raise MemcacheUnknownCommandError(b"mg")
        return ask(connection, commands)

    monkeypatch.setattr(Connection, "ask", older)
    store.put({b"a": b"1", b"large": LARGE})
    store.incr([arrival(0, value=RIDER)])
    store.delete([b"a", b"large", b"f"])
    assert dumped(server) == []


def test_waiting_looks_ever_more_rarely(store, monkeypatch):
    clock_s, pauses_s = [0.0], []

    def sleep(pause_s):
        pauses_s.append(pause_s)
        clock_s[0] += pause_s

    monkeypatch.setattr(memcached_shard, "_now_s", lambda: clock_s[0])
    monkeypatch.setattr(memcached_shard, "_sleep", sleep)
    assert store.wait(b"a", 10.0) is None
    assert sum(pauses_s) == pytest.approx(10.0)
    assert (pauses_s[0], max(pauses_s)) == (0.001, 0.02)
    assert all(before <= after for before, after in pairwise(pauses_s[:-1]))


# TLS


class TlsMemcachedServer(MemcachedServer):
    def _serves(self) -> bool:
        with socket.create_connection((self.host, self.port), 1.0):
            return True


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A server that speaks TLS, and its certificate's file."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    arguments = ["-Z", "-o", f"ssl_chain_cert={certificate},ssl_key={key}", "-u", "root"]
    with TlsMemcachedServer(*arguments) as server:
        yield server, str(certificate)


def test_over_tls_all_is_the_same_and_functions_need_no_file(tls, opened):
    server, certificate = tls
    store = opened(server, tls=True, ca_file=certificate)
    assert certificate not in str(store.spec().options)
    second = store.spec().open()
    store.put({b"a": b"1", b"large": LARGE})
    assert second.get([b"a", b"large"]) == [b"1", LARGE]
    assert store.incr([arrival(0, value=RIDER)]) == [Outcome(False, False)]
    assert second.incr([arrival(1)])[0].values == (RIDER,)
    server.kill()
    server.start()
    assert second.get([b"a"]) == [None]
    second.close()


def test_a_certificate_that_nobody_trusted_signed_is_refused(tls, opened):
    with pytest.raises(StoreError, match=r"no TLS connection to memcached at .*\n.*ca_file") as refused:
        opened(tls[0], tls=True)
    assert not isinstance(refused.value, StoreUnavailable)
    assert isinstance(refused.value.__cause__, ssl.SSLCertVerificationError)


def test_who_does_not_speak_tls_where_the_server_does_is_told_of_it(tls, opened):
    with pytest.raises(StoreUnavailable, match=r"closed the connection .*\n.*TLS"):
        opened(tls[0])


# Advice


GOOD = {
    "version": "1.6.18",
    "evictions": "0",
    "bytes": "10",
    "limit_maxbytes": str(4 << 30),
    "curr_connections": "10",
    "max_connections": "1024",
    "rejected_connections": "0",
}
SETTINGS = {"evictions": "off", "item_size_max": str(1 << 20), "cas_enabled": "yes"}


@pytest.mark.parametrize(
    ("stats", "given", "expected"),
    [
        ({}, {}, None),
        ({"version": "1.5.22"}, {}, "is of version 1.5.22 -> use 1.6 or newer"),
        ({}, {"cas_enabled": "no"}, "no fan-in works -> start it without -C"),
        ({}, {"evictions": "on"}, "evicts values .* -> start it with -M"),
        ({"evictions": "1234"}, {}, "has evicted 1,234 items .* -> give it more memory"),
        ({"limit_maxbytes": str(64 << 20)}, {}, "only 64 MiB of memory -> "),
        ({"bytes": str(4 << 30)}, {}, "is full: 4,096 of 4,096 MiB are taken -> "),
        ({}, {"item_size_max": "600000"}, "items of 600,000 bytes, .* 1,048,576 -> set item_bytes to 600000"),
        ({"rejected_connections": "7"}, {}, "turned connections away, 7 times -> let it take more"),
        ({"listen_disabled_num": "7"}, {}, "turned connections away, 7 times -> let it take more"),
        ({"curr_connections": "1000"}, {}, "1,000 of at most 1,024 connections -> let it take more"),
    ],
)
def test_advice_names_each_danger_and_what_to_do(stats, given, expected):
    lines = list(advice("h:1", GOOD | stats, SETTINGS | given, 1 << 20))
    if expected is None:
        assert lines == []
    else:
        (line,) = lines
        assert line.startswith("memcached at h:1 ")
        assert re.search(expected, line), line


def test_what_a_server_does_not_say_is_no_danger():
    assert list(advice("h:1", {}, {}, 1 << 20)) == []


def test_a_real_servers_answers_are_understood(opened):
    with MemcachedServer("-M", memory_mb=300) as good, MemcachedServer("-I", "512k", memory_mb=64) as bad:
        assert opened(good).advice() == []
        said = "\n".join(opened(good, bad, item_bytes=1 << 20).advice())
        assert good.endpoint not in said
        assert said.count(f"memcached at {bad.endpoint} ") == 3  # it evicts, is small, takes small items
