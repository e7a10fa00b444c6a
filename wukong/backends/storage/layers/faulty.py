"""Faults on demand in any store: a plug-in around another one, for tests and benchmarks.

    {"name": "faulty", "store": "local", "seed": 7, "latency_s": 0.001, "error_after": 0.05, "lost": 0.01}

What goes wrong with the n-th call of a verb is a pure function of the seed, the verb and n, counted from 0 for every
object that opens the store. So one client sees the same faults each time, and every process the same ones as every
other, unless `by_process` is set. Every kind draws a number of its own in a fixed order: turning one kind on leaves
the others where they were.

Losses are real. A mark replaces a lost value; everyone who opens the store through `Faulty` takes it for a missing
value, until somebody writes the value again. A lost record is deleted. With stale reads, `put` keeps the value that it
replaces under another key.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from random import Random
from typing import Any, NoReturn

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Outcome, Store, blob_size
from wukong.backends.storage.layers.layer import Layer, nested, opened
from wukong.errors import ConfigError, StoreFull, StoreUnavailable

__all__ = ["Faulty", "StoreFault", "StoreFaults"]

BACKEND = "storage: faulty"
_VERBS = ("get", "put", "delete", "wait", "incr")
_PROBABILITIES = ("error_before", "error_after", "full", "lost", "lost_record", "stale")
_LOST = bytes.fromhex("08d83ddb6a75a2a53d1ceb8b22d6c950")
_BEFORE = b"~before"
_PAUSE_S = (0.001, 0.05)
_now_s: Callable[[], float] = time.monotonic
_sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class StoreFault:
    """The fault of one call.

    Attributes:
        error: it fails with `StoreUnavailable` ``before`` or ``after`` it has had its effect.
        full: it fails with `StoreFull`, without effect.
        latency_s: it takes this much longer, seconds.
        strikes: returns a number from 0 to 1 for each of the call's keys in turn; a fault strikes the key if its
            probability is higher.
    """

    error: str | None
    full: bool
    latency_s: float
    strikes: Callable[[], float]


@dataclass(frozen=True, slots=True)
class StoreFaults:
    """A seeded script of faults; the fields are `Faulty`'s options. Raises `ConfigError` for invalid values."""

    seed: int = 0
    latency_s: float = 0.0
    latency_jitter_s: float = 0.0
    bandwidth_bytes_per_s: float | None = None
    error_before: float = 0.0
    error_after: float = 0.0
    full: float = 0.0
    lost: float = 0.0
    lost_record: float = 0.0
    stale: float = 0.0
    only: Sequence[str] | None = None
    matching: str | None = None
    by_process: bool = False

    def __post_init__(self) -> None:
        for name in _PROBABILITIES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise _wrong(name, getattr(self, name), "a probability, from 0 to 1")
        if self.error_before + self.error_after > 1.0:
            raise ConfigError("error_before and error_after add up to more than 1", backend=BACKEND)
        for name in ("latency_s", "latency_jitter_s"):
            if not getattr(self, name) >= 0.0:
                raise _wrong(name, getattr(self, name), "a time in seconds, not negative")
        if self.bandwidth_bytes_per_s is not None and not self.bandwidth_bytes_per_s > 0.0:
            raise _wrong("bandwidth_bytes_per_s", self.bandwidth_bytes_per_s, "a rate above 0, or null for no limit")
        if isinstance(self.only, str) or not set(self.only or ()) <= set(_VERBS):
            raise _wrong("only", self.only, f"a list of verbs from {', '.join(_VERBS)}, or null for all")
        if self.matching is not None:
            try:
                re.compile(self.matching.encode())
            except re.error as error:
                raise _wrong("matching", self.matching, f"a regular expression ({error})") from error

    @property
    def is_random(self) -> bool:
        """Whether any fault depends on chance."""
        return self.latency_jitter_s > 0.0 or any(getattr(self, name) > 0.0 for name in _PROBABILITIES)

    def fault(self, verb: str, n: int, process: int = 0) -> StoreFault:
        """Return what happens to the n-th call of a verb, counted from 0. Pure.

        Args:
            verb: ``get``, ``put``, ``delete``, ``wait`` or ``incr``.
            n: the call's number.
            process: a number of this process, if each process is to have its own faults; else 0.
        """
        if not self.is_random:
            return StoreFault(None, False, self.latency_s, _never)
        draw = Random(f"{self.seed}/{verb}/{n}/{process}").random
        late, error, full = draw(), draw(), draw()
        struck = self.only is None or verb in self.only
        kind = None
        if struck and error < self.error_before:
            kind = "before"
        elif struck and error < self.error_before + self.error_after:
            kind = "after"
        return StoreFault(
            error=kind,
            full=struck and full < self.full and verb in ("put", "incr"),
            latency_s=self.latency_s + late * self.latency_jitter_s,
            strikes=draw if struck else _never,
        )


class Faulty(Layer):
    """The store `faulty`: another store, with faults. See the module's docstring.

    Args:
        store: a plug-in's name, a URL, a mapping of name and options, or an open store. Closed with this one.
        seed: the same seed, the same faults.
        latency_s, latency_jitter_s: every call takes `latency_s` longer, plus a random time of up to
            `latency_jitter_s`, seconds.
        bandwidth_bytes_per_s: values travel at this rate, one after the other: all threads that use this object share
            its link. With `latency_s` it makes a store on this machine feel like a remote one.
        error_before, error_after: probability that a call fails with `StoreUnavailable`, before or after it had its
            effect.
        full: probability that `put` or `incr` fails with `StoreFull`, without effect.
        lost: probability that a value which is put vanishes at once, together with the value before it.
        lost_record: probability that a fan-in's record vanishes after an arrival.
        stale: probability that `get` returns what was there before the last `put`: the value before, or nothing.
        only: the verbs that errors and losses strike; None: all. Latency is for all.
        matching: a regular expression; errors and losses strike only calls and keys in which it is found.
        by_process: give every process faults of its own, different each time.

    Raises `ConfigError` for invalid values, and whatever `store` raises when it is opened.
    """

    def __init__(
        self,
        store: str | Mapping[str, Any] | Store,
        *,
        seed: int = 0,
        latency_s: float = 0.0,
        latency_jitter_s: float = 0.0,
        bandwidth_bytes_per_s: float | None = None,
        error_before: float = 0.0,
        error_after: float = 0.0,
        full: float = 0.0,
        lost: float = 0.0,
        lost_record: float = 0.0,
        stale: float = 0.0,
        only: Sequence[str] | None = None,
        matching: str | None = None,
        by_process: bool = False,
    ) -> None:
        self.faults = StoreFaults(
            seed=seed,
            latency_s=latency_s,
            latency_jitter_s=latency_jitter_s,
            bandwidth_bytes_per_s=bandwidth_bytes_per_s,
            error_before=error_before,
            error_after=error_after,
            full=full,
            lost=lost,
            lost_record=lost_record,
            stale=stale,
            only=None if only is None else list(only) if not isinstance(only, str) else only,
            matching=matching,
            by_process=by_process,
        )
        self._matching = None if matching is None else re.compile(matching.encode())
        self._counts = {verb: count() for verb in _VERBS}
        self._link_lock = threading.Lock()
        self._link_free_s = 0.0
        super().__init__(opened(store))
        mine = self.inner.capabilities
        self.capabilities = replace(
            mine,
            round_trip_s=mine.round_trip_s + latency_s + latency_jitter_s / 2,
            bandwidth_bytes_per_s=min(mine.bandwidth_bytes_per_s, bandwidth_bytes_per_s or mine.bandwidth_bytes_per_s),
        )

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`."""
        fault = self._begin("get", keys)
        values = [None if value == _LOST else value for value in self.inner.get(keys)]
        if self.faults.stale:
            struck = [n for n, key in enumerate(keys) if self._strikes(fault, self.faults.stale, key)]
            before = self.inner.get([keys[n] + _BEFORE for n in struck])
            for n, value in zip(struck, before, strict=True):
                if value is not None:
                    values[n] = None if value == _LOST else value
        self._travel(_size(values))
        self._end("get", fault)
        return values

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`."""
        fault = self._begin("put", items)
        self._travel(_size(items.values()))
        if self.faults.stale:
            before = zip(items, self.inner.get(list(items)), strict=True)
            self.inner.put({key + _BEFORE: _LOST if value is None else value for key, value in before}, ttl_s)
        if self.faults.lost:
            lost = [key for key in items if self._strikes(fault, self.faults.lost, key)]
            items = {**items, **dict.fromkeys(lost, _LOST)}
        self.inner.put(items, ttl_s)
        self._end("put", fault)

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`."""
        fault = self._begin("delete", keys)
        self.inner.delete(self._with_kept(keys))
        self._end("delete", fault)

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`. A lost value counts as missing."""
        until_s = _now_s() + timeout_s
        fault = self._begin("wait", (key,))
        pause_s = _PAUSE_S[0]
        value = self.inner.wait(key, max(0.0, until_s - _now_s()))
        while value == _LOST:
            left_s = until_s - _now_s()
            if left_s <= 0:
                value = None
                break
            _sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _PAUSE_S[1])
            value = self.inner.wait(key, max(0.0, until_s - _now_s()))
        self._travel(_size([value]))
        self._end("wait", fault)
        return value

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """See `Store.incr`. If one call has two arrivals at a record that vanishes, both have their effect first."""
        records = [arrival.record for arrival in arrivals]
        fault = self._begin("incr", records)
        self._travel(_size(arrival.value for arrival in arrivals))
        outcomes = self.inner.incr(arrivals, ttl_s)
        if self.faults.lost_record:
            lost = [key for key in records if self._strikes(fault, self.faults.lost_record, key)]
            there = self.inner.get(lost)  # `delete` would take a value of the same name too, which is not lost
            self.inner.delete([key for key, value in zip(lost, there, strict=True) if value is None])
        self._travel(sum(len(value) for outcome in outcomes for value in outcome.values))
        self._end("incr", fault)
        return outcomes

    def scan(self, prefix: bytes) -> Mapping[bytes, int]:
        """See `Store.scan`. Has no faults. Lists lost values too: they have to be deleted like the rest."""
        found: dict[bytes, int] = {}
        for key, size_bytes in self.inner.scan(prefix).items():
            key = key.removesuffix(_BEFORE) if self.faults.stale else key
            found[key] = max(size_bytes, found.get(key, 0))
        return found

    def take(self, keys: Sequence[bytes], begin: bytes, most_bytes: int) -> list[bytes | None]:
        """See `Store.take`. Has the faults of `delete`."""
        fault = self._begin("delete", keys)
        taken = self.inner.take(self._with_kept(keys), begin, most_bytes)[: len(keys)]
        self._end("delete", fault)
        return taken

    def spec(self) -> PluginSpec:
        """See `Store.spec`."""
        options = {"store": nested(self.inner.spec()), **asdict(self.faults)}
        return PluginSpec(f"{__name__}:{type(self).__name__}", options)

    def _begin(self, verb: str, keys: Iterable[bytes]) -> StoreFault:
        """Count the call, wait for its latency, and raise the error that comes before its effect."""
        process = os.getpid() if self.faults.by_process else 0
        fault = self.faults.fault(verb, next(self._counts[verb]), process)
        if (fault.error or fault.full) and not any(map(self._matches, keys)):
            fault = replace(fault, error=None, full=False)
        if fault.latency_s:
            _sleep(fault.latency_s)
        if fault.error == "before":
            self._fail(verb, "before it did anything")
        if fault.full:
            raise StoreFull(f"{verb} found the store full, as asked for by 'full'", backend=BACKEND)
        return fault

    def _end(self, verb: str, fault: StoreFault) -> None:
        if fault.error == "after":
            self._fail(verb, "after it was done")

    def _fail(self, verb: str, when: str) -> NoReturn:
        raise StoreUnavailable(f"{verb} failed {when}, as asked for by 'error_{when.split()[0]}'", backend=BACKEND)

    def _matches(self, key: bytes) -> bool:
        return self._matching is None or self._matching.search(key) is not None

    def _strikes(self, fault: StoreFault, probability: float, key: bytes) -> bool:
        return fault.strikes() < probability and self._matches(key)

    def _with_kept(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        return [*keys, *(key + _BEFORE for key in keys)] if self.faults.stale else keys

    def _travel(self, size_bytes: int) -> None:
        """Wait while `size_bytes` travel, after the bytes that are on the link already."""
        rate = self.faults.bandwidth_bytes_per_s
        if rate is None or not size_bytes:
            return
        now_s = _now_s()
        with self._link_lock:
            self._link_free_s = max(self._link_free_s, now_s) + size_bytes / rate
            free_s = self._link_free_s
        _sleep(free_s - now_s)


def _never() -> float:
    return 1.0


def _size(blobs: Iterable[Blob | None]) -> int:
    return sum(blob_size(blob) for blob in blobs if blob is not None)


def _wrong(name: str, value: object, what: str) -> ConfigError:
    return ConfigError(f"{name} is {value!r}; it is {what}", backend=BACKEND)
