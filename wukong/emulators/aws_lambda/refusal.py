"""Errors as answers: class, status and wording are those of AWS Lambda."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class Refusal(Exception):
    """An error as the answer to a request.

    Attributes:
        status: HTTP's.
        kind: the exception's name in the API's model, for the header ``x-amzn-ErrorType``.
        body: the answer, as JSON.
        headers: further header lines, each with its line end.
    """

    def __init__(self, status: int, kind: str, body: Mapping[str, str], headers: str = "") -> None:
        super().__init__(body.get("message") or body.get("Message") or kind)
        self.status = status
        self.kind = kind
        self.body = body
        self.headers = headers


def denied(kind: str, message: str) -> Refusal:
    """The caller lacks permission."""
    return Refusal(403, kind, {"message": message})


def unknown_operation() -> Refusal:
    """There is no such operation, or this service does not have it."""
    return Refusal(404, "UnknownOperationException", {"Message": "This service has no such operation", "Type": "User"})


def invalid(message: str) -> Refusal:
    """A parameter makes no sense."""
    return Refusal(400, "InvalidParameterValueException", {"Type": "User", "message": message})


def not_a_name(value: str, what: str, pattern: str) -> Refusal:
    """A name does not have the form of a name."""
    message = (
        f"1 validation error detected: Value '{value}' at '{what}' failed to satisfy constraint: "
        f"Member must satisfy regular expression pattern: {pattern}"
    )
    return Refusal(400, "ValidationException", {"message": message})


def not_in(value: str, what: str, valid: Sequence[str]) -> Refusal:
    """A value is not one of the valid words."""
    message = (
        f"1 validation error detected: Value '{value}' at '{what}' failed to satisfy constraint: "
        f"Member must satisfy enum value set: [{', '.join(valid)}]"
    )
    return Refusal(400, "ValidationException", {"message": message})


def no_function(arn: str) -> Refusal:
    """There is no such function, version or alias."""
    return Refusal(404, "ResourceNotFoundException", {"Type": "User", "Message": f"Function not found: {arn}"})


def not_found(message: str) -> Refusal:
    """Something else does not exist."""
    return Refusal(404, "ResourceNotFoundException", {"Type": "User", "Message": message})


def exists(message: str) -> Refusal:
    """Something exists already, or conflicts."""
    return Refusal(409, "ResourceConflictException", {"Type": "User", "message": message})


def not_ready(state: str) -> Refusal:
    """A version has no snapshot yet, or cannot have one."""
    if state == "Pending":
        message = (
            "Lambda is initializing your function. It will be ready to invoke once your function state becomes Active"
        )
        return Refusal(409, "SnapStartNotReadyException", {"Type": "User", "Message": message})
    return exists(
        f"The operation cannot be performed at this time. The function is currently in the following state: {state}"
    )


def not_json(detail: str) -> Refusal:
    """An event is not JSON."""
    message = f"Could not parse request body into json: Could not parse payload into json: {detail}"
    return Refusal(400, "InvalidRequestContentException", {"Type": "User", "message": message})


def payload_too_large(size_bytes: int, invocation_type: str, limit_bytes: int) -> Refusal:
    """An event is over the limit."""
    message = (
        f"{size_bytes} byte payload is too large for the {invocation_type} invocation type (limit {limit_bytes} bytes)"
    )
    return Refusal(413, "RequestTooLargeException", {"Type": "User", "message": message})


def request_too_large(operation: str, limit_bytes: int) -> Refusal:
    """A request other than an event is over the limit."""
    message = f"Request must be smaller than {limit_bytes} bytes for the {operation} operation"
    return Refusal(413, "RequestEntityTooLargeException", {"message": message})


ACCOUNT_LIMIT = "ConcurrentInvocationLimitExceeded"
FUNCTION_LIMIT = "ReservedFunctionConcurrentInvocationLimitExceeded"
CALLER_LIMIT = "CallerRateLimitExceeded"


def throttled(reason: str, retry_after_s: int = 1) -> Refusal:
    """There is no room. `reason`: one of the API's ``ThrottleReason``."""
    return Refusal(
        429,
        "TooManyRequestsException",
        {"Reason": reason, "Type": "User", "message": "Rate Exceeded."},
        f"Retry-After: {retry_after_s}\r\n",
    )
