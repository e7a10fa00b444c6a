"""The process that environments are forked from. Run as a script; imports nothing but the standard library.

    python -P template.py <descriptor of a Unix socket> <folder to remove at the end, or ""> [<task root> <module>]
    python -P template.py <descriptor of a Unix socket> "" <task root> "" <handler>

The service sends lines of JSON, each with a descriptor for the child's output. This process forks a child for each, and
reports its id and its end. If a module is given, this process imports it first, and children run awslambdaric without
an exec. If a handler is given, this process is a snapshot: see `frozen`. When the socket closes, because the service
ended or died, it kills its children with all they started, and ends.

    -> {"serial": 7, "argv": [...], "environment": {...}, "cwd": "...", "tmp_bytes": 536870912, "needed": [...]}
    <- {"serial": 7, "pid": 4711}                              <- {"serial": 7, "status": 9}
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import sys
import time
import traceback
import warnings
from typing import Any, NoReturn


class Template:
    """Serves one socket. See the module's docstring.

    A descriptor for each child reports its end, if the system has such descriptors. SIGCHLD would also come whenever
    a child is frozen or thawed, and the search for that child takes longer the more children there are.

    Attributes:
        given: the variables that this process had before the function's module was imported.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        warm: bool,
        given: dict[str, str],
        restored: type[BaseException] | None = None,
    ) -> None:
        self.sock = sock
        self.restored = restored
        self.given = given
        self.confine = beside("confine").confine
        self.processes = beside("../../backends/faas/emulator/children")
        self.warm = warm
        self.pid = os.getpid()
        self.children: dict[int, int] = {}
        pidfds = has_pidfds()
        # A forked child does not inherit a kqueue, so it cannot close it.
        self.selector = selectors.DefaultSelector() if pidfds else selectors.SelectSelector()
        self.selector.register(sock, selectors.EVENT_READ, self.read)
        self.pidfds: dict[int, int] = {}
        self.pipe: tuple[int, ...] = ()
        self.open = True
        self._text = b""
        self._descriptors: list[int] = []
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if not pidfds:
            self.watch_signals()

    def watch_signals(self) -> None:
        """Watch for ends of children by SIGCHLD."""
        self.pipe = os.pipe()
        for descriptor in self.pipe:
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self.pipe[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(self.pipe[0], selectors.EVENT_READ, self.bury_all)

    def serve(self) -> None:
        """Fork and reap children until the socket closes."""
        while self.open:
            for key, _ in self.selector.select():
                key.data()

    def read(self) -> None:
        """Take orders."""
        data, received, _, _ = socket.recv_fds(self.sock, 65536, 64)
        self.open = bool(data)
        self._descriptors += received
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            self.fork(json.loads(line), self._descriptors.pop(0))

    def fork(self, order: dict[str, Any], output: int) -> None:
        """Fork one child."""
        try:
            pid = fork()
        except OSError as error:
            os.write(output, f"no process could be forked: {error}\n".encode())
            os.close(output)
            self.tell({"serial": order["serial"], "status": 1 << 8})
            return
        if pid == 0:
            self.live(order, output)
        os.close(output)
        self.processes.own_group(pid)
        self.children[pid] = order["serial"]
        self.tell({"serial": order["serial"], "pid": pid})
        if not self.pipe:
            self.watch(pid)

    def watch(self, pid: int) -> None:
        """Watch for a child's end."""
        try:
            self.pidfds[pid] = os.pidfd_open(pid)
        except OSError:  # out of descriptors: the child could not be watched
            self.bury(pid)
            return
        self.selector.register(self.pidfds[pid], selectors.EVENT_READ, lambda: self.bury(pid))

    def live(self, order: dict[str, Any], output: int) -> NoReturn:
        """Be the child. One that goes on from a snapshot raises what `restored` makes of its variables."""
        try:
            self.settle(order, output)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        if self.restored is not None:
            raise self.restored(order["environment"])
        status = 1
        try:
            if not self.warm:
                os.execve(order["argv"][0], order["argv"], order["environment"])
            self.adopt(order["environment"])
            awake()
            status = self.run_runtime(order["argv"][-1])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status & 0xFF)

    def run_runtime(self, handler: str) -> int:
        """Be awslambdaric with this handler until it ends; return the process's status. What it raises goes on."""
        sys.argv = ["awslambdaric", handler]
        try:
            runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    def adopt(self, environment: dict[str, str]) -> None:
        """Take the variables of an environment; what the function's module has set or deleted stays, as on Lambda."""
        own = os.environ  # noqa: TID251 - what a new process is given, not a setting that is read
        changed = {name: value for name, value in own.items() if self.given.get(name) != value}
        deleted = self.given.keys() - own.keys()
        own.clear()
        own.update({name: value for name, value in {**environment, **changed}.items() if name not in deleted})
        time.tzset()

    def settle(self, order: dict[str, Any], output: int) -> None:
        """Turn a child into a process of its own, with the restrictions of its function."""
        self.processes.own_group(0)
        self.processes.die_with(self.pid)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(output, 1)
        os.dup2(output, 2)
        self.selector.close()
        for descriptor in (output, *self.pipe, *self.pidfds.values()):
            os.close(descriptor)
        self.sock.close()
        why = self.confine(order["tmp_bytes"], order["needed"])
        if why is not None:
            os.write(1, f"This environment has no /tmp of its own: {why}\n".encode())
        elif order["tmp_bytes"] is not None:
            order["environment"].pop("TMPDIR")
        self.processes.die_with(self.pid)  # once more: a new namespace may have undone it
        os.chdir(order["cwd"])

    def bury(self, pid: int) -> None:
        """A child has ended, or has to: kill what is left of its group, and report its end."""
        kill_group(pid)
        _, status = os.waitpid(pid, 0)
        self.forget(pid, status)

    def bury_all(self) -> None:
        """Look for children that have ended."""
        os.read(self.pipe[0], 4096)
        while self.children and (found := self.processes.first_dead()) is not None:
            pid, status = found
            if status is None:
                self.bury(pid)
            else:
                self.forget(pid, status)

    def forget(self, pid: int, status: int) -> None:
        """Report a child's end."""
        if pid in self.pidfds:
            self.selector.unregister(self.pidfds[pid])
            os.close(self.pidfds.pop(pid))
        if pid in self.children:
            self.tell({"serial": self.children.pop(pid), "status": status})

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message. If the service is gone, the next read notices."""
        try:
            self.sock.sendall(json.dumps(message).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            return

    def stop(self) -> None:
        """Kill every child and wait for its end."""
        signal.set_wakeup_fd(-1)
        for pid in self.children:
            kill_group(pid)
        for pid in self.children:
            os.waitpid(pid, 0)


def beside(path: str) -> Any:
    """Return the module at a path that begins in this file's folder. As a script, this file is in no package."""
    name = os.path.basename(path)
    spec = importlib.util.spec_from_file_location(name, os.path.join(os.path.dirname(__file__), f"{path}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fork() -> int:
    """Fork without Python's warning about threads: a module that starts one is its author's risk, as on Lambda."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def awake() -> None:
    """Turn a copy of the warm process into an environment of its own."""
    gc.enable()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # siblings would draw the same numbers; `random` reseeds itself


def has_pidfds() -> bool:
    """Return whether the system has descriptors of processes."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


def kill_group(pid: int) -> None:
    """Kill a child and what it has started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except OSError:
        return  # nothing is left of it


def remove(folder: str) -> None:
    """Remove a folder that dying processes may still be writing to."""
    for _ in range(100):
        for path, _, _ in os.walk(folder):
            os.chmod(path, 0o700)  # code is read-only
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.exists(folder):
            return
        time.sleep(0.02)


def main(descriptor: str, folder: str, task_root: str = "", module: str = "", handler: str = "") -> None:
    """Be the template."""
    sock = socket.socket(fileno=int(descriptor))
    sock.setblocking(True)
    sock.set_inheritable(False)
    given = dict(os.environ)  # noqa: TID251 - as for `adopt`
    if task_root:
        sys.path.insert(0, task_root)
        os.chdir(task_root)
    if handler:
        frozen = beside("frozen")
        frozen.run(Template(sock, warm=True, restored=frozen.Restored, given=given), handler)
    if module:
        try:
            importlib.import_module(module)
            importlib.import_module("simplejson")
        except BaseException:  # every environment will meet the same error, and report it
            sys.modules.pop(module, None)
        gc.collect()
        gc.freeze()
        gc.disable()
    template = Template(sock, warm=bool(module), given=given)
    try:
        template.serve()
    finally:
        template.stop()
        if folder:
            remove(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
