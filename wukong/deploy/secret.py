"""What functions must know and nobody may see: the deployment's key, and what opens the store.

They go to CloudFormation as parameters that are never shown (``NoEcho``), and from there into the functions'
configuration or into Secrets Manager. The key is random, made with the first deployment; CloudFormation keeps it over
later ones, so it is not even read back. Nothing of this is written to a file, a log or the screen.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any

from wukong.backends.plugins import load_storage, named
from wukong.backends.storage import Store
from wukong.config import Settings
from wukong.deploy.changes import State
from wukong.deploy.finding import Finding
from wukong.deploy.template import KEY_PARAMETER, store_parameters

_KEY_BYTES = 32
_LOCAL = "local"
_CLIENTS = {"wukong.backends.storage.memcached": "memcached"}
"""Which extra of Wukong's a store's module needs in functions, besides ``redis``, which all of them get."""


def parameters(settings: Settings, store_variables: Mapping[str, str], state: State | None) -> list[dict[str, Any]]:
    """Return the stack's parameters, as `create_change_set` takes them.

    The key is that of the setting ``key``, where there is one; else the one the stack has; else a new one.
    """
    key: dict[str, Any] = {"ParameterKey": KEY_PARAMETER}
    if settings.key is not None:
        key["ParameterValue"] = key_of(settings.key)
    elif state is not None and KEY_PARAMETER in state.parameters:
        key["UsePreviousValue"] = True
    else:
        key["ParameterValue"] = secrets.token_hex(_KEY_BYTES)
    by_name = store_parameters(store_variables)
    return [
        key,
        *({"ParameterKey": by_name[name], "ParameterValue": value} for name, value in sorted(store_variables.items())),
    ]


def key_of(text: str) -> str:
    """Return the hex key that a client with the setting ``key=text`` signs with."""
    return blake2b(text.encode(), digest_size=_KEY_BYTES).hexdigest()


@contextmanager
def _opened(settings: Settings) -> Iterator[Store | None]:
    """The configured store; None where it is the embedded one, which functions elsewhere cannot reach."""
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


def store_needs(settings: Settings) -> tuple[dict[str, str], tuple[str, ...], list[Finding]]:
    """Return what the configured store needs in functions: variables, extras of Wukong's; and what is to be said."""
    with _opened(settings) as store:
        if store is None:
            advice = "before a job, set one that they reach: WUKONG_STORAGE=rediss://host:6379"
            return {}, ("redis",), [Finding("the configured store is the embedded one of this machine", advice, False)]
        spec = store.spec()
        text = f"{spec.target} {dict(spec.options)}"
        extras = ("redis", *(extra for module, extra in _CLIENTS.items() if module in text))
        return dict(store.environment()), extras, []
