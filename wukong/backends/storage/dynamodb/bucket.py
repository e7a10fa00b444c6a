"""Values in an S3 bucket, each an object under the hash of its key: what is too large to be cheap in a table.

S3 costs by the request, not by the size: from 8 kB on writing an object is cheaper than writing items, and reading from
13 kB on. It answers later than DynamoDB. Times to live are the bucket's: its lifecycle deletes objects after a day.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from hashlib import blake2b
from typing import Literal
from urllib.parse import urlsplit
from xml.etree import ElementTree

from wukong.backends.aws_access import AwsAccess
from wukong.backends.aws_calls import DENIED, STALE
from wukong.backends.aws_signing import UNSIGNED, Signer
from wukong.backends.http_connections import EndpointConnections
from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Capabilities, Outcome, Spent, Store, blob_size
from wukong.backends.storage.dynamodb.advice import NO_BUCKET, of_bucket
from wukong.backends.storage.dynamodb.answers import BACKEND, UNKNOWN_CREDENTIALS
from wukong.backends.storage.dynamodb.client import mapped
from wukong.backends.storage.dynamodb.exchange import Exchange, HttpAnswer
from wukong.backends.storage.dynamodb.price import RequestMeter
from wukong.core.time_left import LIMITS, time_left_s
from wukong.errors import ConfigError, StoreError, StoreUnavailable

__all__ = ["BucketValues", "S3Access"]

_TRIES = 7
_PAUSE_S = (0.05, 1.0)
_SKEW_S = 5.0
_PASSING = frozenset({"InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "OperationAborted"})
_SKEWED = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_PERMISSIONS = {"GET": "s3:GetObject", "PUT": "s3:PutObject", "DELETE": "s3:DeleteObject"}
_SLOW = "S3 is asked too fast, or fails: let fewer executors run at once, or try again later"
_sleep: Callable[[float], None] = time.sleep
_unix_s: Callable[[], float] = time.time


class S3Access(AwsAccess):
    """Access to S3."""

    backend, service = BACKEND, "s3"

    def error(self, text: str, hint: str) -> StoreError:
        """See `AwsAccess.error`."""
        return StoreError(text, backend=BACKEND, hint=hint)

    def mapped(self) -> AbstractContextManager[None]:
        """See `AwsAccess.mapped`."""
        return mapped()

    def account(self) -> str:
        """Return the id of the account that is logged in."""
        client = self.client("sts")
        with self.mapped():
            return str(client.get_caller_identity()["Account"])


@dataclass(slots=True)
class _Asked:
    method: Literal["GET", "PUT", "DELETE"]
    key: bytes
    blob: Blob = b""


class BucketValues(Store):
    """The values in one bucket. Only values: it knows no fan-in and does not wait.

    Args:
        access: region, endpoint, credentials.
        bucket: returns its name; called at the first use.
        at_once, timeout_s, answer_timeout_s, connect_timeout_s: as of `DynamoClient`.
    """

    capabilities = Capabilities(round_trip_s=0.02, bandwidth_bytes_per_s=80e6)

    def __init__(
        self,
        access: S3Access,
        bucket: Callable[[], str],
        *,
        at_once: int,
        timeout_s: float,
        answer_timeout_s: float,
        connect_timeout_s: float,
    ) -> None:
        self.access, self._named = access, bucket
        self._at_once, self._times, self._connect_timeout_s = at_once, (timeout_s, answer_timeout_s), connect_timeout_s
        self._ahead_s = 0.0
        self.meter = RequestMeter("requests to S3")

    @cached_property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._named()

    @cached_property
    def place(self) -> str:
        """Where the bucket is, as errors name it."""
        return f"bucket {self.bucket}, region {self.access.region}, endpoint {self.access.endpoint_url}"

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        """See `Store.get`."""
        wanted = list(dict.fromkeys(keys))
        answers = self._all([_Asked("GET", key) for key in wanted])
        found = {
            key: None if answer.status == 404 else answer.body for key, answer in zip(wanted, answers, strict=True)
        }
        return [found[key] for key in keys]

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """See `Store.put`. `ttl_s` is the bucket's own."""
        self._all([_Asked("PUT", key, blob) for key, blob in items.items()])

    def delete(self, keys: Sequence[bytes]) -> None:
        """See `Store.delete`."""
        self._many([_Asked("DELETE", key) for key in dict.fromkeys(keys)])

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        """Raise `StoreError`: large values are waited for by their manifest."""
        raise StoreError("a bucket does not wait", backend=BACKEND)

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        """Raise `StoreError`: records are in the table."""
        raise StoreError("a bucket has no records", backend=BACKEND)

    def advice(self) -> list[str]:
        """See `Store.advice`. Says nothing of what the user may not ask."""
        return list(of_bucket(self.access, self.bucket))

    def spent(self) -> Spent:
        """See `Store.spent`."""
        return self.meter.spent()

    def spec(self) -> PluginSpec:
        """Raise `StoreError`: a bucket is opened only as a part of a `DynamoStore`."""
        raise StoreError("a bucket alone is opened by no spec", backend=BACKEND)

    def close(self) -> None:
        """See `Store.close`."""
        if "_exchange" in self.__dict__:
            self._exchange.connections.close()
        self.access.close()

    def __repr__(self) -> str:
        return type(self).__name__

    @cached_property
    def _exchange(self) -> Exchange:
        url = self._url  # a bucket that cannot be named is an error of its own
        try:
            connections = EndpointConnections(url, self.access.trusted, self._connect_timeout_s, 2 * self._at_once)
        except ValueError as error:
            raise ConfigError(str(error), backend=BACKEND, hint="check the option s3_endpoint_url") from error
        return Exchange(connections, self._at_once, *self._times, self._unreachable)

    @cached_property
    def _url(self) -> str:
        """The endpoint of the bucket: a name of its own on AWS, else a path."""
        url = self.access.endpoint_url.rstrip("/")
        parts = urlsplit(url)
        own = (parts.hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn")) and "." not in self.bucket
        return f"{parts.scheme}://{self.bucket}.{parts.netloc}" if own else f"{url}/{self.bucket}"

    @cached_property
    def _signer(self) -> Signer:
        return Signer(
            self._exchange.connections.host,
            self.access.region,
            self.access.keys,
            {"X-Amz-Content-Sha256": UNSIGNED},
            lambda: _unix_s() + self._ahead_s,
            "s3",
        )

    def _all(self, asked: Sequence[_Asked]) -> list[HttpAnswer]:
        """Move values, each on a thread and a connection of its own: one connection does not fill the link."""
        if len(asked) < 2:
            return self._many(asked)
        limits = LIMITS.end_s, LIMITS.sign_s

        def one(each: _Asked) -> HttpAnswer:
            LIMITS.end_s, LIMITS.sign_s = limits
            return self._many([each])[0]

        self._signer  # noqa: B018  # made here, once
        with ThreadPoolExecutor(min(self._at_once, len(asked)), thread_name_prefix="wukong-s3") as threads:
            return list(threads.map(one, asked))

    def _many(self, asked: Sequence[_Asked]) -> list[HttpAnswer]:
        """Ask all, and those again that are throttled or fail; return the answers in order."""
        answers: dict[int, HttpAnswer] = {}
        wanted = dict(enumerate(asked))
        for tried in range(_TRIES):
            if tried:
                pause_s = random.uniform(0.5, 1.0) * min(_PAUSE_S[1], _PAUSE_S[0] * 2.0 ** (tried - 1))
                _sleep(min(pause_s, time_left_s()))
            told = self._exchange.send([partial(self._request, each) for each in wanted.values()])
            for n, answer in zip(list(wanted), told, strict=True):
                code = _said(answer, "Code")
                if answer.status < 500:
                    self.meter.bucket(wanted[n].method)
                if answer.status < 300 or (answer.status == 404 and code != "NoSuchBucket"):
                    answers[n] = answer
                    del wanted[n]
                elif not (code in _SKEWED and tried == 0 and self._was_skewed(answer)) and not _passes(answer, code):
                    raise self._error(answer, code, wanted[n].method)
            if not wanted:
                return [answers[n] for n in range(len(asked))]
        raise self._error(answer, code, next(iter(wanted.values())).method)

    def _request(self, asked: _Asked) -> Sequence[Buffer]:
        name = blake2b(asked.key, digest_size=20).hexdigest()
        head = self._signer.head(asked.method, f"{self._exchange.connections.path}/{name}", blob_size(asked.blob))
        parts = asked.blob if isinstance(asked.blob, tuple) else (asked.blob,)
        return [head, *(memoryview(part).cast("B") for part in parts if memoryview(part).nbytes)]

    def _was_skewed(self, answer: HttpAnswer) -> bool:
        """Whether this machine's clock is wrong; from now on S3's counts."""
        try:
            ahead_s = parsedate_to_datetime(answer.date or "").timestamp() - _unix_s()
        except ValueError:
            return False
        was, self._ahead_s = self._ahead_s, ahead_s
        return abs(ahead_s - was) > _SKEW_S

    def _unreachable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(
            f"no answer from S3: {type(error).__name__}: {error} [{self.place}]",
            backend=BACKEND,
            hint="check the network and the region; in a VPC, S3 needs a gateway endpoint or a NAT gateway",
        )

    def _error(self, answer: HttpAnswer, code: str, method: str) -> StoreError:
        text, region = _said(answer, "Message"), answer.region or _said(answer, "Region")
        message = f"S3 refuses {method}: {code or f'HTTP {answer.status}'}{text and f': {text}'} [{self.place}]"
        if _passes(answer, code):
            return StoreUnavailable(message, backend=BACKEND, hint=_SLOW)
        hint = None
        if code == "NoSuchBucket":
            hint = NO_BUCKET
        elif region and region != self.access.region:
            hint = f"the bucket is in {region}: table and bucket are in the functions' region"
        elif code in STALE:
            hint = UNKNOWN_CREDENTIALS
        elif code in DENIED or answer.status == 403:
            hint = (
                f"its policy must allow {_PERMISSIONS[method]} on the bucket's objects, and s3:ListBucket on the bucket"
            )
        return StoreError(message, backend=BACKEND, hint=hint)


def _passes(answer: HttpAnswer, code: str) -> bool:
    return code in _PASSING or code in _SKEWED or answer.status >= 500 or answer.status == 429


def _said(answer: HttpAnswer, name: str) -> str:
    """Return what an error says under `name`; "" if there is none."""
    if answer.status < 300 or not answer.body.lstrip().startswith(b"<"):
        return ""
    try:
        return ElementTree.fromstring(answer.body).findtext(name) or ""
    except ElementTree.ParseError:
        return ""
