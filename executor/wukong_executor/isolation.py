"""One process runs many invocations, of many jobs: what a task may have changed in it is put back after each.

Put back: environment variables, working directory, `sys.path`, stdout and stderr, the root logger's handlers and level.
Left alone: imported modules and their settings (`dask.config` among them), files in the temporary directory, threads
and processes that a task has started. Other tasks of the job use them, and nothing tells which job they belong to.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from wukong_executor.log import Log

_log = Log()


@contextmanager
def invocation(label: str) -> Iterator[None]:
    """Run the invocation called `label` in this block, and put back afterwards what it has changed."""
    with surroundings():
        _log.begin(label)
        try:
            yield
        finally:
            _log.end()


@contextmanager
def surroundings() -> Iterator[None]:
    """Put back what is changed in this block, but for streams and loggers: for who has taken those over already."""
    variables, folder, path = dict(os.environ), os.getcwd(), list(sys.path)
    try:
        yield
    finally:
        os.chdir(folder)
        sys.path[:] = path
        _put_back(variables)


def _put_back(variables: dict[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    for name, value in variables.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
