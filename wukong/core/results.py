"""The requested values of one job, as its client reads them: all of them at the end, or each as soon as it is there.

    key "done" -> Done -> values that travelled in it, and places of the stored ones  -> Result, once each
                                                            `-> read in one round trip -> values by requested key
    stored before the end -> Result

There is one such collector for each job, whoever waits for it. Only the waiting differs. A blocking call waits in the
store, on the job's one key (`wukong.core.job.Job.result`). For futures, one thread of the client asks for the ends of
all their jobs in one round trip (`wukong.client.background.Background`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from wukong.core.codec import Codec
from wukong.core.dag import Literal
from wukong.core.events import Done
from wukong.core.names import Names, text_of
from wukong.core.partial import Partial
from wukong.core.raised import Raised
from wukong.core.storage import Buffer, StorePort
from wukong.errors import WukongError


class Result(NamedTuple):
    """A requested task's value, or the key under which it stays in the store; both if it was read before the end.

    A `wukong.core.raised.Raised` as the value: the task failed, and others of its job did not.
    """

    task: int
    value: Any
    key: bytes | None


class Results:
    """Reads what a job was asked for; use from one thread at a time.

    Args:
        names, store, codec: where its values are, and how they are read.
        outputs: the requested tasks. request: for each requested key, a task or a literal.

    Attributes:
        kept: the tasks whose values were handed out by their keys; they stay in the store beyond the job's end,
            until whoever has the keys deletes them.
        any_raised: a requested task has failed by itself.
    """

    def __init__(
        self,
        names: Names,
        store: StorePort,
        codec: Codec,
        outputs: Sequence[int],
        request: Mapping[Hashable, int | Literal],
    ) -> None:
        self._names, self._store, self._codec = names, store, codec
        self._outputs, self._request = outputs, request
        self.kept: set[int] = set()
        self.any_raised = False
        self._told: set[int] = set()

    @property
    def complete(self) -> bool:
        """Whether every requested value has been handed out, by `early` and `last`."""
        return len(self._told) == len(self._outputs)

    def done(self, blob: Buffer) -> Done:
        """Decode the blob under the key ``done``. Raises CodecError, AuthenticationError; they name job and task."""
        try:
            done: Done = self._codec.decode(blob, self._names.done)
        except WukongError as error:
            error.job = self._names.job
            error.task = self._text_of(self._outputs[0]) if len(self._outputs) == 1 else error.task
            raise
        return done

    def early(self) -> Iterator[Result]:
        """Yield the values that are stored already and were not handed out before, in one round trip."""
        left = [task for task in self._outputs if task not in self._told]
        for task, blob in zip(left, self._store.get([self._names.value(task) for task in left]), strict=True):
            if blob is not None:
                yield self._hand_out(task, self._read(task, blob), self._names.value(task))

    def last(self, done: Done) -> Iterator[Result]:
        """Yield what the end tells and was not handed out before; stored values by their keys, unread."""
        inline = self._inline(done)
        for task, value in inline.items():
            if task not in self._told:
                yield self._hand_out(task, value, None)
        for task in self._outputs:
            if task not in inline and task not in self._told:
                yield self._hand_out(task, None, self._names.value(task))

    def by_key(self, done: Done) -> dict[Hashable, Any] | None:
        """Return all values by requested key; the stored ones are read in one round trip. None: the store lost one.

        Raises what a task raised.
        """
        found = self._inline(done)
        stored = [task for task in self._outputs if task not in found]
        blobs: Sequence[Buffer | None] = self._store.get([self._names.value(task) for task in stored]) if stored else ()
        for task, blob in zip(stored, blobs, strict=True):
            if blob is None:
                return None
            found[task] = self._read(task, blob)
        for value in found.values():
            if type(value) is Raised:
                raise value.error()
        return {key: at.value if isinstance(at, Literal) else found[at] for key, at in self._request.items()}

    def _inline(self, done: Done) -> dict[int, Any]:
        if not done.apart:
            return dict(done.inline)
        return {task: self._read(task, blob) for task, blob in done.inline.items() if isinstance(blob, bytes)}

    def _hand_out(self, task: int, value: Any, key: bytes | None) -> Result:
        self._told.add(task)
        if key is not None:
            self.kept.add(task)
        return Result(task, value, key)

    def _read(self, task: int, blob: Buffer) -> Any:
        """Return the value in a blob; `Raised` if it cannot be read here, or if it is what the task raised."""
        try:
            value = self._codec.decode(blob, self._names.value(task))
        except WukongError as error:
            error.task, error.job = self._text_of(task), self._names.job
            value = Raised.of(error, error.task)
        failed = type(value) is Raised or (type(value) is Partial and not value.whole)
        self.any_raised = self.any_raised or failed
        return value

    def _text_of(self, task: int) -> str:
        """Return the key of a requested task, as text."""
        return next((text_of(key) for key, at in self._request.items() if at == task), str(task))
