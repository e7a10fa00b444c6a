"""Functions that the tests of the emulator have run. A payload is JSON; evidence is files in its ``directory``."""

import ctypes
import json
import logging
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from wukong.core import task_context


def _leave(directory, name, **evidence):
    unfinished = Path(directory, f".{name}.{os.getpid()}.{time.monotonic_ns()}")
    unfinished.write_text(json.dumps(evidence))
    unfinished.rename(Path(directory, f"{name}~{os.getpid()}.{time.monotonic_ns()}"))


def note(payload):
    """Leave evidence that this has run, and in which process."""
    order = json.loads(payload)
    _leave(order["directory"], order["name"], pid=os.getpid(), loaded=sorted(sys.modules), value=os.environ.get("V"))


def meet(payload):
    """Sleep until as many as asked for are here at once, or the test gives up."""
    order = json.loads(payload)
    _leave(order["directory"], order["name"], pid=os.getpid())
    while not Path(order["directory"], "go").exists():
        time.sleep(0.02)  # there may be sixty-four of them


def nap(payload):
    """Take some time."""
    order = json.loads(payload)
    time.sleep(order["nap_s"])
    _leave(order["directory"], order["name"])


def compute(payload):
    """Use a core until told to stop."""
    order = json.loads(payload)
    _leave(order["directory"], order["name"], pid=os.getpid())
    stop = Path(order["directory"], "go")
    while not stop.exists():
        sum(range(10_000))


def use_cores(payload):
    """Use as many cores besides one's own as asked for, if any, and give them back when told; end when told."""
    order = json.loads(payload)
    use, folder = task_context.use_cores(), Path(order["directory"])
    if order.get("more"):
        use(order["more"])
    _leave(order["directory"], order["name"], left=use(order.get("more", 0)))
    while not (folder / "back").exists():
        time.sleep(0.02)
    use(0)
    while not (folder / "go").exists():
        time.sleep(0.02)


def lends_cores(payload):
    """Say whether there may be cores besides one's own."""
    order = json.loads(payload)
    _leave(order["directory"], order["name"], lends=task_context.use_cores() is not None)


def stay(payload):
    """Say which task it is, say that it runs, and never end; with a process of its own, where asked for."""
    order = json.loads(payload)
    task_context.set_describer(lambda: order.get("task"))
    task_context.announce()
    helper = subprocess.Popen(["sleep", "1000"]).pid if order.get("helper") else None
    _leave(order["directory"], order["name"], pid=os.getpid(), helper=helper)
    while True:
        time.sleep(60)


def die(payload):
    """Say last words and die of a signal."""
    order = json.loads(payload)
    task_context.set_describer(lambda: order.get("task"))
    task_context.announce()
    print("harmless\nthese are my last words", file=sys.stderr)
    if order["how"] == "exit":
        os._exit(3)
    if order["how"] == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), signal.SIGKILL)


def fail(payload):
    """Raise, in a task if one is named."""
    order = json.loads(payload)
    if "task" in order:
        task_context.set_describer(lambda: order["task"])
        task_context.announce()
    raise ValueError(f"cannot do {order['name']}")


def die_but_for_a_fork(payload):
    """Fork a child that has a copy of all this process has open, and die."""
    order = json.loads(payload)
    line = os.dup(next(int(fd) for fd in os.listdir("/proc/self/fd") if _is_socket(fd)))
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    _leave(order["directory"], order["name"], helper=pid, line=line)
    os.kill(os.getpid(), signal.SIGKILL)


def _is_socket(descriptor):
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:")
    except OSError:
        return False


def swell(payload):
    """Fill memory and stay."""
    order = json.loads(payload)
    held = mmap.mmap(-1, order["bytes"], flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for offset in range(0, order["bytes"], 4096):
        held[offset] = 1
    time.sleep(600)


def speak(payload):
    """Print and log in the middle of a task, leave a line unfinished."""
    task_context.set_describer(lambda: "('x', 1)")
    print("first", "line")
    print("to stderr", file=sys.stderr)
    logging.getLogger("user.module").warning("a %s record", "log")
    logging.getLogger("user.module").debug("too quiet")
    print("no end", end="")


def speak_first(payload):
    """Print, then leave evidence."""
    order = json.loads(payload)
    print("said by", order["name"])
    _leave(order["directory"], order["name"])


def speak_when_told(payload):
    """Wait as `meet`, and go on as `speak_first`."""
    meet(payload)
    speak_first(payload)


def fork_and_speak(payload):
    """Have a child of this worker's own print: its output must not disturb the line to the host."""
    order = json.loads(payload)
    pid = os.fork()
    if pid == 0:
        print("from a grandchild")
        os._exit(0)
    os.waitpid(pid, 0)
    _leave(order["directory"], order["name"])


def tasks(payload):
    """Start eight tasks the way an executor does; leave evidence of each."""
    order = json.loads(payload)
    hook = task_context.task_hook()
    for number in range(8):
        if hook is not None:
            hook()
        _leave(order["directory"], f"{order['name']}.{number}")


def spread(payload):
    """Invoke, from inside, as many others as asked for, from several threads."""
    from threading import Thread

    from wukong.backends.faas import Invocation
    from wukong.backends.spec import PluginSpec

    order = json.loads(payload)
    if order["deep"]:
        backend = PluginSpec(order["target"]).open()
        below = json.dumps({**order, "deep": order["deep"] - 1, "name": order["name"] + "c"}).encode()
        ballast = b" " * order.get("ballast", 0)
        batches = [[Invocation("job/x", below + ballast)] for _ in range(order["wide"])]
        threads = [Thread(target=backend.invoke, args=(batch,)) for batch in batches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        free = backend.free_slots()
        assert free >= 0
    _leave(order["directory"], order["name"])
