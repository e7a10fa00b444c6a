"""A client's watch over invocations that there are none of: a store that is a mapping, a clock that is a number."""

from dataclasses import replace

from wukong.core.events import End, Heartbeat, Report, RunningTask
from wukong.core.names import Names
from wukong.core.payload import PAYLOAD, Envelope, Order, Sent
from wukong.core.policy import Policy
from wukong.core.watch import Watch
from wukong.testing.faulty import Plain
from wukong.testing.platform import Reported

NAMES = Names("job")
BEAT_S, SILENCE_S = 1.0, 100.0


class Store(dict):
    """A mapping with the verbs of a store, which notes what it is told."""

    def __init__(self):
        super().__init__()
        self.lives, self.deletes = {}, []

    def get(self, keys):
        return [dict.get(self, key) for key in keys]

    def put(self, items, ttl_s=None):
        self.update(items)
        self.lives.update(dict.fromkeys(items, ttl_s))

    def delete(self, keys):
        self.deletes.append([*keys])
        for key in keys:
            self.pop(key, None)


class Job:
    """A watch over first invocations 0, 1, ..., and what it does."""

    def __init__(
        self,
        n=1,
        known=lambda labels: None,
        reship=lambda: False,
        alone=lambda key: None,
        sizes=(),
        free=None,
        **policy,
    ):
        self.sizes, self.proxy = [], None
        self.now, self.store, self.codec, self.made = 1_000.0, Store(), Plain(), []
        self.roots = [str(i) for i in range(n)]
        policy = Policy(heartbeat_s=BEAT_S, silence_s=SILENCE_S, **policy)
        self.policy = policy
        for root in self.roots:
            self.record(root)
        self.watch = Watch(
            NAMES, self.store, self.codec, self.send, self.envelope, policy, self.roots, 5_000,
            lambda: self.now, reship, known, alone, lambda: sizes, free,
        )  # fmt: skip

    def record(self, invocation, **how):
        order = Order("job", invocation, (0,), 5_000, 512, self.policy, (0.01, 0.001, 1e8), **how)
        self.store[NAMES.invocation(invocation)] = self.codec.encode(self.envelope(order), PAYLOAD)

    def envelope(self, order=None):
        return replace(Envelope(("", {}), ("", {}), False, False, None), order=order, proxy=self.proxy)

    def send(self, calls, size=0):
        self.made += [invocation for invocation, _ in calls]
        self.sizes += [size] * len(calls)
        return Sent(len(calls))

    def beats(self, invocation="0", at=0.0, task=None, **how):
        """Give a sign of life, in which this task runs; several: if it is a tuple."""
        tasks = () if task is None else task if isinstance(task, tuple) else (task,)
        self.store[NAMES.heartbeat(invocation)] = Heartbeat(at, 0, tuple(map(RunningTask, tasks)), **how)

    def ends(self, invocation="0", **how):
        how.setdefault("attempt", self.watch.tree.attempts[invocation])
        self.store[NAMES.end(invocation)] = End(Report(**{"wall_s": 1.0, **how.pop("report", {})}), **how)

    def pass_time(self, seconds, *failures):
        """Look once in a heartbeat."""
        until = self.now + seconds
        while self.now < until:
            self.now = min(until, self.now + BEAT_S)
            self.watch.tend([])
        return [*self.made]

    def fails(self, reason="crash", task=None, invocation="0"):
        self.watch.tend([Reported(NAMES.label(invocation), reason, "died", task)])


def with_a_child(sizes=(), **beat):
    """A job whose first invocation lives and has put another one on record, of which the platform knows nothing."""
    job = Job(known=lambda labels: [label for label in labels if label == "job/0"], sizes=sizes)
    job.beats(**beat)
    job.store[NAMES.n_offloads("0")] = 1
    order = replace(job.codec.decode(job.store[NAMES.invocation("0")], PAYLOAD).order, invocation="0.0")
    job.store[NAMES.invocation("0.0")] = job.codec.encode(job.envelope(order), PAYLOAD)
    return job
