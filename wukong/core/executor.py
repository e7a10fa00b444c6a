"""The real interpreter of the protocol: what runs inside a function.

`Executor` carries out the effects of one `wukong.core.invocation.Execution`, and decides nothing. It puts its rooms
together, and says which of them has to do with which effect:

    task_loop      the walk and the tasks: threads, clock, failures     lanes, watcher, width
    values         the values that it has: cached, put, fetched, released
    store_effects  what else it does in the store, and the invocations that it makes
    store_requests what it fetches ahead and writes behind                           io_threads
    reporter       what it tells the client: signs of life, end report, outcome
    books          what it was told, and what it keeps account of
    host           what the process gives to it
"""

from __future__ import annotations

import time
from contextlib import suppress

from wukong.core import handles, imports, task_context
from wukong.core.books import Books
from wukong.core.effects import (
    Abort,
    Beat,
    CoreWaits,
    Delete,
    Drop,
    Fail,
    FetchAhead,
    Finish,
    FreeSeats,
    Get,
    GiveSeats,
    Incr,
    Invoke,
    KeepSeats,
    LeaveWord,
    LoadPage,
    Now,
    Pause,
    Put,
    Read,
    Record,
    Size,
    Slots,
    TakeIn,
    TakeSeats,
    Unpack,
    Watched,
    WriteBehind,
)
from wukong.core.events import Report
from wukong.core.host import ExecutorHost
from wukong.core.invocation import Execution
from wukong.core.io_threads import budget_bytes
from wukong.core.kept import Keeper
from wukong.core.lock import Tickets
from wukong.core.names import Names
from wukong.core.on_core import CoreClocks
from wukong.core.payload import Envelope
from wukong.core.policy import Costs
from wukong.core.reporter import Reporter
from wukong.core.seats import SeatTickets
from wukong.core.store_effects import StoreEffects
from wukong.core.store_requests import StoreRequests
from wukong.core.targets import Writer
from wukong.core.task_loop import Handlers, TaskLoop
from wukong.core.track import SPAN_KINDS, Recorder, Track
from wukong.core.values import Values
from wukong.errors import StoreError

_MAY_WAIT = (LoadPage, Get, Put, Incr, Drop, Record, Invoke, Pause, Finish, TakeIn)


class Executor:
    """Carry out one invocation.

    Args:
        envelope: the payload, with the order in it.
        host: where this runs, and what it has there.

    Attributes:
        execution: the invocation.
        books, values, loop, reporter: see the modules of these names.
    """

    def __init__(self, envelope: Envelope, host: ExecutorHost) -> None:
        assert envelope.order is not None
        order, began, began_at = envelope.order, time.perf_counter(), time.time()
        self._host = host
        names, costs = Names(order.job), Costs(*order.costs)
        self.execution = execution = Execution(
            order,
            costs,
            time_limit_s=host.time_limit_s,
            functions=host.functions,
            function=host.function,
            room_bytes=budget_bytes(host.gauge),
        )
        track = Track(order.attempt, host.cold, host.machine, order.sent_at, began_at, began)
        track.function_bytes = host.functions[host.function] if host.functions else 0
        self._clock = CoreClocks()
        self._clock.begin()
        recorder = Recorder(track, order.policy.events, self._clock)
        if host.arrived_s is not None:
            recorder.span("open", host.arrived_s, began)
        report = Report(latency_s=max(0.0, began_at - order.sent_at))
        self.books = books = Books(order, names, report, recorder, costs, execution.ledger)
        self.values = values = Values(books, host.store, host.codec)
        self._stored = stored = StoreEffects(books, envelope, values, host)
        handlers: Handlers = {}
        self.loop = loop = TaskLoop(books, execution, values, stored, handlers, host)
        self._requests = requests = StoreRequests(books, values, stored, execution, loop.lanes, host)
        loop.stop_requests = requests.stop
        self._writer = Writer(names, host.codec, values.write_blobs, loop.lanes.task, execution.ledger.written)
        self._tickets = Tickets(names, host.store, order.policy.ttl_s, loop.lanes.task, loop.describe)
        self._seats = SeatTickets(
            names, host.store, order.policy.ttl_s, order.policy.lease_s, execution.ledger.seats.add
        )
        self._keeper = Keeper(host.codec, host.store)
        self.reporter = Reporter(books, execution, values, loop, self._tickets, host)
        handlers |= self._table()
        handlers |= {kind: loop.telling(handlers[kind]) for kind in _MAY_WAIT}
        for kind, name in SPAN_KINDS.items():
            handlers[kind] = recorder.timed(name, handlers[kind], time.perf_counter)

    def _table(self) -> Handlers:
        """Return who carries out each effect but `Run`."""
        values, stored, requests, seats = self.values, self._stored, self._requests, self._seats
        loop, reporter = self.loop, self.reporter
        return {
            Now: lambda _: time.perf_counter(),
            LoadPage: stored.load_page,
            Get: values.get,
            Size: values.size,
            Put: values.put,
            Incr: stored.incr,
            FetchAhead: requests.fetch_ahead,
            WriteBehind: requests.write_behind,
            TakeIn: requests.take_in,
            Drop: values.drop,
            Slots: self._slots,
            CoreWaits: lambda _: loop.lanes.waited_s(),
            TakeSeats: lambda effect: seats.take(effect.limits),
            GiveSeats: lambda effect: seats.give(effect.limits),
            FreeSeats: lambda effect: seats.free(effect.limits),
            KeepSeats: lambda _: seats.keep(),
            Record: stored.record,
            Invoke: stored.start,
            Pause: loop.pause,
            Finish: reporter.finish,
            Abort: reporter.abort,
            Read: stored.read,
            Delete: stored.delete,
            Unpack: self._unpack,
            Watched: self._watched,
            Beat: reporter.beat,
            LeaveWord: reporter.leave_word,
            Fail: reporter.fail,
        }

    def execute(self) -> Report:
        """Run to the end. Raises if the platform should report a failure, so that the client invokes this again."""
        task_context.set_describer(self.loop.describe)
        task_context.set_writer(self._writer)
        task_context.set_tickets(self._tickets)
        task_context.set_keeper(self._keeper)
        self.loop.waits()
        try:
            self.loop.carry_out(self.execution.run())
        finally:
            self._rest()
            self._clock.close()
        return self.books.report

    def _slots(self, _effect: Slots) -> int | None:
        free, recorder = self._host.free_slots(), self.books.recorder
        return free and max(0, free - self.loop.watcher.wants(recorder.n_tasks + len(recorder.ran)))

    def _watched(self, effect: Watched) -> None:
        at_once = False
        try:
            self.loop.run(effect.walk)
        except BaseException as error:
            at_once = not isinstance(error, Exception)  # Ctrl-C does not wait for the store
            if not at_once:
                with suppress(StoreError):
                    self._seats.leave()  # the job may go on
            raise
        finally:
            self._requests.end(at_once=at_once)
            self._rest()

    def _rest(self) -> None:
        """Undo what was set up for the tasks: none runs here any more."""
        task_context.set_describer(None)
        task_context.set_writer(None)
        imports.leave()
        task_context.set_tickets(None)
        task_context.set_keeper(None)
        self.reporter.close_files()

    def _unpack(self, effect: Unpack) -> tuple[int, ...]:
        order, values = self.books.order, self.values
        imports.enter(order.job, order.modules, self._stored.archive)
        handles.begin()
        if order.values is None:
            return ()
        place = self.books.names.invocation(order.invocation) + b"/values"
        values.cache.update(self._host.codec.decode(order.values, place))
        return tuple(values.cache)
