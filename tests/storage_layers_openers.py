"""Stacks of layers that can be opened again by their spec, in this process or another, for the tests of the layers."""

from contextlib import contextmanager

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Blob, Capabilities, Outcome, Store, blob_size
from wukong.backends.storage.layers import Chunked, Layer, Sharded, stacked
from wukong.backends.storage.layers.layer import nested, opened
from wukong.backends.storage.local import LocalStore
from wukong.errors import StoreError, StoreFull

LIMIT_BYTES = 65_536


class Again(Layer):
    """A stack that knows how it was made."""

    def __init__(self, inner: Store, maker: str, bases: list[Store]) -> None:
        super().__init__(inner)
        self.bases = bases
        self._spec = PluginSpec(f"{__name__}:{maker}", {"bases": [nested(base.spec()) for base in bases]})

    def spec(self):
        return self._spec


class Limited(Layer):
    """A store that takes small values only, with the optional verb by which chunks are deleted."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.capabilities = Capabilities(max_value_bytes=LIMIT_BYTES, scans=True, renews=True, takes=True)
        self.n_taken = 0

    def put(self, items, ttl_s=None):
        for key, blob in items.items():
            if blob_size(blob) > LIMIT_BYTES:
                raise StoreError(f"the value under {key!r} is too large")
        self.inner.put(items, ttl_s)

    def take(self, keys, begin, most_bytes):
        self.n_taken += 1
        found = [None if value is None else bytes(value) for value in self.inner.get(keys)]
        self.inner.delete(keys)
        return [
            value if value is not None and value.startswith(begin) and len(value) <= most_bytes else None
            for value in found
        ]


def bases_of(specs, n: int) -> list[Store]:
    return [LocalStore() for _ in range(n)] if specs is None else [opened(spec) for spec in specs]


def chunked(bases=None) -> Store:
    stores = bases_of(bases, 1)
    return Again(Chunked(stores[0], chunk_bytes=1_000), "chunked", stores)


def sharded(bases=None) -> Store:
    stores = bases_of(bases, 3)
    return Again(Sharded(stores, ["a", "b", "c"]), "sharded", stores)


def chunked_over_shards(bases=None) -> Store:
    stores = bases_of(bases, 3)
    inner = Chunked(Sharded(stores, ["a", "b", "c"]), chunk_bytes=LIMIT_BYTES, from_bytes=100)
    return Again(inner, "chunked_over_shards", stores)


def stacked_on_a_limited_one(bases=None) -> Store:
    stores = bases_of(bases, 1)
    return Again(stacked(Limited(stores[0]), patience_s=5.0), "stacked_on_a_limited_one", stores)


class Memory(Store):
    """A store in memory that notes what it is asked for, and fails when told to.

    Attributes:
        values: what it holds.
        calls: ``(verb, keys)`` of every call.
        before, after: called with the verb and the keys before and after each call has its effect; may raise.
        max_bytes: it is full with more; a batch is stored item by item until then.
    """

    def __init__(self, *, max_bytes: int | None = None, **capabilities) -> None:
        self.capabilities = Capabilities(**capabilities)
        self.values: dict[bytes, bytes] = {}
        self.blobs: dict[bytes, Blob] = {}
        self.records: dict[bytes, set[int]] = {}
        self.calls: list[tuple[str, list[bytes]]] = []
        self.before = self.after = lambda verb, keys: None
        self.max_bytes = max_bytes
        self.n_closed = 0

    @contextmanager
    def _call(self, verb, keys):
        self.calls.append((verb, list(keys)))
        self.before(verb, keys)
        yield
        self.after(verb, keys)

    def get(self, keys):
        with self._call("get", keys):
            return [self.values.get(key) for key in keys]

    def put(self, items, ttl_s=None):
        with self._call("put", items):
            for key, blob in items.items():
                value = b"".join(blob) if isinstance(blob, tuple) else bytes(blob)
                others = sum(len(other) for name, other in self.values.items() if name != key)
                if self.max_bytes is not None and others + len(value) > self.max_bytes:
                    raise StoreFull("full")
                self.values[key], self.blobs[key] = value, blob

    def delete(self, keys):
        with self._call("delete", keys):
            for key in keys:
                self.values.pop(key, None)
                self.records.pop(key, None)

    def wait(self, key, timeout_s):
        with self._call("wait", [key]):
            return self.values.get(key)

    def incr(self, arrivals, ttl_s=None):
        with self._call("incr", [arrival.record for arrival in arrivals]):
            outcomes = []
            for arrival in arrivals:
                members = self.records.setdefault(arrival.record, set())
                members.update(arrival.members)
                complete = len(members) == arrival.of
                outcomes.append(Outcome(complete, complete, (arrival.value,) if complete and arrival.value else ()))
            return outcomes

    def spec(self):
        raise StoreError("a store in memory is nowhere else")

    def close(self):
        self.n_closed += 1

    def asked(self, *verbs: str) -> list[list[bytes]]:
        """Return the keys of every call of these verbs, and forget all calls."""
        found = [keys for verb, keys in self.calls if verb in verbs]
        self.calls.clear()
        return found


class Clock:
    """A clock that passes only when somebody sleeps. `sleeps`: for how long each time."""

    def __init__(self, monkeypatch, *modules) -> None:
        self.now_s = 1_000.0
        self.sleeps: list[float] = []
        for module in modules:
            monkeypatch.setattr(module, "_now_s", lambda: self.now_s)
            monkeypatch.setattr(module, "_sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now_s += seconds
