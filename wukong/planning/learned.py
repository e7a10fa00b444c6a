"""What earlier jobs have taught: how long tasks run and how large their values are, by key prefix and function.

    ~/.cache/wukong/learned.sqlite      at most `MOST_ROWS` rows, the latest; of tasks alike only means

A row is of one place (backend, function size), one key prefix with its function, and one size of the inputs, in powers
of two. Later jobs count for more. The file is a cache: it may be deleted at any time, one that is damaged is begun
anew, and whoever finds it locked by another process goes without. Raises nothing.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wukong.planning.terms import PlaceTerms

if TYPE_CHECKING:
    import sqlite3

logger = logging.getLogger("wukong")

MOST_ROWS = 5_000
_WEIGHT = 0.3
_LOCKED_S = 0.5
_SCHEMA = """\
create table if not exists learned (
    place text, prefix text, function text, bucket integer, jobs integer, tasks integer,
    log_s real, var real, in_bytes real, out_bytes real, on_core real, at real,
    primary key (place, prefix, function, bucket)
)
"""
_PLACES = "create table if not exists places (place text primary key, told text)"
_OTHER_TABLE = "no such column", "has no column named"
_TABLE = "place, prefix, function, bucket, jobs, tasks, log_s, var, in_bytes, out_bytes, on_core, at"


@dataclass(frozen=True, slots=True)
class Kind:
    """Tasks alike: the prefix of their keys, and the name of their function."""

    prefix: str
    function: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is known of tasks of one kind that have inputs of about one size.

    Attributes:
        seconds: how long one takes. spread: by which factor jobs differed (1: not at all).
        in_bytes: the size of its inputs; of a task without any, the size of its value. out_bytes: of its value; -1: not
            known.
        jobs, tasks: how many that was learned from.
        on_core: which part of the seconds it is on a core, not asleep.
    """

    seconds: float
    spread: float
    in_bytes: float
    out_bytes: float
    jobs: int = 1
    tasks: int = 1
    on_core: float = 1.0


def bucket_of(size_bytes: float) -> int:
    """Return the power of two that tells sizes apart."""
    return round(math.log2(max(1.0, size_bytes)))


class Learned:
    """The file. Any thread and any process may use it.

    Args:
        folder: where it is, made when first written to; None: nothing is kept.
        place: where tasks run: durations of one place say nothing certain about another.
    """

    def __init__(self, folder: Path | None, place: str) -> None:
        self._path = None if folder is None else folder / "learned.sqlite"
        self._place = place

    def lessons(self, kinds: Iterable[Kind]) -> Mapping[Kind, Sequence[Lesson]]:
        """Return what is known of these kinds, the latest lesson first."""
        import sqlite3  # a client that learns nothing does without

        found: dict[Kind, list[Lesson]] = {}
        if self._path is None or not self._path.exists():
            return found
        try:
            with closing(self._open()) as file:
                for kind in kinds:
                    rows = file.execute(
                        "select log_s, var, in_bytes, out_bytes, jobs, tasks, on_core from learned"
                        " where place = ? and prefix = ? and function = ? order by at desc",
                        (self._place, kind.prefix, kind.function),
                    ).fetchall()
                    if rows:
                        found[kind] = [
                            Lesson(math.exp(log_s), math.exp(math.sqrt(max(0.0, var))), *rest)
                            for log_s, var, *rest in rows
                        ]
        except (sqlite3.Error, OSError, ValueError, OverflowError, TypeError) as error:
            self._failed(error)
            return {}
        return found

    def terms(self) -> PlaceTerms:
        """Return what is known of the place itself."""
        import sqlite3

        if self._path is None or not self._path.exists():
            return PlaceTerms()
        try:
            with closing(self._open()) as file:
                return self._terms_in(file) or PlaceTerms()
        except (sqlite3.Error, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            self._failed(error)
            return PlaceTerms()

    def learn(self, lessons: Iterable[tuple[Kind, Lesson]], terms: PlaceTerms | None = None) -> None:
        """Take in the means of one job. A later job moves what is known by three tenths of the way, or more at first.

        Of the `terms` of the place, which change with what else runs there, the last that were found out hold.
        """
        import sqlite3

        told = list(lessons)
        if self._path is None or (not told and terms is None):
            return
        for _ in range(2):  # once more if the file is to be begun anew
            try:
                self._path.parent.mkdir(0o700, parents=True, exist_ok=True)
                with closing(self._open()) as file, file:
                    self._take_in(file, told, terms)
                return
            except (sqlite3.Error, OSError, ValueError, OverflowError, TypeError, LookupError, AttributeError) as error:
                if not self._failed(error):
                    return

    def _take_in(self, file: sqlite3.Connection, told: Sequence[tuple[Kind, Lesson]], terms: PlaceTerms | None) -> None:
        file.execute("begin immediate")
        file.execute(_SCHEMA)
        if terms is not None:
            before = self._terms_in(file)
            now = terms if before is None else terms.after(before)
            row = self._place, json.dumps(now.to_json())
            file.execute("insert or replace into places (place, told) values (?, ?)", row)
        for kind, lesson in told:
            self._merge(file, kind, lesson)
        file.execute(
            "delete from learned where rowid in (select rowid from learned order by at desc limit -1 offset ?)",
            (MOST_ROWS,),
        )

    def _terms_in(self, file: sqlite3.Connection) -> PlaceTerms | None:
        file.execute(_PLACES)
        row = file.execute("select told from places where place = ?", (self._place,)).fetchone()
        return None if row is None else PlaceTerms.of_json(json.loads(row[0]))

    def _merge(self, file: sqlite3.Connection, kind: Kind, lesson: Lesson) -> None:
        bucket, log_s = bucket_of(lesson.in_bytes), math.log(max(1e-9, lesson.seconds))
        jobs, var, on_core, out_bytes = 1, math.log(lesson.spread) ** 2, lesson.on_core, lesson.out_bytes
        known = file.execute(
            "select jobs, log_s, var, out_bytes, on_core from learned"
            " where place = ? and prefix = ? and function = ? and bucket = ?",
            (self._place, kind.prefix, kind.function, bucket),
        ).fetchone()
        if known is not None:
            weight = max(_WEIGHT, 1 / (known[0] + 1))
            off = log_s - known[1]
            jobs, log_s = known[0] + 1, known[1] + weight * off
            var = (1 - weight) * (known[2] + weight * off * off) + weight * var
            out_bytes = known[3] if out_bytes < 0 else out_bytes
            on_core = known[4] + weight * (on_core - known[4])
        file.execute(
            f"insert or replace into learned ({_TABLE}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(self._place, kind.prefix, kind.function, bucket, jobs, lesson.tasks),
                *(log_s, var, lesson.in_bytes, out_bytes, on_core, time.time()),
            ),
        )

    def _open(self) -> sqlite3.Connection:
        import sqlite3

        assert self._path is not None
        file = sqlite3.connect(self._path, timeout=_LOCKED_S, isolation_level=None)
        try:
            file.execute("pragma synchronous = off")  # what is lost is learned again
        except sqlite3.Error:
            file.close()
            raise
        return file

    def _failed(self, error: Exception) -> bool:
        """Return whether the file has been deleted, for it is of no use."""
        import sqlite3

        logger.debug("what jobs have taught is not used: %s", error)
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        missing = isinstance(error, sqlite3.OperationalError) and any(each in str(error) for each in _OTHER_TABLE)
        if self._path is not None and (damaged or missing or not isinstance(error, sqlite3.Error | OSError)):
            try:
                self._path.unlink(missing_ok=True)  # what comes next begins it anew
                return True
            except OSError as still:
                logger.debug("%s cannot be deleted: %s", self._path, still)
        return False
