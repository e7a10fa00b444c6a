"""Engines side by side: the same workloads on Wukong, Dask's own schedulers, Ray, and a bare loop.

    python benchmarks/engines.py                                         everything; bounded by --budget
    python benchmarks/engines.py --workloads tree chain --engines wukong sync bare
    python benchmarks/engines.py --output docs/benchmarks-run.md --json run.json

Each engine lives in a process of its own, started once; its start-up is timed apart, in further processes. For each
workload every engine runs once unmeasured, then all of them in turn (A B C, A B C, ...), so that other load on the
machine affects all alike. Every answer is checked. An engine that has used up --timeout on a workload gets no further
repeats of it (its cell says of how many runs it is the median); one that takes four times as long is stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from peers import ENGINES, START_UP_ONLY
from report import machine, to_markdown
from workloads import BY_NAME, WORKLOADS

HERE = Path(__file__).parent
WORKER = HERE / "bench_worker.py"


class Stopped(Exception):
    """The engine did not answer in time and was stopped, or its process ended."""


class Process:
    """An engine's process. Started when first needed, and again after it was stopped."""

    def __init__(self, name: str, folder: Path, env: dict[str, str]) -> None:
        self.name, self.folder, self.env = name, folder, env
        self.log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def _start(self, timeout_s: float) -> None:
        request_read, self.request_fd = os.pipe()
        self.reply_fd, reply_write = os.pipe()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(WORKER), self.name, str(request_read), str(reply_write), str(self.folder)],
                pass_fds=(request_read, reply_write),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.env,
            )
        os.close(request_read)
        os.close(reply_write)
        self.pending = b""
        self._reply(timeout_s)

    def _reply(self, timeout_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self.pending:
            ready, _, _ = select.select([self.reply_fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self.stop(at_once=True)
                raise Stopped(f"stopped after {timeout_s:.0f} s")
            data = os.read(self.reply_fd, 65536)
            if not data:
                self.stop(at_once=True)
                raise Stopped(f"its process ended: {self._last_words()}")
            self.pending += data
        line, _, self.pending = self.pending.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "no output"

    def run(self, workload: str, timeout_s: float) -> dict[str, Any]:
        """Run one workload once; raises `Stopped`."""
        if self.process is None:
            self._start(120)
        os.write(self.request_fd, json.dumps({"run": workload}).encode() + b"\n")
        return self._reply(timeout_s)

    def stop(self, *, at_once: bool = False) -> None:
        """End the process and all that it started."""
        process, self.process = self.process, None
        if process is None:
            return
        os.close(self.request_fd)
        descendants = _descendants(process.pid)
        if not at_once:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
        for pid in [process.pid] if process.poll() is None else []:
            os.kill(pid, 9)
        for pid in descendants if at_once else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        process.wait()
        os.close(self.reply_fd)


def _descendants(pid: int) -> list[int]:
    try:
        import psutil
    except ImportError:
        return []
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def measure(name: str, processes: dict[str, Process], args: argparse.Namespace, until: float) -> dict[str, Any]:
    """Run one workload on all engines; return for each the seconds of each run, and a note if a run was special."""
    workload = BY_NAME[name]
    engines = [
        engine
        for engine in processes
        if (workload.bare or engine != "bare") and (not workload.only or engine in workload.only)
    ]
    row: dict[str, Any] = {engine: {"warm_up_s": None, "runs_s": [], "note": "", "details": []} for engine in engines}
    alive, used_s = list(engines), dict.fromkeys(engines, 0.0)
    for turn in range(1 + args.repeat):
        for engine in list(alive):
            cell = row[engine]
            if turn and (used_s[engine] > args.timeout or time.monotonic() > until):
                alive.remove(engine)
                continue
            try:
                reply = processes[engine].run(name, 4 * args.timeout)
            except Stopped as stopped:
                reply = {"error": str(stopped)}
            if "error" in reply:
                cell["note"] = reply["error"]
                alive.remove(engine)
                continue
            used_s[engine] += reply["seconds"]
            if turn:
                cell["runs_s"].append(reply["seconds"])
                cell["details"].append(reply["details"])
            else:
                cell["warm_up_s"] = reply["seconds"]
    for engine, cell in row.items():
        runs = cell["runs_s"] or ([cell["warm_up_s"]] if cell["warm_up_s"] else [])
        if not cell["note"] and runs:
            cell["median_s"] = statistics.median(runs)
            cell["n"] = len(cell["runs_s"])
        print(f"  {engine:16} {_spoken(cell)}", file=sys.stderr, flush=True)
    return row


def _spoken(cell: dict[str, Any]) -> str:
    if "median_s" not in cell:
        return f"- {cell['note']}"
    spread = f"{min(cell['runs_s']):.4f} .. {max(cell['runs_s']):.4f}" if cell["runs_s"] else "first run only"
    return f"{cell['median_s']:.4f} s  ({spread})"


def start_ups(engines: list[str], args: argparse.Namespace, env: dict[str, str], until: float) -> dict[str, Any]:
    """Time each engine from nothing to its first result, each time in a new process, in turn."""
    runs: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    notes: dict[str, str] = {}
    for _ in range(args.repeat):
        for engine in engines:
            if engine in notes or (runs[engine] and time.monotonic() > until):
                continue
            try:
                done = subprocess.run(
                    [sys.executable, str(WORKER), "--start-up", engine],
                    env=env, capture_output=True, text=True, timeout=120, check=True,
                )  # fmt: skip
                figures = next(line for line in done.stdout.splitlines() if line.startswith('{"dask_s"'))
                runs[engine].append(json.loads(figures))
            except subprocess.CalledProcessError as failed:
                notes[engine] = (failed.stderr.strip().splitlines() or ["no output"])[-1][:300]
            except (subprocess.TimeoutExpired, StopIteration) as failed:
                notes[engine] = type(failed).__name__
    result: dict[str, Any] = {}
    for engine, each in runs.items():
        if each and engine not in notes:
            result[engine] = {name: statistics.median(one[name] for one in each) for name in each[0]} | {"n": len(each)}
        else:
            result[engine] = {"note": notes.get(engine, "not run")}
        print(f"  {engine:16} {result[engine]}", file=sys.stderr, flush=True)
    return result


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("--workloads", nargs="+", choices=[*names, "start-up"], default=[*names, "start-up"])
    parser.add_argument("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES))
    parser.add_argument("--repeat", type=int, default=5, help="measured runs of each engine on each workload")
    parser.add_argument("--timeout", type=float, default=30, help="seconds for one engine on one workload")
    parser.add_argument("--budget", type=float, default=60, help="minutes after which nothing new is begun")
    parser.add_argument("--blas-threads", type=int, help="BLAS threads in every process (default: the engine's)")
    parser.add_argument("--output", type=Path, help="also write the Markdown report here")
    parser.add_argument("--json", type=Path, help="write every single figure here")
    return parser.parse_args()


def environment(args: argparse.Namespace) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # Parsl starts scripts
    env = {**os.environ, "PATH": programs, "PYTHONPATH": path, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if args.blas_threads:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        env |= dict.fromkeys(names, str(args.blas_threads))
    return env


def main() -> None:
    args = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the engines are stopped
    until = time.monotonic() + args.budget * 60
    env = environment(args)
    folder = Path(tempfile.mkdtemp(prefix="wukong-benchmarks-"))
    processes = {engine: Process(engine, folder, env) for engine in args.engines}
    result: dict[str, Any] = {"machine": machine(), "arguments": {k: str(v) for k, v in vars(args).items()}, "rows": {}}
    try:
        if "start-up" in args.workloads:
            print("start-up", file=sys.stderr, flush=True)
            extra = [name for name in START_UP_ONLY if find_spec(name)]
            others = [name for name in args.engines if name != "bare"]
            result["start_up"] = start_ups([*others, *extra], args, env, until)
        for name in [name for name in args.workloads if name != "start-up"]:
            if time.monotonic() > until:
                print(f"{name}: left out, over the budget of {args.budget:g} minutes", file=sys.stderr, flush=True)
                continue
            print(BY_NAME[name].title, file=sys.stderr, flush=True)
            subprocess.run([sys.executable, str(WORKER), "--reference", name, str(folder)], env=env, check=True)
            result["rows"][name] = measure(name, processes, args, until)
            for path in folder.glob(f"{name}.*.npy"):
                path.unlink()
    finally:
        for process in processes.values():
            process.stop()
        shutil.rmtree(folder, ignore_errors=True)
    report = to_markdown(result)
    print(report)
    if args.output:
        args.output.write_text(report)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
