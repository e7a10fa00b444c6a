"""The real interpreter of the protocol: what runs inside a function.

`Executor` carries out the effects of one `wukong.core.invocation.Execution` against a store, a FaaS backend and the
user's functions, and keeps the cache of values: it has the threads, the clock, the store and the codec, and decides
nothing. One thread walks and runs tasks, or several in turn (`wukong.core.lanes`); one more looks after tasks that run
long (`wukong.core.watcher`). Values are `wukong.core.values`; what else is in the store is `wukong.core.store_effects`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from wukong.core import handles, imports, task_context
from wukong.core.codec import Codec
from wukong.core.dag import Page, run_op
from wukong.core.effects import (
    Abort,
    Beat,
    Delete,
    Drop,
    Effect,
    Effects,
    Fail,
    Failed,
    Finish,
    Get,
    Incr,
    Invoke,
    Landed,
    LeaveWord,
    LoadPage,
    Missing,
    Now,
    Pause,
    Put,
    Read,
    Record,
    Run,
    Size,
    Slots,
    Stopped,
    Unpack,
    Watched,
)
from wukong.core.events import Done, End, Heartbeat, Report
from wukong.core.failed import FailureKeeper
from wukong.core.invocation import Execution
from wukong.core.lanes import LaneResult, LaneThreads, TaskLane, overstays, told
from wukong.core.limits import MemoryGauge
from wukong.core.lock import Tickets
from wukong.core.names import Names, text_of
from wukong.core.payload import Envelope, Send
from wukong.core.policy import Costs
from wukong.core.raised import Poisoned, Raised, sound
from wukong.core.storage import StorePort, joined
from wukong.core.store_effects import StoreEffects
from wukong.core.targets import Writer
from wukong.core.track import SPAN_KINDS, ExecutorHost, Recorder, Track
from wukong.core.values import Values
from wukong.core.watcher import Watcher
from wukong.core.width import Width
from wukong.errors import Retryable, ValueLost

_SLOW_S = 0.0002
_LONG_S = 0.002
_PAUSE_S = 1e6
_SUSPICIOUS = 2


class Executor:
    """Carry out one invocation.

    Args:
        envelope: the payload, with the order in it.
        store, codec: where values go, and how they become bytes.
        send: starts the invocations it makes.
        free_slots: how many of those would start at once; None: no bound is known.
        pages: pages of this job that this process has decoded before; added to.
        time_limit_s: how long after its begin the platform ends this invocation; None: it never does.
        usage: what this invocation has asked of the store: operations, bytes written, bytes read, seconds, US dollars.
        gauge: how full this process's memory is; None: the platform does not end it for that.
        host: where this runs, for the record; its clock is `time.perf_counter`.
    """

    def __init__(
        self,
        envelope: Envelope,
        store: StorePort,
        codec: Codec,
        send: Send,
        free_slots: Callable[[], int | None],
        pages: dict[int, Page] | None = None,
        time_limit_s: float | None = None,
        usage: Callable[[], tuple[int, int, int, float, float]] | None = None,
        gauge: MemoryGauge | None = None,
        host: ExecutorHost | None = None,
    ) -> None:
        assert envelope.order is not None
        self._began, self._began_at = time.perf_counter(), time.time()
        self.envelope = envelope
        self.order = order = envelope.order
        self.store, self.codec = store, codec
        self._time_limit_s = time_limit_s
        self._usage, self._gauge = usage, gauge
        self._pages = {} if pages is None else pages
        self.names = Names(order.job)
        self.policy = order.policy
        self.report = Report(latency_s=max(0.0, self._began_at - order.sent_at))
        host = ExecutorHost() if host is None else host
        track = Track(order.attempt, host.cold, host.machine, order.sent_at, self._began_at, self._began)
        self._recorder = recorder = Recorder(track, self.policy.events)
        if host.arrived_s is not None:
            recorder.span("open", host.arrived_s, self._began)
        self._memory_bytes = host.memory_bytes
        width = Width(host.cores) if self.policy.lanes == "auto" and not order.attempt else None
        self._folding = threading.Lock()
        self.costs = Costs(*order.costs)
        self.execution = Execution(order, self.costs, time_limit_s=time_limit_s)
        self._ledger = ledger = self.execution.ledger
        self.values = values = Values(order, store, codec, self.report, self.costs, ledger, self._name, recorder)
        self.lanes = lanes = LaneThreads(self._live, watched=width is not None)
        self._walk: Effects | None = None
        self._writer = Writer(self.names, codec, values.write_blobs, lanes.task, ledger.written)
        write, cached = values.write_blobs, values.cache.__getitem__
        self._failures = FailureKeeper(order, codec, write, cached, ledger.failed)
        self._value_of = sound(values.cache.__getitem__) if order.isolated else values.cache.__getitem__
        self._tickets = Tickets(self.names, store, self.policy.ttl_s, lanes.task, self.describe)
        self._stored = stored = StoreEffects(
            envelope, store, codec, values, self.costs, ledger, recorder, send, self.report, self._pages
        )
        self.watcher = Watcher(
            self.execution, lanes, self.policy, self._carry_out, report=self.report, gauge=gauge, width=width
        )
        self._errors: dict[int, Raised] = {}
        self._handlers: dict[type, Callable[[Any], Any]] = {
            Now: lambda _: time.perf_counter(),
            LoadPage: stored.load_page,
            Get: values.get,
            Size: values.size,
            Put: values.put,
            Incr: stored.incr,
            Drop: values.drop,
            Slots: lambda _: free_slots(),
            Record: stored.record,
            Invoke: stored.start,
            Pause: self._pause,
            Finish: self._finish,
            Abort: self._abort,
        }
        self._tell_waiting = tell = task_context.waiting()
        if tell is not None:
            for kind in (LoadPage, Get, Put, Incr, Drop, Record, Invoke, Pause, Finish):
                self._handlers[kind] = self._told(self._handlers[kind], tell)
        self._handlers |= {
            Read: stored.read,
            Delete: stored.delete,
            Unpack: self._unpack,
            Watched: self._watched,
            Beat: self._beaten,
            LeaveWord: self._leave_word,
            Fail: self._fail,
        }
        for timed, name in SPAN_KINDS.items():
            self._handlers[timed] = recorder.timed(name, self._handlers[timed], time.perf_counter)

    # --- driving

    def execute(self) -> Report:
        """Run to the end. Raises if the platform should report a failure, so that the client invokes this again."""
        task_context.set_describer(self.describe)
        task_context.set_writer(self._writer)
        task_context.set_tickets(self._tickets)
        self._waits()
        try:
            self._carry_out(self.execution.run())
        finally:
            self._rest()
        return self.report

    def _waits(self) -> None:
        """Say that from here until the walk's next effect there is only the store to wait for."""
        if self._tell_waiting is not None:
            self._tell_waiting(True)

    def _watched(self, effect: Watched) -> None:
        walk = self.execution.walk
        assert walk is not None
        lanes, self._walk = self.lanes, effect.walk
        lanes.gate.acquire()
        self.watcher.start(walk)
        try:
            self._live(lanes.first)
            if lanes.raised is not None:
                raise lanes.raised
        finally:
            self.watcher.end()
            self._waits()
            self.watcher.join()
            lanes.join()
            self._rest()

    def _rest(self) -> None:
        """Undo what was set up for the tasks: none runs here any more."""
        task_context.set_describer(None)
        task_context.set_writer(None)
        imports.leave()
        task_context.set_tickets(None)
        self._close_files()

    def _close_files(self) -> None:
        if handles.end():
            self._pages.clear()  # what they hold of those files is closed

    def describe(self) -> str | None:
        """Return the key of the calling thread's task, as text, or those of all tasks that run; None between tasks."""
        return self.lanes.named(self._name)

    def _name(self, task: int) -> str:
        return text_of(self._stored.keys.get(task, task))

    def _unpack(self, effect: Unpack) -> tuple[int, ...]:
        order = self.order
        imports.enter(order.job, order.modules, self._stored.archive)
        handles.begin()
        if order.values is None:
            return ()
        place = self.names.invocation(order.invocation) + b"/values"
        self.values.cache.update(self.codec.decode(order.values, place))
        return tuple(self.values.cache)

    def _carry_out(self, effects: Effects) -> None:
        """Carry out effects other than `Run` until there are no more."""
        handlers = self._handlers
        try:
            effect: Effect = next(effects)
            while True:
                try:
                    answer = handlers[type(effect)](effect)
                except Exception as error:
                    effect = _thrown(effects, error)
                else:
                    effect = effects.send(answer)
        except StopIteration:
            return

    def _live(self, lane: TaskLane) -> None:
        """Carry out the walk in one lane, while there is something for it to do. It has the gate."""
        lanes = self.lanes
        lanes.enter(lane)
        try:
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
        walk, lanes, handlers = self._walk, self.lanes, self._handlers
        assert walk is not None and self.execution.walk is not None
        acquire, release = lanes.gate.acquire, lanes.gate.release
        landed, away = lanes.landed, self.execution.walk.lanes.away
        values, ops, clock, send = self.values, self._stored.ops, time.perf_counter, walk.send
        cache, held = values.cache, values.held
        reads = self._stored.reads if self.policy.release else None
        value_of, recorder = self._value_of, self._recorder
        note_ran, note_begun, note_ended = recorder.ran.append, recorder.began.append, recorder.ended.append
        hook = self._hook()
        effect: Effect | None
        if lane is lanes.first:
            effect = next(walk)
        else:
            lanes.at = lane
            effect = send(overstays())
        while effect is not None:
            if type(effect) is not Run:
                if away and type(effect) is Pause:
                    effect = self._paused(lane, effect)
                    continue
                try:
                    answer = handlers[type(effect)](effect)
                except Exception as error:
                    effect = _thrown(walk, error)
                else:
                    effect = send(answer)
                continue
            task = effect.task
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
                self.values.note_reads(reads.pop(task, ()))
            for used in effect.last_use:
                del cache[used]
            note_ran(task)
            note_begun(begun)
            note_ended(now)
            if held:
                values.forget(effect.last_use)
            if now - begun > _SLOW_S:
                memory_bytes = self._memory_bytes() if now - begun > _LONG_S else 0
                recorder.slow(task, values.account(task, value), memory_bytes)
            effect = send(now)

    def _hook(self) -> Callable[[], None] | None:
        """Return what is to be called before each task."""
        hook = task_context.task_hook()
        if self.order.attempt and task_context.heard():
            return _both(task_context.announce, hook)
        if self.order.attempt >= _SUSPICIOUS:  # nobody will tell which task kills this: the last heartbeat does
            return _both(self.watcher.beat, hook)
        return hook

    # --- several lanes

    def _came(
        self, lane: TaskLane, run: Run, outcome: _Value | Failed | Missing, began: float, *, gated: bool = False
    ) -> Effect | None:
        """Hand in what a lane has run, if another lane has had the walk meanwhile, or if something has gone wrong.

        Returns what the lane is to carry out next; None: nothing, for the walk has ended.
        """
        lanes, walk, now = self.lanes, self._walk, time.perf_counter()
        assert walk is not None and self.execution.walk is not None
        mine = LaneResult(run, getattr(outcome, "value", None), isinstance(outcome, Failed), began, now)
        queued = lanes.at is not lane and not isinstance(outcome, Missing)
        if queued:
            lanes.landed.append(mine)  # the lane that has the walk may take it in first
        if not gated:
            lanes.gate.acquire()
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
            if not lanes.landed or not self.execution.walk.lanes.lands:
                return self._idle(lane)
            lanes.at = lane
            return walk.send(self._taken_in())
        self._take_in(mine)
        if not lanes.landed or not self.execution.walk.lanes.lands:
            return walk.send(Failed() if mine.failed else now)
        return walk.send(self._taken_in(mine))

    def _taken_in(self, *ended: LaneResult) -> Landed:
        """Take in what has come from other lanes; return what the walk is told of it, and of what has `ended` here."""
        landed = self.lanes.landed
        came = list(landed)
        del landed[: len(came)]
        for each in came:
            self._take_in(each)
        return told([*ended, *came], time.perf_counter())

    def _take_in(self, ended: LaneResult) -> None:
        """Take the value of a task into the cache, and note that it has run."""
        task, values, recorder = ended.run.task, self.values, self._recorder
        if ended.failed:
            return
        values.cache[task] = ended.value
        if self.policy.release:
            values.note_reads(self._stored.reads.pop(task, ()))
        for used in ended.run.last_use:
            del values.cache[used]
        recorder.ran.append(task)
        recorder.began.append(ended.began)
        recorder.ended.append(ended.ended)
        values.forget(ended.run.last_use)
        if ended.ended - ended.began > _SLOW_S:
            recorder.slow(task, values.account(task, ended.value), self._memory_bytes())

    def _paused(self, lane: TaskLane, pause: Pause) -> Effect | None:
        """Let time pass while tasks run in other lanes, one of which may take the walk."""
        lanes, walk = self.lanes, self._walk
        assert walk is not None
        if lanes.landed:
            return walk.send(self._taken_in())
        begun = time.perf_counter()
        timeout_s = None if pause.seconds > _PAUSE_S else pause.seconds
        effect = self._idle(lane, timeout_s)
        self._recorder.span("wait", begun, time.perf_counter())
        return effect

    def _idle(self, lane: TaskLane, timeout_s: float | None = None) -> Effect | None:
        """Be idle. Returns what to carry out next; None: the walk has ended."""
        lanes, walk = self.lanes, self._walk
        assert walk is not None
        woken = lanes.wait(lane, timeout_s)
        if woken is None:
            return None
        if self.lanes.broken is not None:
            lanes.at = lane
            return _thrown(walk, self.lanes.broken)
        if not woken:
            return walk.send(time.perf_counter())
        lanes.at = lane
        return walk.send(overstays())

    def _again(self, lane: TaskLane, op: Any, error: BaseException) -> Failed | _Value | Missing:
        """Run a task that raised again in place, as often as it may."""
        task = lane.task
        assert task is not None
        if isinstance(error, Missing):
            return error
        if isinstance(error, Poisoned):
            return _Value(error.raised)
        left, begun = self._stored.retries.get(task, self.policy.retries), lane.since
        while True:
            raised, ended = Raised.of(error, self._name(task)), time.perf_counter()
            self._recorder.failed(task, begun, ended, raised, again=left > 0)
            if left <= 0:
                break
            left -= 1
            try:
                return _Value(run_op(op, self._value_of))
            except BaseException as again:
                error, begun = again, ended
        raised = self._failures.keep(task, op, raised)
        if self.order.isolated:
            return _Value(raised)
        self._errors[task] = raised
        return Failed()

    def _told(self, handler: Callable[[Any], Any], tell: Callable[[bool], None]) -> Callable[[Any], Any]:
        """Return `handler`; who calls it tells that this executor waits, unless a task runs in another lane."""

        def told(effect: Any) -> Any:
            walk = self.execution.walk
            if walk is not None and walk.lanes.away:
                return handler(effect)
            tell(True)
            try:
                return handler(effect)
            finally:
                tell(False)

        return told

    def _beaten(self, effect: Beat) -> None:
        report, task, running = self._so_far(), self.describe(), self.lanes.running()
        beat = Heartbeat(
            time.time(),
            report.tasks,
            task,
            self._ledger.sent,
            report,
            self.order.attempt,
            self._began_at,
            time.perf_counter() - running[0][1] if running else 0.0,
            None if self._time_limit_s is None else self._time_limit_s - report.wall_s,
            None if self._gauge is None else self._gauge.tell(),
        )
        self.values.write({self.names.heartbeat(self.order.invocation): beat})

    def _pause(self, effect: Pause) -> float:
        time.sleep(effect.seconds)
        self.report.waited_s += effect.seconds
        if self.lanes.broken is not None:
            raise self.lanes.broken
        return time.perf_counter()

    # --- the end

    def _finish(self, effect: Finish) -> None:
        inline: dict[int, Any] = {task: self.values.cache[task] for task in effect.inline}
        apart = self.order.isolated
        if apart:
            inline = {task: bytes(joined(self.values.told(task))) for task in effect.inline}
        self._tell(Done(inline, apart))

    def _abort(self, effect: Abort) -> None:
        if effect.lost:
            keys = ", ".join(self._name(task) for task in effect.lost[:5])
            error = ValueLost(
                f"{len(effect.lost)} input(s) are not in the store any more: {keys}",
                job=self.order.job,
                task=self._name(effect.task),
                hint="the store dropped values it was given; check its memory and its time to live",
            )
            self._errors[effect.task] = Raised.of(error, self._name(effect.task))
        self._tell(Done(raised=self._errors[effect.task]))

    def _fail(self, effect: Fail) -> None:
        name = self.describe() or f"(invocation {self.order.invocation})"
        self._tell(Done(raised=Raised.of(effect.error, name)))

    def _tell(self, done: Done) -> None:
        told = self.codec.encode(done, self.names.done)  # its values may still be read from files
        self._close_files()  # the user may write to them as soon as the job is done
        key = self.names.end(self.order.invocation)
        self.values.write_blobs({key: self.codec.encode(self._end(), key), self.names.done: told})

    def _leave_word(self, effect: LeaveWord) -> None:
        self.values.release()
        self.values.write({self.names.end(self.order.invocation): self._end()})

    def _so_far(self) -> Report:
        """Return the report up to now, with the time of the task that is running."""
        with self._folding:
            self._recorder.fold()
        now = time.perf_counter()
        self.report.tasks, self.report.busy_s = self._recorder.n_tasks, self._recorder.busy_s
        self.report.wall_s = now - self._began
        if self._usage is not None:
            used = self._usage()
            self.report.operations, self.report.put_bytes, self.report.got_bytes, self.report.store_s = used[:4]
            self.report.store_usd = used[4]
        self.report.restored = 0 if self.execution.walk is None else self.execution.walk.recovery.n_restored
        running_s = sum(now - since for _, since in self.lanes.running())
        return replace(self.report, busy_s=self.report.busy_s + running_s)

    def _end(self) -> End:
        self._so_far()
        track = self._recorder.track
        track.end_s = time.perf_counter()
        ledger, moved = self._ledger, self.values.moved
        rate = self.costs.measured_bytes_per_s
        locks = self._tickets.used
        read, missing = list(ledger.read), ledger.missing
        return End(self.report, ledger.stored, ledger.arrived, track, read, moved, missing, rate, locks, ledger.failed)


@dataclass(frozen=True, slots=True)
class _Value:
    value: Any


def _thrown(effects: Effects, error: Exception) -> Effect:
    """Throw an error into the generator; raise it instead if the platform should report it."""
    if isinstance(error, Retryable):
        raise error
    return effects.throw(error)


def _both(first: Callable[[], None], second: Callable[[], None] | None) -> Callable[[], None]:
    def both() -> None:
        first()
        if second is not None:
            second()

    return both
