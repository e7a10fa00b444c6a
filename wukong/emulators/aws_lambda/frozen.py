"""The process that is a snapshot, as SnapStart takes one: initialised once, then copied for each environment.

    the runtime's own initialisation -> hooks before the snapshot -> "restore/next": here it stays for ever
                                                                          `-- fork --> hooks after it -> invocations

The real awslambdaric runs, up to where it asks to be restored; there `Template.serve` takes over, and forks a child for
each order. A child goes on from that very line, with the memory of the snapshot and with its connections. That includes
the state of the module `random`, which Python itself would seed anew in a child. Only what Lambda sets anew is new: the
address of the Runtime API, and variables.

Not as on AWS: a child has a process id of its own, no threads of the snapshot's, and files that were open share their
position. Loaded by its path, as `template` is: imports nothing but the standard library.

    <- {"taken": true, "output": "..."}        <- {"failed": {"errorType": ...}, "output": "..."}
"""

from __future__ import annotations

import gc
import importlib
import os
import random
import sys
import tempfile
import types
from typing import Any, NoReturn

NOBODY = "127.0.0.1:9"
"""The Runtime API's address before a restore: nothing is to be asked of it."""


class Restored(Exception):
    """Unwinds a child to the line that it goes on from. `environment`: its variables."""

    def __init__(self, environment: dict[str, str]) -> None:
        super().__init__()
        self.environment = environment


def run(template: Any, handler: str) -> NoReturn:
    """Initialise the function, then serve copies of this process until the service ends.

    Args:
        template: a `template.Template`, whose children raise `Restored` rather than run something of their own.
        handler: ``module.function``.
    """
    status = 1
    parent = os.getpid()
    said = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as this process lives
    for descriptor in (1, 2):
        os.dup2(said.fileno(), descriptor)

    def tell(**message: Any) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        said.seek(0)
        template.tell({**message, "output": said.read().decode("utf-8", "replace")})

    own = os.environ  # noqa: TID251 - what a new process is given, not a setting
    own["AWS_LAMBDA_RUNTIME_API"] = template.given["AWS_LAMBDA_RUNTIME_API"] = NOBODY
    try:
        module = _without_extension()
        client, restore_next = module.LambdaRuntimeClient, module.LambdaRuntimeClient.restore_next

        def frozen(self: Any) -> None:
            gc.collect()
            gc.freeze()
            state = random.getstate()
            tell(taken=True)
            try:
                template.serve()
            except Restored as restored:
                environment = restored.environment
            else:
                template.stop()
                os._exit(0)
            random.setstate(state)
            template.adopt(environment)
            self.lambda_runtime_address = environment["AWS_LAMBDA_RUNTIME_API"]
            module.runtime_client = importlib.import_module("runtime_client")
            module.runtime_client.initialize_client(module._user_agent())
            restore_next(self)

        client.restore_next = frozen
        client.post_init_error = lambda self, error, *_: tell(failed=error)
        status = template.run_runtime(handler)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if os.getpid() == parent:
            template.stop()
        os._exit(status & 0xFF)


def _without_extension() -> Any:
    """Return the runtime's client without the extension in it, which takes its address for good when it is loaded."""
    later = types.ModuleType("runtime_client")
    later.initialize_client = lambda _agent: None  # type: ignore[attr-defined]
    sys.modules["runtime_client"] = later
    module = importlib.import_module("awslambdaric.lambda_runtime_client")
    del sys.modules["runtime_client"]
    return module
