"""``wukong jobs``, ``wukong cancel`` and ``wukong clean``: what clients run and what they left, in any store.

    wukong jobs                        ->  the jobs that run, and those that were left, with what they have in the store
    wukong cancel 6f2ac5466e41-0       ->  a job ends, and its keys are deleted
    wukong clean --older-than 1h       ->  what dead clients left is deleted

It is imported whenever the command line is parsed, so the functions import what is heavy only when they need it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from wukong.command import AddChoices, AddCommand, Overrides, add_json, table, tell, tell_json
from wukong.errors import ConfigError, JobError

if TYPE_CHECKING:
    from wukong.backends.storage import Store
    from wukong.client.lease import Lease
    from wukong.client.survey import Portion, Survey, Tenant

_JOBS = """\
List the jobs in the store: those that a client runs, those that a dead client left ('left'), those that have ended and
whose values a client keeps ('kept'), and those that have failed ('failed'): their client can resume them, and 'wukong
debug' looks at their failed tasks. For the embedded store: in those of all your processes on this machine.

  wukong jobs
  wukong jobs --storage redis://host:6379
"""
_CANCEL = """\
Cancel a job. The client that runs it gets JobCancelled within some seconds; what a dead client left of a job is
deleted at once, and executors that still run stop within a heartbeat.
"""
_CLEAN = """\
Delete what dead clients have left in the store: values that their futures kept, and keys of their jobs. Nothing of a
living client is touched. A client is dead if its process on this machine is gone, or if it has been silent for 5
minutes (or as --older-than says). Does not ask.

  wukong clean --dry-run
  wukong clean --storage redis://host:6379 --older-than 1h
"""
_DEBUG = "'wukong debug' runs one of them again; they go when the client closes, or with its ttl_s"
_CANCEL_WAIT_S = 30.0
_LOOK_S = 0.5


def add_to(command: AddCommand, choices: AddChoices, overrides: Overrides) -> None:
    """Add the commands to the command line."""
    for name, run, text, line in (
        ("jobs", _jobs, _JOBS, "list the jobs that run or were left"),
        ("cancel", _cancel, _CANCEL, "cancel a job"),
        ("clean", _clean, _CLEAN, "delete what dead clients left in the store"),
    ):
        added = command(name, partial(run, overrides), text, line)
        if name == "cancel":
            added.add_argument("job", metavar="JOB", help="the job's id, as 'wukong jobs' shows it")
        if name == "clean":
            added.add_argument(
                "--older-than", metavar="TIME", help="only of clients silent for this long: 90s, 30min, 1h"
            )
            added.add_argument("--dry-run", action="store_true", help="only show what would be deleted")
        choices(added)
        add_json(added)


def _jobs(overrides: Overrides, arguments: argparse.Namespace) -> int:
    with open_stores(overrides, arguments) as (plugin, stores):
        found = [_told(survey, *job) for survey in _surveys(stores) for job in survey.jobs()]
        dead = plugin.sweep(0.0, dry_run=True)
    if arguments.json:
        left = [{"path": path, "size_bytes": size_bytes} for path, size_bytes in dead.items()]
        tell_json({"jobs": found, "dead_stores": left})
        return 0
    if not found:
        tell("no job runs or was left in this store")
    else:
        head = ("JOB", "STATE", "AGE", "TASKS", "EXECUTORS", "KEYS", "SIZE", "CLIENT")
        rows = [
            (
                each["job"],
                each["state"],
                "?" if each["age_s"] is None else _time(each["age_s"]),
                "?" if each["tasks"] is None else f"{each['tasks']:,}",
                f"{each['executors']:,}",
                f"{each['keys']:,}",
                _size(each["size_bytes"]),
                each["client"],
            )
            for each in found
        ]
        tell(*table(head, rows))
    if dead:
        n = "1 store" if len(dead) == 1 else f"{len(dead)} stores"
        tell(f"dead processes have left {n}, {_size(sum(dead.values()))}: 'wukong clean' deletes what they were")
    return 0


def _cancel(overrides: Overrides, arguments: argparse.Namespace) -> int:
    from wukong.core.names import Names

    job: str = arguments.job
    with open_stores(overrides, arguments) as (_, stores):
        if not all(store.capabilities.scans for store in stores):
            who = _cancel_unlisted(stores[0], job)
            if arguments.json:
                tell_json({"job": job, "cancelled": True, "deleted_keys": 0})
            else:
                tell(f"cancelled the job {job} of {who}")
            return 0
        for store, survey in zip(stores, _surveys(stores, job), strict=True):
            held = {each: (tenant, portion) for tenant, each, portion in survey.jobs()}
            if job not in held:
                continue
            tenant, portion = held[job]
            if survey.runner(job) is None and not tenant.dead(None):
                if Names(job).held in portion.keys:
                    raise JobError(
                        f"it has failed, and {len(portion.keys):,} keys of it are left for client.resume",
                        job=job,
                        hint="they go when its client closes, or another job of it fails",
                    )
                if _only_failures(job, portion):
                    raise JobError("it has ended; what is left are its failed tasks", job=job, hint=_DEBUG)
                raise JobError(
                    f"it has ended, and its client keeps {len(portion.keys):,} values of it",
                    job=job,
                    hint="they go when the client lets go of its futures, or closes",
                )
            cancelled, n_keys, done = _stopped(store, survey, job, portion)
            if arguments.json:
                tell_json({"job": job, "cancelled": cancelled, "deleted_keys": n_keys})
            else:
                tell(done)
            return 0
    raise JobError("there is no such job in this store", job=job, hint="'wukong jobs' lists those that there are")


def _stopped(store: Store, survey: Survey, job: str, portion: Portion) -> tuple[bool, int, str]:
    """Have the client that runs a job cancel it; delete what a dead one left of it.

    Return whether a client has cancelled it, how many keys it had, and what is to be said.
    """
    from wukong.client.survey import Portion, Survey
    from wukong.core.names import Names

    died = ""
    while (runner := survey.runner(job)) is not None:
        store.put({Names(job).cancel: b"1"}, 600.0)
        if _ended(store, job, runner):
            return True, len(portion.keys), f"cancelled the job {job} of {_who(runner)}"
        died = f"its client, {_who(runner)}, has died before it cancelled it: "
        survey = Survey(store, job)  # somebody may have taken it over
        portion = next((portion for _, each, portion in survey.jobs() if each == job), Portion())
    survey.delete([job], [portion])
    return (
        False,
        len(portion.keys),
        f"{died}deleted {len(portion.keys):,} keys of the job {job}, {_size(portion.size_bytes)}",
    )


def _cancel_unlisted(store: Store, job: str) -> str:
    """Have its client cancel a job, in a store that does not list its keys; return who the client is.

    The client is that of the job's id: one that has taken the job over is not found.
    """
    from wukong.client.lease import RENEW_S, Lease, end_of
    from wukong.core.names import Names, lease, owner

    client, its_job = owner(f"{job}/".encode()) or ("", None)
    if its_job != job:
        raise JobError("this is no job's id", job=job, hint="one looks like 6f2ac5466e41-0")
    now_s, told = time.monotonic(), ""
    begun_s, until_s = now_s + 2.5 * RENEW_S, now_s + _CANCEL_WAIT_S  # a client tells some seconds later what it runs
    while True:
        said = Lease.read(store.get([lease(client)])[0])
        runs = said is not None and job in said.jobs and not said.dead(time.time())
        if said is None or not runs:
            if told and said is not None and job in said.jobs:
                raise JobError(f"its client, {told}, has died before it cancelled it", job=job, hint=end_of(store))
            if told:
                return told
            if time.monotonic() > begun_s:
                raise JobError(
                    "the client that began it does not run it",
                    job=job,
                    hint="this store does not list what dead clients left: that goes when its time to live is over",
                )
        elif not told:
            told = _named(client, said)
            store.put({Names(job).cancel: b"1"}, 600.0)
        elif time.monotonic() > until_s:
            raise _deaf(job, told)
        time.sleep(_LOOK_S)


def _deaf(job: str, who: str) -> JobError:
    return JobError(
        f"its client, {who}, has been told to cancel it and has not done so within {_CANCEL_WAIT_S:g} s", job=job
    )


def _clean(overrides: Overrides, arguments: argparse.Namespace) -> int:
    older_than_s = _seconds(arguments.older_than)
    with open_stores(overrides, arguments) as (plugin, stores):
        found: list[dict[str, Any]] = []
        for survey in _surveys(stores):
            left = survey.left(older_than_s)
            found += [_left(tenant) for tenant in left]
            if not arguments.dry_run:
                jobs = [job for tenant in left for job in tenant.jobs]
                survey.delete(jobs, [portion for tenant in left for portion in tenant.portions()])
        swept = plugin.sweep(older_than_s or 0.0, dry_run=arguments.dry_run)
    if arguments.json:
        swept_too = [{"path": path, "size_bytes": size_bytes} for path, size_bytes in swept.items()]
        tell_json({"deleted": not arguments.dry_run, "clients": found, "stores": swept_too})
        return 0
    if not found and not swept:
        silent = f", of those that have been silent for {arguments.older_than}" if older_than_s else ""
        tell(f"no dead client has left anything{silent}")
        return 0
    does = "would delete" if arguments.dry_run else "deleted"
    for each in found:
        since = "" if each["silent_s"] is None else f", silent for {_time(each['silent_s'])}"
        jobs = each["jobs"]
        of = f"{len(jobs):,} jobs" if len(jobs) != 1 else f"the job {jobs[0]['job']}"
        tell(f"{does} {each['keys']:,} keys, {_size(each['size_bytes'])}, with {of}: {each['who']}{since}")
    for path, size_bytes in swept.items():
        tell(f"{does} the store {path}, {_size(size_bytes)}")
    return 0


# --- the stores


@contextmanager
def open_stores(overrides: Overrides, arguments: argparse.Namespace) -> Iterator[tuple[type[Store], list[Store]]]:
    """Yield the plug-in and its open stores, each inside the layers through which everybody uses it."""
    from wukong.backends.plugins import visit_storage
    from wukong.backends.storage.layers import stacked
    from wukong.config import Settings

    settings = Settings.load(**overrides(arguments))
    assert isinstance(settings.storage, (str, Mapping))
    plugin, opened = visit_storage(settings.storage)
    with ExitStack() as stack:
        stores = []
        for each in opened:
            store = stacked(each, patience_s=settings.store_patience_s)
            stack.callback(store.close)
            stores.append(store)
        yield plugin, stores


def _surveys(stores: list[Store], job: str | None = None) -> Iterator[Survey]:
    from wukong.client.survey import Survey

    for store in stores:
        yield Survey(store, job)


def _ended(store: Store, job: str, runner: Tenant) -> bool:
    """Wait until a job has nothing in the store any more but what is held of it. False: who runs it has died."""
    from wukong.client.lease import Lease
    from wukong.core.names import Names, lease

    names, until_s = Names(job), time.monotonic() + _CANCEL_WAIT_S
    stays = names.failures, names.modules
    while left := {key for key in store.scan(names.prefix + b"/") if not key.startswith(stays)}:
        if names.held in left and all(key == names.held or names.remains(key) for key in left):
            return True
        if left == {names.cancel}:
            store.delete(list(left))
        else:
            said = Lease.read(store.get([lease(runner.client)])[0])
            if said is not None and said.dead(time.time()):
                return False
            if time.monotonic() > until_s:
                raise _deaf(job, _who(runner))
        time.sleep(_LOOK_S)
    return True


# --- what is shown


def _only_failures(job: str, portion: Portion) -> bool:
    """Whether all that a job has in the store are failed tasks, and the modules that they import."""
    from wukong.core.names import Names

    names = Names(job)
    failures = [key.startswith(names.failures) for key in portion.keys if not key.startswith(names.modules)]
    return bool(failures) and all(failures)


def _told(survey: Survey, tenant: Tenant, job: str, portion: Portion) -> dict[str, Any]:
    from wukong.core.names import Names

    runner = survey.runner(job)
    said = {} if runner is None or runner.lease is None else runner.lease.jobs.get(job, {})
    began = said.get("began")
    ended = "failed" if Names(job).held in portion.keys or _only_failures(job, portion) else "kept"
    state = "running" if runner else "left" if tenant.dead(None) else ended
    invocations = sum(key.startswith(job.encode() + b"/i/") for key in portion.keys)
    return {
        "job": job,
        "state": state,
        "began": began,
        "age_s": None if began is None else max(0.0, time.time() - began),
        "tasks": said.get("tasks"),
        "executors": invocations,
        "keys": len(portion.keys),
        "size_bytes": portion.size_bytes,
        "client": _who(runner or tenant),
    }


def _left(tenant: Tenant) -> dict[str, Any]:
    jobs = [
        {"job": job, "keys": len(portion.keys), "size_bytes": portion.size_bytes}
        for job, portion in sorted(tenant.jobs.items())
    ]
    return {
        "client": tenant.client,
        "who": _who(tenant),
        "silent_s": None if tenant.lease is None else max(0.0, time.time() - tenant.lease.at),
        "keys": sum(len(portion.keys) for portion in tenant.portions()),
        "size_bytes": sum(portion.size_bytes for portion in tenant.portions()),
        "jobs": jobs,
    }


def _who(tenant: Tenant) -> str:
    return _named(tenant.client, tenant.lease)


def _named(client: str, said: Lease | None) -> str:
    return f"{client} ({said.user}@{said.host}, process {said.pid})" if said else f"{client} (no lease)"


def _seconds(text: str | None) -> float | None:
    from dask.utils import parse_timedelta

    if text is None:
        return None
    try:
        time_s = float(parse_timedelta(text))
    except (ValueError, KeyError):
        time_s = -1.0
    if time_s < 0:
        raise ConfigError(f"--older-than {text} is no time", hint="write it as 90s, 30min or 1h")
    return time_s


def _time(time_s: float) -> str:
    if time_s < 100:
        return f"{time_s:.0f} s"
    return f"{time_s / 60:.0f} min" if time_s < 6_000 else f"{time_s / 3_600:.1f} h"


def _size(size_bytes: int) -> str:
    from dask.utils import format_bytes

    return format_bytes(size_bytes)
