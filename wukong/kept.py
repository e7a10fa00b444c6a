"""``wukong kept``: what is kept beyond its jobs, and deleting it.

wukong kept list [NAME]          ->  the values, the oldest first
wukong kept drop NAME | --all    ->  they are deleted
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from wukong.command import AddChoices, AddCommand, Overrides, add_json, table, tell, tell_json
from wukong.errors import ConfigError
from wukong.options import suggestion

if TYPE_CHECKING:
    from wukong.client.keeping import Keep

_KEPT = """\
Values that jobs keep beyond their ends (`compute(..., keep="name")`, `dask.annotate(keep=...)`): in the setting
`keep_in`, or in the store. 'list' shows them; 'drop' deletes those of a name, or all.

  wukong kept list
  wukong kept list features --storage redis://host:6379
  wukong kept drop features
  wukong kept drop --all
"""


def add_to(command: AddCommand, choices: AddChoices, overrides: Overrides) -> None:
    """Add the command to the command line."""
    added = command("kept", partial(_kept, overrides), _KEPT, "list or drop values that are kept beyond their jobs")
    added.add_argument("action", choices=["list", "drop"], help="what to do")
    added.add_argument("name", metavar="NAME", nargs="?", help="the name under which they are kept")
    added.add_argument("--all", action="store_true", help="drop what is kept under all names")
    choices(added)
    add_json(added)


def _kept(overrides: Overrides, arguments: argparse.Namespace) -> int:
    if arguments.action == "drop" and (arguments.name is None) is not arguments.all:
        raise ConfigError("'wukong kept drop' takes a name, or --all")
    left = 0
    with _keeps(overrides, arguments) as keeps:
        all_found = [(keep, about) for keep in keeps for about in keep.listed()]
        found = [(keep, about) for keep, about in all_found if arguments.name in (None, about.name)]
        if arguments.action == "drop":
            for keep in keeps:
                keep.drop([about for of, about in found if of is keep])
                left += keep.shelf.sweep(0.0) if arguments.all else 0
    abouts = [about for _, about in found]
    total = sum(about.size_bytes for about in abouts)
    if arguments.json:
        tell_json({"dropped": arguments.action == "drop", "values": [asdict(about) for about in abouts]})
    elif not abouts and arguments.name is not None:
        said = suggestion(arguments.name, {about.name for _, about in all_found})
        tell(f"nothing is kept under {arguments.name!r}; {said}")
    elif arguments.action == "drop":
        more = f", and {_count(left, 'file')} that killed functions have left" if left else ""
        tell(f"dropped {_count(len(abouts))}, {total:,} bytes{more}")
    elif not abouts:
        tell("nothing is kept here")
    else:
        now = time.time()
        rows = [(a.name, a.key, f"{a.size_bytes:,}", f"{a.took_s:.3g} s", _age(now - a.at)) for a in abouts]
        tell(*table(("NAME", "TASK", "BYTES", "TOOK", "AGE"), rows), f"{_count(len(abouts))}, {total:,} bytes")
    return 0


def _count(n: int, what: str = "value") -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _age(seconds: float) -> str:
    for unit, of in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * of:
            return f"{seconds / of:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


@contextmanager
def _keeps(overrides: Overrides, arguments: argparse.Namespace) -> Iterator[list[Keep]]:
    from wukong.cleaning import open_stores
    from wukong.client.keeping import Keep
    from wukong.config import Settings
    from wukong.core.shelves import FileShelf, Shelf, StoreShelf

    settings = Settings.load(**overrides(arguments))
    if settings.keep_in is not None:
        files: Shelf = FileShelf(settings.keep_in)
        files.check(writes=arguments.action == "drop")
        yield [Keep(settings, lambda: files)]
        return
    with open_stores(overrides, arguments) as (_, stores):
        shelves = [StoreShelf(each, each.scan if each.capabilities.scans else None) for each in stores]
        yield [Keep(settings, lambda shelf=shelf: shelf) for shelf in shelves]  # type: ignore[misc]
