"""The user's own modules in a function: searched for in the right place, and never older than the job.

A process runs many jobs, and the user edits modules in between. So if the place that an earlier job's modules come from
has changed, or the file of any of them, all of them are forgotten, because they hold on to each other. Within one job
none is forgotten: its objects are of one state.

What was loaded before the first job is not touched: the function's host, its plug-ins, installed packages.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from types import ModuleType
from typing import Any, TypeAlias

from wukong.core.modules import Modules, is_installed, platform
from wukong.core.scratch import discard, scratch
from wukong.errors import CodecError

_Stamp: TypeAlias = tuple[int, int] | None

_RACY_S = 10.0

_before: frozenset[str] = frozenset()
_job = ""
_began = 0.0
_n_modules = 0
_path: tuple[str, ...] = ()
_added: set[str] = set()
_stamps: dict[str, tuple[str, _Stamp]] = {}
_extracted: dict[str, str] = {}


def enter(job: str, modules: Modules, archive: Callable[[], bytes]) -> None:
    """From now on, import the user's modules as `modules` says.

    Args:
        job: id of the job that runs next.
        modules: where its modules are.
        archive: returns the archive, if they are in one.

    Raises CodecError for compiled modules that do not run here.
    """
    global _before, _job, _path, _began
    _before = _before or frozenset(sys.modules)
    path = modules.path
    if modules.digest is not None:
        if modules.built_for not in (None, platform()):
            raise CodecError(
                f"compiled modules beside the script are for {modules.built_for}, the function runs {platform()}",
                hint="build the package for the function's platform and install it there: "
                "wukong deploy --requirements requirements.txt",
            )
        path = (_folder(modules.digest, archive),)
    if job != _job:
        if path != _path or _changed():
            _forget()
        _job, _path = job, path
    _search(path)
    _began = time.time()


def leave() -> None:
    """Remember the state of the files that the invocation which ends here has imported."""
    global _n_modules
    if not _before or len(sys.modules) == _n_modules:  # an invocation that ends before it has entered has imported none
        return
    _n_modules = len(sys.modules)
    for name in sys.modules.keys() - _before - _stamps.keys():
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if not isinstance(module, ModuleType) or not isinstance(file, str) or is_installed(file):
            _stamps[name] = "", None
            continue
        stamp = _stamp(file)
        written_since = stamp is not None and stamp[0] >= _began * 1e9  # perhaps after it was imported
        _stamps[name] = file, None if written_since else stamp


def _search(path: tuple[str, ...]) -> None:
    global _added
    if _finder not in sys.path_hooks:
        sys.path_hooks.insert(0, _finder)
    for place in filter(_is_searched, list(sys.path_importer_cache)):
        if not isinstance(sys.path_importer_cache[place], _Finder):
            del sys.path_importer_cache[place]
    gone = _added.difference(path)
    missing = [place for place in path if place not in sys.path]
    if gone or missing:
        sys.path[:] = [*missing, *(place for place in sys.path if place not in gone)]
        _added = _added.intersection(path).union(missing)
        importlib.invalidate_caches()


def _stamp(file: str) -> _Stamp:
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


def _changed() -> bool:
    return any(stamp is None or _stamp(file) != stamp for file, stamp in _stamps.values() if file)


def _forget() -> None:
    for name, (file, _) in _stamps.items():
        if not file:
            continue
        sys.modules.pop(name, None)
    _stamps.clear()
    importlib.invalidate_caches()


class _Loader(SourceFileLoader):
    """Neither trusts nor leaves bytecode of a source that was just written.

    Python tells stale bytecode by the source's seconds and size, and a quick edit may change neither. Whoever has
    imported the older source, the client for one, has left its bytecode.
    """

    def path_stats(self, path: str) -> Mapping[str, Any]:
        stats = super().path_stats(path)
        if time.time() - stats["mtime"] < _RACY_S:
            raise OSError("its bytecode may be older")  # so the import system goes by the source alone
        return stats


class _Finder(FileFinder):
    pass


def _finder(place: str) -> _Finder:
    """Find modules in a directory of the user's; a path hook."""
    if not _is_searched(place) or not os.path.isdir(place):
        raise ImportError("no directory of a job's", path=place)
    return _Finder(
        place,
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (_Loader, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )


def _is_searched(place: str) -> bool:
    """Whether a directory is one that the job's modules come from, or is inside one."""
    return any(place == each or place.startswith(each + os.sep) for each in _path)


def _folder(digest: str, archive: Callable[[], bytes]) -> str:
    """Return the directory of an archive; remove those of others."""
    folder = _extracted.get(digest)
    if folder is not None and os.path.isdir(folder):
        return folder
    data = archive()
    for old in _extracted.values():
        discard(old)
        sys.path_importer_cache.pop(old, None)
    _extracted.clear()
    folder = _extracted[digest] = scratch("wukong-code-")
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        packed.extractall(folder)
    return folder
