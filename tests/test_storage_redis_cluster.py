"""The store `redis` on a real Redis Cluster: the conformance suite, slots that move, masters that die."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing

import dask
import pytest
import redis
from waiting import wait

import wukong
from wukong.backends.storage import Arrival, Store
from wukong.backends.storage.redis import RedisStore
from wukong.backends.storage.redis.cluster import RedisCluster, slot_of
from wukong.errors import ConfigError, StoreError, StoreUnavailable
from wukong.testing.servers import RedisClusterServers, RedisServer, free_port
from wukong.testing.storage import StoreTests
from wukong.testing.storage.fanins import FanInTests
from wukong.testing.storage.holds import HoldTests
from wukong.testing.storage.opening import StoreOpeningTests
from wukong.testing.storage.scanning import ScanTests
from wukong.testing.storage.waiting import WaitingTests

pytestmark = pytest.mark.xdist_group("redis cluster")


@pytest.fixture(scope="module")
def cluster():
    with RedisClusterServers() as cluster:
        yield cluster


@pytest.fixture
def store(cluster):
    with closing(RedisStore(endpoints=cluster.endpoints[:1], cluster=True)) as store:
        yield store


class OnCluster:
    @pytest.fixture(autouse=True)
    def _cluster(self, cluster):
        self.cluster = cluster

    def make_store(self) -> Store:
        return RedisStore(f"redis://{self.cluster.endpoints[1]}?cluster=true")

    def raw_get(self, store: Store, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._bare() as bare:
            return [bare.get(_name(key)) for key in keys]

    def raw_put(self, store: Store, items: Mapping[bytes, bytes]) -> None:
        with self._bare() as bare:
            for key, value in items.items():
                bare.set(_name(key), value)

    def _bare(self) -> redis.RedisCluster:
        return redis.RedisCluster.from_url(f"redis://{self.cluster.endpoints[0]}")


class TestWhatAClusterCouldChange(OnCluster, StoreOpeningTests, WaitingTests, HoldTests, FanInTests, ScanTests):
    pass


@pytest.mark.long
class TestTheRest(OnCluster, StoreTests):
    pass


def _name(key: bytes) -> bytes:
    return b"wukong:v{:" + key + b"}"


def test_slots_are_those_of_redis(cluster):
    with redis.Redis(port=cluster.masters[0].port) as bare:
        for name in (b"", b"key", b"a{b}c", b"a{}c", b"a{b", b"{:}x}", b"a{{b}}", b"\xff\x00", _name(b"}x")):
            assert slot_of(name) == bare.execute_command("CLUSTER KEYSLOT", name), name


def test_keys_are_spread_over_all_masters_and_a_key_has_its_record_beside_it(cluster, store):
    keys = [b"spread %d" % n for n in range(100)]
    store.put(dict.fromkeys(keys, b"value"))
    for each in cluster.masters:
        with redis.Redis(port=each.port) as bare:
            assert bare.dbsize() > 10
    store.incr([Arrival(key, (0,), 2, b"someone") for key in keys])
    store.delete(keys)
    assert store.get(keys) == [None] * 100
    assert store.scan(b"spread") == {}


def test_doctor_has_nothing_against_a_sound_cluster(store):
    assert store.advice() == []


def test_what_is_in_a_slot_that_moves_is_found_wherever_it_is(cluster, store):
    """Half of a slot's keys have moved, and then all of them; another client's map is old then."""
    key = b"moves"
    slot = slot_of(_name(key))
    source, target = _owner(cluster, slot), next(each for each in cluster.masters if each is not _owner(cluster, slot))
    other = RedisStore(endpoints=[cluster.endpoints[0]], cluster=True)
    store.put({key: b"value"})
    other.get([key])
    _begin_to_move(slot, source, target)
    try:
        assert store.get([key]) == [b"value"]
        with redis.Redis(port=source.port) as bare:
            bare.execute_command("MIGRATE", target.host, target.port, _name(key), 0, 5_000)
        assert store.get([key, b"another"]) == [b"value", None]  # by ASK
        assert other.wait(key, 5) == b"value"
        [first] = store.incr([Arrival(key, (0,), 2, b"someone", b"rides")])
        [last] = other.incr([Arrival(key, (1,), 2, b"someone else")])
        assert not first.complete and last.claimed and last.values == (b"rides",)
    finally:
        _end_the_move(cluster, slot, target)
    assert other.get([key]) == store.get([key]) == [b"value"]  # by MOVED
    other.delete([key])
    assert store.get([key]) == [None]
    other.close()


def test_who_waits_for_a_key_is_told_though_its_slot_moves_meanwhile(cluster, store, monkeypatch):
    monkeypatch.setattr("wukong.backends.storage.redis.server._LOOK_S", 0.05)
    asked, on_the_move = [], RedisCluster._value_on_the_move
    monkeypatch.setattr(RedisCluster, "_value_on_the_move", lambda *given: [asked.append(1), on_the_move(*given)][1])
    key = b"awaited"
    slot = slot_of(_name(key))
    found = []
    waiter = threading.Thread(target=lambda: found.append(store.wait(key, 60)))
    waiter.start()
    source, target = _owner(cluster, slot), next(each for each in cluster.masters if each is not _owner(cluster, slot))
    _begin_to_move(slot, source, target)
    wait(lambda: asked, "it has been sent elsewhere")
    _end_the_move(cluster, slot, target)
    with closing(RedisStore(endpoints=cluster.endpoints[:1], cluster=True)) as other:
        other.put({key: b"there"})
    waiter.join(60)
    assert found == [b"there"]


def _begin_to_move(slot: int, source: RedisServer, target: RedisServer) -> None:
    target.told("CLUSTER", "SETSLOT", slot, "IMPORTING", source.told("CLUSTER", "MYID"))
    source.told("CLUSTER", "SETSLOT", slot, "MIGRATING", target.told("CLUSTER", "MYID"))


def _end_the_move(cluster: RedisClusterServers, slot: int, target: RedisServer) -> None:
    for each in (target, *cluster.masters):
        each.told("CLUSTER", "SETSLOT", slot, "NODE", target.told("CLUSTER", "MYID"))


def _owner(cluster: RedisClusterServers, slot: int) -> RedisServer:
    with redis.Redis(port=cluster.masters[0].port) as bare:
        for first, last, (_, port, *_), *_ in bare.execute_command("CLUSTER SLOTS"):
            if first <= slot <= last:
                return next(each for each in cluster.masters if each.port == port)
    raise AssertionError(f"nobody has the slot {slot}")


# --- recognised, or not


def test_a_client_finds_out_that_its_server_is_one_of_a_cluster(cluster):
    with wukong.Client(storage=f"redis://{cluster.endpoints[2]}", progress=False) as client:
        total = dask.delayed(sum)([dask.delayed(pow)(n, 2) for n in range(50)])
        assert client.compute(total).result() == 40_425
        assert client.storage.spec().options["cluster"] is True


@pytest.mark.parametrize("options", [{"db": 3}, {"prefix": "a{b}"}])
def test_what_a_cluster_has_not_is_refused(options):
    with pytest.raises(ConfigError):
        RedisStore(endpoints=["127.0.0.1:1"], cluster=True, **options)


def test_a_server_that_stands_alone_is_no_cluster():
    with RedisServer() as server, closing(RedisStore(endpoints=[server.endpoint], cluster=True)) as store:
        with pytest.raises(StoreError, match="is not part of a Redis Cluster") as caught:
            store.get([b"key"])
        assert "leave out" in str(caught.value)


def test_servers_of_a_cluster_that_are_named_as_if_they_stood_alone_are_an_error_that_says_so(cluster):
    with closing(RedisStore(endpoints=cluster.endpoints[:3])) as store:
        with pytest.raises(StoreError, match="part of a Redis Cluster") as caught:
            store.get([b"%d" % n for n in range(20)])
        assert "cluster=true" in str(caught.value)


def slowly(x):
    time.sleep(0.02)
    return x, bytes(50_000)


def test_a_master_that_is_killed_in_mid_job_is_replaced_by_its_replica():
    with (
        RedisClusterServers(timeout_s=0.3) as cluster,
        wukong.Client(storage=f"redis://{cluster.endpoints[0]}", progress=False, store_patience_s=60) as client,
    ):
        futures = client.map(slowly, range(200))
        joined = client.submit(lambda parts: [x for x, _ in parts], futures)
        wait(lambda: sum(each.done() for each in futures) > 20, "the job is under way")
        cluster.masters[1].kill()
        assert joined.result(120) == list(range(200))
        assert "slave" not in cluster.replicas[1].told("ROLE")


def test_a_cluster_of_which_no_server_answers_is_a_fault_that_may_pass():
    store = RedisStore(endpoints=[f"127.0.0.1:{free_port()}"], cluster=True)
    with closing(store), pytest.raises(StoreUnavailable, match="cannot be reached"):
        store.get([b"key"])
