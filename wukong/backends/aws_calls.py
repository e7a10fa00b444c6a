"""Calls of AWS through boto3: one session, a client for each service, pages; and what the error codes of AWS mean.

Each subclass decides which of our errors stands for an error of botocore's.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from wukong.errors import ConfigError, WukongError

__all__ = [
    "CONFIGURATION",
    "DENIED",
    "DISABLED",
    "STALE",
    "AwsCalls",
    "endpoint",
    "is_about_credentials",
    "is_about_reaching",
    "told",
]

DENIED = frozenset(
    {
        "403",
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "AuthorizationErrorException",
        "UnauthorizedException",
        "UnauthorizedOperation",
    }
)
"""Codes: the caller lacks a permission."""
STALE = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
"""Codes: the credentials are invalid or have expired."""
DISABLED = frozenset({"OptInRequired", "SubscriptionRequiredException"})
"""Codes: the region or the service is not enabled for the account."""
CONFIGURATION = frozenset(
    {"ConfigNotFound", "ConfigParseError", "InvalidRegionError", "NoRegionError", "ProfileNotFound"}
)
"""Classes of botocore's: the AWS configuration is at fault."""


class AwsCalls(ABC):
    """Calls in one region. Nothing is looked up before it is needed. Safe in several threads.

    Args:
        region, profile: as in the AWS configuration; None: boto3's choice.
        endpoint_url: of every service, for stand-ins of AWS; None: AWS's own.
    """

    read_timeout_s: float = 60.0
    attempts: int = 4

    def __init__(self, region: str | None = None, profile: str | None = None, endpoint_url: str | None = None) -> None:
        self._given = region, profile, endpoint_url
        self.profile, self.endpoint_url = profile, endpoint_url
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}

    @abstractmethod
    def translated(self, error: Exception, action: str) -> WukongError:
        """Return our error for one of botocore's. `action`: the permission that the call needs, or what it does."""

    @abstractmethod
    def without_boto3(self, error: ImportError) -> WukongError:
        """Return the error for a machine on which boto3 is not installed."""

    @abstractmethod
    def without_region(self) -> WukongError:
        """Return the error for a configuration that names no region."""

    @cached_property
    def _session(self) -> Any:
        try:
            import boto3
        except ImportError as error:
            raise self.without_boto3(error) from error
        with self.mapped("reading the AWS configuration"):
            return boto3.Session(profile_name=self.profile, region_name=self._given[0])

    @cached_property
    def region(self) -> str:
        """The region's name. Raises `ConfigError` if none is configured."""
        with self.mapped("reading the AWS configuration"):
            found = self._session.region_name
        if not found:
            raise self.without_region()
        return str(found)

    def call(self, service: str, operation: str, **arguments: Any) -> Any:
        """Make one call and return its answer. Raises what `translated` returns."""
        client = self._client(service)
        with self.mapped(self.permission(service, operation)):
            return getattr(client, operation)(**arguments)

    def pages(self, service: str, operation: str, key: str, **arguments: Any) -> Iterator[Any]:
        """Yield the items that all pages of an answer have under `key`. Raises as `call` does."""
        client = self._client(service)
        with self.mapped(self.permission(service, operation)):
            for page in client.get_paginator(operation).paginate(**arguments):
                yield from page.get(key, ())

    def permission(self, service: str, operation: str) -> str:
        """Return the permission that a call of boto3's needs, for example ``"ecs:RunTask"``."""
        return f"{service}:{''.join(part.capitalize() for part in operation.split('_'))}"

    @contextmanager
    def mapped(self, action: str) -> Iterator[None]:
        """Translate botocore's exceptions into ours."""
        try:
            yield
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("botocore", "boto3"):
                raise
            raise self.translated(error, action) from error

    def close(self) -> None:
        """Close all connections. A later call opens new ones."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def _client(self, service: str) -> Any:
        with self._lock:
            if service not in self._clients:
                region = self.region
                session = self._session
                from botocore.config import Config

                with self.mapped(f"opening {service}"), endpoint("AWS") as check:
                    client = session.client(
                        service,
                        region_name=region,
                        endpoint_url=self.endpoint_url,
                        config=Config(
                            connect_timeout=5,
                            read_timeout=self.read_timeout_s,
                            retries={"mode": "standard", "total_max_attempts": self.attempts},
                        ),
                    )
                    check(str(client.meta.endpoint_url))
                    self._clients[service] = client
            return self._clients[service]


@contextmanager
def endpoint(backend: str) -> Iterator[Callable[[str], None]]:
    """Make a client of boto3's in this context. Yields a function that checks its endpoint.

    Raises `ConfigError` for a bad endpoint.
    """

    def check(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError(f"Invalid endpoint: {url}")

    try:
        yield check
    except ValueError as error:  # botocore's own for some of them
        raise ConfigError(
            f"the configured endpoint of AWS is none: {error}",
            backend=backend,
            hint="write http://host:port or https://host: the option endpoint_url (--endpoint-url), or the variables "
            "AWS_ENDPOINT_URL and AWS_ENDPOINT_URL_<SERVICE>",
        ) from error


def told(error: Exception) -> tuple[str, str] | None:
    """Return the code and the message of an answer of AWS's; None if there was no answer."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict) or "Error" not in response:
        return None
    code, message = str(response["Error"].get("Code", "")), str(response["Error"].get("Message", ""))
    return code, "" if message.lstrip().startswith("<") else message  # a stand-in's web page


def is_about_credentials(error: Exception) -> bool:
    """Whether botocore has found no credentials, or none that it can use."""
    return any(word in type(error).__name__ for word in ("Credential", "Token", "SSO", "Login"))


def is_about_reaching(error: Exception) -> bool:
    """Whether botocore has not reached AWS, or got no answer."""
    words = ("Connect", "Endpoint", "Timeout", "SSL", "Proxy", "HTTPClient")
    return any(word in type(error).__name__ for word in words)
