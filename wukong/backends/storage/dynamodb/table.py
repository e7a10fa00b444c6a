"""One DynamoDB table as a store of items: values of up to 390 kB, and fan-ins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Capabilities, Outcome, Spent, Store, blob_size
from wukong.backends.storage.dynamodb.advice import of_table
from wukong.backends.storage.dynamodb.answers import BACKEND, ConditionFailed
from wukong.backends.storage.dynamodb.client import DynamoCall, DynamoClient
from wukong.backends.storage.dynamodb.incr import Arrivals
from wukong.backends.storage.dynamodb.items import expires, item_of, key_of, name_of, unbinary, value_of
from wukong.backends.storage.dynamodb.rides import getting, writing
from wukong.backends.storage.polling import polled
from wukong.errors import StoreError

__all__ = ["ITEM_BYTES", "DynamoTable"]

ITEM_BYTES = 399_360
"""The largest value in one item: 390 KiB of DynamoDB's 400, which its name counts to."""

_SINGLY, _AT_ONCE = 3, 16
_LARGE_BYTES = 16_384
_BATCH_BYTES = 1 << 20
_POLL_S = (0.005, 0.25)


class DynamoTable(Store):
    """The values and records in one table.

    Args:
        client: of the table; closed with this store.
        inside_bytes: see `Arrivals`.
    """

    capabilities = Capabilities(
        max_value_bytes=ITEM_BYTES, round_trip_s=0.005, bandwidth_bytes_per_s=50e6, takes=True, leaves=True
    )

    def __init__(self, client: DynamoClient, inside_bytes: int) -> None:
        self.client, self._inside_bytes = client, inside_bytes

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`. Reads are strongly consistent."""
        wanted = list(dict.fromkeys(keys))
        found: dict[bytes, bytes | None]
        if len(wanted) <= _SINGLY:
            told = self.client.ask([_get(key) for key in wanted])
            now_s = self.client.now_s
            found = {
                key: value_of(cast("Mapping[str, Any]", each).get("Item"), now_s)
                for key, each in zip(wanted, told, strict=True)
            }
        else:
            at_once = min(100, max(10, -(-len(wanted) // _AT_ONCE)))
            told = self.client.ask(getting(b"v", wanted, at_once))
            now_s = self.client.now_s
            by_name = {name_of(b"v", key): key for key in wanted}
            found = {
                by_name[unbinary(item["k"])]: value_of(item, now_s)
                for each in told
                for item in cast("Mapping[str, Any]", each)["Items"]
            }
        return [found.get(key) for key in keys]

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`. If it raises, some of the items are stored, some are missing."""
        for key, blob in items.items():
            if blob_size(blob) > ITEM_BYTES:
                raise StoreError(
                    f"a value of {blob_size(blob):,} bytes under {key!r} does not fit into an item of {ITEM_BYTES:,}",
                    backend=BACKEND,
                )
        until_s = expires(self.client.now_s, ttl_s)
        calls: list[DynamoCall] = []
        batch: list[dict[str, Any]] = []
        for key, blob in items.items():
            item = item_of(b"v", key, blob, until_s)
            if len(items) == 1 or blob_size(blob) > _LARGE_BYTES:
                calls.append(DynamoCall("PutItem", {"Item": item}))
            else:
                batch.append({"PutRequest": {"Item": item}})
        self.client.ask([*calls, *writing(batch)])

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`.

        Values that lie beside a record, and the leaves of a wide one, stay until their time to live is over; for ever
        if they have none. Nobody finds them any more.
        """
        wanted = dict.fromkeys(keys)
        self.client.ask(
            writing([{"DeleteRequest": {"Key": key_of(kind, key)}} for key in wanted for kind in (b"v", b"r")])
        )

    def take(self, keys: Sequence[bytes], begin: bytes, most_bytes: int) -> list[bytes | None]:
        """See `Store.take`. What a write replaces is told for nothing, unlike a read."""
        wanted = list(dict.fromkeys(keys))
        deletes = [DynamoCall("DeleteItem", {"Key": key_of(b"v", key), "ReturnValues": "ALL_OLD"}) for key in wanted]
        records = writing([{"DeleteRequest": {"Key": key_of(b"r", key)}} for key in wanted])
        told = self.client.ask([*deletes, *records])
        now_s = self.client.now_s
        taken = {
            key: value_of(each.get("Attributes"), now_s)
            for key, each in zip(wanted, told, strict=False)
            if not isinstance(each, ConditionFailed)
        }
        values = [taken[key] for key in keys]
        return [value if value and value.startswith(begin) and len(value) <= most_bytes else None for value in values]

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """See `Store.wait`. Asks after 5 ms, and at last every quarter of a second; each time is a read to pay for."""
        return polled(lambda: self.get((key,))[0], timeout_s, _POLL_S)

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """See `Store.incr`."""
        return Arrivals(self.client, ttl_s, self._inside_bytes, ITEM_BYTES).record(arrivals)

    def advice(self) -> list[str]:
        """See `Store.advice`. Says nothing of what the user may not ask."""
        return list(of_table(self.client.access, self.client.place))

    def spent(self) -> Spent:
        """See `Store.spent`."""
        return self.client.meter.spent()

    def spec(self) -> PluginSpec:
        """Raise `StoreError`: a table is opened only as a part of a `DynamoStore`."""
        raise StoreError("a table alone is opened by no spec", backend=BACKEND)

    def close(self) -> None:
        """See `Store.close`."""
        self.client.close()


def _get(key: bytes) -> DynamoCall:
    return DynamoCall(
        "GetItem", {"Key": key_of(b"v", key), "ConsistentRead": True, "ProjectionExpression": "k,v,expires"}
    )
