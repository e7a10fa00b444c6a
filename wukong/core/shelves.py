"""Where kept values are: bytes by place, in an intermediate store or in files, each with a description beside it."""

from __future__ import annotations

import math
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO

from wukong.core.storage import StorePort, joined
from wukong.errors import ConfigError, StoreError

PREFIX = b"kept/"
"""What the places of all values begin with; the name they are kept under follows."""
_TRIES = 3
_ABOUT = b".about"
_NEW = ".new"
_HINT = "keep_in must be a place that client and functions may read and write, and that has room"


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

    def sweep(self, older_s: float) -> int:
        """Delete what writers that died have left, if it is older than `older_s` seconds; return how much that was."""
        return 0

    def check(self, *, writes: bool) -> None:
        """Raise ConfigError if it is clear already that values cannot be read, or with `writes` be written, here."""


class StoreShelf(Shelf):
    """Values in an intermediate store, each for its time to live.

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
    """Values in files, by fsspec: a folder, or ``s3://bucket/prefix`` and the like, which all functions have to reach.

    Raises ConfigError if there is no such file system, or its package is not installed. Its methods raise StoreError.
    """

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        try:
            self._files, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"values cannot be kept in {url!r}: {error}") from error
        self._local = "file" in getattr(self._files, "protocol", ())
        self._url = url

    def _path(self, place: bytes) -> str:
        return f"{self._root.rstrip('/')}/{place.decode()}"

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Raise what a file system raises as a StoreError; of a file that is not there, as it is."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            raise self._refused(error) from error

    def _refused(self, error: Exception) -> StoreError:
        text = f"what is kept in {self._url!r} cannot be read or written: {type(error).__name__}: {error}"
        return StoreError(text, hint=_HINT)

    def check(self, *, writes: bool) -> None:
        """See `Shelf.check`. Only a folder can be checked without a request; it need not be there yet."""
        if not self._local:
            return
        there = whole = os.path.abspath(self._path(PREFIX))
        while not os.path.lexists(there):
            there = os.path.dirname(there)
        rights = os.W_OK if writes else os.R_OK if there == whole else 0
        why = "" if os.path.isdir(there) else f"{there!r} is no folder"
        if not why and not os.access(there, os.X_OK | rights):
            why = f"you may not {'write to' if writes else 'read'} {there!r}"
        if why:
            raise ConfigError(f"values cannot be kept in {self._url!r}: {why}", hint=_HINT)

    def write(self, place: bytes, value: Any, about: bytes, ttl_s: float) -> None:
        """See `Shelf.write`; files have no time to live."""
        for path, data in ((self._path(place), bytes(joined(value))), (self._path(place + _ABOUT), about)):
            try:
                with self._asked():
                    self._write(path, data)
            except FileNotFoundError as error:  # a folder that was removed meanwhile, or a bucket
                raise self._refused(error) from error

    def _write(self, path: str, data: bytes) -> None:
        if not self._local:  # object stores write whole objects
            self._files.pipe_file(path, data)
            return
        new = f"{path}.{uuid.uuid4().hex}{_NEW}"
        try:
            with self._opened(new) as file:
                file.write(data)
            os.replace(new, path)
        except BaseException:  # the disk is full
            with suppress(OSError):
                os.unlink(new)
            raise

    def _opened(self, path: str) -> BinaryIO:
        """Open a new file. Somebody may remove its folder just now, since nothing is kept there any more."""
        for _ in range(_TRIES):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with suppress(FileNotFoundError):
                return open(path, "wb")
        return open(path, "wb")

    def value(self, place: bytes) -> Any:
        """See `Shelf.value`."""
        try:
            with self._asked():
                return self._files.cat_file(self._path(place))
        except FileNotFoundError:
            return None

    def abouts(self, places: Sequence[bytes]) -> list[Any]:
        """See `Shelf.abouts`."""
        if not places:
            return []
        with self._asked():  # whole files; `cat` would take brackets and stars in their names for patterns
            found = self._files.cat_ranges([self._path(place + _ABOUT) for place in places], None, None)
        for each in found:
            if isinstance(each, Exception) and not isinstance(each, FileNotFoundError):
                raise self._refused(each) from each
        return [None if isinstance(each, Exception) else each for each in found]

    def _found(self) -> list[str]:
        self._files.invalidate_cache()
        try:
            with self._asked():
                return list(self._files.find(self._path(PREFIX)))
        except FileNotFoundError:
            return []

    def places(self) -> list[bytes]:
        """See `Shelf.places`."""
        root, end = self._root.rstrip("/") + "/", _ABOUT.decode()
        return sorted(
            path.removeprefix(root).removesuffix(end).encode() for path in self._found() if path.endswith(end)
        )

    def drop(self, places: Iterable[bytes]) -> None:
        """See `Shelf.drop`."""
        for place in places:
            self._remove(self._path(place + _ABOUT))
            self._remove(self._path(place))
            if self._local:  # the folder of its name, and that of all names, if this was the last one there
                self._leave(os.path.dirname(self._path(place)))

    def _leave(self, folder: str) -> None:
        """Remove a folder in which nothing is kept any more, and those above it up to that of all names."""
        whole = os.path.dirname(self._path(PREFIX))
        with suppress(OSError):  # not empty
            while folder.startswith(whole):
                os.rmdir(folder)
                folder = os.path.dirname(folder)

    def _remove(self, path: str) -> None:
        try:
            with self._asked():
                self._files.rm_file(path)
        except FileNotFoundError:  # somebody else was quicker
            return

    def sweep(self, older_s: float) -> int:
        """See `Shelf.sweep`."""
        found, end, now = set(self._found()), _ABOUT.decode(), time.time()
        left = [path for path in sorted(found) if not path.endswith(end) and path + end not in found]
        old = [path for path in left if older_s <= 0.0 or now - self._modified_at(path) > older_s]
        for path in old:
            self._remove(path)
            if self._local:
                self._leave(os.path.dirname(path))
        return len(old)

    def _modified_at(self, path: str) -> float:
        """Return when a file was written, in Unix time; infinity if nobody knows."""
        try:
            with self._asked():
                at: float = self._files.modified(path).timestamp()
                return at
        except (FileNotFoundError, StoreError):
            return math.inf


def shelf_of(url: str | None, store: StorePort) -> Shelf:
    """Return the shelf at this URL; None: the store's."""
    return StoreShelf(store) if url is None else FileShelf(url)
