"""The environment variables of a function: those that Lambda sets, this service's own endpoint, and the function's."""

from __future__ import annotations

import sys
from pathlib import Path

from wukong.emulators.aws_lambda.functions import Version
from wukong.emulators.aws_lambda.settings import ServiceSettings


def variables(settings: ServiceSettings, endpoint: str, runtime: Path, version: Version) -> dict[str, str]:
    """Return the environment variables of a function, as Lambda sets them, and the function's own.

    `endpoint`: the service's own URL. `runtime`: the folder of the runtime that environments run.
    """
    return {
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
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": version.function.log_group,
        "AWS_ACCESS_KEY_ID": settings.access_key or "AKIAWUKONGEMULATOR00",
        "AWS_SECRET_ACCESS_KEY": settings.secret_key or "wukong",
        "AWS_SESSION_TOKEN": "wukong",
        "LAMBDA_TASK_ROOT": str(version.code.folder),
        "LAMBDA_RUNTIME_DIR": str(runtime),
        "_HANDLER": version.handler,
    }
