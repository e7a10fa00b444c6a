"""Stores that are connected but silent: every call fails in its time, and names the server. Connections that die so."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
import redis
from relay import Relay
from waiting import wait

import wukong
from wukong.backends.plugins import load_storage
from wukong.backends.storage import Arrival, Store, silence
from wukong.backends.storage.layers import stacked
from wukong.core.time_left import limited
from wukong.errors import JobTimeout, StoreUnavailable
from wukong.testing.servers import MemcachedServer, RedisServer

KINDS = {"redis": RedisServer, "memcached": MemcachedServer}
TTL_S = 600.0
VERBS: dict[str, Callable[[Store], Any]] = {
    "get": lambda store: store.get([b"a"]),
    "put": lambda store: store.put({b"b": b"2"}, TTL_S),
    "put a large one": lambda store: store.put({b"b": bytes(9 << 20)}, TTL_S),
    "delete": lambda store: store.delete([b"b"]),
    "wait": lambda store: store.wait(b"never", 60.0),
    "incr": lambda store: store.incr([Arrival(b"f", (0,), 2, b"me")], TTL_S),
    "scan": lambda store: store.scan(b"a"),
}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def server(kind) -> Iterator[Any]:
    with KINDS[kind]() as server:
        yield server


def answers(call: Callable[[], Any]) -> bool:
    try:
        call()
    except StoreUnavailable:
        return False
    return True


# --- silent servers


def test_every_verb_fails_when_patience_is_over_and_names_the_server(kind, server):
    inner = load_storage({"name": kind, "endpoints": [server.endpoint], "timeout_s": 1.0})
    with closing(stacked(inner, patience_s=0.3)) as store:
        wait(lambda: answers(lambda: store.put({b"a": b"1"}, TTL_S)))
        server.freeze()
        for name, verb in VERBS.items():
            with pytest.raises(StoreUnavailable, match=server.endpoint) as failed:
                verb(store)
            if name != "put a large one":  # which has moved as far as into the system's buffers
                assert re.search(r"within [0-4](\.| )", failed.value.message), name  # and not answer_timeout_s: 5
        server.thaw()


def test_the_caller_s_time_holds_for_a_large_value_as_well(kind, server):
    with closing(load_storage(f"{kind}://{server.endpoint}")) as store:
        store.put({b"a": bytes(900_000)}, TTL_S)
        server.freeze()
        for verb in VERBS.values():
            with limited(0.3), pytest.raises(StoreUnavailable, match=server.endpoint):
                verb(store)
        server.thaw()


def test_what_shards_are_asked_at_the_same_time_has_no_more_time(kind, server):
    with KINDS[kind]() as other:
        inner = load_storage(f"{kind}://{server.endpoint},{other.endpoint}")
        with closing(stacked(inner, patience_s=0.3)) as store:
            keys = [b"%d" % n for n in range(50)]
            wait(lambda: answers(lambda: store.get(keys)))
            server.freeze()
            with pytest.raises(StoreUnavailable, match=rf"{server.endpoint} did not answer within [0-4](\.| )"):
                store.get(keys)
            server.thaw()


def test_every_call_of_a_client_fails_in_its_time(kind, server):
    options = {"progress": False, "faas": {"name": "local", "slots": 1}, "set_as_default": False}
    with wukong.Client(storage=f"{kind}://{server.endpoint}", store_patience_s=0.5, **options) as client:
        kept = client.scatter(b"value")
        kept.result()
        running = client.submit(time_out_of_mind, pure=False)
        wait(lambda: running._state.job is not None and running._state.job._invoked)
        server.freeze()
        for call in (
            lambda: kept.result(timeout=0.3),
            lambda: list(wukong.as_completed([kept], with_results=True, timeout=0.3)),
            lambda: client.get({"a": (pow, 2, 2)}, "a", timeout=0.3),
        ):
            with pytest.raises(JobTimeout, match=f"within the time given: .*{server.endpoint}"):
                call()
        for call in (
            lambda: kept.result(),
            lambda: client.gather([kept]),
            lambda: client.scatter(b"another"),
            lambda: client.submit(pow, 2, 2).result(),
            lambda: client.get({"a": (pow, 2, 2)}, "a"),
            lambda: client.attach("no-such-job"),
            lambda: running.result(),
        ):
            with pytest.raises(StoreUnavailable, match=server.endpoint):
                call()
        server.thaw()


def time_out_of_mind() -> None:
    import time

    time.sleep(600.0)


# --- silent connections


def test_a_connection_that_was_forgotten_without_a_word_is_replaced(kind, server, monkeypatch):
    with Relay(server.port) as relay:
        inner = load_storage({"name": kind, "endpoints": [relay.endpoint], "answer_timeout_s": 0.3})
        with closing(stacked(inner, patience_s=30.0)) as store:
            for name in ("get", "put", "delete", "incr", "scan"):
                relay.forget()
                VERBS[name](store)
            relay.forget()
            later_s = silence._calendar_s() + 2.0  # a large value is not sent to who has not answered for a while
            monkeypatch.setattr(silence, "_calendar_s", lambda: later_s)
            VERBS["put a large one"](store)
            relay.forget()
            store.put({b"never": b"1"}, TTL_S)
            relay.forget()
            assert store.wait(b"never", 60.0) == b"1"


def test_all_that_lay_idle_with_it_is_replaced_at_the_same_time(kind, server):
    with Relay(server.port) as relay:
        inner = load_storage({"name": kind, "endpoints": [relay.endpoint], "answer_timeout_s": 0.3})
        with closing(inner) as store:
            idle_connections(store, 4)
            relay.forget()
            assert not answers(lambda: store.get([b"a"]))
            assert answers(lambda: store.get([b"a"]))


def test_a_connection_that_was_idle_for_long_is_not_trusted(kind, server, monkeypatch):
    with Relay(server.port) as relay, closing(load_storage(f"{kind}://{relay.endpoint}")) as store:
        store.put({b"a": b"1"}, TTL_S)
        store.wait(b"a", 1.0)
        before = relay.n_opened
        store.wait(b"a", 1.0)
        store.get([b"a"])
        assert relay.n_opened == before
        relay.forget()
        later_s = silence._calendar_s() + 31.0
        monkeypatch.setattr(silence, "_calendar_s", lambda: later_s)
        assert store.get([b"a"]) == [b"1"]
        assert store.wait(b"a", 60.0) == b"1"


def idle_connections(store: Store, n: int) -> None:
    """Have n connections, which nobody uses."""
    import threading

    meeting = threading.Barrier(n, timeout=60.0)

    def one() -> None:
        store.get([b"a"])
        meeting.wait()
        store.get([b"a"])

    threads = [threading.Thread(target=one) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)


# --- failover


def test_a_name_that_leads_to_another_server_now_is_looked_up_again():
    """The old primary lives on as a replica, which refuses what is written to it."""
    with RedisServer() as old, RedisServer() as new, Relay(old.port) as name:
        inner = load_storage({"name": "redis", "endpoints": [name.endpoint]})
        with closing(stacked(inner, patience_s=30.0)) as store, redis.Redis(port=old.port) as bare:
            store.put({b"a": b"1"}, TTL_S)
            assert store.wait(b"a", 1.0) == b"1"
            name.target = new.port
            bare.replicaof("127.0.0.1", new.port)
            store.put({b"b": b"2"}, TTL_S)
            assert store.get([b"a", b"b"]) == [None, b"2"]
            assert store.wait(b"b", 1.0) == b"2"
        with redis.Redis(port=new.port) as bare:
            assert bare.exists("wukong:vb")
