"""Nodes as one store, as functions see them: the conformance suite, and going where the directory says. No AWS."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from certificates import make_certificates

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Store
from wukong.backends.storage.fargate import shards as module
from wukong.backends.storage.fargate.certificate import certificate_of, new_certificate
from wukong.backends.storage.fargate.shards import DIRECTORY, FargateShards, packed
from wukong.backends.storage.layers import within
from wukong.backends.storage.layers.sharded import Sharded
from wukong.errors import StoreError, StoreUnavailable
from wukong.testing.servers import RedisServer, free_port
from wukong.testing.storage import StoreTests

PASSWORD = "5a" * 32
TARGET = "wukong.backends.storage.fargate.shards:FargateShards"


def served(node: str, **more: object) -> RedisServer:
    """A server as the container's script starts one: a user of its own besides the usual one."""
    user = ["--user", node, "on", f">{PASSWORD}", "allkeys", "allchannels", "allcommands"]
    return RedisServer(*user, password=PASSWORD, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def servers() -> Iterator[list[RedisServer]]:
    made = [served(f"node-{n}.10") for n in range(3)]
    try:
        yield [server.start() for server in made]
    finally:
        for server in made:
            server.stop()


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WUKONG_REDIS_PASSWORD", PASSWORD)


def places(servers: list[RedisServer]) -> list[list[object]]:
    return [[f"node-{n}", 10, server.endpoint] for n, server in enumerate(servers)]


def at(server: RedisServer) -> redis.Redis:
    return redis.Redis(server.host, server.port, password=PASSWORD, protocol=2)


def key_on(store: Store, slot: str) -> bytes:
    sharded = within(store, Sharded)
    assert sharded is not None
    return next(key for n in range(100) if slot in repr(sharded.shard_of(key := b"key %d" % n)))


@pytest.mark.long
class TestThreeNodes(StoreTests):
    platform_variables = ("WUKONG_REDIS_",)  # functions have them from the store that has started the nodes

    @pytest.fixture(autouse=True)
    def _servers(self, servers):
        self.servers = servers

    def make_store(self) -> Store:
        return PluginSpec(TARGET, {"slots": places(self.servers)}).open()

    def make_unreachable_store(self) -> Store:
        return FargateShards(slots=[["node-0", 10, f"127.0.0.1:{free_port()}"]])


def test_the_spec_has_the_places_and_no_password(servers):
    store = FargateShards(slots=places(servers), ca_data=None, recovery_s=7.0)
    spec = store.spec()
    assert (spec.target, spec.options["slots"]) == (TARGET, places(servers))
    assert PASSWORD not in repr(spec)
    assert store.capabilities.recovery_s == 7.0
    assert store.capabilities.max_value_bytes is None
    assert PluginSpec(spec.target, spec.options).open().spec() == spec


def test_tls_is_spoken_with_the_nodes_own_certificate_which_names_no_host(tmp_path):
    pem = new_certificate("wukong")
    (tmp_path / "pem").write_text(pem)
    with served("node-0.10", tls=(tmp_path / "pem",) * 3) as server:
        store = FargateShards(slots=places([server]), ca_data=certificate_of(pem))
        store.put({b"key": b"value"})
        assert store.get([b"key"]) == [b"value"]
        other = FargateShards(slots=places([server]), ca_data=certificate_of(new_certificate("wukong")))
        with pytest.raises(StoreError, match="cannot be trusted"):
            other.get([b"key"])


def test_a_certificate_that_some_authority_vouches_for_is_not_the_nodes(tmp_path):
    """Every authority that the machine trusts is trusted here too, by whatever name; it is not taken for a node."""
    certificates = make_certificates(tmp_path)
    with served("node-0.10", tls=certificates) as server:
        store = FargateShards(slots=places([server]), ca_data=certificates[2].read_text())
        with pytest.raises(StoreError, match="it shows another certificate than this store's nodes do") as caught:
            store.get([b"key"])
        assert not isinstance(caught.value, StoreUnavailable)


def test_a_slot_is_looked_for_on_other_nodes_and_the_newest_says_where(servers, monkeypatch):
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)
    with served("node-0.12") as moved:
        dead = ["node-0", 10, f"127.0.0.1:{free_port()}"]
        store = FargateShards(slots=[dead, *places(servers)[1:]])
        key = key_on(store, "node-0")
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            store.put({key: b"value"})
        at(servers[1]).hset(DIRECTORY, "node-0", packed((11, f"127.0.0.1:{free_port()}")))  # and that has died too
        at(servers[2]).hset(DIRECTORY, "node-0", packed((12, moved.endpoint)))
        store.put({key: b"value"})
        assert at(moved).get(b"wukong:v" + key) == b"value"
        assert store.places["node-0"] == (12, moved.endpoint)
        for server in servers[1:]:
            at(server).delete(DIRECTORY)


def test_an_older_place_is_not_gone_back_to(servers):
    store = FargateShards(slots=places(servers))
    store.move({"node-0": (9, "127.0.0.1:1"), "node-1": (10, "127.0.0.1:1"), "node-7": (99, "127.0.0.1:1")})
    assert store.places == {slot: (generation, where) for slot, generation, where in places(servers)}


def test_who_waits_for_a_key_goes_on_waiting_where_its_slot_has_moved_to(servers, monkeypatch):
    monkeypatch.setattr(module, "_SLICE_S", 0.05)
    store = FargateShards(slots=places(servers))
    key = key_on(store, "node-0")
    with served("node-0.11") as moved:
        at(moved).set(b"wukong:v" + key, b"value")
        assert store.wait(key, 0.12) is None
        store.move({"node-0": (11, moved.endpoint)})
        assert store.wait(key, 10.0) == b"value"


def test_waiting_ends_when_it_is_to(servers, monkeypatch):
    waited: list[float] = []
    now = [0.0]

    def wait(self, key, timeout_s):
        waited.append(timeout_s)
        now[0] += timeout_s

    monkeypatch.setattr(module, "_now_s", lambda: now[0])
    monkeypatch.setattr(module.RedisShard, "wait", wait)
    store = FargateShards(slots=places(servers)[:1])
    assert store.wait(b"key", 12.0) is None
    assert waited == [5.0, 5.0, 2.0]


@pytest.mark.parametrize("value", [b"", b"nothing", b"x 127.0.0.1:1", b"11", b"11 user@host:x", b"\xff 1"])
def test_a_directory_that_cannot_be_read_is_as_good_as_none(servers, monkeypatch, value):
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)
    store = FargateShards(slots=[["node-0", 10, f"127.0.0.1:{free_port()}"], *places(servers)[1:2]])
    at(servers[1]).hset(DIRECTORY, "node-0", value)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        store.put({key_on(store, "node-0"): b"value"})
    at(servers[1]).delete(DIRECTORY)


def test_of_many_who_meet_a_dead_node_at_once_one_asks_where_it_is(servers, monkeypatch):
    asked, now = [], [100.0]
    monkeypatch.setattr(module, "_now_s", lambda: now[0])
    monkeypatch.setattr(module._Nodes, "_read", lambda self, slot: asked.append(slot) or {})
    store = FargateShards(slots=[["node-0", 10, f"127.0.0.1:{free_port()}"], *places(servers)[1:]])
    key = key_on(store, "node-0")

    def meet(_: int) -> None:
        with pytest.raises(StoreUnavailable):
            store.get([key])

    with ThreadPoolExecutor(8) as many:
        list(many.map(meet, range(32)))
    assert sorted(asked) == ["node-1", "node-2"]
    now[0] += module._LOOK_EVERY_S
    meet(0)
    assert sorted(asked) == ["node-1", "node-1", "node-2", "node-2"]


def test_functions_import_nothing_that_they_have_no_use_for():
    code = f"import sys; from {TARGET.partition(':')[0]} import *; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = {name.rpartition(".")[2] for name in told if name.startswith("wukong.backends.storage.fargate.")}
    assert ours == {"shards"}
    assert "boto3" not in told
