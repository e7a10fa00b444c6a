"""Job after job under faults: killed workers, duplicated and lost invocations, killed clients, lost values.

    python benchmarks/soak.py                            300 jobs, at most 10 minutes
    python benchmarks/soak.py --jobs 50 --seed 1000      seeds 1000 to 1049
    python benchmarks/soak.py --only 1017                one job again, with all that happens to it

Each job is one seed. The seed decides on the workload (TSQR, a tree reduction, a random DAG), the settings, the
emulator's script of faults, when workers (chosen at random among the host's children) get SIGKILL, what the store
loses, and when the client itself gets SIGKILL; another client then attaches to the job and finishes it. (The same seed
makes the same plan. At which instruction a signal strikes depends on the machine.)

    soak --fork--> client process --> emulator's host --> workers
      |  <-pipe--   job, answer, what is left in the store
      `--SIGKILL--> workers, client

Checked for each job: the answer is the one that a plain loop gives; it comes within the limit; afterwards the store has
no entry; no process and no directory remains. An InvocationFailed whose story names as many failures as a job allows is
counted apart. If anything else happened, the exit code is 1, and the seeds are shown. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import pickle
import platform
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from soak_cases import Case

import wukong
from wukong.backends.faas.emulator.faults import FaultScript
from wukong.core.watch import ATTEMPTS
from wukong.errors import InvocationFailed, JobError

KEY = "of the soak"
MARK = "SOAK_JOB"
LIMIT_S = 60.0
CLEAN_S = 15.0
# --- the client, in a process of its own


class Line:
    """The client's end of the pipe; two threads write."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._lock = pipe, threading.Lock()

    def tell(self, *message: Any) -> None:
        with self._lock:
            self._pipe.send(message)


def entries(client: wukong.Client) -> list[bytes]:
    """Return all keys in the embedded store, read without the store's own code, except for the client's lease."""
    env: Any = client.storage._env
    with env.lock, (env.handle or env.open()).begin() as txn:
        names = [bytes(name) for name, _ in txn.cursor() if name[:1] in b"vVrR"]
    return [name for name in names if not name.endswith(b"/lease")]


def live(case: Case, work: tuple[Any, Any], path: str, job_id: str | None, pipe: Connection, mark: str) -> None:
    """Be the client: start the job, or attach to it; report the answer, and what is left."""
    os.environ[MARK] = mark
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = Line(pipe)
    storage = {"name": "local", "path": path, "adopt": job_id is not None}
    client = wukong.Client(faas=case.faas, storage=storage, key=KEY, progress=False, **case.settings)
    over = threading.Event()
    companion = threading.Thread(target=accompany, args=(case, client, line, over, job_id), daemon=True)
    try:
        if job_id is None:
            companion.start()
            values = client.get(*work, timeout=LIMIT_S)
        else:
            taken = client.attach(job_id)
            companion.start()
            values = taken.result(timeout=LIMIT_S)
        line.tell("answer", list(values))
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            error = RuntimeError(repr(error))
        line.tell("error", error)
    finally:
        over.set()
    job = client.last_job
    if job is not None:
        line.tell("summary", job.summary(timeout_s=CLEAN_S))
        board: Any = client.faas._link.board
        until = time.monotonic() + CLEAN_S
        while (left := entries(client)) or board.running() or board.free() < board.slots():
            if time.monotonic() > until:
                break
            time.sleep(0.01)
        line.tell("left", left, board.running())
    client.close()
    line.tell("closed")


def accompany(case: Case, client: wukong.Client, line: Line, over: threading.Event, job_id: str | None) -> None:
    """Report when the job is in the store; make the store lose what it is to lose; report where a job hangs."""
    while not over.is_set():
        job = client.last_job
        if job is not None and client.storage.get([job.names.plan])[0] is not None:
            break
        time.sleep(0.001)
    else:
        return
    began = time.monotonic()
    faas: Any = client.faas
    line.tell("job", job.id, faas._link.process.pid)
    if job_id is None and case.forget_s is not None and not over.is_set():
        names, n = job.names, job.manifest.n_tasks
        while not over.wait(0.005) and not any(b"/v/" in key for key in entries(client)):
            pass
        over.wait(case.forget_s)
        rng = Random(f"forget {case.seed}")
        values = [names.value(task) for task in range(n) if rng.random() < 0.7]
        records = [names.record(task) for task in range(n) if case.records and rng.random() < 0.5]
        there = set(entries(client))
        client.storage.delete(values + records)
        line.tell("forgot", sum(b"v" + key in there for key in values), sum(b"r" + key in there for key in records))
    if not over.wait(LIMIT_S - 3.0 - (time.monotonic() - began)):
        states = "\n".join(f"      {state}" for state in job._states())
        line.tell("stuck", f"running: {faas._link.board.running()}\n{states}\n      keys: {entries(client)}")


# --- one job, from outside


@dataclass(slots=True)
class Outcome:
    """What came of one job. `wrong` is empty if all checks passed."""

    case: Case
    verdict: str = "right"
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


def children(pid: int) -> list[int]:
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def marked(mark: str) -> list[int]:
    """Return the processes that the client of this mark, or its host, has started."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                state = (place / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z" and wanted in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
    return found


def gone(mark: str) -> list[int]:
    """Wait until no process of this mark is left; return those that stay."""
    until = time.monotonic() + CLEAN_S
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.01)
    return left


class Play:
    """One job and all that happens to it."""

    def __init__(self, case: Case, base: str) -> None:
        self.case = case
        self.outcome = Outcome(case)
        self.counts = self.outcome.counts
        self.path = os.path.join(base, f"soak-{os.getpid()}-{case.seed}")
        self.mark = f"{os.getpid()}-{case.seed}"
        self.job_id: str | None = None
        self.rng = Random(f"victims {case.seed}")
        self.kills = list(case.kills)
        self.began = 0.0

    def run(self) -> Outcome:
        graph, keys, right = self.case.answer()
        self.began = time.monotonic()
        client_kills = [*self.case.client_kills, None]
        try:
            while not self._client((graph, keys), right, client_kills.pop(0)):
                self.counts["clients killed"] += 1
                left = gone(self.mark)
                if left:
                    self._wrong(f"processes {left} outlive their client")
        finally:
            left = gone(self.mark)
            if left:
                self._wrong(f"processes {left} remain")
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
            if os.path.exists(self.path):
                self._wrong(f"the store's directory {self.path} remains")
                shutil.rmtree(self.path, ignore_errors=True)
        self.outcome.seconds = time.monotonic() - self.began
        return self.outcome

    def _wrong(self, what: str) -> None:
        self.outcome.wrong.append(what)

    def _client(self, work: tuple[Any, Any], right: Callable[[Sequence[Any]], bool], kill_s: float | None) -> bool:
        """Run one client to its end; False if it was killed before it had an answer."""
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)
        arguments = (self.case, work, self.path, self.job_id, theirs, self.mark)
        process = context.Process(target=live, args=arguments, daemon=True)
        process.start()
        theirs.close()
        attached = self.job_id is not None
        until = time.monotonic() + LIMIT_S + 2 * CLEAN_S
        since = host = answered = None
        try:
            while True:
                due_s = until
                if since is not None and not answered:
                    now = time.monotonic()
                    if kill_s is not None and now >= since + kill_s:
                        os.kill(process.pid or 0, signal.SIGKILL)
                        process.join()
                        return self._killed(ours, right)
                    if self.kills and now >= since + self.kills[0]:
                        self._kill_worker(host or 0)
                    due_s = min([until, *(since + at for at in ([kill_s] if kill_s else []) + self.kills[:1])])
                if not ours.poll(max(0.0, due_s - time.monotonic())):
                    if time.monotonic() < until:
                        continue
                    self._wrong("the client hangs")
                    process.kill()
                    return True
                message = ours.recv()
                if message[0] == "job":
                    self.job_id, host, since = message[1], message[2], time.monotonic()
                    if attached:
                        self.counts["takeovers"] += 1
                elif message[0] == "closed":
                    return True
                else:
                    answered = answered or message[0] in ("answer", "error")
                    self._heard(message, right)
        except EOFError:
            process.join()
            self._wrong(f"the client ended without a word, exit code {process.exitcode}")
            return True
        finally:
            process.join(CLEAN_S)
            if process.is_alive():
                self._wrong("the client's process does not end")
                process.kill()
                process.join()
            ours.close()

    def _killed(self, pipe: Connection, right: Callable[[Sequence[Any]], bool]) -> bool:
        """Take in what a client that was killed had said before: it still counts."""
        answered = False
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while pipe.poll(0):
                message = pipe.recv()
                answered = answered or message[0] in ("answer", "error")
                self._heard(message, right)
        if answered:  # it was over already: nobody takes over, and the next owner would sweep this
            self.counts["clients killed after the end"] += 1
            shutil.rmtree(self.path, ignore_errors=True)
        return answered

    def _kill_worker(self, host: int) -> None:
        workers = children(host)
        if not workers:  # the host is importing what the job needs: later, then
            self.kills = [at + 0.05 for at in self.kills]
            return
        self.kills.pop(0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.rng.choice(workers), signal.SIGKILL)
            self.counts["workers killed"] += 1

    def _heard(self, message: tuple[Any, ...], right: Callable[[Sequence[Any]], bool]) -> None:
        match message:
            case ("answer", values):
                if not right(values):
                    self.outcome.verdict = "wrong answer"
                    self._wrong("wrong answer")
            case ("error", error):
                self._failed(error)
            case ("forgot", values, records):
                self.counts["values lost"] += values
                self.counts["records lost"] += records
            case ("summary", summary):
                self._sum_up(summary)
            case ("left", left, running):
                if left or running:
                    self._wrong(f"left in the store: {left}; running: {running}")
            case ("stuck", story):
                self._wrong(f"stuck; {story}")

    def _failed(self, error: Exception) -> None:
        self.outcome.verdict = type(error).__name__
        self.counts[f"error {type(error).__name__}"] += 1
        text = str(error)
        self.outcome.notes.append(text)
        if isinstance(error, JobError) and "no such job" in text and self.counts["clients killed"]:
            # The client was killed between its answer and its last word: its job was over, and deleted.
            self.outcome.verdict = "over before the takeover"
        elif isinstance(error, InvocationFailed) and "failed" in text and f"job {self.job_id}" in text:
            if error.__dict__["message"].count("; then ") + 1 < ATTEMPTS:
                self._wrong(f"it gave up early: {text}")
        else:
            notes = "".join(f"\n      {line}" for line in str(error.__cause__ or "").splitlines())
            self._wrong(f"{type(error).__name__}: {text}{notes}")

    def _sum_up(self, summary: Any) -> None:
        self.counts["tasks"] += summary.tasks
        self.counts["invocations"] += summary.executors
        self.counts["invoked again"] += summary.repeated
        self.counts["values computed again"] += summary.restored
        if not self.case.faults:
            return
        script = FaultScript.of(self.case.faults)
        assert script is not None
        for n in range(summary.executors + summary.repeated):
            fault = script.fault(n)
            self.counts["scripted: lost"] += fault.lost
            self.counts["scripted: duplicate"] += fault.duplicate and not fault.lost
            self.counts["scripted: late"] += fault.delay_s > 0 and not fault.lost
            self.counts["scripted: crash"] += fault.crash is not None and not fault.lost


# --- all jobs


ROWS = (
    "tasks",
    "invocations",
    "invoked again",
    "workers killed",
    "scripted: crash",
    "scripted: duplicate",
    "scripted: lost",
    "scripted: late",
    "values lost",
    "records lost",
    "values computed again",
    "clients killed",
    "clients killed after the end",
    "takeovers",
)


def table(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return the figures as a Markdown table, a column for each workload."""
    names = sorted({outcome.case.workload for outcome in outcomes})
    verdicts = sorted({outcome.verdict for outcome in outcomes} - {"right"})

    def row(title: str, value: Callable[[Outcome], float], form: str = "{:.0f}") -> str:
        cells = [sum(map(value, (o for o in outcomes if o.case.workload == name))) for name in names]
        return " | ".join([f"| {title}", *map(form.format, [*cells, sum(cells)])]) + " |"

    lines = [f"| {' | '.join(['', *names, 'all'])} |", "|---" + "|---:" * (len(names) + 1) + "|"]
    lines.append(row("jobs", lambda o: 1))
    lines.append(row("right", lambda o: o.verdict == "right" and not o.wrong))
    lines += [row(verdict, lambda o, verdict=verdict: o.verdict == verdict) for verdict in verdicts]  # type: ignore[misc]
    lines.append(row("**wrong in any way**", lambda o: bool(o.wrong)))
    lines += [row(title, lambda o, title=title: o.counts[title]) for title in ROWS]  # type: ignore[misc]
    lines.append(row("seconds", lambda o: o.seconds))
    errors = sorted({title for o in outcomes for title in o.counts if title.startswith("error ")})
    lines += [row(title, lambda o, title=title: o.counts[title]) for title in errors]  # type: ignore[misc]
    return "\n".join([*lines, "", f"{len(outcomes)} jobs in {seconds:.0f} s"])


def machine() -> str:
    """Return what this runs on, in one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{os.cpu_count()} cores of {cpu}, {platform.system()}, Python {platform.python_version()}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the first job; the others count up from there")
    parser.add_argument("--only", type=int, help="run the job of this seed alone")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes after which no further job is begun")
    parser.add_argument("--heartbeat", type=float, default=0.2, help="heartbeat_s of the jobs, seconds")
    parser.add_argument("--verbose", action="store_true", help="a line for each job")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seeds = [options.only] if options.only is not None else range(options.seed, options.seed + options.jobs)
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
    began = time.monotonic()
    said = began
    outcomes: list[Outcome] = []
    for seed in seeds:
        if time.monotonic() - began > 60 * options.minutes:
            break
        case = Case.of(seed, options.heartbeat)
        if options.only is not None:
            print(case, flush=True)
        outcome = Play(case, base).run()
        outcomes.append(outcome)
        if options.verbose or options.only is not None:
            counts = ", ".join(f"{count} {title}" for title, count in outcome.counts.items() if count)
            line = f"{seed} {case.workload} {outcome.verdict} {outcome.seconds:.2f} s: {counts}"
            print(line, *outcome.notes, sep="\n  ", flush=True)
        for what in outcome.wrong:
            print(f"WRONG --only {seed} ({case.workload}): {what}\n      {case}\n      {outcome.counts}", flush=True)
        if time.monotonic() - said > 15:
            said = time.monotonic()
            bad = sum(bool(each.wrong) for each in outcomes)
            print(f"{len(outcomes)} of {len(seeds)} jobs, {said - began:.0f} s, {bad} wrong", flush=True)
    print(f"\n{machine()}\n\n{table(outcomes, time.monotonic() - began)}", flush=True)
    wrong = [outcome.case.seed for outcome in outcomes if outcome.wrong]
    if wrong:
        print(f"\nwrong: {', '.join(f'--only {seed}' for seed in wrong)}")
    return 1 if wrong or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
