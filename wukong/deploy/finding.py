"""The findings of the checks before a deployment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wukong.deploy.account import BACKEND
from wukong.errors import BackendError


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing.

    Attributes:
        what: what was found.
        todo: what to do about it.
        fatal: nothing can be deployed before `todo` is done.
    """

    what: str
    todo: str
    fatal: bool = True


def refuse(findings: Sequence[Finding]) -> None:
    """Raise one `BackendError` with all fatal findings among these."""
    fatal = [each for each in findings if each.fatal]
    if len(fatal) == 1:
        raise BackendError(fatal[0].what, backend=BACKEND, hint=fatal[0].todo)
    if fatal:
        listed = "".join(f"\n  {n}. {each.what}\n     -> {each.todo}" for n, each in enumerate(fatal, 1))
        raise BackendError(f"{len(fatal)} things are in the way, and nothing was created:{listed}")
