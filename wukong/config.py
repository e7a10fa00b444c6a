"""The configuration: one validated `Settings`, and where each value in it came from.

Layers, each on top of the one before:

    wukong/wukong.yaml           the defaults
    ~/.config/dask/*.yaml, ...   Dask's configuration files, section "wukong"
    DASK_WUKONG__RETRIES=3       as Dask reads it: when it is imported or refreshed
    WUKONG_RETRIES=3             read when the settings are loaded; "__" nests: WUKONG_STORAGE__NAME=redis
    dask.config.set(...)
    keyword arguments

Only this module reads settings from files and the environment. If two layers choose the same plug-in, the upper one's
options are laid over those below, one by one; if the upper one names another plug-in, the options below are dropped.
"""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeAlias

import dask.config
import yaml
from dask.utils import parse_bytes, parse_timedelta

from wukong.backends.faas import FaaS
from wukong.backends.plugins import named
from wukong.backends.storage import Store
from wukong.core.policy import Policy
from wukong.errors import ConfigError
from wukong.options import address_of, expect, masked, matches, shown, suggestion

DEFAULT = "default"
DASK_SET = "dask.config.set"
ARGUMENT = "argument"

FaaSChoice: TypeAlias = str | Mapping[str, Any] | FaaS
StorageChoice: TypeAlias = str | Mapping[str, Any] | Store

_PLUGINS = ("faas", "storage")
_DEPLOYMENT = "WUKONG_DEPLOYMENT_"
_SECRETS = ("_PASSWORD", "_USERNAME")
_CHOOSING = ("FAAS", "STORAGE", "__NAME", "__URL")
_MINIMA: dict[str, float] = {
    "patience_s": 0,
    "max_task_fanout": 1,
    "large_object_bytes": 0,
    "delay_budget_s": 0,
    "ride_bytes": 0,
    "handover_s": 0,
    "retries": 0,
    "lanes": 1,
    "ttl_s": 1,
    "heartbeat_s": 0.01,
    "silence_s": 0.1,
    "lease_s": 0.1,
    "limit_patience_s": 0,
    "orphan_s": 0.1,
    "store_patience_s": 0,
    "keep_failed_bytes": 0,
    "resume_jobs": 0,
    "resume_bytes": 0,
    "backup_share": 0,
    "keep_s": 1,
    "keep_bytes": 0,
    "keep_value_bytes": 0,
    "payload_inline_bytes": 0,
    "page_tasks": 1,
    "timeout_s": 0,
    "budget_usd": 0,
}


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Everything that can be set, validated. What each key means is written in `wukong.yaml` and in `Policy`.

    Attributes:
        sources: where each value came from; options of a plug-in under ``"storage.url"``.
    """

    faas: FaaSChoice
    storage: StorageChoice
    fan_out: Literal["patience", "eager"]
    patience_s: float | None
    max_task_fanout: int
    proxy: str | None
    large_object_bytes: int | None
    delay_budget_s: float | None
    ride_bytes: int
    handover_s: float
    learned_sizes: bool
    retries: int
    lanes: int | Literal["auto"]
    overlap: Literal["off", "on", "auto"]
    timeout_s: float | None
    budget_usd: float | None
    ttl_s: float
    heartbeat_s: float
    silence_s: float
    lease_s: float
    limit_patience_s: float | None
    release: bool
    backup: bool | Literal["auto"]
    backup_share: float
    orphan_s: float
    events: Literal["off", "on"]
    store_patience_s: float
    keep_failed: bool | Literal["auto"]
    keep_failed_bytes: int
    resume_jobs: int
    resume_bytes: int
    keep_in: str | None
    keep_s: float
    keep_bytes: int
    keep_value_bytes: int
    payload_inline_bytes: int
    page_tasks: int
    compression: Literal["auto", "lz4"] | None
    progress: bool | Literal["auto"]
    close_on_signals: bool
    records: str | None
    dashboard_address: str
    opentelemetry: bool
    key: str | None
    sources: Mapping[str, str] = field(compare=False)

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Return the effective settings, with `overrides` on top.

        A plug-in that is None in `overrides` is not overridden. Raises `ConfigError` for a key that is unknown,
        ill-typed or out of range; the error names the key and where it was set.
        """
        values: dict[str, Any] = {}
        sources: dict[str, str] = {}
        for layer in (*_configured(), _Layer(ARGUMENT, overrides)):
            for raw_key, value in layer.values.items():
                key = _known(raw_key, layer.source)
                if key not in _PLUGINS:
                    values[key] = _checked(key, value, layer)
                    sources[key] = layer.source
                elif value is not None:
                    values[key] = _laid_over(key, values.get(key), value, layer.source, sources)
        for key in _PLUGINS:
            if isinstance(values[key], Mapping) and set(values[key]) == {"name"}:
                values[key] = values[key]["name"]
        return cls(**values, sources=sources)

    def of_call(self, key: str, value: Any) -> Any:
        """Return a call's own value of a setting, once checked; for None, what is set here. Raises `ConfigError`."""
        return getattr(self, key) if value is None else _checked(key, value, _Layer(ARGUMENT, {}))

    def policy(self) -> Policy:
        """Return the part of the settings that executors follow; what is ``auto`` is off, but for `lanes`."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(Policy)}
        off = {"keep_failed": self.keep_failed is True, "backup": self.backup is True, "backup_share": None}
        overlap: Literal["off", "on"] = "on" if self.overlap == "on" else "off"
        return Policy(**{**values, **off, "overlap": overlap})

    def describe(self) -> list[tuple[str, Any, str]]:
        """Return (key, value, source) of every setting, in order, with secrets masked."""
        rows: list[tuple[str, Any, str]] = []
        for key in KEYS:
            value = getattr(self, key)
            if key in _PLUGINS and isinstance(value, Mapping):
                nested = {f"{key}.{name}": each for name, each in value.items() if name != "name"}
                rows.append((key, named(value)[0], self.sources[key]))
                rows += [(path, masked(path, each), self.sources.get(path, "")) for path, each in nested.items()]
            else:
                rows.append((key, masked(key, value), self.sources[key]))
        return rows

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{key}={masked(key, getattr(self, key))!r}' for key in KEYS)})"


@dataclass(frozen=True, slots=True)
class _Layer:
    """Values from one place; `texts` has the environment's values as they were written."""

    source: str
    values: Mapping[str, Any]
    texts: Mapping[str, str] = field(default_factory=dict)


def _default_values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(files("wukong").joinpath("wukong.yaml").read_text("utf-8"))
    return loaded


_DEFAULTS = _default_values()
_TYPES: dict[str, Any] = {key: each for key, each in typing.get_type_hints(Settings).items() if key != "sources"}
KEYS: tuple[str, ...] = tuple(_TYPES)
"""The names of all settings."""

dask.config.update_defaults(_DEFAULTS)


def _configured() -> Iterator[_Layer]:
    """Yield every layer below the keyword arguments, the lowest first."""
    below = [_Layer(DEFAULT, _DEFAULTS["wukong"])]
    for path, loaded in _files():
        below.append(_Layer(_tilde(path), _section(loaded, str(path))))
    below += _from_environment("DASK_WUKONG__")
    yield from below
    yield from _from_environment("WUKONG_")
    yield _Layer(DASK_SET, _set_by_code(below))


def _files() -> list[tuple[Path, Mapping[str, Any]]]:
    """Return Dask's configuration files. Raises `ConfigError` for one that cannot be read."""
    try:
        return list(dask.config.collect_yaml(paths=dask.config.paths, return_paths=True))
    except ValueError as error:
        raise ConfigError(f"a configuration file of Dask's cannot be read: {error}") from error


def _set_by_code(below: list[_Layer]) -> dict[str, Any]:
    """Return what Dask's configuration says now and neither files nor environment have made it say."""
    expected: dict[str, Any] = {}
    for layer in below:
        dask.config.update(expected, {_folded(key): value for key, value in layer.values.items()})
    now = _section({"wukong": dask.config.get("wukong", None)}, DASK_SET)
    missing = object()
    return {key: value for key, value in now.items() if expected.get(_folded(key), missing) != value}


def _from_environment(prefix: str) -> list[_Layer]:
    """Return one layer for each variable; those that choose a plug-in come before those that give it options."""
    layers = []
    for name, text in sorted(os.environ.items(), key=lambda item: (not item[0].endswith(_CHOOSING), item)):
        # What a deployment gives to its functions, and what opens a store there, are no settings.
        secret = name.endswith(_SECRETS) and "__" not in name
        if not name.startswith(prefix) or name.startswith(_DEPLOYMENT) or secret:
            continue
        *outer, last = name[len(prefix) :].lower().split("__")
        value: Any = {last: dask.config.interpret_value(text)}
        for part in reversed(outer):
            value = {part: value}
        layers.append(_Layer(name, value, {} if outer else {_folded(last): text}))
    return layers


def _section(loaded: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    section = loaded.get("wukong")
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"'wukong' must be a mapping of settings, not {shown(section)} (in {where})")
    return section


def _known(key: str, source: str) -> str:
    """Return the setting that `key` names, or raise `ConfigError`."""
    folded = _folded(key)
    if folded not in _TYPES:
        where = "" if source == ARGUMENT else f" (set by {source})"
        raise ConfigError(f"there is no setting {key!r}{where}", hint=suggestion(key, KEYS))
    return folded


def _checked(key: str, value: Any, layer: _Layer) -> Any:
    """Return a plain setting's value, read from text if it is text; raise `ConfigError` if it is wrong."""
    annotation = _TYPES[key]
    if isinstance(value, bool) and set(typing.get_args(annotation)) == {"off", "on"}:  # YAML's words for a bool
        value = "on" if value else "off"
    where = "" if layer.source == ARGUMENT else f" (set by {layer.source})"
    if not matches(value, annotation) and key in layer.texts and matches(layer.texts[key], annotation):
        value = layer.texts[key]  # a key of digits only is text all the same
    if isinstance(value, str) and not matches(value, annotation):
        value = _measure(key, value)
    if isinstance(value, float) and value.is_integer() and not matches(value, annotation):
        value = int(value)
    expect(key, value, annotation, where)
    if isinstance(value, (int, float)) and not value >= _MINIMA.get(key, value):
        raise ConfigError(f"{key!r}{where} must be at least {_MINIMA[key]:g}, not {shown(value)}")
    if key == "dashboard_address":
        address_of(key, value, where)
    return value


def _measure(key: str, text: str) -> Any:
    try:
        if key.endswith("_bytes"):
            return parse_bytes(text)
        if key.endswith("_s"):
            return parse_timedelta(text)
    except (ValueError, LookupError, ArithmeticError):
        pass  # the type check that follows says what is wanted
    return text


def _laid_over(key: str, below: Any, value: Any, source: str, sources: dict[str, str]) -> Any:
    """Return the plug-in's choice `value` laid over the one `below`; note in `sources` where what it sets came from."""
    names_one = not isinstance(value, Mapping) or "name" in value or "url" in value
    where = "" if source == ARGUMENT else f" (set by {source})"
    same = False
    chosen: Any = value
    parsed: dict[str, Any] = {}
    if isinstance(value, (str, Mapping)):
        same_name = below["name"] if isinstance(below, Mapping) else None
        complete: Any = value if names_one else {"name": same_name, **chosen}
        try:
            name, parsed = named(complete)
        except ConfigError as error:
            raise ConfigError(f"{key!r}{where}: {error.message}", hint=error.hint) from None
        if isinstance(below, Mapping) and below["name"] == name:
            same, chosen = True, {**below, **parsed}
        else:
            chosen = {"name": name, **parsed}
    elif not isinstance(value, FaaS if key == "faas" else Store):
        raise ConfigError(
            f"{key!r}{where} must be a plug-in's name, a URL, a mapping or an open backend, not {shown(value)}"
        )
    if not same:
        for path in [path for path in sources if path.startswith(f"{key}.")]:
            del sources[path]
    if names_one:
        sources[key] = source
    sources.update({f"{key}.{option}": source for option in parsed})
    return chosen


def data_folder() -> Path | None:
    """Return the folder of this user's data of Wukong, which need not exist yet; None: the user has no home."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(base):
        return Path(base, "wukong")
    home = "" if os.environ.get("HOME") == "" else os.path.expanduser("~")
    return Path(home, ".local", "share", "wukong") if os.path.isabs(home) else None


def cache_folder() -> Path | None:
    """Return the folder of what Wukong may keep for this user and may lose, likewise."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base, "wukong")
    home = "" if os.environ.get("HOME") == "" else os.path.expanduser("~")
    return Path(home, ".cache", "wukong") if os.path.isabs(home) else None


def _folded(key: str) -> str:
    return str(key).replace("-", "_")


def _tilde(path: Path) -> str:
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)
