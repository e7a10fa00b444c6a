"""What a client ships: a graph as pages, objects and the first invocations, ready to be put into the store.

It depends on the graph alone, so that what a store has lost can be shipped again.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from wukong.core import modules
from wukong.core.blame import blamed
from wukong.core.codec import Codec, fails
from wukong.core.dag import Graph, Literal, op_refs
from wukong.core.gc_pause import gc_paused
from wukong.core.ingest import KeptLiteral
from wukong.core.names import Names
from wukong.core.partition import pages, starts
from wukong.core.payload import PAYLOAD, Envelope, Order
from wukong.core.policy import Costs, Policy
from wukong.core.storage import Blob, StorePort, blob_size, joined
from wukong.errors import AuthenticationError, CodecError, JobError


class KeptValue(KeptLiteral):
    """A literal that stands for a value that the store keeps under `key`, from an earlier job or from the client."""

    __slots__ = ("key", "place")

    def __init__(self, key: bytes) -> None:
        self.key = key


@dataclass(frozen=True, slots=True)
class ShippingPlan:
    """How a job is shipped.

    Attributes:
        payload_inline_bytes: a DAG up to this size, bytes, travels inside the invocations.
        page_tasks: how many tasks are in one page.
    """

    payload_inline_bytes: int = 131_072
    page_tasks: int = 512


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a client must know of a job to finish it; kept in the store, so that another client can take it over.

    Attributes:
        roots: the first invocations.
        n_tasks, n_schedules, n_objects, page_tasks: size of the DAG and how it is shipped.
        outputs: the requested tasks. request: for each requested key, a task or a literal.
        policy: the settings it runs under.
        writes: the targets that only the client which started the job can write to.
        imports: the modules that the code names, and those that the user's modules among them import.
        limits: how many tasks of each limit may run at once.
    """

    roots: tuple[str, ...]
    n_tasks: int
    n_schedules: int
    n_objects: int
    page_tasks: int
    outputs: tuple[int, ...]
    request: dict[Hashable, int | Literal]
    policy: Policy
    writes: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    limits: dict[str, int] = field(default_factory=dict)


def manifest_of(names: Names, store: StorePort, codec: Codec) -> Manifest:
    """Return the manifest of a job that another client has shipped.

    Raises JobError if there is none, if another key has signed it, or if only the client that shipped it can finish it.
    """
    blob = store.get([names.plan])[0]
    if blob is None:
        raise JobError(
            "there is no such job in this store: it has ended, or its keys have expired",
            job=names.job,
            hint="the store and the deployment key must be those of the client that started it",
        )
    try:
        manifest: Manifest = codec.decode(blob, names.plan)
    except AuthenticationError as error:
        raise JobError(
            "this job was signed with another deployment key than this client's, so that it cannot be taken over",
            job=names.job,
            hint="give the key of the client that started it, as key=... or WUKONG_KEY: 'wukong key show' shows it "
            "there, for the same user and storage; after 'wukong key rotate' it is the old one",
        ) from error
    if manifest.writes:
        raise JobError(
            f"only the client that started this job can finish it, it writes to: {', '.join(manifest.writes)}",
            job=names.job,
            hint="start it again; a Zarr array in files or in an object store is written without the client",
        )
    return manifest


@dataclass(frozen=True, slots=True)
class Shipment:
    """A job, packed.

    Attributes:
        items: all but the pages: objects, the first invocations' records, the manifest.
        pages: the DAG's pages. inside: they travel in the payloads, and need not be stored.
        calls: the first invocations: id and payload.
        manifest: see there.
    """

    items: dict[bytes, Blob]
    pages: dict[bytes, Blob]
    inside: bool
    calls: list[tuple[str, bytes]]
    manifest: Manifest


def pack(
    graph: Graph,
    names: Names,
    codec: Codec,
    envelope: Envelope,
    policy: Policy,
    costs: Costs,
    plan: ShippingPlan,
    *,
    stream: bool,
    keep: bool,
    isolated: bool,
    shares_files: bool = False,
    writes: tuple[str, ...] = (),
) -> Shipment:
    """Pack a graph. Raises CodecError for what cannot be pickled.

    Args:
        graph: what to run.
        shares_files: functions import the user's modules from the client's own files.
        names, policy, stream, keep, isolated, writes: the job's.
        codec, envelope, costs, plan: the deployment's.
    """
    n = len(graph.ops)
    with modules.naming() as named:
        items = _objects(graph, names, codec)
        packed = _pages(graph, names, codec, plan.page_tasks, release=policy.release)
    inside = sum(map(blob_size, packed.values())) <= plan.payload_inline_bytes
    within = {index: bytes(joined(page)) for index, page in enumerate(packed.values())} if inside else {}
    firsts = starts(graph.dag, eager=policy.fan_out == "eager", priorities=graph.priorities)
    order = Order(
        names.job, "", (), n, plan.page_tasks, policy, costs.told, within, stream=stream, kept=keep, isolated=isolated
    )
    found, archive = modules.used(shared=shares_files)
    order = replace(order, modules=found, limited=bool(graph.limits))
    if archive is not None:
        items[names.modules] = codec.encode(archive, names.modules)
    calls = []
    for i, start in enumerate(firsts):
        mine = replace(order, invocation=str(i), start=start, alone=len(firsts) == 1, sent_at=time.time())
        payload = bytes(joined(codec.encode(replace(envelope, order=mine), PAYLOAD)))
        items[names.invocation(mine.invocation)] = payload
        calls.append((mine.invocation, payload))
    manifest = Manifest(
        tuple(invocation for invocation, _ in calls),
        n,
        sum(map(len, firsts)),
        len(graph.objects),
        plan.page_tasks,
        graph.dag.outputs,
        graph.request,
        policy,
        writes,
        tuple(sorted(modules.imported(named))),
        {name: n for limits in graph.limits.values() for name, n in limits},
    )
    with _blaming((key, where.value) for key, where in graph.request.items() if isinstance(where, Literal)):
        items[names.plan] = codec.encode_code(manifest, names.plan)
    return Shipment(items, packed, inside, calls, manifest)


def _objects(graph: Graph, names: Names, codec: Codec) -> dict[bytes, Blob]:
    """Return the large literals of a graph, encoded, by key; without those that the store keeps already."""
    packed: dict[bytes, Blob] = {}
    for i, value in enumerate(graph.objects):
        if not isinstance(value, KeptLiteral):
            with _blaming((key, value) for key, op in zip(graph.keys, graph.ops, strict=True) if -1 - i in op_refs(op)):
                packed[names.object(i)] = codec.encode_code(value, names.object(i))
    return packed


def _pages(graph: Graph, names: Names, codec: Codec, page_tasks: int, *, release: bool) -> dict[bytes, Blob]:
    """Return the pages of a graph, encoded, by key."""
    kept = {i: value.key for i, value in enumerate(graph.objects) if isinstance(value, KeptValue)}
    packed: dict[bytes, Blob] = {}
    with modules.by_value(), gc_paused():
        for index, page in enumerate(pages(graph, page_tasks, kept, release=release)):
            with _blaming(zip(page.keys, page.ops, strict=True)):
                packed[names.page(index)] = codec.encode_code(page, names.page(index))
    return packed


@contextmanager
def _blaming(tasks: Iterable[tuple[Hashable, Any]]) -> Iterator[None]:
    """While the block runs, name in a CodecError what cannot be pickled, and the key of its task."""
    try:
        yield
    except CodecError as error:
        raise blamed(error, tasks, fails) from error.__cause__
