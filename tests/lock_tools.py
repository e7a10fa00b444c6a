"""What holds of locks on every store."""

import time
from typing import Any

from wukong.core.lock import Locks, Tickets
from wukong.core.names import Names

ONE, TWO = Names("abcdefabcdef-0"), Names("abcdefabcdef-1")


def executor(store: Any, names: Names, task: int) -> Tickets:
    return Tickets(names, store, None, lambda: task, lambda: f"task {task}")


def what_a_job_has_is_free_once_it_is_over(store: Any) -> None:
    """And neither before, nor what a job has that runs."""
    locks = Locks()
    for names in (ONE, TWO):
        store.put({names.alive: b"0", **locks.use(names, [])})
    assert executor(store, ONE, 7).acquire("x", None)  # and it dies
    assert not executor(store, ONE, 8).acquire("x", 0.0)
    locks.leave(store, ONE, [], time.time() + 1_000)
    assert not executor(store, TWO, 7).acquire("x", 0.0), "it may still run"
    locks.leave(store, ONE, [], 0.0)
    two = executor(store, TWO, 7)
    assert two.acquire("x", 0.0)
    assert not executor(store, TWO, 8).acquire("x", 0.0)
    assert executor(store, TWO, 7).acquire("x", 0.0), "it is run again"
    assert executor(store, TWO, 8).acquire("y", 0.0)
    two.release("x")
    assert executor(store, TWO, 8).acquire("x", 0.0)
    locks.leave(store, TWO, ["x", "y"])
    assert store.get([ONE.over]) == [None]
    [(key, told)] = locks.use(Names("abcdefabcdef-2"), []).items()
    assert key == ONE.over and ONE.job.encode() in bytes(told)
    locks.close(store)
