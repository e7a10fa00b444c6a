"""What an executor asks of the world, and the answers: the closed vocabulary of the protocol.

`wukong.core.protocol` yields effects and never performs one. An interpreter (`wukong.core.executor` for real,
`wukong.testing.simulator` for exploring) carries each out and sends its answer back in. Tasks are integers.

The two dataclasses at the top, `Arrival` and `Outcome`, are the store contract's own words for a fan-in: opaque
bytes, no tasks. An interpreter translates `Arrive` (tasks) to `Arrival` (bytes) and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
Blob: TypeAlias = "bytes | bytearray | memoryview | tuple[Buffer, ...]"
"""A value as a store takes it: one buffer, or several that are to be stored back to back."""


def joined(blob: Blob) -> Buffer:
    """Return a blob as one contiguous buffer (a copy only where it came in several parts)."""
    return b"".join(blob) if isinstance(blob, tuple) else blob


def blob_size(blob: Blob) -> int:
    """Return the size of a blob in bytes."""
    if isinstance(blob, tuple):
        return sum(memoryview(part).nbytes for part in blob)
    return memoryview(blob).nbytes


@dataclass(frozen=True, slots=True)
class Arrival:
    """One executor's arrival at a fan-in's record, as the store sees it.

    Attributes:
        record: key of the record. Records and values are separate name spaces.
        members: which of the fan-in's inputs arrive, each in ``range(of)``; at least one, none twice.
        of: how many members make the set complete; the same in every arrival at this record.
        claimant: id of the arriving invocation.
        value: bytes that ride along, handed to the claimant when the set is complete.
        only_if_last: record this arrival only where it completes the set; otherwise change nothing.
    """

    record: bytes
    members: tuple[int, ...]
    of: int
    claimant: bytes
    value: bytes | None = None
    only_if_last: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the store answers to one `Arrival`.

    Attributes:
        complete: the set is complete after this call.
        claimed: this claimant is the one who completed it (now, or when it asked before).
        values: only where claimed: every value that rode in, in no particular order. A value rides in once: an
            arrival that adds no new member leaves the recorded values as they are.
    """

    complete: bool
    claimed: bool
    values: tuple[bytes, ...] = ()
