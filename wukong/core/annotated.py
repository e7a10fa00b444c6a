"""What `dask.annotate` may say of a task that Wukong heeds; anything else that it says of these is an error.

retries     how often the task is run again in place        priority    how urgent it is
lanes       1: it runs alone in its process                 memory      that of a function that has room for it
keep        the name under which its value is kept; True: the default one
limit       names, and how many tasks of each may run at once in the whole job
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from numbers import Real
from typing import Any, NoReturn, TypeVar

from dask.utils import parse_bytes

from wukong.core.dag import Limits
from wukong.errors import GraphError

T = TypeVar("T")


def told(
    given: Mapping[Hashable, Any], tasks: Mapping[Hashable, int], read: Callable[[Hashable, Any], T]
) -> dict[int, T]:
    """Return what `read` makes of the annotations by task, for those tasks that there are. None and False say nothing.

    Raises what `read` raises, which is GraphError for what means nothing.
    """
    return {
        tasks[key]: read(key, value)
        for key, value in given.items()
        if key in tasks and value is not None and value is not False
    }


def retries(key: Hashable, value: Any) -> int:
    """Return how often to run a task again. Raises `GraphError`."""
    try:
        tries = operator.index(value)
    except TypeError:
        tries = -1
    if tries < 0:
        _refuse("retries", key, value, "is no number of times", "as retries=3: a whole number, 0 at least")
    return tries


def priority(key: Hashable, value: Any) -> float:
    """Return how urgent a task is. Raises `GraphError`."""
    if not isinstance(value, Real):
        _refuse("priority", key, value, "is no number", "as priority=10; what has more comes first")
    return float(value)


def lanes(key: Hashable, value: Any) -> int:
    """Return 1: a task runs alone. Raises `GraphError` for any other number."""
    if value != 1:
        _refuse("lanes", key, value, "means nothing", "lanes=1: the task runs alone in its process; no other number")
    return 1


def keep(key: Hashable, value: Any) -> str | bool:
    """Return the name under which to keep a task's value, or True. Raises `GraphError`."""
    if value is not True and not isinstance(value, str):
        _refuse("keep", key, value, "is no name", 'as keep="name", or keep=True')
    return value


def limit(key: Hashable, value: Any) -> Limits:
    """Return the limits of an annotation like ``{"database": 4}``, by name. Raises `GraphError`."""
    if not isinstance(value, Mapping) or not value or not all(map(_is_limit, value, value.values())):
        _refuse("limit", key, value, "is no limit", 'as limit={"database": 4}: names, and a whole number, 1 at least')
    return tuple(sorted((name, operator.index(n)) for name, n in value.items()))


def _is_limit(name: Any, n: Any) -> bool:
    return isinstance(name, str) and hasattr(n, "__index__") and not isinstance(n, bool) and operator.index(n) >= 1


def agreed(limits: Mapping[int, Limits], keys: Sequence[Hashable]) -> dict[int, Limits]:
    """Return the limits by task, none larger than the number of its tasks. `keys`: of all tasks.

    Raises `GraphError` if a limit is not the same number in the whole graph.
    """
    first: dict[str, tuple[int, int]] = {}
    tasks: Counter[str] = Counter()
    for task, given in limits.items():
        for name, n in given:
            tasks[name] += 1
            before, other = first.setdefault(name, (n, task))
            if before != n:
                said = f"the limit {name!r} is {before} for {keys[other]!r}, and {n} for {keys[task]!r}"
                raise GraphError(said, task=str(keys[task]), hint="give one number for a name, in all of a job")
    return {task: tuple((name, min(n, tasks[name])) for name, n in given) for task, given in limits.items()}


def memory_bytes(key: Hashable, value: Any) -> int:
    """Return the bytes of an annotation like ``"4 GiB"`` or 4e9. Raises `GraphError`."""
    try:
        found = parse_bytes(value) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        found = 0
    if found < 1:
        _refuse("memory", key, value, "is no size", 'as memory="4 GiB", or a number of bytes')
    return found


def _refuse(name: str, key: Hashable, value: Any, what: str, hint: str) -> NoReturn:
    raise GraphError(f"the annotation {name}={value!r} {what}", task=str(key), hint=hint)
