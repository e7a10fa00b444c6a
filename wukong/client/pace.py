"""How jobs go, in a few words for a row of progress: who runs, what went wrong, what it costs, how long it still takes.

How long it still takes is an estimate: from how long tasks of these kinds took in earlier jobs, and how much of that
work is done in a second; if that is not known, from how many tasks are done in a second; else it is said to be unknown.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from wukong.client.job import ClientJob
from wukong.client.rows import Detail

_REST = 50.0
_MOST_SAMPLES = 120
_LEAST_WINDOW_S = 5.0
_SURE = 0.02
_MINUTE_S, _HOUR_S = 60.0, 3_600.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Sums over jobs at a moment.

    Attributes:
        tasks, done: how many there are, and have been run. busy_s: time inside tasks.
        running: executors that have begun and have not ended.
        failed, again: runs of tasks that raised for good; tasks run again and invocations made again.
        usd: US dollars; None: nobody charges. work_s: what all tasks together should take, if that is known.
        layers: by layer, how many tasks have been run, and how many there are.
    """

    tasks: int = 0
    done: int = 0
    busy_s: float = 0.0
    running: int = 0
    failed: int = 0
    again: int = 0
    usd: float | None = None
    work_s: float | None = None
    layers: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class _Samples:
    """How much was done by when."""

    kept: deque[tuple[float, int, float]] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES))

    def add(self, now_s: float, done: int, busy_s: float) -> None:
        if not self.kept or now_s > self.kept[-1][0]:
            self.kept.append((now_s, done, busy_s))

    def rates(self) -> tuple[float, float]:
        """Return tasks a second, and seconds of work a second, over the latter half of the time."""
        if len(self.kept) < 2:
            return 0.0, 0.0
        last_s, done, busy_s = self.kept[-1]
        since_s = last_s - max(_LEAST_WINDOW_S, (last_s - self.kept[0][0]) / 2)
        first = next(each for each in self.kept if each[0] >= since_s or each is self.kept[-1])
        if first is self.kept[-1]:
            first = self.kept[-2]
        took_s = last_s - first[0]
        return (done - first[1]) / took_s, (busy_s - first[2]) / took_s


class Pace:
    """How some jobs go.

    Args:
        jobs: returns them.
        clock: seconds.
    """

    def __init__(self, jobs: Callable[[], Collection[ClientJob]], clock: Callable[[], float] = time.monotonic) -> None:
        self._jobs, self._clock = jobs, clock
        self._samples = _Samples()
        self._standing = Standing()
        self._heard: list[object] = []
        self._next_at = 0.0
        self._since = clock()
        self._at = ""

    def details(self, over: bool = False) -> list[Detail]:
        """Return what there is to say, in the order in which it is shown; `over`: all jobs have ended."""
        now_s = self._clock()
        jobs = self._jobs()
        heard: list[object] = [each for job in jobs for each in (job.heard(), job.settled)]
        if now_s >= self._next_at and (len(heard) != len(self._heard) or any(map(_differ, heard, self._heard))):
            self._heard = heard
            before, self._standing = self._standing, standing(jobs, now_s - self._since)
            self._at = at_work(before.layers, self._standing.layers) or self._at
            self._samples.add(now_s, self._standing.done, self._standing.busy_s)
            done_s = self._clock()
            self._next_at = done_s + _REST * (done_s - now_s)
        said = told(replace(self._standing, running=0) if over else self._standing)
        if not over and self._at in self._standing.layers:
            done, tasks = self._standing.layers[self._at]
            said.insert(0, Detail(-1, f"{self._at} {done:,}/{tasks:,}"))
        if not over and self._standing.done < max(1, self._standing.tasks):
            last_s = self._samples.kept[-1][0] if self._samples.kept else now_s
            said.append(Detail(3, left_told(self._standing, self._samples.rates(), now_s - last_s)))
        return said


def _differ(one: object, other: object) -> bool:
    return one is not other


def standing(jobs: Collection[ClientJob], elapsed_s: float) -> Standing:
    """Sum up what is known of jobs. `elapsed_s`: for how long somebody has been waiting."""
    tasks = done = running = failed = again = 0
    busy_s, usd, work_s = 0.0, 0.0, 0.0
    charged, known = False, True
    layers: dict[str, tuple[int, int]] = {}
    for job in jobs:
        summary = job.summary(timeout_s=0.0)
        tasks, done, busy_s = tasks + summary.tasks, done + summary.tasks_run, busy_s + summary.busy_s
        usd, charged = usd + summary.usd, charged or summary.bill is not None or summary.rent is not None
        again, failed = again + summary.repeated + summary.retried, failed + summary.raised - summary.retried
        running += 0 if job.ended else summary.running
        work = job.work_s(elapsed_s)
        known, work_s = known and work is not None, work_s + (work or 0.0)
        for name, (ran, of) in job.by_layer(elapsed_s).items():
            earlier = layers.get(name, (0, 0))
            layers[name] = earlier[0] + ran, earlier[1] + of
    known_s = work_s if known and work_s else None
    return Standing(tasks, done, busy_s, running, failed, again, usd if charged else None, known_s, layers)


def at_work(before: Mapping[str, tuple[int, int]], now: Mapping[str, tuple[int, int]]) -> str | None:
    """Return the layer of which most tasks were run between two moments; None: none was run."""
    more = {name: done - before.get(name, (0, 0))[0] for name, (done, of) in now.items() if done < of}
    most = max(more, key=more.__getitem__, default=None)
    return most if most is not None and more[most] > 0 else None


def told(now: Standing) -> list[Detail]:
    """Return how jobs stand, in words."""
    said = []
    if now.running:
        said.append(Detail(1, f"{now.running:,} running"))
    if now.failed:
        said.append(Detail(4, f"{now.failed:,} failed"))
    if now.again:
        said.append(Detail(2, f"{now.again:,} again"))
    if now.usd:
        said.append(Detail(0, price_told(now.usd)))
    return said


def left_told(now: Standing, rates: tuple[float, float], since_s: float) -> str:
    """Return how long it still takes, in words. `since_s`: how long ago the rates were those."""
    done_rate, busy_rate = rates
    left_s = None
    if now.work_s is not None and busy_rate > 0 and now.done < now.tasks:
        left_s = max(now.work_s - now.busy_s, _SURE * now.work_s) / busy_rate - since_s
    elif done_rate > 0:
        left_s = (now.tasks - now.done) / done_rate - since_s
    return "time left not known" if left_s is None else f"about {span_told(max(0.0, left_s))} left"


def price_told(usd: float) -> str:
    """Return a price as a person says it."""
    return "<$0.0001" if usd < 1e-4 else f"${usd:.2g}" if usd < 1 else f"${usd:,.2f}"


def span_told(span_s: float) -> str:
    """Return a duration as a person says it."""
    if span_s < _MINUTE_S:
        return f"{max(1, round(span_s))} s"
    return f"{round(span_s / _MINUTE_S)} min" if span_s < _HOUR_S else f"{span_s / _HOUR_S:.1f} h"
