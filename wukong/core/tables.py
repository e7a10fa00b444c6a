"""A job's record as tables: columns of plain values, pandas frames, and a file in JSON or Parquet that is read again.

    tasks       one row for each run of a task that is known, then one for each task of which none is
    executors   one row for each invocation
    spans       what executors did besides running tasks

Times are in seconds since the job began, sizes in bytes; None (nan in a frame) is what is not known.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping
from dataclasses import asdict, fields
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wukong.core.names import text_of
from wukong.core.record import UNKNOWN, ExecutorRow, JobRecord, Runs, Story
from wukong.core.track import KINDS, Spans
from wukong.errors import WukongError

if TYPE_CHECKING:
    import pandas

VERSION = 1
_META = b"wukong"


def tasks(record: JobRecord) -> dict[str, list[Any]]:
    """Return the columns of the table of tasks."""
    runs, ready = record.runs, record.ready_s
    names, layer_of = record.layers
    unknown = record.unknown()
    failed = {story.task for story in record.stories if story.traceback and story.then != "run again"}
    none = [None] * len(unknown)
    every = [*runs.tasks, *unknown]
    keys = [text_of(record.key(task)) for task in every]
    ran = ["failed" if key in failed else "ran" for key in keys[: len(runs)]]
    return {
        "key": keys,
        "layer": [names[layer_of[task]] for task in every],
        "task": every,
        "state": ran + ["failed" if key in failed else "unknown" for key in keys[len(runs) :]],
        "executor": [*(record.invocations[at].invocation for at in runs.executors), *none],
        "lane": [*runs.lanes, *none],
        "ready_s": [_known(ready[task]) for task in every],
        "began_s": [*runs.begun, *none],
        "ended_s": [*(begun + took for begun, took in zip(runs.begun, runs.took, strict=True)), *none],
        "duration_s": [*runs.took, *none],
        "in_bytes": [*runs.in_bytes, *none],
        "out_bytes": [*runs.out_bytes, *none],
        "value_bytes": [*(None if size == UNKNOWN else size for size in runs.value_bytes), *none],
        "memory_bytes": [*(None if size == UNKNOWN else size for size in runs.memory_bytes), *none],
    }


def executors(record: JobRecord) -> dict[str, list[Any]]:
    """Return the columns of the table of executors."""
    plain = [each.name for each in fields(ExecutorRow) if each.name not in ("sums", "spans")]
    table = {name: [getattr(row, name) for row in record.invocations] for name in plain}
    table["told_by"] = [_told_by(row) for row in record.invocations]
    for kind in KINDS:
        table[f"{kind.replace(' ', '_')}_s"] = [row.sums.get(kind, (0, 0.0, 0))[1] for row in record.invocations]
    return table


def _told_by(row: ExecutorRow) -> str | None:
    """Return where an executor's figures come from; a heartbeat lacks what the executor did after it."""
    if row.state == "ended":
        return "end report"
    return None if row.heard_s is None else "heartbeat"


def spans(record: JobRecord) -> dict[str, list[Any]]:
    """Return the columns of the table of what executors did besides running tasks."""
    rows = record.invocations
    return {
        "executor": [row.invocation for row in rows for _ in row.spans.kinds],
        "kind": [KINDS[kind] for row in rows for kind in row.spans.kinds],
        "began_s": [begun for row in rows for begun in row.spans.begun],
        "duration_s": [took for row in rows for took in row.spans.took],
        "size_bytes": [size for row in rows for size in row.spans.size_bytes],
    }


def frame(columns: Mapping[str, list[Any]]) -> pandas.DataFrame:
    """Return a table as a pandas frame. Raises WukongError if pandas is not installed."""
    try:
        import pandas
    except ImportError as error:
        hint = "pip install pandas, or take the columns as lists: record.columns('tasks')"
        raise WukongError("the record's tables are pandas frames, and pandas is not installed", hint=hint) from error
    return pandas.DataFrame(columns)


def to_json(record: JobRecord) -> str:
    """Return the whole record as JSON, which `load` reads again."""
    told = {**_head(record), "runs": {name: list(column) for name, column in _columns(record.runs).items()}}
    return json.dumps(told, separators=(",", ":"), default=str, allow_nan=False)


def to_parquet(record: JobRecord, path: str | PathLike[str]) -> None:
    """Write the runs of tasks as a Parquet file, with all else of the record in its metadata; `load` reads it again.

    Raises WukongError if pyarrow is not installed.
    """
    pyarrow, parquet = _parquet()
    table = pyarrow.table({name: pyarrow.array(column) for name, column in _columns(record.runs).items()})
    keys = pyarrow.array([text_of(record.key(task)) for task in record.runs.tasks], pyarrow.string())
    table = table.append_column("key", keys)
    head = json.dumps(_head(record), separators=(",", ":"), default=str, allow_nan=False).encode()
    parquet.write_table(table.replace_schema_metadata({_META: head}), path, compression="zstd")


def load(path: str | PathLike[str]) -> JobRecord:
    """Read a record that was written as JSON or Parquet. Raises WukongError for any other file, and OSError."""
    try:
        with Path(path).open("rb") as file:
            if file.read(4) == b"PAR1":
                return _from_parquet(path)
            file.seek(0)
            told = json.load(file)
        return _record(told, told["runs"])
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        hint = "give a file that job.record.to_json or job.record.to_parquet has written"
        raise WukongError(f"{path} is no record of a job that this version can read: {error!r}", hint=hint) from error


def _from_parquet(path: str | PathLike[str]) -> JobRecord:
    _, parquet = _parquet()
    table = parquet.read_table(path)
    told = json.loads(table.schema.metadata[_META])
    return _record(told, {each.name: table.column(each.name).to_pylist() for each in fields(Runs)})


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        hint = "pip install pyarrow, or write JSON: record.to_json(path)"
        raise WukongError("a record is written as Parquet by pyarrow, which is not installed", hint=hint) from error
    return pyarrow, pyarrow.parquet


def _columns(table: Runs | Spans) -> dict[str, Any]:
    return {each.name: getattr(table, each.name) for each in fields(table)}


def _head(record: JobRecord) -> dict[str, Any]:
    told = {
        each.name: getattr(record, each.name)
        for each in fields(JobRecord)
        if each.name not in ("invocations", "runs", "keys", "parents", "stories")
    }
    rows = []
    for row in record.invocations:
        plain = {each.name: getattr(row, each.name) for each in fields(ExecutorRow) if each.name != "spans"}
        rows.append(plain | {"spans": {name: list(column) for name, column in _columns(row.spans).items()}})
    return {
        "wukong_record": VERSION,
        **told,
        "keys": None if record.keys is None else [text_of(key) for key in record.keys],
        "parents": None if record.parents is None else [list(column) for column in record.parents],
        "invocations": rows,
        "stories": [asdict(story) for story in record.stories],
    }


def _record(told: dict[str, Any], runs: Mapping[str, list[Any]]) -> JobRecord:
    if told.pop("wukong_record") != VERSION:
        raise ValueError("another version of the format")
    told.pop("runs", None)
    parents = told.pop("parents")
    rows = [
        ExecutorRow(
            **{
                **row,
                "sums": {kind: tuple(sums) for kind, sums in row["sums"].items()},
                "on_core": {kind: tuple(told) for kind, told in row.get("on_core", {}).items()},
                "held": {int(task): held for task, held in row.get("held", {}).items()},
                "spans": Spans(**_arrays(Spans(), row["spans"])),
                "counted": tuple(map(tuple, row.get("counted", ()))),
            }
        )
        for row in told.pop("invocations")
    ]
    return JobRecord(
        **{
            **told,
            "left_out": tuple(told["left_out"]),
            "parents": None if parents is None else (array("q", parents[0]), array("i", parents[1])),
            "invocations": rows,
            "runs": Runs(**_arrays(Runs(), runs)),
            "stories": [Story(**story) for story in told["stories"]],
        }
    )


def _arrays(like: Runs | Spans, columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    """Return typed columns; one that a record of an earlier version does not have is 0."""
    n = max(map(len, columns.values()), default=0)
    return {name: array(column.typecode, columns.get(name) or [0] * n) for name, column in _columns(like).items()}


def _known(time_s: float) -> float | None:
    return time_s if isfinite(time_s) else None
