"""The environment variables of a function: those that Lambda sets, this service's own endpoint, and the function's."""

from __future__ import annotations

import sys
from pathlib import Path

from wukong.emulators.aws_lambda.functions import Version
from wukong.emulators.aws_lambda.settings import ServiceSettings

TOKEN = "wukong"
TOKEN_VARIABLE, CREDENTIALS_VARIABLE = "AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_CONTAINER_CREDENTIALS_FULL_URI"


def variables(settings: ServiceSettings, endpoint: str, runtime: Path, version: Version) -> dict[str, str]:
    """Return the environment variables of a function, as Lambda sets them, and the function's own.

    `endpoint`: the service's own URL. `runtime`: the folder of the runtime that environments run.
    """
    told = {
        "LANG": "en_US.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "TZ": ":UTC",
        "PYTHONDONTWRITEBYTECODE": "1",  # the package is read-only on Lambda
        "AWS_ENDPOINT_URL_LAMBDA": endpoint,
        **version.variables,
        "AWS_DEFAULT_REGION": settings.region,
        "AWS_REGION": settings.region,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
        "AWS_LAMBDA_FUNCTION_NAME": version.function.name,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(version.memory_mb),
        "AWS_LAMBDA_FUNCTION_VERSION": version.number,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start" if version.snapped else "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": version.function.log_group,
        "LAMBDA_TASK_ROOT": str(version.code.folder),
        "LAMBDA_RUNTIME_DIR": str(runtime),
        "_HANDLER": version.handler,
    }
    if version.snapped:  # it would keep for ever what is in variables: whoever is restored asks for new ones
        return {**told, TOKEN_VARIABLE: TOKEN}
    return told | {
        "AWS_ACCESS_KEY_ID": access_key(settings),
        "AWS_SECRET_ACCESS_KEY": secret_key(settings),
        "AWS_SESSION_TOKEN": TOKEN,
    }


def access_key(settings: ServiceSettings) -> str:
    """Return the access key of functions."""
    return settings.access_key or "AKIAWUKONGEMULATOR00"


def secret_key(settings: ServiceSettings) -> str:
    """Return the secret key of functions."""
    return settings.secret_key or TOKEN
