"""The ``wukong`` command: run a Dask program on Wukong, and see what is installed, set and working.

Exit codes: that of the program for ``run``; 0 for success, 1 for a failure, 2 for wrong usage, 130 for Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import time
import traceback
import webbrowser
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from wukong import cleaning, debug, emulate, kept, key, new_plugin, store
from wukong.command import Command, Parser, add_json, carry_out, fail, table, tell, tell_json
from wukong.deploy import commands as deployment
from wukong.errors import ConfigError, WukongError
from wukong.proxy import commands as proxy

if TYPE_CHECKING:
    from wukong.client.feed import Feed
    from wukong.client.total import Accounts

_DESCRIPTION = "Wukong runs Dask graphs on cloud functions, with no cluster in between."
_RUN = """\
Run a Python program, unmodified, with Wukong as Dask's default scheduler.

The program sees itself as __main__, its own arguments in sys.argv and its own folder first in sys.path, as under
'python script.py'. It needs no 'if __name__ == "__main__"' guard. The exit code is that of the program.

  wukong run script.py --size 1000
  wukong run --faas local --set retries=2 --set storage.name=local script.py
  wukong run -m package.module
  wukong run --live --report jobs.html script.py

Options of wukong come before the program, what follows it is the program's.
"""
_PLAN = """\
Tell what a Python program would take, move and cost on Wukong, without computing anything.

The program runs as under 'wukong run', but each job that it would start is planned instead, and what it prints goes to
stderr. It stops where it needs a value that was not computed: what comes after that is not planned. The backend and
the store are opened as always.

  wukong plan script.py --size 1000
  wukong plan --faas aws-lambda --storage fargate --json script.py
"""
_PLUGINS = """\
List the installed plug-ins of both families, with the distribution each comes from. If one cannot be loaded, say
why, and exit with 1.
"""
_CONFIG = """\
Show every setting, its value and where that was set: the default, a file, an environment variable or --set.
Passwords and keys are not shown.
"""
_DOCTOR = """\
Check what Wukong needs: versions, plug-ins, settings, shared memory, and a small real job through the configured
backends. Each line that is not ok says what to do. Exits with 1 if a check fails.
"""


_REPORT = """\
Write the report of a job that has run: one page that any browser opens from disk, without a network. The job's record
is a file that job.record.to_json or job.record.to_parquet has written, or, by the job's id, one in the folder that the
setting 'records' names.

  wukong report job.json
  wukong report --set records=records 3066cdc71cc3-4 --output job.html
  wukong report job.json --trace --output trace.json
"""
_COMPLETION = """\
Print what makes a shell complete this command: its commands, options, and what those may be given.

  wukong completion bash >> ~/.bashrc
  wukong completion zsh >> ~/.zshrc
  wukong completion fish > ~/.config/fish/completions/wukong.fish
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: those of the process) and return its exit code."""
    if sys.stdout is None:  # closed by the shell (>&-)
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    arguments = parser().parse_args(argv)
    arguments.whole_process = argv is None
    return carry_out(arguments)


def parser() -> Parser:
    """Return the parser of the whole command line."""
    top = Parser(prog="wukong", description=_DESCRIPTION)
    top.add_argument("--version", action="version", version=f"wukong {_version()}", help="show the version and exit")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Command, text: str, line: str) -> Parser:
        added = commands.add_parser(name, help=line, description=text)
        added.set_defaults(command=run)
        return added

    for name, runs, text, line in (
        ("run", _run, _RUN, "run a Python program with Wukong as Dask's scheduler"),
        ("plan", _plan, _PLAN, "tell what a Python program would take and cost, without computing"),
    ):
        run = command(name, runs, text, line)
        _add_choices(run)
        if name == "plan":
            add_json(run)
        else:
            run.add_argument("--report", metavar="FILE", help="write a page with what its jobs did")
            run.add_argument("--live", action="store_true", help="print the link of a page that shows its jobs")
            run.add_argument("--open", action="store_true", help="as --live, and open that page in a browser")
        run.add_argument("-m", dest="module", action="store_true", help="the program is a module's name")
        run.add_argument(
            "program", nargs=argparse.PARSER, metavar="PROGRAM", help="the program, and after it its own arguments"
        )
    add_json(command("plugins", _plugins, _PLUGINS, "list the installed plug-ins"))
    for name, shows, text, line in (
        ("config", _config, _CONFIG, "show every setting and where it was set"),
        ("doctor", _doctor, _DOCTOR, "check that everything Wukong needs is there and works"),
    ):
        shown = command(name, shows, text, line)
        _add_choices(shown)
        add_json(shown)
    report = command("report", _report, _REPORT, "write the report of a job that has run")
    _add_choices(report)
    report.add_argument("record", metavar="FILE|JOB", help="a job's record, or the id of a job whose record was kept")
    report.add_argument("--output", metavar="FILE", help="where to; default: the job's id in this folder")
    report.add_argument("--trace", action="store_true", help="write a trace for https://ui.perfetto.dev instead")
    deployment.add_to(command, _add_choices, overrides)
    debug.add_to(command, _add_choices, overrides)
    cleaning.add_to(command, _add_choices, overrides)
    kept.add_to(command, _add_choices, overrides)
    key.add_to(command, _add_choices, overrides)
    proxy.add_to(command)
    store.add_to(command, _add_choices, overrides)
    emulate.add_to(command)
    new_plugin.add_to(command)
    completion = command("completion", _completion, _COMPLETION, "print what makes a shell complete this command")
    completion.add_argument("shell", choices=("bash", "zsh", "fish"), help="for which shell")
    return top


def _add_choices(to: argparse.ArgumentParser) -> None:
    to.add_argument("--faas", metavar="NAME", help="FaaS backend: a plug-in's name or a URL")
    to.add_argument("--storage", metavar="NAME", help="intermediate store: a plug-in's name or a URL")
    to.add_argument(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set any setting ('wukong config' lists them); a dot nests: storage.url=... (may be repeated)",
    )


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that --faas, --storage and --set give, as keyword arguments of `Settings.load`."""
    from dask.config import interpret_value

    given: dict[str, Any] = {}
    for pair in arguments.settings:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set {pair} has no value", hint="write --set key=value")
        outer, dot, option = key.replace("-", "_").partition(".")
        if dot:
            nested = given.get(outer)
            given[outer] = {**(nested if isinstance(nested, dict) else {}), option: interpret_value(text)}
        else:
            given[outer] = interpret_value(text)
    for family in ("faas", "storage"):
        if (choice := getattr(arguments, family)) is not None:
            nested = given.get(family)
            named = {"url" if "://" in choice else "name": choice}
            given[family] = {**named, **nested} if isinstance(nested, dict) else choice
    return given


def _run(arguments: argparse.Namespace) -> int:
    from wukong.client.live import everywhere
    from wukong.client.total import counting

    began_s, code = time.monotonic(), 1
    report = None if arguments.report is None else _to_write(Path(arguments.report))
    live = arguments.live or arguments.open
    greet = partial(_greet, in_browser=arguments.open) if live else None
    clients: Sequence[Accounts] = ()
    feeds: Sequence[Feed] = ()
    try:
        with counting() as clients, everywhere(greet, keep=report is not None) as feeds:
            code = _program(arguments)
    except SystemExit as end:
        code = 0 if end.code in (None, 0) else 1
        raise
    finally:
        if code != _NO_PROGRAM:
            wall_s = time.monotonic() - began_s
            said = None if report is None else _written(feeds, report)  # first: who reads the rest may have left
            _tell_what_ran(clients, wall_s, succeeded=code == 0)
            if said is not None:
                print(f"wukong: {said}", file=sys.stderr)
    return code


def _greet(link: str, *, in_browser: bool) -> None:
    print(f"wukong: its jobs are shown at {link}", file=sys.stderr, flush=True)
    if in_browser:
        webbrowser.open(link)


def _to_write(path: Path) -> Path:
    """Return `path` again. Raises ConfigError if no file can be written there."""
    folder = path.parent
    why = "" if folder.is_dir() else f"there is no folder {str(folder)!r}"
    if path.is_dir():
        why = "it is a folder"
    elif not why and not os.access(path if path.exists() else folder, os.W_OK):
        why = "you may not write there"
    if why:
        raise ConfigError(f"the report cannot be written to {str(path)!r}: {why}")
    return path


def _written(feeds: Sequence[Feed], path: Path) -> str:
    """Write one page of all jobs that ran; say where it is. The program's exit code stays what it was."""
    from wukong.report.page import of_several

    pages = [page for feed in feeds for page in feed.pages()]
    try:
        if pages:
            path.write_text(of_several(pages), "utf-8")
        return f"the report is in {path}" if pages else "there is no job to report"
    except OSError as error:
        return f"the report cannot be written: {error}"


def _plan(arguments: argparse.Namespace) -> int:
    from wukong.client.plans import ValueNeeded, instead

    where = None
    with redirect_stdout(sys.stderr), instead(for_ever=arguments.whole_process) as plans:
        try:
            code = _program(arguments)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except ValueNeeded as needed:
            code, where = 0, _own(needed.__traceback__)
    ended = None if where is None else traceback.extract_tb(where, limit=1)[0]
    if arguments.json:
        stopped = None if ended is None else {"file": ended.filename, "line": ended.lineno}
        tell_json({"plans": [each.to_json() for each in plans], "stopped_at": stopped})
    else:
        tell(*(f"{each}\n" for each in plans))
    if ended is not None:
        print(
            "wukong: the program needs a value that was planned, not computed; what follows is not planned\n"
            f"  in {ended.filename}, line {ended.lineno}: {ended.line}",
            file=sys.stderr,
        )
    elif not plans and not code:
        print(f"wukong: warning: no job would run on Wukong\n  -> {_why_none()}", file=sys.stderr)
    return code


def _program(arguments: argparse.Namespace) -> int:
    """Run the program under a client that is the default; return its exit code, unless it ends itself."""
    import wukong
    from wukong.client.plans import ValueNeeded
    from wukong.core.failed import without_hint

    target, *_ = sys.argv = arguments.program
    if arguments.module:
        sys.path[0:1] = [os.getcwd()]
    elif os.path.exists(target):
        sys.path[0:1] = [os.path.dirname(os.path.realpath(target))]
    else:
        print(f"wukong: there is no file {target!r}", file=sys.stderr)
        return _NO_PROGRAM
    with wukong.Client(**overrides(arguments)):
        try:
            if arguments.module:
                runpy.run_module(target, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(target, run_name="__main__")
            return 0
        except (KeyboardInterrupt, SystemExit, ValueNeeded):
            raise
        except WukongError as error:
            without_hint(error)  # its client, and what that has kept, ends with the program
            fail(error, arguments, _own(error.__traceback__))
        except BaseException as error:
            without_hint(error)
            error.with_traceback(_own(error.__traceback__))
            sys.excepthook(type(error), error, error.__traceback__)
    return 1


def _tell_what_ran(clients: Sequence[Accounts], wall_s: float, *, succeeded: bool) -> None:
    """Say in one line what the program did on Wukong; if it did nothing there, and has not failed, say that."""
    from wukong.client.total import Total

    sys.stdout.flush()
    totals = [(each.backends, each.total()) for each in clients]
    counts: Counter[str] = Counter()
    for backends, each in totals:
        counts[backends] += each.jobs.total()
    total = sum((each for _, each in totals), start=Total())
    counts = +counts
    if counts:
        where = "; ".join(f"{n:,} on {name}" if len(counts) > 1 else name for name, n in counts.items())
        cost = f", ${total.usd:.6g} ({total.rates})" if total.rates else ""
        n_jobs = counts.total()
        jobs = f"{n_jobs:,} job{'s' * (n_jobs != 1)}, {total.tasks:,} task{'s' * (total.tasks != 1)}"
        print(f"wukong: {jobs} on {where}; {wall_s:.1f} s{cost}", file=sys.stderr)
    elif succeeded:
        print(f"wukong: warning: no job ran on Wukong\n  -> {_why_none()}", file=sys.stderr)


def _why_none() -> str:
    made = getattr(sys.modules.get("distributed.client"), "_global_client_index", [0])  # Dask may import it by itself
    if made[0]:
        return (
            "the program made a distributed.Client, which does all of Dask's work: leave it out, or make it a "
            "wukong.Client"
        )
    return "Dask's work runs there unless compute(scheduler=...) or dask.config.set(scheduler=...) says otherwise"


def _plugins(arguments: argparse.Namespace) -> int:
    from wukong.backends.plugins import FAMILIES, installed

    found = [plugin for family in FAMILIES for plugin in installed(family)]
    if arguments.json:
        tell_json({"plugins": [{**asdict(each), "ok": each.ok} for each in found]})
    else:
        rows = [
            (each.family, each.name, each.distribution, str(each.contract or "-"), each.target, each.cause or "ok")
            for each in found
        ]
        tell(*table(("FAMILY", "NAME", "FROM", "CONTRACT", "TARGET", "STATE"), rows))
    if not found:
        print("wukong: nothing is installed, not even Wukong itself: pip install wukong-serverless", file=sys.stderr)
    return 0 if found and all(each.ok for each in found) else 1


def _config(arguments: argparse.Namespace) -> int:
    from wukong.config import Settings
    from wukong.options import shown

    described = Settings.load(**overrides(arguments)).describe()
    rows = [(key, value, source.replace("argument", "command line")) for key, value, source in described]
    if arguments.json:
        tell_json({"settings": [{"key": key, "value": value, "set_by": source} for key, value, source in rows]})
    else:
        written = [(key, value if isinstance(value, str) else shown(value), source) for key, value, source in rows]
        tell(*table(("KEY", "VALUE", "SET BY"), written))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from wukong.doctor import checks

    found = []
    for check in checks(overrides(arguments)):
        found.append(check)
        if not arguments.json:
            tell(f"{check.state:<6}  {check.what}", *([f"        -> {check.advice}"] if check.advice else []))
    ok = not any(check.state == "failed" for check in found)
    if arguments.json:
        tell_json({"ok": ok, "checks": [asdict(check) for check in found]})
    return 0 if ok else 1


def _report(arguments: argparse.Namespace) -> int:
    from wukong.config import Settings
    from wukong.core.tables import load
    from wukong.report.page import to_html
    from wukong.report.trace import to_text

    path = Path(arguments.record)
    if not path.exists():
        folder = Settings.load(**overrides(arguments)).records
        kept = None if folder is None else Path(folder, f"{arguments.record}.json")
        if kept is None or not kept.exists():
            where = "the setting 'records' names no folder" if folder is None else f"none in {folder}"
            hint = "keep records with --set records=FOLDER or WUKONG_RECORDS, or by job.record.to_json(path)"
            raise WukongError(f"there is no record {arguments.record!r}: no such file, and {where}", hint=hint)
        path = kept
    record = load(path)
    output = Path(arguments.output or f"{record.job}.{'trace.json' if arguments.trace else 'html'}")
    output.write_text(to_text(record) if arguments.trace else to_html(record), "utf-8")
    tell(str(output))
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    from wukong.backends.plugins import FAMILIES, names
    from wukong.completion import scripts
    from wukong.config import KEYS

    values = {f"--{family}": names(family) for family in FAMILIES}
    values["--set"] = [f"{key}=" for key in KEYS]
    tell(scripts(parser(), values)[arguments.shell]())
    return 0


def _own(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback that begins in the program: without this module and runpy."""
    while trace is not None and trace.tb_frame.f_code.co_filename in _MACHINERY:
        trace = trace.tb_next
    return trace


_NO_PROGRAM = 2
_MACHINERY = (__file__, runpy.__file__, "<frozen runpy>")


def _version() -> str:
    try:
        return version("wukong-serverless")
    except PackageNotFoundError:
        return "(not installed)"
