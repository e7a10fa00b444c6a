"""What a job keeps in the store, and under which keys.

Every key begins with the job's id, so that jobs never see each other's keys, and says what it holds. A job's id begins
with its client's, so that all that a client has in the store can be found (``<client>-<n>/...``):

    v/<task>        a task's value              p/<i>       a page of the DAG
    r/<child>       a fan-in's record           o/<i>       an object: a large literal
    i/<invocation>  an invocation's payload     e/<invocation>  its end report
    h/<invocation>  its heartbeat
    n/<invocation>  how many invocations it has made; there from when a run of it stores what others need
    x/<task>        which children have read a task's value
    w/<task>        what a task has written to targets that only the client reaches: sizes; w/<task>/<k>: each chunk
    a/<invocation>  how often it was invoked again
    q/<limit>/<seat>    a seat of a limit, q/<limit>/<seat>/<k> its tickets, see `wukong.core.seats`
    f/<task>        a task that has failed, named by its key; f/<task>/call: what it runs, with its inputs
    job             that the job is wanted: executors stop when it is gone, or when its client has fallen silent
    m               the user's modules, as an archive
    done            the job's outcome
    cancel          that somebody other than the client wants it to be cancelled
    held            that it has failed, and that what its tasks have made stays, see `wukong.core.remains`

A client has keys of its own besides:

    <client>/lease      that it lives, and what it runs
    <client>/kept/<n>   a value that it was given to keep
    <client>/l/<lock>/...   a lock's tickets, see `wukong.core.lock`
    <client>/l/over         which jobs are over, so that nobody waits for what they hold

Invocation ids are hierarchical ("0.3.1" is the second that "0.3" made), so that ``i`` and ``n`` together are a tree
which the client can walk.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b

_OWNED = re.compile(rb"([0-9a-f]{12})(-\d+)?/")
_ALIVE = b"/job"
_MOST_LISTED = 8


def lease(client: str) -> bytes:
    """Key of a client's lease."""
    return client.encode() + b"/lease"


def kept(client: str, n: int) -> bytes:
    """Key of a value that a client was given to keep."""
    return b"%b/kept/%d" % (client.encode(), n)


def locks(job: str) -> bytes:
    """The prefix of the keys of all locks that a job may use."""
    return job.partition("-")[0].encode() + b"/l/"


def owner(key: bytes) -> tuple[str, str | None] | None:
    """Return whose key this is: the client, and the job if it belongs to one; None: no key of ours."""
    found = _OWNED.match(key)
    return None if found is None else (found[1].decode(), found[0][:-1].decode() if found[2] else None)


class Names:
    """The keys of one job, as the module's docstring lists them.

    Attributes:
        job: its id. prefix: what all of its keys begin with.
        done, alive, plan, cancel, modules, held: the keys that there are once.
    """

    __slots__ = ("alive", "cancel", "done", "held", "job", "modules", "plan", "prefix")

    def __init__(self, job: str) -> None:
        self.job = job
        self.prefix = job.encode()
        self.done = self.prefix + b"/done"
        self.alive = self.prefix + _ALIVE
        self.plan = self.prefix + b"/plan"
        self.cancel = self.prefix + b"/cancel"
        self.modules = self.prefix + b"/m"
        self.held = self.prefix + b"/held"

    def value(self, task: int) -> bytes:
        """Key of a task's value."""
        return b"%b/v/%d" % (self.prefix, task)

    def record(self, child: int) -> bytes:
        """Key of a fan-in's record."""
        return b"%b/r/%d" % (self.prefix, child)

    def readers(self, task: int) -> bytes:
        """Key of the record of those children of a task that have read its value."""
        return b"%b/x/%d" % (self.prefix, task)

    def writes(self, task: int) -> bytes:
        """Key of the list of what a task has written to targets of the client's."""
        return b"%b/w/%d" % (self.prefix, task)

    def write(self, task: int, index: int) -> bytes:
        """Key of one chunk that a task has written to a target of the client's."""
        return b"%b/w/%d/%d" % (self.prefix, task, index)

    def lock(self, name: str) -> bytes:
        """The prefix of the keys of a lock; all jobs of a client share it."""
        client = self.prefix.partition(b"-")[0]
        return b"%b/l/%b" % (client, blake2b(name.encode(), digest_size=8).hexdigest().encode())

    @property
    def over(self) -> bytes:
        """Key of what says which jobs are over, see `wukong.core.lock`; all jobs of a client share it."""
        return locks(self.job) + b"over"

    def seat(self, limit: str, seat: int) -> bytes:
        """Key of a seat of a limit."""
        return b"%b/q/%b/%d" % (self.prefix, blake2b(limit.encode(), digest_size=8).hexdigest().encode(), seat)

    def page(self, index: int) -> bytes:
        """Key of a page of the DAG."""
        return b"%b/p/%d" % (self.prefix, index)

    def object(self, index: int) -> bytes:
        """Key of a large literal."""
        return b"%b/o/%d" % (self.prefix, index)

    def invocation(self, invocation: str) -> bytes:
        """Key of an invocation's payload."""
        return b"%b/i/%b" % (self.prefix, invocation.encode())

    def n_offloads(self, invocation: str) -> bytes:
        """Key of the number of invocations that an invocation has made."""
        return b"%b/n/%b" % (self.prefix, invocation.encode())

    def attempts(self, invocation: str) -> bytes:
        """Key of how often the client has invoked an invocation again."""
        return b"%b/a/%b" % (self.prefix, invocation.encode())

    @property
    def failures(self) -> bytes:
        """The prefix of the keys of what is kept of failed tasks."""
        return self.prefix + b"/f/"

    def failed(self, key: str) -> bytes:
        """Key of what is known of a failed task, by its Dask key as text."""
        return self.failures + blake2b(key.encode(), digest_size=8).hexdigest().encode()

    def failed_call(self, key: str) -> bytes:
        """Key of what a failed task runs, with its inputs."""
        return self.failed(key) + b"/call"

    def remains(self, key: bytes) -> bool:
        """Whether this is a key of a value, or of what may hold values: a record or an invocation."""
        return key.startswith(tuple(self.prefix + each for each in (b"/v/", b"/r/", b"/i/")))

    def holds_values(self, key: bytes) -> bool:
        """Whether this is a key of a value, of a record, or of an invocation that another one has made."""
        made = self.prefix + b"/i/"
        return self.remains(key) and (not key.startswith(made) or b"." in key[len(made) :])

    def is_failed(self, key: bytes) -> bool:
        """Whether this is a key of `failed`."""
        return key.startswith(self.failures) and b"/" not in key[len(self.failures) :] and b"~" not in key

    @staticmethod
    def attempt_id(invocation: str, attempt: int) -> str:
        """The id of an attempt at an invocation, the first is 0; the ids of the invocations that it makes begin so."""
        return f"{invocation}~{attempt}" if attempt else invocation

    @staticmethod
    def origin(invocation: str) -> tuple[str, int]:
        """Return the attempt that made this invocation (empty: the client did), and the number that it gave to it."""
        attempt_id, _, number = invocation.rpartition(".")
        return attempt_id, int(number)

    @staticmethod
    def maker(invocation: str) -> str | None:
        """Return the invocation that made this one; None: the client did."""
        attempt_id = invocation.rpartition(".")[0]
        head, dot, last = attempt_id.rpartition(".")
        return f"{head}{dot}{last.partition('~')[0]}" if attempt_id else None

    def end(self, invocation: str) -> bytes:
        """Key of an invocation's end report."""
        return b"%b/e/%b" % (self.prefix, invocation.encode())

    def heartbeat(self, invocation: str) -> bytes:
        """Key of an invocation's heartbeat."""
        return b"%b/h/%b" % (self.prefix, invocation.encode())

    def label(self, invocation: str) -> str:
        """The name of an invocation in a platform's logs and reports."""
        return f"{self.job}/{invocation}"


def tells_alive(key: bytes) -> bool:
    """Whether a key is `Names.alive` of some job: somebody wants that job."""
    return key.endswith(_ALIVE)


def text_of(key: object) -> str:
    """Return a Dask key as reports show it."""
    return key if isinstance(key, str) else repr(key)


def listed(keys: Sequence[str]) -> str | None:
    """Return what messages call tasks that run at once: one by its key, several by their keys; None: there is none."""
    more = f" and {len(keys) - _MOST_LISTED} more" if len(keys) > _MOST_LISTED else ""
    return ", ".join(keys[:_MOST_LISTED]) + more or None
