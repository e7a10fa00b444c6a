"""A run as a list of choices: what takes the place of the random source and of the faults' script.

`wukong.testing.exhaustive` goes through all lists: the one after a given one differs in its last choice that has an
option left, and takes the first option ever after (depth first).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any, TypeAlias, TypeVar

from wukong.testing.faults import SimulatedFaults

__all__ = ["KINDS", "Budget", "Calm", "Choice", "Chooser", "Chosen"]

KINDS = ("crash", "retry", "duplicate", "lose", "delay", "cut off", "stale", "forget", "record", "error")

T = TypeVar("T")
Choice: TypeAlias = tuple[int, Sequence[Any]]
"""Which option was taken, and what there was to choose from."""


class Chooser:
    """Takes each choice: first those that are given, then always the first option.

    Attributes:
        taken: each choice so far, and what there was to choose from.
    """

    def __init__(self, given: Sequence[Choice] = ()) -> None:
        self.given = given
        self.taken: list[Choice] = []

    @property
    def new(self) -> bool:
        """Whether all given choices are taken."""
        return len(self.taken) >= len(self.given)

    def choose(self, n: int) -> int:
        """Return one of ``range(n)``."""
        return self.pick(lambda: range(n)) if n > 1 else 0

    def pick(self, options: Callable[[], Sequence[T]]) -> T:
        """Return one of these; they are not asked for if the choice is given."""
        at = len(self.taken)
        self.taken.append(self.given[at] if at < len(self.given) else (0, options()))
        choice, known = self.taken[-1]
        taken: T = (known or options())[choice]
        return taken

    def following(self) -> list[Choice] | None:
        """Return the choices of the run to come after this one; None: there is none."""
        taken = list(self.taken)
        while taken:
            last, options = taken.pop()
            if last + 1 < len(options):
                return [*taken, (last + 1, options)]
        return None


class Calm(Random):
    """In place of a random source that only decides what is not explored."""

    def random(self) -> float:
        return 1.0

    def choice(self, seq: Sequence[T]) -> T:  # type: ignore[override]
        return seq[0]


class Chosen(Calm):
    """In place of the platform's: whether an operation that raised took effect, and the order of a batch."""

    def __init__(self, chooser: Chooser) -> None:
        super().__init__()
        self.chooser = chooser

    def random(self) -> float:
        return float(self.chooser.choose(2))

    def shuffle(self, x: Any) -> None:
        for at in range(len(x) - 1):
            taken = at + self.chooser.choose(len(x) - at)
            x[at], x[taken] = x[taken], x[at]


class Budget(SimulatedFaults):
    """Up to n faults in all, each at every place at which it can strike."""

    def __init__(self, chooser: Chooser, kinds: Collection[str], most: int) -> None:
        super().__init__(0, ())
        self.chooser, self.allowed, self.n_left = chooser, frozenset(kinds), most

    def may(self, kind: str) -> bool:
        """Whether a fault of this kind can strike."""
        return self.n_left > 0 and kind in self.allowed

    def strike(self, kind: str) -> None:
        """One strikes."""
        self.n_left -= 1
        self.struck[kind] += 1

    def strikes(self, kind: str) -> bool:
        """Whether one strikes here and now: both are explored."""
        struck = self.may(kind) and self.chooser.choose(2) == 1
        if struck:
            self.strike(kind)
        return struck

    def calm(self) -> None:
        """From now on nothing goes wrong."""
        self.n_left, self.quiet = 0, True
