"""The base of all layers: a store around a store, which hands every call on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TypeAlias, TypeVar

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Capabilities, Outcome, Rent, Spent, Store, Tell
from wukong.errors import ConfigError

__all__ = [
    "Choice",
    "Layer",
    "environments",
    "nested",
    "opened",
    "rent_of_all",
    "spent_on_all",
    "start_all",
    "within",
]

Choice: TypeAlias = "str | Mapping[str, Any] | Store"
"""A store as people name one (a plug-in's name, a URL, a mapping), an open one, or what `nested` makes of its spec."""

L = TypeVar("L", bound=Store)


def opened(choice: Choice) -> Store:
    """Return the store that `choice` stands for. Raises `PluginError` or `ConfigError` if it stands for none."""
    if isinstance(choice, Mapping) and "target" in choice:  # inside a function, where no plug-in is looked up by name
        store = PluginSpec(choice["target"], choice.get("options", {})).open()
        assert isinstance(store, Store)
        return store
    from wukong.backends.storage.loading import load_storage  # here, because importing it takes a cold start longer

    return load_storage(choice)


def nested(spec: PluginSpec) -> dict[str, Any]:
    """Return a spec as plain data, to travel in the options of another spec; `opened` opens it."""
    return {"target": spec.target, "options": dict(spec.options)}


def environments(stores: Iterable[Store]) -> dict[str, str]:
    """Return the environment that all of these stores need. Raises `ConfigError` if two contradict each other."""
    merged: dict[str, str] = {}
    for store in stores:
        for name, value in store.environment().items():
            if merged.setdefault(name, value) != value:
                raise ConfigError(
                    f"two stores that are used together need different values of {name} in a function's environment",
                    hint="give them the same password, or one store without",
                )
    return merged


def start_all(stores: Sequence[Store], tell: Tell) -> None:
    """Start all of these stores. If one raises, close those that have started, and raise the same."""
    with ExitStack() as begun:
        for store in stores:
            store.start(tell)
            begun.callback(store.close)
        begun.pop_all()


def rent_of_all(stores: Iterable[Store]) -> Rent | None:
    """Return what these stores cost together; None if none of them knows its cost."""
    known = [rent for store in stores if (rent := store.rent()) is not None]
    if not known:
        return None
    what, rates = (", ".join(dict.fromkeys(texts)) for texts in zip(*((r.what, r.rates) for r in known), strict=True))
    return Rent(sum(rent.usd_per_s for rent in known), what, rates)


def spent_on_all(stores: Iterable[Store]) -> Spent | None:
    """Return what requests to these stores have cost together; None if none of them costs anything."""
    known = [spent for store in stores if (spent := store.spent()) is not None]
    if not known:
        return None
    what, rates = (", ".join(dict.fromkeys(texts)) for texts in zip(*((s.what, s.rates) for s in known), strict=True))
    return Spent(sum(spent.usd for spent in known), what, rates)


def within(store: Store, kind: type[L]) -> L | None:
    """Return the outermost store of this kind among the layers and the store inside them; None if there is none."""
    while not isinstance(store, kind):
        if not isinstance(store, Layer):
            return None
        store = store.inner
    return store


class Layer(Store):
    """A store around a store. Hands every call on; a subclass overrides the calls that it changes.

    Attributes:
        inner: the store inside.
    """

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.capabilities: Capabilities = inner.capabilities

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`."""
        return self.inner.get(keys)

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`."""
        self.inner.put(items, ttl_s)

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`."""
        self.inner.delete(keys)

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`."""
        return self.inner.wait(key, timeout_s)

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """See `Store.incr`."""
        return self.inner.incr(arrivals, ttl_s)

    def take(self, keys: Sequence[bytes], begin: bytes, most_bytes: int) -> list[bytes | None]:
        """See `Store.take`. A layer may not be able to, though the store inside is."""
        return (
            self.inner.take(keys, begin, most_bytes)
            if self.capabilities.takes
            else super().take(keys, begin, most_bytes)
        )

    def scan(self, prefix: bytes) -> Mapping[bytes, int]:
        """See `Store.scan`."""
        return self.inner.scan(prefix)

    def renew(self, prefix: bytes, ttl_s: float) -> None:
        """See `Store.renew`."""
        self.inner.renew(prefix, ttl_s)

    def spec(self) -> PluginSpec:
        """Return the spec of the store inside; the process that opens it puts its own layers around it."""
        return self.inner.spec()

    def start(self, tell: Tell) -> None:
        """See `Store.start`."""
        self.inner.start(tell)

    def rent(self) -> Rent | None:
        """See `Store.rent`."""
        return self.inner.rent()

    def spent(self) -> Spent | None:
        """See `Store.spent`."""
        return self.inner.spent()

    def environment(self) -> Mapping[str, str]:
        """See `Store.environment`."""
        return self.inner.environment()

    def advice(self) -> Sequence[str]:
        """See `Store.advice`."""
        return self.inner.advice()

    def evictions(self) -> Sequence[str]:
        """See `Store.evictions`."""
        return self.inner.evictions()

    def close(self) -> None:
        """See `Store.close`."""
        self.inner.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner!r})"
