"""What there is to learn from a job that has settled: its executors' own times, and the sizes of values.

From their end reports, or from the record once that has been made of them: whichever is there is cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from wukong.core.on_core import OnCore
from wukong.core.record import JobRecord
from wukong.core.track import KINDS, Spans, Track


@dataclass(frozen=True, slots=True)
class Noted:
    """One executor. Times are in seconds, by one clock.

    Attributes:
        invoked_s, began_s, ended_s: when it was called, began and ended. here: it ran on the client's machine.
        tasks, took: the tasks that it ran, and for how long each.
        begun: when each began, by any clock; empty: one ran after the other.
        moved: when it put or got values, for how long, and how many bytes.
        sums, on_core, cold, function_bytes: see `wukong.core.track.Track`.
        held: see `wukong.core.track.Track`.
        memory: by task, as far as known, the most bytes that the process had in use while it ran.
    """

    invoked_s: float
    began_s: float
    ended_s: float
    here: bool
    tasks: Sequence[int] = ()
    took: Sequence[float] = ()
    sums: Mapping[str, tuple[int, float, int]] = field(default_factory=dict)
    on_core: Mapping[str, OnCore] = field(default_factory=dict)
    cold: bool = False
    moved: Sequence[tuple[float, float, int]] = ()
    begun: Sequence[float] = ()
    memory: Mapping[int, int] = field(default_factory=dict)
    function_bytes: int = 0
    held: Mapping[int, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Taught:
    """A job.

    Attributes:
        executors: its executors. sizes: the bytes of values by task, as far as they are known.
        outgrown: tasks that have ended functions for their memory, each with the memory of that function, bytes.
    """

    executors: Sequence[Noted] = ()
    sizes: Mapping[int, int] = field(default_factory=dict)
    outgrown: Sequence[tuple[int, int]] = ()

    @property
    def held(self) -> list[tuple[int, bool]]:
        """Return what each executor has found out of the interpreter's lock: see `wukong.core.track.Track`."""
        return [each for executor in self.executors for each in executor.held.items()]


def of_tracks(tracks: Iterable[Track], machine: bytes) -> Taught:
    """Return what end reports tell. `machine`: the client's."""
    executors, sizes = [], dict[int, int]()
    for track in tracks:
        noted = Noted(
            track.sent_s,
            track.unix_s,
            track.unix_s + track.end_s - track.zero_s,
            bool(machine) and track.machine == machine,
            track.tasks,
            track.took,
            track.sums,
            track.on_core,
            track.cold,
            _moved(track.spans, track.unix_s - track.zero_s),
            track.begun if any(track.lanes) else (),
            _memory(track.sized, track.memory) if track.function_bytes else {},
            track.function_bytes,
            track.held,
        )
        executors.append(noted)
        sizes.update(zip(track.stored, track.stored_bytes, strict=True))
        sizes.update(zip(track.sized, track.sizes, strict=True))
    return Taught(executors, sizes)


def of_record(record: JobRecord, *, here: bool) -> Taught:
    """Return what a record tells, which has an executor's runs side by side. `here`: they ran on this machine."""
    runs, executors, first = record.runs, [], 0
    for row in record.invocations:
        mine = slice(first, first + row.recorded)
        first += row.recorded
        if row.invoked_s is None or row.began_s is None or row.ended_s is None:
            continue
        tasks = runs.tasks[mine]
        noted = Noted(
            row.invoked_s,
            row.began_s,
            row.ended_s,
            here,
            tasks,
            runs.took[mine],
            row.sums,
            row.on_core,
            bool(row.cold),
            _moved(row.spans, 0.0),
            runs.begun[mine] if any(runs.lanes[mine]) else (),
            _memory(tasks, runs.memory_bytes[mine]) if row.function_bytes else {},
            row.function_bytes,
            row.held,
        )
        executors.append(noted)
    sizes = {task: size for task, size in zip(runs.tasks, runs.value_bytes, strict=True) if size >= 0}
    return Taught(executors, sizes)


def _memory(tasks: Sequence[int], used: Sequence[int]) -> dict[int, int]:
    return {task: size_bytes for task, size_bytes in zip(tasks, used, strict=True) if size_bytes > 0}


_MOVES = KINDS.index("get"), KINDS.index("put")


def _moved(spans: Spans, shift_s: float) -> list[tuple[float, float, int]]:
    columns = zip(spans.kinds, spans.begun, spans.took, spans.size_bytes, strict=True)
    return [(begun + shift_s, took, size) for kind, begun, took, size in columns if kind in _MOVES]
