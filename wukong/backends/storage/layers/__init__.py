"""Layers: stores around stores, written once for all of them.

    stacked(store, patience_s=30.0)   ->   Patient( Metered( Chunked( Checked( store ) ) ) )

| layer | what it adds |
|---|---|
| `checked.Checked` | errors that name the plug-in if an answer breaks the contract |
| `chunked.Chunked` | values of any size, in a store that has a largest value |
| `sharded.Sharded` | many stores as one, by rendezvous hashing |
| `split.Split` | records in one store, large values in another; the plug-in ``split`` |
| `metered.Metered` | counts of calls, keys, bytes, time and errors |
| `patient.Patient` | operations that are repeated while the store does not answer |
| `faulty.Faulty` | faults on demand, from a seed; the plug-in ``faulty`` |

A layer is a `Store` and holds the contract. What is inside it is its attribute `inner`.
"""

from __future__ import annotations

from wukong.backends.storage import Store
from wukong.backends.storage.layers.checked import Checked
from wukong.backends.storage.layers.chunked import Chunked
from wukong.backends.storage.layers.layer import Layer, within
from wukong.backends.storage.layers.metered import Metered, Usage, VerbUsage
from wukong.backends.storage.layers.patient import Patient
from wukong.backends.storage.layers.sharded import Sharded

__all__ = ["Checked", "Chunked", "Layer", "Metered", "Patient", "Sharded", "Usage", "VerbUsage", "stacked", "within"]


def stacked(store: Store, *, patience_s: float, aloud: bool = False) -> Store:
    """Return `store` with the layers that the client, and each function, puts around the one it uses.

    From the inside out:

    1. `Checked`, so that all above may rely on what the contract says.
    2. `Chunked`, only if the store has a largest value, because that limit is the store's own.
    3. `Metered`, which counts what was asked of the store, and each attempt of it, but not the pauses in between.
    4. `Patient`, so that what is repeated is a whole operation, which is idempotent, and not a piece of one.

    `spec` and `environment` are those of `store`: whoever opens it elsewhere stacks it again there. Closing closes it.

    Args:
        store: as a plug-in made it.
        patience_s: how long the store may be away, seconds, see `Patient`; besides what it needs to replace a server.
        aloud: warn when it is away.
    """
    limit_bytes = store.capabilities.max_value_bytes
    store = Checked(store)
    if limit_bytes is not None:
        store = Chunked(store, chunk_bytes=limit_bytes)
    return Patient(Metered(store), patience_s + store.capabilities.recovery_s, aloud=aloud)
