"""The store `memcached` if values are lost or refused, and if servers are restarted, gone or silent."""

import os
import socket
import threading
from contextlib import ExitStack, nullcontext, suppress

import memcached_tools
import pytest
from memcached_tools import LARGE, RIDER, arrival, bare, dumped, everything
from pymemcache.exceptions import MemcacheServerError
from waiting import wait

from wukong.backends.storage import Outcome, blob_size, silence
from wukong.backends.storage.memcached import MemcachedStore
from wukong.backends.storage.memcached import shard as memcached_shard
from wukong.backends.storage.memcached.connection import MemcachedConnection
from wukong.errors import StoreFull, StoreUnavailable
from wukong.testing.servers import MemcachedServer, free_port

server, opened, store = memcached_tools.server, memcached_tools.opened, memcached_tools.store


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
    ask, value = MemcachedConnection.ask, os.urandom(size_bytes)

    def refused(connection, commands):
        commands = list(commands)
        if any(blob_size(command) > (524_288 if stored else 100_000) for command in commands):
            connection.close()
            raise MemcacheServerError(b"out of memory storing object")
        return ask(connection, commands)

    monkeypatch.setattr(MemcachedConnection, "ask", refused)
    monkeypatch.setattr(memcached_shard, "_sleep", lambda _: None)
    with nullcontext() if stored else pytest.raises(StoreFull):
        store.put({b"a": value, b"b": b"1"})
    assert store.get([b"a", b"b"]) == ([value, b"1"] if stored else [None, None])


@pytest.mark.parametrize("verb", ["put", "incr"])
@pytest.mark.parametrize(("n_refusals", "stored"), [(5, True), (6, False)])
def test_for_a_moment_without_room_it_is_tried_again(store, monkeypatch, verb, n_refusals, stored):
    ask = MemcachedConnection.ask
    refusals = iter(range(n_refusals))
    pauses_s = []

    def refused(connection, commands):
        if next(refusals, None) is not None:
            connection.close()
            raise MemcacheServerError(b"out of memory storing object")
        return ask(connection, commands)

    monkeypatch.setattr(MemcachedConnection, "ask", refused)
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
    ask = MemcachedConnection.ask
    losses = iter([True])

    def lost(connection, commands):
        commands = list(commands)
        lines = ask(connection, commands)
        if any(command.startswith(verb) for command in commands) and next(losses, False):
            raise ConnectionResetError("on the way back")
        return lines

    store.incr([arrival(0, of=3, value=RIDER + b"0")])
    monkeypatch.setattr(MemcachedConnection, "ask", lost)
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


def test_if_both_are_gone_both_are_named(opened):
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
        with pytest.raises(StoreUnavailable, match=rf"memcached at {server.endpoint} did not answer within "):
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
    later_s = silence._calendar_s() + 31
    monkeypatch.setattr(silence, "_calendar_s", lambda: later_s)
    assert n_connections() == before + 1
