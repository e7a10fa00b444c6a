"""Hosts of the emulator, forked from a process that has imported what they need, instead of started anew.

What a host imports, Dask above all, is most of what a small test costs. One process for each process of pytest imports
it once, and forks the hosts as siblings of its own (CLONE_PARENT), so that each is a child of who asked, with its
descriptors, variables and folder, as one that `Popen` starts. A test that is marked `fresh_hosts` starts them anew.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

from wukong.backends.faas.emulator import ahead, boot, link

_CLONE, _CLONE_PARENT = {"x86_64": 56, "aarch64": 220}.get(platform.machine()), 0x8000
_HIGH = 500
"""Descriptors of the forking process are above those that a host is to have."""
_APART: dict[str, Any] = {"stdin": subprocess.DEVNULL, "start_new_session": True}
_OWN = ("PYTHON", "LD_", "DASK_", "MALLOC_", "OMP_", "OPENBLAS_", "MKL_", "NUMEXPR_", "VECLIB_")
"""Variables that are read once, when an interpreter or a library starts."""
_AHEAD = ("dask.array", "wukong.backends.entry")
_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import warm_hosts; warm_hosts.main(int(sys.argv[2]))"
)


class Forking:
    """The process that forks hosts, and who asks it."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = own(variables)
        self.lock = threading.Lock()
        self.ours, theirs = socket.socketpair()
        with theirs:
            places = [os.path.dirname(__file__), *map(os.path.abspath, sys.path)]
            command = [sys.executable, "-P", "-c", _PROGRAM, json.dumps(places), str(theirs.fileno())]
            self.process = subprocess.Popen(command, env=variables, pass_fds=[theirs.fileno()], **_APART)
        self.pid = os.getpid()
        atexit.register(self.close)

    def fork(self, arguments: list[str], variables: dict[str, str], descriptors: list[int]) -> int:
        """Return the id of a new host, a child of this process."""
        wanted = {"arguments": arguments, "variables": variables, "folder": os.getcwd(), "descriptors": descriptors}
        message = json.dumps(wanted).encode()
        with self.lock:
            self.ours.sendall(len(message).to_bytes(4, "big"))
            socket.send_fds(self.ours, [b"."], [*descriptors, 1, 2])
            self.ours.sendall(message)
            answer = self.ours.recv(4, socket.MSG_WAITALL)
        if len(answer) != 4:
            raise OSError("the process that forks hosts has ended")
        return int.from_bytes(answer, "big")

    def close(self) -> None:
        if os.getpid() == self.pid:
            self.process.kill()  # hosts are not its children
            self.process.wait()


def own(variables: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name.startswith(_OWN)}


class WarmPopen(subprocess.Popen[bytes]):
    """A host that is forked, unless it is to have other variables than the process that would fork it."""

    fresh = False
    forking: Forking | None = None

    def _execute_child(self, args: Any, *more: Any) -> None:
        variables, cls = more[5], WarmPopen
        if not self.fresh and (cls.forking is None or cls.forking.pid != os.getpid()):
            cls.forking = Forking(variables)
        if self.fresh or own(variables) != cls.forking.variables:
            super()._execute_child(args, *more)
            return
        try:
            self.pid = cls.forking.fork(list(args[4:]), variables, list(more[3]))
        except OSError:  # nobody is there any more to do it
            cls.forking = None
            super()._execute_child(args, *more)
            return
        self._child_created = True
        self._close_pipe_fds(*more[9:15])


def fresh(anew: bool) -> None:
    """Say whether the next hosts are to be started anew."""
    WarmPopen.fresh = anew or sys.platform != "linux" or _CLONE is None


def install() -> None:
    """Have all clients of this process start their hosts so."""
    here = {name: getattr(subprocess, name) for name in ("DEVNULL", "TimeoutExpired")}
    link.subprocess = SimpleNamespace(Popen=WarmPopen, **here)
    ahead.LIBRARIES.clear()  # what pytest has imported is not what a job needs


def _clone() -> int:
    """Fork a sibling; return its id, or 0 in it."""
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = ctypes.CDLL(None).syscall(_CLONE, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    (ctypes.pythonapi.PyOS_AfterFork_Child if pid == 0 else ctypes.pythonapi.PyOS_AfterFork_Parent)()
    return int(pid)


def _serve(descriptor: int) -> list[str]:
    """Fork hosts until nobody asks any more; returns in each of them, with its arguments."""
    os.dup2(descriptor, _HIGH)
    os.close(descriptor)
    asked = socket.socket(fileno=_HIGH)
    while size := asked.recv(4, socket.MSG_WAITALL):
        _, received, *_ = socket.recv_fds(asked, 1, 64)
        message = json.loads(asked.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL))
        pid = _clone()
        if pid == 0:
            asked.close()
            os.setsid()
            os.chdir(message["folder"])
            os.environ.clear()
            os.environ.update(message["variables"])
            moved = []
            for number in received:
                moved.append(os.dup2(number, _HIGH + 1 + len(moved)))
                os.close(number)
            for number, there in zip(moved, [*message["descriptors"], 1, 2], strict=True):
                os.dup2(number, there)
                os.close(number)
            return list(message["arguments"])
        for number in received:
            os.close(number)
        asked.sendall(pid.to_bytes(4, "big"))
    os._exit(0)


def main(descriptor: int) -> None:
    """Import, and fork; in a host, be one."""
    for name in _AHEAD:
        importlib.import_module(name)
    gc.freeze()
    places, *numbers = _serve(descriptor)
    gc.unfreeze()
    sys.path[:] = json.loads(places)
    boot.main(*map(int, numbers))
