"""The loop in which one executor carries out its walk and runs its tasks: in one thread, or in several in turn.

    effect of the walk  -> its handler -> answer      while it holds the gate (`wukong.core.lanes`)
    Run                 -> the user's function        without the gate: another lane may take the walk meanwhile
                            `- the gate is free, and no other lane has ended a task: the short way, once per task
                            `- else: hand in what has ended; then go on with the walk where it stands, or be idle
    Run of one alone    -> the same, in the first lane
    a request has ended -> taken in at the end of a task, or at a pause of the walk (`core.store_requests`)

The watcher looks after a task that runs long (`wukong.core.watcher`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from wukong.core import task_context
from wukong.core.books import Books
from wukong.core.dag import run_op
from wukong.core.effects import Effect, Effects, Failed, Landed, Missing, Pause, Run, Stopped
from wukong.core.failed import FailureKeeper
from wukong.core.host import ExecutorHost
from wukong.core.invocation import Execution
from wukong.core.lanes import LaneResult, LaneThreads, TaskLane, overstays, told
from wukong.core.partial import poisoned
from wukong.core.raised import Poisoned, Raised, sound
from wukong.core.remains_keeper import RemainsKeeper
from wukong.core.store_effects import StoreEffects
from wukong.core.values import Values
from wukong.core.watcher import Watcher
from wukong.core.width import Width
from wukong.errors import KeptLost, Retryable

Handlers: TypeAlias = dict[type, Callable[[Any], Any]]
"""For each class of effect the function that carries it out and returns its answer."""

_SLOW_S = 0.0002
_LONG_S = 0.002
_PAUSE_S = 1e6
_SUSPICIOUS = 2
_BESIDE = (
    "it ran in a thread, and {} more of the job's tasks beside it in this process (lanes=auto); what is not safe there "
    "runs alone with dask.annotate(lanes=1)"
)
_ELSEWHERE = "it ran in another thread than the executor's first (lanes=auto)"
_ONE_THREAD = (
    "what needs the main thread, or always the same one (signal handlers, a SQLite connection), "
    "needs dask.annotate(lanes=1), or wukong.Client(lanes=1)"
)


class TaskLoop:
    """See the module's docstring.

    Args:
        books, execution, values, stored: the executor's.
        handlers: of all effects but `Run`; whoever makes this loop may add to them until it runs.
        host: where the executor runs.

    Attributes:
        lanes: the threads that run tasks. watcher: looks after them.
        errors: for each task that has failed for good, what it has raised.
        stop_requests: called when the walk has ended, before tasks in other lanes have.
    """

    def __init__(
        self,
        books: Books,
        execution: Execution,
        values: Values,
        stored: StoreEffects,
        handlers: Handlers,
        host: ExecutorHost,
    ) -> None:
        self._books, self._execution, self._values, self._stored = books, execution, values, stored
        self._handlers, self._memory_bytes = handlers, host.memory_bytes
        self._order, self._policy, self._recorder = books.order, books.order.policy, books.recorder
        self._walk: Effects | None = None
        self._tell_waiting = task_context.waiting()
        cached = values.cache.__getitem__
        self._value_of = sound(cached) if self._order.isolated else cached
        self._failures = FailureKeeper(self._order, host.codec, values.write_blobs, cached, books.ledger.failed)
        self._remains = RemainsKeeper(
            values.cache, host.codec, values.write_blobs, books.names, books.ledger.stored, self._policy.resume_bytes
        )
        self.errors: dict[int, Raised] = {}
        self.stop_requests: Callable[[], None] = _nothing
        width = Width(host.cores) if self._policy.lanes == "auto" and not self._order.attempt else None
        self.lanes = lanes = LaneThreads(self._live, cores=host.cores, watched=width is not None)
        self.watcher = Watcher(
            execution,
            lanes,
            self._policy,
            self.carry_out,
            report=books.report,
            gauge=host.gauge,
            width=width,
            kind=books.kind,
        )

    def run(self, walk: Effects) -> None:
        """Carry out the walk to its end. Raises what goes wrong in whichever lane has the walk."""
        assert self._execution.walk is not None
        lanes, self._walk = self.lanes, walk
        lanes.gate.acquire()
        self.watcher.start(self._execution.walk)
        try:
            self._live(lanes.first)
            if lanes.raised is not None:
                raise lanes.raised
        finally:
            self.watcher.end()
            self.stop_requests()
            self.waits()
            self.watcher.join()
            lanes.join()

    def waits(self) -> None:
        """Tell the platform that from here on this executor only waits for the store."""
        if self._tell_waiting is not None:
            self._tell_waiting(True)

    def telling(self, handler: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return `handler`, which then tells the platform that this executor waits, unless tasks run meanwhile.

        They do in other lanes, or if the watcher carries this effect out.
        """
        tell = self._tell_waiting
        if tell is None:
            return handler

        def telling(effect: Any) -> Any:
            walk = self._execution.walk
            if (walk is not None and walk.lanes.away) or self.lanes.at.task is not None:
                return handler(effect)
            tell(True)
            try:
                return handler(effect)
            finally:
                tell(False)

        return telling

    def describe(self) -> str | None:
        """Return the key of the calling thread's task as text, or the keys of all tasks that run; None: none does."""
        return self.lanes.named(self._books.name)

    def carry_out(self, effects: Effects) -> None:
        """Carry out effects other than `Run` until there are no more."""
        try:
            effect: Effect = next(effects)
            while True:
                effect = self._handled(effects, effect)
        except StopIteration:
            return

    def _handled(self, effects: Effects, effect: Effect) -> Effect:
        """Carry out one effect other than `Run`; return the next one. Raises StopIteration if there is none."""
        try:
            answer = self._handlers[type(effect)](effect)
        except Exception as error:
            return _thrown(effects, error)
        return effects.send(answer)

    def _live(self, lane: TaskLane) -> None:
        """Carry out the walk in one lane, which has the gate, as long as there is something for it to do."""
        lanes = self.lanes
        try:
            lanes.enter(lane)
            if lane is not lanes.first:
                self._recorder.begin_lane()
            self._go(lane)
        except StopIteration:
            lanes.end()
        except BaseException as error:
            if lanes.holds(lane):
                lanes.end(error)
            else:
                self.lanes.broken = Stopped()  # whoever has the walk, or comes to have it
                lanes.give_up(error)

    def _go(self, lane: TaskLane) -> None:
        """Carry out the walk. The loop of every task: keep it short. Raises StopIteration at the walk's end."""
        walk, lanes = self._walk, self.lanes
        assert walk is not None and self._execution.walk is not None
        acquire, release = lanes.gate.acquire, lanes.gate.release
        landed, away, overlap = lanes.landed, self._execution.walk.lanes.away, self._execution.walk.overlap
        values, ops, clock, send = self._values, self._stored.ops, time.perf_counter, walk.send
        cache, held = values.cache, values.held
        reads = self._stored.reads if self._policy.release else None
        value_of, recorder = self._value_of, self._recorder
        note_ran, note_lane = recorder.ran.append, recorder.lanes.append
        note_begun, note_ended = recorder.began.append, recorder.ended.append
        number, hook, exclusive = lane.number, self._hook(), self._execution.walk.frontier.exclusive
        effect = self._entered(lane)
        while effect is not None:
            if type(effect) is not Run:
                if type(effect) is Pause and (away or (overlap.under_way and overlap.lands)):
                    effect = self._paused(lane, effect)
                else:
                    effect = self._handled(walk, effect)
                continue
            task = effect.task
            if number and task in exclusive:
                lanes.give_first(effect)
                effect = self._woken(lane, lanes.wait(lane))
                continue
            op = ops.pop(task)
            lane.task = task
            lane.since = begun = clock()
            if hook is not None:
                hook()
            release()
            try:
                value = run_op(op, value_of)
            except BaseException as error:
                tried = self._again(lane, op, error)
                if isinstance(tried, Failed | Missing) or lanes.at is not lane:
                    effect = self._came(lane, effect, tried, begun)
                    continue
                value = tried.value
            if not acquire(False):
                effect = self._came(lane, effect, _Value(value), begun)
                continue
            if landed or lanes.at is not lane or lanes.broken is not None:
                effect = self._came(lane, effect, _Value(value), begun, gated=True)
                continue
            now = clock()
            lane.task = None
            cache[task] = value
            if reads is not None:
                self._values.note_reads(reads.pop(task, ()))
            for used in effect.last_use:
                del cache[used]
            note_ran(task)
            note_lane(number)
            note_begun(begun)
            note_ended(now)
            if held:
                values.forget(effect.last_use)
            if now - begun > _SLOW_S:
                self._note_slow(task, value, now - begun)
            effect = send(now)

    def _entered(self, lane: TaskLane) -> Effect | None:
        """Begin the walk in the first lane; take it over in any other. Returns the next effect."""
        assert self._walk is not None
        if lane is self.lanes.first:
            return next(self._walk)
        self.lanes.at = lane
        return self._walk.send(overstays())

    def _hook(self) -> Callable[[], None] | None:
        """Return what is to be called before each task."""
        hook = task_context.task_hook()
        if self._order.attempt and task_context.heard():
            return _both(task_context.announce, hook)
        if self._order.attempt >= _SUSPICIOUS:  # nobody will tell which task kills this: the last heartbeat does
            return _both(self.watcher.beat, hook)
        return hook

    def _came(
        self, lane: TaskLane, run: Run, outcome: _Value | Failed | Missing, began: float, *, gated: bool = False
    ) -> Effect | None:
        """Hand in what a lane has run, if another lane has had the walk meanwhile or if something has gone wrong.

        `gated`: the lane has the gate. Returns the effect that the lane is to carry out next; None: the walk has ended.
        """
        lanes, walk, now = self.lanes, self._walk, time.perf_counter()
        self._recorder.on_core()  # before this thread is idle, for `Recorder.settle` in another
        assert walk is not None and self._execution.walk is not None
        mine = LaneResult(lane.number, run, getattr(outcome, "value", None), isinstance(outcome, Failed), began, now)
        queued = lanes.at is not lane and not isinstance(outcome, Missing)
        if queued:
            lanes.landed.append(mine)  # the lane that has the walk may take it in first
        if not gated:
            lanes.gate.acquire()
        if lane.due is not None and not lanes.over:
            return self._woken(lane, True)
        lane.task = None
        if lanes.over:
            lanes.gate.release()
            return None
        if isinstance(outcome, Missing):  # it never began
            lanes.at = lane
            return _thrown(walk, outcome)
        if self.lanes.broken is not None:
            lanes.at = lane
            return _thrown(walk, self.lanes.broken)
        if queued or lanes.at is not lane:
            if not queued:
                lanes.landed.append(mine)
            # Nobody goes on beside a task that is to run alone: its own lane takes in requests that have ended.
            if not lanes.landed or lanes.at.task in self._execution.walk.frontier.exclusive:
                return self._woken(lane, lanes.wait(lane))
            lanes.at = lane
            return walk.send(self._taken_in())
        self._take_in(mine)
        if not lanes.landed or not self._execution.walk.overlap.lands:
            return walk.send(Failed() if mine.failed else now)
        return walk.send(self._taken_in(mine))

    def _taken_in(self, *ended: LaneResult) -> Landed:
        """Take in what has landed; return what the walk is told of that, and of what has `ended` here."""
        landed = self.lanes.landed
        tasks, came, results = list(ended), [], list(landed)
        del landed[: len(results)]
        for each in results:
            if isinstance(each, LaneResult):
                self._take_in(each)
                tasks.append(each)
            else:
                came.append(each.take_in())
        return told(tasks, came, time.perf_counter())

    def _take_in(self, ended: LaneResult) -> None:
        """Take the value of a task into the cache, and note that it has run."""
        task, values, recorder = ended.run.task, self._values, self._recorder
        if ended.failed:
            return
        values.cache[task] = ended.value
        if self._policy.release:
            values.note_reads(self._stored.reads.pop(task, ()))
        for used in ended.run.last_use:
            del values.cache[used]
        recorder.ran.append(task)
        recorder.lanes.append(ended.lane)
        recorder.began.append(ended.began)
        recorder.ended.append(ended.ended)
        values.forget(ended.run.last_use)
        if ended.ended - ended.began > _SLOW_S:
            self._note_slow(task, ended.value, ended.ended - ended.began)

    def _note_slow(self, task: int, value: Any, ran_s: float) -> None:
        """Note the size of a value whose task ran for `ran_s`; and after a long one, how much memory is in use."""
        memory_bytes = self._memory_bytes() if ran_s > _LONG_S else 0
        self._recorder.slow(task, self._values.account(task, value), memory_bytes)

    def _paused(self, lane: TaskLane, pause: Pause) -> Effect | None:
        """Carry out `Pause` while tasks run in other lanes, which may take the walk, or requests are under way."""
        lanes, walk, tell = self.lanes, self._walk, self._tell_waiting
        assert walk is not None and self._execution.walk is not None
        if lanes.landed:
            return walk.send(self._taken_in())
        alone = not self._execution.walk.lanes.away
        if not alone:
            tell = None
        begun = time.perf_counter()
        if tell is not None:
            tell(True)
        woken = lanes.wait(lane, None if pause.seconds > _PAUSE_S else pause.seconds)
        if tell is not None:  # no task runs that could have ended and taken the walk: it is this lane that goes on
            tell(False)
        ended = time.perf_counter()
        self._recorder.span("wait", begun, ended)
        if alone and woken is False:
            self._books.report.waited_s += ended - begun
        return self._woken(lane, woken)

    def _woken(self, lane: TaskLane, woken: bool | None) -> Effect | None:
        """Go on after `LaneThreads.wait`. Returns the next effect; None: the walk has ended."""
        lanes, walk = self.lanes, self._walk
        assert walk is not None
        if woken is None:
            return None
        due, lane.due = lane.due, None
        if due is not None:
            lane.task = None
        runs, lanes.at = lanes.at.task is not None, lane
        if lanes.broken is not None:
            return _thrown(walk, lanes.broken)
        if due is not None:
            return due
        if not woken:
            return walk.send(time.perf_counter())
        return walk.send(overstays() if runs else self._taken_in())

    def _again(self, lane: TaskLane, op: Any, error: BaseException) -> Failed | _Value | Missing:
        """Run a task that has raised once more in place, as often as its retries allow."""
        task = lane.task
        assert task is not None
        if isinstance(error, Poisoned):
            try:
                return _Value(poisoned(op, self._values.cache))
            except BaseException as own:
                error = own
        if isinstance(error, Missing):
            return error
        left, begun = self._stored.retries.get(task, self._policy.retries), lane.since
        while True:
            beside = len(self.lanes.running()) - 1
            raised, ended = Raised.of(error, self._books.name(task)), time.perf_counter()
            self._recorder.failed(task, begun, ended, raised, again=left > 0)
            if left <= 0 or isinstance(error, KeptLost):  # what has gone does not come back
                break
            left -= 1
            try:
                return _Value(run_op(op, self._value_of))
            except BaseException as again:
                error, begun = again, ended
        if not isinstance(error, KeptLost):  # of which the job ends, so that its client begins it again
            raised = self._failures.keep(task, op, raised)
            if self._policy.lanes == "auto" and not isinstance(error, KeyboardInterrupt | SystemExit):
                hints = raised.hint, self._where(lane, beside)
                raised = replace(raised, hint="; ".join(filter(None, hints)))
            if self._order.isolated:
                return _Value(raised)
            if self._policy.resume_jobs:
                walk = self._execution.walk
                assert walk is not None
                left_s = walk.leaving.deadline - time.perf_counter()
                self._remains.keep(walk.frontier.stored, left_s)
        self.errors[task] = raised
        return Failed()

    def _where(self, lane: TaskLane, beside: int) -> str:
        """Return what an error says of the thread in which its task ran; "" if it ran in the first one, and alone.

        `beside`: how many other tasks ran meanwhile.
        """
        if beside > 0:
            return f"{_BESIDE.format(beside)}; {_ONE_THREAD}"
        return "" if lane is self.lanes.first else f"{_ELSEWHERE}; {_ONE_THREAD}"

    def pause(self, effect: Pause) -> float:
        """Carry out `Pause` while no task runs."""
        time.sleep(effect.seconds)
        self._books.report.waited_s += effect.seconds
        if self.lanes.broken is not None:
            raise self.lanes.broken
        return time.perf_counter()


@dataclass(frozen=True, slots=True)
class _Value:
    value: Any


def _thrown(effects: Effects, error: Exception) -> Effect:
    """Throw an error into the generator, and return the next effect; raise it here if the platform is to report it."""
    if isinstance(error, Retryable):
        raise error
    return effects.throw(error)


def _nothing() -> None:
    """Do nothing."""


def _both(first: Callable[[], None], second: Callable[[], None] | None) -> Callable[[], None]:
    def both() -> None:
        first()
        if second is not None:
            second()

    return both
