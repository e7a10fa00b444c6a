"""What is known of a job, while it runs and afterwards: its status, its times, its story, its sums, its record.

    shipped, invoked, over, failed, settled --> History --> summary, record, what it has taught

The job tells it what happens; it reads nothing from the store.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace

from wukong.core.account import Account, Moment, Status, account
from wukong.core.dag import Graph
from wukong.core.events import Report
from wukong.core.ground import Ground
from wukong.core.invocation_tree import InvocationState
from wukong.core.lost import Lost
from wukong.core.names import Names, text_of
from wukong.core.noted import Taught, of_record, of_tracks
from wukong.core.payload import Sent
from wukong.core.policy import Policy
from wukong.core.raised import Raised
from wukong.core.record import JobRecord, Seen, Story, record_of
from wukong.core.results import Results
from wukong.core.shipment import Manifest
from wukong.core.sizing import sizes_told
from wukong.core.summary import Summary, peak
from wukong.core.watch import Watch


class History:
    """The history of one job.

    Args:
        ground, names, policy, graph: the job's.
        began: when the user's call came, by `time.perf_counter`; None: now.

    Attributes:
        began_at: the same, in Unix time.
        known: the executors as they were when the job was cancelled.
    """

    def __init__(
        self, ground: Ground, names: Names, policy: Policy, graph: Graph | None, began: float | None = None
    ) -> None:
        self._ground, self._names, self._policy, self._graph = ground, names, policy, graph
        self._began = time.perf_counter() if began is None else began
        self.began_at = time.time() - (time.perf_counter() - self._began)
        self.known: Sequence[InvocationState] = ()
        self._manifest: Manifest | None = None
        self._watch: Watch | None = None
        self._results: Results | None = None
        self._status: Status = "running"
        self._until: Moment | None = None
        self._wall_s = self._ingest_s = 0.0
        self._peak_store_bytes = 0
        self._before_usd = self._client_usd()
        self._own_usd: float | None = None
        self._sent = Sent()
        self._stories: list[Story] = []
        self._account: Account | None = None
        self._found: Sequence[InvocationState] | None = None
        self._record: JobRecord | None = None
        self._here = False
        self._sized: tuple[str, ...] | None = None

    # --- what the job tells

    def shipped(self, manifest: Manifest, watch: Watch, results: Results) -> None:
        """Hear how large the job is, and what knows how it goes."""
        self._manifest, self._watch, self._results = manifest, watch, results

    def ingested(self) -> None:
        """Hear that the first invocations are about to be made."""
        self._ingest_s = time.perf_counter() - self._began

    def invoked(self, sent: Sent) -> None:
        """Hear how the first invocations were made."""
        self._sent += sent

    def over(self, status: Status) -> None:
        """Hear what has become of the job; its wall time ends here."""
        self._status, self._until = status, Moment()
        self._wall_s = time.perf_counter() - self._began

    def on_again(self) -> None:
        """Hear that the job runs on: a value of its result was lost."""
        self._status, self._until = "running", None

    def failed(self, raised: Raised) -> None:
        """Hear what ended the job."""
        at_s, what = time.time() - self.began_at, f"{raised.kind}: {raised.message}"
        self._stories.append(Story(at_s, None, 0, raised.task, what, raised.traceback, then="failed the job"))

    def settled(self, states: Sequence[InvocationState]) -> None:
        """Hear the executors' last reports."""
        self._peak_store_bytes = peak([moved for state in states if state.end is not None for moved in state.end.moved])
        if self._watch is not None:
            self._watch.before.look(states)
        self._account, self._found = self._sum(states), states
        if self._watch is not None:
            self._watch.backups.look(states)

    def closed(self) -> None:
        """Hear that the client asks nothing more of the store for this job."""
        self._own_usd = self._client_usd() - self._before_usd

    # --- what it tells

    @property
    def status(self) -> Status:
        """What has become of the job, as far as its client knows."""
        failed = self._results is not None and self._results.any_raised
        return "failed" if failed and self._status == "succeeded" else self._status

    def _seen(self) -> Sequence[InvocationState]:
        return self.known or (() if self._watch is None else self._watch.seen)

    def _sum(self, states: Sequence[InvocationState]) -> Account:
        if self._watch is None:
            return Account(executors=len(states))
        return account(states, self._watch.tree, self._until or Moment(), self._ground.limit_s())

    def summary(self) -> Summary:
        """Return what the job did and cost, as far as that is known."""
        watch, manifest = self._watch, self._manifest
        total = self._sum(self._seen()) if self._account is None else self._account
        report = total.report
        again, again_s = (0, 0.0) if watch is None else (watch.repeated, watch.before.billed_s)
        backups = () if watch is None else watch.backups.made.values()
        made = total.executors + again
        wall_s = time.perf_counter() - self._began if self._until is None else self._wall_s
        sent = self._sent + report.sent + (Sent() if watch is None else watch.sent)
        return Summary(
            job=self._names.job,
            status=self.status,
            tasks=0 if manifest is None else manifest.n_tasks,
            tasks_run=report.tasks,
            schedules=0 if manifest is None else manifest.n_schedules,
            executors=total.executors,
            reported=total.reported,
            repeated=again,
            repeated_s=again_s,
            backed_up=len(backups),
            backups_first=sum(each.first is True for each in backups),
            restored=report.restored,
            peak_store_bytes=self._peak_store_bytes,
            put_bytes=report.put_bytes,
            got_bytes=report.got_bytes,
            operations=report.operations,
            store_s=report.store_s,
            peak_held_bytes=report.peak_held_bytes,
            busy_s=report.busy_s,
            lanes=report.lanes,
            overlapped=report.overlapped,
            refused=report.refused,
            cores=report.cores,
            cpu_s=report.cpu_s,
            core_s=report.core_s,
            wall_s=wall_s,
            ingest_s=self._ingest_s,
            proxied=sent.proxied,
            unproxied=sent.unproxied,
            unproxied_why=sent.why,
            # If reports were lost with a store's server: each invocation was one request at least.
            bill=self._ground.bill(made, max(made, sent.requests), report.billed_s + again_s) if made else None,
            seat_wait_s=report.seat_wait_s,
            seat_wait_usd=self._waits_usd(report) if made and report.seat_wait_s else 0.0,
            rent=self._ground.rent(wall_s),
            requests=self._spent(report.store_usd),
            running=total.running,
            raised=total.raised,
            retried=total.retried,
            sizes=self._sizes(),
        )

    def _sizes(self) -> tuple[str, ...]:
        if self._sized is None:
            self._sized = () if self._graph is None else sizes_told(self._graph, self._ground.sizes())
        return self._sized

    def _waits_usd(self, report: Report) -> float:
        """Return what the bill would have been less if nobody had waited for a seat."""
        waited_s = report.seat_wait_s * report.billed_s / report.wall_s if report.wall_s else 0.0
        whole, less = (self._ground.bill(1, 1, max(0.0, s)) for s in (report.billed_s, report.billed_s - waited_s))
        return getattr(whole, "usd", 0.0) - getattr(less, "usd", 0.0)

    def _client_usd(self) -> float:
        spent = self._ground.spent()
        return 0.0 if spent is None else spent.usd

    def _spent(self, executors_usd: float) -> object:
        """Return what requests to the store have cost: the executors' and the client's; None: they cost nothing.

        If the client has other jobs at the same time, what it asks for them counts as well.
        """
        spent = self._ground.spent()
        if spent is None:
            return None
        own_usd = spent.usd - self._before_usd if self._own_usd is None else self._own_usd
        return spent.more(executors_usd + own_usd - spent.usd)

    def record(self) -> JobRecord:
        """Return what tasks and executors did, as far as that is known; of a settled job, always the same object."""
        found, made = self._found, self._record  # in this order: a thread that makes it sets them in the other
        if made is not None:
            return made
        summary, watch, graph = self.summary(), self._watch, self._graph
        policy = {key: str(value) for key, value in asdict(self._policy).items()}
        record = JobRecord(
            self._names.job,
            self.status,
            self.began_at,
            summary.wall_s,
            summary.ingest_s,
            summary.tasks,
            None if graph is None else graph.keys,
            summary=asdict(summary),
            about={**self._ground.about(), "policy": policy},
            stories=[*self._stories, *self._told(watch)],
        )
        seen = Seen(self._names, self._ground.machine, {} if watch is None else watch.tree.heard_at)
        record_of(record, found or self._seen(), seen, None if graph is None else graph.dag)
        if found is not None:
            tracks = [state.end.track for state in found if state.end is not None and state.end.track is not None]
            self._here = bool(tracks) and all(each.machine == self._ground.machine != b"" for each in tracks)
            self._record, self._found = record, None
        return record

    def _told(self, watch: Watch | None) -> Iterator[Story]:
        if watch is not None:
            yield from map(self._lost, watch.failures)
            for invocation, each in watch.backups.made.items():
                yield Story(each.at - self.began_at, invocation, 0, None, f"slow: {each}", then="backed up")

    def _lost(self, lost: Lost) -> Story:
        at_s = lost.at - self.began_at
        return Story(at_s, lost.invocation, lost.attempt, lost.task, lost.what, hint=lost.hint, then="made again")

    def taught(self) -> Taught:
        """Return what there is to learn from a job that has settled, without making the record, which is dear."""
        record, found = self._record, self._found or ()
        if record is not None:
            told = of_record(record, here=self._here)
        else:
            tracks = [state.end.track for state in found if state.end is not None and state.end.track is not None]
            told = of_tracks(tracks, self._ground.machine)
        outgrown = () if self._watch is None else self._watch.outgrown
        if not outgrown or self._graph is None:
            return told
        wanted, number = {task for task, _ in outgrown}, dict[str | None, int]()
        for task, key in enumerate(self._graph.keys):
            if (text := text_of(key)) in wanted:
                number[text] = task
        return replace(told, outgrown=[(number[task], size) for task, size in outgrown if task in number])
