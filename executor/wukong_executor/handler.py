"""What AWS Lambda calls: `handler`, one call for each event.

    import of this module (once for each environment, or once for its snapshot): as many threads for numerical libraries
        as the function has vCPUs, executor, codec, the store's client, the deployment's key
    handler(event, context):   unpack -> wukong.backends.entry.handle -> executor -> nothing, or an error to try again

Between two events the platform freezes the process, for milliseconds or for hours. So nothing goes on after `handler`
has returned: an executor ends its watcher first. Connections that have been idle for long are opened anew. With
SnapStart it also takes a snapshot after the import, see `restore`.

An error leaves `handler` only if the same event may succeed later, or if the environment is broken: the platform then
tries again, a bounded number of times. What can never succeed is logged and answered.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

from wukong.backends import entry, machine
from wukong.backends.environment import provide, variable
from wukong.backends.faas.aws_lambda import price
from wukong.backends.faas.aws_lambda.event import asked, unpack
from wukong.backends.faas.description import describe
from wukong.errors import AuthenticationError, BackendError, CodecError, WukongError
from wukong_executor import isolation, restore
from wukong_executor.warm import BlobCache

PRELOAD_VARIABLE = "WUKONG_DEPLOYMENT_PRELOAD"
"""Names, separated by commas, of further modules to import before the first event."""
SECRET_VARIABLE = "WUKONG_DEPLOYMENT_KEY_SECRET"
"""ARN of the secret that holds the deployment's key, if no variable does."""

_MEMORY_VARIABLE = "AWS_LAMBDA_FUNCTION_MEMORY_SIZE"

_NEARLY_ALWAYS = (
    "encodings.idna",  # of the first connection
    "wukong.backends.faas.aws_lambda.deployed",
    "wukong.backends.faas.aws_lambda.invoker",
    "wukong.backends.storage.redis",
)
_IDLE_S = 60.0
_REMEMBERED = 1 / 16
_MIB = 1_048_576

logger = logging.getLogger(__name__)

_memory = BlobCache(0)
_ended_at: float | None = None


class Context(Protocol):
    """What Lambda tells about an invocation, as far as it is used here."""

    aws_request_id: str
    memory_limit_in_mb: str

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation is cut off."""
        ...


def handler(event: Mapping[str, Any], context: Context) -> dict[str, Any] | None:
    """Carry out one event.

    Returns None for an invocation, a description if the event asks for one, and ``{"refused": why}`` for an event that
    can never succeed. Raises what `entry.handle` does.
    """
    global _ended_at
    modules = asked(event)
    if modules is not None:
        return describe(modules)
    time_limit_s = context.get_remaining_time_in_millis() / 1_000
    began = time.monotonic()
    try:
        label, payload = unpack(event)
    except BackendError as error:
        return _refused(error, context.aws_request_id)
    if _ended_at is not None and not 0 <= time.time() - _ended_at < _IDLE_S:
        entry.disconnect()
    memory_limit_bytes = int(context.memory_limit_in_mb) * _MIB
    _memory.most_bytes = int(memory_limit_bytes * _REMEMBERED)
    try:
        _fetch_key()
        with isolation.invocation(label):
            entry.handle(
                payload,
                time_limit_s=time_limit_s - (time.monotonic() - began),
                memory_limit_bytes=memory_limit_bytes,
                cores=price.cores(memory_limit_bytes),
                around=_memory.around,
            )
    except (AuthenticationError, CodecError) as error:
        return _refused(error, label)
    finally:
        _ended_at = time.time()
    return None


def _refused(error: WukongError, label: str) -> dict[str, str]:
    """Log and answer that an event can never succeed. An error would have the platform try it again."""
    logger.error("%s cannot be carried out and will not be tried again: %s", label, error)
    return {"refused": error.message}


def _fetch_key() -> None:
    """Put the deployment's key where `entry` looks for it. The function's configuration has the secret's name only."""
    secret = variable(SECRET_VARIABLE)
    if secret is None or variable(entry.KEY_VARIABLE) is not None:
        return
    import boto3  # part of Lambda's runtime

    parts = secret.split(":")
    client = boto3.client("secretsmanager", region_name=parts[3] if len(parts) > 5 else None)
    provide({entry.KEY_VARIABLE: client.get_secret_value(SecretId=secret)["SecretString"].strip()})


def _limit_threads() -> None:
    """Have numerical libraries start a thread for each vCPU of the function, not for each core that it sees.

    The tasks' own processes inherit that. A function of one vCPU sees two cores or more, and threads would spin there.
    """
    memory_mb = variable(_MEMORY_VARIABLE)
    if memory_mb is None:
        return  # this is not Lambda
    cores = price.cores(int(memory_mb) * _MIB)
    threads = machine.thread_variables(cores, variable)
    provide(threads)
    if "numpy" in sys.modules and "OPENBLAS_NUM_THREADS" in threads and machine.cores() > cores:
        logger.warning(
            "numpy was imported before wukong_executor.handler, and may start a thread for each of %d cores, of which "
            "this function has %d: import the handler first, or set OMP_NUM_THREADS",
            machine.cores(),
            cores,
        )


def _prepare() -> None:
    """Do before the first event what would otherwise slow it down."""
    _limit_threads()
    restore.register()
    for name in (*_NEARLY_ALWAYS, *restore.AHEAD) if restore.taken() else _NEARLY_ALWAYS:
        try:
            import_module(name)
        except ImportError as error:  # the package was built without this store's client
            logger.debug("%s is not imported: %s", name, error)
    for name in filter(None, map(str.strip, (variable(PRELOAD_VARIABLE) or "").split(","))):
        try:
            import_module(name)
        except ImportError as error:
            logger.warning("%s, which %s names, cannot be imported: %s", name, PRELOAD_VARIABLE, error)
    _fetch_key()
    gc.freeze()  # modules stay: no collection has to look at them


_prepare()
