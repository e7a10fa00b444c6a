"""Snapshots of an initialised environment (AWS Lambda's SnapStart): what must not be alike in all that are restored.

    handler is imported -> `hang_up` -> snapshot -> restored, many times -> `renew` -> invocations

A snapshot is memory. Whatever was drawn, connected or read from a clock before it is the same in each environment that
is restored from it, at any later time. So nothing is connected when it is taken, and the random states that Python and
numpy share among all their users begin anew. No module of Wukong that functions import keeps a time or a random state
of its own from then on. uuid and secrets ask the system. What a user's modules keep is theirs: they register hooks of
their own.
"""

from __future__ import annotations

import gc
import random
import sys

from wukong.backends import entry
from wukong.backends.environment import variable

AHEAD = (*entry.AHEAD, "boto3", "botocore.credentials", "botocore.httpsession", "numpy", "pandas", "dask.array")
"""Imported before a snapshot, if they are there: they then cost no environment anything.

boto3 because the credentials of an environment that was restored are not in its variables.
"""


def taken() -> bool:
    """Return whether a snapshot will be taken of this process once it is initialised."""
    return variable("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"


def register() -> None:
    """Have the platform call `hang_up` and `renew`. Lambda's runtimes know such hooks from Python 3.12 on."""
    try:
        from snapshot_restore_py import register_after_restore, register_before_snapshot
    except ImportError:
        return
    register_before_snapshot(hang_up)
    register_after_restore(renew)


def hang_up() -> None:
    """Close what is connected: the other end will not know whoever is restored."""
    entry.disconnect()
    gc.collect()  # connections that only garbage holds


def renew() -> None:
    """Begin the random states anew that all environments would share."""
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
