"""A node, read from AWS's description of its task, and the reason why one has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Node", "index_of", "slot_name", "story_of"]

_SLOT = "node-"


@dataclass(frozen=True, slots=True)
class Node:
    """One Redis server on Fargate.

    Attributes:
        slot: ``node-0``, ``node-1``, ...: its share of the keys.
        generation: grows with every node that takes the slot.
        task: the ARN of its task.
        state: as ECS calls it: ``PROVISIONING``, ``PENDING``, ``RUNNING``, ...
        address: its private address; None: not known yet.
        since: Unix time of its start, as ECS has it.
        public_address: if it has one and this client uses it; else None.
        health: as ECS calls it: ``HEALTHY``, ``UNHEALTHY`` or ``UNKNOWN``.
        keep: the node stays when the last client has left.
        shape: as text, see `wukong.backends.storage.fargate.options.Shape.tag`.
    """

    slot: str
    generation: int
    task: str
    state: str
    address: str | None
    since: float
    public_address: str | None = None
    health: str = "UNKNOWN"
    keep: bool = False
    shape: str = ""

    @classmethod
    def of(cls, task: Mapping[str, Any], address: str | None, public_address: str | None) -> Node | None:
        """Return the node that a task runs, as `describe_tasks` describes it; None if it runs no node."""
        tags = {tag.get("key"): tag.get("value", "") for tag in task.get("tags", ())}
        slot, generation = tags.get("wukong:slot", ""), tags.get("wukong:generation", "")
        if index_of(slot) is None or not generation.isdecimal():
            return None
        created: Any = task.get("createdAt")
        return cls(
            slot,
            int(generation),
            str(task["taskArn"]),
            str(task.get("lastStatus", "PROVISIONING")),
            address,
            created.timestamp() if hasattr(created, "timestamp") else 0.0,
            public_address,
            str(task.get("healthStatus", "UNKNOWN")),
            tags.get("wukong:keep") == "yes",
            tags.get("wukong:shape", ""),
        )


def slot_name(index: int) -> str:
    """Return a slot's name."""
    return f"{_SLOT}{index}"


def index_of(slot: str) -> int | None:
    """Return a slot's number; None if this is no slot's name."""
    number = slot.removeprefix(_SLOT)
    return int(number) if slot.startswith(_SLOT) and number.isdecimal() else None


def is_over(task: Mapping[str, Any]) -> bool:
    """Whether a task has ended, or is about to."""
    return task.get("desiredStatus") == "STOPPED" or task.get("lastStatus") in (
        "DEACTIVATING",
        "STOPPING",
        "DEPROVISIONING",
        "STOPPED",
        "DELETED",
    )


def story_of(task: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return why a task has ended, as far as AWS says, and what to do about it."""
    said = [str(task.get("stoppedReason") or task.get("stopCode") or "no reason given")]
    for container in task.get("containers", ()):
        code, reason = container.get("exitCode"), container.get("reason")
        if code is not None or reason:
            ended = f"exit code {code}" if code is not None else "never started"
            said.append(f"container {container.get('name', '?')}: {', '.join(filter(None, (ended, reason)))}")
    story = "; ".join(said)
    return story, next((hint for word, hint in _HINTS if word in story), None)


_HINTS = (
    (
        "CannotPullContainer",
        "the image's name, or the way to it: nodes in a private subnet need a NAT gateway or endpoints, others public "
        "addresses (public_ip=True); an image may also be for another architecture",
    ),
    (
        "ResourceInitializationError",
        "nodes get their secret and their log from AWS: their subnets need a NAT gateway or endpoints for it, or they "
        "need public addresses (public_ip=True); and the role NAME-store has to permit it",
    ),
    ("OutOfMemory", "a larger memory_mb, or more nodes"),
    ("exec format error", "the image is for another architecture: see the option architecture"),
)
