"""A CloudFormation stack: propose a change set, carry it out, follow it until it has settled; remove the stack.

    absent --propose--> in review --execute--> CREATE_COMPLETE --propose, execute--> UPDATE_COMPLETE --remove--> absent
                          |                       | failed: ROLLBACK_COMPLETE, of no more use: removed
                          +--discard--> absent

A change set of a stack that does not exist makes one, "in review", without resources; `discard` removes it.
CloudFormation works on by itself: after an interrupt, the stack can be found again by its name.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from wukong.core.interrupts import heeded
from wukong.deploy.account import BACKEND, DeployAccount, DeployRefused
from wukong.deploy.changes import Change, Event, Proposal, StackState, Tell
from wukong.errors import BackendError

NOTHING_TO_CHANGE = ("didn't contain changes", "No updates are to be performed")
LIMIT_S = 2_700.0
"""How long to follow. AWS takes up to half an hour to remove network interfaces of functions in a VPC."""

T = TypeVar("T")

_CHANGE_SETS = "wukong-"


class StackFailed(BackendError):
    """CloudFormation has ended without success."""


class Stack:
    """The stack of this name in an account.

    Args:
        account: of the stack.
        name: of the stack.
        pause_s: seconds between two looks at what CloudFormation does.
        limit_s: how long to follow it.
    """

    def __init__(self, account: DeployAccount, name: str, *, pause_s: float = 2.0, limit_s: float = LIMIT_S) -> None:
        self._account, self.name = account, name
        self._pause_s, self._limit_s = pause_s, limit_s

    # --- reading

    def state(self, stack_id: str | None = None) -> StackState | None:
        """Return the state of the stack, or of the one with this id; None if it does not exist."""
        try:
            [found] = self._call("describe_stacks", StackName=stack_id or self.name)["Stacks"]
        except DeployRefused as error:
            if error.code == "ValidationError" and "does not exist" in error.message:
                return None
            raise
        state = StackState.of(found)
        return None if state.deleted and stack_id is None else state

    def metadata(self) -> Mapping[str, Any]:
        """Return the metadata of the stack's template; empty if there is none."""
        told = self._call("get_template", StackName=self.name, TemplateStage="Original")["TemplateBody"]
        if isinstance(told, str):
            try:
                told = json.loads(told)
            except ValueError:  # YAML: not written by Wukong
                return {}
        found = told.get("Metadata", {})
        return found if isinstance(found, Mapping) else {}

    def only_our_change_sets(self) -> bool:
        """Return whether all change sets of the stack were made here. A stack in review consists of nothing else."""
        names = self._account.pages("cloudformation", "list_change_sets", "Summaries", StackName=self.name)
        return all(each["ChangeSetName"].startswith(_CHANGE_SETS) for each in names)

    def events(self, stack_id: str, after: str | None = None) -> list[Event]:
        """Return a stack's events after the event with the id `after`, the oldest first."""
        found: list[Event] = []
        for each in self._account.pages("cloudformation", "describe_stack_events", "StackEvents", StackName=stack_id):
            if each["EventId"] == after:
                break
            found.append(Event.of(each))
        return found[::-1]

    # --- change sets

    def propose(
        self, body: str, parameters: Sequence[Mapping[str, Any]], tags: Mapping[str, str], state: StackState | None
    ) -> Proposal:
        """Make a change set that turns the stack, now in `state`, into what the template says. Changes nothing yet."""
        creates = state is None or state.in_review
        try:
            made = self._call(
                "create_change_set",
                StackName=self.name,
                ChangeSetName=f"{_CHANGE_SETS}{secrets.token_hex(8)}",
                ChangeSetType="CREATE" if creates else "UPDATE",
                TemplateBody=body,
                Parameters=list(parameters),
                Capabilities=["CAPABILITY_NAMED_IAM"],
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )
        except DeployRefused as error:
            if state is not None and _nothing_to_change(error.message):
                return Proposal(None, state.id, False)
            raise
        proposal = Proposal(made["Id"], made["StackId"], creates)
        try:
            changes = self._proposed(proposal)
            if changes is not None:
                return Proposal(proposal.id, proposal.stack_id, creates, changes)
        except BaseException:
            self.discard(proposal)
            raise
        self.discard(proposal)
        return Proposal(None, proposal.stack_id, creates)

    def _proposed(self, proposal: Proposal) -> tuple[Change, ...] | None:
        """Wait for a change set; return its changes, None if there are none. Raises `BackendError` if it fails."""

        def ended() -> Mapping[str, Any] | None:
            found = self._change_set(proposal)
            return found if found["Status"] in ("CREATE_COMPLETE", "FAILED") else None

        told = self._until("the change set", ended)
        if told["Status"] == "FAILED":
            reason = told.get("StatusReason", "no reason is given")
            if _nothing_to_change(reason):
                return None
            raise BackendError(f"CloudFormation cannot plan this: {reason}", backend=BACKEND)
        changes = list(told.get("Changes", ()))
        while told.get("NextToken"):
            told = self._change_set(proposal, NextToken=told["NextToken"])
            changes += told.get("Changes", ())
        return tuple(Change.of(each["ResourceChange"]) for each in changes if "ResourceChange" in each)

    def _change_set(self, proposal: Proposal, **more: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._call(
            "describe_change_set", ChangeSetName=proposal.id, StackName=proposal.stack_id, **more
        )
        return found

    def discard(self, proposal: Proposal) -> None:
        """Remove a change set, and its stack if that is in review only."""
        if proposal.id is not None:
            self._call("delete_change_set", ChangeSetName=proposal.id, StackName=proposal.stack_id)
        if proposal.creates:
            self._call("delete_stack", StackName=proposal.stack_id)

    # --- carrying out

    def start(self, proposal: Proposal) -> str | None:
        """Make CloudFormation carry out a change set; return the id of the last event before, for `finish`."""
        seen = self._last_event(proposal.stack_id)
        self._call("execute_change_set", ChangeSetName=proposal.id, StackName=proposal.stack_id)
        return seen

    def finish(self, proposal: Proposal, seen: str | None, tell: Tell) -> StackState:
        """Follow what `start` has begun to its end. Raises `StackFailed`, with the reason, if CloudFormation fails.

        Removes a stack that could not be created; CloudFormation rolls back one that could not be changed. Raises
        `BackendError` if the time limit ends first: CloudFormation goes on.
        """
        failures: list[Event] = []
        state = self._follow(proposal.stack_id, seen, tell, failures)
        if state.sound and "ROLLBACK" not in state.status:
            return state
        reasons = "; ".join(map(str, failures)) or state.reason
        if proposal.creates:
            if state.of_no_use:
                self.remove(proposal.stack_id, tell)
            raise StackFailed(
                f"the stack {self.name} could not be created, and nothing of it is left: {reasons}",
                backend=BACKEND,
                hint=_advice(reasons),
            )
        after = "is as it was before" if state.sound else f"is {state.status}"
        raise StackFailed(
            f"the stack {self.name} could not be changed, and {after}: {reasons}",
            backend=BACKEND,
            hint=_advice(reasons) if state.sound else _STUCK,
        )

    def remove(self, stack_id: str, tell: Tell) -> None:
        """Remove the stack of this id with all its resources. Raises `BackendError` if something stays."""
        seen = self._last_event(stack_id)
        self._call("delete_stack", StackName=stack_id)
        failures: list[Event] = []
        state = self._follow(stack_id, seen, tell, failures)
        if not state.deleted:
            reasons = "; ".join(map(str, failures)) or state.reason
            raise BackendError(
                f"the stack {self.name} could not be removed and is {state.status}: {reasons}",
                backend=BACKEND,
                hint="remove what is named there, then 'wukong destroy' again",
            )

    def settled(self, tell: Tell) -> StackState | None:
        """Wait until CloudFormation is idle; return the stack's state, None if it does not exist."""
        state = self.state()
        if state is None or state.settled:
            return state
        state = self._follow(state.id, self._last_event(state.id), tell, [], begun=True)
        return None if state.deleted else state

    def _follow(
        self, stack_id: str, seen: str | None, tell: Tell, failures: list[Event], *, begun: bool = False
    ) -> StackState:
        """Report events after `seen` until the stack has settled, and return its state.

        Just after a call a stack may still look as it did before. So the operation counts as ended only when an event
        of the stack itself says so; `begun`: the operation has been seen under way already.
        """
        told: set[str] = set()

        def ended() -> StackState | None:
            nonlocal seen
            state = self.state(stack_id)
            for event in self.events(stack_id, seen):
                seen = event.id
                if event.logical == self.name:
                    told.add(event.status)
                elif event.failed:
                    failures.append(event)
                tell(event)
            if state is None:  # AWS forgets a deleted stack's id after some time
                return StackState(stack_id, "DELETE_COMPLETE")
            return state if state.settled and (begun or state.status in told) else None

        return self._until(f"the stack {self.name}", ended)

    def _last_event(self, stack_id: str) -> str | None:
        pages = self._account.pages("cloudformation", "describe_stack_events", "StackEvents", StackName=stack_id)
        return next((str(each["EventId"]) for each in pages), None)

    def _until(self, what: str, look: Callable[[], T | None]) -> T:
        """Call `look` until it returns something; return that. Raises `BackendError` when the time is up."""
        began_s = time.monotonic()
        with heeded() as interrupted:
            while (found := look()) is None:
                interrupted()
                if time.monotonic() - began_s > self._limit_s:
                    raise BackendError(
                        f"{what} is not done after {self._limit_s:,.0f} s; CloudFormation goes on by itself",
                        backend=BACKEND,
                        hint="'wukong status' shows how far it is; 'wukong deploy' and 'wukong destroy' wait for it",
                    )
                time.sleep(self._pause_s)
            return found

    def _call(self, operation: str, **arguments: Any) -> Any:
        return self._account.call("cloudformation", operation, **arguments)


_PROXY_FAILS = (
    "the proxy does not start: its image has to have Wukong in it and be for the functions' architecture, and its "
    "subnets need a way to ECR, Secrets Manager and CloudWatch Logs"
)
_STUCK = "'wukong destroy' removes it; or see its events in the CloudFormation console, and continue the rollback there"


def _nothing_to_change(reason: str) -> bool:
    return any(words in reason for words in NOTHING_TO_CHANGE)


def _advice(reasons: str) -> str | None:
    """Return what to do about AWS's own reasons."""
    for words, advice in (
        ("already exists", "something of that name is there and not of this stack: remove it, or give another --name"),
        ("not authorized", "'wukong deploy --policy' prints the permissions that it takes"),
        ("AccessDenied", "'wukong deploy --policy' prints the permissions that it takes"),
        ("MemorySize", "new accounts may have at most 3,008 MB: give less, or ask AWS for more"),
        ("ReservedConcurrentExecutions", "give a smaller --reserved-concurrency, or none"),
        ("UnreservedConcurrentExecution", "give a smaller --reserved-concurrency, or none"),
        ("circuit breaker", _PROXY_FAILS),
        ("rate exceeded", "AWS was asked too often: try again"),
    ):
        if words.lower() in reasons.lower():
            return advice
    return None
