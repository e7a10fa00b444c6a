"""A job's invocations as the store describes them: a tree, since each may have made others.

    a/0, e/0, h/0     how often "0" was made again, its end report, its heartbeat
    n/0    -> 2       so there are "0.0" and "0.1"; records of invocations beyond that number count too
    n/0~1  -> 1       and "0~1.0", which its second attempt has made

A store may lose any of these records: a server that starts again empty takes its share of all keys with it. So the
tree remembers what it has once seen. The keys are those of `wukong.core.names`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from wukong.core.codec import Codec
from wukong.core.dag import Limits
from wukong.core.events import End, Heartbeat
from wukong.core.names import Names
from wukong.core.storage import StorePort


@dataclass(slots=True)
class InvocationState:
    """What the store says of one invocation.

    Attributes:
        end: the end report that was written last; None: there is none. beat: its last heartbeat; None: there was none.
        attempts: how often the client has made it again.
        shares: a run of it has stored what other executors need, or is about to.
        since: the first attempt whose end counts: what earlier ones have arrived at is gone, or their page was missing.
        parked: it waits for a seat of a limit, and nobody has made it yet (`wukong.core.parked`).
    """

    invocation: str
    end: End | None
    beat: Heartbeat | None
    attempts: int
    shares: bool = False
    since: int = 0
    parked: bool = False

    @property
    def ended(self) -> bool:
        """Whether a run has ended whose end counts. An earlier one may report after everything began anew."""
        return self.end is not None and self.end.attempt >= self.since


class InvocationTree:
    """See the module's docstring.

    Args:
        names, store, codec: the job's.
        roots: its first invocations.
        clock: seconds.

    Attributes:
        first_seen: when each invocation was first seen, by `clock`; of one that was parked, or made again: when it was
            made last.
        heard_at: when the last sign of life of each was first seen, seconds of Unix time.
        attempts: how often each was made again, as far as is known here; the watch counts up what it makes again.
        made: how many invocations each attempt has made. shared: invocations with a run that shares.
        since: see `InvocationState`. parked: the limits of each invocation that is parked, as far as is known here.
        gone: those whose record is lost, so that their makers have made others instead.
    """

    def __init__(
        self, names: Names, store: StorePort, codec: Codec, roots: Sequence[str], clock: Callable[[], float]
    ) -> None:
        self._names, self._store, self._codec, self._roots, self._clock = names, store, codec, roots, clock
        self.first_seen = dict.fromkeys(roots, clock())
        self.heard_at: dict[str, float] = {}
        self._heard: dict[str, _Heard] = {}
        self.attempts: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self.shared: set[str] = set()
        self.since: dict[str, int] = {}
        self.parked: dict[str, Limits] = {}
        self.gone: set[str] = set()

    def states(self) -> Iterator[InvocationState]:
        """Look at all invocations, and yield the state of each, level by level from the roots."""
        names, level = self._names, list(self._roots)
        while level:
            keys = [f(each) for each in level for f in (names.attempts, names.end, names.heartbeat)]
            values = self.decoded(keys)
            again, ends, beats = values[0::3], values[1::3], values[2::3]
            attempts = [max(n or 0, self.attempts[each]) for each, n in zip(level, again, strict=True)]
            self.attempts.update({each: n - self.attempts[each] for each, n in zip(level, attempts, strict=True)})
            found = [InvocationState(*each) for each in zip(level, ends, beats, attempts, strict=True)]
            now = time.time()
            for each in found:
                self.first_seen.setdefault(each.invocation, self._clock())
                heard, sign = self._heard.get(each.invocation), _sign(each)
                if sign is not None and (heard is None or heard.sign != sign):
                    self._heard[each.invocation] = _Heard(sign, self._clock(), each.beat)
                    self.heard_at[each.invocation] = now
            attempted = [
                (each, names.attempt_id(each.invocation, n)) for each in found for n in range(each.attempts + 1)
            ]
            labels = [label for _, label in attempted]
            counts = self.decoded([names.n_offloads(label) for label in labels])
            self.shared.update(each.invocation for (each, _), n in zip(attempted, counts, strict=True) if n is not None)
            for each in found:
                each.shares, each.since = each.invocation in self.shared, self.since.get(each.invocation, 0)
                each.parked = each.invocation in self.parked
            yield from found
            made = [max(n or 0, self.made[label]) for label, n in zip(labels, counts, strict=True)]
            probed = list(range(len(labels)))
            while probed:
                # Two runs of one attempt may write this number, the smaller one last. So look for records beyond it.
                records = self._store.get([names.invocation(f"{labels[i]}.{made[i]}") for i in probed])
                probed = [i for i, record in zip(probed, records, strict=True) if record is not None]
                for i in probed:
                    made[i] += 1
            self.made.update({label: n - self.made[label] for label, n in zip(labels, made, strict=True)})
            level = [f"{label}.{k}" for label, n in zip(labels, made, strict=True) for k in range(n)]

    def made_now(self, invocation: str) -> Limits | None:
        """Note that one that may be parked is made; return its limits, if it was parked. Its time begins now."""
        limits = self.parked.pop(invocation, None)
        if limits is not None:
            self.first_seen[invocation] = self._clock()
        return limits

    def made_again(self, invocation: str) -> None:
        """Note that an invocation is made once more: what was heard of it is of an earlier run."""
        self.first_seen[invocation] = self._clock()
        self._heard.pop(invocation, None)

    def silent(self, invocation: str) -> bool:
        """Return whether nothing was heard of it since it was made."""
        return invocation not in self._heard

    def last_beat(self, invocation: str) -> Heartbeat | None:
        """Return the last heartbeat that was seen since it was made, though the store may have lost it."""
        heard = self._heard.get(invocation)
        return None if heard is None else heard.beat

    def age_s(self, invocation: str, now: float | None = None) -> float:
        """Return for how long it has been known. `now`: by `clock`; None: now."""
        now = self._clock() if now is None else now
        return max(0.0, now - self.first_seen.get(invocation, now))

    def quiet_s(self, invocation: str, beat: Heartbeat, now: float | None = None) -> float:
        """Return for how long this has been its last heartbeat, by the clock here: others' clocks may be wrong."""
        heard = self._heard.get(invocation)
        if heard is None or heard.beat is None or heard.beat.at != beat.at:
            return 0.0  # it has come since the last look
        return max(0.0, (self._clock() if now is None else now) - heard.since)

    def lasted_s(self, invocation: str) -> float:
        """Return how long after it was made its last sign of life was seen."""
        heard = self._heard.get(invocation)
        return 0.0 if heard is None else max(0.0, heard.since - self.first_seen.get(invocation, heard.since))

    def decoded(self, keys: Sequence[bytes]) -> list:  # type: ignore[type-arg]
        """Return the decoded value of each key; None if there is none."""
        blobs = self._store.get(keys)
        return [None if blob is None else self._codec.decode(blob, key) for key, blob in zip(keys, blobs, strict=True)]


@dataclass(frozen=True, slots=True)
class _Heard:
    """A sign of life: what tells it from others, when it was first seen, by the tree's clock, and the heartbeat."""

    sign: float
    since: float
    beat: Heartbeat | None


def _sign(state: InvocationState) -> float | None:
    """What changes with each sign of life; None: there was none."""
    if state.end is not None and state.end.track is not None:
        return state.end.track.unix_s
    return None if state.beat is None else state.beat.at
