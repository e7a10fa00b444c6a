"""How many lanes pay, from how much the running lanes want a core (``lanes: auto``).

    what the tasks do                       lanes
    sleep, or wait for a network            up to `MOST_WAITING`: a lane is far cheaper than a function
    compute, at the same time               twice as many, up to the cores that there are
    compute, and wait for each other        one (the interpreter's lock); the rest is for other executors

Pure: rates in, a number out. A rate says how much of a core a lane has had, or would have taken. On a machine that is
busy with other things lanes get little of the cores, too. But those that wait for each other give their core up
again and again: 380 to 1,300 times in each second of CPU time that they have; others 0 to 280 times, for memory too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

_LEAST_S, _MOST_S, _MANY = 0.01, 0.05, 6
MOST_WAITING = 16
WAITS = 0.1
_FULL, _TOGETHER, _YIELDS = 0.8, 0.6, 300.0
_LANE_S, _TRIED_S, _TRIES_S = 0.002, 0.02, 0.1


def telling(cores: float, had_s: float, yields: int) -> bool:
    """Whether it can be said of tasks that ran at once if they wait for each other.

    They had `cores` together, and so `had_s` seconds of CPU time, and gave up a core so often. Two times say nothing: a
    busy machine takes it away now and then, too.
    """
    return had_s >= _LEAST_S and (cores >= 1 + _TOGETHER or yields >= _MANY or had_s >= _MOST_S)


@dataclass(frozen=True, slots=True)
class Together:
    """What tasks that ran at once have had of the cores together, and how often they gave one up, a second of that.

    `of`: one task of each kind that ran at first and in the end. `only`: others did neither.
    """

    cores: float
    yields: float
    of: Mapping[str, int] = field(default_factory=dict)
    only: bool = True


class Width:
    """How many lanes one executor has.

    Args:
        cores: those of the function.

    Attributes:
        most: how many tasks may run at once.
        locked: tasks that computed at once last have waited for each other.
        parallel: they have not. kinds: of which kinds they were.
        n_waiting: how many tasks did not compute at the last look. slept: at some look one did not.
        unsure: tasks computed at once at the last look, and it is not known yet whether they wait for each other.
        held: by kind, as far as known: one task of it, and whether tasks of it have waited for each other.
    """

    def __init__(self, cores: int) -> None:
        self.cores = max(1, cores)
        self.most = 1
        self.locked = self.parallel = self.unsure = self.slept = False
        self.n_waiting = 0
        self.kinds: set[str] = set()
        self.held: dict[str, tuple[int, bool]] = {}
        self._noted: Together | None = None

    def may_use(self, n_ready: int, used: int, idle: int, kind: str | None = None) -> int:
        """Return on how many cores besides the function's its lanes may compute; they do on `used`, nobody on `idle`.

        `kind`: of the task that is next; None: all are of one. A task cannot leave its lane. So as long as nobody knows
        whether tasks wait for each other, that is tried only if more are ready than others have cores for: if they do
        wait, others lose nothing.
        """
        parallel = self.parallel and (kind is None or kind in self.kinds)
        if self.locked or (not parallel and n_ready <= idle):
            return used
        return used + max(0, idle)

    def at_once(self, n_running: int) -> int:
        """Return how many of so many tasks compute at once, by the last look; none does so alone."""
        n = n_running - self.n_waiting
        return n_running if self.unsure else n if n > 1 else 0

    def look(
        self, rates: Sequence[float], together: Together | None = None, more: int = 0, kinds: Iterable[str] = ()
    ) -> int:
        """Take in what the running lanes have had since the last look, one rate each. Returns `most`.

        `together`: what those have had that ran at once; None: not known yet. `more`: cores of this machine that the
        executor may use besides the function's own. `kinds`: of the running tasks.
        """
        computing = [rate for rate in rates if rate >= WAITS]
        n, self.n_waiting = len(computing), len(rates) - len(computing)
        self.slept = self.slept or self.n_waiting > 0
        self.unsure = n > 1 and together is None and not self.locked
        if not n:
            self.most = MOST_WAITING
            return self.most
        cores = self.cores + max(0, more)
        if n > 1 and together is not None:
            together_less = together.cores < 1 + _TOGETHER * (min(n, max(2, cores)) - 1)
            self.locked = together_less and together.yields >= _YIELDS
            self.parallel = not self.locked
            (self.kinds.difference_update if self.locked else self.kinds.update)(kinds)
            if together is not self._noted:
                self._noted = together
                self._note(together)
        grows = not self.unsure and (more > 0 or sum(computing) >= _FULL * n)
        wanted = 1 if self.locked else 2 * n if grows else n
        self.most = min(cores, wanted) + self.n_waiting
        return self.most

    def _note(self, together: Together) -> None:
        """If tasks of several kinds wait for each other, all of them hold the lock; if not, one kind of them may."""
        if self.locked or (together.only and len(together.of) == 1):
            self.held.update((kind, (task, self.locked)) for kind, task in together.of.items())

    def wants(self, beyond: int, n_ran: int, lived_s: float, had_s: float) -> int:
        """Return how many of the cores that the executor may use `beyond` its own are for its lanes, not for others.

        All, unless its tasks sleep, wait for each other, or are too short for lanes. It is tried for a while, if tasks
        have computed at once, for good. `n_ran`: how many tasks have run. `lived_s`, `had_s`: for how long the executor
        has run, and how much CPU time it has had, seconds.
        """
        tried = not self.parallel and had_s > (_TRIES_S if self.unsure else _TRIED_S)
        if self.locked or self.n_waiting or lived_s < _LANE_S * n_ran or tried:
            return 0
        return max(0, beyond)
