"""What runs in a place of the server: an executor, in a process that runs one invocation after the other."""

from __future__ import annotations

from wukong.backends import entry
from wukong.backends.faas.emulator.worker import attach
from wukong_executor import isolation

AHEAD = entry.AHEAD
"""What the processes' common parent imports while nobody has asked for anything yet."""


def run(payload: bytes) -> None:
    """Run one invocation, within the limits of this server, and put back what its tasks have changed."""
    limits = attach().limits
    with isolation.surroundings():
        entry.handle(payload, time_limit_s=limits.time_s, memory_limit_bytes=limits.memory_bytes, cores=limits.cores)
