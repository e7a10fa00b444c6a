"""The embedded store's errors, and what to do about each."""

from __future__ import annotations

import lmdb

from wukong.backends.storage.local.directory import BACKEND
from wukong.errors import StoreError, StoreFull, StoreUnavailable


def damaged(what: str, key: bytes, error: Exception) -> StoreError:
    return StoreError(
        f"the {what} {key!r} is damaged: {error}",
        backend=BACKEND,
        hint="another program writes into the store's directory, or its disk has failed: begin with a new one",
    )


def full(what: str, path: str) -> StoreFull:
    return StoreFull(
        f"The store at {path} {what}.",
        backend=BACKEND,
        hint="raise the option size_bytes if it is set, else name as `path` a directory on a larger file system",
    )


def failure(error: lmdb.Error) -> StoreError:
    if isinstance(error, lmdb.ReadersFullError):
        return StoreUnavailable(f"The store has too many readers at once: {error}.", backend=BACKEND)
    return StoreError(f"The store's database failed: {error}.", backend=BACKEND)
