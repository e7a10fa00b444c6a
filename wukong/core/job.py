"""The job, as the client sees it: ship, invoke, wait on one key, collect, and leave nothing behind.

    Graph -> pages, objects -> store          (a small DAG travels inside the payload instead)
    start tasks -> invocation records -> invoke
    wait for the key "done" -> values
    walk the tree of invocations -> reports, keys to delete

The client schedules nothing, it watches: if the platform reports an invocation dead, the client invokes it again under
its own id, which repeats nothing that counts (rule 2). After too many failures the job fails, with that invocation's
story.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from wukong.core.account import Account, Moment, Status, account, status_after
from wukong.core.codec import Codec
from wukong.core.dag import Graph
from wukong.core.events import Done
from wukong.core.lock import Locks
from wukong.core.names import Names, text_of
from wukong.core.payload import Envelope, Send, Sent
from wukong.core.policy import Costs, Policy
from wukong.core.raised import Raised
from wukong.core.record import JobRecord, Seen, Story, record_of
from wukong.core.redirect import redirect
from wukong.core.results import Result, Results
from wukong.core.shipment import Manifest, Shipment, ShippingPlan, pack
from wukong.core.storage import Buffer, StorePort
from wukong.core.summary import Summary, peak
from wukong.core.targets import Targets
from wukong.core.time_left import in_time, limited
from wukong.core.watch import FailurePort, InvocationState, Lost, Watch
from wukong.errors import (
    AuthenticationError,
    BudgetReached,
    JobCancelled,
    JobError,
    JobStalled,
    JobTimeout,
    StoreError,
    StoreFull,
    StoreUnavailable,
    ValueLost,
)

logger = logging.getLogger(__name__)

_FIRST_SLICE_S = 0.02
_LAST_SLICE_S = 0.2
_SETTLE_S = 2.0
_CANCEL_S = 3.0
_COUNT_S = 0.1
_DELETE_BATCH = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What all jobs of a deployment stand on.

    Attributes:
        envelope: returns where store, FaaS and proxy are now, for the payloads; without an order.
        store, codec: the client's own.
        costs: what moving things costs, as far as is known.
        plan: how jobs are shipped.
        send: makes the sender of invocations for a job.
        failures: returns the failures that the platform has reported for a job since the last call.
        stop: stops, on the platform, the invocations whose labels begin with a prefix.
        bill: returns the cost of a number of invocations, of the requests that they count as, and of the seconds that
            they ran together.
        known: returns which of these invocations, by their labels, the platform still has; None: it cannot tell.
        shares_files: functions see the client's files.
        locks: those that the client's jobs use.
        rent: returns what the store costs in a number of seconds; None: nothing that is known.
        listed: returns the keys in the store that begin with a prefix; None: the store cannot list them, or that would
            cost more than it is worth to a job that nothing happened to (False).
        backends: their names, for a `repr`.
        evictions: returns which servers of the store drop what they were given, one line each.
        about: returns the settings and versions, for the job's record.
        machine: what machines with the client's system clock have in common with it.
    """

    envelope: Callable[[], Envelope]
    store: StorePort
    codec: Codec
    costs: Costs
    plan: ShippingPlan
    send: Callable[[Names], Send]
    failures: Callable[[str], Sequence[FailurePort]]
    stop: Callable[[str], None]
    bill: Callable[[int, int, float], object] = lambda invocations, requests, wall_s: None
    rent: Callable[[float], object] = lambda wall_s: None
    known: Callable[[Sequence[str]], Collection[str] | None] = lambda labels: None
    shares_files: bool = False
    listed: Callable[[bytes, bool], Iterable[bytes] | None] = lambda prefix, harmed: None
    backends: str = ""
    locks: Locks = field(default_factory=Locks)
    evictions: Callable[[], Sequence[str]] = tuple
    about: Callable[[], Mapping[str, Any]] = dict
    machine: bytes = b""


class Job:
    """One run of one graph. Made by the client; use from one thread at a time, except `cancel` and `summary`.

    Args:
        ground: what it stands on.
        policy: its settings.
        graph: what to run; None for a job that is taken over (`attach`).
        budget_usd: what it may cost, in US dollars; then it is stopped. None: what it takes.
        began: when the user's call came, by `time.perf_counter`; None: now.
        keep: the values of requested tasks stay in the store; whoever takes their keys from `results` deletes them.
        stream: every requested value is stored as soon as it is there, so that it can be had before the job's end.

    Attributes:
        when_settled: called once, when nothing more will be known of it.
    """

    def __init__(
        self,
        ground: Ground,
        policy: Policy,
        graph: Graph | None,
        *,
        job: str | None = None,
        stream: bool = False,
        keep: bool = False,
        budget_usd: float | None = None,
        began: float | None = None,
    ) -> None:
        self.id = secrets.token_hex(6) if job is None else job
        self.names = Names(self.id)
        self.policy = policy
        self.stream = stream
        self.keep = keep
        self.budget_usd = budget_usd
        self._counted_at = 0.0
        self.inputs: list[Any] = []
        self.ended = False
        self._status: Status = "running"
        self.when_settled: Callable[[Job], None] = lambda job: None
        self._ground, self._graph = ground, graph
        self._targets: Targets | None = None
        self._locks: frozenset[str] = frozenset()
        if graph is not None:
            self._targets, self._locks = redirect(graph, shares_files=ground.shares_files)
        self._store, self._codec = ground.store, ground.codec
        self._send = ground.send(self.names)
        self._manifest: Manifest | None = None
        self._results: Results | None = None
        self._watch: Watch | None = None
        self._calls: list[tuple[str, bytes]] = []
        self._invoked = False
        self._began = time.perf_counter() if began is None else began
        self.began_at = time.time() - (time.perf_counter() - self._began)
        self._ingest_s = 0.0
        self._wall_s = 0.0
        self._cancelled = threading.Event()
        self._stopped = self._swept = False
        self._settled = threading.Event()
        self._settling = threading.Lock()
        self._doomed: tuple[list[bytes], set[str]] | None = None
        self._account: Account | None = None
        self._until: Moment | None = None
        self._sent = Sent()
        self._again = 0
        self._known: list[InvocationState] = []
        self._found: list[InvocationState] | None = None
        self._record: JobRecord | None = None
        self._stories: list[Story] = []
        self._moved: list[tuple[float, int, int]] = []

    @classmethod
    def attach(cls, ground: Ground, job: str) -> Self:
        """Take over a job whose client is gone. Raises JobError if there is none, or only that client can finish it."""
        names = Names(job)
        blob = ground.store.get([names.plan])[0]
        if blob is None:
            raise JobError(
                "there is no such job in this store: it has ended, or its keys have expired",
                job=job,
                hint="the store and the deployment key must be those of the client that started it",
            )
        try:
            manifest: Manifest = ground.codec.decode(blob, names.plan)
        except AuthenticationError as error:
            raise JobError(
                "this job was signed with another deployment key than this client's, so that it cannot be taken over",
                job=job,
                hint="give the key of the client that started it, as key=... or WUKONG_KEY: 'wukong key show' shows it "
                "there, for the same user and storage; after 'wukong key rotate' it is the old one",
            ) from error
        if manifest.writes:
            raise JobError(
                f"only the client that started this job can finish it, it writes to: {', '.join(manifest.writes)}",
                job=job,
                hint="start it again; a Zarr array in files or in an object store is written without the client",
            )
        taken = cls(ground, manifest.policy, None, job=job)
        taken._take(manifest)
        taken._invoked = True
        taken._wanted()
        return taken

    def _take(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._results = Results(self.names, self._store, self._codec, manifest.outputs, manifest.request)
        self._watch = Watch(
            self.names,
            self._store,
            self._codec,
            self._send,
            self._ground.envelope,
            self.policy,
            manifest.roots,
            manifest.n_tasks,
            reship=self._reship,
            known=self._ground.known,
            alone=self._alone,
        )

    def _alone(self, task: str) -> int | None:
        """Return the number of the task with this key, if it may fail without the job; None: the job fails with it."""
        if self._graph is None or not self.keep or len(self.manifest.outputs) < 2:
            return None
        return next((number for number, key in enumerate(self._graph.keys) if text_of(key) == task), None)

    def _wanted(self) -> None:
        """Tell the executors that the job has a client, by a sign of life that is this client's alone."""
        self._store.put({self.names.alive: secrets.token_bytes(4)}, self.policy.ttl_s)

    @property
    def status(self) -> Status:
        """What has become of it, as far as its client knows."""
        failed = self._results is not None and self._results.any_raised
        return "failed" if failed and self._status == "succeeded" else self._status

    @property
    def results(self) -> Results:
        """Who reads its values, once it is shipped."""
        assert self._results is not None, "the job has not been shipped"
        return self._results

    @property
    def graph(self) -> Graph | None:
        """What it runs; None: this client has taken it over, and does not know."""
        return self._graph

    @property
    def n_tasks(self) -> int:
        """How many tasks it has; 0 until it is shipped."""
        return 0 if self._manifest is None else self._manifest.n_tasks

    @property
    def manifest(self) -> Manifest:
        """The job, once it is shipped."""
        assert self._manifest is not None, "the job has not been shipped"
        return self._manifest

    # --- ship

    def ship(self) -> None:
        """Put into the store what executors need: objects, the DAG's pages, the first invocations' records."""
        packed = self._packed()
        self._ground.locks.use(self.names, self._locks)
        self._calls = packed.calls
        self._take(packed.manifest)
        pages = {} if packed.inside else packed.pages
        try:
            self._store.put({**packed.items, **pages, self.names.alive: b"0"}, self.policy.ttl_s)
        except StoreUnavailable:
            self._manifest = None  # the store is not asked to delete any of this: it has a time to live
            raise

    def _reship(self) -> bool:
        """Ship once more: the store has lost some of it. Returns False if the graph is another client's."""
        if self._graph is None:
            return False
        packed = self._packed()  # all pages: executors have them from the store, once there are several
        self._store.put({**packed.items, **packed.pages}, self.policy.ttl_s)
        return True

    def _packed(self) -> Shipment:
        assert self._graph is not None
        ground, stream, keep = self._ground, self.stream, self.keep
        codec, envelope, costs, plan = self._codec, ground.envelope(), ground.costs, ground.plan
        writes = () if self._targets is None else self._targets.descriptions()
        return pack(
            self._graph,
            self.names,
            codec,
            envelope,
            self.policy,
            costs,
            plan,
            stream=stream,
            keep=keep,
            shares_files=ground.shares_files,
            writes=writes,
        )

    def invoke(self) -> None:
        """Make the first invocations. Raises JobCancelled."""
        self._invoked = True
        if self._cancelled.is_set():  # in another thread, for which there was nobody to be told to stop
            raise JobCancelled("the job was cancelled", job=self.id)
        self._ingest_s = time.perf_counter() - self._began
        calls, self._calls = self._calls, []
        self._sent += self._send(calls)

    # --- wait and collect

    def result(self, timeout_s: float | None = None, tick: Callable[[Job], None] | None = None) -> dict[Hashable, Any]:
        """Wait for the end and return the requested values by key. `tick` is called now and then meanwhile.

        Raises the task's own exception if one failed, JobCancelled, JobTimeout (the job goes on), InvocationFailed.
        """
        with in_time(timeout_s, "no result", self.id):
            return self._result(math.inf if timeout_s is None else time.monotonic() + timeout_s, tick)

    def _result(self, until: float, tick: Callable[[Job], None] | None) -> dict[Hashable, Any]:
        slice_s = _FIRST_SLICE_S
        while True:
            left_s = max(0.0, min(slice_s, until - time.monotonic()))
            blob = self._store.wait(self.names.done, left_s)
            if blob is not None:
                values = self.results.by_key(self._done(blob))
                if values is not None:
                    return values
                self._recover_results()
                continue
            if time.monotonic() >= until:
                raise JobTimeout("no result within the time given", job=self.id)
            self.tend()
            if tick is not None:
                tick(self)
            slice_s = min(slice_s * 1.5, _LAST_SLICE_S)

    def tend(self) -> None:
        """Look after a running job. Raises JobCancelled, BudgetReached, InvocationFailed, JobStalled."""
        if self._cancelled.is_set():
            raise JobCancelled("the job was cancelled", job=self.id)
        assert self._watch is not None
        try:
            self._watch.tend(self._ground.failures(self.id))
        finally:
            if self._cancelled.is_set():  # by another thread, which may have deleted it before it was written here
                with suppress(StoreError):
                    self._store.delete([self.names.alive])
        if self._targets is not None:
            self._targets.collect(self._store, self._codec, self.names)
        if self.budget_usd is not None and time.monotonic() >= self._counted_at:
            self._count(self.budget_usd)

    def _count(self, budget_usd: float) -> None:
        """Raise BudgetReached if the job has cost what it may. Counting takes a twentieth of the time at most."""
        began = time.monotonic()
        seen = self.summary(timeout_s=0.0)
        now = time.monotonic()
        self._counted_at = now + max(_COUNT_S, 20 * (now - began))
        if seen.usd < budget_usd:
            return
        error = BudgetReached(
            f"the job was stopped at its budget of ${budget_usd:.6g}: it has cost about ${seen.usd:.6g}, in "
            f"{seen.wall_s:.1f} s and {seen.executors:,} executor{'s' * (seen.executors != 1)}, and has run "
            f"{seen.tasks_run:,} of {seen.tasks:,} tasks",
            job=self.id,
            hint="a larger budget_usd lets it go on for longer; client.plan(x) tells beforehand what x would cost",
        )
        error.usd = seen.usd
        raise error

    def last(self, blob: Buffer) -> Iterator[Result]:
        """Yield the last results; `blob` is what was found under ``done``. Raises the exception that failed the job."""
        return self.results.last(self._done(blob))

    def _done(self, blob: Buffer) -> Done:
        done = self.results.done(blob)
        self._is("succeeded" if done.raised is None else "failed")
        self.ended = True
        if done.raised is not None:
            self._stopped = True
            self._ground.stop(self.names.label(""))
            self._tell(done.raised)
            raise done.raised.error()
        if self._targets is not None:
            self._targets.collect(self._store, self._codec, self.names, final=True)
        return done

    def _recover_results(self) -> None:
        """Have a result that is not in the store any more computed again, from what is left."""
        assert self._watch is not None
        self.ended, self._status, self._until = False, "running", None
        self._store.delete([self.names.done, self.names.record(self.manifest.n_tasks)])
        self._watch.revive(list(self._watch.states()))

    def _is(self, status: Status) -> None:
        """Set the job's final status; its wall time ends here."""
        self._status, self._until = status, Moment()
        self._wall_s = time.perf_counter() - self._began

    def cancel(self, because: BaseException | None = None) -> None:
        """Stop the job and its executors, for the reason given. The waiting thread gets JobCancelled.

        If the reason is that the store lacks what it was given, or room, servers that evict are named in its hint.
        """
        if isinstance(because, JobStalled | StoreFull | ValueLost) and (lines := self._ground.evictions()):
            because.hint = "; ".join(dict.fromkeys([*lines, *filter(None, [because.hint])]))
        if self.ended or self._cancelled.is_set():
            return
        self._cancelled.set()
        self._is(status_after(because))
        if because is not None:
            self._tell(Raised.of(because, getattr(because, "task", None)))
        if not self._invoked:
            return
        if isinstance(because, StoreUnavailable):  # it was asked for long enough; `settle` tries once more
            self._ground.stop(self.names.label(""))
            return
        try:
            with limited(_CANCEL_S):  # whoever cancels waits for this
                self._known = self._states()
                self._store.delete([self.names.alive])
        except StoreError as error:
            logger.warning("job %s cannot tell its executors to stop; they will find out: %s", self.id, error.message)
        finally:
            self._ground.stop(self.names.label(""))

    # --- afterwards

    def progress(self) -> int:
        """Return how many tasks the executors had run when they last said so."""
        return 0 if self._watch is None else self._watch.tasks_run

    def _states(self) -> list[InvocationState]:
        return [] if self._watch is None or not self._invoked else list(self._watch.states())

    def settle(self) -> None:
        """Take in the executors' reports and delete every key of the job, except the values that are kept. Once."""
        try:
            with self._settling:
                self.ended = True
                if self._manifest is not None and not self._swept:  # it was shipped
                    if self._doomed is None:
                        self._doomed = self._settle(self._manifest)
                    keys, used = self._doomed
                    for at in range(0, len(keys), _DELETE_BATCH):
                        self._store.delete(keys[at : at + _DELETE_BATCH])
                    self._ground.locks.leave(self._store, self.names, self._locks, used)
                first, self._swept = not self._swept, True
                self._doomed = None
        finally:
            self._settled.set()
        if first:
            self.when_settled(self)

    def _settle(self, manifest: Manifest) -> tuple[list[bytes], set[str]]:
        """Take in the reports; return the keys to delete, and the locks that were used."""
        names, staying = self.names, self.results.staying
        stopped = self._stopped or self._cancelled.is_set()  # then whoever has left no report will leave none
        until = time.monotonic() + (0.0 if stopped else _SETTLE_S)
        pause_s = 0.001
        while True:
            states = self._states()
            if all(state.end is not None for state in states) or time.monotonic() >= until:
                break
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.1)
        self._store.delete([names.alive])  # from here on, whoever comes late leaves nothing
        found = {state.invocation: state for state in (*self._known, *states)}
        for state in self._states():  # once more, for what was made meanwhile
            found.setdefault(state.invocation, state)
        states = list(found.values())
        ends = [state.end for state in states if state.end is not None]
        self._ground.costs.learn([rate for end in ends if (rate := end.bandwidth_bytes_per_s) is not None])
        keys = [names.done, names.plan, names.modules]
        keys += map(names.page, range(-(-manifest.n_tasks // manifest.page_tasks)))
        keys += map(names.object, range(manifest.n_objects))
        self._again = 0 if self._watch is None else self._watch.repeated
        # One executor, invoked once, has reported all there is. Two runs may have written over each other's report.
        complete = not self._again and len(states) == 1 and self._graph is not None
        for state in states:
            keys += [f(state.invocation) for f in (names.invocation, names.end, names.heartbeat)]
            keys += [names.n_offloads(names.attempt_id(state.invocation, n)) for n in range(state.attempts + 1)]
            if state.attempts:
                keys.append(names.attempts(state.invocation))
            if state.end is None or state.end.report.invocations:  # those that the store has lost are not in the states
                complete = False
            if state.end is None:
                continue
            keys += [names.value(task) for task in state.end.stored if task not in staying]
            keys += [names.record(child) for child in set(state.end.arrived)]
            keys += [names.readers(task) for task in state.end.read]
            self._moved += state.end.moved
        if not complete:  # whatever the job may have written goes
            harmed = bool(self._again) or self._cancelled.is_set() or any(state.end is None for state in states)
            keys += self._left(manifest, harmed)
        if self._targets is not None:
            keys += self._targets.keys(names)
        self._account, self._found = self._sum(states), states
        return keys, {lock for end in ends for lock in end.locks}

    def _left(self, manifest: Manifest, harmed: bool) -> list[bytes]:
        """Return all keys that the job has in the store, or may have if the store does not list them."""
        names, staying = self.names, self.results.staying
        try:
            listed = self._ground.listed(names.prefix + b"/", harmed)
        except StoreError as error:
            logger.info("job %s: its keys are guessed, since they cannot be listed: %s", self.id, error.message)
            listed = None
        if listed is not None:
            kept = {names.value(task) for task in staying}
            return [key for key in listed if key.partition(b"~")[0] not in kept]  # and none of their chunks
        keys = [names.value(task) for task in range(manifest.n_tasks) if task not in staying]
        keys += [names.record(child) for child in range(manifest.n_tasks + 1)]
        if self.policy.release:
            keys += map(names.readers, range(manifest.n_tasks))
        return keys

    def _sum(self, states: Sequence[InvocationState]) -> Account:
        return account(states, {} if self._watch is None else self._watch.first_seen, self._until or Moment())

    @property
    def record(self) -> JobRecord:
        """What every task and every executor did; of a job that runs, what is known so far, at once.

        After the job's end, this waits some seconds for the executors' last reports.
        """
        if self._record is not None:
            return self._record
        summary = self.summary()
        watch, graph = self._watch, self._graph
        states = self._found or self._known or ([] if watch is None or not self._invoked else watch.seen)
        lost = [] if watch is None else watch.failures
        record = JobRecord(
            self.id,
            self.status,
            self.began_at,
            summary.wall_s,
            summary.ingest_s,
            self.n_tasks,
            None if graph is None else graph.keys,
            summary=asdict(summary),
            about={**self._ground.about(), "policy": {key: str(value) for key, value in asdict(self.policy).items()}},
            stories=[*self._stories, *(self._lost(each) for each in lost)],
        )
        seen = Seen(self.names, self._ground.machine, {} if watch is None else watch.heard_at)
        record_of(record, states, seen, None if graph is None else graph.dag)
        if self._found is not None:
            self._record, self._found = record, None
        return record

    def taught(self, most: int) -> tuple[list[tuple[int, float]], dict[int, int]]:
        """Return task and seconds of up to about `most` runs of a job that has settled, and the values' bytes by task.

        Cheaper than the record, which it does not make.
        """
        record, found = self._record, self._found or ()
        if record is not None:
            runs = record.runs
            step = max(1, -(-len(runs) // most))
            sizes = {task: size for task, size in zip(runs.tasks, runs.value_bytes, strict=True) if size >= 0}
            return list(zip(runs.tasks[::step], runs.took[::step], strict=True)), sizes
        tracks = [state.end.track for state in found if state.end is not None and state.end.track is not None]
        step = max(1, -(-sum(len(track.tasks) for track in tracks) // most))
        took: list[tuple[int, float]] = []
        sizes = {}
        for track in tracks:
            took += zip(track.tasks[::step], track.took[::step], strict=True)
            sizes.update(zip(track.stored, track.stored_bytes, strict=True))
            sizes.update(zip(track.sized, track.sizes, strict=True))
        return took, sizes

    def _lost(self, lost: Lost) -> Story:
        at_s = lost.at - self.began_at
        return Story(at_s, lost.invocation, lost.attempt, lost.task, lost.what, hint=lost.hint, then="made again")

    def _tell(self, raised: Raised) -> None:
        """Note in the job's story what ended it."""
        at_s, what = time.time() - self.began_at, f"{raised.kind}: {raised.message}"
        self._stories.append(Story(at_s, None, 0, raised.task, what, raised.traceback, then="failed the job"))

    def summary(self, timeout_s: float = 5.0) -> Summary:
        """Return what the job did and cost; while it runs, what is known so far, at once.

        After its end, this waits up to `timeout_s` for the executors' last reports.
        """
        if self.ended:
            self._settled.wait(timeout_s)
        watch, total = self._watch, self._account
        if total is None:
            total = self._sum([] if watch is None or not self._invoked else self._known or watch.seen)
        report = total.report
        again = self._again if watch is None else watch.repeated
        made = total.executors + again
        wall_s = time.perf_counter() - self._began if self._until is None else self._wall_s
        sent = self._sent + report.sent + (Sent() if watch is None else watch.sent)
        return Summary(
            job=self.id,
            status=self.status,
            tasks=self.n_tasks,
            tasks_run=report.tasks,
            schedules=self._manifest.n_schedules if self._manifest is not None else 0,
            executors=total.executors,
            reported=total.reported,
            repeated=again,
            restored=report.restored,
            peak_store_bytes=peak(self._moved),
            put_bytes=report.put_bytes,
            got_bytes=report.got_bytes,
            operations=report.operations,
            store_s=report.store_s,
            peak_held_bytes=report.peak_held_bytes,
            busy_s=report.busy_s,
            wall_s=wall_s,
            ingest_s=self._ingest_s,
            proxied=sent.proxied,
            unproxied=sent.unproxied,
            unproxied_why=sent.why,
            # If reports were lost with a store's server: each invocation was one request at least.
            bill=self._ground.bill(made, max(made, sent.requests), report.wall_s) if made else None,
            rent=self._ground.rent(wall_s),
        )

    def __repr__(self) -> str:
        on = f" on {self._ground.backends}" if self._ground.backends else ""
        return f"<wukong job {self.id}: {self.status}{on}>"
