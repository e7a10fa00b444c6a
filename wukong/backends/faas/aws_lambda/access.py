"""Who we are and where Lambda is, and what boto3's exceptions say of a function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from wukong.backends.aws_access import LOG_IN, AwsAccess
from wukong.backends.faas.aws_lambda.answers import BACKEND, Answer, Target, error_of
from wukong.errors import BackendError, ConfigError


class LambdaAccess(AwsAccess):
    """Access to Lambda."""

    backend, service = BACKEND, "lambda"

    def error(self, text: str, hint: str) -> BackendError:
        """See `AwsAccess.error`."""
        return BackendError(text, backend=BACKEND, hint=hint)

    def mapped(self) -> AbstractContextManager[None]:
        """See `AwsAccess.mapped`."""
        return mapped(None)


@contextmanager
def mapped(target: Target | None, action: str = "lambda:InvokeFunction") -> Iterator[None]:
    """Translate boto3's exceptions into our errors about the function `target`."""
    try:
        yield
    except Exception as error:
        module = type(error).__module__.partition(".")[0]
        if module not in ("botocore", "boto3"):
            raise
        raise _translated(error, target, action) from error


def _translated(error: Exception, target: Target | None, action: str) -> BackendError | ConfigError:
    response = getattr(error, "response", None)
    if isinstance(response, dict) and "Error" in response:
        told = response["Error"]
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        answer = Answer.of(status, str(told.get("Code", "")), str(told.get("Message", "")))
        return error_of(answer, target, action)
    name = type(error).__name__
    if name in ("ProfileNotFound", "NoRegionError", "ConfigParseError", "ConfigNotFound"):
        return ConfigError(f"{name}: {error}", backend=BACKEND, hint="see the options profile and region, and ~/.aws")
    if "Credential" in name or "Token" in name or "SSO" in name or "Login" in name:
        return BackendError(f"there are no usable AWS credentials: {error}", backend=BACKEND, hint=LOG_IN)
    where = f" for {target}" if target is not None else ""
    return BackendError(
        f"{name}{where}: {error}",
        backend=BACKEND,
        hint="check the endpoint and the region, and that this machine reaches them" if "Connect" in name else None,
    )
