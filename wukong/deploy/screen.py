"""The commands' output and questions. On a terminal they show a spinner while AWS works."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.status import Status as Spinner

from wukong.backends.faas.aws_lambda.answers import allow_command
from wukong.backends.storage.fargate.node import Node
from wukong.command import table, tell
from wukong.deploy.changes import Event
from wukong.deploy.logs import LogEvent
from wukong.deploy.nodes import counted
from wukong.deploy.options import FREE_STORAGE_MB, DeployOptions
from wukong.deploy.plan import DeploymentPlan, Remains
from wukong.deploy.price import idle_lines, idle_usd, provisioned_hour_usd, proxy_hour_usd, snapshots_hour_usd
from wukong.deploy.stack import Stack
from wukong.deploy.status import DeploymentStatus, FunctionStatus, ProxyStatus, VersionStatus
from wukong.errors import ConfigError, WukongError

_PLACE = ("region", "profile", "endpoint_url")
_ACTIONS = {"Add": "add", "Modify": "change", "Remove": "remove"}


class Screen:
    """Lines on stdout."""

    def __init__(self) -> None:
        self._console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
        self._spinner: Spinner | None = None

    def say(self, text: str = "") -> None:
        """Show a line, or several."""
        self._console.print(text)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Show a spinner in this context, on a terminal."""
        with self._console.status("") as self._spinner:
            try:
                yield
            finally:
                self._spinner = None

    # --- asking

    def must_answer(self, agreed: bool) -> None:
        """Raise `ConfigError` if the user has to be asked and there is no terminal."""
        if not agreed and not sys.stdin.isatty():
            raise ConfigError("this asks before it changes anything, and there is no terminal", hint="give --yes")

    def agreed(self, already: bool, question: str) -> bool:
        """Ask the user; return whether they agree."""
        if already:
            return True
        if self._spinner is not None:
            self._spinner.stop()
        answer = input(f"{question} [y/N] ").strip().lower()
        if self._spinner is not None:
            self._spinner.start()
        return answer in ("y", "yes")

    # --- telling

    def progress(self, text: str) -> None:
        """Show the step under way."""
        self.say(text)
        if self._spinner is not None:
            self._spinner.update(text)

    def event(self, event: Event) -> None:
        """Show what CloudFormation has done."""
        status = event.status.replace("_", " ").lower()
        reason = f": {event.reason}" if event.reason and "FAILED" in event.status else ""
        self.say(f"  {event.logical:<16} {status}{reason}")
        if self._spinner is not None:
            self._spinner.update(f"{event.logical} {status}")

    def plan(self, plan: DeploymentPlan) -> None:
        """Show the plan, notes, and the cost."""
        self.say(_described(plan.options))
        self.say(str(plan.code))
        for finding in plan.findings:
            self.say(f"note: {finding.what}\n      -> {finding.todo}")
        if plan.changes_nothing:
            return
        self.say()
        rows = []
        for change in plan.proposal.changes:
            what = ", ".join(change.what) + (" (made anew)" if change.replaced else "")
            rows.append((_ACTIONS.get(change.action, change.action.lower()), change.logical, change.kind, what))
        self._table(("", "RESOURCE", "TYPE", "WHAT OF IT"), rows)
        self.say()
        self.say(f"a month in which nothing runs costs ${idle_usd(plan.options, plan.code, plan.network):.4f}:")
        for line in idle_lines(plan.options, plan.code, plan.network):
            self.say(f"  {line}")
        self.say()

    def remains(self, name: str, there: Remains) -> None:
        """Show what would be removed."""
        if there.nodes is not None and there.nodes.found:
            self.say(f"  {counted(there.nodes.found)} of the store on Fargate, first of all")
        if there.state is not None:
            self.say(f"  the stack {name}, {there.state.status}")
        if there.options is not None:
            self.say(f"  the functions {', '.join(there.options.function_names)}, and their role")
            self.say(f"  the logs {', '.join(there.options.log_groups)}")
            if there.options.proxy:
                self.say(f"  the proxy {there.options.proxy_name}, and its logs {there.options.proxy_log_group}")
            if there.options.has_table:
                self.say(f"  the table {there.options.table_name}")
            if there.options.on_fargate:
                self.say(f"  what the store on Fargate runs in, and its logs {there.options.store_log_group}")
            for secret in there.options.secrets:
                self.say(f"  the secret {secret}, at once")
        for bucket, size_bytes in there.buckets.items():
            self.say(f"  the bucket {bucket}, with {size_bytes / 1_048_576:.1f} MB in it")

    def status(self, found: DeploymentStatus) -> None:
        """Show the state of a deployment."""
        code = found.noted.get("code", {})
        versions = ", ".join(
            f"{key} {found.noted[key]}" for key in ("wukong", "dask", "cloudpickle") if key in found.noted
        )
        reason = f": {found.state.reason}" if found.state.reason else ""
        self.say(f"stack {found.options.name}: {found.state.status}{reason}")
        self.say(_described(found.options))
        self.say(f"deployed with {versions}; {_code(code)}")
        self.say()
        self.functions(found.functions)
        if found.options.provisioned_concurrency is not None:
            self.say(f"what is provisioned costs ${provisioned_hour_usd(found.options):.4f} an hour")
        if found.options.snapstart:
            self.say(f"what snapshots are kept costs ${snapshots_hour_usd(found.options):.4f} an hour")
        if found.proxy is not None:
            self.say()
            self._proxy(found.options, found.proxy)
        if found.nodes is not None:
            self.say()
            self._nodes(found.nodes)

    def functions(self, found: Sequence[FunctionStatus]) -> None:
        """Show a table of functions."""
        rows = [
            (
                each.name,
                each.state,
                f"{each.memory_mb:,} MB",
                f"{each.vcpus:.2g}",
                f"{each.timeout_s} s",
                each.architecture,
                each.code,
                "-" if each.reserved is None else f"{each.reserved:,}",
                each.modified,
                each.reason or ("RecursiveLoop is Terminate" if each.ends_chains else ""),
            )
            for each in found
        ]
        head = ("FUNCTION", "STATE", "MEMORY", "VCPUS", "TIMEOUT", "ARCHITECTURE", "RUNS", "RESERVED", "MODIFIED (UTC)")
        self._table((*head, ""), rows)
        for each in found:
            if each.version is not None:
                self.say(f"{each.name}:{each.version.alias} is {_version(each.version)}")
            if each.ends_chains:
                self.say(f"executors invoke executors, and Lambda would end chains of {each.name}:")
                self.say(f"  -> {allow_command(each.name)}")

    def _proxy(self, options: DeployOptions, proxy: ProxyStatus) -> None:
        state = "" if proxy.state == "ACTIVE" else f"{proxy.state}, "
        hour_usd = proxy_hour_usd(options, proxy.public) * proxy.running
        self.say(
            f"proxy {options.proxy_address}: {state}{proxy.running} of {proxy.desired} running, ${hour_usd:.4f} an hour"
        )
        if not proxy.ok and proxy.event:
            self.say(f"  {proxy.event}")

    def _nodes(self, nodes: Sequence[Node]) -> None:
        if not nodes:
            self.say("store on Fargate: no node runs; 'wukong store up', or a client, starts some")
            return
        rows = [
            (
                node.slot,
                node.state,
                node.health,
                node.address or "-",
                f"{datetime.fromtimestamp(node.since, UTC):%F %T}",
            )
            for node in nodes
        ]
        self._table(("STORE", "STATE", "HEALTH", "ADDRESS", "SINCE (UTC)"), rows)

    def log(self, line: LogEvent, *, name_function: bool) -> None:
        """Show a line of a log."""
        at = datetime.fromtimestamp(line.time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
        tell(f"{at}  {f'{line.function}  ' if name_function else ''}{line.text}")  # rich would take the tabs out

    def client(self, options: DeployOptions, *, region: str | None, profile: str | None, url: str | None) -> None:
        """Show the line of code that uses the deployment."""
        given: dict[str, Any] = {"name": "aws-lambda"}
        if options.functions > 1:
            given["function"] = list(options.function_names[: options.functions])
        elif options.name != "wukong":
            given["function"] = options.name
        if options.larger_mb:
            given["larger"] = list(options.larger_names)
        if options.qualifier is not None:
            given["qualifier"] = options.qualifier
        given |= {key: value for key, value in zip(_PLACE, (region, profile, url), strict=True) if value is not None}
        settings = {"faas": _choice(given)}
        if options.has_table:
            settings["storage"] = _choice(_table(options, given))
        if options.on_fargate:
            store: dict[str, Any] = {"name": "fargate"} | {key: given[key] for key in _PLACE if key in given}
            settings["storage"] = _choice(store if options.name == "wukong" else {**store, "deployment": options.name})
        if options.proxy:
            settings["proxy"] = f'"{options.proxy_address}"'
        self.say(f"\n    client = wukong.Client({', '.join(f'{key}={value}' for key, value in settings.items())})\n")

    def interrupted(self, stack: Stack, *, started: bool) -> None:
        """After an interrupt, show the state of the stack, and how to go on."""
        if not started:
            self.say("interrupted before CloudFormation began; nothing was changed")
            return
        try:
            state = stack.state()
        except WukongError as error:
            status = f"in a state that cannot be asked for ({error.message})"
        else:
            status = "gone" if state is None else state.status
        self.say(f"interrupted: the stack {stack.name} is {status}, and CloudFormation goes on by itself")
        self.say("  -> 'wukong status' shows how far it is; 'wukong deploy' and 'wukong destroy' wait for it and go on")

    def _table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        for line in table(head, rows):
            self.say(line)


def _table(options: DeployOptions, given: dict[str, Any]) -> dict[str, Any]:
    """Return how a client names the store in DynamoDB; `given`: its backend."""
    store: dict[str, Any] = {"name": "dynamodb", "values": "s3"} | {key: given[key] for key in _PLACE if key in given}
    if "endpoint_url" in store:
        store["s3_endpoint_url"] = store["endpoint_url"]
    return store if options.name == "wukong" else {**store, "table": options.table_name}


def _version(found: VersionStatus) -> str:
    parts = [f"version {found.number}, {found.state}{f': {found.reason}' if found.reason else ''}"]
    if found.snapshot:
        parts.append("restored from a snapshot")
    if found.provisioned is not None:
        trouble = f": {found.trouble}" if found.trouble else ""
        parts.append(f"{found.available:,} of {found.provisioned:,} provisioned environments there{trouble}")
    return ", ".join(parts)


def _choice(given: dict[str, Any]) -> str:
    return f'"{given["name"]}"' if len(given) == 1 else repr(given).replace("'", '"')


def _described(options: DeployOptions) -> str:
    parts = [
        f"{options.functions} function{'s' if options.functions > 1 else ''}",
        " and ".join(f"{each:,} MB" for each in (options.memory_mb, *options.larger_mb)),
        *([f"/tmp of {options.ephemeral_storage_mb:,} MB"] if options.ephemeral_storage_mb != FREE_STORAGE_MB else []),
        f"{options.timeout_s} s",
        options.architecture,
        f"logs kept {options.log_retention_days} days",
        f"key in {options.key_in}",
    ]
    if options.reserved_concurrency is not None:
        parts.append(f"{options.reserved_concurrency:,} executions reserved for each")
    if options.snapstart:
        parts.append("SnapStart")
    if options.provisioned_concurrency is not None:
        parts.append(f"{options.provisioned_concurrency:,} environments provisioned for each")
    if options.subnets:
        groups = ", ".join(options.security_groups) or f"a group of their own, {options.functions_group_name}"
        parts.append(f"in {', '.join(options.subnets)} with {groups}")
    if options.has_table:
        parts.append("store in DynamoDB and S3")
    if options.on_fargate:
        parts.append("store on Fargate")
    if options.proxy:
        parts.append(
            f"proxy with {options.workers} worker{'s' if options.workers > 1 else ''} on "
            f"{options.proxy_cpu / 1_024:g} CPU, {options.proxy_memory_mb:,} MB"
        )
    if options.clients:
        parts.append(f"clients from {', '.join(options.clients)}")
    return ", ".join(parts)


def _code(code: dict[str, Any]) -> str:
    if code.get("kind") == "image":
        return f"image {code.get('uri')}"
    required = f", --requirements {code['requirements']}" if code.get("requirements") else ""
    return f"package, Python {code.get('python')}, sha256 {str(code.get('digest'))[:12]}{required}"
