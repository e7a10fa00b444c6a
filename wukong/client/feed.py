"""What a client's dashboard tells: its jobs, and of the one that is looked at what the report's page shows.

    a job starts    -> add         (all that is done while there is no dashboard)
    it has settled  -> settled     its last page is made and kept, if there is time
    a page asks     -> answer      the jobs, and news of one of them: what its watch has heard of its executors

Nothing is asked of the store or the platform for it. Making a page takes the interpreter from the job: while a job
runs, that is done for a hundredth of the time at most, so what is shown of a large job is older.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wukong.client.job import ClientJob
from wukong.core.job import Job

if TYPE_CHECKING:
    from wukong.report.by_layer import GraphLayers
    from wukong.report.signs import Signs

_MOST_JOBS = 30
_REST = 100.0
_QUIET_S = 0.5
_HELD_S = 1.0
_GONE_S = 2.5
_LINGER_S = 1.5


@dataclass(slots=True, eq=False)
class _Followed:
    """One job, and what was made of it last.

    Attributes:
        row: its line in the list of jobs; heard: what that was made of.
        page: the page's data as JSON, compressed; paged, shape, signs: what that was made of. version: of the page.
        final: nothing more will come.
    """

    id: str
    job: weakref.ref[ClientJob]
    row: dict[str, Any] = field(default_factory=dict)
    page: bytes | None = None
    version: int = 0
    heard: Sequence[Any] | None = None
    paged: Sequence[Any] | None = None
    shape: GraphLayers | None = None
    signs: Signs | None = None
    final: bool = False


class Feed:
    """See the module's docstring. Any thread may call.

    Args:
        client: the client's id.
        clock: seconds. A page's cost is measured by it too: on a machine that is overloaded both are slow.

    Attributes:
        open: somebody may look. keeps: the page of every job is made, whatever that takes.
    """

    def __init__(self, client: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.client = client
        self.open = self.keeps = False
        self._clock = clock
        self._followed: deque[_Followed] = deque(maxlen=_MOST_JOBS)
        self._making = threading.Lock()
        self._news = threading.Condition()
        self._n_settled = 0
        self._over = self._told_all = False
        self._asked_at = self._next_at = self._busy_at = -1e9

    def add(self, job: ClientJob) -> None:
        """Follow one more job, for as long as anybody has it."""
        self._followed.append(_Followed(job.id, weakref.ref(job)))
        self._busy_at = self._clock()

    def settled(self, job: Job) -> None:
        """Hear that nothing more will be known of a job."""
        if not (self.open or self.keeps):
            return
        self._busy_at = self._clock()  # the next job may begin at once
        each = next((each for each in list(self._followed) if each.id == job.id), None)
        if each is not None and self._making.acquire(blocking=self.keeps):
            try:
                self._look(each, page=True)
                if not each.final and isinstance(job, ClientJob):
                    self._tell(each, job)
            finally:
                self._making.release()
        with self._news:
            self._n_settled += 1
            self._news.notify_all()

    def answer(self, wanted: str, seen: str) -> bytes:
        """Return, as JSON, the list of jobs, and of one of them what the page shows, unless that was seen.

        `wanted`: the job's id; empty: the latest. `seen`: the version that was told last; then wait a second for news
        first. Empty: nothing was told yet.
        """
        self._asked_at = self._clock()
        n_settled = self._n_settled
        if seen:
            with self._news:
                self._news.wait_for(lambda: self._over or self._n_settled != n_settled, _HELD_S)
        over = self._over
        with self._making:
            known = [each for each in list(self._followed) if each.row or each.job() is not None]
            shown = next((each for each in reversed(known) if each.id == wanted), known[-1] if known else None)
            if any((job := each.job()) is not None and job.status == "running" for each in known):
                self._busy_at = self._clock()
            for each in reversed(known):
                self._look(each, page=each is shown)
            page = None if shown is None else shown.page
            version = "none" if shown is None else f"{shown.id}:{shown.version}"
            head = {
                "client": self.client,
                "jobs": [
                    {**each.row, "page": each.page is not None or each.job() is not None}
                    for each in reversed(known)
                    if each.row
                ],
                "shown": None if shown is None else shown.id,
                "version": version,
                "over": over,
            }
        data = b"null" if page is None or version == seen else gzip.decompress(page)
        if over:
            with self._news:
                self._told_all = True
                self._news.notify_all()
        self._asked_at = self._clock()
        return json.dumps(head, default=str).encode()[:-1] + b',"data":' + data + b"}"

    def pages(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return the jobs whose pages there are, the first one first: row and data of each; if it keeps them."""
        for each in list(self._followed):
            job = each.job()
            if job is not None:
                job.summary()  # waits for the last reports of a job that has just ended
                with self._making:
                    self._look(each, page=True)
        return [(each.row, json.loads(gzip.decompress(each.page))) for each in list(self._followed) if each.page]

    def end(self) -> None:
        """Tell whoever looks that nothing more will come; wait a moment until that was told."""
        with self._news:
            self._over = True
            self._news.notify_all()
            if self._clock() - self._asked_at < _GONE_S:
                self._news.wait_for(lambda: self._told_all, _LINGER_S)

    def _look(self, each: _Followed, *, page: bool) -> None:
        """Bring a job's row, and its page, up to date, if there is anything new and time for it."""
        job = each.job()
        if each.final or job is None:
            return
        now, settled, heard = self._clock(), job.settled, job.heard()
        running = job.status == "running"
        new = settled or each.heard is not heard or (page and each.paged is not heard)
        free = self.keeps or now >= self._next_at or now - self._busy_at > _QUIET_S
        if new and free and (settled or running):  # between the two, whoever asks what it did has to wait
            self._tell(each, job)
            if page:
                self._make(each, job, final=settled)
            done = self._clock()
            self._next_at = done + _REST * (done - now)
        elif not each.row:
            self._tell(each, job)
        else:
            each.row |= {"status": job.status, **({"wall_s": time.time() - job.began_at} if running else {})}

    def _tell(self, each: _Followed, job: ClientJob) -> None:
        each.heard, summary = job.heard(), job.summary(timeout_s=0.0)
        each.row = {
            "id": each.id,
            "status": summary.status,
            "tasks": summary.tasks,
            "tasks_run": summary.tasks_run,
            "executors": summary.executors,
            "began_at": job.began_at,
            "wall_s": summary.wall_s,
            "usd": summary.usd,
        }

    def _make(self, each: _Followed, job: ClientJob, *, final: bool) -> None:
        from wukong.report.by_layer import GraphLayers
        from wukong.report.signs import Signs
        from wukong.report.view import view

        each.paged = heard = job.heard()
        each.signs = Signs() if each.signs is None else each.signs
        each.signs.hear(heard)
        record = job.record
        if each.shape is None:
            each.shape = GraphLayers.of(record)
        record.layers = each.shape.layers
        text = json.dumps(view(record, each.shape, each.signs), separators=(",", ":"), default=str, allow_nan=False)
        each.page, each.version, each.final = gzip.compress(text.encode(), 1), each.version + 1, final
        if final:
            each.shape = each.signs = each.paged = each.heard = None
