"""What tasks print and log, shown where the client runs: what a backend does with it for whom nobody has subscribed.

Every line is marked with its task. What goes into a pipe or a file is the program's own alone: tasks' standard output
is shown on standard output if people see that, else on standard error. Log records go to the logger of the same name,
with their level.
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
    """Whether what is written there is shown to somebody, on a terminal or in a notebook."""
    try:
        return stream.isatty() or type(stream).__module__.partition(".")[0] == "ipykernel"
    except (AttributeError, ValueError):
        return False


def _marks(output: TaskOutput) -> dict[str, str | None]:
    return {"wukong_task": output.task, "wukong_invocation": output.invocation}
