"""What the tests of the emulator share: evidence that functions leave, and what the system says about processes."""

import json
from pathlib import Path

from waiting import GIVE_UP_S, wait

from wukong.backends.faas import Invocation


def evidence(directory, name=None):
    """Return what functions have left, all of it or that of one name."""
    files = [file for file in Path(directory).iterdir() if "~" in file.name and not file.name.startswith(".")]
    return [json.loads(f.read_text()) for f in files if name is None or f.name.partition("~")[0] == name]


def left(directory, count, name=None):
    """Wait for n pieces of evidence."""
    wait(lambda: len(evidence(directory, name)) >= count, f"{count} pieces of evidence of {name or 'anything'}")
    return evidence(directory, name)


def order(directory, name, invocation=None, **more):
    """Return an invocation for one of `faas_functions`."""
    return Invocation(
        invocation or f"job/{name}", json.dumps({"directory": str(directory), "name": name, **more}).encode()
    )


def failures(backend, count):
    """Wait for n failures, woken by the backend."""
    found = []
    while len(found) < count:
        assert backend.failed.wait(GIVE_UP_S), f"{len(found)} failures, expected {count}"
        found += backend.failures()
    return found


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
