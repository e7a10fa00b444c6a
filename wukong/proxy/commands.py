"""``wukong proxy``: the fan-out proxy as a process."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import closing
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

from wukong.command import AddCommand, Parser
from wukong.errors import ConfigError

if TYPE_CHECKING:
    from wukong.proxy.service import ProxyService

__all__ = ["add_to", "deployment_key"]

_TEXT = """\
Run the fan-out proxy: executors send it one message instead of making many invocations themselves (past the setting
max_task_fanout), and a client its first ones. It makes them through the same FaaS plug-in, many at once, and answers
when the platform has accepted them. What it has not made its sender makes itself.

  wukong proxy                                        on 127.0.0.1:8989
  wukong proxy --host 0.0.0.0 --workers 4             for functions, inside their network

  wukong.Client(proxy="host:8989")                    uses it; proxy="local" starts one beside the client

It needs the deployment's key: from the environment variable WUKONG_DEPLOYMENT_KEY (64 hex digits, as functions have
it), else from the setting 'key' (WUKONG_KEY), else that of the functions which the setting 'faas' names. It needs what
the FaaS plug-in needs to invoke them, as AWS credentials which allow lambda:InvokeFunction.

On the same port, over plain HTTP: GET /healthz is 200 while it serves and 503 when it does not; GET /metrics has its
counters. SIGTERM or Ctrl-C: it takes nothing more on, finishes what it has accepted, and exits with 0; a second signal
ends it at once. Messages are authenticated, but not encrypted: keep the port inside a private network."""
_LIMITS = {
    "message_bytes": "largest message",
    "calls": "most invocations in one message",
    "connections": "most conversations at once",
    "memory_bytes": "messages in memory, over all conversations; then nothing more is read for a while",
    "wait_s": "a message is refused if it finds no room for this long",
    "message_s": "a message is answered within this time",
    "idle_s": "a conversation ends if nothing comes in it for this long",
    "handshake_s": "for the greeting, or an HTTP request",
    "remembered": "accepted invocations that are remembered, and not made again",
    "remember_s": "for how long",
}


def add_to(command: AddCommand) -> Parser:
    """Add the command to the command line. Returns its parser."""
    from wukong.proxy.limits import ProxyLimits

    added = command("proxy", run, _TEXT, "run the fan-out proxy")
    added.add_argument("--host", default="127.0.0.1", help="where to listen (default: 127.0.0.1)")
    added.add_argument("--port", type=int, default=8989, help="the port (default: 8989); 0: any free one")
    added.add_argument("--workers", type=int, default=1, metavar="N", help="processes that make invocations")
    added.add_argument("--json", action="store_true", help="say that it listens, and has stopped, in JSON")
    added.add_argument("--parent", type=int, metavar="PID", help="stop when this process, which started it, has ended")
    limits = added.add_argument_group("limits", 'sizes may be written "64 MiB", times "30 s"')
    for each in fields(ProxyLimits):
        unit = "BYTES" if each.name.endswith("_bytes") else "S" if each.name.endswith("_s") else "N"
        limits.add_argument(
            "--" + each.name.replace("_", "-"),
            type=partial(_read, each.name),
            default=each.default,
            metavar=unit,
            help=f"{_LIMITS[each.name]} (default: {_shown(each.name, each.default)})",
        )
    return added


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal comes. Raises `ConfigError` for impossible options, `BackendError` if the port is taken."""
    from wukong.proxy.limits import ProxyLimits
    from wukong.proxy.server import run as serve
    from wukong.proxy.service import ProxyService

    limits = ProxyLimits(**{each.name: getattr(arguments, each.name) for each in fields(ProxyLimits)})
    if not 0 <= arguments.port < 65_536:
        raise ConfigError(f"--port {arguments.port} is no port", hint="give one below 65536, or 0 for any free one")
    if arguments.workers < 1:
        raise ConfigError(f"--workers {arguments.workers} is not possible: it takes at least one process")
    key, place = deployment_key(), {"host": arguments.host, "port": arguments.port}
    make = partial(ProxyService, key, workers=arguments.workers, limits=limits, **place)
    service = serve(make, partial(_listens, as_json=arguments.json), arguments.parent)
    _say(arguments.json, {"stopped": service.address, **service.totals()}, _ended(service))
    if not service.finished:
        os._exit(1)  # the threads that still invoke something would be waited for
    return 0


def deployment_key() -> bytes:
    """Return the deployment's key. Raises `ConfigError` or `BackendError` if it cannot be found."""
    from wukong.backends.entry import KEY_VARIABLE
    from wukong.backends.environment import variable
    from wukong.backends.faas import deployment_key as known
    from wukong.backends.plugins import load_faas
    from wukong.config import Settings

    text = variable(KEY_VARIABLE)
    if text is not None:
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if not 16 <= len(key) <= 64:
            raise ConfigError(f"{KEY_VARIABLE} is no key: it has 64 hex digits")
        return key
    settings = Settings.load()
    if settings.key is not None:
        return known.derived(settings.key)
    with closing(load_faas(settings.faas)) as faas:
        if faas.configurable and faas.deployment_key() is None:
            raise ConfigError(
                "the proxy has no deployment key, without which it answers nobody",
                hint=f"set {KEY_VARIABLE}, or the setting key (WUKONG_KEY) as the client has it, or name functions "
                "that are deployed (WUKONG_FAAS=aws-lambda); a client with proxy='local' starts one by itself",
            )
        return known.deployment_key(None, faas)


def _listens(service: ProxyService, as_json: bool) -> None:
    count = service.workers.count
    made_by = f"{count} worker processes" if count > 1 else "1 process"
    told = {"listening": service.address, "workers": count, "pid": os.getpid()}
    _say(as_json, told, f"fan-out proxy at {service.address}, {made_by}; Ctrl-C stops it")


def _ended(service: ProxyService) -> str:
    totals = service.totals()
    how = "stopped" if service.finished else "ended at once"
    return f"fan-out proxy {how}: {totals['accepted']:,} invocations made, {totals['refused']:,} refused"


def _say(as_json: bool, told: dict[str, Any], text: str) -> None:
    try:
        sys.stdout.write(f"{json.dumps(told) if as_json else text}\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the process that started it listens no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _read(name: str, text: str) -> float:
    from dask.utils import parse_bytes, parse_timedelta

    try:
        if name.endswith("_bytes"):
            return int(parse_bytes(text))
        return float(parse_timedelta(text)) if name.endswith("_s") else int(text)
    except (ValueError, KeyError):
        raise argparse.ArgumentTypeError(f"{text!r} is no {'size' if name.endswith('_bytes') else 'number'}") from None


def _shown(name: str, value: Any) -> str:
    return f"{value >> 20} MiB" if name.endswith("_bytes") else f"{value:g}"
