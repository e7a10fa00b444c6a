"""AWS Signature Version 4 for requests to one endpoint, as cheap as a burst of invocations needs it.

botocore's `SigV4Auth` derives the signing key and builds header objects anew for every request. Here whatever stays the
same for a second (the date, the credentials, the key derived from both, the headers) is made once a second; what is
left per request are two SHA-256 and one HMAC. The tests hold the signatures against botocore's own.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import quote

_ALGORITHM = "AWS4-HMAC-SHA256"


class SigningKeys(NamedTuple):
    """AWS credentials; `token` is that of a session. Never shown by `repr`."""

    access: str
    secret: str
    token: str | None = None

    def __repr__(self) -> str:
        return "Keys(***)"


class _Second(NamedTuple):
    """The parts that all requests of one second share."""

    at: int
    prefix: str
    canonical: str
    head: str
    key: bytes


UNSIGNED = "UNSIGNED-PAYLOAD"
"""What S3 takes for the digest of a body: TLS vouches for it, and hashing costs more than sending."""


class Signer:
    """Make signed requests. Safe in several threads.

    Args:
        host: with its port, unless that is the scheme's own; what the header ``Host`` says.
        region, service: whose names are part of the signature.
        keys: returns credentials; asked once a second, so whoever refreshes them may do so there.
        headers: further headers of every request.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        host: str,
        region: str,
        keys: Callable[[], SigningKeys],
        headers: dict[str, str],
        clock: Callable[[], float] = time.time,
        service: str = "lambda",
    ) -> None:
        self._host, self._region, self._keys, self._headers, self._clock = host, region, keys, headers, clock
        self._service = service
        self._offset_s = 0.0
        self._second: _Second | None = None
        self._derived: tuple[tuple[str, str], bytes] | None = None

    def request(self, path: str, query: str, body: bytes) -> bytes:
        """Return a whole POST request. `path` and `query` are percent-encoded, the query's parts in order."""
        # AWS encodes an encoded path once more before it signs it, except for S3.
        return self._head("POST", path, quote(path), query, len(body), sha256(body).hexdigest()) + body

    def head(self, method: str, path: str, size_bytes: int) -> bytes:
        """Return the head of a request of S3's, whose body of this size follows unsigned. `path` is percent-encoded."""
        return self._head(method, path, path, "", size_bytes, UNSIGNED)

    def _head(self, method: str, path: str, canonical_path: str, query: str, size_bytes: int, digest: str) -> bytes:
        now = int(self._clock() + self._offset_s)
        second = self._second
        if second is None or second.at != now:
            second = self._second = self._begin(now)
        canonical = f"{method}\n{canonical_path}\n{query}\n{second.canonical}\n{digest}"
        to_sign = second.prefix + sha256(canonical.encode()).hexdigest()
        signature = hmac.digest(second.key, to_sign.encode(), "sha256").hex()
        target = f"{path}?{query}" if query else path
        return (
            f"{method} {target} HTTP/1.1\r\n{second.head}{signature}\r\nContent-Length: {size_bytes}\r\n\r\n".encode()
        )

    def set_clock(self, server_time: float) -> float:
        """Sign by the server's clock from now on (Unix time, seconds); return how far it is ahead of this machine's."""
        self._offset_s = server_time - self._clock()
        self._second = None
        return self._offset_s

    @property
    def now(self) -> float:
        """The time that is signed, Unix time in seconds."""
        return self._clock() + self._offset_s

    def _begin(self, now: int) -> _Second:
        keys = self._keys()
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        scope = f"{stamp[:8]}/{self._region}/{self._service}/aws4_request"
        headers = {"Host": self._host, "X-Amz-Date": stamp, **self._headers}
        if keys.token:
            headers["X-Amz-Security-Token"] = keys.token
        folded = sorted((name.lower(), " ".join(value.split())) for name, value in headers.items())
        names = ";".join(name for name, _ in folded)
        credential = f"Credential={keys.access}/{scope}, SignedHeaders={names}, Signature="
        return _Second(
            now,
            f"{_ALGORITHM}\n{stamp}\n{scope}\n",
            "".join(f"{name}:{value}\n" for name, value in folded) + f"\n{names}",
            "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            + f"Authorization: {_ALGORITHM} {credential}",
            self._key(keys.secret, stamp[:8]),
        )

    def _key(self, secret: str, day: str) -> bytes:
        derived = self._derived
        if derived is None or derived[0] != (secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, self._region, self._service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            derived = self._derived = (secret, day), key
        return derived[1]
