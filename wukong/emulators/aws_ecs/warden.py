"""A process that outlives its parent by an instant, to kill what that has started: run as ``python warden.py``.

It is told on its standard input which process groups there are, ``+1234``, and which have ended, ``-1234``. When its
input ends, because its parent has closed it or is gone, it kills those that are left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

__all__ = ["Warden", "kill_group"]


class Warden:
    """The parent's side."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C on a terminal is for its parent
        )

    def watch(self, group: int) -> None:
        """This group is to die with this process."""
        self._tell(f"+{group}")

    def forget(self, group: int) -> None:
        """This group has ended; its id may mean another one soon."""
        self._tell(f"-{group}")

    def close(self) -> None:
        """Kill what is left, and end. Closing twice is no error."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()


def kill_group(group: int) -> None:
    """Kill all processes of a group. That there are none is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: not permitted, where all are zombies
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
