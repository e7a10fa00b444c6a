"""The store `redis` if its servers refuse, are away or break off; and what it advises."""

import re
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import redis
from storage_redis_tools import PASSWORD, TTL_S, a_guarded_server, a_secure_server, a_server, some_certificates  # noqa: F401
from waiting import wait

from wukong.backends.storage import Arrival, Outcome, Store
from wukong.backends.storage.redis import RedissStore, RedisStore
from wukong.backends.storage.redis import server as redis_server
from wukong.backends.storage.redis.access import RedisAccess
from wukong.backends.storage.redis.address import Endpoint
from wukong.backends.storage.redis.advice import advice
from wukong.backends.storage.redis.server import RedisNode
from wukong.errors import Retryable, StoreError, StoreFull, StoreUnavailable
from wukong.testing.servers import MemcachedServer, RedisServer, free_port


def verbs(store: Store) -> Sequence[Callable[[], object]]:
    return (
        lambda: store.get([b"a"]),
        lambda: store.put({b"a": b"1"}, TTL_S),
        lambda: store.incr([Arrival(b"f", (0,), 2, b"c")], TTL_S),
        lambda: store.delete([b"b"]),
        lambda: store.wait(b"b", 0.01),
    )


def answered(verb: Callable[[], object]) -> bool:
    try:
        verb()
    except StoreUnavailable:
        return False
    return True


class TestRefusals:
    def check(self, store: Store, match: str, hint: str, n_verbs: int = 5) -> None:
        """Every verb says so at once, and not that trying again may help."""
        for verb in verbs(store)[:n_verbs]:
            with pytest.raises(StoreError, match=match) as refused:
                verb()
            assert not isinstance(refused.value, Retryable)
            assert refused.value.backend == "storage: redis"
            assert re.search(hint, refused.value.hint)
            assert "s3cret" not in f"{refused.value}{refused.value.__cause__}"
        store.close()

    def test_a_wrong_password(self, guarded):
        for login in (":s3cret", "nobody:s3cret"):
            store = RedisStore(f"redis://{login}@{guarded.endpoint}")
            self.check(store, f"{guarded.endpoint} refuses this username and password", "WUKONG_REDIS_PASSWORD")

    def test_no_password_if_one_is_wanted(self, guarded):
        store = RedisStore(endpoints=[guarded.endpoint], password_variable="OUR_PASSWORD")
        self.check(store, f"{guarded.endpoint} wants a password", "OUR_PASSWORD")

    def test_a_password_if_none_is_known(self, server):
        store = RedisStore(f"redis://:s3cret@{server.endpoint}")
        # A server without a password lets those in who greet it as watchers do, with whatever password.
        self.check(store, f"{server.endpoint} knows no password", "WUKONG_REDIS_PASSWORD", n_verbs=4)

    def test_a_database_that_is_not_there(self, server):
        store = RedisStore(f"redis://{server.endpoint}/99")
        self.check(store, f"{server.endpoint} has no database of this number", "smaller db")

    def test_a_host_that_is_not_known(self):
        store = RedisStore("redis://no-such-host.invalid")
        self.check(store, "no-such-host.invalid:6379 is not known by that name", "spelling")

    def test_a_user_who_may_not(self, guarded):
        with redis.Redis(port=guarded.port, password=PASSWORD) as bare:
            bare.acl_setuser("eve", enabled=True, passwords=["+s3cret"], keys=["*"], commands=["+ping", "+hello"])
        store = RedisStore(f"redis://eve:s3cret@{guarded.endpoint}")
        self.check(store, f"{guarded.endpoint} does not permit", "listed")

    def test_what_is_not_redis(self):
        with MemcachedServer() as other:
            store = RedisStore(endpoints=[other.endpoint], timeout_s=2.0)
            self.check(store, f"{other.endpoint} does not answer as Redis does", "port")

    def test_a_server_that_speaks_tls_to_a_client_that_does_not(self, secure):
        store = RedisStore(f"redis://:s3cret@{secure.endpoint}")
        self.check(store, f"{secure.endpoint} speaks TLS", "rediss://")

    def test_a_server_that_does_not_speak_tls(self, server, certificates):
        store = RedissStore(endpoints=[server.endpoint], connect_timeout_s=0.1)
        self.check(store, f"{server.endpoint} does not speak TLS", "redis://")

    def test_a_certificate_that_nobody_vouches_for(self, secure):
        store = RedisStore(f"rediss://{secure.endpoint}")
        self.check(store, f"{secure.endpoint} cannot be trusted", "ca_file")

    def test_a_certificate_of_another_host(self, secure, certificates):
        address = f"localhost:{secure.port}"
        options = {"endpoints": [address], "ca_file": str(certificates[2])}
        self.check(RedissStore(**options), f"{address} cannot be trusted: .*localhost", "verify")
        for verify in ("ca", "none"):
            store = RedissStore(**options, verify=verify)
            store.put({b"a": b"1"})
            assert store.get([b"a"]) == [b"1"]
            store.close()


class TestOutages:
    def check(self, store: Store, match: str) -> None:
        """Every verb says that trying again may help."""
        for verb in verbs(store):
            with pytest.raises(StoreUnavailable, match=match) as failed:
                verb()
            assert failed.value.backend == "storage: redis"

    @pytest.fixture
    def own(self):
        """A server of this test only."""
        with RedisServer() as server:
            yield server

    def test_nobody_listens(self):
        endpoint = f"127.0.0.1:{free_port()}"
        self.check(RedisStore(endpoints=[endpoint]), f"{endpoint} cannot be reached: Connection refused")
        self.check(RedisStore("unix:///nowhere/redis.sock"), "/nowhere/redis.sock cannot be reached: No such file")

    @pytest.mark.parametrize("noticed", [True, False])
    def test_a_server_restarted_between_calls_is_found_again_by_all_connections(self, own, noticed):
        store = RedisStore(endpoints=[own.endpoint])
        server = store.inner.inner._server
        for _ in range(2):
            for taken in [server._askers.take() for _ in range(3)]:  # as threads leave them
                server._askers.give_back(*taken)
            for taken in [server._watchers.take() for _ in range(3)]:
                server._watchers.give_back(*taken)
            own.kill()
            if noticed:
                self.check(store, f"{own.endpoint} cannot be reached: Connection refused")
            own.start()
            assert store.incr([Arrival(b"f", (0,), 2, b"c")], TTL_S) == [Outcome(False, False)]
            store.put({b"a": b"1"}, TTL_S)
            assert store.get([b"a"]) == [b"1"]
            assert store.wait(b"a", 1.0) == b"1"
        store.close()

    def test_a_connection_that_breaks_in_the_middle_is_replaced_once(self, own, monkeypatch):
        store = RedisStore(endpoints=[own.endpoint])
        reply = redis_server._reply
        breaks = [True, True, False, True]

        def break_now(connection):
            if breaks.pop():
                raise redis.ConnectionError("Connection closed by server.")
            return reply(connection)

        monkeypatch.setattr(redis_server, "_reply", break_now)
        store.put({b"a": b"1"}, TTL_S)
        with pytest.raises(StoreUnavailable, match=f"{own.endpoint} cannot be reached: .*closed"):
            store.put({b"a": b"2"}, TTL_S)
        assert breaks == []
        store.close()

    def test_a_watching_connection_that_broke_unnoticed_is_replaced_once(self, own, monkeypatch):
        store = RedisStore(endpoints=[own.endpoint])
        store.put({b"a": b"1"}, TTL_S)
        look = redis_server._look
        breaks = [True, True, False, True]

        def break_now(connection, key, progress, *, remember):
            if breaks.pop():
                raise redis.ConnectionError("Connection closed by server.")
            return look(connection, key, progress, remember=remember)

        monkeypatch.setattr(redis_server, "_look", break_now)
        assert store.wait(b"a", 10.0) == b"1"
        with pytest.raises(StoreUnavailable, match=f"{own.endpoint} cannot be reached: .*closed"):
            store.wait(b"a", 10.0)
        assert breaks == []
        store.close()

    def test_replies_that_nobody_waited_for_are_not_taken_for_the_next_ones(self, own, monkeypatch):
        store = RedisStore(endpoints=[own.endpoint])
        store.put({b"a": b"1"}, TTL_S)
        reply = redis_server._reply

        def interrupt(connection):
            raise KeyboardInterrupt

        with redis.Redis(port=own.port) as bare:
            bare.execute_command("CLIENT", "PAUSE", 300, "WRITE")  # what is put is answered later
        monkeypatch.setattr(redis_server, "_reply", interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.put({b"b": b"2"}, TTL_S)
        monkeypatch.setattr(redis_server, "_reply", reply)
        assert store.get([b"a"]) == [b"1"]
        store.close()

    def test_a_server_that_does_not_answer_is_given_up_in_time(self, own):
        store = RedisStore(endpoints=[own.endpoint], timeout_s=0.1, connect_timeout_s=0.1)
        connected = RedisStore(endpoints=[own.endpoint], timeout_s=0.1)
        wait(lambda: all(map(answered, verbs(connected))), "it answers in time")
        own.freeze()
        self.check(store, f"{own.endpoint} did not answer within 0.1 s")
        self.check(connected, f"{own.endpoint} did not answer within 0.1 s")
        own.thaw()
        for verb in (*verbs(store), *verbs(connected)):
            wait(partial(answered, verb), "it is found again")
        store.close()
        connected.close()

    def test_a_server_that_is_full_says_so_and_takes_arrivals_again_once_there_is_room(self, own):
        store = RedisStore(endpoints=[own.endpoint])
        store.put({b"a": bytes(1 << 20)}, TTL_S)
        store.incr([Arrival(b"f", (0,), 3, b"c", b"0")], TTL_S)
        with redis.Redis(port=own.port) as bare:
            bare.config_set("maxmemory", 1)
        arrivals = [
            Arrival(b"f", (1,), 3, b"c", b"1"),
            Arrival(b"f", (1,), 3, b"d", b"1", only_if_last=True),
            Arrival(b"f", (1, 2), 3, b"d", b"1"),
            Arrival(b"g", tuple(range(200)), 300, b"d", b"1"),
        ]
        for call in (
            lambda: store.put({b"b": b"1"}, TTL_S),
            lambda: store.put({b"b": bytes(2 << 20)}, TTL_S),
            *(lambda arrival=arrival: store.incr([arrival], TTL_S) for arrival in arrivals),
        ):
            with pytest.raises(StoreFull, match=f"{own.endpoint} has no memory left") as full:
                call()
            assert "maxmemory" in full.value.hint
            assert not isinstance(full.value, Retryable)
        assert store.get([b"a", b"b"]) == [bytes(1 << 20), None]
        store.delete([b"a"])
        with redis.Redis(port=own.port) as bare:
            bare.config_set("maxmemory", "100mb")
        assert store.incr([Arrival(b"f", (1,), 3, b"c", b"1")], TTL_S) == [Outcome(False, False)]
        (claim,) = store.incr([Arrival(b"f", (2,), 3, b"d", b"2", only_if_last=True)], TTL_S)
        assert sorted(claim.values) == [b"0", b"1", b"2"]
        store.close()

    def test_a_server_that_cannot_serve_for_now(self, own):
        store = RedisStore(endpoints=[own.endpoint])
        with redis.Redis(port=own.port) as bare:
            bare.replicaof("127.0.0.1", free_port())
            with pytest.raises(StoreUnavailable, match="read only replica"):
                store.put({b"a": b"1"}, TTL_S)
            with pytest.raises(StoreUnavailable, match="read only replica"):
                store.incr([Arrival(b"f", (0,), 2, b"c")], TTL_S)
            bare.replicaof("no", "one")
            store.put({b"a": b"1"}, TTL_S)
            store.close()
            bare.config_set("maxclients", 1)
            self.check(store, "max number of clients")
        store.close()

    @pytest.mark.parametrize(
        ("said", "kind", "match"),
        [
            (redis.BusyLoadingError("Redis is loading the dataset in memory"), StoreUnavailable, "loading"),
            ("Error running script: @user_script:1: -READONLY You can't write", StoreUnavailable, "can't write"),
            ("Error running script: @user_script:1: -OOM command not allowed", StoreFull, "no memory left"),
            ("CLUSTERDOWN Hash slot not served", StoreUnavailable, "slot"),
            ("NOREPLICAS Not enough good replicas to write.", StoreUnavailable, "replicas"),
            ("BUSY Redis is busy running a script.", StoreUnavailable, "busy"),
            ("MOVED 3999 127.0.0.1:6381", StoreError, "Redis Cluster"),
            ("NOPERM this user has no permissions", StoreError, "does not permit"),
            ("MISCONF Redis is configured to save RDB snapshots, but", StoreError, "refuses a command: MISCONF"),
            ("unknown command 'UNLINK'", StoreError, "does not know the command UNLINK"),
        ],
    )
    def test_what_servers_of_any_version_say_is_understood_by_any_version_of_the_client(self, said, kind, match):
        """Some of it takes a large data set, a replica or an old server to hear."""
        error = redis.ResponseError(said) if isinstance(said, str) else said
        failure = RedisStore("redis://h").inner.inner._server.failure(error)
        assert type(failure) is kind
        assert re.search(f"the Redis server h:6379 .*{match}", str(failure))

    def test_a_node_of_a_cluster_is_no_server_of_its_own(self):
        with RedisServer("--cluster-enabled", "yes") as node:
            store = RedisStore(endpoints=[node.endpoint])
            with pytest.raises(StoreUnavailable, match="slot not served"):
                store.put({b"a": b"1"})
            with redis.Redis(port=node.port) as bare:
                bare.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
            with pytest.raises(StoreError, match=f"{node.endpoint} is part of a Redis Cluster") as refused:
                store.get([b"a", b"b", b"c"])
            assert not isinstance(refused.value, Retryable)
            store.close()


SOUND = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "cluster_enabled": "0",
    "role": "master",
    "maxmemory": "1000",
    "used_memory": "500",
    "maxmemory_policy": "noeviction",
    "evicted_keys": "0",
    "connected_clients": "10",
    "maxclients": "100",
    "rejected_connections": "0",
}


class TestAdvice:
    def test_is_none_for_a_sound_server(self):
        assert list(advice("h:1", SOUND, guarded=True)) == []
        assert list(advice("h:1", {}, guarded=True)) == []

    @pytest.mark.parametrize(
        ("info", "expected"),
        [
            ({"redis_version": "6.0.16"}, r"version 6\.0\.16 -> use 6\.2"),
            ({"cluster_enabled": "1"}, "Redis Cluster"),
            ({"role": "slave"}, "replica"),
            ({"maxmemory_policy": "volatile-lru"}, "evicts .*volatile-lru.* -> set maxmemory-policy noeviction"),
            ({"evicted_keys": "1234"}, "has evicted 1,234 keys"),
            ({"used_memory": "800"}, "is full"),
            ({"connected_clients": "80"}, "80 of at most 100 connections"),
            ({"rejected_connections": "2"}, "turned connections away, 2 times"),
        ],
    )
    def test_names_each_danger_and_what_to_do(self, info, expected):
        (line,) = advice("h:1", {**SOUND, **info}, guarded=True)
        assert re.search(f"the Redis server h:1 .*{expected}", line)

    def test_is_to_have_a_password_if_others_reach_the_server(self):
        (line,) = advice("h:1", SOUND, guarded=False)
        assert "set a password" in line
        for text, password, guarded in (("h", None, False), ("h", "x", True), ("127.0.0.1", None, True)):
            assert RedisNode(Endpoint.parse(text), RedisAccess(password=password)).guarded is guarded
        assert RedisNode(Endpoint.parse("/run/redis.sock"), RedisAccess()).guarded

    def test_is_asked_of_every_server(self):
        with RedisServer() as sound, RedisServer("--maxmemory-policy", "allkeys-lru", "--maxmemory", "1gb") as evicting:
            store = RedisStore(endpoints=[sound.endpoint, evicting.endpoint])
            (line,) = store.advice()
            assert f"{evicting.endpoint} evicts" in line
            sound.kill()
            with pytest.raises(StoreUnavailable, match=sound.endpoint):
                store.advice()
            store.close()
