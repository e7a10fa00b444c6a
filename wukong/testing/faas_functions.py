"""The functions which the conformance suite of FaaS plug-ins has run. Each leaves evidence in files.

A payload is one line of JSON and then, after the line feed, any bytes. The evidence of one run is a file of its own in
the directory that the payload names, written under another name first, so that it appears as a whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from wukong.backends.faas import FaaS, Invocation
from wukong.backends.spec import PluginSpec


class Expected(Exception):
    """What `conform` raises when it is asked to."""


def payload(directory: Path, name: str, *, then: dict[str, Any] | None = None, body: bytes = b"") -> bytes:
    """Return a payload for `conform`.

    Args:
        directory: where the evidence goes.
        name: of the evidence.
        then: what else to do: ``{"raise": text}`` or ``{"invoke": [names], "spec": {target, options}}``.
        body: bytes whose digest becomes part of the evidence.
    """
    return json.dumps({"directory": str(directory), "name": name, **(then or {})}).encode() + b"\n" + body


def conform(payload_bytes: bytes) -> None:
    """Leave evidence of this call, then do what the payload says."""
    head, _, body = payload_bytes.partition(b"\n")
    order = json.loads(head)
    directory = Path(order["directory"])
    leave(directory, order["name"], {"size": len(body), "digest": hashlib.sha256(body).hexdigest(), "pid": os.getpid()})
    if "raise" in order:
        raise Expected(order["raise"])
    if "invoke" in order:
        backend: FaaS = PluginSpec(order["spec"]["target"], order["spec"]["options"]).open()
        backend.invoke([Invocation(f"{order['name']}.{name}", payload(directory, name)) for name in order["invoke"]])


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
