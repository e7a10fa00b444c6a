"""Fan-in: arriving at tasks of several inputs, holding large values back, claiming what is complete.

States of a fan-in in this executor:

    state       where it shows                     comes to it by                            leaves it by
    pending     `pending`, `of`: what it brings    a first input of several has run here     all inputs ran here: ready
    due         pending and in `due`               pending at two checks, `patience` apart   publication
    held        pending and in `held`: a large     an arrival only-if-last that was not the  claim; giving way or up
                input stays, noted not recorded    last (clustering, delayed I/O)            (stored, published); ready
    sent        pending and in `sent`: an arrival  publication, written behind               the answer; inputs added
                with its first inputs is under way                                           meanwhile stay pending
    claimed     in `claimed`, then ready           the answer "yes, you"                     (stays: it is taken once)
    arrived     none                               a publication that did not complete it    -

The sink is a fan-in that never gets ready: if it is complete here, or claimed, the client is told.

A claim is bound to the lowest of the members that were brought together (`wukong.core.effects.claimant`), not to the
invocation's id: whoever runs that task again brings that member again, and is told "yes, you" again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Sequence
from typing import Any

from wukong.core.dag import Out
from wukong.core.effects import (
    Arrive,
    Arrived,
    Came,
    Effect,
    Effects,
    FetchAhead,
    Finish,
    Incr,
    Size,
    TakeIn,
    WriteBehind,
)
from wukong.core.policy import PINNED
from wukong.core.walk.frontier import ELSEWHERE, Frontier
from wukong.core.walk.overlap import Overlap

_RECHECKS = 16
_RECHECK_S = 0.0002
_RECHECK_LAST_S = 0.25


class FanIns:
    """The fan-ins that this executor has inputs for.

    Attributes:
        pending: for each fan-in, the member and the task of each input that this executor brings.
        of: for each pending fan-in, how many inputs it has.
        held: for each fan-in whose large inputs are held back, how long they are at most, seconds.
        claimed: those that this executor has taken.
        due: those that were pending at the last check.
        delays: large values are held back (delayed I/O). False while the executor leaves.
        sent: pending fan-ins at which an arrival, written behind, is under way. It brings the first of their inputs.
    """

    def __init__(self, frontier: Frontier, overlap: Overlap) -> None:
        self.frontier, self.overlap = frontier, overlap
        self.pending: dict[int, list[tuple[int, int]]] = {}
        self.of: dict[int, int] = {}
        self.held: dict[int, float] = {}
        self.claimed: set[int] = set()
        self.due: list[int] = []
        self.delays = True
        self.sent: set[int] = set()

    def validate(self) -> None:
        """Check the state against its invariants. Raises AssertionError."""
        frontier, pending, of = self.frontier, self.pending, self.of
        assert of.keys() == pending.keys(), f"pending {pending}, of {of}"
        assert self.held.keys() <= pending.keys(), f"held {self.held}, pending {pending}"
        assert not pending.keys() & set(frontier.ready), f"ready {frontier.ready} and pending {pending}"
        for child, arrived in pending.items():
            members = {member for member, _ in arrived}
            most = of[child] - (child != frontier.sink and child not in self.sent)
            assert len(members) == len(arrived) <= most, f"pending at {child} of {of[child]}: {arrived}"
            assert child not in self.claimed, f"{child} is claimed, and pending"
        assert self.sent <= pending.keys() or frontier.told, f"pending {pending}, sent {self.sent}"

    # --- a task has run

    def count(self, task: int, edges: Out) -> Out:
        """Count the uses of a value that a task has brought; return the edges along which it goes.

        Those to a fan-in that is claimed already are left out: another run of this invocation has brought this input.
        """
        uses, awaited = self.frontier.uses, self.frontier.awaited
        edges = tuple(edge for edge in edges if edge[0] not in self.claimed)
        uses[task] = uses.get(task, 0) + awaited.pop(task, 0) + len(edges)
        return edges

    def give(self, task: int, edges: Out) -> Sequence[tuple[int, int, int]]:
        """Give a value to what is at the ends of these edges: a chain goes on, a fan-in has one input more.

        Returns the edges along which giving takes effects: to a fan-in that came here as a ready task, and after these,
        when all uses are counted, to the sink.
        """
        frontier, pending = self.frontier, self.pending
        ready, sink, started = frontier.ready, frontier.sink, frontier.started
        rest = []
        for edge in edges:
            child, of, member = edge
            if child == sink:
                rest.append(edge)
            elif of == 1:
                ready.append(child)
            elif (arrived := pending.get(child)) is not None:
                arrived.append((member, task))
                if len(arrived) == of:
                    self.complete(child)
            elif child in started:
                rest.insert(0, edge)
            else:
                pending[child], self.of[child] = [(member, task)], of
        return rest

    def given(self, task: int, child: int) -> Effects:
        """Skip an input of a fan-in that came here as a ready task: another run of its giver had completed it."""
        frontier = self.frontier
        if child not in frontier.ready or child in frontier.cold:  # a cold one counts all its uses when it is popped
            yield from frontier.release((task,))
        elif (n := frontier.awaited.pop(task, 0)) > 1:
            frontier.awaited[task] = n - 1

    def output(self, task: int, of: int, member: int) -> Effects:
        """Take in a requested value. If it is too large to ride, it is stored at once, so that it can be dropped."""
        frontier, overlap = self.frontier, self.overlap
        sizes, stored = frontier.sizes, frontier.stored
        arrived = self.pending.setdefault(frontier.sink, [])
        arrived.append((member, task))
        self.of[frontier.sink] = of
        (sizes[task],) = yield Size((task,))
        if frontier.stream or task in stored or sizes[task] > frontier.policy.ride_bytes:
            arrived[-1] = (member, ELSEWHERE)
            if task not in stored and task not in frontier.storing:
                if overlap.behind((task,)) and (yield from overlap.write((task,), (), {task: 1}, requested=True)):
                    return
                yield from frontier.put((task,), requested=True)
                stored.add(task)
            yield from frontier.release((task,))

    def complete(self, child: int) -> None:
        """All inputs of a fan-in have run here: it is ready, at no cost, unless an arrival at it is under way."""
        if child in self.sent:
            return
        del self.pending[child], self.of[child]
        self.held.pop(child, None)
        self.frontier.ready.append(child)

    # --- publication

    def check(self, *, at_once: bool) -> Effects:
        """Publish what was pending at the last check too, or all that is pending (`at_once`)."""
        due = list(self.pending) if at_once else [child for child in self.due if child in self.pending]
        yield from self.publish(due)
        self.due = list(self.pending)

    def publish(self, children: Sequence[int], give_up: int | None = None) -> Effects:
        """Arrive at these fan-ins. Large values stay: their arrival counts only if it is the last.

        The values for the fan-in `give_up` are stored all the same. There are two cases. Either another executor holds
        the other large input and was the first to say so: this one gives way at once, for the fan-in waits for nothing
        else. Or this executor has no other work, and an input that nobody has computed yet has kept it waiting for as
        long as storing takes: it gives up one fan-in at a time, since the inputs of others may come meanwhile.
        """
        frontier, overlap, pending = self.frontier, self.overlap, self.pending
        if self.sent:
            children = [child for child in children if child not in self.sent]
        if not children:
            return
        stored = frontier.stored
        yield from frontier.measure(task for child in children for _, task in pending[child] if task not in stored)
        arrivals, put = self._arrivals(children, None if give_up in self.sent else give_up)
        frontier.ledger.arrived.extend(arrive.child for arrive in arrivals)
        if overlap.behind(put):
            own = Counter(task for child in children for _, task in pending[child])
            if (yield from overlap.write(tuple(put), tuple(arrivals), own)):
                self.sent.update(children)
                return
            yield from self.settle()
            if frontier.told:
                return
            put = {task: None for task in put if task not in stored}  # who gave way meanwhile has stored some
        if put:
            yield from frontier.put(tuple(put))
            stored.update(put)
        answers = yield Incr(tuple(arrivals))
        yield from self._answered(arrivals, answers)

    def _answered(self, arrivals: Sequence[Arrive], answers: Sequence[Arrived], unused: Sequence[int] = ()) -> Effects:
        """Take in the answers to these arrivals. Inputs that were added while they were under way stay pending.

        `unused`: values that came to have one use less meanwhile.
        """
        frontier, pending, of, sent = self.frontier, self.pending, self.of, self.sent
        answers = yield from self._asked_singly(arrivals, answers)
        # Claims first: a value that rode in for one fan-in may be one that the release for another would drop.
        for arrival, answer in zip(arrivals, answers, strict=True):
            if answer.claimed and arrival.child not in self.claimed and not frontier.told:
                yield from self._claim(arrival.child, answer.carried)
        for arrival, answer in zip(arrivals, answers, strict=True):
            child, n = arrival.child, len(arrival.members)
            sent.discard(child)
            if child in pending and (not arrival.only_if_last or answer.complete):
                self.held.pop(child, None)
                arrived = pending.pop(child)
                if len(arrived) > n:
                    pending[child] = arrived[n:]
                else:
                    del of[child]
                yield from frontier.release([task for _, task in arrived[:n]])
            elif child in pending and len(pending[child]) == of[child] and child != frontier.sink:
                self.complete(child)
        yield from frontier.release(unused)
        for arrival, answer in zip(arrivals, answers, strict=True):
            if answer.give_way and arrival.child in pending:
                yield from self.publish([arrival.child], give_up=arrival.child)

    def came(self, answers: Sequence[Came], ran: int | None = None) -> Effects:
        """Take in what has come of requests that were under way. `ran`: a task that has ended, not yet counted."""
        overlap = self.overlap
        arrivals: list[Arrive] = []
        arrived: list[Arrived] = []
        outputs: list[int] = []
        for came in answers:
            if isinstance(came.request, WriteBehind):
                outputs += overlap.wrote(came.request.put, requested=came.request.requested)
                arrivals += came.request.arrivals
                arrived += came.answer
        rode_in = {task for answer in arrived if answer.claimed for task in answer.carried}
        for came in answers:
            if isinstance(came.request, FetchAhead):
                yield from overlap.fetched(came, ran, rode_in)
        # All at once: what rode in with one is in the cache by now, and another may release it. And only now: an answer
        # may make this walk wait for what is still under way, and of these requests none is.
        yield from self._answered(arrivals, arrived, outputs)

    def settle(self, tasks: Collection[int] | None = None) -> Effects:
        """Wait until no request to write behind is under way; or only until the values of these `tasks` are stored."""
        while self.overlap.n_writes and (tasks is None or not self.frontier.storing.isdisjoint(tasks)):
            yield from self.came((yield TakeIn(wait=True)))

    def _arrivals(self, children: Sequence[int], give_up: int | None) -> tuple[list[Arrive], dict[int, None]]:
        """Return the arrivals at these fan-ins, and the values to store before; note what is held."""
        frontier, pending, held = self.frontier, self.pending, self.held
        sizes, policy, costs = frontier.sizes, frontier.policy, frontier.costs
        stored = frontier.stored | frontier.storing if frontier.storing else frontier.stored
        large = costs.large(policy)
        put: dict[int, None] = {}
        if give_up is not None:
            put.update((task, None) for _, task in pending[give_up] if task not in stored)
        arrivals = []
        for child in children:
            fresh = [task for _, task in pending[child] if task not in stored and task not in put]
            biggest = max((sizes[task] for task in fresh), default=0)
            hold = bool(fresh) and biggest >= large and child != frontier.sink
            hold = hold and (self.delays or biggest >= PINNED)
            carry = []
            if hold:
                held[child] = costs.delay_budget(policy, biggest)
            else:
                for task in fresh:
                    # A value with many fan-ins is stored once rather than carried to each of them.
                    if sizes[task] * frontier.uses[task] <= policy.ride_bytes:
                        carry.append(task)
                    else:
                        put[task] = None
            members = tuple(member for member, _ in pending[child])
            arrivals.append(Arrive(child, members, self.of[child], tuple(carry), only_if_last=hold))
        return arrivals, put

    def _asked_singly(
        self, arrivals: Sequence[Arrive], answers: Sequence[Arrived]
    ) -> Generator[Effect, Any, Sequence[Arrived]]:
        """Ask for each member singly: an earlier run may have won the fan-in with any of those brought together here.

        Asking (``only_if_last``) records no arrival. Otherwise, if the store had lost the record meanwhile, it would
        announce values that nobody has stored.
        """
        singly = [
            Arrive(arrival.child, (member,), arrival.of, (), only_if_last=True)
            for arrival, answer in zip(arrivals, answers, strict=True)
            if answer.complete and not answer.claimed and len(arrival.members) > 1
            for member in arrival.members
        ]
        if not singly:
            return answers
        told = yield Incr(tuple(singly))
        won = {arrive.child: answer for arrive, answer in zip(singly, told, strict=True) if answer.claimed}
        return [won.get(arrival.child, answer) for arrival, answer in zip(arrivals, answers, strict=True)]

    # --- claims

    def _claim(self, child: int, carried: Sequence[int]) -> Effects:
        """Take a child, since this executor was the last to arrive. Its inputs are here, rode in, or are fetched."""
        frontier = self.frontier
        self.held.pop(child, None)
        if child == frontier.sink:
            yield from self.finish(carried)
            return
        if child not in frontier.parents:
            yield from frontier.need(child)
        here = {task for _, task in self.pending.pop(child)}
        self.sent.discard(child)
        del self.of[child]
        self.claimed.add(child)
        uses, awaited, rode_in = frontier.uses, frontier.awaited, frozenset(carried)
        for parent in frontier.parents[child]:
            if parent in here:
                continue
            if parent in uses:
                uses[parent] += 1
            elif parent in rode_in:
                uses[parent] = 1 + awaited.pop(parent, 0)
                frontier.stored.discard(parent)
                frontier.sizes.pop(parent, None)
                if parent in frontier.running:
                    frontier.last_use.remove(parent)
            else:
                awaited[parent] = awaited.get(parent, 0) + 1
        frontier.ready.append(child)

    def finish(self, carried: Sequence[int] = ()) -> Effects:
        """End the job: its own fan-in is complete. Every output is in the store, or here and small."""
        frontier = self.frontier
        here = [task for _, task in self.pending.pop(frontier.sink) if task != ELSEWHERE]
        self.sent.discard(frontier.sink)
        del self.of[frontier.sink]
        yield Finish(tuple(dict.fromkeys([*here, *carried])))
        frontier.told = True
        frontier.ready.clear()  # if a replay has more to do, nobody needs it

    # --- delayed I/O: nothing but held values is left

    def pause_s(self, idle_s: float, left_s: float) -> float:
        """Return how long to wait before asking again, after `idle_s` seconds of it and with `left_s` at most to go.

        Ever longer: an input that does not come soon may take long, and asking costs a round trip.
        """
        held_s = min(budget_s for child, budget_s in self.held.items() if child not in self.sent)
        left_s = max(0.0, min(held_s - idle_s, left_s))
        round_trip_s = self.frontier.costs.round_trip_s
        pause_s = max(round_trip_s, idle_s / _RECHECKS, _RECHECK_S)
        return min(pause_s, max(left_s, round_trip_s), _RECHECK_LAST_S)

    def overstayed(self, idle_s: float) -> int | None:
        """Return the fan-in that is to be given up after `idle_s` seconds without other work; None: none yet."""
        late = [child for child, budget_s in self.held.items() if idle_s >= budget_s and child not in self.sent]
        return min(late, key=self.held.__getitem__) if late else None
