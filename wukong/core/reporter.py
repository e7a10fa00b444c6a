"""What one executor tells its client: signs of life, its end report, and the job's outcome if it ends the job."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

from wukong.core import handles
from wukong.core.books import Books
from wukong.core.effects import Abort, Beat, Fail, Finish, LeaveWord
from wukong.core.events import Done, End, Heartbeat, Report, RunningTask
from wukong.core.host import ExecutorHost
from wukong.core.invocation import Execution
from wukong.core.lock import Tickets
from wukong.core.raised import Raised
from wukong.core.storage import joined
from wukong.core.tally import LayerTally
from wukong.core.task_loop import TaskLoop
from wukong.core.values import Values
from wukong.errors import ValueLost


class Reporter:
    """See the module's docstring.

    Args:
        books, execution, values, loop, tickets: the executor's.
        host: knows the function's limits, and what was asked of the store.
    """

    def __init__(
        self,
        books: Books,
        execution: Execution,
        values: Values,
        loop: TaskLoop,
        tickets: Tickets,
        host: ExecutorHost,
    ) -> None:
        self._books, self._execution, self._values = books, execution, values
        self._loop, self._tickets, self._host = loop, tickets, host
        self._folding = threading.Lock()
        self._cpu_s = time.process_time()
        self._tally = LayerTally(books.keys)

    def beat(self, effect: Beat) -> None:
        """Carry out `Beat`: write a heartbeat."""
        report = self.so_far(told=True)
        with self._folding:  # a lane may beat beside the watcher
            layers = self._tally.groups()
        order, track = self._books.order, self._books.recorder.track
        limit_s, gauge = self._host.time_limit_s, self._host.gauge
        beat = Heartbeat(
            time.time(),
            report.tasks,
            self._running(),
            self._books.ledger.sent,
            report,
            order.attempt,
            track.unix_s,
            None if limit_s is None else limit_s - report.wall_s,
            None if gauge is None else gauge.tell(),
            layers,
            bool(self._tickets.used),
        )
        self._values.write({self._books.names.heartbeat(order.invocation): beat})

    def _running(self) -> tuple[RunningTask, ...]:
        now, name = time.perf_counter(), self._books.name
        return tuple(RunningTask(name(task), now - since, lane) for task, since, lane in self._loop.lanes.running())

    def finish(self, effect: Finish) -> None:
        """Carry out `Finish`: tell that the job is done, with the values that are not stored, and the end report."""
        inline: dict[int, Any] = {task: self._values.cache[task] for task in effect.inline}
        apart = self._books.order.isolated
        if apart:
            inline = {task: bytes(joined(self._values.told(task))) for task in effect.inline}
        self._tell(Done(inline, apart), finished=True)

    def abort(self, effect: Abort) -> None:
        """Carry out `Abort`: tell that the job has failed, because a task has raised or has lost inputs."""
        name, errors = self._books.name, self._loop.errors
        if effect.lost:
            keys = ", ".join(map(name, effect.lost[:5]))
            error = ValueLost(
                f"{len(effect.lost)} input(s) are not in the store any more: {keys}",
                job=self._books.order.job,
                task=name(effect.task),
                hint="the store dropped values it was given; check its memory and its time to live",
            )
            errors[effect.task] = Raised.of(error, name(effect.task))
        self._tell(Done(raised=errors[effect.task]))

    def fail(self, effect: Fail) -> None:
        """Carry out `Fail`: tell that the job has failed, and with which error that no task has raised."""
        name = self._loop.describe() or f"(invocation {self._books.order.invocation})"
        self._tell(Done(raised=Raised.of(effect.error, name)))

    def _tell(self, done: Done, *, finished: bool = False) -> None:
        names, codec = self._books.names, self._host.codec
        told = codec.encode(done, names.done)  # its values may still be read from files
        self.close_files()  # the user may write to them as soon as the job is done
        key = names.end(self._books.order.invocation)
        end = replace(self._end(), finished=finished)
        self._values.write_blobs({key: codec.encode(end, key), names.done: told})

    def leave_word(self, effect: LeaveWord) -> None:
        """Carry out `LeaveWord`: write the end report; the job goes on elsewhere."""
        self._values.release()
        self._values.write({self._books.names.end(self._books.order.invocation): self._end()})

    def close_files(self) -> None:
        """Close what tasks have opened by name."""
        if handles.end():
            self._host.pages.clear()  # they refer to files that are closed now

    def so_far(self, *, told: bool = False) -> Report:
        """Return the report up to now, with the time of the tasks that are running. `told`: a heartbeat tells it."""
        report, recorder = self._books.report, self._books.recorder
        with self._folding:
            ran = recorder.fold()
            if told:
                self._tally.take(ran)
        now = time.perf_counter()
        report.tasks, report.busy_s = recorder.n_tasks, recorder.busy_s
        report.wall_s = now - recorder.track.zero_s
        more = self._loop.watcher.more
        report.billed_s = (report.wall_s + more.used_s()) * self._host.scale
        report.cores = self._host.cores + more.most
        report.core_s = self._host.cores * report.wall_s + more.used_s()
        report.cpu_s = time.process_time() - self._cpu_s
        if self._host.usage is not None:
            used = self._host.usage()
            report.operations, report.put_bytes, report.got_bytes, report.store_s, report.store_usd = used
        walk = self._execution.walk
        report.restored = 0 if walk is None else walk.recovery.n_restored
        report.seat_wait_s = 0.0 if walk is None else walk.seats.waited_s
        running_s = sum(now - since for _, since, _ in self._loop.lanes.running())
        return replace(report, busy_s=report.busy_s + running_s)

    def _end(self) -> End:
        report = self.so_far()
        self._tickets.leave(lambda: {task for task, *_ in self._loop.lanes.running()})  # in other lanes
        books = self._books
        watcher = self._loop.watcher
        books.recorder.settle(apart=books.report.lanes == 1 or watcher.apart, busy=watcher.busy)
        ledger, track = books.ledger, books.recorder.track
        track.held = watcher.held
        track.end_s = time.perf_counter()
        return End(
            report,
            ledger.stored,
            ledger.arrived,
            track,
            list(ledger.read),
            self._values.moved,
            ledger.missing,
            books.costs.measured,
            self._tickets.used,
            ledger.failed,
            attempt=books.order.attempt,
            runs=bool(self._loop.lanes.running()),
        )
