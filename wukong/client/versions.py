"""What a client and its functions are made of, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wukong.backends.faas.description import describe, differences
from wukong.client.calls import call
from wukong.errors import BackendError

if TYPE_CHECKING:
    from wukong.client.session import Session


def versions(session: Session, *, check: bool, modules: Sequence[str]) -> dict[str, Any]:
    """See `wukong.client.session.Session.get_versions`."""
    here = describe(modules)
    [asked] = call(session, describe, [(list(modules),)], [{}], None, retries=None, pure=False, budget_usd=None)
    there = asked._result()
    found = list(differences(here, there))
    found += [f"{name} is not installed on the function" for name in there["missing"] if name not in here["missing"]]
    if check and found:
        raise BackendError(f"client and function do not fit: {'; '.join(found)}", hint="deploy the function again")
    return {"client": here, "function": there, "differences": found}
