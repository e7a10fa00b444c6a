"""What goes wrong in one simulated job: how often each kind of fault may strike, and when, from a seed.

crash      an executor dies between two of its effects, inside its watcher as well
retry      the platform delivers the invocation of an executor that died again, by itself
duplicate  an invocation is delivered twice     lose    not at all
delay      it is delivered late, perhaps after the job has ended
cut off    an executor's heartbeats do not come through: it is taken for dead, and is alive
stale      a reader does not see a value, or the number of earlier offloads, that is there
forget     the store loses a value              record  the store loses a fan-in's record
shard      one of the store's servers starts again empty: a third of all keys is lost at once
error      a store operation fails before or after it took effect, and is repeated
client     the client dies, and another takes the job over later
cancel     the client cancels the job           task    a task raises, each time it is run
limit      the platform ends whatever runs for longer than it allows
"""

from __future__ import annotations

from collections import Counter
from random import Random

__all__ = ["KINDS", "SimulatedFaults"]

_RATES = {
    "crash": 0.03,
    "retry": 0.3,
    "duplicate": 0.3,
    "lose": 0.3,
    "delay": 0.3,
    "cut off": 0.2,
    "stale": 0.2,
    "forget": 0.03,
    "record": 0.03,
    "error": 0.1,
    "client": 0.03,
    "cancel": 0.02,
    "task": 0.2,
    "limit": 0.2,
    "shard": 0.01,
}
KINDS = tuple(kind for kind in _RATES if kind != "shard")
_SHARD = 0.1


class SimulatedFaults:
    """The faults of one run.

    Attributes:
        left: how many more of each kind may strike.
        struck: how many have.
        quiet: nothing goes wrong any more.
    """

    def __init__(self, seed: int, kinds: tuple[str, ...] | None = None, most: int = 3) -> None:
        self.kinds, self.most = kinds, most
        self.rng = rng = Random(f"faults of {seed}")
        if kinds is None:
            kinds = tuple(rng.sample(KINDS, rng.choice((0, 1, 1, 2, 2, 3, 4, 6))))
            if "cancel" in kinds and rng.random() < 0.7:  # most jobs shall come to their end
                kinds = tuple(kind for kind in kinds if kind != "cancel")
            if Random(f"servers of {seed}").random() < _SHARD:
                kinds += ("shard",)
        self.left = Counter({kind: rng.randint(1, most) for kind in kinds if kind != "shard"})
        if "shard" in kinds:  # random numbers of its own, so that the other faults of a seed stay what they were
            self.left["shard"] = Random(f"servers lost in {seed}").randint(1, most)
        self.struck: Counter[str] = Counter()
        self.quiet = False
        self.pace = rng.choice((0.3, 1.0, 3.0, 6.0))

    def strikes(self, kind: str) -> bool:
        """Whether a fault of this kind strikes here and now."""
        if not self.left[kind] or self.rng.random() >= _RATES[kind] * self.pace:
            return False
        self.left[kind] -= 1
        self.struck[kind] += 1
        return True

    def calm(self) -> None:
        """From now on nothing goes wrong."""
        self.left.clear()
        self.quiet = True

    def __str__(self) -> str:
        return f"left: {dict(self.left)}, struck: {dict(self.struck)}"
