"""The manifest of a value that is cut into chunks: its bytes, and the keys and sizes of the chunks."""

from __future__ import annotations

import re
import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from wukong.backends.storage import Blob, Buffer

FORM = struct.Struct("<16sQQ16s")
"""How a manifest is packed: magic, size, chunk size, nonce."""
MOST_CHUNKS = 1 << 22
"""The most chunks that a value is cut into; a manifest that tells of more is damaged."""


class ChunkManifest(NamedTuple):
    """The manifest of a large value.

    Attributes:
        size_bytes: of the value.
        chunk_bytes: of each chunk but the last.
        nonce: 16 bytes that make its chunks' keys unique.
    """

    size_bytes: int
    chunk_bytes: int
    nonce: bytes

    @classmethod
    def new(cls, size_bytes: int, chunk_bytes: int) -> ChunkManifest:
        """Return one whose nonce nobody has used before."""
        return cls(size_bytes, chunk_bytes, secrets.token_hex(8).encode())

    def packed(self, magic: bytes) -> bytes:
        """Return it as the value that stands in the place of the large one."""
        return FORM.pack(magic, *self)

    @property
    def is_sound(self) -> bool:
        """Whether such a value can be; otherwise it is damaged."""
        return self.size_bytes > 0 < self.chunk_bytes and self.n_chunks <= MOST_CHUNKS

    @property
    def n_chunks(self) -> int:
        """How many chunks it has."""
        return -(-self.size_bytes // self.chunk_bytes)

    def chunk_key(self, key: bytes, n: int) -> bytes:
        """Return the key of chunk `n` of the value under `key`."""
        return b"%b~%b.%d" % (key, self.nonce, n)

    def size_of(self, n: int) -> int:
        """Return the size of chunk `n`, bytes."""
        return min(self.chunk_bytes, self.size_bytes - n * self.chunk_bytes)

    def assembled(self, chunks: Sequence[Buffer | None]) -> Buffer | None:
        """Return the value that the chunks make; None if one is missing or not of its size. At most one copy."""
        whole = [chunk for n, chunk in enumerate(chunks) if chunk is not None and len(chunk) == self.size_of(n)]
        if len(whole) < len(chunks):
            return None
        return whole[0] if len(whole) == 1 else bytearray().join(whole)


Place: TypeAlias = tuple[bytes, ChunkManifest]
"""A large value: its key, and its manifest."""

_CHUNK = re.compile(rb"(.*)~([0-9a-f]{16})\.\d+", re.DOTALL)


def chunk_of(key: bytes) -> tuple[bytes, bytes] | None:
    """Return the key of the value that this key is a chunk of, and the nonce; None if it is no chunk's key."""
    found = _CHUNK.fullmatch(key) if b"~" in key else None
    return None if found is None else (found[1], found[2])


def chunk_keys(places: Iterable[Place]) -> list[bytes]:
    """Return the keys of all chunks of these values."""
    return [manifest.chunk_key(key, n) for key, manifest in places for n in range(manifest.n_chunks)]


def groups(places: Sequence[Place], most_bytes: int) -> Iterator[list[Place]]:
    """Yield values that are fetched together, of `most_bytes` in all; or one that alone is larger."""
    group: list[Place] = []
    group_bytes = 0
    for place in places:
        size_bytes = place[1].size_bytes
        if group and group_bytes + size_bytes > most_bytes:
            yield group
            group, group_bytes = [], 0
        group.append(place)
        group_bytes += size_bytes
    yield group


def cut(blob: Blob, chunk_bytes: int) -> Iterator[Blob]:
    """Cut a value into chunks, without a copy: a chunk that lies in several parts is a tuple of views."""
    views: list[memoryview] = []
    room_bytes = chunk_bytes
    for part in blob if isinstance(blob, tuple) else (blob,):
        view = memoryview(part)
        view = view.cast("B") if view.nbytes else memoryview(b"")
        while view:
            views.append(view[:room_bytes])
            view = view[room_bytes:]
            room_bytes -= len(views[-1])
            if not room_bytes:
                yield views[0] if len(views) == 1 else tuple(views)
                views, room_bytes = [], chunk_bytes
    if views:
        yield views[0] if len(views) == 1 else tuple(views)


def begins_with(blob: Blob, magic: bytes) -> bool:
    """Return whether a value, in whatever parts it lies, begins with these bytes."""
    head = b""
    for part in blob if isinstance(blob, tuple) else (blob,):
        view = memoryview(part)
        if view.nbytes:
            head += view.cast("B")[: len(magic) - len(head)]
        if len(head) == len(magic) or not magic.startswith(head):
            break
    return head == magic
