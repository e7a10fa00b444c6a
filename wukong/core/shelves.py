"""Where kept values are: bytes by place, in an intermediate store or in files, each with a description beside it."""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from wukong.core.storage import StorePort, joined
from wukong.errors import ConfigError, StoreError

PREFIX = b"kept/"
"""What the places of all values begin with; the name they are kept under follows."""
_ABOUT = b".about"


class Shelf(ABC):
    """Where values are kept. Several may write the same value at once."""

    @abstractmethod
    def write(self, place: bytes, value: Any, about: bytes, ttl_s: float) -> None:
        """Write a value, then its description; readers see each whole, or not at all."""

    @abstractmethod
    def value(self, place: bytes) -> Any:
        """Return the bytes of a value; None: it is not there."""

    @abstractmethod
    def abouts(self, places: Sequence[bytes]) -> list[Any]:
        """Return the descriptions of values; None for what is not there."""

    @abstractmethod
    def places(self) -> list[bytes]:
        """Return the places of all values. Raises StoreError if they cannot be listed."""

    @abstractmethod
    def drop(self, places: Iterable[bytes]) -> None:
        """Delete values, first what is said of them."""


class StoreShelf(Shelf):
    """In an intermediate store, each value for its time to live.

    Args:
        store: the store. scan: lists its keys with a prefix; None: it cannot.
    """

    def __init__(self, store: StorePort, scan: Callable[[bytes], Iterable[bytes]] | None = None) -> None:
        self._store, self._scan = store, scan

    def write(self, place: bytes, value: Any, about: bytes, ttl_s: float) -> None:
        """See `Shelf.write`."""
        self._store.put({place: value}, ttl_s)
        self._store.put({place + _ABOUT: about}, ttl_s)

    def value(self, place: bytes) -> Any:
        """See `Shelf.value`."""
        return self._store.get([place])[0]

    def abouts(self, places: Sequence[bytes]) -> list[Any]:
        """See `Shelf.abouts`."""
        return list(self._store.get([place + _ABOUT for place in places])) if places else []

    def places(self) -> list[bytes]:
        """See `Shelf.places`."""
        if self._scan is None:
            raise StoreError("this store cannot list what is kept in it", hint="what is kept there expires by itself")
        return sorted(key.removesuffix(_ABOUT) for key in self._scan(PREFIX) if key.endswith(_ABOUT))

    def drop(self, places: Iterable[bytes]) -> None:
        """See `Shelf.drop`."""
        places = list(places)
        if places:
            self._store.delete([place + _ABOUT for place in places])
            self._store.delete(places)


class FileShelf(Shelf):
    """In files, by fsspec: a folder, or ``s3://bucket/prefix`` and the like, which all functions have to reach.

    Raises ConfigError if there is no such file system, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        try:
            self._files, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"values cannot be kept in {url!r}: {error}") from error
        self._local = "file" in getattr(self._files, "protocol", ())

    def _path(self, place: bytes) -> str:
        return f"{self._root.rstrip('/')}/{place.decode()}"

    def write(self, place: bytes, value: Any, about: bytes, ttl_s: float) -> None:
        """See `Shelf.write`; files have no time to live."""
        for path, data in ((self._path(place), bytes(joined(value))), (self._path(place + _ABOUT), about)):
            if not self._local:  # object stores write whole objects
                self._files.pipe_file(path, data)
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)
            new = f"{path}.{uuid.uuid4().hex}.new"
            with open(new, "wb") as file:
                file.write(data)
            os.replace(new, path)

    def _read(self, path: str) -> Any:
        try:
            return self._files.cat_file(path)
        except FileNotFoundError:
            return None

    def value(self, place: bytes) -> Any:
        """See `Shelf.value`."""
        return self._read(self._path(place))

    def abouts(self, places: Sequence[bytes]) -> list[Any]:
        """See `Shelf.abouts`."""
        if not places:
            return []
        found = self._files.cat([self._path(place + _ABOUT) for place in places], on_error="omit")
        return [found.get(self._path(place + _ABOUT)) for place in places]

    def places(self) -> list[bytes]:
        """See `Shelf.places`."""
        self._files.invalidate_cache()
        root, found = self._root.rstrip("/") + "/", self._files.find(self._path(PREFIX))
        return sorted(
            path.removeprefix(root).encode().removesuffix(_ABOUT) for path in found if path.endswith(".about")
        )

    def drop(self, places: Iterable[bytes]) -> None:
        """See `Shelf.drop`."""
        for place in places:
            for path in (self._path(place + _ABOUT), self._path(place)):
                try:
                    self._files.rm_file(path)
                except FileNotFoundError:  # somebody else was quicker
                    continue


def shelf_of(url: str | None, store: StorePort) -> Shelf:
    """Return the shelf at this URL; None: the store's."""
    return StoreShelf(store) if url is None else FileShelf(url)
