"""A kind of tasks, and collections as the compact DAG."""

from dask._expr import FinalizeCompute
from dask.base import collections_to_expr
from dask.core import flatten

from wukong.core.ingest import ingest
from wukong.planning.learned import Kind

KIND = Kind("work", "f")


def taken_in(*collections):
    expr = FinalizeCompute(collections_to_expr(collections, True)).optimize()
    return expr, ingest(expr, list(flatten(expr.__dask_keys__())))
