"""What tasks print and log, shown in the client's process if nobody has subscribed to it.

Every line is marked with its task. Tasks' standard output is shown on standard output if that is a terminal or a
notebook, else on standard error, so that a pipe or a file gets only what the program itself prints. Log records go to
the logger of the same name, with their level.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from wukong.backends.faas import TaskOutput


def show(output: TaskOutput) -> None:
    """Show one piece of output."""
    mark = f"[{output.task or output.invocation or 'wukong'}] "
    if output.stream == "log":
        target = logging.getLogger(output.logger)
        if target.isEnabledFor(output.level):
            text = mark + output.text
            record = target.makeRecord(output.logger, output.level, "", 0, text, (), None, extra=_marks(output))
            target.handle(record)
        return
    stream = sys.stdout if output.stream == "stdout" and _is_seen(sys.stdout) else sys.stderr
    try:
        stream.write("".join(f"{mark}{line}\n" for line in output.text.splitlines()))
        stream.flush()
    except (AttributeError, ValueError, OSError):
        return  # there is no such stream any more


def _is_seen(stream: TextIO) -> bool:
    """Return whether a person sees what is written there, on a terminal or in a notebook."""
    try:
        return stream.isatty() or type(stream).__module__.partition(".")[0] == "ipykernel"
    except (AttributeError, ValueError):
        return False


def _marks(output: TaskOutput) -> dict[str, str | None]:
    return {"wukong_task": output.task, "wukong_invocation": output.invocation}
