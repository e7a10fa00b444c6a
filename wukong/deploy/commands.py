"""The commands ``deploy``, ``status``, ``logs`` and ``destroy``: arguments in, text out.

This module is imported whenever the command line is parsed, so heavy modules are imported in the functions that need
them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from wukong.command import AddChoices, AddCommand, Overrides, add_json, tell, tell_json
from wukong.deploy.arguments import add_options, add_patience, add_place, given, seconds
from wukong.errors import ConfigError

if TYPE_CHECKING:
    from wukong.config import Settings
    from wukong.deploy.account import DeployAccount
    from wukong.deploy.screen import Screen
    from wukong.deploy.stack import Stack

_DEPLOY = """\
Deploy Wukong's functions to AWS Lambda, or change those that are deployed. What is not said stays as it is deployed;
'none' takes an option back, and --no-proxy the proxy. Shows first what would change, and asks. To run it again changes
nothing.

If no store is configured, the first deployment has one in DynamoDB and S3, which takes no server and no VPC.

What everything is signed with, and what opens the configured store, goes into the functions' configuration, and is not
shown. The package is built from the environment that runs this command.

  wukong deploy --plan
  wukong deploy --requirements requirements.txt --memory 3538
  wukong deploy --storage rediss://redis.example.com:6379 --subnets subnet-0a1b --security-groups sg-0c2d
  wukong deploy --storage dynamodb
  wukong deploy --storage fargate --subnets subnet-0a1b subnet-0c2d
  wukong deploy --proxy --image ACCOUNT.dkr.ecr.REGION.amazonaws.com/wukong:latest
"""
_STATUS = """\
Show how the deployed functions are. Exits with 1 if they are not there, or would not run.
"""
_LOGS = """\
Show what the functions have written, all of them in the order of time. With --job only what is of one job: every
invocation of it with the platform's own lines, and those that died before they said whose they are. With --of what the
fan-out proxy, or the Redis nodes of a store on Fargate, have written instead.

  wukong logs --since 1h
  wukong logs --job 3f9c2a71b0d4 --follow
  wukong logs --of proxy
"""
_MADE_BY = {"proxy": "'wukong deploy --proxy' makes one", "store": "'wukong deploy --storage fargate' makes one"}
_DESTROY = """\
Remove everything that 'wukong deploy' has made, the logs and the key too. Asks first.
"""


def add_to(command: AddCommand, choices: AddChoices, overrides: Overrides) -> None:
    """Add the commands to a parser.

    Args:
        command: makes a parser from a name, the function that runs it, a description and a help text.
        choices: gives a parser the options that choose settings.
        overrides: returns the settings that were given with these options.
    """
    deploy = command("deploy", partial(_deploy, overrides), _DEPLOY, "deploy the functions to AWS Lambda")
    choices(deploy)
    add_place(deploy)
    add_options(deploy)
    what = deploy.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="only show what would change, and leave nothing behind")
    what.add_argument(
        "--policy",
        action="store_true",
        help="print only the IAM policy for deploying; with --proxy or --storage fargate, what more those take",
    )
    deploy.add_argument("--yes", "-y", action="store_true", help="do not ask")
    deploy.add_argument(
        "--no-permission-check",
        dest="permissions",
        action="store_false",
        help="deploy whatever IAM's policy simulator says about your permissions",
    )
    add_patience(deploy)

    status = command("status", partial(_status, overrides), _STATUS, "show how the deployed functions are")
    choices(status)
    add_place(status)
    add_json(status)

    logs = command("logs", partial(_logs, overrides), _LOGS, "show what functions, proxy or store have written")
    choices(logs)
    add_place(logs)
    logs.add_argument("--follow", "-f", action="store_true", help="go on with what comes in, until Ctrl-C")
    logs.add_argument("--since", default="10m", metavar="TIME", help="how long ago to begin: 30s, 10m, 2h, 1d (10m)")
    logs.add_argument("--job", metavar="ID", help="only of this job")
    logs.add_argument(
        "--json", action="store_true", help="tell it as one JSON document; with --follow, as one on each line"
    )
    logs.add_argument(
        "--of", choices=("functions", "proxy", "store"), default="functions", help="who has written it (functions)"
    )

    destroy = command("destroy", partial(_destroy, overrides), _DESTROY, "remove everything that was deployed")
    choices(destroy)
    add_place(destroy)
    destroy.add_argument("--yes", "-y", action="store_true", help="do not ask")
    add_patience(destroy)


def _place(overrides: Overrides, arguments: argparse.Namespace) -> tuple[Settings, DeployAccount, str]:
    """Return the settings, the account and the deployment's name: from the arguments, or from the backend's options."""
    from wukong.backends.faas import FaaS
    from wukong.backends.plugins import named
    from wukong.config import Settings
    from wukong.deploy.account import DeployAccount
    from wukong.deploy.options import check_name

    settings = Settings.load(**overrides(arguments))
    options: Mapping[str, Any] = {}
    if not isinstance(settings.faas, FaaS):
        plugin, options = named(settings.faas)
        options = options if plugin == "aws-lambda" else {}
    function = options.get("function")
    if isinstance(function, (list, tuple)):
        function = function[0] if function else None
    name = arguments.name or (function if function and ":" not in function else None) or "wukong"
    region, profile = arguments.region or options.get("region"), arguments.profile or options.get("profile")
    return settings, DeployAccount(region, profile, arguments.endpoint_url), check_name(name)


def _stack(account: DeployAccount, name: str, arguments: argparse.Namespace) -> Stack:
    from wukong.deploy.stack import Stack

    return Stack(account, name, limit_s=seconds("--time-limit", arguments.time_limit))


def _screen() -> Screen:
    from wukong.deploy.screen import Screen

    return Screen()


# --- the commands


def _deploy(overrides: Overrides, arguments: argparse.Namespace) -> int:
    from wukong.deploy.plan import planned

    settings, account, name = _place(overrides, arguments)
    screen = _screen()
    if arguments.policy:
        from wukong.deploy.iam_policy import policy
        from wukong.deploy.secret import uses_fargate

        on_fargate = getattr(arguments, "proxy", False) or uses_fargate(settings)
        screen.say(json.dumps(policy(name, account.region, fargate=on_fargate), indent=2))
        return 0
    screen.must_answer(arguments.yes or arguments.plan)
    stack = _stack(account, name, arguments)
    with (
        screen.busy(),
        planned(
            account,
            name,
            given(arguments),
            settings,
            stack=stack,
            tell=screen.event,
            progress=screen.progress,
            remnants=not arguments.plan,
            permissions=arguments.permissions,
        ) as plan,
    ):
        screen.plan(plan)
        if plan.changes_nothing:
            screen.say(f"nothing to change: the stack {name} is as it is wanted")
        elif arguments.plan:
            screen.say("nothing was changed (--plan)")
            return 0
        elif not screen.agreed(arguments.yes, "deploy this?"):
            screen.say("nothing was changed")
            return 1
        else:
            try:
                plan.carry_out(screen.event)
            except KeyboardInterrupt:
                screen.interrupted(stack, started=plan.started)
                raise
            screen.say(f"the stack {name} is {'there' if plan.new else 'changed'}")
        screen.client(plan.options, region=arguments.region, profile=arguments.profile, url=arguments.endpoint_url)
    return 0


def _status(overrides: Overrides, arguments: argparse.Namespace) -> int:
    from wukong.deploy.stack import Stack
    from wukong.deploy.status import bare, status

    _, account, name = _place(overrides, arguments)
    screen = _screen()
    found = status(account, Stack(account, name))
    alone = bare(account, name) if found is None else None
    if arguments.json:
        place = {"account": account.id, "region": account.region, "name": name, "deployed": found is not None}
        plain = {"functions": [] if alone is None else [alone.plain()]} if found is None else found.plain()
        tell_json({**place, "ok": alone is not None and alone.ok, **plain})
    elif found is not None:
        screen.say(str(account))
        screen.status(found)
    elif alone is not None:
        screen.say(f"{account}\nthe function {name} was not made by 'wukong deploy': there is no stack of this name\n")
        screen.functions([alone])
    else:
        screen.say(f"{account}: no deployment is called {name}; 'wukong deploy' makes one")
    shown = found or alone
    return 0 if shown is not None and shown.ok else 1


def _logs(overrides: Overrides, arguments: argparse.Namespace) -> int:
    from wukong.deploy.logs import lines
    from wukong.deploy.stack import Stack
    from wukong.deploy.status import bare, status

    if arguments.job is not None and arguments.of != "functions":
        raise ConfigError(
            f"--job goes with the functions' logs; the {arguments.of} does not say for which job it works"
        )
    since_ms = int((time.time() - seconds("--since", arguments.since)) * 1_000)
    _, account, name = _place(overrides, arguments)
    found = status(account, Stack(account, name))
    if found is not None:
        groups: Sequence[str] = found.options.logs_of(arguments.of)
    else:
        alone = bare(account, name) if arguments.of == "functions" else None
        if alone is None:
            none = f"{account}: no deployment is called {name}"
            raise ConfigError(none, hint="'wukong deploy' makes one; see --name")
        groups = [alone.log_group]
    if not groups:
        raise ConfigError(f"{account}: {name} has no {arguments.of}", hint=_MADE_BY[arguments.of])
    screen = _screen()
    shown = []
    for line in lines(account, groups, since_ms, job=arguments.job, follow=arguments.follow):
        if arguments.json and arguments.follow:
            tell(json.dumps(line.plain()))
        elif not arguments.json:
            screen.log(line, name_function=len(groups) > 1)
        if not arguments.follow:
            shown.append(line)
    if arguments.json:
        tell_json({"lines": [line.plain() for line in shown]})
    if not shown:
        _say_nothing_found(arguments, groups)
    return 0 if shown else 1


def _say_nothing_found(arguments: argparse.Namespace, groups: Sequence[str]) -> None:
    of_job = "" if arguments.job is None else f" of the job {arguments.job}"
    sys.stderr.write(
        f"wukong: nothing{of_job} was written to {', '.join(groups)} in the last {arguments.since}\n"
        "  -> --since 1d looks further back; what has just been written may take some seconds to appear\n"
    )


def _destroy(overrides: Overrides, arguments: argparse.Namespace) -> int:
    from wukong.deploy.plan import remains, removed

    _, account, name = _place(overrides, arguments)
    screen = _screen()
    screen.must_answer(arguments.yes)
    stack = _stack(account, name, arguments)
    with screen.busy():
        there = remains(account, stack, screen.event)
        screen.say(str(account))
        if there.nothing:
            screen.say(f"there is nothing of a deployment called {name}")
            return 0
        screen.remains(name, there)
        if not screen.agreed(arguments.yes, "remove all this?"):
            screen.say("nothing was removed")
            return 1
        try:
            removed(account, stack, there, screen.event, screen.progress)
        except KeyboardInterrupt:
            screen.interrupted(stack, started=True)
            raise
    screen.say(f"nothing is left of {name}")
    return 0
