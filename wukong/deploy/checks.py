"""Checks before anything is created: for what AWS would refuse later, or what would not work once deployed.

    identity -> names that are taken -> limits of the account -> network -> permissions

Each check asks AWS and creates nothing. All mistakes are reported at once, each with what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from wukong.backends.faas.aws_lambda.deployed import KEY_VARIABLE, SECRET_VARIABLE
from wukong.backends.storage.fargate.script import PASSWORD_VARIABLE
from wukong.deploy.account import DeployAccount, DeployRefused
from wukong.deploy.changes import StackState
from wukong.deploy.finding import Finding
from wukong.deploy.name_conflicts import name_conflicts
from wukong.deploy.network import Network
from wukong.deploy.options import SNAPSTART_PYTHONS, TAG, DeployOptions
from wukong.deploy.permissions import permission_findings
from wukong.deploy.store import PASSWORD_CHARS
from wukong.deploy.template import HASHES, VARIABLES_BYTES

UNRESERVED = 100
"""How many concurrent executions Lambda keeps for functions without a reservation."""
_FEW = 100
_MORE = "ask AWS for a higher quota (Service Quotas, Lambda, 'Concurrent executions')"
_ARN_BYTES = 120
"""The approximate length of a secret's ARN."""


def findings(
    account: DeployAccount,
    options: DeployOptions,
    state: StackState | None,
    noted: Mapping[str, Any],
    store_variables: Mapping[str, str | None],
    network: Network | None,
    network_findings: Iterable[Finding],
    *,
    requirements_said: bool = False,
    permissions: bool = True,
) -> Iterator[Finding]:
    """Yield mistakes and notes.

    Args:
        account: to deploy to.
        options: checked ones.
        state: of the stack of that name; None if there is none.
        noted: the stack's own record.
        store_variables: variables that the configured store needs in functions.
        network: of functions; None: in no VPC.
        network_findings: the findings about it.
        requirements_said: the user has said whether there are requirements.
        permissions: ask IAM's policy simulator as well.
    """
    if state is not None and not state.in_review:
        if state.tags.get(TAG) != options.name:
            yield foreign(options.name)
            return
        yield from _kind(options, noted, requirements_said)
    if options.snapstart and options.python not in SNAPSTART_PYTHONS:
        yield Finding(
            f"Lambda takes no snapshots of functions on Python {options.python}",
            f"--snapstart goes with --python {' or '.join(SNAPSTART_PYTHONS)}, and clients need the same one",
        )
    yield from _variables(options, store_variables)
    yield from name_conflicts(account, options, noted, network)
    yield from _concurrency(account, options, noted)
    yield from network_findings
    if permissions:
        yield from permission_findings(account, options)


def foreign(name: str) -> Finding:
    """Return the finding for a stack that somebody else has made."""
    return Finding(
        f"there is a stack {name}, and it is not one of Wukong's: it has no tag {TAG}={name}", "give another --name"
    )


def _kind(options: DeployOptions, noted: Mapping[str, Any], requirements_said: bool) -> Iterator[Finding]:
    """Yield a finding if a package would become an image or the reverse, or if it would lose its requirements."""
    code = noted.get("code", {})
    before, wanted = code.get("kind"), "package" if options.image is None else "image"
    if before is not None and before != wanted:
        yield Finding(
            f"the functions run {_a(before)}, and Lambda cannot change that to {_a(wanted)}",
            f"'wukong destroy --name {options.name}' first, or deploy under another --name",
        )
    elif code.get("requirements") and wanted == "package" and options.requirements is None and not requirements_said:
        yield Finding(
            f"the package that is deployed has been built with --requirements {code['requirements']}, and this one "
            "would be without",
            "give --requirements again, or --requirements none to do without",
        )


def _a(kind: str) -> str:
    return f"an {kind}" if kind == "image" else f"a {kind}"


def _variables(options: DeployOptions, store_variables: Mapping[str, str | None]) -> Iterator[Finding]:
    total = sum(map(len, [*HASHES, *HASHES.values()]))
    total += len(PASSWORD_VARIABLE) + PASSWORD_CHARS if options.on_fargate else 0
    total += sum(len(name.encode()) + len((value or "").encode()) for name, value in store_variables.items())
    total += max(len(KEY_VARIABLE) + 64, len(SECRET_VARIABLE) + _ARN_BYTES)
    if total > VARIABLES_BYTES:
        yield Finding(
            f"the functions' variables would have {total:,} bytes; Lambda takes {VARIABLES_BYTES:,}",
            "the store's are too long: give it shorter passwords",
        )


def _concurrency(account: DeployAccount, options: DeployOptions, noted: Mapping[str, Any]) -> Iterator[Finding]:
    try:
        limits = account.call("lambda", "get_account_settings")["AccountLimit"]
    except DeployRefused as error:
        if error.denied or not error.unknown_operation:
            raise
        yield Finding(f"the account's limits are not known: {error.message}", "nothing need be done", fatal=False)
        return
    total, free = int(limits["ConcurrentExecutions"]), int(limits["UnreservedConcurrentExecutions"])
    before = noted.get("options", {})
    had = int(before.get("functions", 0)) + len(before.get("larger_mb", ()))
    ours = had * int(before.get("reserved_concurrency") or 0)  # This deployment gives them back.
    most = max(0, free + ours - UNRESERVED)
    if options.reserved_concurrency is not None:
        functions = len(options.function_names)
        wanted = options.reserved_concurrency * functions
        if wanted > most:
            yield Finding(
                f"{wanted:,} concurrent executions cannot be reserved: of the account's {total:,} {most:,} can, as "
                f"{UNRESERVED} have to stay unreserved, and others may have reserved some",
                f"give at most --reserved-concurrency {most // functions}; or {_MORE}"
                if most >= functions
                else f"leave --reserved-concurrency out, or {_MORE}",
            )
    if options.provisioned_concurrency is not None and options.reserved_concurrency is None:
        wanted = options.provisioned_concurrency * options.functions
        if wanted > most:
            yield Finding(
                f"{wanted:,} environments cannot be provisioned: of the account's {total:,} executions {most:,} can, "
                f"as {UNRESERVED} have to stay free, and others may have reserved some",
                f"give at most --provisioned-concurrency {most // options.functions}; or {_MORE}"
                if most >= options.functions
                else f"leave --provisioned-concurrency out, or {_MORE}",
            )
    if total <= _FEW:
        yield Finding(
            f"this account may run {total:,} functions at once, as new ones may",
            f"jobs run on that many executors at most; {_MORE}",
            fatal=False,
        )
