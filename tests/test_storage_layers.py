"""The layers against the suite that proves a store: whatever is stacked on a store is still one."""

import pytest
import storage_layers_openers as openers

from wukong.backends.plugins import load_storage
from wukong.backends.storage import Store
from wukong.backends.storage.layers.faulty import Faulty
from wukong.backends.storage.layers.split import Split
from wukong.backends.storage.local import LocalStore
from wukong.testing.storage import StoreTests


@pytest.mark.long
class TestChunked(StoreTests):
    def make_store(self) -> Store:
        return openers.chunked()


@pytest.mark.long
class TestSharded(StoreTests):
    def make_store(self) -> Store:
        return openers.sharded()


@pytest.mark.long
class TestChunkedOverShards(StoreTests):
    def make_store(self) -> Store:
        return openers.chunked_over_shards()


@pytest.mark.long
class TestSplit(StoreTests):
    def make_store(self) -> Store:
        return load_storage({"name": "split", "records": "local", "values": {"name": "local"}, "from_bytes": 1_000})


@pytest.mark.long
class TestFaultyWithoutFaults(StoreTests):
    def make_store(self) -> Store:
        return load_storage({"name": "faulty", "store": "local"})


@pytest.mark.long
class TestFaultyFromFarAway(StoreTests):
    def make_store(self) -> Store:
        return Faulty(LocalStore(), latency_s=0.0003, latency_jitter_s=0.0002, bandwidth_bytes_per_s=1e9)


class TestStackedOnALimitedStore(StoreTests):
    def make_store(self) -> Store:
        return openers.stacked_on_a_limited_one()


@pytest.mark.long
class TestSplitOfALimitedStore(StoreTests):
    def make_store(self) -> Store:
        return Split(LocalStore(), openers.stacked_on_a_limited_one())
