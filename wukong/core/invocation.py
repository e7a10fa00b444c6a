"""An invocation from its first line to its last, as one generator of effects around its walk.

Pure, as `wukong.core.walk` is. `Execution.run` is what a function does from its first line to its last; the function
(`wukong.core.executor`), the simulator (`wukong.testing`) and the virtual clock (`wukong.planning`) carry the same
one out:

    Now, Read      is the job wanted; what have earlier runs of this invocation handed over
       |  `- not wanted: the end
    Unpack         the user's modules, and the values that came in the payload
    Watched        the walk: it ends with `Finish`, with `Abort` if a task failed, or with neither if others go on;
       |           meanwhile a watcher carries out `beat` now and then, and `overdue` if a task takes long
    LeaveWord      the end report, for the client (`Finish` and `Abort` have written it with the outcome)
    Read, Delete   if the job is over by now, nobody will read that: delete what this run has left

What goes wrong is thrown into the generator: `Missing`, `Stopped`, or an exception that is the job's error. If the
process dies or the store does not answer at all, the generator ends at any effect, and the client invokes again.

Rule 2, idempotence, is kept here for invocations. Each time the client makes an invocation again, that is another
*attempt* at it; if the platform delivers one twice, there are two runs of one attempt. A run skips what earlier
attempts, and other runs of its own, have put on record. They write the number of their records after the records
themselves, and of two runs of one attempt the smaller number may be the one that stays. So a run looks for records
beyond that number, too.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

from wukong.core.effects import (
    Beat,
    Delete,
    Effect,
    Effects,
    Fail,
    KeepSeats,
    LeaveWord,
    Missing,
    Now,
    Read,
    Stopped,
    Unpack,
    Watched,
)
from wukong.core.ledger import Ledger
from wukong.core.names import Names
from wukong.core.policy import UNKNOWN_BYTES, Costs, margin_s
from wukong.core.walk import Walk

if TYPE_CHECKING:
    from wukong.core.payload import Order

WalkType: TypeAlias = Callable[..., Walk]


class Execution:
    """One run of an invocation.

    Args:
        order: what it was told.
        costs: what moving things costs; the interpreter keeps it up to date.
        walk: the protocol; tests of the simulator give another one than `Walk`.
        time_limit_s: how long after its first line the platform ends this run; None: it never does.
        functions, function: the platform's sizes of function, and which this is: see `wukong.core.walk.frontier`.
        room_bytes: see `wukong.core.walk.fan_out`.

    Attributes:
        walk: the walk; None until it begins.
        ledger: what this run leaves in the store.
    """

    def __init__(
        self,
        order: Order,
        costs: Costs,
        *,
        walk: WalkType = Walk,
        time_limit_s: float | None = None,
        functions: Sequence[int] = (),
        function: int = 0,
        room_bytes: int = UNKNOWN_BYTES,
    ) -> None:
        self._functions, self._function, self._room_bytes = functions, function, room_bytes
        self.order, self.costs = order, costs
        self.names = Names(order.job)
        self.ledger = Ledger()
        self.walk: Walk | None = None
        self._walk_type, self._time_limit_s = walk, time_limit_s
        self._failed = False
        self._sign: bytes | None = None
        self._sign_at = 0.0

    @property
    def margin_s(self) -> float:
        """How long before the platform ends it this executor leaves, seconds; infinite if it never ends it."""
        return inf if self._time_limit_s is None else margin_s(self._time_limit_s)

    @property
    def told(self) -> bool:
        """Whether this run has told the client the job's outcome."""
        return self._failed or (self.walk is not None and self.walk.told)

    def run(self) -> Effects:
        """Carry out the invocation, from its first effect to its last."""
        began: float = yield Now()
        try:
            walk = yield from self._begin(began)
            if walk is None:  # a late or repeated delivery: the job has ended
                return
            if self.order.attempt:
                yield from self.beat()  # so that it has begun, even if it dies at once
            yield Watched(walk.run())
        except Stopped:
            pass
        except Missing as missing:
            self.ledger.missing = missing.key
        except Exception as error:
            self._failed = True
            yield Fail(error)
        if self.told:
            yield from self.clean_up()
        else:
            yield from self.leave_word()

    def overdue(self, elapsed_s: float, now: float, waited_s: float = 0.0) -> Effects:
        """Do what the watcher does once a task has been running for `elapsed_s`, and no lane is to take the walk.

        `waited_s`: for how long of that it has waited for a core.
        """
        walk = self.walk
        assert walk is not None
        yield from walk.overdue(elapsed_s, now, waited_s)
        if walk.lanes.handed_on:  # the platform may end this at any moment: all is handed on
            yield from self.leave_word()

    def beat(self) -> Effects:
        """Look for the client's sign of life, and give one. Raises Stopped if nobody wants the job any more.

        If a later attempt has begun, this run gives no sign: the client waits for the later one's.
        """
        names, order = self.names, self.order
        sign, last = yield Read((names.alive, names.heartbeat(order.invocation)))
        now: float = yield Now()
        if not self.wanted(sign):
            raise Stopped
        if self.walk is not None and self.walk.seats.holds and (yield KeepSeats()):
            self.walk.seats.kept_at = now
        if sign != self._sign:
            self._sign, self._sign_at = sign, now
        elif now - self._sign_at > order.policy.orphan_s:
            raise Stopped
        if last is None or last.attempt <= order.attempt:
            yield Beat()

    # --- the begin

    def _begin(self, began: float) -> Generator[Effect, Any, Walk | None]:
        order, names = self.order, self.names
        ids = [names.attempt_id(order.invocation, attempt) for attempt in self.attempts()]
        alive, *counts = yield Read((names.alive, *map(names.n_offloads, ids)))
        if not self.wanted(alive):
            return None
        inline: Sequence[int] = yield Unpack()
        handed_over = yield from self.recorded(ids, counts)
        deadline = inf
        if self._time_limit_s is not None:
            deadline = began + self._time_limit_s - self.margin_s
        self.walk = self._walk_type(
            order.invocation,
            order.start,
            order.n_tasks,
            order.policy,
            self.costs,
            inline=inline,
            alone=order.alone,
            limited=order.limited,
            offloaded=frozenset(task for made in handed_over for each in made if each for task in each.start),
            n_offloads=len(handed_over[-1]),
            stream=order.stream,
            attempt_id=ids[-1],
            replay=order.attempt > 0,
            deadline=deadline,
            ledger=self.ledger,
            lanes=1 if order.attempt or order.policy.lanes == "auto" else order.policy.lanes,
            functions=self._functions,
            function=self._function,
            room_bytes=self._room_bytes,
            overlap=order.policy.overlap == "on" and not order.attempt,
        )
        return self.walk

    def attempts(self) -> range:
        """The numbers of the attempts whose hand-overs count: all up to this one, which is the last."""
        return range(self.order.attempt + 1)

    def wanted(self, alive: bytes | None) -> bool:
        """Return whether the job is wanted, as the client's sign of life tells."""
        return alive is not None

    def recorded(
        self, ids: Sequence[str], counts: Sequence[int | None]
    ) -> Generator[Effect, Any, list[list[Order | None]]]:
        """Read the orders that these attempts have put on record, by attempt; None for one that is gone.

        `counts`: how many each of them says there are. Records beyond that number count, too.
        """
        found: list[list[Order | None]] = [[] for _ in ids]
        ends = {i: max(n, 1) for i, n in enumerate(counts) if n is not None}
        while ends:
            wanted = [(i, k) for i, end in ends.items() for k in range(len(found[i]), end)]
            keys = tuple(self.names.invocation(f"{ids[i]}.{k}") for i, k in wanted)
            for (i, k), order in zip(wanted, (yield Read(keys)), strict=True):
                if order is None and k >= (counts[i] or 0):
                    del ends[i]
                else:
                    found[i].append(order)
                    ends[i] = k + 2
        return found

    # --- the end

    def leave_word(self) -> Effects:
        """Write the end report. If the job is over, nobody will read it: then leave nothing at all."""
        yield LeaveWord()
        yield from self.clean_up()

    def clean_up(self) -> Effects:
        """Delete what this run has written, if the client has cleaned up already.

        The client deletes only what is reported by then; if it keeps values for another job, their keys are left (see
        `wukong.core.remains`). Call this after the last write: whoever comes second, this run or the client, sees what
        the other has written.
        """
        names, order, ledger = self.names, self.order, self.ledger
        if self.wanted((yield Read((names.alive,)))[0]):
            return
        held = order.policy.resume_jobs > 0 and (yield Read((names.held,)))[0] is not None
        attempt_id = names.attempt_id(order.invocation, order.attempt)
        keys = [f(order.invocation) for f in (names.invocation, names.end, names.heartbeat)]
        keys += [names.done, names.n_offloads(attempt_id), *ledger.keys(names, kept=order.kept, held=held)]
        below = list(ledger.made)
        while below:  # whoever made something deletes last, and nobody else would find it any more
            keys += [f(made) for made in below for f in (names.invocation, names.end, names.heartbeat, names.attempts)]
            ids = yield from self.attempts_at(below)
            counts = tuple(map(names.n_offloads, ids))
            keys += counts
            made = yield from self.recorded(ids, (yield Read(counts)))
            below = [f"{made_by}.{k}" for made_by, orders in zip(ids, made, strict=True) for k in range(len(orders))]
        yield Delete(tuple(keys))

    def attempts_at(self, invocations: Sequence[str]) -> Generator[Effect, Any, list[str]]:
        """Return the ids of all attempts at these invocations, as the client has counted them in the store."""
        again = yield Read(tuple(map(self.names.attempts, invocations)))
        return [
            self.names.attempt_id(invocation, attempt)
            for invocation, n in zip(invocations, again, strict=True)
            for attempt in range((n or 0) + 1)
        ]
