"""The emulator's client side: `LocalFaaS`, the default FaaS backend, all on this machine.

The platform itself is another process (see `wukong.backends.faas.emulator`), started fresh, never forked from the
user's. So scripts need no ``if __name__ == "__main__"`` guard, and it inherits no threads, locks or open files of the
user's process. It starts in the background; the first `LocalFaaS.invoke` waits until it is there. One that dies is
started again.
"""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from wukong.backends import machine
from wukong.backends.faas import Bill, FaaS, Failure, FunctionSize, Invocation, TaskOutput
from wukong.backends.faas.aws_lambda import price
from wukong.backends.faas.aws_lambda.event import event_bytes
from wukong.backends.faas.emulator import listener
from wukong.backends.faas.emulator import settings as emulator
from wukong.backends.faas.emulator import worker as inside
from wukong.backends.faas.emulator.faults import FaultScript
from wukong.backends.faas.emulator.link import BACKEND, Link
from wukong.backends.faas.emulator.process import room
from wukong.backends.faas.emulator.submit import submit
from wukong.backends.faas.emulator.wire import Message
from wukong.backends.spec import PluginSpec
from wukong.core.interrupts import held
from wukong.errors import BackendError, ConfigError

_RATES = price.RATES["x86_64"]
_CANCEL_S = 2.0
_DRAIN_S = 5.0
_KNOWN_S = 5.0


class LocalFaaS(FaaS):
    """Functions as a service on this machine. All arguments are keywords; times in seconds, sizes in bytes.

    Args:
        function: what to run, ``"module:attribute"``: a callable that takes the payload.
        slots: invocations that run at once while all of them compute, and workers kept for ever; None: the cores, as
            far as control groups, memory and processes allow, divided by `cpus`. They count cores: an invocation
            whose lanes compute on several uses as many.
        max_slots: the most that run at once when the others only sleep or wait for I/O.
        idle_s: a worker beyond `slots` ends after this time without work.
        cpus: cores of each function. If `lanes` is ``auto``, that many of its lanes compute at once. None: one, and
            those that no other function uses, unless memory is limited: then a function is as on a real platform.
        blas_threads: threads of the numerical libraries in each worker, unless the environment says otherwise; by
            default as many as `cpus`, or one.
        profile: limits of a real platform: ``"aws-lambda"``. The four limits below replace the profile's.
        payload_bytes: largest payload of an invocation.
        time_s: longest time of an invocation.
        memory_bytes: most anonymous resident memory of an invocation.
        concurrency: most invocations at once.
        sizes_bytes: memory of each size of function, the smallest first, in place of `memory_bytes`: what takes too
            much is run again on the next larger one.
        faults: which faults to inject: the fields of `FaultScript`.
        start_timeout_s: how long the emulator may take to start.

    Attributes:
        failed: set as soon as `failures` has something to return.
    """

    latency_s = inside.LATENCY_S
    billed = False
    shares_files = True
    opens_at = inside.TARGET

    def __init__(
        self,
        *,
        function: str = "wukong.backends.entry:handle",
        slots: int | None = None,
        max_slots: int = 128,
        idle_s: float = 60.0,
        cpus: int | None = None,
        blas_threads: int | None = None,
        profile: str | None = None,
        payload_bytes: int | None = None,
        time_s: float | None = None,
        memory_bytes: int | None = None,
        concurrency: int | None = None,
        sizes_bytes: Sequence[int] | None = None,
        faults: Mapping[str, Any] | None = None,
        start_timeout_s: float = 30.0,
    ) -> None:
        counts = {"slots": slots, "max_slots": max_slots, "blas_threads": blas_threads, "cpus": cpus}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ConfigError(f"faas: local: {name} is {value!r}; it is at least 1")
        own = cpus or 1
        self.limits = emulator.limits(profile, payload_bytes, time_s, memory_bytes, concurrency, own, sizes_bytes)
        count = max(1, _slots(max_slots) // own) if slots is None else slots
        lends = cpus is None and self.limits.memory_bytes is None
        most_cores = min(count, machine.cores()) if lends else own
        self.limits = replace(self.limits, slots=count, spare_cores=max(0, most_cores - own))
        self._log_level = logging.getLogger().getEffectiveLevel()
        script = FaultScript.of(faults)
        self._settings = emulator.EmulatorSettings(
            function=function,
            slots=count,
            max_slots=max(count, max_slots),
            idle_s=idle_s,
            limits=self.limits,
            faults=script,
            log_level=self._log_level,
            socket_name=listener.named(),
            most_cores=most_cores,
        )
        self._start_timeout_s = start_timeout_s
        self._pid = os.getpid()
        self._tokens = itertools.count(1)
        with held():
            self._link = Link(self._settings, own if blas_threads is None else blas_threads)
            self._finalizer = weakref.finalize(self, Link.close, self._link, self._pid)
        self.failed = self._link.failed

    def invoke(self, invocations: Sequence[Invocation]) -> None:
        """Start invocations; return when the emulator's end of the socket has taken them. See `FaaS.invoke`."""
        self._wait_until_ready()
        level = logging.getLogger().getEffectiveLevel()
        if level != self._log_level:
            self._log_level = level
            self._link.tell(("level", level))
        submit(invocations, self.limits, self._settings.faults, self._link.board, self._invoke)

    def spec(self) -> PluginSpec:
        """Return how an executor opens this backend, or a proxy of the same user on this machine."""
        return inside.spec(self._settings)

    def billed_requests(self, payload_bytes: int) -> int:
        """Return how many requests AWS Lambda would bill for one invocation with a payload of this size."""
        return price.event_requests(event_bytes(payload_bytes))

    def bill(self, invocations: int, requests: int, wall_s: float) -> Bill:
        """Return the cost of these invocations on AWS Lambda; memory: the limit here, or what `cpus` come with."""
        rates = replace(_RATES, name=f"had it been {_RATES.name}")
        memory_bytes = self.limits.memory_bytes or self.limits.cores * price.ONE_CPU_BYTES
        return price.bill(invocations, requests, wall_s, memory_bytes, rates)

    def sizes(self) -> Sequence[FunctionSize]:
        """Return those that a function on AWS Lambda can have; what to write here says how many cores come with it."""
        return [
            replace(each, setting=f"faas.cpus={price.cores(each.memory_bytes)}" if each.vcpus >= 1 else "")
            for each in price.sizes(_RATES)
        ]

    def free_slots(self) -> int:
        """Return how many more invocations would start at once: one read of shared memory."""
        try:
            return self._link.board.free()
        except ValueError:
            return 0  # closed

    def failures(self) -> list[Failure]:
        """Return the failures reported since the last call; after a host's death, all invocations that ran there."""
        return self._link.take_failures()

    def known(self, ids: Sequence[str]) -> Collection[str]:
        """Return which of these invocations are queued or running. See `FaaS.known`."""
        if not self._alive():
            return ()
        answer = self._ask("known", list(ids), timeout_s=_KNOWN_S)
        return ids if answer is None else answer

    def cancel(self, prefix: str) -> None:
        """Drop and kill the invocations whose id starts with `prefix`; return when they are gone. No failures."""
        if self._alive():
            self._link.forget(prefix)
            self._ask("cancel", prefix, timeout_s=_CANCEL_S)

    def configure(self, environment: Mapping[str, str]) -> None:
        """Set variables in the environment of every function that starts from now on."""
        self._check()
        self._link.tell(("configure", dict(environment)))

    def prepare(self, modules: Sequence[str]) -> None:
        """Have modules imported once, before workers are forked. One that cannot be imported is passed over."""
        self._check()
        self._link.tell(("prepare", [str(module) for module in modules]))

    def subscribe(self, callback: Callable[[TaskOutput], None]) -> None:
        """Have `callback` called for output of tasks, from a thread of this object, instead of printing it here.

        What `callback` refers to lives as long as this object is open.
        """
        self._link.callback = callback

    def watch_ends(self, callback: Callable[[str], None]) -> None:
        """Have `callback` called, from a thread of this object, with the id of each invocation that ends well."""
        self._link.ended = callback
        self._link.tell(("ends",))

    def drain(self, timeout_s: float = _DRAIN_S) -> None:
        """Have the host hear all that workers have sent; one that is starting has nothing. See `FaaS.drain`."""
        if self._alive() and self._link.ready.is_set() and threading.current_thread() is not self._link.thread:
            self._ask("sync", timeout_s=timeout_s)

    def close(self) -> None:
        """End all workers and the host. Closing twice is no error."""
        self._finalizer()

    def _alive(self) -> bool:
        return self._finalizer.alive and os.getpid() == self._pid and self._link.dead is None

    def _check(self) -> None:
        if os.getpid() != self._pid:
            raise BackendError(
                f"this emulator belongs to process {self._pid}, not to its forked child {os.getpid()}",
                backend=BACKEND,
                hint="make a client of its own in the child",
            )
        if not self._finalizer.alive:
            raise BackendError("this emulator has been closed", backend=BACKEND)
        if self._link.dead is not None:
            raise BackendError(self._link.dead, backend=BACKEND)

    def _wait_until_ready(self) -> None:
        self._check()
        if not self._link.ready.wait(self._start_timeout_s):
            raise BackendError(
                f"the emulator's host process has not started within {self._start_timeout_s:g} s",
                backend=BACKEND,
                hint="a slow machine needs a larger start_timeout_s",
            )
        self._check()

    def _invoke(self, message: Message) -> None:
        try:
            self._link.invoke(message, self._start_timeout_s)
        except OSError as error:
            raise self._is_gone() from error

    def _is_gone(self) -> BackendError:
        self._check()
        return BackendError("the emulator's host process is gone", backend=BACKEND)

    def _send(self, message: Message) -> None:
        try:
            self._link.send(message, self._start_timeout_s)
        except OSError as error:
            raise self._is_gone() from error

    def _ask(self, *message: Any, timeout_s: float) -> Sequence[str] | None:
        """Return the host's answer; None if none has come in time. A host that is gone has nothing left."""
        token = next(self._tokens)
        answers = self._link.answers[token] = queue.SimpleQueue()
        try:
            self._send((*message, token))
            return answers.get(timeout=timeout_s)
        except BackendError:
            return ()
        except queue.Empty:
            return None
        finally:
            self._link.answers.pop(token, None)


def _slots(most: int) -> int:
    """Return how many invocations that compute may run at once: one on each core, if there is memory for it."""
    places = room(())
    return max(1, min(machine.cores(), most, most if places is None else places))
