"""Turns values and callables into signed bytes, and back.

A blob is a frame: header, digest, a table of parts, then the parts, each starting at a multiple of 64 bytes so that
arrays come out aligned. Part 0 is a pickle (protocol 5); the others are its out-of-band buffers, as they lie in memory:
encoding copies no array, and decoding a memory-mapped blob maps it.

    magic flags n_parts | digest | (stored, raw) sizes of each part | part 0 | pad | part 1 | ...

What is executable (the pickle) is always authenticated. The digest is a keyed BLAKE2b over the *place* (for example the
store key that the blob is meant for), the table of parts and the pickle; over the buffers too, unless nobody else can
write to the store. If the digest does not match, nothing is unpickled: a forged blob, a truncated one and one from
another job are all refused. With `compress`, a large part is compressed by lz4 if a sample of it shrinks.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Callable, Sequence
from hashlib import blake2b
from types import BuiltinFunctionType, CodeType
from typing import Any, TypeAlias

import cloudpickle
import lz4.frame

from wukong.core import handles, modules
from wukong.core.storage import Blob, Buffer
from wukong.errors import AuthenticationError, CodecError

Opened: TypeAlias = list[Buffer]
"""The pickle of a value, and its buffers: genuine, decompressed, and writable if the value's arrays are to be."""

_HEAD = struct.Struct("<BBI16s")
_PART = struct.Struct("<QQ")
_MAGIC = 0x57
_SIGNED_BUFFERS = 1
_ALIGN = 64
_PAD = bytes(_ALIGN)
COMPRESS_FROM_BYTES = 262_144
_SAMPLE_BYTES = 16_384
_PAYS_BELOW = 0.8
_PLAIN = frozenset({int, float, bool, str, bytes, complex, type(None)})


class Codec:
    """Encode and decode with one deployment key.

    Args:
        key: the deployment's secret, 16 to 64 bytes.
        sign_buffers: authenticate out-of-band buffers as well, and refuse blobs whose buffers are not signed.
        compress: try lz4 on large parts, from `COMPRESS_FROM_BYTES`.

    Raises CodecError if the key has another length.
    """

    def __init__(self, key: bytes, *, sign_buffers: bool = True, compress: bool = False) -> None:
        if not 16 <= len(key) <= 64:
            raise CodecError(f"the deployment key has {len(key)} bytes", hint="use 16 to 64 random bytes")
        self._key = key
        self.sign_buffers = sign_buffers
        self.compress = compress

    @property
    def fingerprint(self) -> str:
        """What tells the key from others, and nothing else of it."""
        return blake2b(b"fingerprint", key=self._key, digest_size=16).hexdigest()

    def encode(self, value: Any, place: bytes) -> Blob:
        """Return `value` as a blob that decodes only at `place`. Raises CodecError if it cannot be pickled."""
        return self.frame(*dump_value(value), place=place)

    def encode_code(self, value: Any, place: bytes) -> Blob:
        """Return what the user wrote as a blob, as `encode` does; it may name the user's own modules."""
        return self.frame(*dump_code(value), place=place)

    def frame(self, data: bytes, buffers: Sequence[memoryview], *, place: bytes) -> Blob:
        """Return a pickle and its buffers as one signed blob."""
        if not buffers and (not self.compress or len(data) < COMPRESS_FROM_BYTES):
            table = _PART.pack(len(data), len(data))
            head = _HEAD.pack(_MAGIC, _SIGNED_BUFFERS, 1, self._digest(place, table, data, ()))
            return head + table + data
        raw: list[Buffer] = [data, *buffers]
        stored = [self._shrunk(part) for part in raw] if self.compress else raw
        table = b"".join(_PART.pack(_size(s), _size(r)) for s, r in zip(stored, raw, strict=True))
        signed = stored[1:] if self.sign_buffers else ()
        digest = self._digest(place, table, stored[0], signed)
        head = _HEAD.pack(_MAGIC, _SIGNED_BUFFERS if self.sign_buffers else 0, len(raw), digest)
        parts: list[Buffer] = [head + table]
        at = len(parts[0])
        for part in stored:
            pad = -at % _ALIGN if len(stored) > 1 else 0  # as in `decode`
            if pad:
                parts.append(_PAD[:pad])
            parts.append(part)
            at += pad + _size(part)
        return tuple(parts)

    def decode(self, blob: Buffer, place: bytes) -> Any:
        """Return the value. Its arrays can be written to: they are views of `blob`, or copies if `blob` is read-only.

        Raises AuthenticationError, before anything is unpickled, if the blob is not what was signed for `place`;
        CodecError if unpickling fails.
        """
        return unpickled(self.opened(blob, place))

    def opened(self, blob: Buffer, place: bytes) -> Opened:
        """Do the part of `decode` that runs nothing of the user's: return the parts, for `unpickled`.

        Raises AuthenticationError if the blob is not what was signed for `place`; CodecError if a part cannot be
        expanded.
        """
        view = memoryview(blob)
        if view.nbytes < _HEAD.size:
            raise _refused(place, "it is truncated")
        magic, flags, n_parts, digest = _HEAD.unpack_from(view)
        if magic != _MAGIC or not n_parts:
            raise _refused(place, "it is not a blob of this version")
        start = _HEAD.size + n_parts * _PART.size
        if view.nbytes < start:
            raise _refused(place, "it is truncated")
        table = bytes(view[_HEAD.size : start])
        sizes = list(_PART.iter_unpack(table))
        parts, at = [], start
        for stored, _ in sizes:
            if n_parts > 1:
                at += -at % _ALIGN
            parts.append(view[at : at + stored])
            at += stored
        if at != view.nbytes:
            raise _refused(place, f"it has {view.nbytes} bytes, but its header promises {at}")
        signed = flags & _SIGNED_BUFFERS
        if self.sign_buffers and not signed:
            raise _refused(place, "its buffers are not signed")
        if self._digest(place, table, parts[0], parts[1:] if signed else ()) != digest:
            raise _refused(place, "its signature does not match")
        try:
            whole = [
                part if s == r else lz4.frame.decompress(part, return_bytearray=True)
                for part, (s, r) in zip(parts, sizes, strict=True)
            ]
            return [whole[0], *map(_writable, whole[1:])]
        except Exception as error:
            raise _unreadable(error) from error

    def _digest(self, place: bytes, table: bytes, data: Buffer, buffers: Sequence[Buffer]) -> bytes:
        digest = blake2b(b"%d:" % len(place) + place + table, key=self._key, digest_size=16)
        digest.update(data)
        for buffer in buffers:
            digest.update(buffer)
        return digest.digest()

    def _shrunk(self, part: Buffer) -> Buffer:
        size = _size(part)
        if size < COMPRESS_FROM_BYTES:
            return part
        view = memoryview(part).cast("B")
        middle = (size - _SAMPLE_BYTES) // 2
        sample = view[middle : middle + _SAMPLE_BYTES]
        if len(lz4.frame.compress(sample)) > _PAYS_BELOW * _SAMPLE_BYTES:
            return part
        packed = lz4.frame.compress(view)
        return packed if len(packed) < size else part


def unpickled(opened: Opened) -> Any:
    """Return the value whose parts `Codec.opened` has returned. Raises CodecError if unpickling fails."""
    try:
        return pickle.loads(opened[0], buffers=opened[1:])
    except ModuleNotFoundError as error:
        package, dot, _ = (error.name or "").partition(".")
        missing = f"package {package or str(error)!r} is not installed"
        raise CodecError(
            f"the {f'installed {package!r} has no {error.name!r}' if dot else missing} where this is read",
            hint="deployed functions get it by: wukong deploy --requirements requirements.txt",
        ) from error
    except Exception as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> CodecError:
    return CodecError(
        f"a value could not be unpickled: {type(error).__name__}: {error}",
        hint="the same packages must be importable where the value was made and where it is read",
    )


def _size(part: Buffer) -> int:
    return len(part) if isinstance(part, bytes) else memoryview(part).nbytes


def _writable(part: Buffer) -> Buffer:
    return bytearray(part) if isinstance(part, memoryview) and part.readonly else part


def _refused(place: bytes, why: str) -> AuthenticationError:
    return AuthenticationError(
        f"refused to unpickle {place!r}: {why}",
        hint="everything that shares a store must use the same deployment key (setting `key`)",
    )


def dump_value(value: Any) -> tuple[bytes, list[memoryview]]:
    """Pickle a value with the C pickler if that can do it, otherwise with cloudpickle. Returns pickle and buffers.

    Raises CodecError if neither can.
    """
    if type(value) in _PLAIN:
        return pickle.dumps(value, 5), []
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < 1024:  # in band: a part of its own costs more than the copy
            return True
        buffers.append(view)
        return False

    try:
        return pickle.dumps(value, 5, buffer_callback=keep), buffers
    except Exception:  # a lambda, a class from `__main__`: whatever it was, cloudpickle has the last word
        buffers.clear()
        return _cloud(value, keep)[0], buffers


def dump_code(value: Any) -> tuple[bytes, list[memoryview]]:
    """Pickle what the user wrote: code of `__main__` by value, that of modules as `wukong.core.modules` says.

    Returns the pickle and its out-of-band buffers. Raises CodecError.
    """
    if type(value) in _PLAIN:
        return pickle.dumps(value, 5), []
    buffers: list[memoryview] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < 1024:
            return True
        buffers.append(view)
        return False

    with modules.by_value():
        data, named = _cloud(value, keep)
    modules.note(named)
    return data, buffers


def names_in(value: Any) -> set[str]:
    """Return the modules that `dump_code` of a value would name. Raises CodecError."""
    with modules.by_value():
        return _cloud(value, lambda buffer: False)[1]


def fails(value: Any) -> bool:
    """Whether `dump_code` cannot pickle a value."""
    try:
        dump_code(value)
    except CodecError:
        return True
    return False


_EACH_ITS_OWN = frozenset({BuiltinFunctionType, CodeType})
"""Types without a `__dict__` whose objects nevertheless come from different modules."""


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """A pickler that notes the modules which its pickle names."""

    def __init__(self, file: io.BytesIO, keep: Callable[[pickle.PickleBuffer], bool]) -> None:
        super().__init__(file, protocol=5, buffer_callback=keep)
        self.named: set[str] = set()
        self._known: set[type] = set()

    def reducer_override(self, value: Any) -> Any:
        """Look at each object that is not of a builtin type: whatever a pickle names passes here once."""
        kind = type(value)
        if kind in self._known:
            return NotImplemented
        self.named.update(modules.names_of(value))
        reduced = super().reducer_override(value)
        # Objects without a `__dict__` come from the module of their class, and cloudpickle leaves them to pickle.
        if reduced is NotImplemented and not kind.__dictoffset__ and kind not in _EACH_ITS_OWN:
            self._known.add(kind)
        return reduced

    @property
    def dispatch_table(self) -> Any:
        """The reducers of types that cannot pickle themselves; asked for once, when a pickler is made."""
        return cloudpickle.Pickler.dispatch_table.new_child({**handles.reducers(), CodeType: _reduce_code})


def _reduce_code(code: CodeType) -> tuple[Any, ...]:
    """Reduce code as cloudpickle does, but keep the name of its file, for tracebacks and debuggers."""
    make, parts = cloudpickle.Pickler.dispatch_table[CodeType](code)
    return _code_of, (make, parts, code.co_filename)


def _code_of(make: Callable[..., CodeType], parts: tuple[Any, ...], file: str) -> CodeType:
    return make(*parts).replace(co_filename=file)


def _cloud(value: Any, keep: Callable[[pickle.PickleBuffer], bool]) -> tuple[bytes, set[str]]:
    """Pickle with cloudpickle. Returns the pickle, and the modules that it names. Raises CodecError."""
    file = io.BytesIO()
    pickler = _Pickler(file, keep)
    try:
        pickler.dump(value)
    except Exception as error:
        raise CodecError(
            f"cannot pickle a {type(value).__module__}.{type(value).__qualname__}: {type(error).__name__}: {error}",
            hint="open files, locks and connections cannot travel between executors; make them inside the task",
        ) from error
    return file.getvalue(), pickler.named
