"""The options of the commands: their syntax, and how to read them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wukong.errors import ConfigError

_NONE = "none"
_OPTIONS = (
    *(
        "functions",
        "sizes",
        "memory_mb",
        "ephemeral_storage_mb",
        "timeout_s",
        "architecture",
        "python",
        "reserved_concurrency",
    ),
    *(
        "snapstart",
        "provisioned_concurrency",
        "requirements",
        "image",
        "subnets",
        "security_groups",
        "log_retention_days",
        "tags",
        "key_in",
        "clients",
    ),
    *("proxy", "proxy_image", "proxy_cpu", "proxy_memory_mb", "proxy_workers"),
)


def add_place(to: argparse.ArgumentParser) -> None:
    """Add the options for a deployment's place and name."""
    to.add_argument("--name", help="of the deployment: of its stack and its first function (wukong)")
    to.add_argument("--region", help="AWS region; as configured unless given")
    to.add_argument("--profile", help="of the AWS configuration; as configured unless given")
    to.add_argument("--endpoint-url", metavar="URL", help="of a stand-in for all of AWS's services")


def add_patience(to: argparse.ArgumentParser) -> None:
    """Add the option for how long to wait."""
    to.add_argument("--time-limit", default="45m", metavar="TIME", help="how long to wait for CloudFormation (45m)")


def add_options(to: argparse.ArgumentParser) -> None:
    """Add the fields of `wukong.deploy.options.DeployOptions`. The namespace lacks what is not given: it stays."""
    group = to.add_argument_group("what is deployed (in brackets: the first time)")

    def add(option: str, text: str, **more: Any) -> None:
        group.add_argument(option, default=argparse.SUPPRESS, help=text, **more)

    add("--functions", "how many functions share the invocations (1)", type=int, metavar="N")
    add("--memory", "of each; 1769 MB come with one whole CPU (1769)", type=int, metavar="MB", dest="memory_mb")
    add(
        "--sizes",
        "--memory, and of further functions, on which tasks are run again that took too much; or none (none)",
        metavar="MB,MB,...",
    )
    add(
        "--ephemeral-storage",
        "of each environment's /tmp; up to 512 MB cost nothing (512)",
        type=int,
        metavar="MB",
        dest="ephemeral_storage_mb",
    )
    add("--timeout", "of one invocation; jobs may take longer (900)", type=int, metavar="S", dest="timeout_s")
    add("--architecture", "arm64, which costs a fifth less, or x86_64 (arm64)", metavar="NAME")
    add("--python", "the functions' Python, which clients must have as well (the one that runs this)", metavar="X.Y")
    add(
        "--reserved-concurrency",
        "reserve this many executions for each function, and allow it no more; or none (none)",
        type=_or_none(int, "whole number"),
        metavar="N",
    )
    add(
        "--snapstart",
        "restore new environments from a snapshot, rather than initialise each; Python 3.12 and later; it costs while "
        "it is kept (no)",
        action=argparse.BooleanOptionalAction,
    )
    add(
        "--provisioned-concurrency",
        "keep this many environments of each function initialised, which costs all the time; or none (none)",
        type=_or_none(int, "whole number"),
        metavar="N",
    )
    add("--requirements", "packages that tasks need, as for pip; or none", type=_or_none(Path, "path"), metavar="FILE")
    add("--image", "of an image in ECR, instead of a package", metavar="URI")
    add("--subnets", "have the functions in a VPC, in these; or none (none)", nargs="+", metavar="ID")
    add("--security-groups", "of functions in a VPC; or none: one of their own (none)", nargs="+", metavar="ID")
    add(
        "--clients",
        "blocks of addresses that reach the Fargate store and the proxy besides the functions; or none (none)",
        nargs="+",
        metavar="CIDR",
    )
    add("--log-retention-days", "how long logs are kept (14)", type=int, metavar="N")
    add("--tags", "of everything that is deployed; or none (none)", nargs="+", metavar="KEY=VALUE")
    add("--key-in", "where the deployment's key is: environment or secrets-manager (environment)", metavar="WHERE")
    add(
        "--proxy", "run the fan-out proxy on Fargate, in the functions' VPC (no)", action=argparse.BooleanOptionalAction
    )
    add("--proxy-image", "of an image in ECR with Wukong in it; or none: that of the functions (none)", metavar="URI")
    add("--proxy-cpu", "1024 are one virtual CPU (1024)", type=int, metavar="UNITS")
    add("--proxy-memory", "of the sizes that Fargate has (2048)", type=int, metavar="MB", dest="proxy_memory_mb")
    add(
        "--proxy-workers",
        "the proxy's processes; or none: one for each whole CPU (none)",
        type=_or_none(int, "whole number"),
        metavar="N",
    )


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the given options, for `Options`. Raises `ConfigError`."""
    found = {name: value for name, value in vars(arguments).items() if name in _OPTIONS}
    if "sizes" in found:
        found |= _sizes(found.pop("sizes"), "memory_mb" in found)
    if found.get("proxy_image") == _NONE:
        found["proxy_image"] = None
    for name in ("subnets", "security_groups", "clients", "tags"):
        if name in found:
            found[name] = () if found[name] == [_NONE] else tuple(found[name])
    if "tags" in found:
        found["tags"] = _tags(found["tags"])
    return found


def seconds(option: str, text: str) -> float:
    """Return the seconds of a time like ``90s``, ``10m``, ``2h``. Raises `ConfigError`."""
    from dask.utils import parse_timedelta

    try:
        found = float(parse_timedelta(text))
    except (ValueError, KeyError, IndexError):
        found = -1.0
    if found <= 0:
        raise ConfigError(f"{option} {text} is no time", hint="write 30s, 10m, 2h or 1d")
    return found


def _sizes(text: str, has_memory: bool) -> dict[str, Any]:
    """Return what ``1769,3538,10240`` means: the first is `memory_mb`, the others are `larger_mb`."""
    if text == _NONE:
        return {"larger_mb": ()}
    try:
        smallest, *larger = map(int, text.split(","))
    except ValueError:
        raise ConfigError(f"--sizes {text} are no sizes", hint="write 1769,3538,10240, or none") from None
    if has_memory:
        raise ConfigError("--memory is the first of --sizes", hint="give one of both")
    return {"memory_mb": smallest, "larger_mb": tuple(larger)}


def _tags(pairs: Sequence[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"--tags {pair} has no value", hint="write --tags key=value other=value")
        found[key] = value
    return found


def _or_none(kind: Callable[[str], Any], called: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return None if text == _NONE else kind(text)

    read.__name__ = called  # argparse shows this name if the value is wrong
    return read
