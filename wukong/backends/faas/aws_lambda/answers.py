"""What Lambda's answers mean: accepted, try again, or an error that says what to do.

The codes are those of the Invoke API and of AWS's common errors. A status says little by itself: 502 may mean a network
interface that is not ready yet, or a key that somebody has deleted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from wukong.backends.http_connections import retry_after_s
from wukong.errors import BackendError, PayloadTooLarge, Throttled

if TYPE_CHECKING:
    from http.client import HTTPMessage

BACKEND = "faas: aws-lambda"

_THROTTLED = frozenset(
    {"TooManyRequestsException", "Throttling", "ThrottlingException", "ThrottledException", "RequestLimitExceeded"}
)
_PASSING = frozenset(
    {
        "ResourceConflictException",
        "CodeArtifactUserPendingException",
        "SnapStartNotReadyException",
        "RequestTimeout",
        "RequestTimeoutException",
    }
)
"""Faults that pass, although their status says that the caller is at fault."""
_TOO_LARGE = frozenset(
    {"RequestTooLargeException", "RequestEntityTooLargeException", "SerializedRequestEntityTooLargeException"}
)
_SKEWED = frozenset(
    {
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "RequestTimeTooSkewed",
        "RequestExpired",
        "RequestInTheFuture",
    }
)
_MENDABLE_5XX = frozenset(
    {
        "KMSAccessDeniedException",
        "KMSDisabledException",
        "KMSInvalidStateException",
        "KMSNotFoundException",
        "EC2AccessDeniedException",
        "InvalidRuntimeException",
        "InvalidSecurityGroupIDException",
        "InvalidSubnetIDException",
        "InvalidZipFileException",
    }
)
"""Faults that a person has to mend, although their status says that the platform is at fault."""

_DENIED = "its policy must allow {action} on this function, for the user or role whose credentials are in use"
_KMS = "the function's variables cannot be decrypted: its role needs kms:Decrypt on a key that is enabled"
_VPC = "the function's VPC settings name what is not there or not allowed; mend them and run 'wukong deploy'"
_BROKEN = "what is deployed cannot run; 'wukong deploy' puts a new package there"
_LOGIN = "renew the credentials ('aws sso login'), or give the profile to use; 'aws sts get-caller-identity' shows them"
_HINTS: Mapping[str, str] = {
    "ResourceNotFoundException": "'wukong deploy' creates it; check the options function, qualifier and region",
    "AccessDeniedException": _DENIED,
    "AccessDenied": _DENIED,
    "UnrecognizedClientException": f"AWS does not know the access key or the session: {_LOGIN}",
    "InvalidClientTokenId": f"AWS does not know the access key or the session: {_LOGIN}",
    "MissingAuthenticationTokenException": _LOGIN,
    "ExpiredTokenException": _LOGIN,
    "ExpiredToken": _LOGIN,
    "InvalidSignatureException": "the secret key is wrong, or the region is not the endpoint's, or the clock is wrong",
    "SignatureDoesNotMatch": "the secret key is wrong, or the region is not the endpoint's, or the clock is wrong",
    "IncompleteSignatureException": "the credentials are damaged, or the endpoint is not Lambda's",
    "KMSAccessDeniedException": _KMS,
    "KMSDisabledException": _KMS,
    "KMSInvalidStateException": _KMS,
    "KMSNotFoundException": _KMS,
    "EC2AccessDeniedException": _VPC,
    "InvalidSecurityGroupIDException": _VPC,
    "InvalidSubnetIDException": _VPC,
    "InvalidRuntimeException": _BROKEN,
    "InvalidZipFileException": _BROKEN,
    "RuntimeVersionDeletedException": _BROKEN,
    "CodeArtifactUserDeletedException": _BROKEN,
    "CodeArtifactUserFailedException": _BROKEN,
    "NoPublishedVersionException": "the option qualifier names a version; publish one, or leave it out",
    "RecursiveInvocationException": "executors invoke executors, so Lambda has to allow it: {allow}",
    "RequestTooLargeException": "set the option payload_bytes to the limit that is in force there",
    "RequestEntityTooLargeException": "set the option payload_bytes to the limit that is in force there",
    "ResourceConflictException": "the function is being created or updated; wait until 'wukong status' says Active",
    "TooManyRequestsException": "the limit of concurrent executions, of the account or reserved, is reached; ask AWS "
    "for a higher one, or name several functions; the option patience_s says how long to wait",
}


def allow_command(function: str) -> str:
    """Return the command that has Lambda allow functions to invoke one another in long chains."""
    return f"aws lambda put-function-recursion-config --recursive-loop Allow --function-name {function}"


@dataclass(frozen=True, slots=True)
class Target:
    """One function as errors name it: its name, version or alias (None: ``$LATEST``), region, and Lambda's URL."""

    function: str
    qualifier: str | None
    region: str
    endpoint_url: str

    def __str__(self) -> str:
        version = f" ({self.qualifier})" if self.qualifier else ""
        return f"function {self.function}{version}, region {self.region}, endpoint {self.endpoint_url}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the platform.

    Attributes:
        status: of HTTP.
        code: the name of the error; "" if there is none.
        message: what the platform says about it.
        verdict: ``accepted``; ``throttled`` (less, please) and ``again`` (a passing fault): retry later; ``skewed``:
            a signature that was refused, perhaps for its time; ``final``: trying again is no use.
        wait_s: seconds before the next attempt, at least.
        date: the header ``Date``, for the verdict ``skewed``; None: not known.
    """

    status: int
    code: str
    message: str
    verdict: Literal["accepted", "throttled", "again", "skewed", "final"]
    wait_s: float = 0.0
    date: str | None = None

    @classmethod
    def of(cls, status: int, code: str, message: str, wait_s: float = 0.0, date: str | None = None) -> Answer:
        """Return the answer with its verdict."""
        verdict: Literal["accepted", "throttled", "again", "skewed", "final"]
        if 200 <= status < 300:
            verdict = "accepted"
        elif code in _THROTTLED or status == 429:
            verdict = "throttled"
        elif code in _SKEWED:
            verdict = "skewed"
        elif code in _PASSING or status == 408 or (status >= 500 and code not in _MENDABLE_5XX):
            verdict = "again"
        else:
            verdict = "final"
        return cls(status, code, message, verdict, wait_s, date)


def read(status: int, headers: HTTPMessage, body: bytes) -> Answer:
    """Return what a whole HTTP response of the Invoke API means."""
    if 200 <= status < 300:
        return Answer(status, "", "", "accepted")
    code = headers.get("x-amzn-ErrorType", "").partition(":")[0]
    message, reason = "", None
    try:
        told = json.loads(body)
    except ValueError:  # a proxy's page, or nothing at all
        message = body[:200].decode("utf-8", "replace").strip()
    else:
        if isinstance(told, dict):
            code = code or str(told.get("__type") or told.get("code") or "").rpartition("#")[2]
            message = str(told.get("message") or told.get("Message") or "")
            reason = told.get("Reason")
    if reason:
        message = f"{message} ({reason})"
    return Answer.of(status, code, message, retry_after_s(headers.get("Retry-After")), headers.get("Date"))


def error_of(answer: Answer, target: Target | None, action: str = "lambda:InvokeFunction") -> BackendError:
    """Return the error to raise for an answer other than ``accepted``."""
    what = answer.code or (f"HTTP {answer.status}" if answer.status else "an answer that cannot be read")
    message = f"AWS Lambda refuses: {what}{f': {answer.message}' if answer.message else ''}"
    if target is not None:
        message = f"{message} [{target}]"
    allow = allow_command("NAME" if target is None else target.function)
    hint = _HINTS.get(answer.code, "").format(action=action, allow=allow)
    if answer.code in _TOO_LARGE:
        return PayloadTooLarge(message, backend=BACKEND, hint=hint or _HINTS["RequestTooLargeException"])
    if answer.verdict == "throttled":
        return Throttled(message, backend=BACKEND, hint=hint or _HINTS["TooManyRequestsException"])
    if answer.verdict == "again":
        return Throttled(message, backend=BACKEND, hint=hint or "the platform keeps failing; try again later")
    if not hint and answer.status in (301, 302, 307, 308, 404):
        hint = "the endpoint does not seem to be AWS Lambda's; check the option endpoint_url"
    return BackendError(message, backend=BACKEND, hint=hint or None)
