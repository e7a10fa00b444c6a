"""The dynamic scheduling protocol: one executor's walk over the DAG, as a generator of effects.

Pure: no clock, thread, socket or random source. `Walk.run` yields effects (`wukong.core.effects`); the interpreter
carries them out and sends the answers back in; times arrive as answers. `Walk.overdue` yields effects too, for a
watcher. The watcher calls it only while a `Run` of `run` is under way, and finishes it before that `Run` is answered.

              start tasks          a child whose parents are all here: no I/O
                   |                          |
                   v                          v
    ready  --pop-> Run --value--> out: chain -> ready
      ^ |                          `-> fan-in -> pending --publish--> Incr -> claimed -> ready
      | `--split--> Record, Invoke                  ^  |                 `-> somebody else's
      |                                             |  `-- large value: held (only_if_last, delayed I/O)
      `---------------------------------------------'

Rules:

1. Write before you tell: a value is stored, or rides in the arrival itself, before that arrival is recorded.
2. All is idempotent under the invocation's id. What was handed over is on record before it is invoked, and a re-run
   skips it. A fan-in's record is a set, and a claim is bound to the first of the members that were brought together
   (`wukong.core.effects.claimant`), so that an executor which does that work again is told "yes, you" again.
3. Never wait longer than acting would cost: patience for ready tasks and pending arrivals, a budget for held values.
4. An executor that is *alone* (nothing was ever handed over) owns the whole DAG, never publishes, and pays no I/O.

States of a task in this executor, and what moves it (most tasks of the DAG are in none):

    state       where it shows                     comes to it by                            leaves it by
    ready       in `ready`                         start; its last parent runs here; claim   pop; hand over
    running     `running` are its inputs           pop                                       the answer of `Run`
    awaited     `awaited[v]` ready tasks need its  a claim, or a start with inline values,   Get: cached; hand over of
                value, which is not here           that needs it                             all who need it: none
    cached      `uses[v]` ready tasks and pending  it has run; Get; it came inline or rode   the last use: dropped;
                arrivals need its value            in with a claim                           release of the last one
    stored      in `stored`: cached, and in the    Put; Get                                  (stays)
                store too
    handed over none                               hand over (on record, then invoked)       -
    handed on   `handed_on`                        leaving, while it runs here               its value here is dropped

States of a fan-in in this executor:

    state       where it shows                     comes to it by                            leaves it by
    pending     `pending`, `of`: what we bring     a first input of several has run here     all inputs ran here: ready
    due         pending and in `due`               pending at two checks, `patience` apart   publication
    held        pending and in `held`: our large   an arrival only-if-last that was not the  claim; giving way or up
                input stays, noted not recorded    last (clustering, delayed I/O)            (stored, published); ready
    claimed     in `claimed`, then ready           the answer "yes, you"                     (stays: it is taken once)
    arrived     none                               publication of which we were not the last -

The sink is a fan-in that never gets ready: complete here, or claimed, it is `finished`. `validate` checks all this.

The papers' terms (SoCC '20, sections 4.1 and 4.2; the optimisations in the rest of section 4), and what differs here:

    static schedule   named by its leaf, not copied: an executor walks pages of one DAG (`wukong.core.partition`), since
                      schedules overlap, so that copies would be quadratic.
    become, invoke    the paper's executor runs one child of a fan-out and invokes an executor for each other one; here
                      (`_split`) the others stay until keeping them would cost more. ``eager``: as in the paper.
    fan-in counter    counts arrivals; here the record is a set, since a retried arrival would count twice. The paper's
                      executors arrive one by one; here all that is due goes in one round trip, small values with it.
    task clustering   the ready children of a large output run where it is; here too (`_movable`), and the fan-ins of
                      a large value come to it (only-if-last).
    delayed I/O       a large value is held while its fan-in is incomplete. Here that costs nothing while there is other
                      work; without any, it is held for as long as storing it takes; of two holders who wait for each
                      other, one gives way.
    proxy             invokes large fan-outs (`wukong.proxy`); here the sender makes what the proxy has not accepted.

This is one long module because it is one state and the rules that keep it consistent: fan-in, fan-out, recovery and
hand-over all read and write `ready`, `pending` and `uses`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Sequence
from math import inf
from typing import Any

from wukong.core.dag import Out
from wukong.core.effects import (
    Abort,
    Arrive,
    Arrived,
    Drop,
    Effect,
    Effects,
    Failed,
    Finish,
    Get,
    Incr,
    Invoke,
    LoadPage,
    Now,
    Part,
    Pause,
    Put,
    Record,
    Run,
    Size,
    Slots,
)
from wukong.core.ledger import Ledger
from wukong.core.policy import PINNED, Costs, Policy, parts

_UNBOUNDED = 1_000
_RECHECKS = 16
_RECHECK_S = 0.0002
_RECHECK_LAST_S = 0.25
_RESTORED_AT_MOST = 3
_WHOLE_TIME = 0.8
_ELSEWHERE = -1
"""Stands in a pending arrival for a task whose value is in the store and no longer counted in `uses`."""


class Walk:
    """One executor's state.

    Args:
        invocation: this executor's hierarchical id, e.g. ``"0.3"``.
        start: the ready tasks it starts from, the one to begin with first.
        sink: number of the job's own fan-in, which is the number of tasks.
        policy, costs: the job's settings, and what moving things costs here (kept up to date from outside).
        inline: tasks whose values came in the payload and are in the cache.
        alone: no other executor exists, nor will, unless this one hands something over.
        offloaded: tasks that an earlier run of this same invocation handed over, and how many parts those were.
        stream: store every requested value at once.
        life: the prefix of the ids of invocations made here; another one each time the client invokes this invocation
            again, so that an earlier run which still lives cannot use the same ids. None: `invocation`.
        replay: an earlier run may have stored values; what is stored is not done again.
        deadline: on the interpreter's clock: from then on, store what is held and hand on what is left.
        ledger: notes what this executor leaves in the store.
    """

    def __init__(
        self,
        invocation: str,
        start: Sequence[int],
        sink: int,
        policy: Policy,
        costs: Costs,
        *,
        inline: Collection[int] = (),
        alone: bool = False,
        offloaded: Collection[int] = (),
        n_offloads: int = 0,
        stream: bool = False,
        life: str | None = None,
        replay: bool = False,
        deadline: float = inf,
        ledger: Ledger | None = None,
    ) -> None:
        self.invocation = invocation
        self.sink = sink
        self.policy = policy
        self.costs = costs
        self.ready = list(reversed(start))
        self.start = start
        self.inline = inline
        self.alone = alone and not n_offloads and not offloaded
        self.offloaded = offloaded
        self.n_offloads = n_offloads
        self.stream = stream
        self.life = invocation if life is None else life
        self.replay = replay
        self.deadline = deadline
        self.ledger = Ledger() if ledger is None else ledger
        self.leaving = self.finished = self.aborted = False
        self.began = 0.0
        self.task = -1
        self.handed_on: int | None = None
        self.n_restored = 0
        self.uses: dict[int, int] = dict.fromkeys(inline, 0)
        self.pending: dict[int, list[tuple[int, int]]] = {}
        self.of: dict[int, int] = {}
        self.held: dict[int, float] = {}
        self.claimed: set[int] = set()
        self.awaited: dict[int, int] = {}
        self.running: Sequence[int] = ()
        self.last_use: list[int] = []
        self.due: list[int] = []
        self.stored: set[int] = {_ELSEWHERE}
        self.sizes: dict[int, int] = {}
        self.parents: dict[int, tuple[int, ...]] = {}
        self.out: dict[int, Out] = {}
        self.eager = policy.fan_out == "eager"
        self.patience = costs.patience(policy)
        self.check_at = 0.0
        self.checked_at = 0.0
        self.n_since_check = 0
        self.task_s = 0.0
        self._cold: frozenset[int] | None = None

    @property
    def told(self) -> bool:
        """Whether this walk has told the client the job's outcome."""
        return self.finished or self.aborted

    def validate(self, parents: Sequence[Sequence[int]], *, settled: bool) -> None:
        """Check the state against its invariants; `parents` of every task. Raises AssertionError.

        The state is `settled` while a task begins to run or the executor pauses: then every use is that of a ready
        task or of a pending arrival.
        """
        ready, pending, uses, awaited = self.ready, self.pending, self.uses, self.awaited
        assert len(set(ready)) == len(ready), f"ready twice: {ready}"
        assert self.of.keys() == pending.keys(), f"pending {pending}, of {self.of}"
        assert self.held.keys() <= pending.keys(), f"held {self.held}, pending {pending}"
        assert not pending.keys() & set(ready), f"ready {ready} and pending {pending}"
        assert not uses.keys() & awaited.keys(), f"here {uses} and awaited {awaited}"
        assert all(n >= 1 for counts in (awaited, uses) for n in counts.values()) or self.inline, f"{uses}, {awaited}"
        for child, arrived in pending.items():
            members = {member for member, _ in arrived}
            most = self.of[child] - (child != self.sink)
            assert len(members) == len(arrived) <= most, f"pending at {child} of {self.of[child]}: {arrived}"
            assert child not in self.claimed, f"{child} is claimed, and pending"
        if settled:
            needed = [parent for task in ready if not self._is_cold(task) for parent in parents[task]]
            needed += [task for arrived in pending.values() for _, task in arrived if task != _ELSEWHERE]
            counted = {task: n for task, n in (uses | awaited).items() if n}
            assert counted == Counter(needed), f"uses {uses}, awaited {awaited}, needed {Counter(needed)}"

    # --- the walk

    def run(self) -> Effects:
        """Walk until nothing is left here. Ends early after `Abort`.

        What every task passes through is one piece of code: one more call or generator per task would cost a twentieth.
        """
        now: float = yield Now()
        yield from self._begin(now)
        ready, uses, pending, out = self.ready, self.uses, self.pending, self.out
        sink, offloaded, started = self.sink, self.offloaded, frozenset(self.start)
        idle_since, worked = now, True
        replay, run_s = self.replay, inf
        while True:
            while ready:
                worked = True
                task = ready.pop()
                parents = self.parents.get(task)
                if parents is None:
                    yield from self._need(task)
                    parents = self.parents[task]
                if offloaded and task in offloaded:
                    yield from self._release(parents)
                    continue
                if replay and run_s >= self.costs.round_trip_s and not (yield Get((task,))):
                    self.stored.add(task)
                    yield from self._release(parents)
                else:
                    last_use = []
                    for parent in parents:
                        n = uses.get(parent)
                        if n is None:
                            if not (yield from self._fetch(task, parents)):
                                return
                            n = uses[parent]
                        if n == 1:
                            last_use.append(parent)
                        else:
                            uses[parent] = n - 1
                    for parent in last_use:
                        del uses[parent]
                    self.running, self.last_use, self.task = parents, last_use, task
                    answer: float | Failed = yield Run(task, last_use)
                    self.running = ()
                    if isinstance(answer, Failed):
                        yield from self._abort(task)
                        return
                    if self.finished:
                        return
                    now, run_s = answer, answer - now
                    if self.handed_on == task:
                        del out[task]
                        yield Drop((task,))
                        continue
                self.n_since_check += 1
                edges = out.pop(task)
                del self.parents[task]
                if self.claimed:
                    edges = self._unclaimed(edges)
                    uses[task] = uses.get(task, 0) + self.awaited.pop(task, 0) + len(edges)
                    if not uses[task]:
                        del uses[task]
                        yield Drop((task,))
                        continue
                else:
                    uses[task] = len(edges)
                for child, of, member in edges:
                    if of == 1 and child != sink:
                        ready.append(child)
                        continue
                    arrived = pending.get(child)
                    if arrived is None:
                        if child in started:
                            yield from self._given(task, child)
                            continue
                        arrived = pending[child] = []
                        self.of[child] = of
                    arrived.append((member, task))
                    if child == sink:
                        yield from self._output(arrived)
                    elif len(arrived) == of:
                        del pending[child], self.of[child]
                        self.held.pop(child, None)
                        ready.append(child)
                if now >= self.check_at:
                    yield from self._check(now)
            if not pending or self.finished:
                return
            if self.sink in pending and len(pending) == 1 and len(pending[sink]) == self.of[sink]:
                yield from self._finish()
                return
            if len(self.held) < len(pending):
                yield from self._publish([child for child in pending if child not in self.held])
                continue
            if worked:
                idle_since, worked = now, False
            now, idle_since = yield from self._wait(now, idle_since)

    def _begin(self, now: float) -> Effects:
        self.began = self.checked_at = now
        self.check_at = min(now + self.patience, self.deadline)
        if self.inline:
            for task in self.start:
                yield from self._need(task)
                for parent in self.parents[task]:
                    counts = self.uses if parent in self.uses else self.awaited
                    counts[parent] = counts.get(parent, 0) + 1
        if self.eager and len(self.ready) > 1:
            yield from self._split(0.0, busy=False)

    def _wait(self, now: float, idle_since: float) -> Generator[Effect, Any, tuple[float, float]]:
        """Wait a little and ask again: only held values are left. Returns the clock, and since when this is so."""
        # Ask ever more seldom: an input that does not come soon may take long, and asking costs a round trip.
        left_s = max(0.0, min(min(self.held.values()) - (now - idle_since), self.deadline - now))
        pause_s = max(self.costs.round_trip_s, (now - idle_since) / _RECHECKS, _RECHECK_S)
        now = yield Pause(min(pause_s, max(left_s, self.costs.round_trip_s), _RECHECK_LAST_S))
        if now >= self.deadline:
            yield from self._leave()
            return now, idle_since
        late = [child for child, budget_s in self.held.items() if now - idle_since >= budget_s]
        give_up = min(late, key=self.held.__getitem__) if late else None
        yield from self._publish(list(self.pending), give_up)
        return now, idle_since if give_up is None else now

    def overdue(self, elapsed_s: float, now: float) -> Effects:
        """Let go of what other executors could do, since a task has been running for `elapsed_s`. For the watcher."""
        if self.task < 0:  # values are being restored: their uses are counted only when all of them are here
            return
        if now >= self.deadline:
            # A task that has had nearly all the time of an invocation would not end elsewhere either.
            movable = elapsed_s < _WHOLE_TIME * (now - self.began) and self.handed_on is None
            yield from self._leave(self.task if movable else None)
            return
        if not self.alone:
            yield from self._publish(list(self.pending))
        yield from self._split(elapsed_s, busy=True)

    def _unclaimed(self, edges: Out) -> Out:
        """Leave out the fan-ins that are claimed already: another run of this invocation has brought this input."""
        return tuple(edge for edge in edges if edge[0] not in self.claimed)

    def _given(self, task: int, child: int) -> Effects:
        """Skip an input of a fan-in that was given to us as ready: another run of the giver had completed it."""
        if child not in self.ready:
            yield from self._release((task,))
        elif (n := self.awaited.pop(task, 0)) > 1:
            self.awaited[task] = n - 1

    def _put(self, tasks: tuple[int, ...], *, requested: bool = False) -> Effects:
        self.ledger.stored.extend(tasks)
        if requested:
            self.ledger.requested.update(tasks)
        yield Put(tasks, requested)

    def _abort(self, task: int, lost: tuple[int, ...] = ()) -> Effects:
        self.aborted = True
        yield Abort(task, lost)

    def _need(self, task: int) -> Effects:
        page = yield LoadPage(task)
        low, high = page.first, page.first + len(page.out)
        self.parents.update(zip(range(low, high), page.parents, strict=True))
        self.out.update(zip(range(low, high), page.out, strict=True))

    def _fetch(self, task: int, parents: Sequence[int]) -> Generator[Effect, Any, bool]:
        """Bring the inputs of `task` that are not in the cache; this is the one use that each has here."""
        missing = tuple(parent for parent in parents if parent not in self.uses)
        lost: tuple[int, ...] = yield Get(missing)
        if lost and not (yield from self._restore(task, lost, missing)):
            return False
        self.stored.update(missing)
        for parent in missing:
            self.uses[parent] = self.awaited.pop(parent, 1)
        return True

    def _restore(self, wanted_by: int, lost: Sequence[int], wanted: Sequence[int]) -> Generator[Effect, Any, bool]:
        """Recompute values that the store has lost, from what is still there, however deep; store them again.

        `wanted` are all that were asked for; those of them that are not lost are here. Each task is run at most once,
        and this executor recomputes at most `_RESTORED_AT_MOST` times the DAG in all.
        """
        here: set[int] = set(wanted).difference(lost)
        asked: set[int] = set()
        todo = list(lost)
        restored: list[int] = []
        while todo:
            task = todo[-1]
            if task in self.uses or task in here:
                todo.pop()
                continue
            if self.n_restored > _RESTORED_AT_MOST * self.sink:
                yield from self._abort(wanted_by, tuple(lost))
                return False
            yield from self._need(task)
            parents = self.parents[task]
            missing = tuple(parent for parent in parents if parent not in self.uses and parent not in here)
            if missing and task not in asked:
                asked.add(task)
                gone: tuple[int, ...] = yield Get(missing)
                here.update(parent for parent in missing if parent not in gone)
                todo.extend(gone)
                continue
            self.running, self.last_use, self.task = parents, [], -1
            answer: float | Failed = yield Run(task, self.last_use)
            self.running = ()
            if isinstance(answer, Failed):
                yield from self._abort(task)
                return False
            del self.parents[task], self.out[task]
            self.n_restored += 1
            restored.append(todo.pop())
            here.add(task)
        yield from self._put(tuple(restored))
        extra = [task for task in here if task not in wanted and task not in self.uses]
        if extra:
            yield Drop(extra)
        return True

    def _output(self, arrived: list[tuple[int, int]]) -> Effects:
        """Take in requested values. One that is too large to ride is stored at once, so that it can be dropped."""
        member, task = arrived[-1]
        (self.sizes[task],) = yield Size((task,))
        if self.stream or task in self.stored or self.sizes[task] > self.policy.ride_bytes:
            if task not in self.stored:
                yield from self._put((task,), requested=True)
                self.stored.add(task)
            arrived[-1] = (member, _ELSEWHERE)
            yield from self._release((task,))

    def _release(self, tasks: Sequence[int]) -> Effects:
        """Count one use less of each of these values, whether they are here or still to be fetched."""
        uses = self.uses
        drop: list[int] = []
        for task in tasks:
            counts = uses if task in uses else self.awaited
            n = counts.get(task)
            if n is None:
                continue
            if n > 1:
                counts[task] = n - 1
                continue
            del counts[task]
            if counts is uses:
                self.sizes.pop(task, None)
                (self.last_use if task in self.running else drop).append(task)
        if drop:
            yield Drop(drop)

    # --- fan-in: pending arrivals, publication, clustering, delayed I/O

    def _check(self, now: float) -> Effects:
        """Every `patience` seconds: publish what has waited that long, and split what is too much for one."""
        if now >= self.deadline:
            yield from self._leave()
            return
        self.patience = self.costs.patience(self.policy)
        self.task_s = (now - self.checked_at) / max(1, self.n_since_check)
        self.checked_at, self.n_since_check = now, 0
        if not self.alone:
            due = [child for child in self.due if child in self.pending] if not self.eager else list(self.pending)
            if due:
                yield from self._publish(due)
            self.due = list(self.pending)
        yield from self._split(self.task_s, busy=False)
        self.check_at = min(now + self.patience, self.deadline)

    def _leave(self, running: int | None = None) -> Effects:
        """Store what is held, and hand on all that is ready: the platform will end this invocation soon.

        A `running` task may be cut off: it is handed on as well, to begin again elsewhere.
        """
        self.leaving = True
        self.alone = False
        yield from self._publish(list(self.pending))
        if running is not None:
            inputs = tuple(task for task in self.running if task not in self.stored)
            sizes = (yield Size(inputs)) if inputs else ()
            if max(sizes, default=0) < PINNED:
                if inputs:
                    yield from self._put(inputs)
                    self.stored.update(inputs)
                self.handed_on = running
                self.parents[running] = ()
                self.ready.append(running)
        movable = yield from self._movable(self.ready, inf)
        yield from self._hand_over(movable, 1)
        if self.handed_on is not None:
            self.parents.pop(self.handed_on, None)

    def _publish(self, children: Sequence[int], give_up: int | None = None) -> Effects:
        """Arrive at these fan-ins. Large values stay: their arrival counts only if it is the last.

        The values for the fan-in `give_up` are stored all the same. There are two cases. Either another executor holds
        the other large input and was the first to say so: we give way at once, since the fan-in waits for nothing else.
        Or this executor has no other work, and has waited for an input that nobody has computed yet for as long as
        storing takes: then it gives up one fan-in at a time, since the inputs of others may come meanwhile.
        """
        pending, stored, sizes = self.pending, self.stored, self.sizes
        if not children:
            return
        unknown = tuple(
            dict.fromkeys(
                task for child in children for _, task in pending[child] if task not in sizes and task not in stored
            )
        )
        if unknown:
            sizes.update(zip(unknown, (yield Size(unknown)), strict=True))
        arrivals, put = self._arrivals(children, give_up)
        if put:
            yield from self._put(tuple(put))
            stored.update(put)
        self.ledger.arrived.extend(arrive.child for arrive in arrivals)
        answers = yield Incr(tuple(arrivals))
        answers = yield from self._asked_singly(arrivals, answers)
        # Claims first: a value that rode in for one fan-in may be one that the release for another would drop.
        for arrival, answer in zip(arrivals, answers, strict=True):
            if answer.claimed and arrival.child not in self.claimed and not self.finished:
                yield from self._claim(arrival.child, answer.carried)
        for arrival, answer in zip(arrivals, answers, strict=True):
            child = arrival.child
            if child in pending and (not arrival.only_if_last or answer.complete):
                self.held.pop(child, None)
                del self.of[child]
                yield from self._release([task for _, task in pending.pop(child)])
        for arrival, answer in zip(arrivals, answers, strict=True):
            if answer.give_way and arrival.child in pending:
                yield from self._publish([arrival.child], give_up=arrival.child)

    def _arrivals(self, children: Sequence[int], give_up: int | None) -> tuple[list[Arrive], dict[int, None]]:
        """Return the arrivals at these fan-ins, and the values to store first; note what is held."""
        pending, stored, sizes, held = self.pending, self.stored, self.sizes, self.held
        large = self.costs.large(self.policy)
        put: dict[int, None] = {}
        if give_up is not None:
            put.update((task, None) for _, task in pending[give_up] if task not in stored)
        arrivals = []
        for child in children:
            fresh = [task for _, task in pending[child] if task not in stored and task not in put]
            biggest = max((sizes[task] for task in fresh), default=0)
            hold = bool(fresh) and biggest >= large and child != self.sink
            hold = hold and (not self.leaving or biggest >= PINNED)
            carry = []
            if hold:
                held[child] = self.costs.delay_budget(self.policy, biggest)
            else:
                for task in fresh:
                    # A value with many fan-ins is stored once rather than carried to each of them.
                    if sizes[task] * self.uses[task] <= self.policy.ride_bytes:
                        carry.append(task)
                    else:
                        put[task] = None
            members = tuple(member for member, _ in pending[child])
            arrivals.append(Arrive(child, members, self.of[child], tuple(carry), only_if_last=hold))
        return arrivals, put

    def _asked_singly(
        self, arrivals: Sequence[Arrive], answers: Sequence[Arrived]
    ) -> Generator[Effect, Any, Sequence[Arrived]]:
        """Ask for each member singly: an earlier run may have won the fan-in with any of those that we bring together.

        Asking records nothing: else, if the store had lost the record, an arrival would come before its value.
        """
        singly = [
            Arrive(arrival.child, (member,), arrival.of, (), only_if_last=True)
            for arrival, answer in zip(arrivals, answers, strict=True)
            if answer.complete and not answer.claimed and len(arrival.members) > 1
            for member in arrival.members
        ]
        if not singly:
            return answers
        told = yield Incr(tuple(singly))
        won = {arrive.child: answer for arrive, answer in zip(singly, told, strict=True) if answer.claimed}
        return [won.get(arrival.child, answer) for arrival, answer in zip(arrivals, answers, strict=True)]

    def _claim(self, child: int, carried: Sequence[int]) -> Effects:
        """Take a child: we were the last to arrive. Its inputs are here, rode in, or are fetched when it runs."""
        self.held.pop(child, None)
        if child == self.sink:
            yield from self._finish(carried)
            return
        if child not in self.parents:
            yield from self._need(child)
        here = {task for _, task in self.pending.pop(child)}
        del self.of[child]
        self.claimed.add(child)
        uses, awaited, rode_in = self.uses, self.awaited, frozenset(carried)
        for parent in self.parents[child]:
            if parent in here:
                continue
            if parent in uses:
                uses[parent] += 1
            elif parent in rode_in:
                uses[parent] = 1 + awaited.pop(parent, 0)
                self.stored.discard(parent)
                self.sizes.pop(parent, None)
                if parent in self.running:
                    self.last_use.remove(parent)
            else:
                awaited[parent] = awaited.get(parent, 0) + 1
        self.ready.append(child)

    def _finish(self, carried: Sequence[int] = ()) -> Effects:
        """End the job: its own fan-in is complete. Every output is in the store, or here and small."""
        here = [task for _, task in self.pending.pop(self.sink) if task != _ELSEWHERE]
        del self.of[self.sink]
        yield Finish(tuple(dict.fromkeys([*here, *carried])))
        self.finished = True
        self.ready.clear()  # if a replay has more to do, nobody needs it

    # --- fan-out: become one, keep the rest, split when keeping costs more than invoking

    def _split(self, task_s: float, *, busy: bool) -> Effects:
        """Hand the far end of the ready queue to new executors, if that is cheaper than keeping it."""
        ready = self.ready
        if len(ready) < (1 if busy else 2):
            return
        free: int | None = yield Slots()
        if self.eager:
            n_parts, keep = len(ready) - (0 if busy else 1), 0 if busy else 1
        else:
            bound = _UNBOUNDED if free is None else free
            task_s = max(task_s, self.task_s)
            n_parts = parts(len(ready), task_s, self.patience, self.policy.handover_s, bound, busy=busy)
            keep = 0 if busy and n_parts >= len(ready) else max(1, len(ready) // (n_parts + 1))
        if n_parts < 1:
            return
        movable = yield from self._movable(ready[: len(ready) - keep], task_s)
        yield from self._hand_over(movable, n_parts)

    def _hand_over(self, movable: Sequence[int], n_parts: int) -> Effects:
        """Record and make `n_parts` invocations for these ready tasks."""
        if not movable:
            return
        ready = self.ready
        n_parts = min(n_parts, len(movable))
        inline_of, put = yield from self._inputs(movable)
        groups = [movable[len(movable) * i // n_parts : len(movable) * (i + 1) // n_parts] for i in range(n_parts)]
        made: list[Part] = []
        for group in groups:
            inline = dict.fromkeys(task for ready_task in group for task in inline_of.get(ready_task, ()))
            made.append(Part(f"{self.life}.{self.n_offloads + len(made)}", tuple(reversed(group)), tuple(inline)))
        if put:
            yield from self._put(tuple(put))
            self.stored.update(put)
        gone = set(movable)
        ready[:] = [task for task in ready if task not in gone]
        self.n_offloads += len(made)
        self.alone = False
        parts_made = tuple(made)
        self.ledger.made.extend(part.invocation for part in parts_made)
        yield Record(parts_made)
        yield Invoke(parts_made)
        self.ledger.sent = self.n_offloads
        warm = (task for task in movable if not self._is_cold(task))
        yield from self._release([parent for task in warm for parent in self.parents[task]])

    def _is_cold(self, task: int) -> bool:
        """Whether this is a start task with none of its inputs here."""
        if self._cold is None:
            self._cold = frozenset() if self.inline else frozenset(self.start)
        return task in self._cold

    def _movable(self, candidates: Sequence[int], task_s: float) -> Generator[Effect, Any, list[int]]:
        """Leave out the tasks whose local inputs cost more to move than moving the task gains (clustering)."""
        warm = [task for task in candidates if not self._is_cold(task)]
        if not warm:
            return list(candidates)
        for task in warm:
            if task not in self.parents:
                yield from self._need(task)
        sizes, stored = self.sizes, self.stored
        local = dict.fromkeys(
            parent for task in warm for parent in self.parents[task] if parent in self.uses and parent not in stored
        )
        unknown = tuple(parent for parent in local if parent not in sizes)
        if unknown:
            sizes.update(zip(unknown, (yield Size(unknown)), strict=True))
        worth_s = max(task_s, self.patience)
        heavy = set()
        for task in warm:
            size = sum(sizes[parent] for parent in self.parents[task] if parent in local)
            if size >= PINNED or (not self.eager and self.costs.move_s(size) > worth_s):
                heavy.add(task)
        return [task for task in candidates if task not in heavy]

    def _inputs(self, tasks: Sequence[int]) -> Generator[Effect, Any, tuple[dict[int, list[int]], dict[int, None]]]:
        """Return the local inputs that travel in the payload, by task, and those that have to be stored first."""
        inline_of: dict[int, list[int]] = {}
        put: dict[int, None] = {}
        for task in tasks:
            if self._is_cold(task):
                continue
            for parent in self.parents[task]:
                if parent not in self.uses or parent in self.stored or parent in put:
                    continue
                if parent not in self.sizes:
                    (self.sizes[parent],) = yield Size((parent,))
                if self.sizes[parent] * self.uses[parent] <= self.policy.ride_bytes:
                    inline_of.setdefault(task, []).append(parent)
                else:
                    put[parent] = None
        return inline_of, put
