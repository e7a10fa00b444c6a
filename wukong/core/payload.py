"""What travels to a function: an `Order` for one executor, in an `Envelope` that says where its store and FaaS are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from wukong.core.dag import Limits
from wukong.core.modules import Modules
from wukong.core.policy import Policy
from wukong.core.raised import Raised

PAYLOAD = b"payload"
"""The place that payloads are signed for."""

Address: TypeAlias = tuple[str, Mapping[str, Any]]
"""How to open a plug-in: ``("module:attribute", options)``."""


@dataclass(frozen=True, slots=True)
class Sent:
    """How invocations were made; the sum of two is that of both.

    Attributes:
        requests: as how many requests they count.
        proxied: how many of them the fan-out proxy has made.
        unproxied: how many the proxy should have made, but the sender had to make itself.
        why: the first reason for that.
    """

    requests: int = 0
    proxied: int = 0
    unproxied: int = 0
    why: str = ""

    def __add__(self, other: Sent) -> Sent:
        return Sent(
            self.requests + other.requests,
            self.proxied + other.proxied,
            self.unproxied + other.unproxied,
            self.why or other.why,
        )


class Send(Protocol):
    """What starts invocations, which are recorded beforehand."""

    def __call__(self, invocations: Sequence[tuple[str, bytes]], size: int = 0) -> Sent:
        """Start these, ``(invocation id, payload)`` each, on functions of a size, the smallest (0) first."""
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """What one invocation is told to do.

    Attributes:
        job, invocation: ids.
        start: ready tasks, the one to begin with first.
        n_tasks, page_tasks: size of the DAG and of a page.
        policy: the job's settings.
        costs: what moving things costs as far as the sender knows: see `wukong.core.policy.Costs.told`.
        pages: pages that travel inside the payload, signed, by index.
        values: values of tasks that travel inside, signed; None: none.
        alone: see `wukong.core.walk.Walk`.
        sent_at: Unix time of the call.
        attempt: how often this invocation was made before. From 1 on, what is stored is not done again, and each task
            is named before it starts, so that a culprit is known.
        kept: the client keeps the values of requested tasks beyond the job's end.
        isolated: the job makes several futures, or collects failures: what a task raises is its value, and the others
            go on.
        convicted: tasks that have ended their process each time they were tried, and what is to be their value.
        modules: where the user's own modules are imported from.
        stream: store every requested value as soon as it is there.
        size: on which of the platform's sizes of function this is to run, counted from 0.
        limited: the job has limits, whether this executor knows of them yet or not.
        parked: see `wukong.core.effects.Part`.
    """

    job: str
    invocation: str
    start: Sequence[int]
    n_tasks: int
    page_tasks: int
    policy: Policy
    costs: tuple[float, ...]
    pages: dict[int, bytes] = field(default_factory=dict)
    values: bytes | None = None
    alone: bool = False
    sent_at: float = 0.0
    stream: bool = False
    attempt: int = 0
    kept: bool = False
    isolated: bool = False
    convicted: dict[int, Raised] = field(default_factory=dict)
    modules: Modules = field(default_factory=Modules)
    size: int = 0
    limited: bool = False
    parked: Limits = ()


@dataclass(frozen=True, slots=True)
class Envelope:
    """A payload: where things are, and the order, or the key of the invocation record that holds it.

    Attributes:
        store, faas: how an executor opens the two backends.
        sign_buffers: raw buffers are signed, too. compress: lz4 is tried on large parts.
        order: what to do; None: it is in the store, under the key `fetch`.
        proxy: the fan-out proxy's address, for executors that make many invocations at once; None: there is none.
    """

    store: Address
    faas: Address
    sign_buffers: bool
    compress: bool
    order: Order | None
    fetch: bytes | None = None
    proxy: Address | None = None


@dataclass(frozen=True, slots=True)
class Relayed:
    """What a fan-out proxy has done: the labels that the platform has accepted, and why there are no others."""

    accepted: frozenset[str]
    why: str = ""


class ProxyPort(Protocol):
    """What the sender of many invocations needs of a fan-out proxy."""

    def invoke(self, faas: Address, calls: Sequence[tuple[str, bytes]]) -> Relayed:
        """Have these invocations made, ``(label, payload)`` each. A proxy that is of no use is no error."""
        ...
