"""What the tests of the emulator share: waiting on conditions, evidence, and what the system says about processes."""

import json
import os
import time
from pathlib import Path

from wukong.backends.faas import Invocation

GIVE_UP_S = 30.0


def wait(seen, what="it happens"):
    """Return the first true answer of `seen`."""
    give_up_s = time.monotonic() + GIVE_UP_S
    while not (answer := seen()):
        assert time.monotonic() < give_up_s, f"waited in vain until {what}"
        time.sleep(0.002)
    return answer


def evidence(directory, name=None):
    """Return what functions have left, all of it or that of one name."""
    files = [file for file in Path(directory).iterdir() if "~" in file.name and not file.name.startswith(".")]
    return [json.loads(f.read_text()) for f in files if name is None or f.name.partition("~")[0] == name]


def left(directory, count, name=None):
    """Wait for so much evidence."""
    wait(lambda: len(evidence(directory, name)) >= count, f"{count} pieces of evidence of {name or 'anything'}")
    return evidence(directory, name)


def order(directory, name, invocation=None, **more):
    """Return an invocation for one of `faas_functions`."""
    return Invocation(
        invocation or f"job/{name}", json.dumps({"directory": str(directory), "name": name, **more}).encode()
    )


def failures(backend, count):
    """Wait for so many failures, woken by the backend."""
    found = []
    while len(found) < count:
        assert backend.failed.wait(GIVE_UP_S), f"{len(found)} failures, expected {count}"
        found += backend.failures()
    return found


def gone(pid):
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


def children(pid):
    """Return the children of a process, zombies too."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat[stat.rfind(")") + 4 :].split()[0]) == pid:
                found.append(int(entry.name))
    return found
