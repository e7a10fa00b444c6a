"""The user's own modules, at the client: which they are, which of them a job names, and how they get to where it runs.

    installed       the function imports them from its own packages: they are in no archive, and not handled here
    from a file     beside the script, or an editable install: the function imports them from the client's own files
                    if it shares them, else from an archive of the sources, which is an object of the job
    by value        `__main__`, a notebook, and what cannot be imported again: made by hand, or still being imported

A module that is imported is one object with one state, as in any Python process: identity, registries, locks and enums
hold. What an executor does with this is `wukong.core.imports`.
"""

from __future__ import annotations

import io
import os
import re
import sys
import sysconfig
import threading
import zipfile
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b, file_digest
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from types import CodeType, ModuleType
from typing import Any

import cloudpickle

from wukong.core.forks import free_in_children
from wukong.errors import CodecError

MOST_BYTES = 64 * 1_048_576
"""What the sources of one job may take together, in bytes."""

_IMPORT = re.compile(rb"^[ \t]*(?:from[ \t]+(\w+)|import[ \t]+([\w., \t]+))", re.MULTILINE)
_EARLIEST = (1980, 1, 1, 0, 0, 0)

_lock = threading.RLock()
free_in_children(_lock)
_seen: set[str] = set()
_by_value: dict[str, ModuleType] = {}
_from_file: dict[str, dict[str, ModuleType]] = {}
_named: set[str] = set()
_naming: ContextVar[set[str] | None] = ContextVar("what this thread's pickles name", default=None)
_archives: dict[tuple[Any, ...], tuple[bytes, str]] = {}
_imports: dict[tuple[str, int, int], frozenset[str]] = {}
_digests: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True, slots=True)
class Modules:
    """Where an executor finds the user's modules.

    Attributes:
        path: directories that are searched first.
        digest: of the archive that is searched instead, if functions do not share the client's files.
        built_for: the platform of the compiled modules in the archive.
    """

    path: tuple[str, ...] = ()
    digest: str | None = None
    built_for: str | None = None


def platform() -> str:
    """Return the platform of compiled modules that run here: which Python, on which machine."""
    return f"{sys.implementation.cache_tag} on {sysconfig.get_platform()}"


def is_installed(path: str) -> bool:
    """Whether a file belongs to Python, to an installed package, or to this one."""
    return path.startswith(_roots()) or "/site-packages/" in path or "/dist-packages/" in path


@cache
def _roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return (*(paths[name] + "/" for name in ("stdlib", "platstdlib", "purelib", "platlib")), _HERE)


_HERE = __file__.rpartition("/core/")[0] + "/"


# --- what travels by value


@contextmanager
def by_value() -> Iterator[None]:
    """While the block runs, cloudpickle takes modules that cannot be imported again by value."""
    with _lock:
        _look()
        registered = []
        known = cloudpickle.list_registry_pickle_by_value()
        unfinished = [m for units in _from_file.values() for m in units.values() if _initializing(m)]
        for module in (*_by_value.values(), *unfinished):
            if module.__name__ not in known and sys.modules.get(module.__name__) is module:
                cloudpickle.register_pickle_by_value(module)
                registered.append(module)
        try:
            yield
        finally:
            for module in registered:
                cloudpickle.unregister_pickle_by_value(module)


def _look() -> None:
    """Take in the modules that have been imported, or imported anew, since the last look."""
    for known in (_by_value, *_from_file.values()):
        for name in [name for name, module in known.items() if sys.modules.get(name) is not module]:
            del known[name]
            _seen.discard(name)
    for top in [top for top, units in _from_file.items() if not units]:
        del _from_file[top]
    for name in sorted(sys.modules.keys() - _seen):  # a package before what is in it
        _seen.add(name)
        module = sys.modules.get(name)
        # Another name of a module, as multiprocessing gives to the main one, is none of its own.
        if not isinstance(module, ModuleType) or module.__name__ != name:
            continue
        top, _, _ = name.partition(".")
        if top in ("__main__", "wukong"):
            continue
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not is_installed(file):
            if name.rpartition(".")[0] not in _by_value and os.path.isfile(file) and _importable(name, file):
                _from_file.setdefault(top, {})[name] = module
            else:
                _by_value[name] = module
        elif file is None and type(module) is ModuleType and module.__spec__ is None and top == name:
            _by_value[name] = module


def _importable(name: str, file: str) -> bool:
    """Whether importing `name` anew would find this file."""
    parent = name.rpartition(".")[0]
    path = getattr(sys.modules.get(parent), "__path__", None) if parent else None
    if parent and path is None:
        return False
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except Exception:  # a finder that cannot tell finds nothing
            continue
        if spec is not None:
            return spec.origin is not None and os.path.realpath(spec.origin) == os.path.realpath(file)
    return False


def _initializing(module: ModuleType) -> bool:
    """Whether a module is still being imported: one that computes meanwhile would compute again in the function."""
    return bool(getattr(module.__spec__, "_initializing", False))


# --- what a job names


@contextmanager
def naming() -> Iterator[set[str]]:
    """Yield a set; while the block runs, the modules that this thread's pickles name are added to it."""
    named: set[str] = set()
    token = _naming.set(named)
    try:
        yield named
    finally:
        _naming.reset(token)


def names_of(value: Any) -> Iterable[str]:
    """Return the modules that a pickle of this one object names, apart from those of what is in it.

    A function that travels by value may import, when it runs, whatever its code names.
    """
    if isinstance(value, CodeType):
        return value.co_names
    return (_module_of(value),)


def note(names: Set[str]) -> None:
    """Remember which modules a pickle has named; later jobs may read values made of them."""
    named = _naming.get()
    if named is not None:
        named |= names & sys.modules.keys()
    with _lock:
        _named.update({name.partition(".")[0] for name in names} & _from_file.keys())


def used(*, shared: bool) -> tuple[Modules, bytes | None]:
    """Return where executors find the modules that this process's pickles have named, and an archive of them.

    With `shared` files there is none: they are imported from where they are.
    """
    with _lock:
        units = [_from_file[top] for top in sorted(_named) if top in _from_file]
        if shared:
            return Modules(tuple(dict.fromkeys([*_search_path(), *map(_home, units)]))), None
        if not units:
            return Modules(), None
        files = _closure()
        if not files:
            return Modules(), None
        archive, digest = _archive(files)
        compiled = any(name.endswith(tuple(EXTENSION_SUFFIXES)) for name in files)
        return Modules((), digest, platform() if compiled else None), archive


def imported(names: Iterable[str]) -> set[str]:
    """Return these modules, and those that the user's among them have imported, as far as their variables tell."""
    names = set(names)
    todo = {name.partition(".")[0] for name in names}
    done = set(todo)
    with _lock:
        while todo:
            units = _from_file.get(todo.pop(), {})
            found = {_module_of(value) for module in units.values() for value in list(vars(module).values())}
            names |= found
            more = {name.partition(".")[0] for name in found} & _from_file.keys() - done
            todo |= more
            done |= more
    return names - {""}


def _module_of(value: Any) -> str:
    """The module that a variable holds, or that its value comes from; "": unknown."""
    if isinstance(value, ModuleType):
        return value.__name__
    try:
        name = value.__module__
    except Exception:  # whatever an object of the user's does when it is asked
        return ""
    return name if type(name) is str else ""


def _search_path() -> list[str]:
    places = [os.path.abspath(place or os.getcwd()) for place in sys.path]
    return [place for place in places if os.path.exists(place) and not is_installed(place + "/")]


def _home(unit: dict[str, ModuleType]) -> str:
    """The directory in which a top-level module or package is found."""
    name, module = next(iter(unit.items()))
    place = os.path.dirname(str(module.__file__))
    is_package = hasattr(module, "__path__")
    for _ in range(name.count(".") + is_package):
        place = os.path.dirname(place)
    return place


def goes_by_value(thing: Any) -> bool:
    """Whether a function or a class travels by value: importing its module would not find it."""
    name = _module_of(thing)
    found: Any = sys.modules.get(name) if name != "__main__" else None
    if found is None:
        return True
    with _lock:
        _look()
        if name in _by_value:
            return True
    registered = cloudpickle.list_registry_pickle_by_value()
    if any(name == each or name.startswith(each + ".") for each in registered):
        return True
    for part in thing.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is not thing


# --- sources


def sources_digest(names: Iterable[str]) -> str:
    """Return a digest of the sources of those of these modules that are the user's, and of all that they import."""
    with _lock:
        _look()
        files = _closure({name.partition(".")[0] for name in names} & _from_file.keys())
        told = blake2b(digest_size=16)
        for name in sorted(files):
            told.update(b"%b %b " % (name.encode(), _file_digest(files[name]).encode()))
    return told.hexdigest()


def _file_digest(path: str) -> str:
    stat = os.stat(path)
    key = path, stat.st_mtime_ns, stat.st_size
    if key not in _digests:
        with open(path, "rb") as file:
            _digests[key] = file_digest(file, "blake2b").hexdigest()
    return _digests[key]


def _closure(tops: Set[str] | None = None) -> dict[str, str]:
    """The files of these top-level modules (None: of those named), and of all that they import."""
    files: dict[str, str] = {}
    tops = _named if tops is None else tops
    todo, done = sorted(tops), set(tops)
    while todo:
        unit = _files_of(todo.pop())
        files |= unit
        for path in unit.values():
            if path.endswith(".py"):
                todo += _imported_by(path) - done
                done |= _imported_by(path)
    return files


def _imported_by(path: str) -> frozenset[str]:
    stat = os.stat(path)
    key = path, stat.st_mtime_ns, stat.st_size
    if key not in _imports:
        with open(path, "rb") as file:
            found = _IMPORT.findall(file.read())
        parts = {part.split()[0] for one, more in found for part in (one, *more.split(b",")) if part.strip()}
        _imports[key] = frozenset(part.decode().partition(".")[0] for part in parts) - sys.stdlib_module_names
    return _imports[key]


def _files_of(top: str) -> dict[str, str]:
    """The files of a top-level module or package of the user's; none of an installed one."""
    module = sys.modules.get(top)
    spec = getattr(module, "__spec__", None) or PathFinder.find_spec(top, _search_path())
    if spec is None:
        return {}
    if spec.submodule_search_locations is None:
        origin = spec.origin
        if origin is None or is_installed(origin) or not os.path.isfile(origin):
            return {}
        return {os.path.basename(origin): origin}
    files: dict[str, str] = {}
    for place in spec.submodule_search_locations:
        if not is_installed(place + "/"):
            files |= {f"{top}/{name}": path for name, path in _below(place, namespace=spec.origin is None)}
    return files


def _below(place: str, *, namespace: bool) -> Iterator[tuple[str, str]]:
    """All files of a package; of a namespace, which may be any directory, only modules and whole packages."""
    inside: set[str] = set()
    for folder, folders, names in os.walk(place, followlinks=True):
        folders[:] = sorted(each for each in folders if each != "__pycache__" and not each.startswith("."))
        if "__init__.py" in names or os.path.dirname(folder) in inside:
            inside.add(folder)
        for name in sorted(names):
            wanted = not namespace or folder in inside or name.endswith((".py", *EXTENSION_SUFFIXES))
            if wanted and not name.startswith(".") and not name.endswith(".pyc"):
                path = os.path.join(folder, name)
                yield os.path.relpath(path, place), path


def _archive(files: dict[str, str]) -> tuple[bytes, str]:
    """Return a zip of these files, the same for the same contents, and its digest."""
    stats = {name: os.stat(path) for name, path in files.items()}
    _check_size({name: stat.st_size for name, stat in stats.items()})
    key = tuple((name, files[name], stats[name].st_mtime_ns, stats[name].st_size) for name in sorted(files))
    if key not in _archives:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
            for name in sorted(files):
                with open(files[name], "rb") as file:
                    packed.writestr(zipfile.ZipInfo(name, _EARLIEST), file.read(), zipfile.ZIP_DEFLATED)
        data = buffer.getvalue()
        _archives.clear()  # what was shipped before is of an older state
        _archives[key] = data, blake2b(data, digest_size=16).hexdigest()
    return _archives[key]


def _check_size(sizes: dict[str, int]) -> None:
    total = sum(sizes.values())
    if total <= MOST_BYTES:
        return
    tops: dict[str, int] = {}
    for name, size in sizes.items():
        top = name.partition("/")[0]
        tops[top] = tops.get(top, 0) + size
    largest = max(tops, key=lambda top: tops[top])
    raise CodecError(
        f"the modules beside your script that this job imports take {total:,} bytes, most of them {largest} "
        f"({tops[largest]:,} bytes); the limit is {MOST_BYTES:,}",
        hint="keep data out of the package's folder, or install the package where the functions run: "
        "wukong deploy --requirements requirements.txt",
    )
