"""The deployment's key: what signs all that client, executors and proxy exchange."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from hashlib import blake2b

from wukong.backends.faas import FaaS
from wukong.backends.faas.checked import CheckedFaaS
from wukong.errors import BackendError

__all__ = ["deployment_key", "derived"]


def derived(text: str) -> bytes:
    """Return the key, 32 bytes, that the setting `key` stands for."""
    return blake2b(text.encode(), digest_size=32).digest()


def deployment_key(given: str | None, faas: FaaS, kept: Callable[[], str | None] = lambda: None) -> bytes:
    """Return the key, 32 bytes: that of the setting; of functions that are deployed; the kept one; or a new one.

    Raises `BackendError` if functions are deployed already and their key cannot be read: no other key would do.
    """
    if given is not None:
        return derived(given)
    deployed = faas.deployment_key()
    if deployed is not None:
        return bytes.fromhex(deployed)
    if not faas.configurable:
        raise BackendError(
            "the functions' deployment key is not known: their configuration may not be read, or holds none",
            backend=type(faas.inner if isinstance(faas, CheckedFaaS) else faas).__name__,
            hint="give the key that they were deployed with as the setting key (WUKONG_KEY), or, on AWS, allow "
            "lambda:GetFunctionConfiguration and, for a key in Secrets Manager, secretsmanager:GetSecretValue",
        )
    text = kept()
    return secrets.token_bytes(32) if text is None else derived(text)
