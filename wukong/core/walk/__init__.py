"""The dynamic scheduling protocol: one executor's walk over the DAG, as a generator of effects.

Pure: no clock, thread, socket or random source. `Walk.run` yields effects (`wukong.core.effects`); the interpreter
carries them out and sends the answers back in; times arrive as answers. `Walk.overdue` yields effects too. A watcher
calls it while `run` stands at a `Run`, or at a `Pause` with tasks in other lanes or requests under way, and carries all
of them out before it answers that effect.

              start tasks          a child whose parents are all here: no I/O
                   |                          |
                   v                          v
    ready  --pop-> Run --value--> out: chain -> ready
      ^ |                          `-> fan-in -> pending --publish--> Incr -> claimed -> ready
      | `--split--> Record, Invoke                  ^  |                 `-> somebody else's
      |                                             |  `-- large value: held (only_if_last, delayed I/O)
      `---------------------------------------------'

Its state is in rooms, each with its own attributes, states and `validate`:

    frontier   ready tasks, rows of the DAG, values and their uses; the states of a task
    lanes      tasks that run on while another thread has the walk
    overlap    requests to the store that are under way while tasks run
    fan_in     arrivals pending and held, claims; the states of a fan-in
    fan_out    split, hand over; what needs a larger function goes to one
    seats      limits: tasks of which only so many run at once in the job
    recovery   replay what an earlier run began, restore what the store has lost
    leaving    the deadline

    Walk -> leaving -> fan_out -> fan_in -> overlap -> lanes;  Walk -> recovery -> lanes;
    fan_out, recovery, overlap -> seats;  all of them -> frontier

Rules:

1. Write before you tell: a value is stored, or rides in the arrival itself, before that arrival is recorded. Requests
   to write behind are carried out in the order in which they were begun, so they keep this rule, too.
2. All is idempotent under the invocation's id. An invocation is on record before it is made, and a re-run skips what
   was handed over. A fan-in's record is a set. A claim is bound to the lowest of the members that were brought
   together (`wukong.core.effects.claimant`): an executor that does that work again is told "yes, you" again.
3. Never wait longer than acting would cost: patience for ready tasks and pending arrivals, a budget for held values.
4. An executor that is *alone* (nothing was ever handed over) owns the whole DAG, never publishes, and pays no I/O.
   Before it stores what others need, it puts on record that it shares (`FanOut.share`). So the report of one run never
   hides what another run of this invocation has left.

The papers' terms, by section of "Wukong" (SoCC '20), and what differs here:

    static schedule   4.1. Named by its leaf, not copied: schedules overlap, so copies would be quadratic. An executor
                      walks pages of one DAG (`wukong.core.partition`).
    become, invoke    4.2. The paper's executor runs one child of a fan-out and invokes an executor for each other one;
                      here (`FanOut.split`) the others stay until keeping them would cost more. ``eager``: as there.
    fan-in counter    4.2. It counts arrivals; here the record is a set, since a retried arrival would count twice. The
                      paper's executors arrive one by one; here all that is due goes in one round trip, small values
                      with it. Its claim is bound to the executor; here to a member, since a re-run may hand that over.
    task clustering   4, optimisations. The ready children of a large output run where it is; here too
                      (`FanOut.movable`), and the fan-ins of a large value come to it (only-if-last).
    delayed I/O       4, optimisations. A large value is held while its fan-in is incomplete. Here that costs nothing
                      while there is other work; without any, it is held for as long as storing it takes; of two holders
                      who wait for each other, one gives way.
    proxy             4. It invokes large fan-outs (`wukong.proxy`); here the sender makes the invocations that the
                      proxy has not accepted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Sequence
from math import inf
from typing import Any

from wukong.core.effects import Drop, Effect, Effects, Failed, Landed, Now, Overstays, Pause, Run, TakeIn
from wukong.core.ledger import Ledger
from wukong.core.policy import UNKNOWN_BYTES, Costs, Policy
from wukong.core.walk.fan_in import FanIns
from wukong.core.walk.fan_out import FanOut
from wukong.core.walk.frontier import ELSEWHERE, RESTING, RESTORING, Frontier
from wukong.core.walk.lanes import READ, Lanes
from wukong.core.walk.leaving import Leaving
from wukong.core.walk.overlap import Overlap
from wukong.core.walk.recovery import Recovery
from wukong.core.walk.seats import Seats
from wukong.core.walk.task_times import TaskTimes


class Walk:
    """One executor's walk.

    Args:
        invocation: this executor's hierarchical id, e.g. ``"0.3"``.
        start: the ready tasks it starts from, the one to begin with first.
        sink: number of the job's own fan-in, which is the number of tasks.
        policy, costs: the job's settings, and what moving things costs here (kept up to date from outside).
        inline, stream, ledger, offloaded: see `Frontier`.
        alone, n_offloads, attempt_id: see `FanOut`. `attempt_id` None: this is the invocation's first attempt.
        replay: see `Recovery`.
        deadline: see `Leaving`.
        lanes: how many tasks run at once at most.
        functions, function: see `Frontier`. limited, room_bytes: see `FanOut`. overlap: see `Overlap`.

    Attributes:
        now: what the interpreter's clock showed when the walk was last told, seconds.
        check_at: when the walk looks next at what is pending and ready.
        looked: a watcher has looked at the running task, or it has seats: there is more to do when it ends.
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
        attempt_id: str | None = None,
        replay: bool = False,
        deadline: float = inf,
        ledger: Ledger | None = None,
        lanes: int = 1,
        functions: Sequence[int] = (),
        function: int = 0,
        overlap: bool = False,
        limited: bool = False,
        room_bytes: int = UNKNOWN_BYTES,
    ) -> None:
        self.frontier = frontier = Frontier(
            start,
            sink,
            policy,
            costs,
            inline=inline,
            stream=stream,
            ledger=ledger,
            offloaded=offloaded,
            functions=functions,
            function=function,
        )
        alone = alone and not n_offloads and not offloaded
        self.lanes = Lanes(frontier, lanes)
        self.seats = Seats(frontier)
        self.overlap = Overlap(frontier, self.lanes, self.seats, on=overlap)
        self.fan_ins = fan_ins = FanIns(frontier, self.overlap)
        how: dict[str, Any] = {"alone": alone, "n_offloads": n_offloads, "limited": limited, "room_bytes": room_bytes}
        self.fan_out = FanOut(frontier, self.lanes, self.seats, fan_ins, attempt_id or invocation, **how)
        self.recovery = Recovery(frontier, self.lanes, self.seats, replay=replay)
        self.leaving = Leaving(frontier, self.lanes, self.fan_ins, self.fan_out, deadline)
        self.now = self.check_at = 0.0
        self.looked, self.times = False, TaskTimes(measured=not self.fan_out.eager)

    @property
    def told(self) -> bool:
        """Whether this walk has told the client the job's outcome."""
        return self.frontier.told

    @property
    def patience_s(self) -> float:
        """How long a task runs before a watcher is to look at it."""
        return self.fan_out.patience_s

    @property
    def shareable(self) -> bool:
        """Whether there is something that other executors could do, or wait for."""
        return bool(self.frontier.ready or (self.fan_ins.pending and not self.fan_out.alone))

    def left(self) -> dict[str, Collection[int]]:
        """Return, by name, what is empty when the walk ends well. (`uses` then has only values told to the client.)"""
        frontier, fan_ins = self.frontier, self.fan_ins
        return {
            "ready": frontier.ready,
            "awaited": frontier.awaited,
            "pending": fan_ins.pending,
            "of": fan_ins.of,
            "held": fan_ins.held,
            "away": self.lanes.away,
            "landed": [task for task, *_ in self.lanes.landed],
            "storing": frontier.storing,
            "fetching": frontier.fetching,
            "sent": fan_ins.sent,
            "ahead": self.overlap.ahead,
            "seats": () if frontier.told else [*self.seats.taken, *range(len(self.seats.idle))],
        }

    def validate(self, parents: Sequence[Sequence[int]], *, settled: bool) -> None:
        """Check the state against its invariants. Raises AssertionError.

        Args:
            parents: the inputs of every task.
            settled: a task begins to run, or the executor pauses. Then every use is that of a ready task, of a pending
                arrival or of a task in another lane, or of a requested value that is being stored.
        """
        frontier, fan_ins = self.frontier, self.fan_ins
        seated = self.seats.taken.keys() & set(frontier.ready) - self.lanes.handed_on
        assert not seated or frontier.task == RESTORING, f"ready {frontier.ready}, and {seated} have seats"
        for room in (frontier, self.lanes, self.overlap, fan_ins, self.fan_out, self.recovery, self.leaving):
            room.validate()
        told_others = fan_ins.held or fan_ins.claimed
        assert not (self.fan_out.alone and told_others), f"alone, with {fan_ins.held} held, {fan_ins.claimed} claimed"
        if settled and not frontier.told:
            needed = [parent for task in frontier.ready if task not in frontier.cold for parent in parents[task]]
            needed += [task for arrived in fan_ins.pending.values() for _, task in arrived if task != ELSEWHERE]
            needed += [parent for away in self.lanes.away.values() for parent in away.parents]
            needed += self.overlap.outputs
            counted = {task: n for task, n in (frontier.uses | frontier.awaited).items() if n}
            uses = f"uses {frontier.uses}, awaited {frontier.awaited}"
            assert counted == Counter(needed), f"{uses}, needed {Counter(needed)}"

    def run(self) -> Effects:
        """Walk until nothing is left here; end early after `Abort`.

        What every task passes through is one piece of code: a generator for each task would cost a twentieth more.
        """
        yield from self._begin()
        frontier, fan_ins, recovery, lanes, times = self.frontier, self.fan_ins, self.recovery, self.lanes, self.times
        ready, rows, uses, out = frontier.ready, frontier.parents, frontier.uses, frontier.out
        offloaded, larger, limited, ahead = frontier.offloaded, frontier.larger, frontier.limited, frontier.ahead
        claimed, sink, replay, away, landed = fan_ins.claimed, frontier.sink, recovery.replay, lanes.away, lanes.landed
        while ready or landed or (yield from self._idle()):
            if landed:
                task, edges, read = landed.pop()
                if read:
                    yield from frontier.release(read)
                if task == READ or frontier.told:
                    continue
            else:
                task = ready.pop()
                parents = rows.get(task)
                if parents is None:
                    yield from frontier.need(task)
                    parents = rows[task]
                stored: bool | None = False
                if replay or away or limited or ahead or larger or offloaded:
                    stored = yield from self._popped(task, parents)
                    if stored is None:
                        continue
                if not stored:
                    last_use = frontier.take(parents) if parents else []
                    if last_use is None:
                        if (yield from self._missed(task, parents)):
                            continue
                        last_use = frontier.take(parents) or []
                    if limited and task in limited and not (yield from self._seated(task)):
                        continue
                    frontier.running, frontier.last_use, frontier.task = parents, last_use, task
                    answer: Any = yield Run(task, last_use)
                    if self.looked or replay or type(answer) is not float:
                        answer = yield from self._returned(task, answer)
                        if answer is None:
                            continue
                    frontier.running = ()
                    self.now = answer
                edges = out.pop(task)
                del rows[task]
            times.n_tasks += 1
            if not claimed and not away and not landed:
                uses[task] = len(edges)
            elif not (edges := fan_ins.count(task, edges)) and not uses[task]:
                del uses[task]
                yield Drop((task,))
                continue
            for child, of, member in fan_ins.give(task, edges):
                if child == sink:
                    yield from fan_ins.output(task, of, member)
                else:
                    yield from fan_ins.given(task, child)
            if self.now >= self.check_at:
                yield from self._check()

    def _popped(self, task: int, parents: Sequence[int]) -> Generator[Effect, Any, bool | None]:
        """See to a popped task that may not be to run here, or not now. None: it does not run now.

        True: it is not to run, since an earlier run of this invocation has stored its value. False: it is to run.
        """
        frontier, replay, limited = self.frontier, self.recovery.replay, self.frontier.limited
        away, larger = self.lanes.away, frontier.larger
        if task in frontier.offloaded or task in larger or (away and task in frontier.exclusive):
            yield from self._not_here(task, parents)
            return None
        if limited and not replay and (yield from self._seatless(task)):
            return None
        if away or (limited and replay):
            frontier.warm(task)
        if task in self.overlap.ahead:
            self.overlap.forget((task,))
            yield from self.overlap.fetch_ahead()
        if replay:
            if (yield from self.recovery.is_stored(task, parents)):
                return True
            if limited and (yield from self._seatless(task)):
                return None
        return False

    def _not_here(self, task: int, parents: Sequence[int]) -> Effects:
        """See to a task that does not run here, or not now.

        An earlier run has handed it over; or it needs a larger function; or it is to run alone, while others run.
        """
        frontier = self.frontier
        if task in frontier.offloaded:
            self.overlap.forget((task,))
            if task not in frontier.cold:
                yield from frontier.release(parents)
            return
        frontier.ready.append(task)
        if task in frontier.larger:
            yield from self.fan_out.to_larger()
        else:
            yield from self._rest(inf)

    def _seatless(self, task: int) -> Generator[Effect, Any, bool]:
        """See to the seats that a popped task needs, or does not need any more. True: it does not run now."""
        frontier, seats = self.frontier, self.seats
        frontier.warm(task)  # it may have to wait while others that need its inputs run
        if task not in frontier.limited:
            seats.rests_since = None
            yield from seats.give_back()
            return False
        if not seats.refuses(task, self.now):
            return False
        if seats.set_aside(task, self.now):
            return True
        yield from seats.give_back()
        since, idles = self.now, not self.lanes.away and not self.overlap.under_way
        yield from self._rest(seats.pause_s(self.now))
        if idles and seats.rested(since, self.now) >= seats.patience_s(self.fan_out.patience_s) and not self.told:
            yield from self.fan_out.park(self.now - (seats.rests_since or 0.0))
        if self.now >= self.check_at and not self.told and not self.leaving.left:
            if not self.fan_out.alone:
                yield from self.fan_ins.check(at_once=self.fan_out.eager)
            self.times.begin(self.now)
            self.check_at = min(self.now + self.fan_out.patience_s, self.leaving.deadline)
        return True

    def _seated(self, task: int) -> Generator[Effect, Any, bool]:
        """Take the seats of a task that is about to run. False: it has to wait, and is ready again."""
        if not (yield from self.seats.take(task, self.now)):
            self.frontier.untake(task)
            return False
        self.looked = True  # so that its end does not go the short way
        return True

    def _missed(self, task: int, parents: Sequence[int]) -> Generator[Effect, Any, bool]:
        """See to the inputs of a task that are not here. True: it does not run now, or the job has ended."""
        overlap, ready = self.overlap, self.frontier.ready
        if (yield from overlap.postpone(task, parents, self.now)):
            if ready[-1] == task:
                yield from self._rest(self.seats.pause_s(self.now))
            return True
        if not (yield from self.recovery.fetch(task, parents)):
            if self.frontier.storing and not self.told:
                yield from self._rest(inf)
            return True
        overlap.lost.difference_update(parents)
        yield from overlap.fetch_ahead()
        return False

    def _begin(self) -> Effects:
        self.now = now = yield Now()
        self.leaving.began = now
        self.times.begin(now)
        self.check_at = min(now + self.fan_out.patience_s, self.leaving.deadline)
        yield from self.frontier.begin()
        self.fan_out.begins(now)
        if self.fan_out.eager and len(self.frontier.ready) > 1:
            yield from self.fan_out.split(0.0, now, busy=False)

    def _returned(self, task: int, answer: float | Failed | Overstays | Landed) -> Generator[Effect, Any, float | None]:
        """Return when the task ended, seconds. None: it still runs, or its value does not count.

        The value does not count if the task has failed or is handed on, or if the job has ended.
        """
        frontier, lanes = self.frontier, self.lanes
        self.looked = False
        parents, frontier.running = frontier.running, ()
        if isinstance(answer, Overstays | Landed):
            began, self.now = self.now, answer.now
            tasks, failed = (answer.tasks, answer.failed) if isinstance(answer, Landed) else ((), ())
            ended = task in tasks or task in failed
            if not ended:
                lanes.part(task, parents, frontier.last_use, began)
            if isinstance(answer, Landed):
                yield from self._land(answer, task if task in tasks else None)
            if not ended:
                return None
            answer = Failed() if task in failed else answer.now
        self.seats.ended(task)
        if isinstance(answer, Failed):
            if not self.told:
                yield from frontier.abort(task)
            return None
        if task in lanes.handed_on and not self.told:
            self.recovery.run_s, self.now = answer - self.now, answer
            del frontier.out[task]
            if task not in frontier.uses:
                yield Drop((task,))
            return None
        if self.told:
            return None
        self.recovery.run_s = answer - self.now
        return answer

    def _land(self, event: Landed, ran: int | None = None) -> Effects:
        """Take in what has ended in other lanes, and what has come of requests. `ran`: the task that has ended here."""
        self.seats.ended(*event.tasks, *event.failed)
        yield from self.lanes.land(event)
        if event.came:
            yield from self.fan_ins.came(event.came, ran)

    def _rest(self, seconds: float) -> Effects:
        """Pause while tasks run in other lanes or requests are under way, until one ends or `seconds` are over."""
        self.frontier.task = RESTING
        answer: float | Landed = yield Pause(min(seconds, self.leaving.left_s(self.now)))
        if isinstance(answer, Landed):
            self.now = answer.now
            yield from self._land(answer)
        else:
            self.now = answer
            if answer >= self.leaving.deadline and not self.leaving.left:
                yield from self.leaving.leave()

    def _check(self) -> Effects:
        """Publish what has waited for `patience_s`, and split what is too much for one executor; once in that time."""
        now, fan_ins, fan_out = self.now, self.fan_ins, self.fan_out
        if now >= self.leaving.deadline:
            yield from self.leaving.leave()
            return
        fan_out.measured((yield from self.times.task_s(now)))
        if not fan_out.alone:
            yield from fan_ins.check(at_once=fan_out.eager)
        yield from fan_out.split(fan_out.task_s, now, busy=False)
        if self.seats.refused:
            yield from fan_out.park_beyond()
        yield from self.times.checked(now, alone=not self.lanes.away)
        self.check_at = min(now + fan_out.patience_s, self.leaving.deadline)

    def _idle(self) -> Generator[Effect, Any, bool]:
        """Nothing is ready: publish what is pending, then wait for inputs of what is held. False: nothing is left.

        Tasks in other lanes may bring those inputs at no cost. So while any run, nothing is published before
        `patience_s` is over.
        """
        frontier, fan_ins, leaving, lanes = self.frontier, self.fan_ins, self.leaving, self.lanes
        pending, held, sent, sink = fan_ins.pending, fan_ins.held, fan_ins.sent, frontier.sink
        overlap, idle_since, self.seats.rests_since = self.overlap, self.now, None  # nothing waits for a seat
        alone, since = not lanes.away, self.now
        while not frontier.ready and not lanes.landed:
            yield from self.seats.give_back()
            if not pending or frontier.told:
                if not lanes.away and (frontier.failed or not overlap.under_way):
                    return False
                yield from self._rest(inf)
                continue
            if len(pending) == 1 and sink in pending and len(pending[sink]) == fan_ins.of[sink]:
                if overlap.n_writes:
                    yield from self._rest(inf)
                else:
                    yield from fan_ins.finish()
                continue
            if lanes.away and not leaving.left:
                left_s = inf if self.fan_out.alone else idle_since + self.patience_s - self.now
                if left_s > 0:
                    yield from self._rest(left_s)
                    continue
            if len(held) < len(pending) and (fresh := [c for c in pending if c not in held and c not in sent]):
                yield from fan_ins.publish(fresh)
                continue
            if sent and held.keys() <= sent:
                yield from self._rest(inf)
                continue
            if lanes.away or overlap.under_way:
                frontier.task = RESTING
            answer: Any = yield Pause(fan_ins.pause_s(self.now - idle_since, leaving.deadline - self.now))
            if isinstance(answer, Landed):
                self.now = answer.now
                yield from self._land(answer)
                continue
            self.now = answer
            if self.now >= leaving.deadline:
                yield from leaving.leave()
                continue
            give_up = fan_ins.overstayed(self.now - idle_since)
            yield from fan_ins.publish(list(pending), give_up)
            if give_up is not None:
                idle_since = self.now
        self.now = (yield from self.times.rested(since)) if alone else self.now
        return True

    def overdue(self, elapsed_s: float, now: float, waited_s: float = 0.0) -> Effects:
        """Let go of what others could do: a task has run for `elapsed_s`, and waited `waited_s` of it for a core."""
        self.looked = True
        if self.frontier.task == RESTORING:  # the uses of what is restored are counted only when all of it is here
            return
        if self.overlap.under_way:
            yield from self.fan_ins.came((yield TakeIn(wait=False)))
        if now >= self.leaving.deadline:
            yield from self.leaving.leave_running(elapsed_s, now)
            return
        if not self.fan_out.alone:
            yield from self.fan_ins.publish(list(self.fan_ins.pending))
        yield from self.fan_out.split(elapsed_s - waited_s, now, busy=True)
