"""The functions' secrets: the deployment's key, and the credentials of the store.

They go to CloudFormation as parameters that are never shown (``NoEcho``), and from there into the functions'
configuration or into Secrets Manager. The first deployment makes a random key; CloudFormation keeps it for later ones,
so it is never read back. Secrets are never written to a file, a log or the screen.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b, scrypt
from typing import Any

from wukong.backends.plugins import load_storage, named
from wukong.backends.storage import Store
from wukong.config import Settings
from wukong.deploy.changes import StackState
from wukong.deploy.finding import Finding
from wukong.deploy.options import StoreIn
from wukong.deploy.template import KEY_PARAMETER, store_parameters
from wukong.errors import ConfigError

_KEY_BYTES = 32
_LOCAL, _FARGATE, _TABLE, _NONE = "local", "fargate", "dynamodb", "none"
_CLIENTS = {"wukong.backends.storage.memcached": "memcached"}
"""Wukong's extra that a store's module needs in functions, besides ``redis``, which all of them get."""

_NOTHING_RUNS = "nothing need be done: it takes no server and no VPC; --storage names another, or none"
_TODO = "before a job, set one that functions reach: WUKONG_STORAGE=rediss://host:6379, or fargate"


@dataclass(frozen=True, slots=True)
class StoreNeeds:
    """What the store needs in functions.

    Attributes:
        variables: by name; a value of None keeps the deployed one.
        extras: of Wukong's, for the package.
        notes: findings for the user.
        part: the part of the store that is deployed with the functions.
    """

    variables: Mapping[str, str | None]
    extras: tuple[str, ...] = ("redis",)
    notes: tuple[Finding, ...] = ()
    part: StoreIn | None = None


def parameters(
    settings: Settings, variables: Mapping[str, str | None], state: StackState | None
) -> list[dict[str, Any]]:
    """Return the stack's parameters, as `create_change_set` takes them.

    The key is that of the setting ``key``; without the setting, that of the stack; else a new one. `variables` are
    those of `StoreNeeds`.
    """
    has_one = state is not None and KEY_PARAMETER in state.parameters
    key = key_of(settings.key) if settings.key is not None else None if has_one else secrets.token_hex(_KEY_BYTES)
    by_name = store_parameters(variables)
    values = {KEY_PARAMETER: key, **{by_name[name]: value for name, value in variables.items()}}
    return [
        {"ParameterKey": name, **({"UsePreviousValue": True} if value is None else {"ParameterValue": value})}
        for name, value in sorted(values.items())
    ]


def marked(given: Sequence[Mapping[str, Any]], before: Mapping[str, str]) -> dict[str, str]:
    """Return a mark of each hidden value: a salted scrypt. The marks of different values differ.

    Marks can be read in the stack's template: to find a value by its mark takes as much effort as to try passwords.

    Args:
        given: what `parameters` returns. The mark of a value that is kept stays.
        before: the marks that the stack records; empty if it records none.
    """
    found = {"salt": before.get("salt") or secrets.token_hex(16)}
    for each in given:
        name, value = each["ParameterKey"], each.get("ParameterValue")
        found[name] = before.get(name, "") if value is None else _mark(value, found["salt"])
    return found


def _mark(value: str, salt: str) -> str:
    return scrypt(value.encode(), salt=bytes.fromhex(salt), n=2**14, r=8, p=1, dklen=9).hex()


def key_of(text: str) -> str:
    """Return the hex key that a client with the setting ``key=text`` signs with."""
    return blake2b(text.encode(), digest_size=_KEY_BYTES).hexdigest()


@contextmanager
def _opened(settings: Settings) -> Iterator[Store | None]:
    """The configured store; None if it is the embedded one, which functions on AWS cannot reach."""
    choice = settings.storage
    if not isinstance(choice, Store) and named(choice)[0] == _LOCAL:
        yield None
        return
    store = load_storage(choice)
    try:
        yield store
    finally:
        if store is not choice:
            store.close()


def uses_fargate(settings: Settings) -> bool:
    """Return whether the configured store is the one on Fargate."""
    return not isinstance(settings.storage, Store) and named(settings.storage)[0] == _FARGATE


def _table_of(options: Mapping[str, Any], name: str) -> str:
    """Return the table that the options of the store in DynamoDB mean; if they name none, that of the deployment."""
    url = options.get("url")
    return str(options.get("table", name)) if url is None else str(url).removeprefix("dynamodb://")


def store_needs(settings: Settings, noted: Mapping[str, Any], name: str) -> StoreNeeds:
    """Return what the configured store needs in functions. If none is configured, the deployed one stays.

    The first deployment then has one in DynamoDB, as that needs nothing. That one, and a store on Fargate, are not
    opened: they are made with the functions. Raises `ConfigError` if one belongs to another deployment.

    Args:
        settings: the configuration.
        noted: the stack's own record.
        name: of the deployment.
    """
    choice = settings.storage
    plugin, options = ("", {}) if isinstance(choice, Store) else named(choice)
    if plugin == _NONE:
        return StoreNeeds({})
    if plugin == _FARGATE:
        theirs = options.get("deployment", name)
        if theirs != name:
            raise ConfigError(
                f"the store that is configured is of the deployment {theirs!r}, and this one is called {name!r}",
                hint=f"give --name {theirs}, or --set storage.deployment={name}",
            )
        return StoreNeeds({}, part="fargate")
    if plugin == _TABLE:
        table = _table_of(options, name)
        if table != name:
            raise ConfigError(
                f"the table that is configured is called {table!r}, and that of this deployment {name!r}",
                hint=f"give --name {table}, or --set storage.table={name}",
            )
        return StoreNeeds({}, part="dynamodb")
    if plugin == _LOCAL and not noted:
        note = Finding(
            "no store is configured for AWS, so the deployment has one in DynamoDB and S3", _NOTHING_RUNS, fatal=False
        )
        return StoreNeeds({}, notes=(note,), part="dynamodb")
    with _opened(settings) as store:
        if store is not None:
            spec = store.spec()
            text = f"{spec.target} {dict(spec.options)}"
            extras = (extra for module, extra in _CLIENTS.items() if module in text)
            return StoreNeeds(dict(store.environment()), ("redis", *extras))
    what = "the configured store is the embedded one of this machine"
    kept, part = noted.get("store", {}), noted.get("options", {}).get("store")
    if part is not None:
        return StoreNeeds(
            {}, ("redis",), (Finding(f"{what}, so the store that is deployed stays: {part}", _TODO, fatal=False),), part
        )
    if kept.get("variables"):
        what += f", so what opens the one that was configured before stays: {', '.join(kept['variables'])}"
    note = Finding(what, _TODO, fatal=False)
    return StoreNeeds(dict.fromkeys(kept.get("variables", ())), tuple(kept.get("extras", ("redis",))), (note,))
