"""Deploying and removing, step by step. Only `DeploymentPlan.carry_out` and `removed` change anything.

planned:    settle -> check -> build the package -> change set        (removed unless it is carried out)
carry_out:  buckets, upload -> store's nodes stop, if it goes -> execute -> follow -> older packages go
removed:    store's nodes -> stack -> buckets -> secrets
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wukong.config import Settings
from wukong.deploy.account import BACKEND, DeployAccount
from wukong.deploy.bucket import Bucket, bucket_name
from wukong.deploy.changes import Proposal, StackState, Tell
from wukong.deploy.checks import findings, foreign
from wukong.deploy.code import Code, Package, packaged
from wukong.deploy.finding import Finding, refuse
from wukong.deploy.image import found_image
from wukong.deploy.network import Network, placed, surveyed
from wukong.deploy.nodes import StoreNodes
from wukong.deploy.options import TAG, DeployOptions
from wukong.deploy.secret import marked, parameters, store_needs
from wukong.deploy.stack import Stack, StackFailed
from wukong.deploy.template import body, noted, template
from wukong.errors import BackendError, WukongError

Progress = Callable[[str], None]


@dataclass(slots=True)
class DeploymentPlan:
    """A planned deployment.

    Attributes:
        options: all options, kept ones included.
        code: what the functions are to run.
        proposal: the change set.
        findings: notes for the user; none is fatal.
        new: the deployment does not exist yet.
        network: of functions, and of what runs on Fargate; None: in no VPC.
        nodes: nodes of the store on Fargate that are stopped first, because their surroundings are removed; None: none.
        dropped: names of secrets that are removed.
        started: CloudFormation has been told to carry the plan out.
    """

    account: DeployAccount
    options: DeployOptions
    code: Code
    stack: Stack
    proposal: Proposal
    findings: Sequence[Finding]
    new: bool
    progress: Progress
    network: Network | None = None
    nodes: StoreNodes | None = None
    dropped: Sequence[str] = ()
    started: bool = False
    _bucket: Bucket = field(init=False)
    _values: Bucket = field(init=False)

    def __post_init__(self) -> None:
        self._bucket = Bucket(self.account, self.options.name)
        self._values = Bucket(self.account, self.options.name, "values")

    @property
    def changes_nothing(self) -> bool:
        """Whether there is nothing to change."""
        return self.proposal.id is None

    def carry_out(self, tell: Tell) -> StackState:
        """Carry the plan out; return the stack's state. If that fails, undo everything, and raise `BackendError`."""
        had_values = self._values.exists()
        had_bucket, previous = False, None
        if isinstance(self.code, Package):
            had_bucket = self._bucket.exists()
            previous = None if self.new else _package_key(self.stack)
        try:
            if isinstance(self.code, Package):
                self._upload(self.code)
            if self.options.has_table:
                self._values.create(self.options.all_tags)
            if self.nodes is not None:
                self.nodes.stop(self.progress)
            seen = self.stack.start(self.proposal)
        except BaseException:
            self._undo(had_bucket, previous, had_values)
            raise
        self.started = True
        try:
            state = self.stack.finish(self.proposal, seen, tell)
        except StackFailed as error:
            try:
                self._undo(had_bucket, previous, had_values)
            except WukongError as further:
                error.message += f"; and {further.message}"
            raise
        if isinstance(self.code, Package):
            self._bucket.keep_only(self.code.key)
        if had_values and not self.options.has_table:
            self._values.remove()
        _forget(self.account, self.dropped)
        return state

    def _upload(self, package: Package) -> None:
        self._bucket.create(self.options.all_tags)
        if not self._bucket.has(package):
            self.progress(f"uploading {package.size_bytes / 1_048_576:.1f} MB to the bucket {self._bucket.name}")
            self._bucket.put(package)

    def _undo(self, had_bucket: bool, previous: str | None, had_values: bool) -> None:
        """Restore the buckets: remove them, or keep only the package of the functions that are deployed."""
        if not had_values and self._values.exists():
            self._values.remove()
        if not isinstance(self.code, Package):
            return
        if had_bucket:
            self._bucket.keep_only(previous)
        elif self._bucket.exists():
            self._bucket.remove()


@contextmanager
def planned(
    account: DeployAccount,
    name: str,
    given: Mapping[str, Any],
    settings: Settings,
    *,
    stack: Stack,
    tell: Tell,
    progress: Progress,
    remnants: bool = True,
    permissions: bool = True,
) -> Iterator[DeploymentPlan]:
    """Check and plan a deployment. On exit, a plan that was not carried out is removed.

    Args:
        account: to deploy to.
        name: of the deployment.
        given: options to change; see `DeployOptions`.
        settings: the configuration: the store, and the key.
        stack: of this name.
        tell: takes CloudFormation's events.
        progress: takes a line of text for each step.
        remnants: remnants of a failed deployment may be removed.
        permissions: check the user's permissions.

    Raises `ConfigError` and `BackendError`, before anything is created.
    """
    progress(f"{account}, as {account.identity['Arn']}")
    state = stack.settled(tell)
    metadata = noted(stack.metadata()) if state is not None and not state.in_review else {}
    needs = store_needs(settings, metadata, name)
    before = metadata.get("options", {})
    options, placing = placed(account, DeployOptions.over(name, before, {**given, "store": needs.part}))
    network, network_findings = surveyed(account, options)
    found = [
        *needs.notes,
        *placing,
        *findings(
            account,
            options,
            state,
            metadata,
            needs.variables,
            network,
            network_findings,
            requirements_said="requirements" in given,
            permissions=permissions,
        ),
    ]
    image = None if options.image is None else found_image(account, options.image)
    if image is None:
        Bucket(account, name).exists()  # raises if it is somebody else's
    if options.has_table:
        Bucket(account, name, "values").exists()
    proxy_image = image
    if options.proxy and options.proxy_image is not None:
        proxy_image = found_image(account, options.proxy_image, "--proxy-image")
    nodes = _in_the_way(account, options, before)
    if nodes is not None:
        found += nodes.findings()
    refuse(found)
    state = _usable(stack, state, tell, remnants)
    with tempfile.TemporaryDirectory(prefix="wukong-deploy-") as folder:
        code = image or packaged(options, Path(folder), bucket_name(name, account), needs.extras, progress)
        dropped = sorted(set(DeployOptions.over(name, before, {}).secrets if before else ()) - set(options.secrets))
        hidden = parameters(settings, needs.variables, state)
        marks = marked(hidden, metadata.get("marks", {})) if options.qualifier is not None else None
        document = body(template(options, code, needs.variables, needs.extras, network, proxy_image, marks=marks))
        progress("asking CloudFormation what would change")
        proposal = stack.propose(document, hidden, options.all_tags, state)
        new = state is None or state.in_review
        plan = DeploymentPlan(account, options, code, stack, proposal, found, new, progress, network, nodes, dropped)
        try:
            yield plan
        finally:
            if not plan.started:
                stack.discard(proposal)


def _in_the_way(account: DeployAccount, options: DeployOptions, before: Mapping[str, Any]) -> StoreNodes | None:
    """Return the store's nodes if the store itself or its network is to be removed; else None."""
    if before.get("store") != "fargate":
        return None
    stays = options.on_fargate and list(options.subnets) == list(before.get("subnets", ()))
    return None if stays else StoreNodes(account, options.name)


def _usable(stack: Stack, state: StackState | None, tell: Tell, remnants: bool) -> StackState | None:
    """Return the state of a stack that can be created or changed. Removes the remnants of a failed one."""
    if state is None or state.sound or state.in_review:
        return state
    if state.of_no_use and remnants:
        stack.remove(state.id, tell)
        return None
    raise BackendError(
        f"the stack {stack.name} is {state.status}{f': {state.reason}' if state.reason else ''}",
        backend=BACKEND,
        hint="'wukong destroy' removes what is left of it" + ("; so does 'wukong deploy'" if state.of_no_use else ""),
    )


def _package_key(stack: Stack) -> str | None:
    """Return the key of the package of the functions that are deployed."""
    digest = noted(stack.metadata()).get("code", {}).get("digest")
    return None if digest is None else f"{digest}.zip"


@dataclass(frozen=True, slots=True)
class Remains:
    """The parts of a deployment that exist.

    Attributes:
        state: of its stack; None if there is none.
        options: as the stack records them; None if it records none.
        buckets: the names of its buckets, each with the total size of the objects in it, bytes.
        nodes: of the store on Fargate; None if no part of it is deployed.
    """

    state: StackState | None
    options: DeployOptions | None
    buckets: Mapping[str, int]
    nodes: StoreNodes | None = None

    @property
    def nothing(self) -> bool:
        """Whether nothing exists."""
        return self.state is None and not self.buckets


def remains(account: DeployAccount, stack: Stack, tell: Tell) -> Remains:
    """Return the parts that exist, once CloudFormation is idle. Raises `BackendError` if they are somebody else's."""
    state = stack.settled(tell)
    options = None
    if state is not None and state.in_review:
        if not stack.only_our_change_sets():
            refuse([foreign(stack.name)])
    elif state is not None:
        if state.tags.get(TAG) != stack.name:
            refuse([foreign(stack.name)])
        metadata = noted(stack.metadata())
        options = DeployOptions.over(stack.name, metadata["options"], {}) if "options" in metadata else None
    nodes = None if options is None or not options.has_cluster else StoreNodes(account, stack.name)
    buckets = {each.name: each.size_bytes() for each in _buckets(account, stack.name) if each.exists()}
    return Remains(state, options, buckets, nodes)


def removed(account: DeployAccount, stack: Stack, there: Remains, tell: Tell, progress: Progress) -> None:
    """Remove everything. Raises `BackendError` if something stays; another call goes on from there."""
    if there.nodes is not None:
        there.nodes.stop(progress)
    if there.state is not None:
        stack.remove(there.state.id, tell)
    for bucket in _buckets(account, stack.name):
        if bucket.name in there.buckets:
            bucket.remove()
    _forget(account, () if there.options is None else there.options.secrets)


def _buckets(account: DeployAccount, name: str) -> list[Bucket]:
    return [Bucket(account, name), Bucket(account, name, "values")]


def _forget(account: DeployAccount, secrets: Sequence[str]) -> None:
    """Delete the secrets at once. CloudFormation does so already; this makes sure. A missing secret is no error."""
    for secret in secrets:
        account.call("secretsmanager", "delete_secret", SecretId=secret, ForceDeleteWithoutRecovery=True)
