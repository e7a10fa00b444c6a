"""The FaaS contract: what a cloud-function platform must offer so that executors can run on it.

One verb, `FaaS.invoke`: asynchronous, at least once. `FaaS` is the whole contract; a plug-in is a subclass registered
under the entry point group ``wukong.faas``. The suite that proves a plug-in is `wukong.testing.faas.FaaSTests`.

What the platform runs is a *function*: a callable ``function(payload: bytes) -> None``. Wukong's own is
`wukong.backends.entry.handle`. The function returns when the executor has ended and raises only for faults of its own;
a task's exception is not an invocation's failure.

What holds for every platform, and the suite looks for:

- A process runs one invocation at a time, and all functions hash texts alike (``PYTHONHASHSEED``).
- The platform enforces each limit that it declares: it ends what runs longer than `Limits.time_s`.
- Ids are of any length, and come back whole in `FaaS.failures` and `FaaS.known`.
- `FaaS.spec` contains nothing of what `FaaS.configure` was given, and every function finds all of it, whichever
  process runs it.
- Vendor exceptions do not escape, even if the platform cannot be reached: they become `Throttled` (trying again may
  work) or `BackendError`.
- Processes that the plug-in has started itself end when it is closed; all other processes are the platform's own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from wukong.backends.spec import PluginSpec

__all__ = ["Bill", "FaaS", "Failure", "FunctionSize", "Invocation", "Limits", "TaskOutput"]


@dataclass(frozen=True, slots=True)
class Invocation:
    """One function call to be made.

    Attributes:
        id: ``"<job>/<invocation>"``, for reports and logs.
        payload: the bytes that the function is called with.
        size: which of `Limits.sizes` it is for, counted from 0; 0 also if the platform declares none.
    """

    id: str
    payload: bytes
    size: int = 0


@dataclass(frozen=True, slots=True)
class Limits:
    """A platform's limits; None: none.

    Attributes:
        payload_bytes: the largest payload of an invocation, bytes.
        time_s: how long a function may run, seconds. memory_bytes: how much memory it has, bytes.
        concurrency: how many invocations run at once at most.
        inline_bytes: advice, not a limit: a larger payload costs more than a small one whose function fetches the rest.
        cores: how many cores a function has. If ``lanes`` is ``auto``, that many tasks compute at once in it.
        slots: for plans only: how many invocations compute at once if they share cores; None: each has its own.
        spare_cores: likewise: how many cores the lanes of one take besides its own, if no other function uses them.
        sizes: memory of each size of function that there is, bytes, the smallest first, which is `memory_bytes`; ():
            there is one. What runs on a larger one is billed in proportion.
    """

    payload_bytes: int | None = None
    time_s: float | None = None
    memory_bytes: int | None = None
    concurrency: int | None = None
    inline_bytes: int | None = None
    cores: int = 1
    slots: int | None = None
    sizes: tuple[int, ...] = ()
    spare_cores: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """What a number of invocations cost, or would have cost.

    Attributes:
        invocations: how many.
        requests: what they count as; see `FaaS.billed_requests`.
        gb_seconds: billed time, in seconds, times memory, in units of 2**30 bytes.
        usd: the price in US dollars.
        rates: the prices behind `usd`: place and date, or that they were configured.
    """

    invocations: int
    requests: int
    gb_seconds: float
    usd: float
    rates: str

    def __str__(self) -> str:
        return (
            f"{self.invocations} invocations, {self.requests} requests, {self.gb_seconds:.3f} GB-s, "
            f"${self.usd:.6g} ({self.rates})"
        )


@dataclass(frozen=True, slots=True)
class FunctionSize:
    """A size that functions could have.

    Attributes:
        memory_bytes: their memory. vcpus: the CPUs that come with it; a fraction is a share of one.
        usd_per_s: the price of running for one second, US dollars, without what each invocation costs besides.
        setting: what a person writes to have functions of this size, shown as it is; "": nobody can say.
    """

    memory_bytes: int
    vcpus: float
    usd_per_s: float
    setting: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """An invocation that the platform knows to have failed.

    Attributes:
        invocation: its id.
        reason: ``crash`` (the process died), ``timeout`` (over the time limit), ``memory`` (over the memory limit),
            ``error`` (the function itself raised), ``start`` (it never started).
        detail: one line for a person: exit code or signal, limit, last words.
        task: Dask key of the task that was running, if known; if there were several, their keys, as ``"a, b"``.
    """

    invocation: str
    reason: Literal["crash", "timeout", "memory", "error", "start"]
    detail: str
    task: str | None = None


@dataclass(frozen=True, slots=True)
class TaskOutput:
    """Text or a log record that a task produced inside a function.

    Attributes:
        invocation: its id, as in `Invocation`. task: the task's key; None: it was between two tasks.
        stream: ``stdout``, ``stderr`` or ``log``.
        text: one or more lines with their ends, or what the log record says.
        logger, level: of a log record, its logger's name and its level as in `logging`.
    """

    invocation: str
    task: str | None
    stream: Literal["stdout", "stderr", "log"]
    text: str
    logger: str = ""
    level: int = 0


class FaaS(ABC):
    """A FaaS backend. Every method may be called from several threads at once."""

    CONTRACT: ClassVar[int] = 1
    """The version of this contract. A plug-in sets the one that it was written for; a plug-in that sets none has 1."""

    limits: Limits = Limits()
    latency_s: float = 0.05
    """Typical time from `invoke` to the function's first line, warm, in seconds: a first guess, executors measure."""
    billed: bool = True
    """Use costs money, so executors do not wait long for what others compute."""
    shares_files: bool = False
    """Functions see the files of the client, under the same names."""
    opens_at: str | None = None
    """The target of `spec`, if that is not the class itself. A fan-out proxy opens only this. If it is None, the proxy
    opens the class, unless that is `configurable`: a configurable one might start a platform of its own."""
    configurable: bool = True
    """True: `configure` gives functions their variables. False: a deployment did, and `configure` only compares."""

    @abstractmethod
    def invoke(self, invocations: Sequence[Invocation]) -> None:
        """Start these invocations asynchronously, at least once each; return when the platform has accepted all.

        Raises `PayloadTooLarge` before it starts any of them. Raises `Throttled` if the platform keeps refusing after
        the plug-in's own retries, best with the ids that it did accept as `taken`: executors try the others again.
        Raises `BackendError` if trying again cannot help.
        """

    @abstractmethod
    def spec(self) -> PluginSpec:
        """Return how an executor opens this same backend from inside a function, to invoke others."""

    def environment(self) -> Mapping[str, str]:
        """Return the variables that a function must have for `spec` to open: a token and the like.

        The client hands them to `configure`, with those of the store. What a platform gives its functions by itself (a
        role, a token that is mounted) is not among them.
        """
        return {}

    def free_slots(self) -> int | None:
        """Return how many more invocations would start at once; None: no bound is known.

        Taken slots do not count as free; a platform on which nothing runs has at least one free slot. Must be cheap:
        executors ask before every split, so it answers from local knowledge and makes no call.
        """
        return None

    def failures(self) -> list[Failure]:
        """Return the failures reported since the last call, each once. A platform that reports none returns [].

        Only the client calls this: about once per heartbeat while a job runs, for all its jobs.

        A platform that implements `known` reports every invocation that has died, was ended, or whose function has
        raised. A cancelled invocation has not failed.
        """
        return []

    def known(self, ids: Sequence[str]) -> Collection[str] | None:
        """Return which of these invocations are queued or running; None if this platform cannot tell.

        If an invocation is not returned, it has ended, has died or was lost, and the client makes it again unless it
        has left an end report. The client leaves alone what is returned, however silent. So a platform returns every
        invocation that runs or may still start, from the moment when `invoke` returns. One that fails is in `failures`
        before it is missing here. A plug-in that gets no answer in time returns all of `ids`.
        """
        return None

    def cancel(self, prefix: str) -> None:
        """Stop the invocations whose id starts with `prefix`, queued and running, if the platform can."""
        return None

    def deployment_key(self) -> str | None:
        """Return the hex deployment key of functions that are deployed already; None: the client makes one."""
        return None

    def configure(self, environment: Mapping[str, str]) -> None:
        """Take variables that functions must find in their environment. The client calls this before it first invokes.

        Functions that are deployed beforehand have their variables in the function's configuration. Their backend
        raises `BackendError` if those differ, as far as it can read them.
        """
        return None

    def prepare(self, modules: Sequence[str]) -> None:
        """Take the names of installed modules that a job's functions will import. Called before the job.

        A backend may load them early if that helps. One whose functions are deployed beforehand may raise
        `BackendError` if they lack one of these modules, or if their versions do not fit the client's.
        """
        return None

    def billed_requests(self, payload_bytes: int) -> int:
        """Return how many requests one invocation with a payload of this size counts as. Must be cheap."""
        return 1

    def bill(self, invocations: int, requests: int, wall_s: float) -> Bill | None:
        """Return the cost of `invocations` that ran for `wall_s` seconds in total; None if the platform is free.

        On a function n times as large as the smallest of `Limits.sizes`, a second counts as n.
        """
        return None

    def sizes(self) -> Sequence[FunctionSize]:
        """Return sizes that functions could have, the smallest first, for whoever plans a job; (): there is no choice.

        The size that `bill` counts with need not be among them.
        """
        return ()

    def subscribe(self, callback: Callable[[TaskOutput], None]) -> None:
        """Have `callback` called, from a thread of the plug-in's, for output of tasks. Default: output stays there."""
        return None

    def drain(self, timeout_s: float) -> None:
        """Return when all has been handed on that tasks had said before, or when the time is over. Default: at once."""
        return None

    def close(self) -> None:
        """Release all resources. Closing twice is no error."""
