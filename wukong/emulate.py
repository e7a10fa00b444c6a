"""``wukong emulate lambda``: a Lambda service on this machine, with Wukong's function already on it.

    wukong emulate lambda          ->  http://127.0.0.1:9001, and the variables that make everything use it

`wukong.emulators.aws_lambda` says what the service does.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from wukong.command import tell
from wukong.errors import ConfigError

_TEXT = """\
Run a Lambda service on this machine: the public Invoke API in front of one process for each environment, with AWS's own
runtime client. It retries, throttles, freezes, limits and kills as AWS Lambda does, and listens on loopback only. The
function sees the packages that are installed here. Print the variables that let clients use it, and 'wukong status' and
'wukong logs' look at it. Ctrl-C ends it.

  wukong emulate lambda --memory 3538
  wukong emulate lambda --set concurrency=10 --set faults.crash_before=0.1
"""
_CODE = "from wukong_executor.handler import handler"


def add_to(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command to the command line."""
    added = command("emulate", run, _TEXT, "run a Lambda service on this machine")
    added.add_argument("--json", action="store_true", help="say that it listens, and the variables, in JSON")
    added.add_argument("what", choices=["lambda"], help="what to emulate")
    added.add_argument("--port", type=int, default=9001, help="where to listen on 127.0.0.1; 0: any free port")
    added.add_argument("--name", default="wukong", help="what the function is called (default: wukong)")
    added.add_argument("--memory", type=int, default=1_769, metavar="MB", help="the function's memory (default: 1769)")
    added.add_argument(
        "--ephemeral-storage", type=int, default=512, metavar="MB", help="the size of its /tmp (default: 512)"
    )
    added.add_argument("--timeout", type=int, default=900, metavar="S", help="its time limit (default: 900)")
    added.add_argument("--cold", action="store_true", help="each environment imports everything anew, as on AWS")
    added.add_argument(
        "--set",
        dest="given",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting of the service, as concurrency=10 or faults.crash_before=0.1 (may be repeated)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C. Raises `ConfigError` for invalid settings, `BackendError` if the port is taken."""
    if not 0 <= arguments.port < 65_536:
        raise ConfigError(f"--port {arguments.port} is no port", hint="give one below 65536, or 0 for any free one")
    try:
        from wukong.emulators.aws_lambda.configuration import RUNTIME
        from wukong.emulators.aws_lambda.package import ROLE, deployment_package
        from wukong.emulators.aws_lambda.server import run as serve
        from wukong.emulators.aws_lambda.settings import ServiceSettings
    except ImportError as error:
        raise ConfigError(f"{error.name} is not installed", hint="pip install 'wukong-serverless[emulate]'") from error
    from wukong.backends.entry import KEY_VARIABLE

    settings = ServiceSettings.of(
        {
            "port": arguments.port,
            "site_packages": True,
            "own_tmp": True,
            "start": "fresh" if arguments.cold else "forked",
            "access_key": "AKIA" + secrets.token_hex(8).upper(),
            "secret_key": secrets.token_urlsafe(30),
            **_nested(arguments.given),
        }
    )
    function = {
        "FunctionName": arguments.name,
        "Runtime": RUNTIME,
        "Role": ROLE,
        "Handler": "function.handler",
        "Code": {"ZipFile": deployment_package(_CODE)},
        "Environment": {"Variables": {KEY_VARIABLE: secrets.token_hex(32)}},
        "MemorySize": arguments.memory,
        "EphemeralStorage": {"Size": arguments.ephemeral_storage},
        "Timeout": arguments.timeout,
    }
    serve(settings, lambda url: _tell(url, settings, arguments.name, as_json=arguments.json), [function])
    return 0


def _tell(url: str, settings: Any, name: str, *, as_json: bool) -> None:
    variables = {
        **{f"AWS_ENDPOINT_URL_{service}": url for service in ("LAMBDA", "CLOUDWATCH_LOGS", "STS", "CLOUDFORMATION")},
        "AWS_DEFAULT_REGION": settings.region,
        "AWS_ACCESS_KEY_ID": settings.access_key,
        "AWS_SECRET_ACCESS_KEY": settings.secret_key,
        **_past_proxies(urlsplit(url).hostname or ""),
        "WUKONG_FAAS": "aws-lambda",
        "WUKONG_FAAS__FUNCTION": name,
    }
    if as_json:
        tell(json.dumps({"listening": url, "function": name, "pid": os.getpid(), "variables": variables}))
        return
    exports = [f"export {variable}={value}" for variable, value in variables.items()]
    tell(f"Lambda at {url}, function {name}. Ctrl-C ends it.", "", *exports)


def _past_proxies(host: str) -> dict[str, str]:
    """Return variables that exempt this host from a proxy, if one is set. The lower-case name wins if it is set."""
    from wukong.backends.environment import variable

    past = {name: variable(name) for name in ("NO_PROXY", "no_proxy")}
    hosts = {name: [host, *filter(None, map(str.strip, (value or "").split(",")))] for name, value in past.items()}
    return {name: ",".join(dict.fromkeys(hosts[name])) for name in past if past[name] or name == "NO_PROXY"}


def _nested(pairs: list[str]) -> dict[str, Any]:
    from dask.config import interpret_value

    given: dict[str, Any] = {}
    for pair in pairs:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {pair} has no value", hint="write --set key=value")
        outer, dot, inner = key.replace("-", "_").partition(".")
        if dot:
            given.setdefault(outer, {})[inner] = interpret_value(text)
        else:
            given[outer] = interpret_value(text)
    return given
