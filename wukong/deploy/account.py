"""An AWS account as the user who deploys sees it: boto3's session, the calls, and the meaning of AWS's refusals.

Every call goes through `DeployAccount.call`, so no exception of botocore's escapes. A refusal becomes a
`DeployRefused` with AWS's own code, everything else a `BackendError` or a `ConfigError` that says what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from wukong.backends.aws_calls import (
    CONFIGURATION,
    DENIED,
    DISABLED,
    STALE,
    AwsCalls,
    is_about_credentials,
    is_about_reaching,
    told,
)
from wukong.errors import BackendError, ConfigError

BACKEND = "AWS"
LOGIN = "log in ('aws sso login', 'aws configure'), or give --profile; 'aws sts get-caller-identity' shows who you are"

_UNREADABLE = "ResponseParserError"
_ABSENT = frozenset({"404", "405", "501", "NotImplemented", "UnknownOperationException", "InvalidAction", _UNREADABLE})
"""Codes of an endpoint that is not AWS's own and lacks an operation."""
_NAMES = {
    ("s3", "head_bucket"): "ListBucket",
    ("s3", "head_object"): "GetObject",
    ("s3", "list_objects_v2"): "ListBucket",
    ("s3", "delete_objects"): "DeleteObject",
    ("s3", "put_public_access_block"): "PutBucketPublicAccessBlock",
    ("s3", "put_bucket_encryption"): "PutEncryptionConfiguration",
    ("s3", "put_bucket_lifecycle_configuration"): "PutLifecycleConfiguration",
}
"""Permissions whose name differs from the operation's."""


class DeployRefused(BackendError):
    """AWS has refused a call.

    Attributes:
        code: as in AWS's documentation, for example ``"ValidationError"``; a number if AWS gives no code.
    """

    code: str = ""

    @property
    def denied(self) -> bool:
        """Whether a permission is missing."""
        return self.code in DENIED

    @property
    def unknown_operation(self) -> bool:
        """Whether the endpoint lacks the operation, as stand-ins for AWS may."""
        return self.code in _ABSENT


class DeployAccount(AwsCalls):
    """Region, identity and calls; see `wukong.backends.aws_calls.AwsCalls`.

    Calls raise `DeployRefused`, `BackendError` and `ConfigError`.
    """

    @cached_property
    def identity(self) -> Mapping[str, str]:
        """The identity of the user: ``Account`` and ``Arn``. Raises `BackendError` if nobody is logged in."""
        found: Mapping[str, str] = self.call("sts", "get_caller_identity")
        return found

    @property
    def id(self) -> str:
        """The account's number."""
        return self.identity["Account"]

    @property
    def partition(self) -> str:
        """The partition: ``aws``, or another in China and for governments."""
        return self.identity["Arn"].split(":")[1]

    def permission(self, service: str, operation: str) -> str:
        """See `AwsCalls.permission`."""
        name = _NAMES.get((service, operation))
        return super().permission(service, operation) if name is None else f"{service}:{name}"

    def without_boto3(self, error: ImportError) -> BackendError:
        """See `AwsCalls.without_boto3`."""
        return BackendError(
            f"boto3 is needed to deploy, and is not installed: {error}",
            backend=BACKEND,
            hint="pip install 'wukong-serverless[aws]'",
        )

    def without_region(self) -> ConfigError:
        """See `AwsCalls.without_region`."""
        return ConfigError(
            "no AWS region is configured",
            backend=BACKEND,
            hint="give --region (us-east-1, eu-central-1, ...), set AWS_DEFAULT_REGION, or run 'aws configure'",
        )

    def translated(self, error: Exception, action: str) -> BackendError | ConfigError:
        """See `AwsCalls.translated`."""
        if (answer := told(error)) is not None:
            return _refused(*answer, action)
        name = type(error).__name__
        if name == _UNREADABLE:
            return _refused(name, "the answer cannot be read", action)
        if name in CONFIGURATION:
            return ConfigError(str(error), backend=BACKEND, hint="see --profile and --region, and the files in ~/.aws")
        if is_about_credentials(error):
            return BackendError(f"there are no usable AWS credentials: {error}", backend=BACKEND, hint=LOGIN)
        return BackendError(
            f"{action}: {name}: {error}",
            backend=BACKEND,
            hint="check the region and the endpoint, and that this machine reaches them"
            if is_about_reaching(error)
            else None,
        )

    def __str__(self) -> str:
        return f"account {self.id}, region {self.region}"


def _refused(code: str, message: str, action: str) -> DeployRefused:
    hint = None
    if code in DENIED:
        hint = f"the user or role in use must be allowed {action}; 'wukong deploy --policy' prints all that it takes"
    elif code in STALE:
        hint = LOGIN
    elif code in DISABLED:
        hint = "this region, or this service, has to be enabled for the account first, in the AWS console"
    elif code == "OperationAborted":
        hint = "S3 is still busy with a bucket of this name, which has just been removed: try again in some minutes"
    elif code in ("Throttling", "ThrottlingException", "RequestLimitExceeded"):
        hint = "AWS is asked too often by this account; try again in a minute"
    refused = DeployRefused(f"AWS refuses {action}: {code}: {message}".rstrip(": "), backend=BACKEND, hint=hint)
    refused.code = code
    return refused
