"""CloudFormation's answers: a stack's state, its events, its change sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

_REVIEW = "REVIEW_IN_PROGRESS"
_SOUND = frozenset(
    {
        "CREATE_COMPLETE",
        "UPDATE_COMPLETE",
        "UPDATE_ROLLBACK_COMPLETE",
        "IMPORT_COMPLETE",
        "IMPORT_ROLLBACK_COMPLETE",
    }
)
_OF_NO_USE = frozenset({"CREATE_FAILED", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "DELETE_FAILED"})


@dataclass(frozen=True, slots=True)
class StackState:
    """A stack as CloudFormation describes it."""

    id: str
    status: str
    reason: str = ""
    outputs: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    parameters: frozenset[str] = frozenset()

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> StackState:
        """Read a stack from the answer to ``DescribeStacks``."""
        return cls(
            told["StackId"],
            told["StackStatus"],
            told.get("StackStatusReason", ""),
            {each["OutputKey"]: each["OutputValue"] for each in told.get("Outputs", ())},
            {each["Key"]: each["Value"] for each in told.get("Tags", ())},
            frozenset(each["ParameterKey"] for each in told.get("Parameters", ())),
        )

    @property
    def deleted(self) -> bool:
        """Whether it has been deleted."""
        return self.status == "DELETE_COMPLETE"

    @property
    def settled(self) -> bool:
        """Whether CloudFormation is idle. A stack in review counts as idle: it waits for somebody."""
        return self.in_review or not self.status.endswith("_IN_PROGRESS")

    @property
    def in_review(self) -> bool:
        """Whether it has only change sets, and no resources yet."""
        return self.status == _REVIEW

    @property
    def sound(self) -> bool:
        """Whether it is complete and can be changed."""
        return self.status in _SOUND

    @property
    def of_no_use(self) -> bool:
        """Whether it can only be removed."""
        return self.status in _OF_NO_USE


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a resource, or of the stack itself. `logical` is its name in the template."""

    id: str
    logical: str
    kind: str
    status: str
    reason: str = ""

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Event:
        """Read an event from the answer to ``DescribeStackEvents``."""
        return cls(
            told["EventId"],
            told["LogicalResourceId"],
            told.get("ResourceType", ""),
            told.get("ResourceStatus", ""),
            told.get("ResourceStatusReason", ""),
        )

    def __str__(self) -> str:
        return f"{self.logical} ({self.kind}): {self.reason}"

    @property
    def failed(self) -> bool:
        """Whether it failed by itself, and not because another resource had failed."""
        return self.status.endswith("FAILED") and "cancelled" not in self.reason


Tell = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one resource in a change set.

    Attributes:
        action: ``Add``, ``Modify``, ``Remove``, ...
        logical, kind: the resource's name in the template, and its type.
        replaced: whether it would be deleted and made anew.
        what: the properties that would change.
    """

    action: str
    logical: str
    kind: str
    replaced: bool = False
    what: tuple[str, ...] = ()

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Change:
        """Read a change from the answer to ``DescribeChangeSet``."""
        targets = [each["Target"] for each in told.get("Details", ()) if "Target" in each]
        what = {str(each.get("Name") or each.get("Attribute", "")) for each in targets}
        replaced = told.get("Replacement") in ("True", "Conditional")
        return cls(
            told["Action"], told["LogicalResourceId"], told["ResourceType"], replaced, tuple(sorted(what - {""}))
        )


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change set. `id` is None if there is nothing to change; `creates`: its stack does not exist yet."""

    id: str | None
    stack_id: str
    creates: bool
    changes: tuple[Change, ...] = ()
