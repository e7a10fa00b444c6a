"""``wukong-executor serve``: executors behind an HTTP port, for `faas: http`.

    server ----- one thread for each connection: is it signed, is there room, 202
    places ----- the processes that run invocations, one each; how full they are, what has failed
    function --- what runs in such a process

On SIGTERM, as platforms send it before they take a container away, nothing new is taken and what runs is waited for.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from contextlib import ExitStack

from wukong.backends import machine
from wukong.backends.environment import KEY_VARIABLE, provide, variable
from wukong.backends.faas.deployment_key import derived
from wukong.backends.faas.http.wire import SERVER_VARIABLE
from wukong.command import Parser, tell
from wukong.errors import ConfigError
from wukong_executor.serve.places import Places
from wukong_executor.serve.server import ExecutorServer

__all__ = ["ExecutorServer", "Places", "add_to", "deployment_key"]

PRELOAD_VARIABLE = "WUKONG_DEPLOYMENT_PRELOAD"
_FUNCTION = "wukong_executor.serve.function:run"
_MIB = 1_048_576
_LOOK_S = 1.0

logger = logging.getLogger("wukong_executor")


def add_to(parser: Parser) -> None:
    """Give the command its options."""
    option = parser.add_argument
    option("--host", default="0.0.0.0", help="address to listen at (%(default)s)")
    option("--port", type=int, help="port to listen at (the variable PORT, or 8080; 0: a free one)")
    option("--places", type=int, help="invocations at once, each in a process of its own (the cores)")
    option("--queue", type=int, help="how many more are taken, to wait for a place (four for each place)")
    option("--time-limit", type=float, metavar="SECONDS", help="of one invocation (none)")
    option("--memory-limit", type=float, metavar="MB", help="of one invocation, in units of 2**20 bytes (none)")
    option("--payload-limit", type=int, default=4 * _MIB, metavar="BYTES", help="of one invocation (%(default)s)")
    option("--grace", type=float, default=8.0, metavar="SECONDS", help="for what runs at SIGTERM (%(default)g)")
    option("--function", default=_FUNCTION, help="what to run, module:attribute (%(default)s)")
    option("--log-level", default="INFO", help="of this process and of tasks (%(default)s)")
    parser.set_defaults(command=serve)


def serve(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C, or until no invocation can be run any more (exit code 1)."""
    logging.basicConfig(
        level=arguments.log_level.upper(), format="[%(levelname)s]\t%(asctime)s\t-\t-\t%(name)s\t%(message)s"
    )
    key, n_places, port = deployment_key(), arguments.places, arguments.port
    if n_places is None:
        n_places = machine.cores()
    if port is None:
        port = _port(variable("PORT") or "8080")
    queue = 4 * n_places if arguments.queue is None else arguments.queue
    for name, value, least in (
        ("--places", n_places, 1),
        ("--queue", queue, 0),
        ("--payload-limit", arguments.payload_limit, 1_024),
        ("--time-limit", arguments.time_limit, 0.001),
        ("--memory-limit", arguments.memory_limit, 1),
    ):
        if value is not None and value < least:
            raise ConfigError(f"{name} is {value!r}; it is at least {least}")
    provide({KEY_VARIABLE: key.hex(), SERVER_VARIABLE: "1"})
    preload = [name.strip() for name in (variable(PRELOAD_VARIABLE) or "").split(",") if name.strip()]
    memory_bytes = None if arguments.memory_limit is None else int(arguments.memory_limit * _MIB)
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    with ExitStack() as opened:
        places = Places(arguments.function, n_places, queue, arguments.time_limit, memory_bytes, preload)
        opened.callback(places.close)
        try:
            server = ExecutorServer((arguments.host, port), key, places, arguments.payload_limit)
        except OSError as error:
            raise ConfigError(f"nothing can listen at {arguments.host}, port {port}: {error}") from error
        opened.callback(server.server_close)
        threading.Thread(target=server.serve_forever, name="wukong-http", daemon=True).start()
        tell(f"executor server at {arguments.host}:{server.server_port}, {n_places} places")
        while not told.wait(_LOOK_S) and places.broken is None:
            continue
        if places.broken is not None:
            logger.error("no invocation can be run any more: %s", places.broken)
            return 1
        ended = server.finish(arguments.grace)
        logger.info("the server ends%s", "" if ended else f"; what still ran after {arguments.grace:g} s is ended")
        server.shutdown()
    return 0


def deployment_key() -> bytes:
    """Return the deployment's key, from the environment. Raises `ConfigError` if there is none."""
    text, setting = variable(KEY_VARIABLE), variable("WUKONG_KEY")
    if text is None and setting is None:
        raise ConfigError(
            "the server has no deployment key, without which it takes nothing",
            hint="set WUKONG_KEY to what the client's setting key is ('wukong key show'), or "
            f"{KEY_VARIABLE} to its 64 hex digits",
        )
    try:
        key = derived(setting or "") if text is None else bytes.fromhex(text)
    except ValueError:
        key = b""
    if not 16 <= len(key) <= 64:
        raise ConfigError(f"{KEY_VARIABLE} is no key: it has 64 hex digits")
    return key


def _port(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(f"the variable PORT is {text!r}, which is no port")
    return int(text)
