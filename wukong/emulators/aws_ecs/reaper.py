"""A process that outlives its parent for a moment, to kill what the parent has started: run as ``python reaper.py``.

It reads from its standard input which process groups have begun, ``+1234``, and which have ended, ``-1234``. When its
input ends, because its parent has closed it or has died, it kills the remaining groups.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

__all__ = ["Reaper", "kill_group"]


class Reaper:
    """The parent's side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C on a terminal must reach only its parent
        )

    def watch(self, group: int) -> None:
        """Kill this group when this process ends."""
        self._tell(f"+{group}")

    def forget(self, group: int) -> None:
        """Forget this group, which has ended; the system may soon give its id to another one."""
        self._tell(f"-{group}")

    def close(self) -> None:
        """Kill the remaining groups, and end. Closing twice is no error."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()


def kill_group(group: int) -> None:
    """Kill all processes of a group. An empty group is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: not permitted if all are zombies
        os.killpg(group, signal.SIGKILL)


def _main() -> None:
    groups: set[int] = set()
    for line in sys.stdin.buffer:
        if line.startswith(b"+"):
            groups.add(int(line[1:]))
        else:
            groups.discard(int(line[1:]))
    for group in groups:
        kill_group(group)


if __name__ == "__main__":
    _main()
