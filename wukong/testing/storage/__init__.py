"""The suite that proves an intermediate store, for plug-in authors.

    from wukong.testing.storage import StoreTests

    class TestMyStore(StoreTests):
        def make_store(self):
            return MyStore(endpoint="...")

`make_store` opens a store; several of them may be open at once, on the same data or not. The suite closes what it
opened. What is written is read back by another route: by a second client, in another process, opened through
`Store.spec` with no more than `Store.environment`. If the store can also be read and written without the plug-in (by a
bare Redis connection), override `raw_get` and `raw_put` too. If it can be out of reach, define
`make_unreachable_store`.

A subclass defines hooks and nothing else; see `wukong.testing.suite`. A store declares what it cannot do in its
`Capabilities`, which the suite reads. Each module of this package holds a part of the contract.
"""

from __future__ import annotations

from wukong.testing.storage.crowds import CrowdTests
from wukong.testing.storage.fanins import FanInTests
from wukong.testing.storage.holds import HoldTests
from wukong.testing.storage.lifetimes import LifetimeTests
from wukong.testing.storage.opening import StoreOpeningTests
from wukong.testing.storage.refusals import RefusalTests
from wukong.testing.storage.scanning import ScanTests
from wukong.testing.storage.values import ValueTests
from wukong.testing.storage.waiting import WaitingTests
from wukong.testing.store_machine import StoreMachine

__all__ = ["StoreMachine", "StoreTests"]


class StoreTests(
    StoreOpeningTests,
    ValueTests,
    ScanTests,
    LifetimeTests,
    WaitingTests,
    FanInTests,
    HoldTests,
    RefusalTests,
    CrowdTests,
):
    """Checks a store against the contract `wukong.backends.storage.Store`. Subclass it and define `make_store`."""
