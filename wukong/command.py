"""How every command of ``wukong`` is defined, and how it shows what it has found: as text, or as JSON.

A listing or a status has ``--json``: one document on stdout, with keys that stay. Numbers are numbers, in the unit
that the key ends with; what is not known is null. Errors are text on stderr, and the exit code is the same.

    added = command("nodes", run, "List the nodes.", "list the nodes")
    add_json(added)

    def run(arguments):
        if arguments.json:
            tell_json({"nodes": [...]})
        else:
            tell(*table(("NODE", "STATE"), rows))
        return 0
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn, TypeAlias

from wukong.errors import WukongError
from wukong.options import nearest, suggestion

Command: TypeAlias = Callable[[argparse.Namespace], int]
AddCommand: TypeAlias = Callable[[str, Command, str, str], "Parser"]
AddChoices: TypeAlias = Callable[[argparse.ArgumentParser], None]
Overrides: TypeAlias = Callable[[argparse.Namespace], Mapping[str, Any]]


class Parser(argparse.ArgumentParser):
    """A command's parser. For a mistake it shows the usage of that command, and what was probably meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **kwargs}
        super().__init__(*args, **given)
        self.add_argument(
            "--verbose",
            action="store_true",
            default=argparse.SUPPRESS,
            help="show the traceback of an error as well",
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuse unknown arguments here: the parser above would show the wrong usage."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(self._unknown(unknown))
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Show this command's usage and the mistake; exit with 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: error: {message}\n  -> '{self.prog} --help' shows more\n")

    def _unknown(self, unknown: Sequence[str]) -> str:
        words = f"unrecognized arguments: {' '.join(unknown)}"
        options = [name for action in self._actions for name in action.option_strings]
        meant = [nearest(each.partition("=")[0], options) for each in unknown if each.startswith("-")]
        return f"{words}; did you mean {', '.join(filter(None, meant))}?" if any(meant) else words

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        is_command = isinstance(action, argparse._SubParsersAction)
        what = f"there is no command {value!r}" if is_command else f"invalid choice: {value!r}"
        said = suggestion(str(value), map(str, action.choices))
        raise argparse.ArgumentError(None if is_command else action, f"{what}; {said}")


def carry_out(arguments: argparse.Namespace) -> int:
    """Run the command that the arguments name, and return its exit code; show an error of Wukong's."""
    command: Command = arguments.command
    try:
        code = command(arguments)
        sys.stdout.flush()
        return code
    except WukongError as error:
        return fail(error, arguments)
    except KeyboardInterrupt:
        sys.stderr.write("wukong: interrupted\n")
        return 130
    except BrokenPipeError:  # the reader of a listing has left, as 'wukong config | head' does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def fail(error: WukongError, arguments: argparse.Namespace, where: TracebackType | None = None) -> int:
    """Show an error, with the line of the program that met it, and with ``--verbose`` the traceback. Returns 1."""
    sys.stdout.flush()
    sys.stderr.write(f"wukong: {type(error).__name__}: {error}\n")
    if where is not None:
        [frame] = traceback.extract_tb(where, limit=1)
        sys.stderr.write(f"  in {frame.filename}, line {frame.lineno}: {frame.line}\n")
    if getattr(arguments, "verbose", False):
        traceback.print_exception(type(error), error, where or error.__traceback__)
    return 1


def add_json(to: argparse.ArgumentParser) -> None:
    """Give a command the option ``--json``, which is ``arguments.json``."""
    to.add_argument("--json", action="store_true", help="tell it as one JSON document")


def tell_json(document: Mapping[str, Any]) -> None:
    """Write a document to stdout."""
    tell(json.dumps(document, indent=2, default=str))


def tell(*lines: str) -> None:
    """Write lines to stdout, at once."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table, each column as wide as its longest cell."""
    cells = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
