"""Making room in an embedded store: what has expired goes, and files that no row names."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import lmdb

from wukong.backends.storage.local import fanin
from wukong.backends.storage.local.environment import LmdbEnvironment
from wukong.backends.storage.local.failures import failure
from wukong.backends.storage.local.rows import Replaced, expired, file_of
from wukong.backends.storage.local.segments import Segments

logger = logging.getLogger(__name__)

_BATCH = 128


def tidy(env: LmdbEnvironment, segments: Segments, now_s: float) -> None:
    """Make room: delete what has expired, and large values whose writers died before they recorded them."""
    orphans = set(segments.orphans())
    stale: list[bytes] = []
    try:
        env.check_readers()
        with env.lock, env.begin() as txn:
            for name, row in txn.cursor():
                kind = name[:1]
                if kind in b"vV":
                    if (large := file_of(row)) is not None:
                        orphans.discard(large[1])
                    if expired(row, now_s):
                        stale.append(name)
                elif kind in b"rR" and fanin.expired(row, now_s):
                    stale.append(name)
    except lmdb.Error as error:
        raise failure(error) from error
    segments.remove(orphans)
    for start in range(0, len(stale), _BATCH):
        batch = stale[start : start + _BATCH]

        def work(txn: lmdb.Transaction[bytes], batch: Sequence[bytes] = batch) -> list[str]:
            gone = Replaced(txn)
            for name in batch:
                row = txn.get(name)
                if row is None:
                    continue
                if name[:1] in b"rR":
                    if fanin.expired(row, now_s):
                        fanin.delete(txn, name)
                elif expired(row, now_s):
                    gone.add(row)
                    txn.delete(name)
            gone.settle(0)
            return gone.files

        try:
            segments.remove(env.write(work, len(batch) * 4096, frees=True))
        except (lmdb.MapFullError, OSError) as error:
            logger.warning("expired values of the store at %s stay for now: %s", env.path, error)
            return
