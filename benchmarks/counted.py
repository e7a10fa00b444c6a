"""A store that counts what passes through it, around any plug-in, in every process that uses it.

Each process counts into a file of its own in one folder (a process that is killed loses nothing), so that the client's
and the executors' shares can be told apart. It counts calls of the store contract and the bytes of the values in them,
those that ride in arrivals included: the same for every store and for every engine. What a server saw is another
question, which its own counters answer (`store_servers.py`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
import struct
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from wukong.backends.plugins import load_storage
from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Buffer, Outcome, Store, blob_size


@dataclass(slots=True)
class Counts:
    """What passed: calls by verb, how many keys or arrivals they held, and bytes of values.

    `waits` and `deletes` are calls as well, but not part of `calls`: the work does not wait for them.
    """

    gets: int = 0
    puts: int = 0
    incrs: int = 0
    deletes: int = 0
    waits: int = 0
    keys_got: int = 0
    keys_put: int = 0
    arrivals: int = 0
    got_bytes: int = 0
    put_bytes: int = 0

    @property
    def calls(self) -> int:
        """Calls that the work waits for."""
        return self.gets + self.puts + self.incrs

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


_ROW = struct.Struct(f"<{len(fields(Counts))}q")


class Counted(Store):
    """See the module's docstring.

    Args:
        target, options: the plug-in inside, as `PluginSpec` names it.
        folder: where every process leaves its counts.
    """

    def __init__(self, target: str, options: Mapping[str, object], folder: str) -> None:
        self._set(PluginSpec(target, options).open(), folder)

    @classmethod
    def around(cls, storage: object) -> Counted:
        """Return a counting store around the plug-in that `storage` names; it owns plug-in and folder."""
        counted = cls.__new__(cls)
        counted._set(load_storage(storage), tempfile.mkdtemp(prefix="wukong-counted-"))  # type: ignore[arg-type]
        counted._owner = os.getpid()
        return counted

    def _set(self, inner: Store, folder: str) -> None:
        self.inner, self.folder = inner, folder
        self.capabilities = inner.capabilities
        self._owner = 0
        self._pid = 0
        self._counts = Counts()
        self._lock = threading.Lock()

    def _note(self, **more: int) -> None:
        with self._lock:
            if self._pid != os.getpid():  # the first call here, or in a fork
                self._pid = os.getpid()
                self._counts = Counts()
                with Path(self.folder, f"{self._pid}").open("wb+") as file:
                    file.write(bytes(_ROW.size))
                    file.flush()
                    self._row = mmap.mmap(file.fileno(), _ROW.size)
            counts = self._counts
            for name, n in more.items():
                setattr(counts, name, getattr(counts, name) + n)
            _ROW.pack_into(self._row, 0, *(getattr(counts, f.name) for f in fields(counts)))

    def counts(self) -> tuple[Counts, Counts]:
        """Return what the owner's process has done so far, and what all the others have."""
        mine, others = Counts(), Counts()
        for path in Path(self.folder).iterdir():
            counts = Counts(*_ROW.unpack(path.read_bytes()))
            if int(path.name) == self._owner:
                mine += counts
            else:
                others += counts
        return mine, others

    def get(self, keys: Sequence[bytes]) -> list[Buffer | None]:
        values = self.inner.get(keys)
        self._note(gets=1, keys_got=len(keys), got_bytes=sum(blob_size(value) for value in values if value is not None))
        return values

    def put(self, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        self._note(puts=1, keys_put=len(items), put_bytes=sum(map(blob_size, items.values())))
        self.inner.put(items, ttl_s)

    def delete(self, keys: Sequence[bytes]) -> None:
        self._note(deletes=1)
        self.inner.delete(keys)

    def wait(self, key: bytes, timeout_s: float) -> Buffer | None:
        value = self.inner.wait(key, timeout_s)
        self._note(waits=1, got_bytes=0 if value is None else blob_size(value))
        return value

    def incr(self, arrivals: Sequence[Arrival], ttl_s: float | None = None) -> list[Outcome]:
        outcomes = self.inner.incr(arrivals, ttl_s)
        self._note(
            incrs=1,
            arrivals=len(arrivals),
            put_bytes=sum(len(arrival.value) for arrival in arrivals if arrival.value is not None),
            got_bytes=sum(len(value) for outcome in outcomes for value in outcome.values),
        )
        return outcomes

    def spec(self) -> PluginSpec:
        inner = self.inner.spec()
        return PluginSpec(
            "counted:Counted", {"target": inner.target, "options": dict(inner.options), "folder": self.folder}
        )

    def environment(self) -> Mapping[str, str]:
        return self.inner.environment()

    def close(self) -> None:
        self.inner.close()
        if self._owner == os.getpid():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.folder)
