"""The real interpreter of the protocol: what runs inside a function.

`Executor` carries out the effects of one `wukong.core.walk.Walk` against a store, a FaaS backend and the user's
functions, and keeps the cache of values. One thread walks and runs tasks; a second, the *watcher*, sleeps for
`patience` at a time and, where a task has been running longer than that, lets the walk hand over what others could
do meanwhile (`Walk.overdue`), and sends heartbeats. `_gate` is free exactly while a task runs: whoever has it owns
the walk. Longer than other modules, because each effect is one short method here; values are `wukong.core.values`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf
from typing import Any, TypeVar

from wukong.core import current, handles, imports
from wukong.core.codec import Codec
from wukong.core.collection import put_off
from wukong.core.dag import Out, Page, run_op
from wukong.core.effects import (
    Abort,
    Arrival,
    Arrived,
    Blob,
    Drop,
    Effect,
    Failed,
    Finish,
    Get,
    Incr,
    Invoke,
    LoadPage,
    Now,
    Outcome,
    Part,
    Pause,
    Put,
    Record,
    Run,
    Size,
    Slots,
    claimant,
    joined,
)
from wukong.core.events import Done, End, Heartbeat, Ran, Report
from wukong.core.lock import Tickets
from wukong.core.names import Names, text_of
from wukong.core.order import PAYLOAD, Envelope, Order, Send, StorePort
from wukong.core.policy import Costs
from wukong.core.raised import Poisoned, Raised, sound
from wukong.core.targets import Writer
from wukong.core.values import Missing, Values
from wukong.core.walk import Effects, Walk
from wukong.errors import Retryable, ValueLost

_SLOW_S = 0.0002
_WATCH_S = 0.001
_WATCH_LAST_S = 0.05
_INLINE_BYTES = 8_192
_SUSPICIOUS = 2
_MARGIN = 0.1
_MARGIN_MOST_S = 10.0
_T = TypeVar("_T")


class Stopped(Exception):
    """The job is not wanted any more, or its client has fallen silent."""


class Executor:
    """Carry out one invocation.

    Args:
        envelope: the payload, its order inside.
        store, codec: with what.
        send: starts the invocations it makes.
        free_slots: how many of those would start at once; None: no bound is known.
        pages: pages of this job that this process has decoded before; added to.
        time_limit_s: the platform ends this invocation so long after its begin; None: never.
        usage: what this invocation has asked of the store: operations, bytes written, bytes read, seconds.
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
        usage: Callable[[], tuple[int, int, int, float]] | None = None,
    ) -> None:
        assert envelope.order is not None
        self.envelope = envelope
        self.order = order = envelope.order
        self.store, self.codec = store, codec
        self._time_limit_s = time_limit_s
        self._usage = usage
        self._send, self._pages = send, {} if pages is None else pages
        self.names = Names(order.job)
        self.policy = order.policy
        self.report = Report(latency_s=max(0.0, time.time() - order.sent_at))
        self.costs = Costs(*order.costs)
        self.values = values = Values(order, store, codec, self.report, self.costs, self._name)
        self._writer = Writer(self.names, codec, values.write_blobs, lambda: self._task)
        self._value_of = sound(values.cache.__getitem__) if order.isolated else values.cache.__getitem__
        self._tickets = Tickets(self.names, store, self.policy.ttl_s, lambda: self._task, self.describe)
        self._ops: dict[int, Any] = {}
        self._keys: dict[int, Any] = {}
        self._retries: dict[int, int] = {}
        self._arrived: list[int] = []
        self._ran: list[Ran] = []
        self._orders: dict[str, bytes] = {}
        self._error: Raised | None = None
        self._broken: Exception | None = None
        self._task: int | None = None
        self._walker: Walk | None = None
        self._announced: int | None = None
        self._sign = b""
        self._sign_at = 0.0
        self._made: list[str] = []
        self._sent = 0
        self._reads: dict[int, Out] = {}
        self._shipped: list[int] = []
        self._task_since = 0.0
        self._began = 0.0
        self._gate = threading.Lock()
        self._ended = threading.Event()
        self._finished = False
        self._missing: bytes | None = None
        self._handlers: dict[type, Callable[[Any], Any]] = {
            Now: lambda _: time.perf_counter(),
            LoadPage: self._load_page,
            Get: values.get,
            Size: values.size,
            Put: values.put,
            Incr: self._incr,
            Drop: values.drop,
            Slots: lambda _: free_slots(),
            Record: self._record,
            Invoke: self._start,
            Pause: self._pause,
            Finish: self._finish,
            Abort: self._abort,
        }
        self._tell_waiting = tell = current.waiting()
        if tell is not None:
            for kind in (LoadPage, Get, Put, Incr, Drop, Record, Invoke, Pause, Finish):
                self._handlers[kind] = _told(self._handlers[kind], tell)

    # --- driving

    def execute(self) -> Report:
        """Run to the end. What goes wrong here, as opposed to inside a task, becomes the job's error as well."""
        self._began = time.perf_counter()
        current.set_describer(self.describe)
        current.set_writer(self._writer)
        current.set_tickets(self._tickets)
        watcher = None
        self._waits()
        try:
            walk = self._walk()
            if walk is None:  # a late or repeated delivery: the job has ended
                return self.report
            self._walker = walk
            if self.order.attempt:
                self._beat()  # so that it has begun, even if it dies at once
            thread = threading.Thread(target=self._watch, args=(walk,), name="wukong-watcher", daemon=True)
            self._gate.acquire()
            thread.start()
            watcher = thread
            self._drive(walk.run())
        except Stopped:
            pass
        except Missing as missing:
            self._missing = missing.key
        except Retryable:
            raise  # the platform reports it, and the client makes this invocation again
        except Exception as error:
            self._tell_failure(Raised.of(error, self.describe() or f"(invocation {self.order.invocation})"))
        finally:
            self._ended.set()
            self._waits()
            if watcher is not None:
                if self._gate.locked():
                    self._gate.release()
                watcher.join()
            current.set_describer(None)
            current.set_writer(None)
            imports.leave()
            current.set_tickets(None)
            if handles.end():
                self._pages.clear()  # what they hold of those files is closed
        if self._finished:
            self._leave_nothing_behind()
        else:
            self._leave_word()
        return self.report

    def _waits(self) -> None:
        """From here until the next effect is carried out, there is only the store to wait for."""
        if self._tell_waiting is not None:
            self._tell_waiting(True)

    def _leave_word(self) -> None:
        """Write the end report; where the job is over, so that nobody will read it, leave nothing at all."""
        self.values.release()
        self.values.write({self.names.end(self.order.invocation): self._end()})
        self._leave_nothing_behind()

    def _leave_nothing_behind(self) -> None:
        """A client deletes what executors report. Once it has done so, a late run has to delete what it wrote itself.

        To be called after the last write: whoever comes second, this or the client, sees what the other wrote.
        """
        names, invocation = self.names, self.order.invocation
        if self.values.read([names.alive])[0] is not None:
            return
        life = names.life(invocation, self.order.attempt)
        keys = [f(invocation) for f in (names.invocation, names.end, names.heartbeat)]
        keys += [names.done, names.n_offloads(life)]
        below = list(self._made)
        while below:  # who made something deletes last, and nobody else would find it any more
            made = below.pop()
            count = names.n_offloads(made)
            keys += [f(made) for f in (names.invocation, names.end, names.heartbeat, names.lives)] + [count]
            blob = self.values.read([count])[0]
            below += [f"{made}.{k}" for k in range(0 if blob is None else self.codec.decode(blob, count))]
        keys += [names.page(index) for index in self._shipped]
        keys += [names.record(child) for child in self._arrived] + [names.readers(task) for task in self.values.read_of]
        spared = self.values.requested if self.order.kept else frozenset()
        keys += [names.value(task) for task in self.values.stored if task not in spared]
        self.store.delete([*keys, *self._writer.keys()])

    def describe(self) -> str | None:
        """Return the key of the running task, as text; None between tasks."""
        task = self._task
        return None if task is None else self._name(task)

    def _name(self, task: int) -> str:
        return text_of(self._keys.get(task, task))

    def _walk(self) -> Walk | None:
        order, names = self.order, self.names
        lives = [names.n_offloads(names.life(order.invocation, attempt)) for attempt in range(order.attempt + 1)]
        alive, *made = self.values.read([names.alive, *lives])
        if alive is None:
            return None
        imports.enter(order.job, order.modules, self._archive)
        handles.begin()
        inline: dict[int, Any] = {}
        if order.values is not None:
            inline = self.codec.decode(order.values, names.invocation(order.invocation) + b"/values")
            self.values.cache.update(inline)
        n_of_life = [0 if blob is None else self.codec.decode(blob, key) for blob, key in zip(made, lives, strict=True)]
        offloaded = self._handed_over(n_of_life)
        deadline = inf
        if self._time_limit_s is not None:
            margin_s = min(_MARGIN_MOST_S, _MARGIN * self._time_limit_s)
            deadline = self._began + self._time_limit_s - margin_s
        return Walk(
            order.invocation,
            order.start,
            order.n_tasks,
            self.policy,
            self.costs,
            inline=inline,
            alone=order.alone,
            offloaded=offloaded,
            n_offloads=n_of_life[-1],
            stream=order.stream,
            life=names.life(order.invocation, order.attempt),
            replay=order.attempt > 0,
            deadline=deadline,
        )

    def _archive(self) -> bytes:
        key = self.names.modules
        blob = self.values.read([key])[0]
        if blob is None:
            raise Missing(key)
        return bytes(self.codec.decode(blob, key))

    def _handed_over(self, n_of_life: list[int]) -> frozenset[int]:
        """The start tasks of the invocations which other runs of this one have made; corrects how many those are."""
        tasks: set[int] = set()
        for attempt, n in enumerate(n_of_life):
            orders = list(self._orders_of(self.names.life(self.order.invocation, attempt), n)) if n else []
            tasks.update(task for order in orders if order is not None for task in order.start)
            n_of_life[attempt] = len(orders)
        return frozenset(tasks)

    def _orders_of(self, life: str, n: int) -> Iterator[Order | None]:
        """The first n orders that runs called `life` have recorded, and those on record beyond.

        Two such runs may have written how many they are, the smaller number last.
        """
        at, end = 0, n
        while at < end:
            blobs = self.values.read([self.names.invocation(f"{life}.{i}") for i in range(at, end)])
            for blob in blobs:
                if blob is None and at >= n:
                    return
                yield None if blob is None else self.codec.decode(blob, PAYLOAD).order
                at += 1
            end = at + 1

    def _drive(self, effects: Effects) -> None:
        """Carry out effects until there are no more. The loop of every task: keep it short."""
        handlers, send, gate = self._handlers, effects.send, self._gate
        values, ops, clock = self.values, self._ops, time.perf_counter
        cache, held = values.cache, values.held
        reads = self._reads if self.policy.release else None
        value_of, report = self._value_of, self.report
        hook = current.task_hook()
        if self.order.attempt and current.heard():
            hook = _both(current.announce, hook)
        elif self.order.attempt >= _SUSPICIOUS:  # nobody will tell which task kills this: the last heartbeat does
            hook = _both(self._beat, hook)
        try:
            effect: Effect = next(effects)
            while True:
                if type(effect) is not Run:
                    effect = send(handlers[type(effect)](effect))
                    continue
                task = effect.task
                op = ops.pop(task)
                self._task = task
                self._task_since = begun = clock()
                if hook is not None:
                    hook()
                gate.release()
                try:
                    value = run_op(op, value_of)
                except BaseException as error:
                    gate.acquire()
                    answer = self._again(task, op, error)
                    if isinstance(answer, Failed):
                        effect = send(answer)
                        continue
                    value = answer.value
                else:
                    gate.acquire()
                if self._broken is not None:
                    raise self._broken
                now = clock()
                self._task = None
                cache[task] = value
                if reads is not None:
                    self.values.note_reads(reads.pop(task, ()))
                for used in effect.last_use:
                    del cache[used]
                report.tasks += 1
                report.busy_s += now - begun
                if held:
                    values.forget(effect.last_use)
                if now - begun > _SLOW_S:
                    self.values.account(task, value)
                if self.policy.events:
                    self._note(task, now - begun)
                effect = send(now)
        except StopIteration:
            return

    def _again(self, task: int, op: Any, error: BaseException) -> Failed | _Value:
        """A task raised: run it again in place as often as it may."""
        if isinstance(error, Missing):  # it never began
            raise error
        if isinstance(error, Poisoned):
            return _Value(error.raised)
        for _ in range(self._retries.get(task, self.policy.retries)):
            self._gate.release()
            try:
                return _Value(run_op(op, self._value_of))
            except BaseException as again:
                error = again
            finally:
                self._gate.acquire()
        raised = Raised.of(error, self._name(task))
        if self.order.isolated:
            return _Value(raised)
        self._error = raised
        return Failed()

    def _watch(self, walk: Walk) -> None:
        """The watcher's life. It looks at a new task after `patience`, then ever more seldom while the task lasts."""
        beat_at = time.monotonic() + self.policy.heartbeat_s
        seen: int | None = None
        pause_s = walk.patience
        while not self._ended.wait(min(max(pause_s, _WATCH_S), self.policy.heartbeat_s)):
            if time.monotonic() >= beat_at:
                beat_at += self.policy.heartbeat_s
                self._beat()
            task = self._task
            pause_s = min(pause_s * 2, _WATCH_LAST_S) if task == seen is not None else walk.patience
            seen = task
            if task is not None and self._gate.acquire(blocking=False):
                try:
                    elapsed_s = time.perf_counter() - self._task_since
                    if self._task is not None and elapsed_s >= walk.patience and not self._ended.is_set():
                        if self._announced != self._task:
                            self._announced = self._task
                            current.announce()
                        now = time.perf_counter()
                        if walk.ready or walk.pending or now >= walk.deadline:
                            self._drive(walk.overdue(elapsed_s, now))
                        if walk.handed_on is not None:  # the platform may end this at any moment: all is handed on
                            self._leave_word()
                except Exception as error:  # raised by the walking thread, once its task is done
                    self._broken = error
                finally:
                    self._gate.release()

    def _beat(self) -> None:
        """Give a sign of life, and look for the client's. Without one, stop when the running task has ended."""
        names = self.names
        try:
            alive = self.values.read([names.alive])[0]
            if alive is None:
                self._broken = Stopped()
                return
            sign = bytes(alive)
            if sign != self._sign:
                self._sign, self._sign_at = sign, time.monotonic()
            elif time.monotonic() - self._sign_at > self.policy.orphan_s:
                self._broken = Stopped()
                return
            beat = Heartbeat(time.time(), self.report.tasks, self.describe(), self._sent, self._so_far())
            self.values.write({names.heartbeat(self.order.invocation): beat})
        except Exception as error:  # of the store, whatever its kind: raised by the walking thread, which says so
            self._broken = error

    # --- values

    def _load_page(self, effect: LoadPage) -> Page:
        index = effect.task // self.order.page_tasks
        page = self._pages.get(index)
        if page is None:
            key = self.names.page(index)
            blob = self.order.pages.get(index) or self.values.read([key])[0]
            if blob is None:
                raise Missing(key)
            with put_off():
                page = self._pages[index] = self.codec.decode(blob, key)
        numbers = range(page.first, page.first + len(page.ops))
        self._ops.update(zip(numbers, page.ops, strict=True))
        if self.order.convicted:
            self._ops.update({t: (_same, (told,), ()) for t, told in self.order.convicted.items() if t in numbers})
        self._keys.update(zip(numbers, page.keys, strict=True))
        self._retries.update(page.retries)
        if page.reads:
            self._reads.update(zip(numbers, page.reads, strict=True))
        self.values.object_keys.update(page.objects)
        return page

    def _note(self, task: int, duration_s: float) -> None:
        end = time.time()
        self._ran.append(Ran(self._keys.get(task, task), end - duration_s, end, self.order.invocation))

    # --- fan-in and fan-out

    def _incr(self, effect: Incr) -> tuple[Arrived, ...]:
        arrivals = []
        for arrive in effect.arrivals:
            record = self.names.record(arrive.child)
            value = self.values.packed(arrive.carry, record) if arrive.carry else None
            arrivals.append(Arrival(record, arrive.members, arrive.of, claimant(arrive), value, arrive.only_if_last))
            self._arrived.append(arrive.child)
        outcomes = self.store.incr(arrivals, self.policy.ttl_s)
        answers = []
        for arrival, outcome in zip(arrivals, outcomes, strict=True):
            if outcome.complete and not outcome.claimed and len(arrival.members) > 1:
                outcome = self._asked_singly(arrival, outcome)
            carried: dict[int, Any] = {}
            for blob in outcome.values:
                carried |= self.codec.decode(blob, arrival.record)
            for task, value in carried.items():
                self.values.cache.setdefault(task, value)
            answers.append(Arrived(outcome.complete, outcome.claimed, tuple(carried), outcome.give_way))
        return tuple(answers)

    def _asked_singly(self, arrival: Arrival, outcome: Outcome) -> Outcome:
        """An earlier run may have won this fan-in with any of the members that we bring together: ask for each."""
        singly = [replace(arrival, members=(m,), claimant=b"%d" % m, value=None) for m in arrival.members]
        answers = self.store.incr(singly, self.policy.ttl_s)
        return next((answer for answer in answers if answer.claimed), outcome)

    def _record(self, effect: Record) -> None:
        items: dict[bytes, Blob] = {}
        if sum(map(len, self.order.pages.values())) > _INLINE_BYTES:
            # One executor needed no store for the DAG; several share it there, rather than a copy in each payload.
            items.update((self.names.page(index), page) for index, page in self.order.pages.items())
            self._shipped = list(self.order.pages)
            self.order = replace(self.order, pages={})
        for part in effect.parts:
            envelope = replace(self.envelope, order=self._order_of(part))
            packed = bytes(joined(self.codec.encode(envelope, PAYLOAD)))
            self._orders[part.invocation] = packed
            self._made.append(part.invocation)
            items[self.names.invocation(part.invocation)] = packed
        n = int(effect.parts[-1].invocation.rpartition(".")[2]) + 1
        key = self.names.n_offloads(self.names.life(self.order.invocation, self.order.attempt))
        items[key] = self.codec.encode(n, key)
        self.values.write_blobs(items)

    def _order_of(self, part: Part) -> Order:
        place = self.names.invocation(part.invocation) + b"/values"
        values = self.values.packed(part.inline, place) if part.inline else None
        costs = self.costs.invoke_s, self.costs.round_trip_s, self.costs.bandwidth_bytes_per_s
        return replace(
            self.order,
            attempt=0,
            invocation=part.invocation,
            start=part.tasks,
            values=values,
            alone=False,
            costs=costs,
            sent_at=time.time(),
        )

    def _start(self, effect: Invoke) -> None:
        self.report.invocations += len(effect.parts)
        calls = [(part.invocation, self._orders.pop(part.invocation)) for part in effect.parts]
        self.report.sent += self._send(calls)
        self._sent = self.names.origin(effect.parts[-1].invocation)[1] + 1

    def _pause(self, effect: Pause) -> float:
        time.sleep(effect.seconds)
        self.report.waited_s += effect.seconds
        if self._broken is not None:
            raise self._broken
        return time.perf_counter()

    # --- the end

    def _finish(self, effect: Finish) -> None:
        inline: dict[int, Any] = {task: self.values.cache[task] for task in effect.inline}
        apart = self.order.isolated
        if apart:
            inline = {task: bytes(joined(self.values.told(task))) for task in effect.inline}
        self._finished = True
        self.values.write({self.names.end(self.order.invocation): self._end(), self.names.done: Done(inline, apart)})

    def _abort(self, effect: Abort) -> None:
        if effect.lost:
            keys = ", ".join(self._name(task) for task in effect.lost[:5])
            error = ValueLost(
                f"{len(effect.lost)} input(s) are not in the store any more: {keys}",
                job=self.order.job,
                task=self._name(effect.task),
                hint="the store dropped values it was given; check its memory and its time to live",
            )
            self._error = Raised.of(error, self._name(effect.task))
        assert self._error is not None, "a task has failed, and nobody knows of what"
        self._tell_failure(self._error)

    def _tell_failure(self, raised: Raised) -> None:
        self._finished = True
        done = Done(raised=raised)
        self.values.write({self.names.end(self.order.invocation): self._end(), self.names.done: done})

    def _so_far(self) -> Report:
        """Return the report up to now, with the time of the task that is running."""
        now = time.perf_counter()
        self.report.wall_s = now - self._began
        if self._usage is not None:
            used = self._usage()
            self.report.operations, self.report.put_bytes, self.report.got_bytes, self.report.store_s = used
        self.report.restored = 0 if self._walker is None else self._walker.n_restored
        running_s = 0.0 if self._task is None else now - self._task_since
        return replace(self.report, busy_s=self.report.busy_s + running_s)

    def _end(self) -> End:
        self._so_far()
        values = self.values
        read = list(values.read_of)
        rate = self.costs.measured_bytes_per_s
        locks = self._tickets.used
        return End(self.report, values.stored, self._arrived, self._ran, read, values.moved, self._missing, rate, locks)


@dataclass(frozen=True, slots=True)
class _Value:
    value: Any


def _told(handler: Callable[[Any], Any], tell: Callable[[bool], None]) -> Callable[[Any], Any]:
    def told(effect: Any) -> Any:
        tell(True)
        try:
            return handler(effect)
        finally:
            tell(False)

    return told


def _both(first: Callable[[], None], second: Callable[[], None] | None) -> Callable[[], None]:
    def both() -> None:
        first()
        if second is not None:
            second()

    return both


def _same(value: Any) -> Any:
    return value
