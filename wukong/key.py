"""``wukong key show`` and ``wukong key rotate``: the deployment key that is kept for this user and a store.

It is imported whenever the command line is parsed, so the functions import what is heavy only when they need it.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

from wukong.command import AddChoices, AddCommand, Overrides, add_json, tell, tell_json
from wukong.errors import ConfigError

_KEY = """\
Without the setting 'key', Wukong keeps a deployment key of your own for each store, in a file that only you can read:
a client with the same store, as the same user on the same machine, can take over the job of one that was killed.
"""
_SHOW = """\
Print the deployment key of the configured store: what another machine or user needs to take a job over from here.

  wukong key show --storage redis://host:6379
  WUKONG_KEY=$(ssh first-machine wukong key show --storage redis://host:6379) python take_over.py
"""
_ROTATE = """\
Replace the key that is kept by a new one, and print it. Clients that run go on with theirs. A job that was started with
the old key can be taken over with the old key only: note it down before ('wukong key show').
"""


def add_to(command: AddCommand, choices: AddChoices, overrides: Overrides) -> None:
    """Add the command to the command line."""
    line = "the deployment key that is kept for a store"
    added = command("key", lambda _: 0, _KEY, line)
    verbs = added.add_subparsers(title="commands", metavar="COMMAND", help="what to do", required=True)
    for name, rotate, text, help_line in (
        ("show", False, _SHOW, "print the key of the configured store"),
        ("rotate", True, _ROTATE, "make a new key for the configured store"),
    ):
        verb = verbs.add_parser(name, help=help_line, description=text)
        verb.set_defaults(command=partial(_show, overrides, rotate))
        choices(verb)
        add_json(verb)


def _show(overrides: Overrides, rotate: bool, arguments: argparse.Namespace) -> int:
    from wukong.client.kept_key import kept_key, place_of, rotated
    from wukong.config import Settings

    settings = Settings.load(**overrides(arguments))
    path = None
    if settings.key is not None:
        if rotate:
            raise ConfigError(f"the key is a setting (set by {settings.sources['key']})", hint="change it there")
        key, where = settings.key, f"the setting key (set by {settings.sources['key']})"
    else:
        try:
            place = place_of(settings)
            key_or_none = rotated(settings) if rotate else kept_key(settings)
        except OSError as error:
            raise ConfigError(
                f"no key can be kept: {error}", hint="set XDG_DATA_HOME to a folder of yours, or the key (WUKONG_KEY)"
            ) from error
        if place is None or key_or_none is None:
            raise ConfigError(
                "no key is kept for this store: the embedded one without a path ends with its client",
                hint="choose another store (--storage), or give this one a path (--set storage.path=...)",
            )
        key, path = key_or_none, str(place[1])
        where = f"{path}, for {place[0]}"
    if arguments.json:
        tell_json({"key": key, "path": path})
        return 0
    tell(key)
    sys.stderr.write(f"{'a new one in' if rotate else 'from'} {where}\n")
    return 0
