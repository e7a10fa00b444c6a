"""A case: a DAG with everything around it that a model of the protocol is given."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from wukong.core.dag import Dag, Graph, Limits, Page
from wukong.core.partition import pages, starts
from wukong.core.policy import UNKNOWN_BYTES, Policy

FUNCTIONS = (1, 2)
"""The memory of the functions in a case that has larger ones."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is simulated.

    Attributes:
        dag: the structure.
        sizes: size of each task's value, bytes.
        policy, costs: as the job would give them; costs are the fields of `Costs`.
        page_tasks: tasks in one page.
        slots: answers to `Slots`, in turn and then again from the first.
        leaps_s: how long an effect takes: one of these at random, times a random fraction.
        stream: see `Walk`.
        exclusive: tasks that run only if no other does in their executor.
        larger: tasks that need the larger one of two functions; empty: there is one.
        limits: of the tasks that have any. room_bytes: what the inputs of those that wait for seats may take.
    """

    dag: Dag
    sizes: tuple[int, ...]
    policy: Policy = field(default_factory=Policy)
    costs: tuple[float, float, float] = (0.01, 0.001, 1e8)
    page_tasks: int = 512
    slots: tuple[int | None, ...] = (None,)
    leaps_s: tuple[float, ...] = (1e-6, 1e-3, 0.1)
    stream: bool = False
    exclusive: frozenset[int] = frozenset()
    larger: frozenset[int] = frozenset()
    limits: Mapping[int, Limits] = field(default_factory=dict)
    room_bytes: int = UNKNOWN_BYTES

    @property
    def how(self) -> str:
        """What a call that makes this case says besides its seed."""
        lanes = f", lanes={self.policy.lanes}" if self.policy.lanes not in (1, "auto") else ""
        return lanes + (', overlap="on"' if self.policy.overlap == "on" else "")

    def roots(self) -> list[tuple[int, ...]]:
        """Start tasks of the first invocations, as a job makes them."""
        return [tuple(start) for start in starts(self.dag, eager=self.policy.fan_out == "eager")]

    def __str__(self) -> str:
        dag = self.dag
        rows = [
            f"    {task} <- {', '.join(map(str, dag.parents_of(task))) or '(leaf)'}   [{self.sizes[task]} B]"
            for task in range(len(dag))
        ]
        return "\n".join(
            [
                f"DAG of {len(dag)} tasks, requested: {', '.join(map(str, dag.outputs))}",
                *rows,
                f"{self.policy}",
                f"costs={self.costs} page_tasks={self.page_tasks} slots={self.slots} leaps_s={self.leaps_s} "
                f"stream={self.stream}{f' exclusive={set(self.exclusive)}' if self.exclusive else ''}"
                f"{f' larger={set(self.larger)}' if self.larger else ''}"
                f"{f' limits={self.limits} room_bytes={self.room_bytes}' if self.limits else ''}",
            ]
        )


def pages_of(
    dag: Dag,
    page_tasks: int,
    exclusive: frozenset[int] = frozenset(),
    larger: Collection[int] = (),
    limits: Mapping[int, Limits] = MappingProxyType({}),
) -> list[Page]:
    """Return a DAG as executors get it, in pages of `page_tasks` tasks; the ops are empty, the keys None."""
    n, memory = len(dag), dict.fromkeys(larger, FUNCTIONS[-1])
    graph = Graph(dag, [None] * n, [()] * n, [], {}, exclusive=exclusive, memory=memory, limits=dict(limits))
    return list(pages(graph, page_tasks, {}))
