"""The functions that the conformance suite has FaaS plug-ins run. Each leaves evidence in files.

A payload is one line of JSON and then, after the line feed, any bytes. The evidence of one run is a file of its own in
the directory that the payload names, written under another name first, so that it appears as a whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wukong.backends.environment import variable
from wukong.backends.faas import FaaS, Invocation
from wukong.backends.spec import PluginSpec
from wukong.errors import PayloadTooLarge

_LOOK_S = 0.005
_counting = threading.Lock()
_at_once = 0
_client: int | None = None


class Expected(Exception):
    """What `conform` raises when it is asked to."""


def payload(directory: Path, name: str, *, then: Mapping[str, Any] | None = None, body: bytes = b"") -> bytes:
    """Return a payload for `conform`.

    Args:
        directory: where the evidence goes.
        name: of the evidence.
        then: what else to do, in this order: ``say`` a text on standard output; ``wait`` until the directory has a file
            of this name, for at most ``wait_s`` seconds; open the backend of the mapping ``spec`` (its target and
            options) and ``look`` at it, or ``invoke`` these names; ``raise`` this text, ``exit`` Python, or ``die``.
        body: bytes whose digest becomes part of the evidence.
    """
    return json.dumps({"directory": str(directory), "name": name, **(then or {})}).encode() + b"\n" + body


def conform(payload_bytes: bytes) -> None:
    """Leave evidence of this call, then do what the payload says."""
    global _at_once
    with _counting:
        _at_once += 1
    try:
        _conform(payload_bytes)
    finally:
        with _counting:
            _at_once -= 1


def _conform(payload_bytes: bytes) -> None:
    head, _, body = payload_bytes.partition(b"\n")
    order = json.loads(head)
    directory, name = Path(order["directory"]), order["name"]
    evidence = {
        "size": len(body),
        "digest": hashlib.sha256(body).hexdigest(),
        "pid": os.getpid(),
        "at_once": _at_once,
        "hash": hash("wukong"),
        "ancestors": _ancestors(),
        "environment": {each: variable(each) for each in order.get("environment", [])},
    }
    leave(directory, name, evidence)
    if "say" in order:
        sys.stdout.write(f"{order['say']}\n")
    if "wait" in order:
        end = "released" if _awaited(directory / order["wait"], order["wait_s"]) else "not-released"
        leave(directory, f"{name}-{end}", evidence | {"at_once": _at_once})
    if "spec" in order:
        _use(PluginSpec(order["spec"]["target"], order["spec"]["options"]).open(), order, directory)
    if "raise" in order:
        raise Expected(order["raise"])
    if "exit" in order:
        raise SystemExit(order["exit"])
    if "die" in order:
        if _client == os.getpid():  # no test may take the whole suite with it
            leave(directory, f"{name}-in-the-client", evidence)
        else:
            os.kill(os.getpid(), signal.SIGKILL)


def _ancestors() -> list[int]:
    """The processes that this one descends from, if the system tells."""
    found, pid = [], os.getpid()
    with suppress(OSError, ValueError, IndexError):
        while pid > 1:
            found.append(pid)
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def _awaited(file: Path, timeout_s: float) -> bool:
    end_s = time.monotonic() + timeout_s
    while not file.exists():
        if time.monotonic() > end_s:
            return False
        time.sleep(_LOOK_S)
    return True


def _use(backend: FaaS, order: dict[str, Any], directory: Path) -> None:
    name = order["name"]
    if "look" in order:
        limit, refused = backend.limits.payload_bytes, None
        if limit is not None:
            with suppress(PayloadTooLarge):
                backend.invoke([Invocation(f"{name}.0", bytes(limit + 1))])
                refused = False
            refused = refused is None
        seen = {"limits": asdict(backend.limits), "free_slots": backend.free_slots(), "refused": refused}
        leave(directory, f"{name}-looked", seen)
    then = {"environment": order.get("environment", [])}
    calls = [Invocation(f"{name}.{child}", payload(directory, child, then=then)) for child in order.get("invoke", [])]
    if calls:
        backend.invoke(calls)


def this_is_the_client() -> None:
    """Say that this process is the suite's own, which no function may kill."""
    global _client
    _client = os.getpid()


def leave(directory: Path, name: str, evidence: dict[str, Any]) -> None:
    """Write one piece of evidence."""
    unfinished = directory / f".{uuid.uuid4().hex}"
    unfinished.write_text(json.dumps(evidence))
    unfinished.rename(directory / f"{name}~{uuid.uuid4().hex}")


def found(directory: Path) -> dict[str, list[dict[str, Any]]]:
    """Return all evidence by name, one entry for each time the function has run."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for file in directory.iterdir():
        if not file.name.startswith("."):
            runs.setdefault(file.name.partition("~")[0], []).append(json.loads(file.read_text()))
    return runs
