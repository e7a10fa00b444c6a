"""Calls that are to run in the background, and the futures of their values."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import dask
from dask._task_spec import Task
from dask.base import tokenize
from dask.utils import apply, funcname

from wukong.client.futures import Future, FutureState
from wukong.client.launch import launch
from wukong.client.session import Session
from wukong.core.references import with_refs


def call(
    session: Session,
    func: Callable[..., Any],
    argss: Sequence[tuple[Any, ...]],
    kwargss: Sequence[dict[str, Any]],
    keys: Sequence[Hashable] | None,
    *,
    retries: int | None,
    pure: bool,
    budget_usd: float | None,
) -> list[Future]:
    """Call `func` with each of these arguments, as one job; return the calls' futures, in order.

    `keys`: the calls' keys; None: made from function and arguments, or new if the calls are not `pure`. A call whose
    key is known is not made. What `dask.annotate` says around this holds for all. Raises TypeError for what cannot be
    called.
    """
    session._check_call(retries, budget_usd)
    if not callable(func):
        raise TypeError(f"{func!r} is not callable")
    name = funcname(func)
    dsk: dict[Hashable, Any] = {}
    fresh: dict[Hashable, FutureState] = {}
    inputs: list[Future] = []
    futures = []
    for i, (args, kwargs) in enumerate(zip(argss, kwargss, strict=True)):
        key = _key(name, func, args, kwargs, pure) if keys is None else keys[i]
        state, new = session._registry.state(key)
        futures.append(Future(state, session))
        if new:
            runs, named = with_refs(func, inputs), with_refs(kwargs, inputs)
            if runs is func and not kwargs:
                dsk[key] = Task(key, func, *[with_refs(each, inputs) for each in args])
            else:
                dsk[key] = Task(key, apply, runs, with_refs(args, inputs), named)
            fresh[key] = state
    if fresh:
        given: dict[str, Any] = {"retries": retries, "budget_usd": budget_usd, "annotations": dask.get_annotations()}
        launch(session, dsk, fresh, inputs, stream=len(dsk) > 1, **given)
    return futures


def _key(name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], pure: bool) -> str:
    return f"{name}-{tokenize(func, args, kwargs) if pure else uuid.uuid4().hex}"
