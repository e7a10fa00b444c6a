"""Ways to break the protocol, by name.

Each is a piece of `wukong/core/walk`, as `mutating` takes it, and what it is replaced by. If the protocol has moved on,
the piece is not found any more and its test says so: write the mutation anew.
"""

NOT_HERE = "task in frontier.offloaded or task in larger or (away and task in frontier.exclusive)"

MUTATIONS = {
    "tell before write": (
        """        if put:
            yield from frontier.put(tuple(put))
            stored.update(put)
        answers = yield Incr(tuple(arrivals))
""",
        """        answers = yield Incr(tuple(arrivals))
        if put:
            yield from frontier.put(tuple(put))
            stored.update(put)
""",
    ),
    "a requested value is announced but not stored": (
        "                yield from frontier.put((task,), requested=True)\n",
        "",
    ),
    "inputs of what is handed over are not stored": (
        """
        if put:
            yield from self.share()
            yield from frontier.put(tuple(put))
            frontier.stored.update(put)
""",
        "",
    ),
    "invoke before record": (
        "yield Record(parts_made, self.n_offloads)\nif not parked:\n    yield Invoke(parts_made)\n",
        "if not parked:\n    yield Invoke(parts_made)\nyield Record(parts_made, self.n_offloads)\n",
    ),
    "what is handed over is kept as well": ("        gone = set(movable)\n", "        gone = set()\n"),
    "two parts under one id": ("        self.n_offloads += len(made)\n", "        self.n_offloads += 1\n"),
    "believes to be alone": ("self.n_offloads += len(made)\nself.alone = False", "self.n_offloads += len(made)"),
    "claim not checked": (
        "if answer.claimed and arrival.child not in self.claimed and not frontier.told:",
        "if arrival.child not in self.claimed and not frontier.told:",
    ),
    "a held arrival counts although nothing is stored": ("only_if_last=hold", "only_if_last=False"),
    "when one held fan-in gives up, all are announced": (
        "only_if_last=hold",
        "only_if_last=hold and give_up is None",
    ),
    "held for ever": ("return min(late, key=self.held.__getitem__) if late else None", "return None"),
    "forgets that it holds": ("held[child] = costs.delay_budget(policy, biggest)", "pass"),
    "nothing fresh is held": ("bool(fresh) and biggest >= large and child != frontier.sink", "biggest >= large"),
    "a held fan-in that fills here stays held": (
        "        self.held.pop(child, None)\n        self.frontier.ready.append(child)\n",
        "        self.frontier.ready.append(child)\n",
    ),
    "releases before claims": (
        """
        for arrival, answer in zip(arrivals, answers, strict=True):
            if answer.claimed and arrival.child not in self.claimed and not frontier.told:
                yield from self._claim(arrival.child, answer.carried)
        for arrival, answer in zip(arrivals, answers, strict=True):
            child, n = arrival.child, len(arrival.members)
            sent.discard(child)
            if child in pending and (not arrival.only_if_last or answer.complete):
                ...
        """,
        """
        for arrival, answer in zip(arrivals, answers, strict=True):
            if answer.claimed and arrival.child not in self.claimed and not frontier.told:
                yield from self._claim(arrival.child, answer.carried)
            child, n = arrival.child, len(arrival.members)
            sent.discard(child)
            if child in pending and (not arrival.only_if_last or answer.complete):
                ...
        """,
    ),
    "a claim forgets its use of what is here": ("uses[parent] += 1", "pass"),
    "a claim forgets its use of what rode in": ("uses[parent] = 1 + awaited.pop(parent, 0)", "awaited.pop(parent, 0)"),
    "what rode in for the running task's sake is dropped after it": (
        "                    frontier.last_use.remove(parent)\n",
        "                    pass\n",
    ),
    "dropped under the running task": (
        "(self.last_use if task in self.running else drop).append(task)",
        "drop.append(task)",
    ),
    "dropped before its last use": (
        "            if n == 1:\n",
        "            if n <= 2:\n",
    ),
    "never dropped": ("        if drop:\n", "        if False:\n"),
    "a value fetched for several has one use": ("frontier.awaited.pop(parent, 1)", "1"),
    "what is handed over is still waited for": (
        "counts = uses if task in uses else self.awaited",
        "counts = uses",
    ),
    "inline values are not counted": ("counts[parent] = counts.get(parent, 0) + 1", "pass"),
    "finishes with what it has": (
        "len(pending) == 1 and sink in pending and len(pending[sink]) == fan_ins.of[sink]",
        "len(pending) == 1 and sink in pending",
    ),
    "an output is not dropped": (
        "arrived[-1] = (member, ELSEWHERE)\n",
        "arrived[-1] = (member, ELSEWHERE)\nfrontier.uses[task] += 1\n",
    ),
    "what cannot be published is forgotten": (
        "            if sent and held.keys() <= sent:\n",
        "            if held:\n                return False\n            if sent and held.keys() <= sent:\n",
    ),
}

RECOVERY_MUTATIONS = {
    "what is handed over is done again by a replay": (
        NOT_HERE,
        "task in larger or (away and task in frontier.exclusive)",
    ),
    "a replay hands over under the names of the first run": (
        'f"{self.attempt_id}.{self.n_offloads + len(made)}"',
        '''f"{self.attempt_id.partition('~')[0]}.{self.n_offloads + len(made)}"''',
    ),
    "a restored value is not stored": ("        yield from frontier.put(tuple(restored))\n", ""),
    "what is lost is not restored": (
        "if lost and not (yield from self._restore(task, lost, missing)):",
        "if False:",
    ),
    "restored, and what was fetched for it stays": ("        if extra:\n", "        if False:\n"),
    "what came with what was lost is forgotten": ("set(wanted).difference(lost)", "set()"),
    "what came with what was lost is dropped": (
        "task not in wanted and task not in uses",
        "task not in lost and task not in uses",
    ),
    "what an earlier run has handed over is handed over again": (
        "if self.frontier.offloaded:\n    yield from self.frontier.skip()\nif self.limited:\n",
        "if self.limited:\n",
    ),
    "what an earlier run has handed over is handed on": (
        "        yield from self.frontier.skip()\n"
        "        movable = yield from self.fan_out.movable(self.frontier.ready, inf)\n",
        "        movable = yield from self.fan_out.movable(self.frontier.ready, inf)\n",
    ),
    "what is restored runs beside others": ("lost and (self.lanes.away or frontier.storing)", "False"),
    "the watcher interferes with a restore": ("        if self.frontier.task == RESTORING:", "        if False:"),
    "goes on after the end of the job": ("        frontier.told = True\n", ""),
    "what was given as ready is arrived at": (
        "                    if child in started:\n",
        "                    if False:\n",
    ),
    "what another run has brought is counted again": (
        "            if not claimed and not away and not landed:\n",
        "            if True:\n",
    ),
    "does not give way": ("answer.give_way and arrival.child in pending", "False"),
    "ignores its deadline": (
        "        if now >= self.leaving.deadline:\n            yield from self.leaving.leave()\n            return\n",
        "",
    ),
    "ignores its deadline while a task runs": (
        "            yield from self.leaving.leave_running(elapsed_s, now)\n",
        "            pass\n",
    ),
    "what was handed on while it ran counts here too": ("task in lanes.handed_on and not self.told", "False"),
}
"""What shows only if something goes wrong."""

LANES_MUTATIONS = {
    "what another lane reads is not in use": (
        "            uses[parent] = uses.get(parent, 0) + 1 + awaited.pop(parent, 0)\n",
        "            pass\n",
    ),
    "dropped by a lane whose task is not the last to read it": ("        last_use.clear()\n", ""),
    "what another lane has read is kept for ever": (
        "                    yield from frontier.release(read)\n",
        "                    pass\n",
    ),
    "what another lane brings is forgotten": ("self.landed.append((task, away.out, ()))", "pass"),
    "more tasks run than there are lanes": ("len(self.away) + 1 < self.most", "len(self.away) < self.most"),
    "a task that needs a larger function runs on a small one": (
        NOT_HERE,
        "task in frontier.offloaded or (away and task in frontier.exclusive)",
    ),
    "a task that is to run alone does not": (NOT_HERE, "task in frontier.offloaded or task in larger"),
    "another lane runs beside a task that is to run alone": ("task not in frontier.exclusive", "True"),
    "a cold task takes what another lane reads": ("away or (limited and replay)", "limited and replay"),
    "ends although a task runs": (
        "                if not lanes.away and (frontier.failed or not overlap.under_way):\n",
        "                if not overlap.under_way:\n",
    ),
}
"""What shows only if tasks run in several lanes."""

OVERLAP_MUTATIONS = {
    "tells before what is written behind is stored": ("        if self.n_writes:\n            return True\n", ""),
    "told of a fan-in twice at once": (
        "            children = [child for child in children if child not in self.sent]\n",
        "            pass\n",
    ),
    "takes a fan-in that is being told for its own": ("        if child in self.sent:\n            return\n", ""),
    "what came while a fan-in was being told is forgotten": (
        "                if len(arrived) > n:\n",
        "                if False:\n",
    ),
    "all that is pending counts as told": (
        "yield from frontier.release([task for _, task in arrived[:n]])",
        "yield from frontier.release([task for _, task in arrived])",
    ),
    "a value is dropped while it is written behind": (
        "overlap.behind((task,)) and (yield from overlap.write((task,), (), {task: 1}, requested=True))",
        "overlap.behind((task,)) and not (yield from overlap.write((task,), (), {task: 1}, requested=True))",
    ),
    "hands over before what is written behind is stored": (
        "        if movable and frontier.storing:\n",
        "        if False:\n",
    ),
    "ends the job before a value is stored": ("                if overlap.n_writes:\n", "                if False:\n"),
    "stores again what is being written behind": (
        "frontier.stored | frontier.storing if frontier.storing else frontier.stored",
        "frontier.stored",
    ),
}
"""What shows only if requests are under way while the walk goes on."""
