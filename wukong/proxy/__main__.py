"""``python -m wukong.proxy``: ``wukong proxy`` without the rest of the command line, as on the functions' image."""

import sys

from wukong.command import Command, Parser, carry_out
from wukong.proxy import commands


def _command(name: str, run: Command, text: str, line: str) -> Parser:
    made = Parser(prog=f"wukong {name}", description=text)
    made.set_defaults(command=run)
    return made


if __name__ == "__main__":
    sys.exit(carry_out(commands.add_to(_command).parse_args()))
