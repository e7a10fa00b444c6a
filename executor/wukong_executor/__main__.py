"""``wukong-executor``, or ``python -m wukong_executor``: what runs executors, by hand or in a container."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from wukong.command import Parser, carry_out
from wukong_executor import serve

_DESCRIPTION = "What runs Wukong's executors where there is no platform's own way to call them."
_SERVE = """\
Serve invocations over HTTP, for 'faas: http': behind Knative, Cloud Run, OpenFaaS, Azure Container Apps, or alone.

The deployment's key comes from the environment: WUKONG_KEY as the client has it, or WUKONG_DEPLOYMENT_KEY. So does what
the store needs (WUKONG_REDIS_PASSWORD and the like), and the port (PORT). Exits with 0 after SIGTERM.

  WUKONG_KEY=... wukong-executor serve --places 4 --time-limit 900
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: those of the process) and return its exit code."""
    top = Parser(prog="wukong-executor", description=_DESCRIPTION)
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    serve.add_to(commands.add_parser("serve", help="serve invocations over HTTP", description=_SERVE))
    return carry_out(top.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
