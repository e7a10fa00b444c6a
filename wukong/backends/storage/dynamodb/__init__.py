"""The store `dynamodb`: one DynamoDB table, and nothing that runs or costs while nobody uses it.

    DynamoStore = Chunked(DynamoTable)                      large values in items
    DynamoStore = Chunked(DynamoTable, BucketValues)        large values in S3

A function reaches it without a VPC, by its role: there is no server and no password. Every key is an item of its own,
so keys spread over the table's partitions. Times to live are an attribute of items: what is over is missing at once,
and DynamoDB deletes it some hours later, for nothing. To delete an item costs as much as to write it, so chunks of
large values are left to that.

There is no transaction and no lock: what is atomic is one write of one item, see `record`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Store
from wukong.backends.storage.dynamodb.answers import BACKEND
from wukong.backends.storage.dynamodb.bucket import BucketValues, S3Access
from wukong.backends.storage.dynamodb.client import DynamoAccess, DynamoClient
from wukong.backends.storage.dynamodb.table import ITEM_BYTES, DynamoTable
from wukong.backends.storage.layers.chunked import Chunked
from wukong.backends.storage.layers.layer import Layer
from wukong.backends.storage.silence import ANSWER_S
from wukong.errors import ConfigError

__all__ = ["DynamoStore"]

_WHOLE_BYTES = 65_536
"""A larger value is cut into chunks, which take a round trip more but are deleted for nothing."""

_S3_WHOLE_BYTES, _S3_CHUNK_BYTES = 32_768, 8 << 20
"""With a bucket: a larger value goes to S3, in objects of up to 8 MiB. From 16 kB on that is cheaper, but later."""

_TABLE = re.compile(r"[A-Za-z0-9_.-]{3,255}")


class _Expiring(Layer):
    """Chunks, which nobody finds without their manifest: they are left to their time to live."""

    def delete(self, keys: Sequence[bytes]) -> None:
        """Do nothing."""

    def spent(self) -> None:
        """Return None: the table itself tells it."""

    def advice(self) -> Sequence[str]:
        """Return nothing: the table itself tells it."""
        return ()


class DynamoStore(Layer):
    """The store `dynamodb`.

    Args:
        table: its name, or ``dynamodb://name`` as `url`.
        values: ``"s3"``: large values go to a bucket; None: into items of the table.
        bucket: its name; None: ``TABLE-values-ACCOUNT-REGION``, as `wukong deploy` calls it.
        region: None: boto3's.
        profile: of the AWS configuration files, for this machine; functions have a role of their own.
        endpoint_url, s3_endpoint_url: of DynamoDB and of S3; None: AWS's own.
        inside_bytes: values ride in a fan-in's record if all of them together are no larger than this.
        at_once: calls of one operation that are under way at the same time, at most.
        connect_timeout_s: how long connecting may take.
        timeout_s: how long DynamoDB may be silent while a large value moves.
        answer_timeout_s: how long it may take to answer a small operation.

    Raises `ConfigError` for invalid options.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        table: str = "wukong",
        values: Literal["s3"] | None = None,
        bucket: str | None = None,
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
        s3_endpoint_url: str | None = None,
        inside_bytes: int = 32_768,
        at_once: int = 16,
        connect_timeout_s: float = 5.0,
        timeout_s: float = 10.0,
        answer_timeout_s: float = ANSWER_S,
    ) -> None:
        if url is not None:
            table = _table_of(url)
        if not _TABLE.fullmatch(table):
            raise _wrong(f"{table!r} is no name of a table", "3 to 255 letters, digits, '_', '-' and '.'")
        for name, value, least in (
            ("inside_bytes", inside_bytes, 0),
            ("at_once", at_once, 1),
            ("connect_timeout_s", connect_timeout_s, 0.001),
            ("timeout_s", timeout_s, 0.001),
            ("answer_timeout_s", answer_timeout_s, 0.001),
        ):
            if not value >= least:
                raise _wrong(f"{name} is {value!r}; it is at least {least}")
        if inside_bytes > _MOST_INSIDE_BYTES:
            raise _wrong(f"inside_bytes is {inside_bytes:,}; a record has room for {_MOST_INSIDE_BYTES:,}")
        if values is None and (bucket or s3_endpoint_url):
            raise _wrong("a bucket is for large values in S3, which is not on", 'values: "s3"')
        self._access = DynamoAccess(region, profile, endpoint_url)
        self._options: dict[str, Any] = {
            "table": table,
            "inside_bytes": inside_bytes,
            "at_once": at_once,
            "connect_timeout_s": connect_timeout_s,
            "timeout_s": timeout_s,
            "answer_timeout_s": answer_timeout_s,
        }
        client = DynamoClient(
            self._access,
            table,
            at_once=at_once,
            timeout_s=timeout_s,
            answer_timeout_s=answer_timeout_s,
            connect_timeout_s=connect_timeout_s,
        )
        items = DynamoTable(client, inside_bytes)
        self._bucket: BucketValues | None = None
        large: Store = _Expiring(items)
        sizes = ITEM_BYTES, _WHOLE_BYTES
        if values is not None:
            access = S3Access(region, profile, s3_endpoint_url)
            large = self._bucket = BucketValues(
                access,
                lambda: bucket or f"{table}-values-{access.account()}-{access.region}",
                at_once=at_once,
                timeout_s=timeout_s,
                answer_timeout_s=answer_timeout_s,
                connect_timeout_s=connect_timeout_s,
            )
            sizes = _S3_CHUNK_BYTES, _S3_WHOLE_BYTES
        super().__init__(Chunked(items, large, chunk_bytes=sizes[0], from_bytes=sizes[1], look_first=False))

    def spec(self) -> PluginSpec:
        """See `Store.spec`. Says where DynamoDB and S3 are, and no credentials."""
        where = {"region": self._access.region, "endpoint_url": self._access.endpoint_url}
        if self._bucket is not None:
            s3 = {"values": "s3", "bucket": self._bucket.bucket, "s3_endpoint_url": self._bucket.access.endpoint_url}
            where |= s3
        return PluginSpec(f"{__name__}:{type(self).__name__}", {**self._options, **where})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._options['table']})"


_MOST_INSIDE_BYTES = 262_144
"""So the record's own set of members, and the notes of those who hold, have room in the item besides."""


def _table_of(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if scheme != "dynamodb" or not separator or any(character in rest for character in "/?#@:"):
        raise _wrong(f"{url!r} is not the URL of a table", "dynamodb://NAME; further options go into a mapping")
    return rest


def _wrong(what: str, hint: str | None = None) -> ConfigError:
    return ConfigError(what, backend=BACKEND, hint=hint)
