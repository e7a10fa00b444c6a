"""Placement of invocations: concurrency, the rate of new environments, reuse, and eviction.

admit ---> an idle environment, the one last used
      |--> one that is just finishing
      |--> a new one: costs a token of the function's bucket; a limited number starts at once, the others wait
      `--> refused: 429
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator

from wukong.emulators.aws_lambda.environment import EnvironmentHost, ExecutionEnvironment, State
from wukong.emulators.aws_lambda.functions import Function, Functions, Version
from wukong.emulators.aws_lambda.invocation import LambdaInvocation
from wukong.emulators.aws_lambda.refusal import ACCOUNT_LIMIT, FUNCTION_LIMIT, throttled

logger = logging.getLogger(__name__)


class TokenBucket:
    """How many new environments a function may have now: it fills up at a steady rate."""

    def __init__(self, size: int, period_s: float) -> None:
        self._size = size
        self._period_s = period_s
        self._tokens = float(size)
        self._seen_s = time.monotonic()

    def take(self) -> bool:
        """Take one; return False if there is none."""
        now_s = time.monotonic()
        if self._period_s:
            self._tokens = min(self._size, self._tokens + (now_s - self._seen_s) * self._size / self._period_s)
        else:
            self._tokens = self._size
        self._seen_s = now_s
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Fleet:
    """All environments of one version of a function.

    Attributes:
        environments: those that are not dead.
        idle: of these, the frozen ones, the one last used at the end.
        waiting: admitted invocations that have no environment yet.
        spares: how many are to be started although nobody waits for them.
        states: how many environments are in each state.
        retired: its version has been replaced or deleted, so environments end when they are idle.
    """

    def __init__(self, scaler: Scaler, version: Version, *, retired: bool) -> None:
        self.version = version
        self.environments: set[ExecutionEnvironment] = set()
        self.idle: list[ExecutionEnvironment] = []
        self.waiting: deque[LambdaInvocation] = deque()
        self.spares = 0
        self.states: Counter[State] = Counter()
        self.retired = retired
        self._scaler = scaler

    def wanted(self) -> int:
        """Return how many environments have to be started: for waiting invocations, and as spares."""
        return max(0, len(self.waiting) - self.states["starting"] - self.states["finishing"]) + self.spares

    def moved(self, before: State, after: State) -> None:
        """An environment has changed its state."""
        self.states[before] -= 1
        self.states[after] += 1
        if before in ("starting", "restarting"):
            self._scaler.started()

    def free(self, environment: ExecutionEnvironment) -> None:
        """An environment can take an event."""
        if self.waiting:
            environment.deliver(self.waiting.popleft())
        elif self.retired:
            environment.retire()
        else:
            environment.freeze()
            self.idle.append(environment)

    def finished(self, invocation: LambdaInvocation) -> None:
        """An invocation is over."""
        self._scaler.release(invocation)

    def failed_to_start(self, environment: ExecutionEnvironment) -> None:
        """An environment could not be initialised. Try again, within the invocation that has waited longest."""
        if self.waiting:
            self._scaler.start(self, bound=self.waiting.popleft(), stream=environment.log.name)

    def ended(self, environment: ExecutionEnvironment) -> None:
        """An environment is gone."""
        self.environments.discard(environment)
        if environment in self.idle:
            self.idle.remove(environment)
        self._scaler.want(self)

    def retire(self) -> None:
        """Let all environments end; those that run something, once it has ended."""
        self.retired, self.spares = True, 0
        for environment in self.idle:
            environment.retire()
        self.idle.clear()


class _Share:
    """One function's share of the concurrency.

    Attributes:
        in_flight: its invocations which run or are waiting for an environment that starts for them.
        bucket: how many new environments it may have now.
    """

    def __init__(self, bucket: TokenBucket) -> None:
        self.in_flight = 0
        self.bucket = bucket


class Scaler:
    """The fleets of all functions, and the limits that they share.

    Args:
        functions: those that are deployed.
        host: what environments are made with.
    """

    def __init__(self, functions: Functions, host: EnvironmentHost) -> None:
        self._functions, self._host, self._settings = functions, host, host.settings
        self._most_at_once = host.settings.most_at_once()
        self._most_starting = host.settings.most_starting()
        self._starting = 0
        self._unreserved = 0
        self._wanting: deque[Fleet] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._fleets: dict[Version, Fleet] = {}
        self._shares: dict[Function, _Share] = {}
        self.on_room: Callable[[], None] = lambda: None

    @property
    def fleets(self) -> Collection[Fleet]:
        """All that have environments or may get some."""
        return self._fleets.values()

    def fleet_of(self, version: Version) -> Fleet:
        """Return a version's fleet."""
        fleet = self._fleets.get(version)
        if fleet is None:  # an event may come to a version that is gone
            retired = not self._functions.has(version)
            fleet = self._fleets[version] = Fleet(self, version, retired=retired)
        return fleet

    def in_flight(self, function: Function) -> int:
        """Return how many invocations of a function run or are waiting for an environment that starts for them."""
        return self._share(function).in_flight

    def _share(self, function: Function) -> _Share:
        share = self._shares.get(function)
        if share is None:
            bucket = TokenBucket(self._settings.scaling, self._settings.scaling_period_s)
            share = self._shares[function] = _Share(bucket)
        return share

    def environments(self) -> Iterator[ExecutionEnvironment]:
        """Return all environments."""
        for fleet in self.fleets:
            yield from fleet.environments

    # Admission.

    def admit(self, invocation: LambdaInvocation) -> None:
        """Run an invocation now, or as soon as its environment has started. Raises `Refusal` if there is no room."""
        version = invocation.version
        function, fleet = version.function, self.fleet_of(version)
        share = self._share(function)
        if function.reserved is not None:
            if share.in_flight >= function.reserved:
                raise throttled(FUNCTION_LIMIT)
        elif self._unreserved >= self._most_at_once - self._functions.reserved():
            raise throttled(ACCOUNT_LIMIT)
        if fleet.idle:
            self._count(invocation)
            fleet.idle.pop().deliver(invocation)
            return
        if fleet.states["finishing"] <= len(fleet.waiting) and not share.bucket.take():
            raise throttled(ACCOUNT_LIMIT)
        self._count(invocation)
        fleet.waiting.append(invocation)
        self.want(fleet)

    def _count(self, invocation: LambdaInvocation) -> None:
        function = invocation.version.function
        self._share(function).in_flight += 1
        if function.reserved is None:
            invocation.counted = True
            self._unreserved += 1

    def release(self, invocation: LambdaInvocation) -> None:
        """Give an invocation's share of the concurrency back."""
        self._share(invocation.version.function).in_flight -= 1
        if invocation.counted:
            invocation.counted = False
            self._unreserved -= 1
        self.on_room()

    # Starting.

    def want(self, fleet: Fleet) -> None:
        """A fleet may need further environments."""
        if fleet.wanted() > 0 and fleet not in self._wanting:
            self._wanting.append(fleet)
        self._launch()

    def warm(self, version: Version, count: int) -> None:
        """Start environments before they are needed, until there are `count`. They cost no token."""
        fleet = self.fleet_of(version)
        fleet.spares = max(0, count - len(fleet.environments))
        self.want(fleet)

    def started(self) -> None:
        """An environment is not starting any more."""
        self._starting -= 1
        self._launch()

    def _launch(self) -> None:
        while self._wanting and self._starting < self._most_starting and not self._closed:
            fleet = self._wanting.popleft()
            if fleet.wanted() <= 0:
                continue
            self._make_room(fleet)
            fleet.spares = max(0, fleet.spares - 1)
            self.start(fleet)
            if fleet.wanted() > 0:
                self._wanting.append(fleet)

    def _make_room(self, fleet: Fleet) -> None:
        """If there are as many environments as may run at once, end the one that has been idle for longest."""
        if sum(len(each.environments) for each in self.fleets) < self._most_at_once:
            return
        oldest = [each.idle[0] for each in self.fleets if each.idle and each is not fleet]
        if oldest:
            environment = min(oldest, key=lambda environment: environment.idle_since_s)
            self._end(self.fleet_of(environment.version), environment)

    def start(self, fleet: Fleet, *, bound: LambdaInvocation | None = None, stream: str | None = None) -> None:
        """Start an environment; see `ExecutionEnvironment`."""
        if self._closed:
            return
        environment = ExecutionEnvironment(self._host, fleet, fleet.version, bound=bound, stream=stream)
        fleet.environments.add(environment)
        fleet.states[environment.state] += 1
        self._starting += 1
        task = self._host.loop.create_task(environment.start())
        self._tasks.add(task)
        task.add_done_callback(self._has_started)

    def _has_started(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("an environment could not be started", exc_info=error)

    # Ending.

    def retire(self, version: Version) -> None:
        """Let a version's environments end: it has been replaced or deleted."""
        self.fleet_of(version).retire()

    def _end(self, fleet: Fleet, environment: ExecutionEnvironment) -> None:
        """End an idle environment."""
        fleet.idle.remove(environment)
        environment.retire()

    def sweep(self, idle_s: float) -> None:
        """End environments that have been idle for too long, and forget fleets of versions that are gone."""
        since_s = time.monotonic() - idle_s
        for fleet in self.fleets:
            while fleet.idle and fleet.idle[0].idle_since_s <= since_s:
                self._end(fleet, fleet.idle[0])
        gone = [each for each in self.fleets if each.retired and not each.environments and not each.waiting]
        for fleet in gone:
            del self._fleets[fleet.version]
        deployed = set(self._functions.by_name.values())
        for function in [each for each, share in self._shares.items() if each not in deployed and not share.in_flight]:
            del self._shares[function]

    def check_memory(self) -> None:
        """Kill environments that use more memory than their functions may."""
        for fleet in self.fleets:
            if fleet.states["busy"]:
                for environment in tuple(fleet.environments):
                    environment.check_memory()

    def close(self) -> None:
        """Start nothing from now on."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
