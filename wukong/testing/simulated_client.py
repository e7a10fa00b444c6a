"""The client's side of a simulated job: the real `Watch`, `Results` and `Leftovers`, and what `Job` does around them.

The client is ordinary code that calls a store. Here every such call first lets the platform go on for a few steps, so
that executors and the client come between each other everywhere. The client may also die there; then another one takes
over, from the store alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import inf
from random import Random
from typing import Any

from wukong.core.dag import Literal
from wukong.core.invocation_tree import InvocationState
from wukong.core.leftovers import Leftovers, all_told
from wukong.core.results import Results
from wukong.core.shipment import Manifest
from wukong.core.storage import Arrival, Outcome
from wukong.core.watch import Watch
from wukong.testing.platform import SimulatedPlatform

__all__ = ["Cancelled", "ClientDied", "SimulatedClient", "Unending"]

_MOST_TURNS = 3_000


class ClientDied(Exception):
    """The client has died."""


class Cancelled(Exception):
    """The client cancels."""


class Unending(Exception):
    """The client has waited for longer than anything that it does can take."""


class Port:
    """The store, as the client reaches it."""

    def __init__(self, platform: SimulatedPlatform, rng: Random) -> None:
        self._platform, self._rng = platform, rng
        self.mortal = True

    def _between(self) -> None:
        for _ in range(self._rng.choice((0, 0, 1, 3))):
            self._platform.step()
        if self.mortal and self._platform.script.strikes("client"):
            raise ClientDied

    def get(self, keys: Sequence[bytes]) -> list[Any]:
        """Return values by key, not all read at the same moment."""
        self._between()
        found = []
        for key in keys:
            if self._rng.random() < 0.05:
                self._platform.step()
            found.append(self._platform.world.read(key))
        return found

    def put(self, items: Mapping[bytes, Any], ttl_s: float | None = None) -> None:
        """Store all items."""
        self._between()
        self._platform.world.write(items)

    def delete(self, keys: Sequence[bytes]) -> None:
        """Delete values and records."""
        self._between()
        self._platform.world.delete(keys)

    def scan(self) -> list[bytes]:
        """Return all keys there are."""
        self._between()
        return self._platform.world.keys()

    def wait(self, key: bytes, timeout_s: float) -> Any:
        """Not used: the client here looks instead of waiting."""
        raise NotImplementedError

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """Not used: a client arrives at no fan-in."""
        raise NotImplementedError


class SimulatedClient:
    """One client: ships the job or takes it over, waits for its end, leaves nothing."""

    def __init__(self, platform: SimulatedPlatform, rng: Random) -> None:
        self.platform, self.rng = platform, rng
        self.world = world = platform.world
        self.names = world.names
        self.port = Port(platform, rng)
        self.roots = tuple(str(i) for i in range(len(platform.case.roots())))
        codec: Any = world.codec
        policy = platform.case.policy
        send, n_tasks = platform.send, len(world.dag)
        self.watch = Watch(
            self.names,
            self.port,
            codec,
            send,
            world.envelope,
            policy,
            self.roots,
            n_tasks,
            clock=lambda: platform.now,
            reship=self._reship,
            known=platform.known,
            free=world.seats.free if platform.case.limits else None,
        )
        outputs = world.dag.outputs
        request: dict[Hashable, int | Literal] = {task: task for task in outputs}
        self.results = Results(self.names, self.port, codec, outputs, request)
        self.manifest = Manifest(self.roots, n_tasks, 0, 0, platform.case.page_tasks, outputs, request, policy)
        self.first = False
        self.turns = 0

    def ship(self) -> None:
        """Write the pages and the first invocations' records, and make them."""
        payloads = self._payloads()
        self.first = True
        self.port.mortal = False  # before it is shipped there is no job
        self.port.put({**self._shipped(payloads), self.names.alive: b"0"})
        self.port.mortal = True
        self.platform.send(payloads)

    def _payloads(self) -> list[tuple[str, bytes]]:
        world, firsts = self.world, self.platform.case.roots()
        orders = [world.order_of(str(i), start, {}, alone=len(firsts) == 1) for i, start in enumerate(firsts)]
        return [(order.invocation, world.packed(order)) for order in orders]

    def _shipped(self, payloads: Sequence[tuple[str, bytes]]) -> dict[bytes, Any]:
        names = self.names
        items: dict[bytes, Any] = {names.invocation(invocation): payload for invocation, payload in payloads}
        items.update((names.page(index), "page") for index in range(len(self.world.pages)))
        return {**items, names.plan: "plan"}

    def _reship(self) -> bool:
        """Ship again what the store has lost; a client that has taken the job over has nothing to ship."""
        if self.first:
            self.port.put(self._shipped(self._payloads()))
        return self.first

    def take_over(self) -> None:
        """Tell the executors that there is a client again."""
        self.port.put({self.names.alive: b"%d" % self.rng.getrandbits(32)})

    def result(self) -> dict[Hashable, int]:
        """Return the requested values, by task. Raises what the job failed with, ClientDied, Cancelled."""
        names, platform = self.names, self.platform
        while True:
            self._turn()
            blob = self.port.get([names.done])[0]
            if blob is not None:
                done = self.results.done(blob)
                if done.raised is not None:
                    raise done.raised.error()
                values = self.results.by_key(done)
                if values is not None:
                    return values
                self.port.delete([names.done, names.record(self.world.dag.sink)])
                self.watch.revive(list(self.watch.tree.states()))
                continue
            if platform.script.strikes("cancel"):
                raise Cancelled
            reports, platform.reports = platform.reports, []
            self.watch.tend(reports)

    def _turn(self) -> None:
        """Let the executors go on for a while."""
        self.turns += 1
        if self.turns > _MOST_TURNS:
            raise Unending(f"no end after {self.turns} turns")
        platform, heartbeat_s = self.platform, self.platform.case.policy.heartbeat_s
        until = platform.now + heartbeat_s * self.rng.random()
        for _ in range(self.rng.choice((1, 10, 50))):
            if platform.now >= until or not platform.step():
                break
        if not platform.live:
            platform.pass_time(heartbeat_s)

    def settle(self, *, cancelled: bool = False) -> None:
        """Delete every key of the job, as `wukong.core.job.Job.settle` does."""
        platform, names = self.platform, self.names
        self.port.mortal = False
        until = platform.now + self.rng.choice((0.0, 2.0, 1e9))
        seen: list[InvocationState] = []
        if cancelled:
            seen = self._states()  # first: a run that sees the end of the job deletes the links to what it made
            self.port.delete([names.alive])
            for delivery in list(platform.live):
                if self.rng.random() < 0.5:
                    platform.kill(delivery, "stopped", reported=False)
        while True:
            before = self._states()
            if all(state.end is not None for state in before) or platform.now >= until:
                break
            if not platform.step() or not platform.live:
                until = -inf
        self.port.delete([names.alive])
        platform.script.calm()  # what a run writes that dies after the last look is left to its time to live
        after = self._states()
        states = list({state.invocation: state for state in (*seen, *before, *after)}.values())
        left = Leftovers(names, self.manifest, (), release=platform.case.policy.release)
        keys = left.told(states)
        struck = platform.script.struck
        # That one of two runs of an invocation has shared is on record, which may be lost with a server.
        unknown = struck["duplicate"] and struck["shard"]
        if self.watch.repeated or not self.first or unknown or not all_told(states):
            # What told of an invocation may be lost with a server; the real client lists the keys if it can.
            keys += left.possible(self.port.scan() if struck["shard"] else None)
        self.port.delete(keys)

    def _states(self) -> list[InvocationState]:
        """Return all invocations there are, also those that another run of the same attempt does not know of."""
        states = list(self.watch.tree.states())
        known = {state.invocation for state in states}
        for state in states:
            for attempt in range(state.attempts + 1):
                attempt_id = self.names.attempt_id(state.invocation, attempt)
                for i in range(1_000):
                    made = f"{attempt_id}.{i}"
                    if made in known:
                        continue
                    if self.world.read(self.names.invocation(made)) is None:
                        break
                    known.add(made)
                    end, attempts = self.port.get([self.names.end(made), self.names.attempts(made)])
                    states.append(InvocationState(made, end, None, attempts or 0))
        return states
