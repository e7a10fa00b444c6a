"""What executors move through the store besides values: payloads, pages of the DAG, large literals, signs of life.

It is little, and all there is if values are small: 200 tasks that return a number move 400 kB. The figures are of
payloads and signs of life as they are pickled, and hold within a fifth; pages are measured, since what a task is made
of differs. The end report is not among them: what it tells was counted before it was written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

ORDER_BYTES = 720
BEAT_BYTES = 530
RIDE_BYTES = 8_192
"""Up to this size the DAG rides in each payload; a larger one is put into the store when there is a second executor."""


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a job's executors move besides values.

    Attributes:
        pages: the size of each page of the DAG, bytes; none: nothing is counted at all.
        inline_bytes: a DAG up to this size is in the payloads of the client's own invocations.
        heartbeat_s: between two signs of life.
        objects: for each task that has any, its large literals and kept values: what each is, and its bytes.
    """

    pages: Sequence[int] = ()
    inline_bytes: int = 131_072
    heartbeat_s: float = 1.0
    objects: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)

    def inside_bytes(self, *, by_client: bool) -> int:
        """Return how much of the DAG is inside an invocation of the client's, or of an executor's: all of it, or 0."""
        whole = sum(self.pages)
        return whole if whole <= (self.inline_bytes if by_client else RIDE_BYTES) else 0


class OverheadCount:
    """Counts it, for one job on the virtual clock. Executors are told apart by any hashable.

    Attributes:
        put_bytes, got_bytes: up to now.
    """

    def __init__(self, overhead: Overhead) -> None:
        self._of = overhead
        self._all_bytes = sum(overhead.pages)
        self._shipped = False
        self._fetched: Counter[int] = Counter()
        self._loaded: set[tuple[Hashable, int]] = set()
        self.put_bytes = self.got_bytes = 0

    def _with_payload(self, by_client: bool) -> bool:
        """Whether an executor has the whole DAG from its payload."""
        return self._all_bytes <= (self._of.inline_bytes if by_client else RIDE_BYTES)

    def made(self, parts: int) -> None:
        """An executor makes this many invocations."""
        if not self._of.pages:
            return
        self.put_bytes += parts * (ORDER_BYTES + (self._all_bytes if self._with_payload(by_client=False) else 0))
        if self._with_payload(by_client=True) and not self._with_payload(by_client=False) and not self._shipped:
            self._shipped = True
            self.put_bytes += self._all_bytes

    def page(self, index: int, *, by_client: bool, processes: int) -> None:
        """An executor needs a page; one of its process's earlier executors may have fetched it."""
        if index < len(self._of.pages) and not self._with_payload(by_client) and self._fetched[index] < processes:
            self._fetched[index] += 1
            self.got_bytes += self._of.pages[index]

    def ran(self, executor: Hashable, task: int) -> None:
        """An executor runs a task, whose large literals it has to fetch once."""
        for what, size_bytes in self._of.objects.get(task, ()):
            if (executor, what) not in self._loaded:
                self._loaded.add((executor, what))
                self.got_bytes += size_bytes

    def ended(self, lived_s: float) -> None:
        """An executor ends: it has given a sign of life now and then, and looked at its last one before."""
        beats = int(lived_s / self._of.heartbeat_s) if self._of.pages else 0
        self.put_bytes += beats * BEAT_BYTES
        self.got_bytes += max(0, beats - 1) * BEAT_BYTES
