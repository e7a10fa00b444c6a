"""``wukong store``: start, list and remove Redis nodes on AWS Fargate by hand.

    wukong store up --nodes 10     ->  the nodes, what they cost, and how a client uses them
    wukong store status            ->  the nodes, and what they have cost so far
    wukong store down              ->  what was stopped and removed

A client with ``storage="fargate"`` does all this by itself while it is open. Nodes that were started here stay when
clients come and go. This module is imported whenever the command line is parsed, so heavy modules are imported in the
functions that need them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from wukong.command import AddChoices, AddCommand, Overrides, add_json, table, tell_json
from wukong.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from wukong.backends.storage import Rent, Tell
    from wukong.backends.storage.fargate.nodes import Node, Nodes
    from wukong.backends.storage.fargate.options import FargateOptions, Shape
    from wukong.config import Settings

_STORE = """\
Redis nodes on AWS Fargate, for the store plug-in 'fargate'. Its options are those of the configured store if that is
fargate, and those of --set storage.OPTION=VALUE.
"""
_UP = """\
Bring up Redis nodes on AWS Fargate, and wait until they serve. Nodes that run already are taken over; with --nodes
there are as many afterwards. They stay until 'wukong store down', or until nobody has used them for a while (idle_s).

  wukong store up --nodes 10
  wukong store up --nodes 3 --set storage.memory_mb=16384 --set storage.cpu=2048
"""
_DOWN = """\
Stop all nodes, whoever uses them, and remove everything that was made for them. Does not ask.
"""
_STATUS = """\
Show the nodes that run, and what they have cost so far. Exits with 1 if there are none.
"""
_PLUGIN = "fargate"
_MB = 1_048_576
"""Fargate's unit of memory."""
_PLACE = ("region", "profile", "endpoint_url")
_TOLD = ("deployment", *_PLACE, "public", "client_cidr")
"""The options that a client needs as well; it takes all others from the nodes."""


def add_to(command: AddCommand, choices: AddChoices, overrides: Overrides) -> None:
    """Add the command to a parser.

    Args:
        command: makes a parser from a name, the function that runs it, a description and a help text.
        choices: gives a parser the options that choose settings.
        overrides: returns the settings that were given with these options.
    """
    store = command("store", partial(_status, overrides), _STORE, "Redis nodes on AWS Fargate: up, down, status")
    kinds = store.add_subparsers(title="commands", metavar="COMMAND", help="what to do", required=True)
    for name, run, text, line in (
        ("up", _up, _UP, "bring up nodes, or change how many there are"),
        ("down", _down, _DOWN, "stop all nodes, and remove what was made for them"),
        ("status", _status, _STATUS, "show the nodes, and what they have cost"),
    ):
        added = kinds.add_parser(name, help=line, description=text)
        added.set_defaults(command=partial(run, overrides))
        if name == "up":
            added.add_argument("--nodes", type=int, metavar="N", help="how many (as many as run; 1 if none does)")
        if name == "status":
            add_json(added)
        choices(added)
        added.add_argument("--name", help="of the store and all that belongs to it on AWS (wukong)")
        added.add_argument("--region", help="AWS region; as configured unless given")
        added.add_argument("--profile", help="of the AWS configuration; as configured unless given")
        added.add_argument("--endpoint-url", metavar="URL", help="of a stand-in for all of AWS's services")


# --- the commands


def _up(overrides: Overrides, arguments: argparse.Namespace) -> int:
    settings, options = _options(overrides, arguments)
    screen = _Screen()
    with _nodes(options) as nodes:
        before = {node.task for node in nodes.status()}
        try:
            with screen.progress() as tell:
                found = nodes.up(tell)
        except KeyboardInterrupt:
            screen.say("interrupted: what this command has started is stopped; nodes that ran before go on")
            raise
        started = sum(node.task not in before for node in found)
        where = f"{options.name} in {nodes.account.calls.region}"
        screen.say(f"{_count(len(found))} of {where}: {started} started, {len(found) - started} ran already")
        screen.nodes(found, options, nodes)
        slots = {node.slot for node in found}
        if stay := [node.slot for node in nodes.status() if node.slot not in slots]:
            screen.say(f"{', '.join(stay)} run on: clients use them, or they cannot be asked from here")
        rent = _rent(options, found)
        screen.say(f"{rent.what}: ${rent.usd_per_s * 3_600:.4f} an hour ({rent.rates})")
        idle = _time(_shape(found[0]).idle_s)
        screen.say(f"they stay until 'wukong store down', or until nobody has used them for {idle}")
        screen.say(f"\n    client = wukong.Client(storage={_written(settings)})\n")
    return 0


def _down(overrides: Overrides, arguments: argparse.Namespace) -> int:
    _, options = _options(overrides, arguments)
    screen = _Screen()
    with _nodes(options) as nodes, screen.progress() as tell:
        done = nodes.down(tell)
    for node in done.stopped:
        screen.say(f"stopped {node.slot}, {_address(node)}, after {_time(time.time() - node.since)}")
    for what in done.removed:
        screen.say(f"removed {what}")
    for what in done.left:
        screen.say(f"left {what}, which others have made or use")
    screen.say(f"no node of the store {options.name} runs")
    return 0


def _status(overrides: Overrides, arguments: argparse.Namespace) -> int:
    _, options = _options(overrides, arguments)
    screen = _Screen()
    with _nodes(options) as nodes:
        found, region = nodes.status(), nodes.account.calls.region
        if arguments.json:
            tell_json({"name": options.name, "region": region, **_plain(found, options, nodes)})
        elif found:
            screen.say(f"{_count(len(found))} of {options.name} in {region}")
            screen.nodes(found, options, nodes)
            rent = _rent(options, found)
            so_far_usd = sum(_so_far_usd(options, node, time.time()) for node in found)
            screen.say(f"{rent.what}: ${rent.usd_per_s * 3_600:.4f} an hour, ${so_far_usd:.4f} so far ({rent.rates})")
        else:
            screen.say(f"no node of the store {options.name} runs; 'wukong store up' starts some")
    return 0 if found else 1


def _plain(found: Sequence[Node], options: FargateOptions, nodes: Nodes) -> dict[str, Any]:
    """Return nodes, and what they cost, as data for JSON."""
    now_s, used = time.time(), _used(found, nodes)
    rent = _rent(options, found) if found else None
    return {
        "nodes": [
            {
                **{key: value for key, value in asdict(node).items() if key != "shape"},
                "memory_mb": _shape(node).memory_mb,
                **dict(zip(("used_bytes", "room_bytes"), used[node.task] or (None, None), strict=True)),
                "so_far_usd": _so_far_usd(options, node, now_s),
            }
            for node in found
        ],
        "hour_usd": None if rent is None else rent.usd_per_s * 3_600,
        "so_far_usd": sum(_so_far_usd(options, node, now_s) for node in found),
        "rates": None if rent is None else rent.rates,
    }


# --- which nodes


def _options(overrides: Overrides, arguments: argparse.Namespace) -> tuple[Settings, FargateOptions]:
    """Return the settings, with the store fargate, and its options, from the configuration and the command line."""
    from wukong.backends.plugins import named
    from wukong.backends.storage.fargate.options import FargateOptions
    from wukong.config import Settings

    given = dict(overrides(arguments))
    said = given.pop("storage", None) or {}
    chosen, options = named(said if isinstance(said, str) or "url" in said else {"name": _PLUGIN, **said})
    if chosen != _PLUGIN:
        raise ConfigError(f"'wukong store' is for the store {_PLUGIN}, not for {chosen}", hint="leave --storage out")
    for name, option in (*zip(_PLACE, _PLACE, strict=True), ("name", "deployment"), ("nodes", "nodes")):
        value = getattr(arguments, name, None)
        if value is not None:
            options[option] = value
    settings = Settings.load(**given, storage={"name": _PLUGIN, **options})
    assert isinstance(settings.storage, (str, Mapping))
    _, options = named(settings.storage)
    return settings, replace(FargateOptions.of(options), keep=True)


@contextmanager
def _nodes(options: FargateOptions) -> Iterator[Nodes]:
    from wukong.backends.storage.fargate import nodes_of

    with closing(nodes_of(options)) as nodes:
        yield nodes


def _shape(node: Node) -> Shape:
    """Return a node's shape. If another version's shape cannot be read, return the default one."""
    from wukong.backends.storage.fargate.options import Shape

    return Shape.of(node.shape) or Shape()


def _rent(options: FargateOptions, nodes: Sequence[Node]) -> Rent:
    from wukong.backends.storage.fargate.price import rent

    return rent(len(nodes), _shape(nodes[0]), options.vcpu_hour_usd, options.gb_hour_usd)


def _so_far_usd(options: FargateOptions, node: Node, now_s: float) -> float:
    return _rent(options, [node]).usd_per_s * max(0.0, now_s - node.since)


# --- what is shown


class _Screen:
    """Lines on stdout; progress on stderr, as a bar if stderr is a terminal."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)

    def say(self, text: str = "") -> None:
        """Show a line, or several."""
        self._console.print(text)

    @contextmanager
    def progress(self) -> Iterator[Tell]:
        """Yield a function that shows progress: as a bar, or each step once if there is no terminal."""
        from wukong.client.display import steps

        told: set[str] = set()

        def tell_once(what: str, done: int, of: int) -> None:
            if what not in told:
                told.add(what)
                self.say(f"{what} ...")

        with steps("auto") as tell:
            yield tell if sys.stderr.isatty() else tell_once

    def nodes(self, found: Sequence[Node], options: FargateOptions, nodes: Nodes) -> None:
        """Show a table of nodes."""
        now_s, used = time.time(), _used(found, nodes)
        rows = [
            (
                node.slot,
                _address(node),
                node.state if node.health == "UNKNOWN" else f"{node.state}, {node.health}",
                _time(now_s - node.since),
                f"{_shape(node).memory_mb:,} MB",
                _in_use(used[node.task]),
                f"${_so_far_usd(options, node, now_s):.4f}",
            )
            for node in found
        ]
        head = ("NODE", "ADDRESS", "STATE", "AGE", "MEMORY", "IN USE", "SO FAR")
        self.say("\n".join(table(head, rows)))


def _used(found: Sequence[Node], nodes: Nodes) -> dict[str, tuple[int, int] | None]:
    """Return, by task, how many bytes are used and how many may be; None for a node that cannot be asked from here."""
    from wukong.backends.storage.fargate.options import Shape
    from wukong.backends.storage.fargate.pacing import at_once

    used: dict[str, tuple[int, int] | None] = {}

    def ask(node: Node) -> None:
        used[node.task] = None
        if node.state == "RUNNING" and node.address is not None and Shape.of(node.shape) is not None:
            with suppress(StoreError):
                used[node.task] = nodes.memory(node)

    at_once(ask, found)
    return used


def _in_use(used: tuple[int, int] | None) -> str:
    return "?" if used is None else f"{used[0] / _MB:,.1f} of {used[1] / _MB:,.0f} MB"


def _address(node: Node) -> str:
    return " ".join(filter(None, (node.address, node.public_address))) or "no address yet"


def _count(nodes: int) -> str:
    return f"{nodes:,} node{'s' * (nodes != 1)}"


def _time(time_s: float) -> str:
    """Return a time in words: ``45 s``, ``12 min``, ``3.5 h``."""
    time_s = max(0.0, time_s)
    if time_s < 100:
        return f"{time_s:.0f} s"
    return f"{time_s / 60:.0f} min" if time_s < 6_000 else f"{time_s / 3_600:.1f} h"


def _written(settings: Settings) -> str:
    """Return the setting for a client of this store, with those options of this command that a client needs."""
    from wukong.config import ARGUMENT

    assert isinstance(settings.storage, (str, Mapping))
    options = {} if isinstance(settings.storage, str) else settings.storage
    said = {name: options[name] for name in _TOLD if settings.sources.get(f"storage.{name}") == ARGUMENT}
    if not said:
        return _python(_PLUGIN)
    pairs = [f"{_python(name)}: {_python(value)}" for name, value in {"name": _PLUGIN, **said}.items()]
    return f"{{{', '.join(pairs)}}}"


def _python(value: object) -> str:
    """Return an option's value as source text, with the quotes that the documentation uses."""
    return json.dumps(value) if isinstance(value, str) else repr(value)
