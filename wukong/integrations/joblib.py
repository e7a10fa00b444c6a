"""A backend for joblib, and so for scikit-learn: importing this module registers it.

    import wukong.integrations.joblib

    with wukong.Client(), joblib.parallel_config("wukong"):
        GridSearchCV(...).fit(X, y)

    Parallel  --a batch of calls-->  one job on the client  -->  joblib's callback, which sends the next batch

joblib makes the batches (`batch_size="auto"`: calls that are short go together) and sends only `pre_dispatch` of
them ahead. Arguments that are large go to the store once for each `Parallel` call, however many tasks take them.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from typing import Any

import joblib
from joblib._parallel_backends import AutoBatchingMixin, ParallelBackendBase

from wukong.client.calls import call
from wukong.client.client import Client
from wukong.client.futures import Future
from wukong.client.scheduler import get_client
from wukong.core.sizes import size_bytes
from wukong.integrations.joblib_batch import run_batch

SHARED_BYTES = 65_536
"""An argument of this size and more is stored once, not sent with each task."""
_PLACES = 100
# Containers too: to tell whether one is the same as another costs as much as to send it.
_LEFT_AS_THEY_ARE = (str, bytes, bytearray, int, float, complex, type(None), list, tuple, set, frozenset, dict, Future)


class WukongBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """joblib's view of a client.

    Args:
        client: None: the one that is Dask's default when work begins.
        retries, budget_usd: for each batch; None: as configured.

    `n_jobs`: about how many batches are under way at once; -1: as many as the platform has places for.
    Inside a task, joblib uses the function's own threads.
    """

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(
        self,
        client: Client | None = None,
        *,
        retries: int | None = None,
        budget_usd: float | None = None,
        **others: Any,
    ) -> None:
        super().__init__(**others)
        self._given = client
        self._options: dict[str, Any] = {"retries": retries, "pure": False, "budget_usd": budget_usd}
        self._lock = threading.Lock()
        self._under_way: set[Future] = set()
        self._shared: dict[str, Future] = {}

    def _client(self) -> Client:
        return get_client() if self._given is None else self._given

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many batches may be under way. Raises ValueError for 0, NoClient."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        client = self._client()
        if n_jobs is not None and n_jobs > 0:
            return n_jobs
        return max(1, _places(client) + 1 + (-1 if n_jobs is None else n_jobs))

    def start_call(self) -> None:
        """Begin a `Parallel` call."""
        self._shared = {}

    def stop_call(self) -> None:
        """End it: what its tasks shared goes."""
        self._shared = {}

    def submit(self, func: Any, callback: Callable[[Any], Any] | None = None) -> Future:
        """Run a batch of joblib's; `callback` is called with the future when it has ended."""
        client = self._client()
        batch = copy.copy(func)
        calls = [
            (each, [self._stored(client, arg) for arg in args], self._stored_of(client, kwargs))
            for each, args, kwargs in func.items
        ]
        batch.items = []
        [future] = call(client, run_batch, [(batch, calls)], [{}], None, **self._options)
        with self._lock:
            self._under_way.add(future)

        def ended(_: Future) -> None:
            with self._lock:
                self._under_way.discard(future)
            if callback is not None:
                callback(future)

        future.add_done_callback(ended)
        return future

    def _stored_of(self, client: Client, named: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._stored(client, value) for name, value in named.items()}

    def _stored(self, client: Client, value: Any) -> Any:
        """Return a future for a large value; the same one for an equal value of the same `Parallel` call."""
        if isinstance(value, _LEFT_AS_THEY_ARE) or size_bytes(value) < SHARED_BYTES:
            return value
        future: Future = client.scatter(value, asynchronous=False)
        with self._lock:
            return self._shared.setdefault(str(future.key), future)

    def retrieve_result_callback(self, out: Future) -> Any:
        """Return what a batch gave. Raises what it raised."""
        return out._result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel what is under way: its values are not wanted any more."""
        with self._lock:
            left, self._under_way = list(self._under_way), set()
        for future in left:
            future.cancel()

    def __reduce__(self) -> tuple[Any, ...]:
        return WukongBackend, ()


def _places(client: Client) -> int:
    """Return how many functions may compute at once, as far as that is known."""
    faas = client.faas
    known = (faas.limits.slots, faas.limits.concurrency, faas.free_slots())
    return next((each for each in known if each), _PLACES)


joblib.register_parallel_backend("wukong", WukongBackend)
