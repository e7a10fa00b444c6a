"""How large a value is. Values are the user's objects, whose measures may raise or lie: then the size is a guess."""

from __future__ import annotations

import sys
from typing import Any

_GUESS_BYTES = 256
_MOST_BYTES = 1 << 40
"""More than a process holds: a value that claims to be larger does not know its size."""
_PLAIN = frozenset({int, float, complex, bool, type(None), str, bytes, bytearray})


def array_bytes(value: Any) -> int | None:
    """Return the bytes that an array, or something like one, says it has; None: it is none, or one of objects."""
    try:
        if getattr(type(value), "nbytes", None) is None:  # of the class: what `__getattr__` makes up does not count
            return None
        size_bytes = value.nbytes
        if not isinstance(size_bytes, int) or not 0 <= size_bytes <= _MOST_BYTES:
            return None
        return None if getattr(getattr(value, "dtype", None), "hasobject", False) else size_bytes
    except Exception:
        return None


def size_bytes(value: Any) -> int:
    """Return about how many bytes a value takes in memory, from 0 up. Never raises."""
    if type(value) in _PLAIN:
        return sys.getsizeof(value)
    size = array_bytes(value)
    if size is None:
        from dask.sizeof import sizeof  # it takes longer to import than all the rest that an executor needs

        try:
            size = int(sizeof(value))
        except Exception:  # also a RecursionError, of what contains itself
            return _GUESS_BYTES
    return size if 0 <= size <= _MOST_BYTES else _GUESS_BYTES
