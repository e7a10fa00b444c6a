"""An AWS account as whoever deploys sees it: boto3's session, the calls, and what AWS's refusals mean.

Every call goes through `Account.call`, so that nothing of botocore's gets out: a refusal is a `Refused` with AWS's own
code, everything else a `BackendError` or a `ConfigError` that says what to do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from wukong.errors import BackendError, ConfigError

BACKEND = "AWS"
LOGIN = "log in ('aws sso login', 'aws configure'), or give --profile; 'aws sts get-caller-identity' shows who you are"

_DENIED = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthorizationError",
        "AuthorizationErrorException",
        "UnauthorizedOperation",
        "UnauthorizedException",
        "403",
    }
)
_STALE = frozenset(
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
_UNREADABLE = "ResponseParserError"
_ABSENT = frozenset({"404", "405", "501", "NotImplemented", "UnknownOperationException", "InvalidAction", _UNREADABLE})
"""What an endpoint says that is not AWS's own and does not offer an operation."""
_NAMES = {
    ("s3", "head_bucket"): "ListBucket",
    ("s3", "head_object"): "GetObject",
    ("s3", "list_objects_v2"): "ListBucket",
    ("s3", "delete_objects"): "DeleteObject",
    ("s3", "put_public_access_block"): "PutBucketPublicAccessBlock",
    ("s3", "put_bucket_encryption"): "PutEncryptionConfiguration",
    ("s3", "put_bucket_lifecycle_configuration"): "PutLifecycleConfiguration",
}
"""Permissions that are not called as the operation is."""


class Refused(BackendError):
    """AWS has refused a call.

    Attributes:
        code: as in AWS's documentation, ``"ValidationError"`` say; a number where AWS gives none.
    """

    code: str = ""

    @property
    def denied(self) -> bool:
        """Whether it was refused for want of permission."""
        return self.code in _DENIED

    @property
    def unknown_operation(self) -> bool:
        """Whether the endpoint does not know the operation, as stand-ins for AWS may not."""
        return self.code in _ABSENT


class Account:
    """Region, identity and calls. Nothing is looked up before it is needed. Safe in several threads.

    Args:
        region, profile: as in the AWS configuration; None: boto3's choice.
        endpoint_url: of every service, for stand-ins of AWS; None: AWS's own.
    """

    def __init__(self, region: str | None = None, profile: str | None = None, endpoint_url: str | None = None) -> None:
        self.profile, self.endpoint_url = profile, endpoint_url
        self._given_region = region
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}

    @cached_property
    def _session(self) -> Any:
        try:
            import boto3
        except ImportError as error:
            raise BackendError(
                f"boto3 is needed to deploy, and is not installed: {error}",
                backend=BACKEND,
                hint="pip install 'wukong-serverless[aws]'",
            ) from error
        with mapped("reading the AWS configuration"):
            return boto3.Session(profile_name=self.profile, region_name=self._given_region)

    @cached_property
    def region(self) -> str:
        """The region's name. Raises `ConfigError` where none is configured."""
        with mapped("reading the AWS configuration"):
            found = self._session.region_name
        if not found:
            raise ConfigError(
                "no AWS region is configured",
                backend=BACKEND,
                hint="give --region (us-east-1, eu-central-1, ...), set AWS_DEFAULT_REGION, or run 'aws configure'",
            )
        return str(found)

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """Who is logged in: ``Account`` and ``Arn``. Raises `BackendError` where nobody is."""
        found: Mapping[str, str] = self.call("sts", "get_caller_identity")
        return found

    @property
    def id(self) -> str:
        """The account's number."""
        return self.identity["Account"]

    @property
    def partition(self) -> str:
        """``aws``, or what it is called in China and for governments."""
        return self.identity["Arn"].split(":")[1]

    def call(self, service: str, operation: str, **arguments: Any) -> Any:
        """Make one call and return its answer. Raises `Refused`, `BackendError` and `ConfigError`."""
        client = self._client(service)
        with mapped(permission(service, operation)):
            return getattr(client, operation)(**arguments)

    def pages(self, service: str, operation: str, key: str, **arguments: Any) -> Iterator[Any]:
        """Yield the items that all pages of an answer have under `key`. Raises as `call` does."""
        client = self._client(service)
        with mapped(permission(service, operation)):
            for page in client.get_paginator(operation).paginate(**arguments):
                yield from page.get(key, ())

    def _client(self, service: str) -> Any:
        with self._lock:
            if service not in self._clients:
                region = self.region
                session = self._session
                from botocore.config import Config

                with mapped(f"opening {service}"):
                    self._clients[service] = session.client(
                        service,
                        region_name=region,
                        endpoint_url=self.endpoint_url,
                        config=Config(
                            connect_timeout=5, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 4}
                        ),
                    )
            return self._clients[service]

    def __str__(self) -> str:
        return f"account {self.id}, region {self.region}"


def permission(service: str, operation: str) -> str:
    """Return the permission that a call of boto3's takes, ``"s3:ListBucket"`` say."""
    name = _NAMES.get((service, operation)) or "".join(part.capitalize() for part in operation.split("_"))
    return f"{service}:{name}"


@contextmanager
def mapped(action: str) -> Iterator[None]:
    """Raise what botocore raises as errors of ours. `action`: the permission it takes, or what was being done."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("botocore", "boto3"):
            raise
        raise _translated(error, action) from error


def _translated(error: Exception, action: str) -> BackendError | ConfigError:
    response = getattr(error, "response", None)
    if isinstance(response, dict) and "Error" in response:
        return _refused(str(response["Error"].get("Code", "")), str(response["Error"].get("Message", "")), action)
    name = type(error).__name__
    if name == _UNREADABLE:
        return _refused(name, "the answer cannot be read", action)
    if name in ("ProfileNotFound", "NoRegionError", "ConfigParseError", "ConfigNotFound", "InvalidRegionError"):
        return ConfigError(str(error), backend=BACKEND, hint="see --profile and --region, and the files in ~/.aws")
    if any(word in name for word in ("Credential", "Token", "SSO", "Login")):
        return BackendError(f"there are no usable AWS credentials: {error}", backend=BACKEND, hint=LOGIN)
    reachable = "Connect" in name or "Endpoint" in name or "Timeout" in name or "SSL" in name or "Proxy" in name
    return BackendError(
        f"{action}: {name}: {error}",
        backend=BACKEND,
        hint="check the region and the endpoint, and that this machine reaches them" if reachable else None,
    )


def _refused(code: str, message: str, action: str) -> Refused:
    hint = None
    if message.lstrip().startswith("<"):  # a web page, of whatever stands in for AWS
        message = ""
    if code in _DENIED:
        hint = f"the user or role in use must be allowed {action}; 'wukong deploy --policy' prints all that it takes"
    elif code in _STALE:
        hint = LOGIN
    elif code in ("OptInRequired", "SubscriptionRequiredException"):
        hint = "this region, or this service, has to be enabled for the account first, in the AWS console"
    elif code == "OperationAborted":
        hint = "S3 is still busy with a bucket of this name, which has just been removed: try again in some minutes"
    elif code in ("Throttling", "ThrottlingException", "RequestLimitExceeded"):
        hint = "AWS is asked too often by this account; try again in a minute"
    refused = Refused(f"AWS refuses {action}: {code}: {message}".rstrip(": "), backend=BACKEND, hint=hint)
    refused.code = code
    return refused
