"""What may be given with one computation, besides what to compute.

A keyword is used; or it means nothing here, but programs for Dask's own schedulers and for `distributed` give it; or it
is an error, which says what was meant: a misspelt limit would be no limit. What Dask calls takes others, too, because
libraries pass their own on to any scheduler, for example xarray its ``flush``. There a keyword is an error only if it
is close to one that is used, or if something else is to be called instead.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from wukong.errors import ConfigError
from wukong.options import nearest, suggestion

_IGNORED = frozenset(
    (
        # distributed's
        *("workers", "allow_other_workers", "resources", "priority", "fifo_timeout", "actors"),
        *("asynchronous", "direct", "sync", "user_priority"),
        # of Dask's schedulers on one machine, and of the optimisation of graphs
        *("num_workers", "pool", "chunksize", "rerun_exceptions_locally", "raise_exception", "cache", "callbacks"),
        *("optimize_graph", "traverse", "initializer", "fuse", "rename_fused_keys"),
    )
)
_COLLECT = "client.compute(x, sync=True, on_error='collect') collects what has not failed"
_KEEP = "client.compute(x, keep=...) and x.compute(keep=...) keep results, dask.annotate(keep=...) the values of tasks"

OF_GET = frozenset(("timeout", "retries", "budget_usd", "keep")), {"on_error": _COLLECT}
"""Of ``client.get`` and ``x.compute``: what is used, and of other keywords what there is instead."""
OF_COMPUTE = (
    frozenset(("retries", "budget_usd", "on_error", "keep")),
    {"timeout": "x.compute(timeout=...), or future.result(timeout=...)"},
)
"""Of ``client.compute``, likewise."""
OF_PERSIST = (
    frozenset(("retries", "budget_usd")),
    {"on_error": _COLLECT, "keep": _KEEP, "timeout": "wukong.wait(futures, timeout=...)"},
)
"""Of ``client.persist`` and ``x.persist``, likewise."""


def known_only(
    what: str, given: Mapping[str, Any], used: Collection[str], instead: Mapping[str, str], by_dask: bool = True
) -> None:
    """Raise ConfigError if a keyword that is given to `what` is an error; `by_dask`: if it is one that Dask calls."""
    for name in given:
        if name in used or name in _IGNORED or (by_dask and name not in instead and not nearest(name, used)):
            continue
        raise ConfigError(f"{what} takes no {name!r}", hint=instead.get(name) or suggestion(name, used))
