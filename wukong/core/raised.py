"""What a task raised, in a form that travels whatever the exception is made of.

The exception is pickled by itself, apart from what it travels with, so that one which cannot be unpickled harms nobody
else, and its class, message and traceback are told as text beside it:

    whole       as it is, even if its constructor takes other arguments than `args`: the constructor is not called again
    bare        what cannot travel (a lock among its attributes) is left out, and named in a note
    stand-in    `TaskError`, which says class and message, if the class itself cannot travel

In a job that makes several futures, a task that fails does not end the job: a `Raised` becomes its value, and that of
every task which needs it (`Poisoned`); of several that a task needs, the first has the `others` with it. A function
with a true attribute `takes_raised` gets them as they are: it collects what has become of its inputs (`core/partial`).
"""

from __future__ import annotations

import contextlib
import io
import pickle
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import cloudpickle

from wukong.errors import TaskError, WukongError

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that was made at run time, rather than compiled in
_MOST_SHOWN = 1_000
MOST_TOLD = 100
"""How many failures are told with one."""


@dataclass(frozen=True, slots=True)
class Raised:
    """What a task raised.

    Attributes:
        task: its Dask key, as text.
        kind, message: qualified name of the exception's class, and what it says.
        traceback: the remote traceback, as text.
        pickled: the exception; empty if it cannot travel.
        hint: how to look at it more closely; empty: nothing is known.
        others: what other tasks raised, if this stands for a value that needs several which failed; up to `MOST_TOLD`.
    """

    task: str | None
    kind: str
    message: str
    traceback: str
    pickled: bytes
    hint: str = ""
    others: tuple[Raised, ...] = ()

    @classmethod
    def of(cls, error: BaseException, task: str | None) -> Raised:
        """Return what `task` raised. Never fails."""
        kind = type(error)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        text = "".join(traceback.format_exception(error))
        return cls(task, name, _shown(error, str), text, _pickled(error))

    def error(self) -> BaseException:
        """Return the exception, or its stand-in, the remote traceback as its cause; a note names the task."""
        why = ""
        try:
            error = pickle.loads(self.pickled) if self.pickled else None
        except Exception as failure:
            error, why = None, f"{type(failure).__name__}: {failure}"
        if not isinstance(error, BaseException):
            error = TaskError(f"{self.kind}: {self.message}", task=self.task)
            if why:
                _note(error, f"the exception itself cannot be unpickled here: {why}")
        # Not by plain assignment, which an exception that is a frozen dataclass refuses.
        object.__setattr__(error, "__cause__", RemoteTraceback(self.traceback))
        if self.task is not None and not isinstance(error, WukongError):
            _note(error, f"raised by task {self.task}")
        if self.hint:
            if isinstance(error, WukongError) and not error.hint:
                error.hint = self.hint
            else:
                _note(error, self.hint)
        return error


def together(found: Iterable[Raised]) -> Raised:
    """Return the first of these failures, with all the others that they bring, each task's once."""
    by_task: dict[str | None, Raised] = {}
    for raised in found:
        for each in (raised, *raised.others):
            by_task.setdefault(each.task, each)
            if len(by_task) > MOST_TOLD:
                break
    first, *others = (replace(each, others=()) if each.others else each for each in by_task.values())
    return replace(first, others=tuple(others[: MOST_TOLD - 1])) if others else first


class Poisoned(Exception):
    """An input of a task is what another task raised, so that this one cannot run."""

    def __init__(self, raised: Raised) -> None:
        self.raised = raised


def sound(value_of: Callable[[int], Any]) -> Callable[[int], Any]:
    """Return `value_of` for tasks whose inputs may have failed: it raises `Poisoned` for an input that did."""

    def value(ref: int) -> Any:
        found = value_of(ref)
        if type(found) is Raised:
            raise Poisoned(found)
        return found

    return value


class RemoteTraceback(Exception):
    """The traceback of a task's exception, as text, where it was raised."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def _shown(value: Any, show: Callable[[Any], str]) -> str:
    try:
        return show(value)[:_MOST_SHOWN]
    except Exception as error:
        return f"<a {type(value).__qualname__} whose text cannot be had: {type(error).__name__}>"


def _note(error: BaseException, text: str) -> None:
    object.__setattr__(error, "__notes__", [*getattr(error, "__notes__", ()), text])


def _pickled(error: BaseException) -> bytes:
    for whole in (True, False):
        try:
            data = _dumped(error) if whole else _dumped(_bare(error), forced=True)
            if type(pickle.loads(data)).__qualname__ == type(error).__qualname__:
                return data
        except Exception:  # whatever it is, there is a simpler form
            continue
    return b""


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Takes exceptions apart by their state, if they define no reduction of their own (or if `forced`)."""

    def __init__(self, file: io.BytesIO, *, forced: bool) -> None:
        super().__init__(file, protocol=5)
        self._forced = forced

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, BaseException):
            ours = type(obj).__reduce_ex__ is object.__reduce_ex__ and not _overridden(type(obj), "__reduce__")
            if ours and not _overridden(type(obj), "__setstate__"):
                # A compiled class knows what makes it up: of an OSError, its file's name too.
                parts = tuple(obj.__reduce__())
                return _made, (type(obj), _args(obj, parts[1])), (*parts, None)[2], None, None, _fill
            if self._forced:
                return _made, (type(obj), _args(obj, obj.args)), vars(obj), None, None, _fill
        return super().reducer_override(obj)


def _overridden(cls: type, name: str) -> bool:
    """Whether a class written in Python defines `name`, rather than a compiled one."""
    return next(bool(c.__flags__ & _HEAP_TYPE) for c in cls.__mro__ if name in vars(c))


def _args(error: BaseException, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the arguments for an exception's compiled base: a group's own constructor may have set other `args`."""
    return (error.message, list(error.exceptions)) if isinstance(error, BaseExceptionGroup) else args


def _dumped(error: BaseException, *, forced: bool = False) -> bytes:
    file = io.BytesIO()
    _Pickler(file, forced=forced).dump(error)
    return file.getvalue()


def _made(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an exception with these `args` by its compiled base alone: its own constructor may want others."""
    base: Any = next(c for c in cls.__mro__ if not c.__flags__ & _HEAP_TYPE)
    error: BaseException = base.__new__(cls, *args)
    with contextlib.suppress(Exception):  # then its own constructor did not call this one either
        base.__init__(error, *args)
    return error


def _fill(error: BaseException, state: dict[str, Any] | None) -> None:
    for name, value in (state or {}).items():
        object.__setattr__(error, name, value)


def _bare(error: BaseException) -> BaseException:
    """Return an exception without what cannot travel."""
    lost: list[str] = []

    def kept(name: str, value: Any) -> bool:
        try:
            pickle.loads(cloudpickle.dumps(value))
        except Exception:
            lost.append(f"{name} (a {type(value).__module__}.{type(value).__qualname__})")
            return False
        return True

    if isinstance(error, BaseExceptionGroup):
        bare: BaseException = error.derive([_bare(each) for each in error.exceptions])
    else:
        args = [a if kept(f"args[{i}]", a) else _shown(a, repr) for i, a in enumerate(error.args)]
        bare = _made(type(error), tuple(args))
        _fill(bare, {name: value for name, value in vars(error).items() if kept(name, value)})
    if lost:
        _note(bare, f"left behind, because it cannot travel: {', '.join(lost)}")
    return bare
