"""Authentication: AWS Signature Version 4, on the server's side.

Every request needs a signature. If the service was given a key, it verifies the signature, body included: every user of
this machine can reach a loopback port, and a caller who can create a function runs code.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime
from urllib.parse import quote, unquote

from wukong.emulators.aws_lambda.refusal import Refusal, denied
from wukong.emulators.aws_lambda.settings import ServiceSettings
from wukong.emulators.aws_lambda.surroundings import SERVICES
from wukong.emulators.aws_lambda.wire import HttpRequest

_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=(?P<key>[^/,]+)/(?P<date>\d{8})/(?P<region>[^/,]+)/(?P<service>[^/,]+)/aws4_request,"
    r" *SignedHeaders=(?P<headers>[a-z0-9;-]+), *Signature=(?P<signature>[0-9a-f]{64})"
)
_SKEW_S = 300.0
_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key "
    "and signing method. Consult the service documentation for details."
)


class Signatures:
    """Checks requests against the one key that a service was started with, if any."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._access_key = settings.access_key
        self._secret_key = settings.secret_key
        self._region = settings.region
        self._signing_keys: dict[str, bytes] = {}

    def check(self, request: HttpRequest) -> str:
        """Return the service that a request is for. Raise `Refusal` if it is not signed, or not with the right key."""
        header = request.headers.get("authorization")
        if header is None:
            raise denied("MissingAuthenticationTokenException", "Missing Authentication Token")
        found = _HEADER.fullmatch(header)
        if found is None:
            raise denied(
                "IncompleteSignatureException", f"Authorization header is not of Signature Version 4: {header}"
            )
        service = found["service"]
        if self._secret_key is None:
            return service if service in SERVICES else "lambda"
        if found["key"] != self._access_key:
            raise denied("UnrecognizedClientException", "The security token included in the request is invalid.")
        if service not in SERVICES:
            raise _invalid("Credential should be scoped to correct service: 'lambda'.")
        if found["region"] != self._region:
            raise _invalid("Credential should be scoped to a valid region.")
        date = request.headers.get("x-amz-date", "")
        signed = found["headers"].split(";")
        if not date.startswith(found["date"]) or "host" not in signed or "x-amz-date" not in signed:
            raise _invalid(_MISMATCH)
        _check_age(date)
        scope = f"{found['date']}/{found['region']}/{service}/aws4_request"
        digest = hashlib.sha256(_canonical(request, signed).encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{date}\n{scope}\n{digest}"
        expected = hmac.digest(self._signing_key(found["date"], service), text.encode(), "sha256").hex()
        if not hmac.compare_digest(expected, found["signature"]):
            raise _invalid(_MISMATCH)
        return service

    def permits(self, request: HttpRequest) -> bool:
        """Return whether a request for the service's own pages is allowed: it needs the secret key as bearer token."""
        if self._secret_key is None:
            return True
        given = request.headers.get("authorization", "").encode()
        return hmac.compare_digest(given, f"Bearer {self._secret_key}".encode())

    def _signing_key(self, date: str, service: str) -> bytes:
        key = self._signing_keys.get(date + service)
        if key is None:
            key = f"AWS4{self._secret_key}".encode()
            for part in (date, self._region, service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._signing_keys = {kept: each for kept, each in self._signing_keys.items() if kept.startswith(date)}
            self._signing_keys[date + service] = key
        return key


def _canonical(request: HttpRequest, signed: list[str]) -> str:
    path, _, query = request.target.partition("?")
    pairs = []
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        pairs.append(f"{quote(unquote(name), safe='-_.~')}={quote(unquote(value), safe='-_.~')}")
    headers = "".join(f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in signed)
    body = hashlib.sha256(request.body).hexdigest()
    canonical_path, canonical_query = quote(path, safe="/-_.~"), "&".join(sorted(pairs))
    return f"{request.method}\n{canonical_path}\n{canonical_query}\n{headers}\n{';'.join(signed)}\n{body}"


def _check_age(date: str) -> None:
    try:
        made = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise _invalid(f"Date must be in ISO-8601 'basic format'. Got '{date}'.") from None
    now = datetime.now(UTC)
    if abs((now - made).total_seconds()) > _SKEW_S:
        raise _invalid(f"Signature expired: {date} is not within 5 min. of {now:%Y%m%dT%H%M%SZ}")


def _invalid(message: str) -> Refusal:
    return denied("InvalidSignatureException", message)
