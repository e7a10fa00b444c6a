"""What this process may use of the machine: cores, memory, processes; and which boot of it this is.

Numerical libraries look at the whole machine when they are loaded; `thread_variables` tells them what is theirs.

On Linux that is what its control groups leave it, of either version, with or without a namespace of their own: a
container's, a systemd unit's, a batch system's job. A group limits everything below it, so each counts from the
process's own group up to the root of what is mounted. Files are read below `root`.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

if sys.platform != "win32":
    import resource

_UNLIMITED_BYTES = 1 << 60
_MANY_PROCESSES = 8_192
"""A higher limit of a user's is taken as no limit: to count all processes takes too long."""

_AS_OMP = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Libraries that go by OMP_NUM_THREADS, unless they find a variable of their own."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", *_AS_OMP, "VECLIB_MAXIMUM_THREADS")


class MachineMemory(NamedTuple):
    """Memory in bytes: how much is available without pushing others out, and how much there is in all."""

    free_bytes: int
    total_bytes: int


def boot() -> bytes:
    """Return an id of this boot of the machine; b"" if the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    except OSError:
        return b""


def loopback(host: str) -> bool:
    """Return whether a host name or address means this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def cores(root: str = "/") -> int:
    """Return how many cores this process may use: its affinity, and its control groups' quotas."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for group in _groups(root, "cpu"):
        quota, _, period = _text(group / "cpu.max").partition(" ")
        if not quota:
            quota, period = _text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            count = min(count, -(-int(quota) // int(period)))
    return max(1, count)


def thread_variables(threads: int, value: Callable[[str], str | None]) -> dict[str, str]:
    """Return the environment variables with which numerical libraries start `threads` threads each.

    What the user has set stays, OMP_NUM_THREADS also for the libraries that go by it. It only counts for libraries that
    are loaded later.

    Args:
        value: returns what an environment variable is; None or empty: it is not set.
    """
    settled = _AS_OMP if value("OMP_NUM_THREADS") else ()
    return {name: f"{threads}" for name in _THREAD_VARIABLES if name not in settled and not value(name)}


def memory(root: str = "/") -> MachineMemory | None:
    """Return the memory that this process may use; None if it is not known."""
    machine = _numbers(Path(root, "proc/meminfo"))
    try:
        free_bytes, total_bytes = machine["MemAvailable:"] << 10, machine["MemTotal:"] << 10
    except KeyError:
        return None
    for nth, group in enumerate(_groups(root, "memory")):
        limits = [_number(group / f"memory.{name}") for name in ("max", "high", "limit_in_bytes")]
        own = nth == 0 and limits[2] is not None
        if not own and all(each is None or each >= _UNLIMITED_BYTES for each in limits):
            continue
        counted = _numbers(group / "memory.stat")  # it takes the system a while
        limits.append(counted.get("hierarchical_memory_limit"))  # also that of groups which cannot be seen from here
        limit_bytes = min((each for each in limits if each is not None), default=_UNLIMITED_BYTES)
        used_bytes = _number(group / "memory.current")
        if used_bytes is None:
            used_bytes = _number(group / "memory.usage_in_bytes")
        if limit_bytes >= _UNLIMITED_BYTES or used_bytes is None:
            continue
        # What is cached of files gives way; shared memory does not, and is in neither of the two.
        cached_bytes = sum(counted.get(f"total_{name}", counted.get(name, 0)) for name in _CACHED)
        total_bytes = min(total_bytes, limit_bytes)
        free_bytes = min(free_bytes, max(0, limit_bytes - used_bytes + cached_bytes))
    return MachineMemory(free_bytes, total_bytes)


_CACHED = ("inactive_file", "active_file")


def processes_left(root: str = "/") -> int | None:
    """Return how many processes and threads may still be started; None: no bound is known."""
    found = []
    for group in _groups(root, "pids"):
        most, now = _number(group / "pids.max"), _number(group / "pids.current")
        if most is not None and now is not None:
            found.append(most - now)
    if sys.platform.startswith("linux") and os.getuid() != 0:  # root has no such limit
        most, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        if 0 <= most <= _MANY_PROCESSES:
            found.append(most - _threads_of(os.getuid(), root))
    return max(0, min(found)) if found else None


def _threads_of(user: int, root: str) -> int:
    """Return how many threads the processes of a user have, as far as they can be seen."""
    count = 0
    for entry in os.scandir(Path(root, "proc")):
        if entry.name.isdecimal():
            try:
                if entry.stat().st_uid == user:
                    count += int(_text(Path(entry.path, "stat")).rpartition(")")[2].split()[17])
            except (OSError, IndexError):
                continue  # it has ended meanwhile
    return count


def _groups(root: str, controller: str) -> Iterator[Path]:
    """Yield the folders of the groups that this process is in, from its own upwards."""
    paths: dict[str, str] = {}
    for line in _text(Path(root, "proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    name = controller if controller in paths else ""  # version 2 has no names
    if name not in paths:
        return
    path, mounts = paths[name], [each for each in _mounts(root) if name in each.controllers]
    for mount in mounts:
        inside = path if mount.top == "/" else path.removeprefix(mount.top)
        if mount.top == "/" or path == mount.top or path.startswith(mount.top + "/"):
            break
    else:
        if not mounts:
            return
        mount, inside = mounts[0], ""  # a container that sees its own group only, and that by another name
    folder = Path(mount.place)
    below = [part for part in inside.split("/") if part not in ("", ".")]
    for n in range(0 if ".." in below else len(below), -1, -1):
        yield folder.joinpath(*below[:n])


class _Mount(NamedTuple):
    place: str
    top: str
    controllers: tuple[str, ...]


@functools.cache
def _mounts(root: str) -> tuple[_Mount, ...]:
    """Return where control groups are mounted, and which group is at the top of each."""
    found = []
    for line in _text(Path(root, "proc/self/mountinfo")).splitlines():
        where, _, what = line.partition(" - ")
        kind, _, options = what.partition(" ")
        if kind in ("cgroup", "cgroup2"):
            top, place = (re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), each) for each in where.split()[3:5])
            controllers = ("",) if kind == "cgroup2" else tuple(options.split()[-1].split(","))
            found.append(_Mount(os.path.join(root, place.lstrip("/")), top, controllers))
    return tuple(found)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def _number(path: Path) -> int | None:
    """Return the number in a file; None: there is none, also if it says that there is no limit."""
    text = _text(path)
    return int(text) if text.isdecimal() else None


def _numbers(path: Path) -> Mapping[str, int]:
    """Return the lines of a file that begin with a name and a number."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
