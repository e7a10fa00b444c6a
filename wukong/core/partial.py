"""Results of which some are missing, because tasks have failed: what ``on_error="collect"`` returns.

    chunks' tasks --values, or `Raised`--> one task, `Collect` -> `Partial`, the job's only requested value

`Collect` is run like any task, after all that it needs. In such a job what a task raises is its value, and that of
every task which needs it; the protocol knows nothing of failures. So the job goes on past them on every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wukong.core.dag import Op, op_refs, run_op
from wukong.core.names import text_of
from wukong.core.raised import Raised, together


@dataclass(frozen=True, slots=True)
class FailedValue:
    """Stands where a value would, if the task that makes it has failed, or one that it needs.

    Attributes:
        key: the key of the value that is missing.
        raised: what was raised, and by which task.
    """

    key: Hashable
    raised: Raised = field(repr=False)

    @property
    def task(self) -> str | None:
        """The key of the task that raised, as text: `key` itself, or one of those that it needs."""
        return self.raised.task

    @property
    def message(self) -> str:
        """The exception's class and what it says."""
        return f"{self.raised.kind}: {self.raised.message}"

    @property
    def traceback(self) -> str:
        """The remote traceback."""
        return self.raised.traceback

    def error(self) -> BaseException:
        """Return the exception, the remote traceback as its cause; a new one each time."""
        return self.raised.error()

    def __repr__(self) -> str:
        where = "" if self.task == text_of(self.key) else f" in {self.task}"
        return f"<no value of {text_of(self.key)}: {self.message}{where}>"


@dataclass(frozen=True, slots=True)
class Whole:
    """How one collection is put together.

    Attributes:
        depth: in how many lists its only chunk stands; 0: it has several, or none.
        finish, args: ``finish(chunks, *args)``, as `__dask_postcompute__` says.
    """

    depth: int
    finish: Callable[..., Any]
    args: tuple[Any, ...]

    def __call__(self, part: Any) -> Any:
        """Return the collection's value; `part`: its chunks in nested lists, or its only chunk."""
        for _ in range(self.depth):
            part = [part]
        return self.finish(part, *self.args)


@dataclass(frozen=True, slots=True)
class Partial:
    """What a job has computed although tasks of it have failed.

    Attributes:
        results: what there is of the collection, or in a list what there is of each of several. If it is made of one
            task (delayed values, scalars), the value, or a `FailedValue` in its place; if of many (chunks, partitions),
            nested lists of those.
        errors: the story of each task that has raised, by its key, as text. Of one value that is missing, those of up
            to 100 tasks.
    """

    results: Any
    errors: dict[str, FailedValue]
    _wholes: tuple[Whole, ...] = field(repr=False)
    _single: bool = field(repr=False)

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return not self.errors

    def result(self) -> Any:
        """Return what computing would have returned, put together. Raises the first of the errors, if there are any."""
        for failed in self.errors.values():
            raise failed.error()
        parts = [self.results] if self._single else self.results
        made = [whole(part) for whole, part in zip(self._wholes, parts, strict=True)]
        return made[0] if self._single else made

    def __repr__(self) -> str:
        what = "whole" if self.whole else f"{len(self.errors)} failed: {', '.join(list(self.errors)[:3])}"
        return f"<wukong.Partial: {what}>"


class Collect:
    """A task's function: takes the chunks of collections, in order, and returns what there is of them.

    Args:
        keys: of each collection the keys of its chunks, in nested lists.
        finishes: how each is put together, as `__dask_postcompute__` says.
        single: there is one, and it is not in a list.
    """

    takes_raised = True

    def __init__(
        self, keys: Sequence[Any], finishes: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]], *, single: bool
    ) -> None:
        self._keys, self._finishes, self._single = keys, finishes, single

    def __call__(self, *chunks: Any) -> Partial:
        left, errors = iter(chunks), dict[str, FailedValue]()
        parts, wholes = [], []
        for keys, (finish, args) in zip(self._keys, self._finishes, strict=True):
            part, depth = _filled(keys, left, errors), _depth(keys)
            for _ in range(depth):
                [part] = part
            parts.append(part)
            wholes.append(Whole(depth, finish, args))
        return Partial(parts[0] if self._single else parts, errors, tuple(wholes), self._single)


def poisoned(op: Op, cache: Mapping[int, Any]) -> Any:
    """Return the value of a task with an input that is another's failure; it is only run if it `takes_raised`."""
    if getattr(op[0], "takes_raised", False):
        return run_op(op, cache.__getitem__)
    return together(each for each in map(cache.get, op_refs(op)) if type(each) is Raised)


def _filled(keys: Any, left: Iterator[Any], errors: dict[str, FailedValue]) -> Any:
    if isinstance(keys, list):
        return [_filled(each, left, errors) for each in keys]
    value = next(left)
    if type(value) is not Raised:
        return value
    for raised in (value, *value.others):
        name = raised.task or text_of(keys)
        errors.setdefault(name, FailedValue(name, raised))
    return FailedValue(keys, value)


def _depth(keys: Any) -> int:
    depth = 0
    while isinstance(keys, list) and len(keys) == 1:
        [keys], depth = keys, depth + 1
    return 0 if isinstance(keys, list) else depth
