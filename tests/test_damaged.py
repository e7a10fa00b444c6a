"""Whatever a parser is given, it answers or raises an error of Wukong's, which names the key of what is damaged.

What is signed is refused before it is read; here is what is read before any signature is looked at, cut, lengthened,
changed or made up, and what people write down.
"""

import contextlib
import math
import struct
from collections.abc import Callable
from typing import Any

import dask.config
import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wukong.backends.faas.aws_lambda.event import unpack
from wukong.backends.plugins import load_storage, named
from wukong.backends.storage import Arrival
from wukong.backends.storage.fanin import TOKEN_BYTES, FanIn
from wukong.backends.storage.layers import Chunked
from wukong.backends.storage.layers.chunked import MAGIC
from wukong.backends.storage.local import LocalStore
from wukong.backends.storage.memcached.names import MemcachedNames
from wukong.backends.storage.redis.address import Address, Endpoint
from wukong.config import KEYS, Settings
from wukong.core.codec import Codec
from wukong.errors import ConfigError, StoreError, WukongError
from wukong.proxy import protocol

KEY = b"the key"
SETTINGS = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None, derandomize=True
)


def damaged(whole: list[bytes]) -> st.SearchStrategy[bytes]:
    """One of these, cut, lengthened, with bytes changed; or anything."""

    @st.composite
    def change(draw: Any) -> bytes:
        raw = bytearray(draw(st.sampled_from(whole)))
        for at, byte in draw(
            st.lists(st.tuples(st.integers(0, max(0, len(raw) - 1)), st.integers(0, 255)), max_size=4)
        ):
            raw[at : at + 1] = bytes([byte])
        cut = draw(st.integers(0, len(raw)))
        return bytes(raw[:cut]) if draw(st.booleans()) else bytes(raw) + draw(st.binary(max_size=4))

    return st.one_of(change(), st.binary(max_size=80))


def is_told(call: Callable[[], object], *contradictions: str) -> None:
    """Make a call that may fail, by an error that names the key, or by one of these contradictions."""
    try:
        call()
    except (StoreError, ValueError) as error:
        told = error
    else:
        return
    expected = ["the key"] if isinstance(told, StoreError) else contradictions
    assert any(each in str(told) for each in expected), repr(told)


def fanins() -> list[bytes]:
    records = []
    for of, inside_bytes in ((3, 4_096), (3, 4), (200, 4_096)):
        record = FanIn(of, bytes(TOKEN_BYTES))
        record.arrive(Arrival(KEY, (0,), of, b"a", b"riding"), inside_bytes=inside_bytes)
        record.arrive(Arrival(KEY, (1,), of, b"b", b"more", only_if_last=True))
        records.append(record.pack())
        record.arrive(Arrival(KEY, (1, 2), of, b"c", b"x"), b"ABCDEFGH", inside_bytes=inside_bytes)
        records.append(record.pack())
    return records


@SETTINGS
@given(damaged(fanins()), st.booleans())
def test_a_damaged_record_of_a_fan_in_is_an_error_that_names_it(raw: bytes, last: bool) -> None:
    def use() -> None:
        record = FanIn.unpack(raw, KEY)
        record.riders()
        record.arrive(Arrival(KEY, (1,), record.of, b"c", b"v", only_if_last=last))
        FanIn.unpack(record.pack(), KEY)

    is_told(use, "Member 1 is not in a fan-in of 1")


def heads() -> list[bytes]:
    form = struct.Struct("<16sQQ16s")
    sizes = [(10, 4), (0, 4), (10, 0), (1 << 63, 1 << 62), (1 << 63, 1), (40_000_000, 20_000_000)]
    return [form.pack(MAGIC, *each, b"n" * 16) for each in sizes]


@pytest.fixture
def local(tmp_path: Any) -> Any:
    store = LocalStore(str(tmp_path / "store"))
    yield store
    store.close()


@SETTINGS
@given(st.one_of(st.sampled_from(heads()), damaged(heads())))
def test_a_damaged_manifest_is_an_error_that_names_its_value_and_can_be_deleted(local: LocalStore, raw: bytes) -> None:
    chunked = Chunked(local, chunk_bytes=65_536)
    local.put({KEY: raw})
    for read in (lambda: chunked.get([KEY])[0], lambda: chunked.wait(KEY, 0.0)):
        is_told(read)
    chunked.put({KEY: bytes(100_000)})
    assert len(bytes(chunked.get([KEY])[0] or b"")) == 100_000
    local.put({KEY: raw})
    chunked.delete([KEY])
    assert local.get([KEY]) == [None]


def rows() -> list[bytes]:
    value = struct.pack("<Bd", 0, math.inf) + b"small"
    large = struct.pack("<BdQ", 1, math.inf, 400_000) + b"large/1-a-0"
    record = struct.pack("<dI12sII", math.inf, 3, bytes(12), 1, 1) + b"c\x01" + struct.pack("<I", 3) + b"abc"
    return [value, large, record]


@SETTINGS
@example(struct.pack("<dI12sII", math.inf, 2, bytes(12), 1, 1) + b"c\x03" + struct.pack("<I", 9) + b"cut", False)
@given(damaged(rows()), st.booleans())
def test_what_is_damaged_in_the_embedded_store_is_an_error_that_names_it_and_can_be_deleted(
    local: LocalStore, raw: bytes, last: bool
) -> None:
    def write(txn: Any) -> None:
        txn.put(b"v" + KEY, raw)
        txn.put(b"r" + KEY, raw)

    local._env.write(write, 65_536)
    calls = [lambda: local.get([KEY]), lambda: local.wait(KEY, 0.0)]
    calls += [lambda of=of: local.incr([Arrival(KEY, (0,), of, b"c", b"v", last)]) for of in (2, 3)]
    for call in calls:
        is_told(call, "The fan-in has")
    local.scan(b"")
    local._tidy()
    local.delete([KEY])
    assert local.get([KEY]) == [None]
    assert not local.incr([Arrival(KEY, (0,), 2, b"c")])[0].complete


@pytest.mark.parametrize(
    "fields", [None, {"of": "x", "n": "1"}, {"of": "2", "n": "x"}, {"of": "2", "n": "1", "0": "x"}]
)
def test_a_record_in_redis_that_is_none_is_an_error_that_names_it(redis_url: str, fields: Any) -> None:
    endpoint = redis_url.partition("://")[2].partition(",")[0]
    host, _, port = endpoint.rpartition(":")
    store = load_storage({"name": "redis", "url": f"redis://{endpoint}", "prefix": "damaged."})
    bare = redis.Redis(host, int(port))
    try:
        if fields is None:
            bare.set("damaged.rthe key", "text")
            bare.hset("damaged.vthe key", "a", "hash")
            with pytest.raises(StoreError, match=r"value b'the key' .* is damaged.*WRONGTYPE"):
                store.wait(KEY, 0.1)
        else:
            bare.hset("damaged.rthe key", mapping=fields)
        batch = [Arrival(b"sound", (n,), 2, b"c") for n in (0, 1)] + [Arrival(KEY, (0,), 2, b"c")]
        with pytest.raises(StoreError, match=r"record of the fan-in b'the key' .* is damaged"):
            store.incr(batch)
        assert store.incr(batch[:2])[1].claimed
        Chunked(store, chunk_bytes=1 << 20).delete([KEY, b"sound"])
        assert not store.incr(batch[2:])[0].complete
        assert store.get([KEY]) == [None]
    finally:
        for name in bare.scan_iter("damaged.*"):
            bare.delete(name)
        store.close()
        bare.close()


def test_a_record_in_memcached_that_is_none_is_an_error_that_names_it(memcached_url: str) -> None:
    store = load_storage(memcached_url.partition(",")[0])
    [shard] = store.shards if hasattr(store, "shards") else [store.inner]
    ask = shard._pool.call
    name = MemcachedNames(shard._names._prefix.decode()).record(KEY)
    for raw in [b"text", *fanins(), fanins()[0][:-1] + b"\xff\xff"]:
        ask(lambda connection, raw=raw: connection.ask([b"set %b 0 0 %d\r\n%b\r\n" % (name, len(raw), raw)]))
        is_told(lambda: store.incr([Arrival(KEY, (2,), 3, b"z", b"v")]), "The fan-in has 200")
        store.delete([KEY])
        assert not store.incr([Arrival(KEY, (0,), 2, b"c")])[0].complete
        store.delete([KEY])
    store.close()


CODEC = Codec(b"k" * 32, sign_buffers=False)


@SETTINGS
@given(damaged([bytes(CODEC.encode({"a": 1}, b"here"))]))
def test_a_damaged_frame_is_refused(raw: bytes) -> None:
    with contextlib.suppress(WukongError):
        assert CODEC.decode(raw, b"here") == {"a": 1}


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.binary(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.text(), st.integers()), inner)),
    max_leaves=8,
)


@SETTINGS
@given(st.one_of(ANYTHING, st.fixed_dictionaries({"faas": ANYTHING, "calls": ANYTHING, "refused": ANYTHING})))
def test_what_comes_over_a_line_is_read_or_refused(told: Any) -> None:
    header = told if isinstance(told, dict) else {"faas": told, "calls": told, "refused": told, "reasons": told}
    for read in (
        lambda: protocol.read_invoke(header, b""),
        lambda: protocol.read_made(header, 2),
        lambda: protocol.Announced.of(header),
    ):
        with contextlib.suppress(protocol.ProtocolError):
            read()
    for event in (told, {"wukong": 1, "id": told, "payload": told}):
        with contextlib.suppress(WukongError):
            unpack(event)


PLACES = [b"redis://h:1,[::1]:2/3?db=1", b"unix:///a,/b?db=1", b"rediss://a:b@h", b"h:1", b"[::1]:5", b"local"]


@SETTINGS
@given(st.one_of(st.text(max_size=30), damaged(PLACES).map(lambda raw: raw.decode("latin1"))))
def test_an_address_is_read_or_refused(text: str) -> None:
    for read in (Address.parse, Endpoint.parse, named):
        with contextlib.suppress(ConfigError):
            read(text)


@SETTINGS
@example("wukong", "a bare string")
@example("wukong", {1: 2})
@example("storage", {1: 2})
@example("storage", {"name": "redis", 1: 2})
@example("storage", {"url": 5})
@example("retries", {"a": 1})
@example("heartbeat_s", "")
@example("large_object_bytes", ".")
@example("faas", ["local"])
@given(st.sampled_from(["wukong", *KEYS]), ANYTHING)
def test_a_configuration_of_any_shape_is_read_or_refused(key: str, value: Any) -> None:
    whole = value if key == "wukong" else {key: value}
    with contextlib.suppress(ConfigError), dask.config.set({"wukong": whole}):
        Settings.load()
    with contextlib.suppress(ConfigError):
        Settings.load(**({key: value} if key != "wukong" else {"key": value}))
    if isinstance(value, (str, dict)):
        with contextlib.suppress(ConfigError):
            named(value)
