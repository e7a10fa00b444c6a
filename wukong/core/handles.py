"""Open files of h5py and netCDF4 travel by name, as with `distributed`: a function opens them again, for reading.

Each is opened once for an invocation and closed at its end, before the job's outcome is told: HDF5 locks what is open,
and the user may want to write to it next. This module imports none of these libraries until somebody else has.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

_opened: dict[tuple[str, str], Any] | None = None


def reducers() -> Mapping[type, Callable[[Any], Any]]:
    """Return the reducer of each class of handles, of the libraries that are imported."""
    found: dict[type, Callable[[Any], Any]] = {}
    if (h5py := sys.modules.get("h5py")) is not None:
        found.update(dict.fromkeys((h5py.File, h5py.Group, h5py.Dataset), _reduce_h5py))
    if (netcdf := sys.modules.get("netCDF4")) is not None:
        found.update({netcdf.Dataset: _reduce_group, netcdf.Group: _reduce_group, netcdf.Variable: _reduce_variable})
    return found


def begin() -> None:
    """Keep the files that are opened from now on, so that each is opened once."""
    global _opened
    _opened = {}


def end() -> bool:
    """Close those files; return whether there were any, so that what was read with them cannot be used again."""
    global _opened
    files, _opened = _opened or {}, None
    for file in files.values():
        file.close()
    return bool(files)


def _reduce_h5py(handle: Any) -> tuple[Any, ...]:
    if not handle:
        raise ValueError("the HDF5 file is closed")
    if handle.file.mode != "r":
        raise ValueError(f"the HDF5 file {handle.file.filename} is open for writing; open it with mode 'r'")
    return _at, ("h5py", "File", _path(handle.file.filename), handle.name)


def _reduce_group(group: Any) -> tuple[Any, ...]:
    root = group
    while root.parent is not None:
        root = root.parent
    if not root.isopen():
        raise ValueError("the netCDF file is closed")
    return _at, ("netCDF4", "Dataset", _path(root.filepath()), group.path)


def _reduce_variable(variable: Any) -> tuple[Any, ...]:
    return _variable, (variable.group(), variable.name, bool(variable.mask), bool(variable.scale))


def _path(name: str) -> str:
    if not os.path.exists(name):
        raise ValueError(f"there is no file {name}: it is open in memory only, or was removed")
    return os.path.abspath(name)


def _at(library: str, kind: str, path: str, name: str) -> Any:
    file = None if _opened is None else _opened.get((library, path))
    if file is None:
        file = getattr(import_module(library), kind)(path, mode="r")
        if _opened is not None:
            _opened[library, path] = file
    return file if name == "/" else file[name]


def _variable(group: Any, name: str, mask: bool, scale: bool) -> Any:
    variable = group.variables[name]
    variable.set_auto_mask(mask)
    variable.set_auto_scale(scale)
    return variable
