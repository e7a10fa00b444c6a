"""Values cut into chunks: never torn, never short, nothing left behind; and large values in a store of their own."""

import threading
from itertools import count

import pytest
from storage_layers_openers import Clock, Limited, Memory

from wukong.backends.plugins import load_storage
from wukong.backends.storage import Store
from wukong.backends.storage.layers import chunked as module
from wukong.backends.storage.layers.chunked import MAGIC, Chunked
from wukong.backends.storage.layers.split import Split
from wukong.backends.storage.local import LocalStore
from wukong.errors import ConfigError, PluginError, StoreError, StoreFull, StoreUnavailable
from wukong.testing.store_machine import bytes_of, pattern

CHUNK = 1_000
OLD, NEW = pattern(3_500), pattern(2_700)


@pytest.fixture
def inner() -> Memory:
    return Memory()


@pytest.fixture
def store(inner) -> Chunked:
    return Chunked(inner, chunk_bytes=CHUNK)


def away(*_):
    raise StoreUnavailable("away")


class TestPut:
    def test_small_values_are_stored_as_they_are_in_one_call(self, inner, store):
        store.put({b"a": b"1", b"b": bytes(CHUNK)}, 60.0)
        assert inner.asked("get", "put") == [[b"a", b"b"]]
        assert inner.values == {b"a": b"1", b"b": bytes(CHUNK)}

    def test_the_manifest_comes_after_all_chunks(self, inner, store):
        store.put({b"a": OLD, b"small": b"1"}, 60.0)
        *chunk_puts, last = inner.asked("put")
        assert last == [b"a", b"small"]
        keys = [key for keys in chunk_puts for key in keys]
        assert [len(inner.values[key]) for key in keys] == [1_000, 1_000, 1_000, 500]
        assert b"".join(inner.values[key] for key in keys) == OLD
        assert len(inner.values[b"a"]) < 64

    @pytest.mark.parametrize(("size_bytes", "tries"), [(CHUNK, 1), (CHUNK + 1, 2), (3 * CHUNK, 2), (3 * CHUNK + 1, 1)])
    def test_what_has_no_room_in_one_piece_is_cut_up_and_nothing_else_is_tried_again(self, inner, size_bytes, tries):
        store, value = Chunked(inner, chunk_bytes=CHUNK, from_bytes=3 * CHUNK), pattern(size_bytes)
        put, fits = inner.put, 0

        def refuse(items, ttl_s=None):
            inner.calls.append(("try", []))
            if any(len(value) > fits for value in items.values() if isinstance(value, bytes | memoryview)):
                raise StoreFull("full")
            put(items, ttl_s)

        inner.put = refuse
        with pytest.raises(StoreFull):
            store.put({b"a": value}, 60.0)
        assert len(inner.asked("try")) == tries
        assert inner.values == {}
        fits = CHUNK
        store.put({b"a": value, b"small": b"1"}, 60.0)
        assert bytes_of(store.get([b"a", b"small"])) == [value, b"1"]
        store.delete([b"a", b"small"])
        assert inner.values == {}

    def test_chunks_are_views_of_the_value(self, inner, store):
        first, second = pattern(1_500), bytearray(pattern(1_600))
        store.put({b"a": (first, b"", second)}, 60.0)
        chunks, _ = inner.asked("put")
        owners = [
            [part.obj for part in (blob if isinstance(blob, tuple) else (blob,))]
            for blob in (inner.blobs[key] for key in chunks)
        ]
        assert [[owner is first for owner in of_chunk] for of_chunk in owners] == [
            [True],
            [True, False],
            [False],
            [False],
        ]
        assert bytes_of(store.get([b"a"])) == [first + second]

    def test_no_more_is_written_or_read_at_a_time_than_is_set(self, inner, store, monkeypatch):
        monkeypatch.setattr(module, "_WRITE_BYTES", 10 * CHUNK)
        monkeypatch.setattr(module, "_READ_BYTES", 10 * CHUNK)
        items = {b"a": pattern(35_200), b"b": pattern(5_000), b"c": pattern(4_000), b"d": pattern(6_000)}
        store.put(items, 60.0)
        puts = inner.asked("put")
        assert all(sum(len(inner.values[key]) for key in keys) <= 10 * CHUNK for keys in puts)
        assert bytes_of(store.get(list(items))) == list(items.values())
        gets = inner.asked("get")
        assert len(gets) == 1 + 4 + 1 + 1
        assert all(sum(len(inner.values[key]) for key in keys) <= 10 * CHUNK for keys in gets)
        assert not memoryview(store.get([b"a"])[0]).readonly
        assert not memoryview(store.get([b"b"])[0]).readonly
        for n in (0, 17, 35):
            gone = next(key for key in inner.values if key.startswith(b"a~") and key.endswith(b".%d" % n))
            kept = inner.values.pop(gone)
            assert bytes_of(store.get([b"a", b"b"])) == [None, items[b"b"]]
            inner.values[gone] = kept
        assert bytes_of(store.get([b"a"])) == [items[b"a"]]

    @pytest.mark.parametrize(
        "value",
        [
            MAGIC,
            MAGIC + bytes(32),
            MAGIC + OLD,
            (MAGIC[:7], b"", MAGIC[7:] + bytes(32)),
            memoryview(MAGIC + bytes(32)).cast("b"),
            bytearray(MAGIC + bytes(32)),
            bytearray(MAGIC),
            (b"", MAGIC[:15]),
            MAGIC[:15],
            b"x" + MAGIC,
        ],
        ids=range(10),
    )
    def test_a_value_that_looks_like_a_manifest_comes_back_as_it_was(self, inner, store, value):
        whole = b"".join(value) if isinstance(value, tuple) else bytes(value)
        store.put({b"a": value})
        assert bytes_of(store.get([b"a"])) == bytes_of([store.wait(b"a", 0.0)]) == [whole]
        store.delete([b"a"])
        assert inner.values == {}

    def test_the_manifest_of_another_value_is_a_value(self, inner, store):
        store.put({b"a": OLD})
        manifest = inner.values[b"a"]
        store.put({b"b": manifest})
        assert bytes_of(store.get([b"a", b"b"])) == [OLD, manifest]
        store.delete([b"b"])
        assert bytes_of(store.get([b"a", b"b"])) == [OLD, None]


class TestRead:
    def test_a_value_replaced_while_it_is_read_is_the_new_one(self, inner, store):
        store.put({b"a": OLD})
        coming = [NEW, OLD, NEW + OLD]

        def replace(verb, keys):
            if verb == "get" and b"~" in keys[0] and coming:
                with_no_hook([inner], lambda: Chunked(inner, chunk_bytes=700).put({b"a": coming.pop(0)}))

        inner.before = replace
        assert bytes_of(store.get([b"a"])) == [NEW + OLD]
        coming[:] = [b"small"]
        assert bytes_of([store.wait(b"a", 10.0)]) == [b"small"]

    def test_a_value_deleted_while_it_is_read_is_missing(self, inner, store):
        store.put({b"a": OLD, b"b": NEW})

        def delete(verb, keys):
            if verb == "get" and b"~" in keys[0]:
                with_no_hook([inner], lambda: store.delete([b"a"]))

        inner.before = delete
        assert bytes_of(store.get([b"a", b"b"])) == [None, NEW]

    def test_readers_see_whole_values_while_one_writes(self):
        store = Chunked(LocalStore(), chunk_bytes=500)
        values = [pattern(size_bytes) for size_bytes in (1_200, 40, 3_900)]
        store.put({b"a": values[0]})
        done = threading.Event()
        seen: list[object] = []

        def read():
            while not done.is_set():
                seen.append(bytes_of(store.get([b"a"]))[0] in values)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for n in range(400):
            store.put({b"a": values[n % 3]})
        done.set()
        for reader in readers:
            reader.join()
        assert seen and all(seen)
        store.delete([b"a"])
        store.close()

    @pytest.mark.parametrize("damage", ["lost", "short", "long", "empty"])
    def test_a_chunk_that_is_not_whole_makes_the_value_missing(self, inner, store, damage):
        store.put({b"a": OLD, b"b": NEW})
        chunks = sorted(key for key in inner.values if key.startswith(b"a~"))
        for key in chunks:
            kept = inner.values.pop(key)
            if damage != "lost":
                inner.values[key] = {"short": kept[:-1], "long": kept + b"x", "empty": b""}[damage]
            assert bytes_of(store.get([b"a", b"b"])) == [None, NEW]
            inner.values[key] = kept
        assert bytes_of(store.get([b"a", b"b"])) == [OLD, NEW]

    def test_waiting_for_a_value_that_lost_a_chunk_ends_with_its_time_or_a_new_value(self, inner, store, monkeypatch):
        clock = Clock(monkeypatch, module)
        store.put({b"a": OLD})
        del inner.values[next(key for key in inner.values if key.endswith(b".1"))]
        assert store.wait(b"a", 3.0) is None
        assert clock.now_s == 1_003.0
        assert len(clock.sleeps) < 20
        assert store.wait(b"a", 0.0) is None

        def rewrite(seconds):
            clock.sleep(seconds)
            if clock.now_s > 1_004.0:
                store.put({b"a": NEW})

        monkeypatch.setattr(module, "_sleep", rewrite)
        assert bytes_of([store.wait(b"a", 3.0)]) == [NEW]
        assert clock.now_s < 1_006.0


PAIRS = ["one store", "two stores", "one that takes manifests", "two, one takes manifests"]


@pytest.fixture(params=PAIRS)
def pair(request) -> tuple[Chunked, list[Memory]]:
    """A chunked store, and the stores in which nothing must be left."""
    stores = [Memory(), Memory()]
    records: Store = Limited(stores[0]) if "manifests" in request.param else stores[0]
    values = stores[1] if "two" in request.param else None
    return Chunked(records, values, chunk_bytes=CHUNK), stores


class TestNothingIsLeft:
    def test_after_delete(self, pair):
        store, stores = pair
        store.put({b"a": OLD, b"b": b"1", b"c": NEW})
        store.delete([b"a", b"b", b"b", b"c", b"never", b"a"])
        assert [each.values for each in stores] == [{}, {}]

    @pytest.mark.parametrize("later", [b"small", NEW, OLD, b""])
    def test_of_a_large_value_that_was_replaced(self, pair, later):
        store, stores = pair
        store.put({b"a": OLD})
        store.put({b"a": later})
        assert bytes_of(store.get([b"a"])) == [later]
        assert sum(len(value) for each in stores for value in each.values.values()) <= len(later) + 64
        store.delete([b"a"])
        assert [each.values for each in stores] == [{}, {}]

    def test_of_a_large_value_that_a_large_one_with_a_time_to_live_replaced(self, pair):
        store, stores = pair
        store.put({b"a": OLD}, 60.0)
        store.put({b"a": NEW}, 60.0)
        store.delete([b"a"])
        assert [each.values for each in stores] == [{}, {}]

    @pytest.mark.parametrize("times", [1, 3])
    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("nth", range(6))
    def test_of_a_put_that_failed_at_any_point_and_was_repeated(self, pair, when, nth, times):
        store, stores = pair
        store.put({b"a": OLD})
        seen: list[bytes | None] = []
        fail(stores, when, nth, times)
        for _ in range(times + 1):
            try:
                store.put({b"a": NEW, b"b": OLD})
            except StoreUnavailable:
                with_no_hook(stores, lambda: seen.extend(bytes_of(store.get([b"a"]))))
        assert set(seen) <= {OLD, NEW}
        assert bytes_of(store.get([b"a", b"b"])) == [NEW, OLD]
        store.delete([b"a", b"b"])
        assert [each.values for each in stores] == [{}, {}]

    @pytest.mark.parametrize("times", [1, 2, 3])
    @pytest.mark.parametrize("nth", range(5))
    @pytest.mark.parametrize(
        ("pair", "when"),
        [*((each, "before") for each in PAIRS), *((each, "after") for each in PAIRS[:2])],
        indirect=["pair"],
    )
    def test_of_a_delete_that_failed_at_any_point_and_was_repeated(self, pair, when, nth, times):
        store, stores = pair
        store.put({b"a": OLD, b"b": NEW})
        seen: list[bytes | None] = []
        fail(stores, when, nth, times)
        for _ in range(times + 1):
            try:
                store.delete([b"a", b"b"])
            except StoreUnavailable:
                with_no_hook(stores, lambda: seen.extend(bytes_of(store.get([b"a"]))))
        assert set(seen) <= {OLD, None}
        assert [each.values for each in stores] == [{}, {}]

    @pytest.mark.parametrize("room_bytes", [500, 3_000, 3_700, 5_000, 6_300])
    def test_if_the_store_was_full_half_way(self, room_bytes, monkeypatch):
        monkeypatch.setattr(module, "_WRITE_BYTES", 2 * CHUNK)
        inner = Memory(max_bytes=1_000 + room_bytes)
        store = Chunked(inner, chunk_bytes=CHUNK)
        store.put({b"old": bytes(1_000)})
        with pytest.raises(StoreFull):
            store.put({b"a": OLD, b"b": NEW, b"c": bytes(200)})
        left = {key: len(value) for key, value in inner.values.items() if b"~" in key}
        assert len(store._doubts) == 0
        assert bytes_of(store.get([b"old"])) == [bytes(1_000)]
        whole = [value for value in store.get([b"a", b"b"]) if value is not None]
        assert sum(left.values()) == sum(map(len, whole))
        assert room_bytes >= 6_300 or not left

    def test_a_value_that_is_stored_though_nobody_was_told_keeps_its_chunks(self, inner, store):
        def lose_the_answer(verb, keys):
            if verb == "put" and b"a" in keys:
                away()

        inner.after = lose_the_answer
        with pytest.raises(StoreUnavailable):
            store.put({b"a": OLD})
        inner.after = lambda *_: None
        store.put({b"b": b"1"})
        assert bytes_of(store.get([b"a"])) == [OLD]

    def test_of_a_failed_put_though_the_first_look_at_it_fails_too(self, inner, store):
        fail([inner], "before", 2, 1)
        with pytest.raises(StoreUnavailable):
            store.put({b"a": OLD}, 60.0)
        fail([inner], "before", 1, 1)
        store.put({b"b": b"1"}, 60.0)
        inner.before = lambda *_: None
        store.put({b"b": b"2"}, 60.0)
        assert inner.values == {b"b": b"2"}

    def test_a_put_has_succeeded_though_what_it_replaced_cannot_be_deleted_now(self, inner, store):
        store.put({b"a": OLD})
        inner.before = lambda verb, keys: away() if verb == "delete" else None
        store.put({b"a": NEW})
        assert bytes_of(store.get([b"a"])) == [NEW]
        inner.before = lambda *_: None
        store.put({b"other": b"1"})
        assert sum(map(len, inner.values.values())) < len(NEW) + 100


class TestChunked:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"chunk_bytes": 0}, "chunk_bytes is 0"),
            ({"chunk_bytes": 101}, "from 1 to 100"),
            ({"chunk_bytes": 100, "from_bytes": 101}, "from_bytes is 101"),
            ({"chunk_bytes": 100, "from_bytes": -1}, "from_bytes is -1"),
        ],
    )
    def test_refuses_sizes_that_cannot_be(self, options, says):
        with pytest.raises(ConfigError, match=says):
            Chunked(Memory(max_value_bytes=100), **options)

    def test_can_what_its_stores_can_and_takes_values_of_any_size(self):
        records = Memory(max_value_bytes=100, wait_blocks=True, trusted=True, round_trip_s=0.5, zero_copy=True)
        values = Memory(max_value_bytes=50, bandwidth_bytes_per_s=7.0)
        capabilities = Chunked(records, values, chunk_bytes=50, from_bytes=100).capabilities
        assert (capabilities.max_value_bytes, capabilities.wait_blocks) == (None, True)
        assert (capabilities.trusted, capabilities.zero_copy) == (False, False)
        assert (capabilities.round_trip_s, capabilities.bandwidth_bytes_per_s) == (0.5, 7.0)

    def test_does_not_take_values_that_it_has_cut_up(self):
        assert not Chunked(Limited(Memory()), chunk_bytes=100).capabilities.takes

    def test_takes_manifests_if_the_store_can(self):
        inner = Memory()
        limited = Limited(inner)
        store = Chunked(limited, chunk_bytes=100)
        store.put({b"a": OLD, b"b": b"1"}, 60.0)
        inner.calls.clear()
        store.delete([b"a", b"b"])
        assert limited.n_taken == 1
        assert len(inner.asked("get")) == 1  # that of the stand-in
        assert inner.values == {}


class TestSplit:
    def test_keeps_records_and_small_values_in_one_store_and_large_values_in_the_other(self):
        records, values = Memory(), Memory()
        store = Split(records, values, from_bytes=100)
        store.put({b"small": bytes(100), b"large": bytes(101)})
        assert records.values[b"small"] == bytes(100)
        assert len(records.values[b"large"]) < 64
        assert list(values.values.values()) == [bytes(101)]
        assert bytes_of(store.get([b"large", b"small"])) == [bytes(101), bytes(100)]
        assert bytes_of([store.wait(b"large", 0.0)]) == [bytes(101)]
        store.delete([b"large", b"small"])
        assert (records.values, values.values) == ({}, {})

    def test_cuts_large_values_if_their_store_has_a_limit(self):
        values = Memory(max_value_bytes=1_000)
        store = Split(Memory(), values, from_bytes=10)
        store.put({b"a": OLD})
        assert sorted(map(len, values.values.values())) == [500, 1_000, 1_000, 1_000]
        assert bytes_of(store.get([b"a"])) == [OLD]

    def test_its_manifests_are_small_values_to_a_chunked_store(self):
        inner = Memory()
        store = Split(Chunked(inner, chunk_bytes=1_000), Memory(), from_bytes=10)
        store.put({b"a": OLD})
        assert list(inner.values) == [b"a"]
        assert bytes_of(store.get([b"a"])) == [OLD]

    def test_opens_what_storage_may_be(self, tmp_path):
        store = load_storage(
            {"name": "split", "records": "local", "values": {"name": "local", "path": str(tmp_path / "v")}}
        )
        assert isinstance(store, Split)
        assert store.values.path == str(tmp_path / "v")
        again = store.spec().open()
        again.put({b"a": bytes(100_000)})
        assert bytes_of(store.get([b"a"])) == [bytes(100_000)]
        store.close()

    def test_closes_both_though_the_first_fails(self):
        class Stuck(Memory):
            def close(self):
                super().close()
                raise StoreError("stuck")

        records, values = Stuck(), Memory()
        with pytest.raises(StoreError, match="stuck"):
            Split(records, values).close()
        assert (records.n_closed, values.n_closed) == (1, 1)

    @pytest.mark.parametrize("values", ["no-such-store", {"name": "local", "pth": "x"}, 7])
    def test_closes_the_first_if_the_second_cannot_be_opened(self, values):
        records = Memory()
        with pytest.raises(PluginError):
            Split(records, values)
        assert records.n_closed == 1

    def test_refuses_a_size_that_the_first_does_not_take(self):
        stores = [Memory(max_value_bytes=70_000), Memory()]
        with pytest.raises(ConfigError, match="from_bytes is 80000"):
            Split(*stores, from_bytes=80_000)
        assert [store.n_closed for store in stores] == [1, 1]

    def test_needs_the_environment_of_both(self):
        class Locked(Memory):
            def __init__(self, **variables):
                super().__init__()
                self.environment = lambda: variables

        assert Split(Locked(A="1", B="2"), Locked(B="2", C="3")).environment() == {"A": "1", "B": "2", "C": "3"}
        with pytest.raises(ConfigError, match="different values of B") as error:
            Split(Locked(B="first secret"), Locked(B="second secret")).environment()
        assert "secret" not in str(error.value)


def with_no_hook(stores: list[Memory], do) -> None:
    hooks = [(store, store.before, store.after) for store in stores]
    for store in stores:
        store.before = store.after = lambda *_: None
    do()
    for store, before, after in hooks:
        store.before, store.after = before, after


def fail(stores: list[Memory], when: str, nth: int, times: int) -> None:
    """Have some calls fail in a row, from the n-th from now on, before or after their effect."""
    n_calls = count()

    def perhaps(*_):
        if nth <= next(n_calls) < nth + times:
            away()

    for store in stores:
        setattr(store, when, perhaps)
