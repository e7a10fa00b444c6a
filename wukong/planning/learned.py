"""What earlier jobs have taught: how long tasks run, how large values are, and how much memory that takes.

    ~/.cache/wukong/learned.sqlite      at most `MOST_ROWS` rows a table, the latest; of tasks alike only means

A row is of one place (backend, function size; of memory, the backend alone), one key prefix with its function, and one
size of the inputs, in powers of two. Later jobs count for more. The file is a cache: it may be deleted at any time, one
that is damaged is begun anew, and whoever finds it locked by another process goes without. Raises nothing.
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
_CLEARLY = 2
_LOCKED_S = 0.5
_SCHEMA = """\
create table if not exists learned (
    place text, prefix text, function text, bucket integer, jobs integer, tasks integer,
    log_s real, var real, in_bytes real, out_bytes real, on_core real, held real, at real,
    primary key (place, prefix, function, bucket)
)
"""
_PLACES = "create table if not exists places (place text primary key, told text)"
_NEEDS = """\
create table if not exists needs (
    platform text, prefix text, function text, bucket integer,
    outgrew_bytes integer, peak_bytes integer, held_bytes integer, at real,
    primary key (platform, prefix, function, bucket)
)
"""
_BEYOND = "delete from {0} where rowid in (select rowid from {0} order by at desc limit -1 offset ?)"
_NEED = "bucket, outgrew_bytes, peak_bytes, held_bytes"
_ROWS = f"select {_NEED} from needs where platform = ? and prefix = ? and function = ?"
_OTHER_TABLE = "no such column", "has no column named"
_TABLE = "place, prefix, function, bucket, jobs, tasks, log_s, var, in_bytes, out_bytes, on_core, held, at"


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
        held: of the executors that have found out if tasks of this kind hold the interpreter's lock while they compute,
            which part say so, from 0 to 1; None: none has.
    """

    seconds: float
    spread: float
    in_bytes: float
    out_bytes: float
    jobs: int = 1
    tasks: int = 1
    on_core: float = 1.0
    held: float | None = None


@dataclass(frozen=True, slots=True)
class MemoryLesson:
    """What is known of the memory of tasks of one kind that have inputs of about one size.

    Attributes:
        bucket: that size, see `bucket_of`; 0: not known.
        outgrew_bytes: the memory of the largest functions that most of these tasks were too large for; 0: there are
            none.
        peak_bytes: the most that their process had in use; 0: not known.
        held_bytes: the memory of the smallest functions on which most of these tasks ran to their end; 0: not known.
    """

    bucket: int
    outgrew_bytes: int
    peak_bytes: int
    held_bytes: int

    def after(self, before: MemoryLesson) -> MemoryLesson:
        """Return what is known once this has been found out, too.

        The peak goes up at once, and down by and by. That a function was too small is forgotten if tasks have run on
        one of its size, or if they have used less than half of it: what the platform counts is not all known here.
        """
        peak_bytes = before.peak_bytes
        if self.peak_bytes:
            peak_bytes = max(self.peak_bytes, round(peak_bytes + _WEIGHT * (self.peak_bytes - peak_bytes)))
        outgrew_bytes = max(self.outgrew_bytes, before.outgrew_bytes)
        if not self.outgrew_bytes and (
            0 < self.held_bytes <= before.outgrew_bytes or 0 < _CLEARLY * self.peak_bytes <= before.outgrew_bytes
        ):
            outgrew_bytes = 0
        held = [each for each in (self.held_bytes, before.held_bytes) if each > outgrew_bytes]
        return MemoryLesson(self.bucket, outgrew_bytes, peak_bytes, min(held, default=0))


def bucket_of(size_bytes: float) -> int:
    """Return the power of two that tells sizes apart."""
    return round(math.log2(max(1.0, size_bytes)))


class Learned:
    """The file. Any thread and any process may use it.

    Args:
        folder: where it is, made when first written to; None: nothing is kept.
        place: where tasks run: durations of one place say nothing certain about another.
        platform: likewise for what memory they need, which does not depend on how large functions are.
    """

    def __init__(self, folder: Path | None, place: str, platform: str = "") -> None:
        self._path = None if folder is None else folder / "learned.sqlite"
        self._place, self._platform = place, platform

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
                        "select log_s, var, in_bytes, out_bytes, jobs, tasks, on_core, held from learned"
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

    def needs(self, kinds: Iterable[Kind]) -> Mapping[Kind, Sequence[MemoryLesson]]:
        """Return what is known of the memory that these kinds need, what was learned last first."""
        import sqlite3

        if self._path is None or not self._path.exists():
            return {}
        try:
            with closing(self._open()) as file:
                file.execute(_NEEDS)
                rows = {kind: file.execute(f"{_ROWS} order by at desc", self._named(kind)).fetchall() for kind in kinds}
                return {kind: [MemoryLesson(*row) for row in told] for kind, told in rows.items() if told}
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:
            self._failed(error)
            return {}

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

    def learn(
        self,
        lessons: Iterable[tuple[Kind, Lesson]],
        terms: PlaceTerms | None = None,
        needs: Iterable[tuple[Kind, MemoryLesson]] = (),
    ) -> None:
        """Take in the means of one job. A later job moves what is known by three tenths of the way, or more at first.

        Of the `terms` of the place, which change with what else runs there, the last that were found out hold.
        """
        import sqlite3

        told, memory = list(lessons), list(needs)
        if self._path is None or (not told and not memory and terms is None):
            return
        for _ in range(2):  # once more if the file is to be begun anew
            try:
                self._path.parent.mkdir(0o700, parents=True, exist_ok=True)
                with closing(self._open()) as file, file:
                    self._take_in(file, told, terms)
                    self._take_in_needs(file, memory)
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
        file.execute(_BEYOND.format("learned"), (MOST_ROWS,))

    def _take_in_needs(self, file: sqlite3.Connection, told: Sequence[tuple[Kind, MemoryLesson]]) -> None:
        if not told:
            return
        file.execute(_NEEDS)
        for kind, need in told:
            known = file.execute(f"{_ROWS} and bucket = ?", (*self._named(kind), need.bucket)).fetchone()
            now = need if known is None else need.after(MemoryLesson(*known))
            row = *self._named(kind), now.bucket, now.outgrew_bytes, now.peak_bytes, now.held_bytes, time.time()
            columns = f"platform, prefix, function, {_NEED}, at"
            file.execute(f"insert or replace into needs ({columns}) values (?, ?, ?, ?, ?, ?, ?, ?)", row)
        file.execute(_BEYOND.format("needs"), (MOST_ROWS,))

    def _named(self, kind: Kind) -> tuple[str, str, str]:
        return self._platform, kind.prefix, kind.function

    def _terms_in(self, file: sqlite3.Connection) -> PlaceTerms | None:
        file.execute(_PLACES)
        row = file.execute("select told from places where place = ?", (self._place,)).fetchone()
        return None if row is None else PlaceTerms.of_json(json.loads(row[0]))

    def _merge(self, file: sqlite3.Connection, kind: Kind, lesson: Lesson) -> None:
        bucket, log_s = bucket_of(lesson.in_bytes), math.log(max(1e-9, lesson.seconds))
        jobs, var, on_core, out_bytes = 1, math.log(lesson.spread) ** 2, lesson.on_core, lesson.out_bytes
        held = lesson.held
        known = file.execute(
            "select jobs, log_s, var, out_bytes, on_core, held from learned"
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
            if known[5] is not None:
                held = known[5] + (0.0 if held is None else weight * (held - known[5]))
        file.execute(
            f"insert or replace into learned ({_TABLE}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(self._place, kind.prefix, kind.function, bucket, jobs, lesson.tasks),
                *(log_s, var, lesson.in_bytes, out_bytes, on_core, held, time.time()),
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
        """Return whether what is of no use has been deleted: tables of another version, or the file."""
        import sqlite3

        logger.debug("what jobs have taught is not used: %s", error)
        damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
        missing = isinstance(error, sqlite3.OperationalError) and any(each in str(error) for each in _OTHER_TABLE)
        if self._path is not None and (damaged or missing or not isinstance(error, sqlite3.Error | OSError)):
            try:
                if missing:
                    self._drop_others()
                else:
                    self._path.unlink(missing_ok=True)  # what comes next begins it anew
                return True
            except (sqlite3.Error, OSError) as still:
                logger.debug("%s cannot be deleted: %s", self._path, still)
        return False

    def _drop_others(self) -> None:
        """Drop the tables that have other columns than this version's."""
        import sqlite3

        with closing(self._open()) as file, closing(sqlite3.connect(":memory:")) as right:
            for schema in (_SCHEMA, _PLACES, _NEEDS):
                right.execute(schema)
            for (table,) in right.execute("select name from sqlite_master where type = 'table'").fetchall():
                columns = f"select name from pragma_table_info('{table}')"
                if file.execute(columns).fetchall() != right.execute(columns).fetchall():
                    file.execute(f"drop table if exists {table}")
