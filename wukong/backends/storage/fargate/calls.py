"""Calls of AWS for the store, through boto3, and the meaning of AWS's refusals.

No exception of botocore's escapes. A refusal becomes a `FargateRefused` with AWS's own code, a fault that may pass a
`StoreUnavailable`, all else a `StoreError` or a `ConfigError`; each says what to do.
"""

from __future__ import annotations

from wukong.backends import aws_calls
from wukong.backends.aws_calls import (
    CONFIGURATION,
    DENIED,
    DISABLED,
    STALE,
    is_about_credentials,
    is_about_reaching,
    told,
)
from wukong.backends.storage.fargate.options import BACKEND
from wukong.errors import ConfigError, StoreError, StoreUnavailable

__all__ = ["FargateCalls", "FargateRefused"]

_LOGIN = "log in ('aws sso login', 'aws configure'), or give the option profile"
_BUSY = frozenset(
    {
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
    }
)
_FAILING = frozenset(
    {"InternalError", "InternalFailure", "InternalServiceError", "ServerException", "ServiceUnavailable", "500", "503"}
)
_LIMITS = ("LimitExceeded", "QuotaExceeded", "LimitExceededException")


class FargateRefused(StoreError):
    """AWS has refused a call.

    Attributes:
        code: as in AWS's documentation, for example ``"ClusterNotFoundException"``.
    """

    code: str = ""

    @property
    def denied(self) -> bool:
        """Whether a permission is missing."""
        return self.code in DENIED

    @property
    def missing(self) -> bool:
        """Whether the requested thing does not exist."""
        return "NotFound" in self.code or self.code in ("NoSuchEntity", "MissingException")


class FargateCalls(aws_calls.AwsCalls):
    """Calls for the store; they raise `FargateRefused`, `StoreUnavailable`, `StoreError`, `ConfigError`."""

    read_timeout_s = 30.0
    attempts = 6

    def without_boto3(self, error: ImportError) -> StoreError:
        """See `wukong.backends.aws_calls.AwsCalls.without_boto3`."""
        return StoreError(
            f"boto3 is needed to start Redis on Fargate, and is not installed: {error}",
            backend=BACKEND,
            hint="pip install 'wukong-serverless[fargate]'",
        )

    def without_region(self) -> ConfigError:
        """See `wukong.backends.aws_calls.AwsCalls.without_region`."""
        return ConfigError(
            "no AWS region is configured",
            backend=BACKEND,
            hint="give the option region, set AWS_DEFAULT_REGION, or run 'aws configure'",
        )

    def translated(self, error: Exception, action: str) -> StoreError | ConfigError:
        """See `wukong.backends.aws_calls.AwsCalls.translated`."""
        if (answer := told(error)) is not None:
            return _refused(*answer, action)
        name = type(error).__name__
        if name in CONFIGURATION:
            return ConfigError(str(error), backend=BACKEND, hint="see the options profile and region, and ~/.aws")
        if is_about_credentials(error):
            return StoreError(f"there are no usable AWS credentials: {error}", backend=BACKEND, hint=_LOGIN)
        if is_about_reaching(error):
            return StoreUnavailable(
                f"{action}: {name}: {error}",
                backend=BACKEND,
                hint="check the region and the endpoint, and that this machine reaches them",
            )
        return StoreError(f"{action}: {name}: {error}", backend=BACKEND)


def _refused(code: str, message: str, action: str) -> StoreError:
    what = f"AWS refuses {action}: {code}: {message}".rstrip(": ")
    if code in _BUSY:
        return StoreUnavailable(what, backend=BACKEND, hint="AWS is asked too often by this account; wait a minute")
    if code in _FAILING:
        return StoreUnavailable(what, backend=BACKEND, hint="AWS has trouble of its own; try again in a minute")
    hint = None
    if code in DENIED:
        hint = f"the user or role in use must be allowed {action}; docs/fargate.md lists all that the store needs"
    elif code in STALE:
        hint = _LOGIN
    elif code in DISABLED:
        hint = "this region, or this service, has to be enabled for the account first, in the AWS console"
    elif any(word in code for word in _LIMITS) or "the limit on" in message:
        hint = "the account has no more of these: remove some, or ask AWS for a higher quota (Service Quotas)"
    refused = FargateRefused(what, backend=BACKEND, hint=hint)
    refused.code = code
    return refused
