"""``wukong debug``: run a task that has failed, here and under pdb.

It is imported whenever the command line is parsed, so the functions import what is heavy only when they need it.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wukong.cleaning import open_stores
from wukong.command import AddChoices, AddCommand, Overrides, add_json, table, tell, tell_json
from wukong.errors import JobError, StoreError

if TYPE_CHECKING:
    from wukong.backends.storage import Store
    from wukong.client.debugging import Debugger

_DEBUG = """\
Run a task that has failed here, under pdb, with the inputs that it had: where it raises, pdb begins. Without KEY, list
the job's tasks that have failed. KEY may be the beginning of a key, if no other failed task's begins so.

Inputs are kept where the setting 'keep_failed' is on, as it is on the emulator, until the client closes and for ttl_s
at most. The task runs with all its effects, in this folder and environment, and with the deployment's key.

  wukong debug 6f2ac5466e41-0
  wukong debug 6f2ac5466e41-0 "('parse-8c1f', 3)" --storage redis://host:6379
"""


def add_to(command: AddCommand, choices: AddChoices, overrides: Overrides) -> None:
    """Add the command to the command line."""
    added = command("debug", partial(_debug, overrides), _DEBUG, "run a task that has failed here, under pdb")
    added.add_argument("job", metavar="JOB", help="the job's id: errors name it, and so does 'wukong jobs'")
    added.add_argument("key", metavar="KEY", nargs="?", help="the task's key, or how it begins")
    choices(added)
    add_json(added)


def _debug(overrides: Overrides, arguments: argparse.Namespace) -> int:
    with open_stores(overrides, arguments) as (_, stores):
        debugger = _debugger(stores, overrides, arguments)
        if arguments.key is None:
            return _list(debugger, arguments)
        folder = str(Path.cwd())
        if folder not in sys.path:
            sys.path.insert(0, folder)
        call = debugger.call(arguments.job, arguments.key)
        if arguments.json:
            tell_json(_shown(call.task))
            return 0
    call.run()
    return 0


def _list(debugger: Debugger, arguments: argparse.Namespace) -> int:
    found = debugger.failed(arguments.job)
    if arguments.json:
        tell_json({"failed": [_shown(task) for task in found]})
        return 0
    if not found:
        debugger.call(arguments.job, None)  # raises, and says why
    rows = [
        (task.key, task.function, f"{task.kind}: {task.message}".split("\n")[0][:60], task.why_not or "yes")
        for task in found
    ]
    tell(*table(("KEY", "FUNCTION", "RAISED", "KEPT"), rows))
    return 0


def _shown(task: Any) -> dict[str, Any]:
    told = asdict(task)
    del told["modules"]
    return {**told, "kept": not task.why_not}


def _debugger(stores: list[Store], overrides: Overrides, arguments: argparse.Namespace) -> Debugger:
    """Return what looks into the store that has the job, with that store's key."""
    from wukong.client.debugging import Debugger
    from wukong.core.codec import Codec
    from wukong.core.names import Names

    prefix = Names(arguments.job).prefix + b"/"
    if not stores:
        raise JobError("no process of yours has a store open", job=arguments.job, hint="name one by --storage")
    store = stores[0] if len(stores) == 1 else next((each for each in stores if _has(each, prefix)), stores[0])
    return Debugger(store, Codec(_key(store, overrides, arguments), sign_buffers=not store.capabilities.trusted))


def _has(store: Store, prefix: bytes) -> bool:
    """Whether one of several embedded stores has keys that begin so; its client may close it meanwhile."""
    from wukong.backends.storage.layers.layer import within
    from wukong.backends.storage.local import LocalStore

    try:
        return bool((within(store, LocalStore) or store).scan(prefix))
    except StoreError:
        return False


def _key(store: Store, overrides: Overrides, arguments: argparse.Namespace) -> bytes:
    """Return the deployment key: that of the client whose embedded store this is, or as a client would find it."""
    from wukong.backends.faas.deployment_key import deployment_key
    from wukong.backends.plugins import load_faas
    from wukong.client.kept_key import kept_key, left_key
    from wukong.config import Settings

    settings = Settings.load(**overrides(arguments))
    if settings.key is None and (found := left_key(store)) is not None:
        return found
    faas = load_faas(settings.faas)
    try:
        return deployment_key(settings.key, faas, partial(kept_key, settings))
    finally:
        faas.close()
