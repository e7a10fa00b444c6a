"""What one run of an invocation leaves in the store, so that its end report and its clean-up name the same keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from wukong.core.names import Names


@dataclass(slots=True)
class Ledger:
    """What this run writes, noted here before it is written.

    Attributes:
        stored: tasks whose values were stored. requested: those of them that the client wants.
        arrived: fan-ins at which it has arrived.
        made: invocations that it has put on record. sent: those numbered below it were handed to the platform.
        shipped: pages of the DAG.
        read: tasks whose readers' records it has touched.
        written: keys of what tasks wrote to targets of the client's. seats: keys of seats and of their tickets.
        failed: keys of what is kept of tasks that have failed. They stay: the client finds them by the end report.
        missing: key of a page or an object without which it could not go on.
    """

    stored: list[int] = field(default_factory=list)
    requested: set[int] = field(default_factory=set)
    arrived: list[int] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    sent: int = 0
    shipped: list[int] = field(default_factory=list)
    read: set[int] = field(default_factory=set)
    written: set[bytes] = field(default_factory=set)
    seats: set[bytes] = field(default_factory=set)
    failed: list[bytes] = field(default_factory=list)
    missing: bytes | None = None

    def keys(self, names: Names, *, kept: bool, held: bool = False) -> Iterator[bytes]:
        """Yield the keys of all that this names; without the requested values if the client has `kept` them.

        `held`: without all values and what may hold values, for another job goes on with this one.
        """
        yield from map(names.page, self.shipped)
        yield from map(names.readers, self.read)
        yield from self.written
        yield from self.seats
        if not held:
            yield from map(names.record, self.arrived)
            yield from (names.value(task) for task in self.stored if not (kept and task in self.requested))
