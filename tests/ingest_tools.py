"""A graph made compact, its tasks run one after the other, and compared with what Dask computes."""

from wukong.core.dag import Literal, op_refs, run_op
from wukong.core.ingest import ingest


def inc(x):
    return x + 1


def total(*args):
    return sum(args)


def run(graph):
    """Run the tasks in the order of their numbers; return the requested values by key."""
    values = []

    def value_of(ref):
        return values[ref] if ref >= 0 else graph.objects[-1 - ref]

    values.extend(run_op(op, value_of) for op in graph.ops)
    return {key: at.value if isinstance(at, Literal) else values[at] for key, at in graph.request.items()}


def check(graph):
    """Hold a graph's structure against its ops."""
    dag = graph.dag
    assert len(dag) == len(graph.ops) == len(graph.keys)
    for task, op in enumerate(graph.ops):
        inputs = sorted({ref for ref in op_refs(op) if ref >= 0})
        assert list(dag.parents_of(task)) == inputs
        assert all(parent < task for parent in inputs)
        assert all(-1 - ref < len(graph.objects) for ref in op_refs(op) if ref < 0)
    assert set(dag.outputs) == {at for at in graph.request.values() if not isinstance(at, Literal)}
    reached = set(dag.outputs)
    for task in reversed(range(len(dag))):
        assert task in reached, f"{graph.keys[task]!r} was not culled"
        reached.update(dag.parents_of(task))


def ingested(dsk, keys, **how):
    graph = ingest(dsk, keys, **how)
    check(graph)
    return graph


def results(dsk, keys, **how):
    return run(ingested(dsk, keys, **how))
