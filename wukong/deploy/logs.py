r"""The functions' logs, from CloudWatch: of all functions in the order of time, or of one job; past or followed.

    <stream>:  START ... | what the job's tasks wrote | END  REPORT | START ...
               \----------- one invocation -----------/

A line that a task wrote names its job (`wukong_executor.log`). The platform's own lines around it do not, but they
report crashes, time limits and memory. One environment writes each stream, one invocation after the other, so whole
invocations can be told apart. An invocation that died before it wrote anything may belong to any job, and is shown.
"""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from wukong.core.interrupts import heeded
from wukong.deploy.account import DeployAccount, DeployRefused
from wukong.errors import BackendError

PAUSE_S = 2.0
LATE_MS = 30_000
"""How much later than its timestamp a line may arrive."""

_BEGINS = ("START RequestId: ",)
_ENDS = ("REPORT RequestId: ", "INIT_REPORT ")
_LABEL = re.compile(r"\t([^\t/\s]+)/[\d.~]+\t")
_DIED = re.compile(
    r"Task timed out|Runtime exited|Runtime\.\w+|Status: (?:timeout|error)|signal: killed|Traceback \(most"
)


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One event of a log. `time_ms`: since 1970; `stream`: names the environment; `text`: without line end."""

    time_ms: int
    group: str
    stream: str
    text: str

    @property
    def function(self) -> str:
        """The name of the function that wrote it."""
        return self.group.rpartition("/")[2]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"function": self.function, **asdict(self)}


def lines(
    account: DeployAccount,
    groups: Sequence[str],
    since_ms: int,
    *,
    job: str | None = None,
    follow: bool = False,
    pause_s: float = PAUSE_S,
) -> Iterator[LogEvent]:
    """Yield the lines of these log groups from `since_ms` on, in the order of time.

    Args:
        account: of the logs.
        groups: names of log groups, which must exist.
        since_ms: milliseconds since 1970.
        job: only of this job's invocations.
        follow: go on for ever, with new lines.
        pause_s: seconds between two looks while following.

    Raises `BackendError` if a group does not exist.
    """
    only = None if job is None else OfOneJob(job)
    with heeded() as interrupted:
        yield from _lines(account, groups, since_ms, only, follow, pause_s, interrupted)


def _lines(
    account: DeployAccount,
    groups: Sequence[str],
    since_ms: int,
    only: OfOneJob | None,
    follow: bool,
    pause_s: float,
    interrupted: Callable[[], None],
) -> Iterator[LogEvent]:
    seen: dict[str, int] = {}
    while True:
        newest_ms = since_ms
        for name, line in heapq.merge(
            *(_events(account, group, since_ms) for group in groups), key=lambda each: each[1].time_ms
        ):
            if name not in seen:
                seen[name] = line.time_ms
                newest_ms = max(newest_ms, line.time_ms)
                yield from (line,) if only is None else only.take(line)
        if not follow:
            break
        since_ms = max(since_ms, newest_ms - LATE_MS)
        seen = {name: at_ms for name, at_ms in seen.items() if at_ms >= since_ms}
        interrupted()
        time.sleep(pause_s)
    if only is not None:
        yield from only.rest()


def _events(account: DeployAccount, group: str, since_ms: int) -> Iterator[tuple[str, LogEvent]]:
    try:
        for each in account.pages("logs", "filter_log_events", "events", logGroupName=group, startTime=since_ms):
            text = str(each["message"]).rstrip("\n")
            yield str(each["eventId"]), LogEvent(int(each["timestamp"]), group, str(each["logStreamName"]), text)
    except DeployRefused as error:
        if error.code != "ResourceNotFoundException":
            raise
        raise BackendError(f"there is no log group {group}", hint="'wukong status' says what is deployed") from error


@dataclass(slots=True)
class _Invocation:
    """The lines of one invocation so far. `wanted`: it belongs to the job; None: not known yet."""

    lines: list[LogEvent] = field(default_factory=list)
    wanted: bool | None = None
    died: bool = False


class OfOneJob:
    """A filter for whole invocations of one job. Lines come in the order of their stream."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._open: dict[tuple[str, str], _Invocation] = {}

    def take(self, line: LogEvent) -> Iterable[LogEvent]:
        """Take a line; return the lines that pass now."""
        stream = line.group, line.stream
        let: list[LogEvent] = []
        if line.text.startswith(_BEGINS):
            let += self._end(stream)
        invocation = self._open.setdefault(stream, _Invocation())
        invocation.lines.append(line)
        label = _LABEL.search(line.text)
        if label is not None and invocation.wanted is None:
            invocation.wanted = label[1] == self._job
        invocation.died = invocation.died or _DIED.search(line.text) is not None
        if invocation.wanted:
            let += invocation.lines
            invocation.lines = []
        if line.text.startswith(_ENDS):
            let += self._end(stream)
        return let

    def rest(self) -> list[LogEvent]:
        """Return the lines that pass of invocations that have not ended."""
        return [line for stream in list(self._open) for line in self._end(stream)]

    def _end(self, stream: tuple[str, str]) -> list[LogEvent]:
        invocation = self._open.pop(stream, None)
        if invocation is None or not (invocation.wanted or (invocation.wanted is None and invocation.died)):
            return []
        return invocation.lines
