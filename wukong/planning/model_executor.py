"""One invocation in the model (`wukong.planning.world`): how far it is, and which requests are under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wukong.core.effects import Came, Effect, Effects, FetchAhead, Run, Watched, WriteBehind
from wukong.core.invocation import Execution

__all__ = ["ModelExecutor", "Request", "Violation", "check"]


class Violation(AssertionError):
    """The protocol has broken a promise. The text says which one, on which DAG, and which steps led there."""


def check(held: bool, promise: str) -> None:
    """Raise `Violation`, which names the promise, unless it `held`."""
    if not held:
        raise Violation(promise)


class Request:
    """A request that is under way: what is left to do, and what has come.

    Attributes:
        effect: the effect that began it.
        left: tasks whose values to put or get, and arrivals to make, the next one last.
        brought: values that have come, by task. answers: what the walk is told.
        fetched: sizes of the values that it fetches, bytes.
        steps: a generator that carries the request out, if faults can strike.
        partial: what it has been answered so far, by which the exhaustive checker tells states apart.
    """

    __slots__ = ("answers", "brought", "effect", "fetched", "left", "partial", "steps")

    def __init__(self, effect: FetchAhead | WriteBehind) -> None:
        self.effect = effect
        self.left: list[Any] = []
        self.brought: dict[int, int] = {}
        self.answers: list[Any] = []
        self.partial: list[Any] = []
        self.fetched: Sequence[int] = ()
        self.steps: Any = None

    def came(self) -> Came:
        """Return what the walk is told of the request when it has ended."""
        return Came(self.effect, tuple(self.answers))


class ModelExecutor:
    """One invocation that is being carried out: its walk, its cache, and how far it is.

    Attributes:
        busy: the task at which the walk stands, while it runs. away: tasks that run in other lanes.
        requests: those that are under way, in the order in which they were begun.
        ended: requests that have ended, and that the walk has not taken in.
    """

    __slots__ = (
        "answers",
        "away",
        "busy",
        "cache",
        "died",
        "done",
        "effect",
        "ended",
        "execution",
        "invocation",
        "left",
        "looks",
        "main",
        "priority",
        "put",
        "requests",
        "since",
        "walk",
        "watcher",
    )

    def __init__(self, execution: Execution) -> None:
        self.execution, self.invocation = execution, execution.order.invocation
        self.cache: dict[int, int] = {}
        self.walk: Any = None
        self.main: list[Effects] = [execution.run()]
        self.watcher: Effects | None = None
        self.effect: Effect | None = None
        self.left: list[Any] | None = None
        self.answers: list[Any] = []
        self.busy: Run | None = None
        self.away: dict[int, Run] = {}
        self.requests: list[Request] = []
        self.ended: list[Request] = []
        self.since = 0.0
        self.looks = 0
        self.priority = 0.0
        self.put: set[int] = set()
        self.done = self.died = False

    def first(self) -> list[Request]:
        """Return the first request of each kind, which may go on: those of one kind are carried out one by one."""
        first = {type(request.effect): request for request in reversed(self.requests)}
        return list(first.values())

    def end_request(self, request: Request) -> None:
        """Note that a request has ended."""
        self.requests.remove(request)
        self.ended.append(request)

    def take_in(self) -> tuple[Came, ...]:
        """Take into the cache what ended requests have brought. Returns what the walk is told of them."""
        ended, self.ended = self.ended, []
        for request in ended:
            for task, value in request.brought.items():
                self.cache.setdefault(task, value)
            if request.fetched:
                self.walk.frontier.costs.fetched(request.fetched)
        return tuple(request.came() for request in ended)

    def advance(self, answer: Any) -> None:
        """Send an answer in. `effect` is the next one then; or the task that runs on; or None at the end."""
        try:
            if self.watcher is not None:
                self.effect = self.watcher.send(answer)
                check(type(self.effect) is not Run, "the watcher runs a task")
                return
            effect = self.main[-1].send(answer)
            if isinstance(effect, Watched):
                self.walk = self.execution.walk
                self.main.append(effect.walk)
                effect = next(effect.walk)
            self.effect = effect
        except StopIteration:
            if self.watcher is not None:
                self.watcher, self.effect = None, self.busy
                return
            self.main.pop()
            if self.main:
                self.advance(None)
            else:
                self.effect, self.done = None, True
        except Violation:
            raise
        except Exception as error:
            raise Violation(f"the protocol raised {type(error).__name__}: {error}") from error
