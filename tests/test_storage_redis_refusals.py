"""Redis servers that refuse some of what is needed, or forget what they were given: what is named, and what goes on."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
from waiting import wait

import wukong
from wukong import doctor
from wukong.backends.storage import Arrival, Store
from wukong.backends.storage.redis import RedisStore
from wukong.config import Settings
from wukong.errors import JobStalled, StoreError, StoreFull, StoreUnavailable, ValueLost
from wukong.testing.servers import RedisServer

TTL_S = 600.0
NEEDED = [
    *("ping", "mget", "get", "set", "unlink", "getrange", "strlen", "hmget", "hget", "hset", "hgetall", "pexpire"),
    *("persist", "evalsha", "script|load", "client|tracking", "client|caching", "scan", "info"),
]
VERBS: dict[str, Callable[[Store], Any]] = {
    "get": lambda store: store.get([b"a"]),
    "put": lambda store: store.put({b"a": b"1"}, TTL_S),
    "arrive": lambda store: store.incr([Arrival(b"f", (0,), 2, b"me", b"v")], TTL_S),
    "hold": lambda store: store.incr([Arrival(b"g", (0,), 2, b"me", only_if_last=True)], TTL_S),
    "arrive for ever": lambda store: store.incr([Arrival(b"h", (0,), 2, b"me")]),
    "delete": lambda store: store.delete([b"a"]),
    "scan": lambda store: store.scan(b""),
}
REFUSED = [
    ("MGET", "get"),
    ("SET", "put"),
    ("EVALSHA", "arrive"),
    ("SCRIPT LOAD", "arrive"),
    ("HMGET", "arrive"),
    ("HSET", "arrive"),
    ("HSET", "hold"),
    ("PEXPIRE", "arrive"),
    ("PERSIST", "arrive for ever"),
    ("UNLINK", "delete"),
    ("GETRANGE", "delete"),
    ("SCAN", "scan"),
]


@pytest.fixture(scope="module")
def server():
    with RedisServer() as server:
        yield server


def store_without(server: RedisServer, *commands: str) -> RedisStore:
    """Open a store as a user who may do all that is needed but this."""
    with redis.Redis(port=server.port) as bare:
        rights = [f"+{each}" for each in NEEDED if each.replace("|", " ").upper() not in commands]
        bare.execute_command("ACL", "SETUSER", "somebody", "reset", "on", ">word", "~wukong:*", *rights)
        bare.script_flush()
    return RedisStore(endpoints=[server.endpoint], username="somebody", password="word")


@pytest.mark.parametrize(("command", "verb"), REFUSED)
def test_a_right_that_lacks_is_named_inside_a_script_as_well(server, command, verb):
    store = store_without(server, command)
    with pytest.raises(
        StoreError, match=f"{server.endpoint} does not permit its user the command {command}"
    ) as refused:
        VERBS[verb](store)
    assert "docs/configuration.md" in refused.value.hint
    store.close()


@pytest.mark.parametrize("command", ["EVALSHA", "SCRIPT", "HSET", "UNLINK", "GETRANGE"])
def test_a_command_that_was_renamed_away_is_named(command):
    with RedisServer("--rename-command", command, "") as server:
        store = RedisStore(endpoints=[server.endpoint])
        with pytest.raises(StoreError, match=f"{server.endpoint} does not know the command {command}") as refused:
            [VERBS[verb](store) for verb in ("arrive", "delete")]
        assert "renamed" in refused.value.hint
        store.close()


@pytest.mark.parametrize("refused", ["client|tracking", "client|caching"])
def test_if_nobody_is_told_of_keys_they_are_asked_for_again(server, refused, caplog):
    caplog.set_level("INFO", "wukong")
    waits(store_without(server, refused.replace("|", " ").upper()))
    assert "CLIENT" in caplog.text


@pytest.mark.parametrize("refused", [None, "CLIENT TRACKING", "CLIENT CACHING"])
def test_doctor_says_what_it_costs_if_nobody_is_told_of_keys(server, refused):
    store = store_without(server, refused)
    checks = [each for each in doctor._store(Settings.load(storage=store)) if each.state == "note"]
    store.close()
    assert len(checks) == (refused is not None)
    for check in checks:
        assert f"the Redis server {server.endpoint} tells nobody of keys" in check.what
        assert "50 times a second" in check.what and "20 ms later" in check.what
        assert "+client|tracking" in check.advice


@pytest.mark.parametrize("command", ["CLIENT", "HELLO"])
def test_a_job_runs_if_nobody_is_told_of_keys(command):
    with RedisServer("--rename-command", command, "") as server:
        waits(RedisStore(endpoints=[server.endpoint]))
        with wukong.Client(storage=f"redis://{server.endpoint}", progress=False, set_as_default=False) as client:
            assert client.get({"a": 1, "b": (lambda x: x + 1, "a")}, "b") == 2
            assert any("tells nobody of keys" in line for line in client.storage.advice())


def waits(store: RedisStore) -> None:
    assert store.wait(b"never", 0.05) is None
    store.put({b"late": b"1"}, TTL_S)
    assert store.wait(b"late", 60.0) == b"1"
    store.delete([b"late"])
    store.close()


def test_a_server_with_too_few_connections_says_what_to_do(server):
    with RedisServer("--maxclients", "1") as small, redis.Redis(port=small.port) as other:
        other.ping()
        store = RedisStore(endpoints=[small.endpoint])
        with pytest.raises(StoreUnavailable, match="max number of clients") as refused:
            store.get([b"a"])
        assert "maxclients" in refused.value.hint
        assert "max_slots" in refused.value.hint
        store.close()


# --- servers that evict


@pytest.fixture
def evicting():
    with RedisServer("--maxmemory", "50mb", "--maxmemory-policy", "volatile-lru") as server:
        yield server


def test_a_client_warns_at_once_of_a_server_that_evicts(evicting, server, caplog):
    urls = f"redis://{server.endpoint},{evicting.endpoint}"
    with wukong.Client(storage=urls, progress=False, set_as_default=False):
        wait(lambda: "volatile-lru" in caplog.text)
    [record] = [each for each in caplog.records if each.levelname == "WARNING"]
    assert f"the Redis server {evicting.endpoint} evicts" in record.getMessage()
    assert "noeviction" in record.getMessage()


@pytest.mark.parametrize("kind", [JobStalled, StoreFull, ValueLost])
def test_an_error_for_want_of_what_was_stored_names_the_server_that_evicts(evicting, kind, monkeypatch):
    with wukong.Client(storage=f"redis://{evicting.endpoint}", progress=False, set_as_default=False) as client:

        def lost(*_):
            raise kind("it is gone", hint="look")

        monkeypatch.setattr(wukong.core.watch.Watch, "tend", lost)
        future = client.submit(pow, 2, 2, pure=False)
        with pytest.raises(kind) as failed:
            client.get({"a": (wait_for_ever,)}, "a")
        assert f"{evicting.endpoint} evicts" in failed.value.hint
        assert "volatile-lru" in failed.value.hint
        assert failed.value.hint.endswith("look")
        future.cancel()


def test_a_kept_value_that_is_gone_names_the_server_that_evicts(evicting):
    with wukong.Client(storage=f"redis://{evicting.endpoint}", progress=False, set_as_default=False) as client:
        kept = client.scatter(b"value")
        with redis.Redis(port=evicting.port) as bare:
            bare.flushall()
        with pytest.raises(ValueLost) as failed:
            kept.result()
        assert f"{evicting.endpoint} evicts" in failed.value.hint


def wait_for_ever() -> None:
    import time

    time.sleep(600.0)


def test_a_server_without_a_limit_evicts_nothing():
    with RedisServer("--maxmemory-policy", "allkeys-lru") as server:
        store = RedisStore(endpoints=[server.endpoint])
        assert store.evictions() == []
        with redis.Redis(port=server.port) as bare:
            bare.config_set("maxmemory", "3mb")
            for n in range(200):
                bare.set(f"x{n}", bytes(100_000))
        assert "has evicted" in store.evictions()[1]
        store.close()
