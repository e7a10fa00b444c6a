"""Watching a job's invocations from the client, and invoking again the ones that need it.

Invocations form a tree that the store describes (`wukong.core.invocation_tree`). Each is in one of four states:

    ended      it has written its end report
    alive      its heartbeat changes
    silent     its heartbeat has not changed for a while: it died, was cut off, or a task holds its interpreter's lock
    not there  neither heartbeat nor end: the call was lost, or is queued, or a task holds its interpreter's lock

Silence alone proves nothing. If the platform can tell which invocations it still has, the watch asks it: one that it
has is left alone for ever; one that it does not have, at two looks in a row, was lost. If it cannot tell, the watch
gives an invocation `silence_s`, and twice as long each time, unless its last heartbeat tells of a limit
(`wukong.core.limits`). Such a platform may run the same payload again by itself: that is another run, and no sign that
the first one is alive.

The watch makes an invocation again under its own id if it was lost, or if the platform reports it dead, a bounded
number of times. By rule 2 of the protocol that repeats nothing that counts. An invocation that its maker has put on
record, but not yet handed to the platform, is not lost: the maker's heartbeats say how many it has handed over.

If all have ended and there is no result, something was lost that nobody waits for any more (a fan-in's record, say):
all are made again, a bounded number of times.

If one took too much memory and the platform has larger functions, it is made again on the next larger one.

If a job makes several futures and the same task was running each time, that task is *convicted*: the error becomes its
value, and the other tasks go on.

A store may lose any of these records, too: a server that starts again empty takes its share of all keys with it. So
the watch remembers what it has once seen, and the client can ship again what it has shipped (`reship`).
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from wukong.core.account import Died
from wukong.core.backups import Backups
from wukong.core.codec import Codec
from wukong.core.dag import Limits
from wukong.core.events import Heartbeat
from wukong.core.invocation_tree import InvocationState, InvocationTree
from wukong.core.limits import Ended, ended
from wukong.core.lost import FailurePort, Lost
from wukong.core.names import Names
from wukong.core.parked import Parked
from wukong.core.payload import PAYLOAD, Envelope, Order, Send, Sent
from wukong.core.policy import Policy
from wukong.core.prior_runs import PriorRuns, at_its_limit
from wukong.core.raised import Raised
from wukong.core.storage import Blob, StorePort, joined
from wukong.errors import InvocationFailed, JobStalled, ValueLost

logger = logging.getLogger(__name__)

ATTEMPTS = 4
_LOST_ATTEMPTS = 6
_SILENT_ATTEMPTS = 5
_ROUNDS = 5
_RESHIPS = 3
_DELETE_BATCH = 2_000
_GRACE_BEATS = 4
_MOST_DOUBLINGS = 5
_NAMED = 3

_HINT = "see the output of the task above; `wukong doctor` checks the backends, the store's servers too"
_HINTS = {
    "timeout": "one task takes longer than the platform lets a function run: make it smaller, or raise the limit",
    "memory": "one task needs more memory than the (largest) function has: make its chunks smaller, or give it more",
}
_SILENT_HINT = (
    "the function died, perhaps of too little memory, or a task held the interpreter's lock all the time, as a long "
    "call into compiled code may: the platform's log tells; a larger silence_s gives such a task more time"
)


@dataclass(slots=True)
class _Seen:
    beat: Heartbeat | None
    since: float
    missed: bool = False  # the platform did not have it at the last look


class Watch:
    """See the module's docstring.

    Args:
        names, store, codec, send, policy: the job's.
        envelope: returns where store, FaaS and proxy are now; a store may have moved since an invocation was recorded.
        roots: the job's first invocations.
        n_tasks: how many tasks the DAG has.
        clock: returns seconds; the heartbeats' own times are not compared with it.
        known: returns which invocations, by their labels, the platform still has; None: it cannot tell.
        reship: stores anew what the client has shipped: pages, objects, the roots' records. Returns False if the
            client no longer has it.
        alone: returns the number of the task with this key; None if the job cannot go on without its value.
        sizes: returns the memory of each size of function, bytes, the smallest first; (): there is one.
        free: returns how many more tasks of these limits may run now; None: the job has no limits.
        limit_s: returns after how long the platform ends a run, seconds; None: it never does.

    Attributes:
        tree: what the store says of the invocations. seen: what the last look at it found.
        failures: runs that were lost. backups: invocations that were slow, and are made once more.
        outgrown: tasks that have ended a function for its memory, and how much that had, bytes.
        tasks_run: how many tasks had run at the last look.
        repeated: how many invocations were made again. sent: by which way they went. rounds: how often all were.
        before: the runs before those.
    """

    def __init__(
        self,
        names: Names,
        store: StorePort,
        codec: Codec,
        send: Send,
        envelope: Callable[[], Envelope],
        policy: Policy,
        roots: Sequence[str],
        n_tasks: int,
        clock: Callable[[], float] = time.monotonic,
        reship: Callable[[], bool] = lambda: False,
        known: Callable[[Sequence[str]], Collection[str] | None] = lambda labels: None,
        alone: Callable[[str], int | None] = lambda _: None,
        sizes: Callable[[], Sequence[int]] = tuple,
        free: Callable[[Limits], int] | None = None,
        limit_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._alone = alone
        self._sizes = sizes
        self._size: Counter[str] = Counter()
        self._convicted: dict[int, Raised] = {}
        self._reship = reship
        self._envelope = envelope
        self._known = known
        self._names, self._store, self._codec, self._send, self._policy = names, store, codec, send, policy
        self._n_tasks = n_tasks
        self._seen: dict[str, _Seen] = {}
        self.tree = InvocationTree(names, store, codec, roots, clock)
        self._parked = None if free is None else Parked(names, store, codec, self.tree, free)
        self.failures: list[Lost] = []
        self.outgrown: list[tuple[str | None, int]] = []
        self.backups = Backups(wanted=policy.backup, share=policy.backup_share)
        self._replaced = self.tree.gone
        self._story: defaultdict[str, list[tuple[str, str | None]]] = defaultdict(list)
        self._culprits: dict[str, tuple[str, str | None]] = {}
        self._failed: Counter[tuple[str, int]] = Counter()
        self._look_at = self._clock() + policy.heartbeat_s
        self._sign = 0
        self._stalled = 0
        self.seen = [InvocationState(root, None, None, 0) for root in roots]
        self._untold: list[tuple[str, str]] = []
        self._again_now: set[str] = set()
        self.repeated = self.rounds = self.tasks_run = 0
        self.before = PriorRuns(names, self.tree, sizes, limit_s)
        self.sent = Sent()

    def tend(self, failures: Sequence[FailurePort]) -> None:
        """Make invocations again that need it. Call this often; it looks once in a heartbeat.

        Args:
            failures: what the platform has reported since the last call.

        Raises InvocationFailed, JobStalled; ValueLost if the store lacks something that cannot be shipped again.
        """
        self._again_now.clear()
        try:
            for failure in failures:
                self._recover(failure)
            now = self._clock()
            if now >= self._look_at:
                self._look_at = now + self._policy.heartbeat_s
                self._sign += 1
                self._store.put({self._names.alive: b"%d" % self._sign}, self._policy.ttl_s)
                self._look(now)
        finally:
            self._tell_again()

    def _tell_again(self) -> None:
        """Log which invocations are made again, and why: one line for all that have the same reason."""
        if not self._untold:
            return
        by_reason: defaultdict[str, list[str]] = defaultdict(list)
        for invocation, why in self._untold:
            by_reason[why].append(invocation)
        self._untold.clear()
        for why, made in by_reason.items():
            named = ", ".join([*made[:_NAMED], *(["..."] if len(made) > _NAMED else [])])
            which = f"invocation {named} is" if len(made) == 1 else f"{len(made):,} invocations ({named}) are"
            logger.warning("job %s: %s made again: %s", self._names.job, which, why)

    def _look(self, now: float) -> None:
        states = list(self.tree.states())
        missed = {
            state.invocation: state.end.missing for state in states if state.end and state.ended and state.end.missing
        }
        if missed:
            self._supply(missed)
            states = list(self.tree.states())
        due = [] if self._parked is None else self._parked.due(states, self._replaced)
        self.seen = states
        self.before.look(states)
        reports = (state.end.report if state.end and state.ended else state.beat for state in states)
        self.tasks_run = sum(report.tasks for report in reports if report is not None)
        # If an invocation's record is lost, its maker is invoked again instead, and makes another for the same tasks.
        gone = self._replaced
        running = [state for state in states if not state.ended and (state.beat or state.invocation not in gone)]
        self._stalled = 0 if running else self._stalled + 1
        if self._parked is not None:
            self._wake(due)
            for state in states:
                state.parked = state.invocation in self.tree.parked
            running = [state for state in running if not state.parked]
        if self._stalled >= 2:  # twice, since a result may become visible just after the end report beside it
            self._stalled = 0
            self.revive(states)
        for state in self.backups.due(states, running, self.tree.first_seen, now):
            logger.info("job %s: invocation %s is slow, and backed up", self._names.job, state.invocation)
            self._again(state.invocation, state.attempts, "now")
        for state, over in self._lost(states, running, now):
            self._blame(state.invocation, state.beat, over)
            self._again(state.invocation, state.attempts, at_its_limit(over))

    def _lost(
        self, states: Sequence[InvocationState], running: Sequence[InvocationState], now: float
    ) -> list[tuple[InvocationState, Ended | None]]:
        """Return those of `running` that seem lost, each with the limit that ended it; None: no limit is known to."""
        state_of = {state.invocation: state for state in states}
        silent: dict[str, InvocationState] = {}
        limits: dict[str, Ended | None] = {}
        least_s = min(_GRACE_BEATS * self._policy.heartbeat_s, self._policy.silence_s)
        for state in running:
            label, seen = self._names.label(state.invocation), self._seen.get(state.invocation)
            over = None
            if seen is not None and seen.beat is not None:
                over = ended(label, seen.beat, now - seen.since, least_s * 2 ** min(state.attempts, _MOST_DOUBLINGS))
            if seen is None or _at(seen.beat) != _at(state.beat) or not self._sent(state, state_of):
                self._seen[state.invocation] = _Seen(state.beat, now)
                # The platform has run it again. If it delivered both at once, nobody can tell which one is alive.
                if seen is None or not _another_run(seen.beat, state.beat):
                    continue
                if (over is not None or now - seen.since > least_s) and self._known([label]) is None:
                    self._blame(state.invocation, seen.beat, over)
                    self.before.rerun(seen.beat, over)
            elif over is not None or now - seen.since > least_s:
                silent[label], limits[label] = state, over
        known = self._known(list(silent)) if silent else None
        found = []
        for label, state in silent.items():
            seen = self._seen[state.invocation]
            # It may be queued, or a task may hold the interpreter's lock: be ever more patient.
            waited = now - seen.since > self._policy.silence_s * 2 ** min(state.attempts, _MOST_DOUBLINGS)
            if known is None:
                lost = waited or limits[label] is not None
            else:  # at the first look, an invocation that it does not have may just have ended, or wait in a proxy
                missed, seen.missed = seen.missed, label not in known
                lost = missed and seen.missed and (waited or state.beat is not None or self._envelope().proxy is None)
            if lost:
                found.append((state, limits[label] if known is None else None))
        return found

    def _sent(self, state: InvocationState, state_of: Mapping[str, InvocationState]) -> bool:
        """Whether this invocation's maker has handed it to the platform, or cannot do so any more."""
        attempt_id, number = self._names.origin(state.invocation)
        maker = state_of.get(self._names.maker(state.invocation) or "")
        if state.beat is not None or maker is None or maker.ended:
            return True
        if self._parked is not None and state.invocation in self._parked.woken:
            return True  # by this client
        if attempt_id != self._names.attempt_id(maker.invocation, maker.attempts):
            return True  # it was made by an earlier run, which is no more
        if maker.beat is None:
            return maker.invocation in self._replaced  # its record was lost, and it does not come again
        return number < maker.beat.sent

    def _supply(self, missed: Mapping[str, bytes]) -> None:
        """Ship again what executors have missed, and make them again. Raises ValueLost if the client has it no longer.

        `missed`: for each of these invocations the key that it did not find.
        """
        names = self._names
        for invocation, key in missed.items():
            if not key.startswith(names.prefix + b"/"):
                raise ValueLost(
                    f"the value of a future is not in the store any more ({key.decode(errors='replace')})",
                    job=names.job,
                    hint="the future was released, or the store dropped it; keep the future, or check the store",
                )
            self._count(invocation, f"{key.decode(errors='replace')} was not in the store", None, ATTEMPTS)
        if not self._reship():
            raise ValueLost(
                f"{next(iter(missed.values())).decode(errors='replace')} is not in the store any more",
                job=names.job,
                hint="the client that shipped it is gone: submit the job again",
            )
        for invocation in missed:
            self._again(invocation, self.tree.attempts[invocation])
            self.tree.since[invocation] = self.tree.attempts[invocation]

    def revive(self, states: Sequence[InvocationState]) -> None:
        """Make every invocation again, with no fan-in claimed. Raises JobStalled if that was done often enough.

        Two runs of one invocation may have handed over different tasks under one id. If one of them died with a claim,
        perhaps nobody brings the member again that won it. So all fan-ins begin anew.
        """
        self.rounds += 1
        if self.rounds > _ROUNDS:
            raise JobStalled(
                f"all {len(states)} invocations have ended without a result, {_ROUNDS} times over",
                job=self._names.job,
                hint="the store loses what it is given: check its memory and its time to live",
            )
        what = f"all {len(states):,} invocations have ended without a result that is still there, and are made again"
        logger.warning("job %s: %s", self._names.job, what)
        for first in range(0, self._n_tasks + 1, _DELETE_BATCH):
            children = range(first, min(first + _DELETE_BATCH, self._n_tasks + 1))
            self._store.delete([self._names.record(child) for child in children])
        for state in states:
            self._again(state.invocation, state.attempts)
        self.tree.since = dict(self.tree.attempts)

    def _recover(self, failure: FailurePort) -> None:
        """Make an invocation again that the platform reports dead, unless it had ended."""
        invocation = failure.invocation.partition("/")[2]
        end, attempts = self.tree.decoded([self._names.end(invocation), self._names.attempts(invocation)])
        if end is not None and end.attempt >= self.tree.since.get(invocation, 0):
            return  # it had done all it was to do
        self._count_failure(invocation, failure)
        self._again(invocation, attempts or 0, None if failure.reason == "start" else "now")

    def _count_failure(self, invocation: str, failure: FailurePort) -> None:
        if failure.reason == "memory" and self._grown(invocation, failure):
            return
        limited = failure.reason in ("timeout", "memory")
        culprit = (failure.reason, failure.task)
        twice = limited and failure.task is not None and self._culprits.get(invocation) == culprit
        self._culprits[invocation] = culprit
        limit = 1 if twice else ATTEMPTS
        hint = _HINTS.get(failure.reason, _HINT)
        self._count(invocation, f"{failure.reason}: {failure.detail}", failure.task, limit, hint=hint)

    def _grown(self, invocation: str, failure: FailurePort) -> bool:
        """Have an invocation that took too much memory run on the next larger function. False: there is none.

        That counts as no failure: a task has failed for its memory only if it does so on the largest function.
        """
        sizes = self._sizes()
        size = max(self._size[invocation], self._ordered_size(invocation) if sizes else 0) + 1
        if size >= len(sizes):
            return False
        self._size[invocation] = size
        self.outgrown.append((failure.task, sizes[size - 1]))
        what = f"memory: {failure.detail}; it goes to a function of {sizes[size] >> 20:,} MB"
        lost = Lost(time.time(), invocation, self.tree.attempts[invocation], what, failure.task, _HINTS["memory"])
        self.failures.append(lost)
        self._story[invocation].append((what, failure.task))
        self._untold.append((invocation, f"{what} (task {failure.task})" if failure.task else what))
        return True

    def _ordered_size(self, invocation: str) -> int:
        """Return the size of function that an invocation was made for, counted from 0."""
        record = self._store.get([self._names.invocation(invocation)])[0]
        recorded: Envelope | None = None if record is None else self._codec.decode(record, PAYLOAD)
        return 0 if recorded is None or recorded.order is None else recorded.order.size

    def _blame(self, invocation: str, beat: Heartbeat | None, over: Ended | None) -> None:
        """Count the end of a run that the platform has not reported."""
        if over is not None and self._size[invocation] and beat and beat.attempt < self.tree.attempts[invocation]:
            over = None  # the platform has run it again by itself, on the function that was too small
        if over is not None:
            self._count_failure(invocation, over)
        elif beat is None:
            self._count(invocation, "never started", None, _LOST_ATTEMPTS)
        else:
            why = f"fell silent{f' in {beat.named}' if beat.running else ''}"
            self._count(invocation, why, beat.named, _SILENT_ATTEMPTS, hint=_SILENT_HINT)

    def _count(self, invocation: str, what: str, task: str | None, limit: int, *, hint: str = _HINT) -> None:
        self._failed[invocation, limit] += 1
        story = self._story[invocation]
        story.append((what, task))
        self.failures.append(Lost(time.time(), invocation, self.tree.attempts[invocation], what, task, hint))
        self._untold.append((invocation, _with_task(what, task)))
        if self._failed[invocation, limit] < limit:
            return
        told = "; then ".join(what if ran == task else _with_task(what, ran) for what, ran in story)
        message = f"invocation {invocation} failed {len(story)} times: {told}"
        error = InvocationFailed(message, job=self._names.job, task=task, hint=hint)
        number = None if task is None else self._alone(task)
        # A function that dies by chance is not in the same task each time.
        if number is None or [named for _, named in story[-2:]] != [task, task]:
            raise error
        self._convicted[number] = Raised.of(error, task)
        del self._story[invocation]
        for counted in [each for each in self._failed if each[0] == invocation]:
            del self._failed[counted]

    def _wake(self, due: Sequence[str]) -> None:
        """Make invocations that were parked, all of one size at once."""
        if not due:
            return
        assert self._parked is not None
        orders, lost = self._parked.orders(due, self._replaced)
        for invocation in lost:
            self._again(invocation, 0)
        items: dict[bytes, Blob] = {}
        calls: defaultdict[int, list[tuple[str, bytes]]] = defaultdict(list)
        for order in orders:
            payload = self._packed(replace(order, parked=(), convicted=dict(self._convicted)))
            items[self._names.invocation(order.invocation)] = payload
            calls[order.size].append((order.invocation, payload))
        self._store.put(items, self._policy.ttl_s)  # so another client knows that they were made, or lost
        for size, some in calls.items():
            self._make(some, size)
            for invocation, _ in some:
                self._parked.made(invocation)

    def _packed(self, order: Order) -> bytes:
        order = replace(order, sent_at=time.time())
        return bytes(joined(self._codec.encode(replace(self._envelope(), order=order), PAYLOAD)))

    def _make(self, calls: Sequence[tuple[str, bytes]], size: int) -> None:
        for invocation, _ in calls:
            self._seen[invocation] = _Seen(None, self._clock())
        self.sent += self._send(calls, size) if size else self._send(calls)

    def _again(self, invocation: str, attempts: int, died: Died | None = None) -> None:
        names = self._names
        record = self._store.get([names.invocation(invocation)])[0]
        maker = names.maker(invocation)
        for _ in range(_RESHIPS):
            if record is None and maker is None and self._reship():
                record = self._store.get([names.invocation(invocation)])[0]
        if record is None:
            if maker is None:
                raise JobStalled("the record of a first invocation is not in the store any more", job=names.job)
            self._replaced.add(invocation)
            self.before.replaced(invocation, max(attempts, self.tree.attempts[invocation]), 0, 0, died)
            self._store.delete([names.end(invocation), names.heartbeat(invocation)])
            if maker not in self._again_now:
                [attempts] = self.tree.decoded([names.attempts(maker)])
                self._again(maker, attempts or 0)  # it hands over what is not on record
            return
        recorded: Envelope = self._codec.decode(record, PAYLOAD)
        assert recorded.order is not None
        self.tree.made_now(invocation)
        self._again_now.add(invocation)
        attempt = self.tree.attempts[invocation] = max(attempts, self.tree.attempts[invocation]) + 1
        convicted = dict(self._convicted)
        order = replace(recorded.order, attempt=attempt, alone=False, parked=(), convicted=convicted)
        key = names.attempts(invocation)
        size = max(self._size[invocation], order.size)
        self.before.replaced(invocation, attempt - 1, recorded.order.size, size, died)
        self._store.delete([names.end(invocation), names.heartbeat(invocation)])
        payload = self._packed(order)
        # It goes on record too: if the payload is too large for the platform, the function fetches it from there.
        items = {key: self._codec.encode(attempt, key), names.invocation(invocation): payload}
        self._store.put(items, self._policy.ttl_s)
        self.repeated += 1
        self._make([(invocation, payload)], size)


def _with_task(what: str, task: str | None) -> str:
    return f"{what} (task {task})" if task and task not in what else what


def _at(beat: Heartbeat | None) -> float | None:
    return None if beat is None else beat.at


def _another_run(before: Heartbeat | None, now: Heartbeat | None) -> bool:
    """Whether these two are of different runs of one attempt."""
    if before is None or now is None:
        return False
    return before.attempt == now.attempt and before.began != now.began
