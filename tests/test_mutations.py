"""The simulator can fail: the protocol is broken on purpose, once per mutation, and each is caught.

A mutation is a piece of `wukong/core/protocol.py` and what it is replaced by. Where the protocol has moved on, the
piece is not found any more and its test says so: write the mutation anew.
"""

import inspect
from types import ModuleType

import pytest
from protocol_scenarios import (
    rides_back_in_the_round_trip_that_releases_it,
    tells_what_it_has_while_a_long_task_runs,
)

from wukong.core import protocol
from wukong.testing.simulator import Violation, simulate

SEEDS = 3_000

MUTATIONS = {
    "tell before write": (
        """        if put:
            yield Put(tuple(put))
            stored.update(put)
        answers = yield Incr(tuple(arrivals))
""",
        """        answers = yield Incr(tuple(arrivals))
        if put:
            yield Put(tuple(put))
            stored.update(put)
""",
    ),
    "a requested value is announced but not stored": ("            yield Put((task,))\n", ""),
    "inputs of what is handed over are not stored": (
        """        if put:
            yield Put(tuple(put))
            self.stored.update(put)
        gone""",
        "        gone",
    ),
    "invoke before record": (
        "        yield Record(parts_made)\n        yield Invoke(parts_made)\n",
        "        yield Invoke(parts_made)\n        yield Record(parts_made)\n",
    ),
    "what is handed over is kept as well": ("        gone = set(movable)\n", "        gone = set()\n"),
    "two parts under one id": ("        self.n_offloads += len(made)\n", "        self.n_offloads += 1\n"),
    "believes to be alone": ("        self.alone = False\n", ""),
    "claim not checked": (
        "            if answer.claimed:\n                yield from self._claim",
        "            if True:\n                yield from self._claim",
    ),
    "a held arrival counts although nothing is stored": ("only_if_last=hold", "only_if_last=False"),
    "when one held fan-in gives up, all are announced": (
        "only_if_last=hold",
        "only_if_last=hold and give_up is None",
    ),
    "held for ever": ("give_up = min(late, key=self.held.__getitem__) if late else None", "give_up = None"),
    "forgets that it holds": ("held[child] = self.costs.delay_budget(self.policy, biggest)", "pass"),
    "nothing fresh is held": ("hold = bool(fresh) and biggest", "hold = biggest"),
    "a held fan-in that fills here stays held": (
        "                        self.held.pop(child, None)\n                        ready.append(child)\n",
        "                        ready.append(child)\n",
    ),
    "only the first member arrives": (
        "            members = tuple(member for member, _ in pending[child])\n",
        "            members = tuple(member for member, _ in pending[child])[:1]\n",
    ),
    "releases before claims": (
        """            if answer.claimed:
                yield from self._claim(arrival.child, answer.carried)
        for arrival, answer in zip(arrivals, answers, strict=True):
            child = arrival.child
            if not answer.claimed and""",
        """            child = arrival.child
            if answer.claimed:
                yield from self._claim(arrival.child, answer.carried)
            if not answer.claimed and""",
    ),
    "a claim forgets its use of what is here": (
        "            if parent in uses:\n                uses[parent] += 1\n",
        "            if parent in uses:\n                pass\n",
    ),
    "a claim forgets its use of what rode in": ("uses[parent] = 1 + absent.pop(parent, 0)", "absent.pop(parent, 0)"),
    "what rode in for the running task's sake is dropped after it": (
        "                    self.last_use.remove(parent)\n",
        "                    pass\n",
    ),
    "dropped under the running task": (
        "(self.last_use if task in self.running else drop).append(task)",
        "drop.append(task)",
    ),
    "dropped before its last use": (
        "                    if n == 1:\n                        last_use",
        "                    if n <= 2:\n                        last_use",
    ),
    "never dropped": ("        if drop:\n", "        if False:\n"),
    "a value fetched for several has one use": ("self.absent.pop(parent, 1)", "1"),
    "what is handed over is still waited for": (
        "counts = uses if task in uses else self.absent",
        "counts = uses",
    ),
    "inline values are not counted": ("counts[parent] = counts.get(parent, 0) + 1", "pass"),
    "finishes with what it has": ("and len(pending[sink]) == self.of[sink]", ""),
    "an output is not dropped": ("            yield from self._release((task,))\n", ""),
    "what cannot be published is forgotten": (
        "            if len(self.held) < len(pending):\n",
        "            if self.held:\n                return\n            if len(self.held) < len(pending):\n",
    ),
}


def mutant(name):
    old, new = MUTATIONS[name]
    source = inspect.getsource(protocol)
    assert source.count(old) == 1, f"{name!r}: its piece of the protocol is there {source.count(old)} times, not once"
    module = ModuleType("mutant")
    exec(compile(source.replace(old, new), f"<{name}>", "exec"), module.__dict__)
    return module.Walk


SCENARIOS = {
    "believes to be alone": tells_what_it_has_while_a_long_task_runs,
    "releases before claims": rides_back_in_the_round_trip_that_releases_it,
}
"""What random interleavings hardly reach, or what is slow rather than wrong."""


def caught_at(walk):
    for seed in range(SEEDS):
        try:
            simulate(seed, walk=walk)
        except Violation:
            return seed
    return None


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_protocol_is_caught(name):
    if name in SCENARIOS:
        with pytest.raises(AssertionError):
            SCENARIOS[name](mutant(name))
        return
    assert caught_at(mutant(name)) is not None, f"{name!r} survives {SEEDS} seeds"


def test_the_protocol_itself_is_not_caught():
    unbroken = ModuleType("unbroken")
    exec(compile(inspect.getsource(protocol), "<unbroken>", "exec"), unbroken.__dict__)
    assert caught_at(unbroken.Walk) is None
