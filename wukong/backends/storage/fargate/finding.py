"""A node's addresses, from AWS's description of its task. Replaceable, because stand-ins for AWS invent addresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from wukong.backends.storage.fargate.account import FargateAccount

__all__ = ["Find", "found"]

Find: TypeAlias = "Callable[[FargateAccount, Mapping[str, Any]], tuple[str | None, str | None]]"
"""``find(account, task)`` returns a task's private and public address, each None if it has none, or none yet."""

_INTERFACE = "ElasticNetworkInterface"


def found(account: FargateAccount, task: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the addresses of a task, as `describe_tasks` describes it; the public one only if this client uses it.

    A task in a VPC has one network interface, which AWS attaches to it some seconds after the request.
    """
    details = {
        detail.get("name"): detail.get("value")
        for attachment in task.get("attachments", ())
        if attachment.get("type") in (_INTERFACE, "eni")
        for detail in attachment.get("details", ())
    }
    private = details.get("privateIPv4Address")
    for container in task.get("containers", ()):
        for interface in container.get("networkInterfaces", ()):
            private = private or interface.get("privateIpv4Address")
    interface_id = details.get("networkInterfaceId")
    public = account.public_address(interface_id) if account.options.public and private and interface_id else None
    return private, public
