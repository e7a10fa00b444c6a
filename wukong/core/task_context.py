"""What is running in this process right now: the seam between an executor and the process that hosts it.

The executor says what the current task is called (`set_describer`) and, if it can afford to, that a task starts
(`task_hook`) or takes long (`announce`). The hosting process marks output with the task, names the task if the process
dies, and counts task starts for scripted crashes. Neither knows the other. One executor runs in a process at a time;
all functions may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _nothing() -> str | None:
    return None


_describe: Callable[[], str | None] = _nothing
_hook: Callable[[], None] | None = None
_announcer: Callable[[str | None], None] | None = None
_waiting: Callable[[bool], None] | None = None
_use_cores: Callable[[int], int] | None = None
_writer: Callable[[int, Any, Any], None] | None = None
_tickets: object = None
_keeper: object = None


def set_describer(describe: Callable[[], str | None] | None) -> None:
    """Have `describe` tell the Dask key (as text) of the task that is running, None between tasks.

    It is called seldom (for a line of output, an announcement), from any thread, and must not raise. None removes it.
    """
    global _describe
    _describe = _nothing if describe is None else describe


def task() -> str | None:
    """Return the Dask key, as text, of the task that is running; None if none runs or there is no describer."""
    return _describe()


def set_task_hook(hook: Callable[[], None] | None) -> None:
    """Have `hook` called at the start of each task of executors that begin after this; None: no hook."""
    global _hook
    _hook = hook


def task_hook() -> Callable[[], None] | None:
    """Return what an executor has to call before each task; None (nearly always): nothing. Ask once per invocation."""
    return _hook


def set_announcer(announcer: Callable[[str | None], None] | None) -> None:
    """Have `announcer` receive the current task's key whenever an executor announces it."""
    global _announcer
    _announcer = announcer


def heard() -> bool:
    """Return whether anybody keeps what is announced."""
    return _announcer is not None


def set_waiting(tell: Callable[[bool], None] | None) -> None:
    """Have executors that begin after this call `tell`: True, one waits for the store or for others; False, no more.

    A waiting executor needs no core. A task that sleeps needs none either, but a host may treat the two differently.
    """
    global _waiting
    _waiting = tell


def waiting() -> Callable[[bool], None] | None:
    """Return what `set_waiting` was given; None (nearly always): nothing. Ask once per invocation."""
    return _waiting


def set_use_cores(use: Callable[[int], int] | None) -> None:
    """Have executors that begin after this call `use`: how many cores they use besides those of their function.

    It returns how many they may use beyond those; less than 0 if others wait for one.
    """
    global _use_cores
    _use_cores = use


def use_cores() -> Callable[[int], int] | None:
    """Return what `set_use_cores` was given; None: there are none besides those of the function."""
    return _use_cores


def announce() -> None:
    """Leave the current task's key where it survives this process: if the process dies, its host names the task.

    Costs about a microsecond. The executor's watcher calls it for tasks that turn out to be long, not for each task.
    """
    if _announcer is not None:
        _announcer(task())


def set_writer(writer: Callable[[int, Any, Any], None] | None) -> None:
    """Have `writer` take what tasks write to targets of the client's: its number, the region, the chunk."""
    global _writer
    _writer = writer


def writer() -> Callable[[int, Any, Any], None] | None:
    """Return what takes the writes of the running executor's tasks; None: no executor runs here."""
    return _writer


def set_tickets(tickets: object) -> None:
    """Have tasks take locks by `tickets` (a `wukong.core.lock.Tickets`); None: no executor runs here."""
    global _tickets
    _tickets = tickets


def tickets() -> object:
    """Return the tickets by which the running executor's tasks take locks; None: no executor runs here."""
    return _tickets


def set_keeper(keeper: object) -> None:
    """Have tasks keep and take values by `keeper` (a `wukong.core.kept.Keeper`); None: no executor runs here."""
    global _keeper
    _keeper = keeper


def keeper() -> object:
    """Return what keeps and takes values for the running executor's tasks; None: no executor runs here."""
    return _keeper
