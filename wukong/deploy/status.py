"""The state of a deployment: its stack, each function, and its code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wukong.backends.faas.aws_lambda.price import vcpus
from wukong.backends.storage.fargate.node import Node
from wukong.deploy.account import DeployAccount, DeployRefused
from wukong.deploy.changes import StackState
from wukong.deploy.nodes import StoreNodes
from wukong.deploy.options import TAG, DeployOptions
from wukong.deploy.stack import Stack
from wukong.deploy.template import noted


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The published version that an alias of a function names.

    Attributes:
        alias, number: of it.
        state: ``Active`` if it can run; ``Pending`` while a snapshot of it is taken; `reason` says why not.
        snapshot: environments are restored from a snapshot of it.
        provisioned: how many environments are to be initialised always; None: none. available: how many are.
        trouble: why there are fewer.
    """

    alias: str
    number: str
    state: str
    reason: str
    snapshot: bool
    provisioned: int | None = None
    available: int = 0
    trouble: str = ""

    @property
    def ok(self) -> bool:
        """Whether it would run, with all that is to be initialised."""
        return self.state in ("Active", "Inactive") and self.available >= (self.provisioned or 0)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "ok": self.ok}


@dataclass(frozen=True, slots=True)
class FunctionStatus:
    """One function as Lambda describes it.

    Attributes:
        state: ``Active`` if it can run; `reason` says why not.
        vcpus: that come with its memory; a fraction is a share of one.
        recursive_loop: ``Allow`` as deployed; ``Terminate``: Lambda ends chains of functions that invoke one another;
            None: not known.
        version: what its alias names, if it is invoked by one.
    """

    name: str
    state: str
    reason: str
    memory_mb: int
    vcpus: float
    timeout_s: int
    architecture: str
    code: str
    modified: str
    reserved: int | None
    log_group: str = ""
    recursive_loop: str | None = None
    version: VersionStatus | None = None

    @property
    def ok(self) -> bool:
        """Whether it would run. A function that nobody has called for weeks is inactive until the next call."""
        return self.state in ("Active", "Inactive") and not self.ends_chains and (not self.version or self.version.ok)

    @property
    def ends_chains(self) -> bool:
        """Whether Lambda would take executors that invoke executors for a mistake, and drop their events."""
        return self.recursive_loop == "Terminate"

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**asdict(self), "ok": self.ok, "version": None if self.version is None else self.version.plain()}


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """The proxy as ECS describes its service. `public`: its task has a public address; `event`: its last event."""

    state: str
    running: int
    desired: int
    public: bool
    event: str

    @property
    def ok(self) -> bool:
        """Whether it runs."""
        return self.state == "ACTIVE" and self.running >= self.desired > 0


@dataclass(frozen=True, slots=True)
class DeploymentStatus:
    """A deployment.

    Attributes:
        noted: the stack's own record.
        proxy: None if none is deployed.
        nodes: of the store on Fargate; None if that is not deployed.
    """

    state: StackState
    options: DeployOptions
    noted: Mapping[str, Any]
    functions: tuple[FunctionStatus, ...]
    proxy: ProxyStatus | None = None
    nodes: tuple[Node, ...] | None = None

    @property
    def ok(self) -> bool:
        """Whether everything is in the state that was deployed."""
        functions = len(self.functions) > 0 and all(each.ok for each in self.functions)
        return self.state.sound and functions and (self.proxy is None or self.proxy.ok)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        proxy, nodes = self.proxy, self.nodes
        return {
            "ok": self.ok,
            "stack": {"status": self.state.status, "reason": self.state.reason},
            "deployed_with": {key: self.noted.get(key) for key in ("wukong", "dask", "cloudpickle", "code")},
            "functions": [each.plain() for each in self.functions],
            "proxy": None
            if proxy is None
            else {"address": self.options.proxy_address, **asdict(proxy), "ok": proxy.ok},
            "store": None if nodes is None else [asdict(each) for each in nodes],
        }


_NOT_THERE = "not there"
_NO_PROXY = ProxyStatus("not there", 0, 0, False, "")


def status(account: DeployAccount, stack: Stack) -> DeploymentStatus | None:
    """Return the state of the deployment; None if there is none, or if the stack is not Wukong's."""
    state = stack.state()
    if state is None or state.in_review or state.tags.get(TAG) != stack.name:
        return None
    metadata = noted(stack.metadata())
    options = DeployOptions.over(stack.name, metadata.get("options", {}), {})
    functions = tuple(_function(account, name, options.qualifier) for name in options.function_names)
    proxy = _proxy(account, options) if options.proxy else None
    nodes = tuple(StoreNodes(account, options.name).found) if options.on_fargate else None
    return DeploymentStatus(state, options, metadata, functions, proxy, nodes)


def bare(account: DeployAccount, name: str) -> FunctionStatus | None:
    """Return the state of a function that no deployment has made, as on a local service; None if there is none."""
    found = _function(account, name)
    return None if found.state == _NOT_THERE else found


def _proxy(account: DeployAccount, options: DeployOptions) -> ProxyStatus:
    try:
        told = account.call("ecs", "describe_services", cluster=options.name, services=[options.proxy_name])
    except DeployRefused as error:
        if error.code != "ClusterNotFoundException":
            raise
        return _NO_PROXY
    for found in told.get("services", ()):
        network = found.get("networkConfiguration", {}).get("awsvpcConfiguration", {})
        return ProxyStatus(
            str(found["status"]),
            int(found["runningCount"]),
            int(found["desiredCount"]),
            network.get("assignPublicIp") == "ENABLED",
            "".join(str(each.get("message", "")) for each in found.get("events", ())[:1]),
        )
    return _NO_PROXY


def _function(account: DeployAccount, name: str, alias: str | None = None) -> FunctionStatus:
    try:
        found = account.call("lambda", "get_function_configuration", FunctionName=name)
        told = account.call("lambda", "get_function_concurrency", FunctionName=name)
    except DeployRefused as error:
        if error.code != "ResourceNotFoundException":
            raise
        return FunctionStatus(name, _NOT_THERE, "", 0, 0.0, 0, "", "", "", None)
    state = str(found.get("State", "Active"))
    reason = str(found.get("StateReason", ""))
    if state == "Active" and found.get("LastUpdateStatus") in ("Failed", "InProgress"):
        state, reason = f"update {found['LastUpdateStatus']}", str(found.get("LastUpdateStatusReason", ""))
    return FunctionStatus(
        name,
        state,
        reason,
        int(found["MemorySize"]),
        round(vcpus(int(found["MemorySize"]) << 20), 2),
        int(found["Timeout"]),
        "".join(found.get("Architectures", ["x86_64"])),
        str(found.get("Runtime") or "image"),
        str(found["LastModified"])[:19].replace("T", " "),
        told.get("ReservedConcurrentExecutions"),
        str(found.get("LoggingConfig", {}).get("LogGroup") or f"/aws/lambda/{name}"),
        _recursive_loop(account, name),
        None if alias is None else _version(account, name, alias),
    )


def _version(account: DeployAccount, name: str, alias: str) -> VersionStatus:
    try:
        found = account.call("lambda", "get_function_configuration", FunctionName=name, Qualifier=alias)
    except DeployRefused as error:
        if error.code != "ResourceNotFoundException":
            raise
        return VersionStatus(alias, "", _NOT_THERE, "", False)
    try:
        told = account.call("lambda", "get_provisioned_concurrency_config", FunctionName=name, Qualifier=alias)
    except DeployRefused as error:
        if error.code != "ProvisionedConcurrencyConfigNotFoundException" and not error.unknown_operation:
            raise
        told = {}
    return VersionStatus(
        alias,
        str(found["Version"]),
        str(found.get("State", "Active")),
        str(found.get("StateReason", "")),
        found.get("SnapStart", {}).get("OptimizationStatus") == "On",
        told.get("RequestedProvisionedConcurrentExecutions"),
        int(told.get("AvailableProvisionedConcurrentExecutions", 0)),
        str(told.get("StatusReason", "")),
    )


def _recursive_loop(account: DeployAccount, name: str) -> str | None:
    try:
        return str(account.call("lambda", "get_function_recursion_config", FunctionName=name)["RecursiveLoop"])
    except DeployRefused as error:
        if not error.denied and not error.unknown_operation:
            raise
        return None
