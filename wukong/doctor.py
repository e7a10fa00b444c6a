"""The checks of ``wukong doctor``: what Wukong needs, whether it is there, and what to do if it is not."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import OK, HTTPConnection, HTTPException
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from wukong.backends.plugins import FAMILIES, installed, load_storage
from wukong.backends.storage import Store
from wukong.config import Settings
from wukong.errors import ConfigError, PluginError, WukongError

_SHARED_MEMORY = Path("/dev/shm")
_PROXY_S = 3.0
_ROOM_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        state: ``ok``; ``note``: it works, but could do better; ``failed``.
        what: what was checked and what was found.
        advice: what to do about it; None if there is nothing to do.
    """

    state: Literal["ok", "note", "failed"]
    what: str
    advice: str | None = None


def checks(overrides: Mapping[str, Any]) -> Iterator[Check]:
    """Yield each check's result as soon as there is one; the settings are the configured ones under `overrides`."""
    yield Check("ok", f"python {sys.version.split()[0]}")  # an older one cannot install this
    yield from _packages()
    yield from _plugins()
    yield _shared_memory()
    try:
        settings = Settings.load(**overrides)
    except WukongError as error:
        yield Check(
            "failed", f"settings: {error.message}", error.hint or "correct it; 'wukong config' shows all settings"
        )
        return
    changed = sum(source != "default" for source in settings.sources.values())
    yield Check("ok", f"settings: {changed} not at their default")
    reachable = True
    for check in _store(settings):
        reachable = reachable and check.state != "failed"
        yield check
    if settings.proxy is not None:
        yield _proxy(settings.proxy)
    if reachable:
        yield _job(overrides, settings)


def _packages() -> Iterator[Check]:
    """Compare installed versions with the lower bounds that the distribution itself declares."""
    try:
        required = requires("wukong-serverless") or []
    except PackageNotFoundError:
        yield Check("failed", "wukong-serverless is not installed", "pip install wukong-serverless")
        return
    for requirement in required:
        bound = re.fullmatch(r"([\w.-]+)\s*(?:\[.*\])?\s*>=\s*([\d.]+)", requirement)
        if bound is None:  # belongs to an extra
            continue
        name, lowest = bound.groups()
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Check("failed", f"{name} is not installed", f"pip install '{name}>={lowest}'")
            continue
        if _numbers(found) < _numbers(lowest):
            yield Check("failed", f"{name} {found} is too old", f"pip install '{name}>={lowest}'")
        else:
            yield Check("ok", f"{name} {found}")


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", release)[:3])


def _plugins() -> Iterator[Check]:
    for family in FAMILIES:
        found = installed(family)
        if not found:
            yield Check("failed", f"{family}: no plug-in is installed", "reinstall wukong-serverless")
        for plugin in found:
            what = f"{family} plug-in {plugin.name} ({plugin.distribution})"
            if plugin.ok:
                yield Check("ok", what)
            elif plugin.extra:
                yield Check("note", f"{what} lacks its client library", f"to use it: pip install '{plugin.extra}'")
            else:
                yield Check("failed", f"{what}: {plugin.cause}", f"reinstall or uninstall {plugin.distribution}")


def _shared_memory() -> Check:
    if not _SHARED_MEMORY.is_dir():
        return Check("note", f"there is no {_SHARED_MEMORY}", "none needed: the embedded store is on disk")
    free_bytes = shutil.disk_usage(_SHARED_MEMORY).free
    what = f"{_SHARED_MEMORY}: {free_bytes / 2**20:,.0f} MiB free"
    if free_bytes < _ROOM_BYTES:
        return Check("note", what, "what has no room there goes to disk; in a container, start it with --shm-size=2g")
    return Check("ok", what)


def _store(settings: Settings) -> Iterator[Check]:
    """Ask the configured store what about its servers endangers jobs. Invalid choices fail later, with the job."""
    what = f"storage {next(value for key, value, _ in settings.describe() if key == 'storage')}"
    try:
        store = load_storage(settings.storage)
        try:
            advice = store.advice()
        finally:
            if store is not settings.storage:
                store.close()
    except (PluginError, ConfigError):
        return
    except WukongError as error:
        yield Check("failed", f"{what}: {error.message}", error.hint or "see the message")
        return
    except Exception as error:
        yield Check("failed", f"{what}: {type(error).__name__}: {error}", "check the store's options")
        return
    for line in advice:
        matter, _, todo = line.partition(" -> ")
        yield Check("note", f"{what}: {matter}", todo or None)
    if not advice and type(store).advice is not Store.advice:
        yield Check("ok", f"{what}: nothing to say against its servers")


def _proxy(setting: str) -> Check:
    """Check the health of the configured fan-out proxy. The check of a job covers one that the client starts."""
    if setting.partition(":")[0] == "local":
        return Check("ok", "proxy: the client starts one beside itself")
    what = f"proxy {setting}"
    from wukong.proxy.client import place

    advice = "start it with 'wukong proxy'; until then everyone makes the invocations without it"
    try:
        with closing(HTTPConnection(*place(setting), timeout=_PROXY_S)) as connection:
            connection.request("GET", "/healthz")
            status = connection.getresponse().status
    except ConfigError as error:
        return Check("failed", f"{what}: {error.message}", error.hint)
    except (OSError, HTTPException) as error:
        return Check("note", f"{what} does not answer: {error}", advice)
    if status != OK:
        return Check("note", f"{what} does not serve: its health check says {status}", advice)
    return Check("ok", f"{what}: it serves")


def _job(overrides: Mapping[str, Any], settings: Settings) -> Check:
    from dask.delayed import delayed

    import wukong

    chosen = {key: value for key, value, _ in settings.describe() if key in FAMILIES}
    what = f"a job on faas {chosen['faas']}, storage {chosen['storage']}"
    try:
        start_s = time.perf_counter()
        with wukong.Client(**{**overrides, "progress": False}) as client:
            ready_s = time.perf_counter()
            parts = [delayed(pow)(number, 2) for number in range(8)]
            answer = delayed(sum)(parts).compute(scheduler=client.get)
            end_s = time.perf_counter()
    except WukongError as error:
        return Check("failed", f"{what}: {error.message}", error.hint or "see the message")
    except Exception as error:
        return Check("failed", f"{what}: {type(error).__name__}: {error}", "check the backend's options")
    if answer != 140:
        return Check("failed", f"{what} gave {answer!r}, not 140", "report this as a bug, with this whole output")
    return Check("ok", f"{what}: client {ready_s - start_s:.2f} s, first result {end_s - ready_s:.2f} s")
