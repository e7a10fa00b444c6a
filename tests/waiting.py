"""Waiting for what is to come true, not for time to pass."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

GIVE_UP_S = 60.0
_TASK_S = 280.0


def pauses() -> Iterator[float]:
    """Yield how long to sleep between looks, seconds: shortly at first, later so that looking costs next to nothing."""
    pause_s = 0.002
    while True:
        yield pause_s
        pause_s = min(0.03, pause_s * 1.3)


def wait(seen: Callable[[], Any], what: str = "it happens", give_up_s: float = GIVE_UP_S) -> Any:
    """Return the first true answer of `seen`."""
    end = time.monotonic() + give_up_s
    for pause_s in pauses():
        if answer := seen():
            return answer
        assert time.monotonic() < end, f"waited in vain until {what}"
        time.sleep(pause_s)


def wait_for(path: str, value: Any) -> Any:
    """Return `value` once there is a file at `path`: a task that lasts for as long as a test likes.

    So it waits longer than any one step of the test may take.
    """
    wait(Path(path).exists, f"{path} is there", _TASK_S)
    return value


def gone(pid: int) -> bool:
    """Return whether a process has ended (a zombie that its parent has not waited for yet has not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:  # an orphan's new parent may be slow to wait for it
        stat = Path(f"/proc/{pid}/stat").read_text()
        return stat[stat.rfind(")") + 2] == "Z" and int(stat[stat.rfind(")") + 4 :].split()[0]) == 1
    except OSError:
        return True
