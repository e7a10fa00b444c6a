"""memcached's names for our keys. memcached takes up to 250 printable characters; our keys are any bytes.

<prefix>v:<key>     a value
<prefix>r:<key>     a fan-in's record (`wukong.backends.storage.fanin`)
<prefix>a:<name>    a value that rode in an arrival and has no room in the record
<prefix>v#<hash>    the same for a key that memcached would not take: a hash that no two keys share
"""

from __future__ import annotations

import re
from hashlib import blake2b

from wukong.errors import ConfigError

__all__ = ["MOST_PREFIX_BYTES", "MemcachedNames"]

MOST_PREFIX_BYTES = 40
_PLAIN = re.compile(rb"[!-~]{1,200}")
_PREFIX = re.compile(rf"[!-~]{{0,{MOST_PREFIX_BYTES}}}")


class MemcachedNames:
    """The names of one deployment's keys: all begin with `prefix`. Raises `ConfigError` for an invalid prefix."""

    __slots__ = ("_prefix",)

    def __init__(self, prefix: str) -> None:
        if not _PREFIX.fullmatch(prefix):
            raise ConfigError(f"prefix is {prefix!r}; it is up to {MOST_PREFIX_BYTES} printable characters, no space")
        self._prefix = prefix.encode()

    def value(self, key: bytes) -> bytes:
        """Name of the value under a key."""
        return self._named(b"v", key)

    def record(self, key: bytes) -> bytes:
        """Name of the record under a key."""
        return self._named(b"r", key)

    def key(self, name: bytes) -> bytes | None:
        """Return the key of the value or the record with this name; None if the name does not contain it."""
        kind, colon, key = name.removeprefix(self._prefix).partition(b":")
        return key if name.startswith(self._prefix) and colon and kind in (b"v", b"r") else None

    def is_record(self, name: bytes) -> bool:
        """Return whether this is the name of a record."""
        return name.startswith((self._prefix + b"r:", self._prefix + b"r#"))

    def rider(self, name: bytes) -> bytes:
        """Name of a value that rode in an arrival; `name` is what the record calls it."""
        return b"%ba:%b" % (self._prefix, name.hex().encode())

    def _named(self, kind: bytes, key: bytes) -> bytes:
        if _PLAIN.fullmatch(key):
            return b"%b%b:%b" % (self._prefix, kind, key)
        return b"%b%b#%b" % (self._prefix, kind, blake2b(key, digest_size=32).hexdigest().encode())
