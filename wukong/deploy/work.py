"""Deploying and removing, step by step. Planning reads, and leaves nothing; only `Plan.carry_out` and `removed` change.

planned:    settle -> check -> build the package -> change set        (left again unless it is carried out)
carry_out:  bucket, upload -> store's nodes stop, where it goes -> execute -> follow -> older packages go
removed:    store's nodes -> stack -> bucket -> secrets
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wukong.config import Settings
from wukong.deploy.account import BACKEND, Account
from wukong.deploy.bucket import Bucket, bucket_name
from wukong.deploy.changes import Proposal, State, Tell
from wukong.deploy.checks import findings, foreign
from wukong.deploy.code import Code, Package, packaged
from wukong.deploy.finding import Finding, refuse
from wukong.deploy.image import found_image
from wukong.deploy.network import Network, placed, surveyed
from wukong.deploy.nodes import StoreNodes
from wukong.deploy.options import TAG, Options
from wukong.deploy.secret import parameters, store_needs
from wukong.deploy.stack import Failed, Stack
from wukong.deploy.template import body, noted, template
from wukong.errors import BackendError, WukongError

Progress = Callable[[str], None]


@dataclass(slots=True)
class Plan:
    """What is about to be done.

    Attributes:
        options: the whole of them, with what was kept.
        code: what the functions are to run.
        proposal: the change set.
        findings: what is worth knowing; nothing of it fatal.
        new: the deployment is not there yet.
        network: where functions are, and what runs on Fargate; None: in no VPC.
        nodes: those of the store on Fargate that are stopped first, as what they run in goes; None: none.
        dropped: names of secrets that go.
        started: CloudFormation has been told to carry it out.
    """

    account: Account
    options: Options
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

    def __post_init__(self) -> None:
        self._bucket = Bucket(self.account, self.options.name)

    @property
    def changes_nothing(self) -> bool:
        """Whether all is as it is wanted already."""
        return self.proposal.id is None

    def carry_out(self, tell: Tell) -> State:
        """Do it; return the stack's state. Where that fails, all is as it was before, and `BackendError` says why."""
        had_bucket, previous = False, None
        if isinstance(self.code, Package):
            had_bucket = self._bucket.exists()
            previous = None if self.new else _package_key(self.stack)
        try:
            if isinstance(self.code, Package):
                self._upload(self.code)
            if self.nodes is not None:
                self.nodes.stop(self.progress)
            seen = self.stack.start(self.proposal)
        except BaseException:
            self._undo(had_bucket, previous)
            raise
        self.started = True
        try:
            state = self.stack.finish(self.proposal, seen, tell)
        except Failed as error:
            try:
                self._undo(had_bucket, previous)
            except WukongError as further:
                error.message += f"; and {further.message}"
            raise
        if isinstance(self.code, Package):
            self._bucket.keep_only(self.code.key)
        _forget(self.account, self.dropped)
        return state

    def _upload(self, package: Package) -> None:
        self._bucket.create(self.options.all_tags)
        if not self._bucket.has(package):
            self.progress(f"uploading {package.size_bytes / 1_048_576:.1f} MB to the bucket {self._bucket.name}")
            self._bucket.put(package)

    def _undo(self, had_bucket: bool, previous: str | None) -> None:
        """Leave the bucket as it was: not there, or with the package of the functions that still are."""
        if not isinstance(self.code, Package):
            return
        if had_bucket:
            self._bucket.keep_only(previous)
        elif self._bucket.exists():
            self._bucket.remove()


@contextmanager
def planned(
    account: Account,
    name: str,
    given: Mapping[str, Any],
    settings: Settings,
    *,
    stack: Stack,
    tell: Tell,
    progress: Progress,
    remnants: bool = True,
    permissions: bool = True,
) -> Iterator[Plan]:
    """Check and plan a deployment; on the way out, unless it was carried out, nothing of the plan is left.

    Args:
        account: where to.
        name: the deployment's.
        given: options that are to be other than they are; see `Options`.
        settings: what is configured: the store, and the key.
        stack: that of the name.
        tell: told what CloudFormation does.
        progress: told what is being done, a line at a time.
        remnants: what a deployment that failed has left may be removed.
        permissions: hold the permissions of whoever deploys against what it takes.

    Raises `ConfigError` and `BackendError`, before anything is created.
    """
    progress(f"{account}, as {account.identity['Arn']}")
    state = stack.settled(tell)
    metadata = noted(stack.metadata()) if state is not None and not state.in_review else {}
    needs = store_needs(settings, metadata, name)
    before = metadata.get("options", {})
    options, placing = placed(account, Options.over(name, before, {**given, "store": needs.part}))
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
        Bucket(account, name).exists()  # raises where it is somebody else's
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
        dropped = sorted(set(Options.over(name, before, {}).secrets if before else ()) - set(options.secrets))
        document = body(template(options, code, needs.variables, needs.extras, network, proxy_image))
        progress("asking CloudFormation what would change")
        proposal = stack.propose(document, parameters(settings, needs.variables, state), options.all_tags, state)
        new = state is None or state.in_review
        plan = Plan(account, options, code, stack, proposal, found, new, progress, network, nodes, dropped)
        try:
            yield plan
        finally:
            if not plan.started:
                stack.discard(proposal)


def _in_the_way(account: Account, options: Options, before: Mapping[str, Any]) -> StoreNodes | None:
    """Return the store's nodes where they run in what is to go: the store itself, or the network that it is in."""
    if before.get("store") is None:
        return None
    stays = options.store is not None and list(options.subnets) == list(before.get("subnets", ()))
    return None if stays else StoreNodes(account, options.name)


def _usable(stack: Stack, state: State | None, tell: Tell, remnants: bool) -> State | None:
    """Return the state of a stack that can be created or changed. What a failed one has left is removed."""
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
    """What there is of a deployment.

    Attributes:
        state: of its stack; None: there is none.
        options: as the stack has noted them; None: it has noted nothing.
        bucket: its bucket's name; None: there is none.
        bucket_bytes: how much is in that.
        nodes: the store's on Fargate; None: no part of it is deployed.
    """

    state: State | None
    options: Options | None
    bucket: str | None
    bucket_bytes: int = 0
    nodes: StoreNodes | None = None

    @property
    def nothing(self) -> bool:
        """Whether there is nothing at all."""
        return self.state is None and self.bucket is None


def remains(account: Account, stack: Stack, tell: Tell) -> Remains:
    """Return what there is of a deployment, once nothing is under way. Raises `BackendError` for somebody else's."""
    state = stack.settled(tell)
    options = None
    if state is not None and state.in_review:
        if not stack.only_our_change_sets():
            refuse([foreign(stack.name)])
    elif state is not None:
        if state.tags.get(TAG) != stack.name:
            refuse([foreign(stack.name)])
        metadata = noted(stack.metadata())
        options = Options.over(stack.name, metadata["options"], {}) if "options" in metadata else None
    nodes = None if options is None or not options.has_cluster else StoreNodes(account, stack.name)
    bucket = Bucket(account, stack.name)
    if not bucket.exists():
        return Remains(state, options, None, nodes=nodes)
    return Remains(state, options, bucket.name, bucket.size_bytes(), nodes)


def removed(account: Account, stack: Stack, there: Remains, tell: Tell, progress: Progress) -> None:
    """Remove it all. Raises `BackendError` where something stays; to do it again goes on from there."""
    if there.nodes is not None:
        there.nodes.stop(progress)
    if there.state is not None:
        stack.remove(there.state.id, tell)
    if there.bucket is not None:
        Bucket(account, stack.name).remove()
    _forget(account, () if there.options is None else there.options.secrets)


def _forget(account: Account, secrets: Sequence[str]) -> None:
    """CloudFormation deletes secrets at once; this is to be certain, and no error where one is gone."""
    for secret in secrets:
        account.call("secretsmanager", "delete_secret", SecretId=secret, ForceDeleteWithoutRecovery=True)
