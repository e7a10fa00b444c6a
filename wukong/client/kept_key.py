"""The deployment key that survives its client: if no setting gives one, a file keeps one for each user and store.

    ~/.local/share/wukong/keys/<hash of the store>     mode 0600, in a folder of mode 0700: the key, and which store

So a later client of the same user, on the same machine and with the same store, can take a job over. No key is kept for
the embedded store without a path, which ends with its client. Its key is in its own folder, which only its user can
read: commands that look at its jobs find it there. None is kept for a store that is handed over open.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from wukong.backends.plugins import named
from wukong.backends.storage import Store
from wukong.config import Settings, data_folder
from wukong.errors import ConfigError

__all__ = ["kept_key", "leave_key", "left_key", "place_of", "rotated"]

logger = logging.getLogger("wukong")

_LEAST = 32
_INSIDE = "client-key"
_NO_PLACE = "_s", "_bytes", "_variable", "_file", "_data"
"""How the names of options end that say how to talk to a store, not which store it is."""
_told: set[str] = set()


def place_of(settings: Settings) -> tuple[str, Path] | None:
    """Return which store is configured, in words without secrets, and the file of its key; None: none is kept.

    Raises `OSError` if this user has no folder for data.
    """
    choice = settings.storage
    if not isinstance(choice, (str, Mapping)):
        return None
    name, options = named(choice)
    if name == "local" and options.get("path") is None:
        if settings.keep_in is None:
            return None
        options = {**options, "keep_in": settings.keep_in}  # what is kept there is read by later clients
    store = f"{name}: {json.dumps(_which(name, options), sort_keys=True, default=str)}"
    folder = data_folder()
    if folder is None:
        raise FileNotFoundError("this user has no home directory (HOME, XDG_DATA_HOME)")
    return store, folder / "keys" / blake2b(store.encode(), digest_size=12).hexdigest()


def _which(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in options.items() if not key.endswith(_NO_PLACE) and key != "adopt"}
    if isinstance(found.get("path"), str):
        found["path"] = os.path.realpath(found["path"])
    servers = found.pop("endpoints", None)
    if isinstance(url := found.pop("url", None), str):
        servers = url.partition("://")[2].rpartition("@")[2].rstrip("/").split(",")
    return {**found, "servers": sorted(map(str, servers))} if servers else found


def kept_key(settings: Settings) -> str | None:
    """Return the text of the key that is kept for this store, or of a new one; None: none can be kept.

    Raises `ConfigError` if others can read the file, or if it holds no key.
    """
    try:
        place = place_of(settings)
        if place is None:
            return None
        store, path = place
        if not path.exists():
            _write(path, store, os.link)
        return _read(path)
    except OSError as error:
        if str(error) not in _told:
            _told.add(str(error))
            logger.warning(
                "no deployment key can be kept, and another client cannot take over what this one starts: %s; set "
                "WUKONG_KEY, or XDG_DATA_HOME to a folder that can be written to",
                error,
            )
        return None


def rotated(settings: Settings) -> str | None:
    """Replace the key that is kept by a new one; return its text. Raises `OSError`."""
    place = place_of(settings)
    if place is None:
        return None
    _write(place[1], place[0], os.replace)
    return _read(place[1])


def leave_key(settings: Settings, storage: Store, key: bytes) -> None:
    """Write a client's own key into the folder of its embedded store, if that ends with it."""
    choice = settings.storage
    if settings.key is None and isinstance(choice, (str, Mapping)):
        name, options = named(choice)
        if name == "local" and options.get("path") is None and (place := _inside(storage)) is not None:
            with suppress(OSError), open(place, "xb", opener=partial(os.open, mode=0o600)) as file:
                file.write(key)


def left_key(storage: Store) -> bytes | None:
    """Return the key of the client that has this embedded store open; None: it is not there."""
    place = _inside(storage)
    try:
        return None if place is None else place.read_bytes()
    except OSError:
        return None


def _inside(storage: Store) -> Path | None:
    from wukong.backends.storage.layers.layer import within
    from wukong.backends.storage.local import LocalStore

    embedded = within(storage, LocalStore)
    return None if embedded is None else Path(embedded.path, _INSIDE)


def _write(path: Path, store: str, move: Callable[[str, Path], None]) -> None:
    """Write a new key so that nobody ever reads half a file."""
    path.parent.parent.mkdir(0o700, parents=True, exist_ok=True)
    path.parent.mkdir(0o700, exist_ok=True)
    descriptor, new = tempfile.mkstemp(prefix=".new-", dir=path.parent)  # of mode 0600
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{secrets.token_urlsafe(_LEAST)}\n# {store}\n")
        with suppress(FileExistsError):  # another client was quicker
            move(new, path)
    finally:
        Path(new).unlink(missing_ok=True)


def _read(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise ConfigError(f"other users can read the key in {path}", hint=f"chmod 600 {path}; wukong key rotate")
        text = file.readline().strip()
    if len(text) < _LEAST:
        raise ConfigError(f"there is no key in {path}", hint="wukong key rotate writes a new one")
    return text
