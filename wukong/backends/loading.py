"""Plug-ins found and loaded by name, through stevedore.

A plug-in is a subclass of its family's contract, registered as an entry point in the group of the family. The families
do not know each other, so each says here what its contract is (`register`): in `wukong.backends.faas.loading` and
`wukong.backends.storage.loading`. Who may know both uses `wukong.backends.plugins`. Only the plug-in that is asked for
is imported. Every mistake is a `PluginError` which names the plug-in, the distribution it comes from, its target, and
what to do.

Entry points are read afresh from the installed distributions each time (about 2 ms). Stevedore keeps its own list on
disk, under a digest of modification times rounded to minutes and without the distributions' names. There a plug-in that
was just reinstalled would be missing, and two claimants of one name could not be told apart.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeAlias, TypeVar

from wukong.core.interrupts import held
from wukong.errors import ConfigError, PluginError, WukongError
from wukong.options import expect, masked, shown, suggestion

Family: TypeAlias = Literal["faas", "storage"]
FAMILIES: tuple[Family, ...] = ("faas", "storage")

T = TypeVar("T")

_OLDEST: dict[Family, int] = {"faas": 1, "storage": 1}
"""The oldest version of each contract that plug-ins may still be written for."""

_CHANGES: dict[tuple[Family, int], str] = {}
"""What each version of a contract has changed, for the authors of plug-ins written for the one before."""

_CONTRACTS: dict[Family, type[Any]] = {}


def register(family: Family, contract: type[Any]) -> None:
    """Say which class the plug-ins of a family derive from."""
    _CONTRACTS[family] = contract


@dataclass(frozen=True, slots=True)
class Plugin:
    """One installed plug-in, as `installed` found it.

    Attributes:
        family: ``faas`` or ``storage``.
        name: what it is asked for by.
        distribution: the package that brings it, with its version.
        target: ``"module:attribute"``.
        cause: why it cannot be used; None if it can.
        extra: the extra to install, ``"distribution[extra]"``, if nothing else is missing; else None.
        contract: the version of the contract that it was written for; None if it cannot be used.
    """

    family: Family
    name: str
    distribution: str
    target: str
    cause: str | None = None
    extra: str | None = None
    contract: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the plug-in can be loaded."""
        return self.cause is None


def installed(family: Family) -> list[Plugin]:
    """Return all installed plug-ins of a family, by name. Imports each; a broken one is listed with its cause."""
    found = _entry_points(family)
    plugins = []
    for entry_point in sorted(found, key=lambda each: (each.name, _distribution(each))):
        cause: str | None = None
        extra: str | None = None
        written_for: int | None = None
        try:
            written_for = _written_for(family, _class_of(family, entry_point.name, found))
        except PluginError as error:
            cause = _caused(error.__cause__) if error.__cause__ else error.message
            extra = _extra_with(entry_point, error.__cause__)
        about = entry_point.name, _distribution(entry_point), entry_point.value
        plugins.append(Plugin(family, *about, cause, extra, written_for))
    return plugins


def names(family: Family) -> list[str]:
    """Return the names of all installed plug-ins of a family, broken ones too. Imports none."""
    return sorted({entry_point.name for entry_point in _entry_points(family)})


def named(spec: Mapping[str, Any] | str) -> tuple[str, dict[str, Any]]:
    """Return the plug-in's name and options that a name, a URL or a mapping stands for.

    Raises `ConfigError` if it stands for none.
    """
    name: object
    if isinstance(spec, str):
        name, separator, _ = spec.partition("://")
        options: dict[str, Any] = {"url": spec} if separator else {}
    else:
        options = dict(spec)
        url = options.get("url")
        name = options.pop("name", url.partition("://")[0] if isinstance(url, str) else None)
    if unnamed := [option for option in options if not isinstance(option, str)]:
        raise ConfigError(f"the name of an option is text, not {shown(unnamed[0])} (in {shown(masked('', spec))})")
    if not isinstance(name, str) or not name:
        raise ConfigError(
            f"{shown(masked('', spec))} names no plug-in",
            hint='give a name ("local"), a URL ("redis://host:6379") or a mapping ({"name": "local", ...})',
        )
    return name, options


def load(family: Family, spec: object, options: Mapping[str, Any]) -> object:
    """Return the backend or store that `spec` names, see `wukong.backends.faas.loading.load_faas`."""
    contract = _CONTRACTS[family]
    if isinstance(spec, contract):
        if options:
            raise PluginError(
                f"options ({', '.join(sorted(options))}) were given beside a {family} backend that is open already",
                hint="give them where the backend is made",
            )
        return spec
    if not isinstance(spec, (str, Mapping)):
        raise PluginError(
            f"{spec!r} is not a {family} backend",
            hint=f"give a plug-in's name, a URL, a mapping, or an instance of {_dotted(contract)}",
        )
    cls, given = chosen(family, spec, options)
    return opened(family, spec, lambda: cls(**given))


def chosen(
    family: Family, spec: str | Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[type[Any], dict[str, Any]]:
    """Return a plug-in's class, and its options, checked. Raises `PluginError` or `ConfigError`."""
    name, given = named(spec)
    given.update(options)
    with held():
        cls = _class_of(family, name, _entry_points(family))
    _check_options(family, name, cls, given)
    return cls, given


def opened(family: Family, spec: str | Mapping[str, Any], work: Callable[[], T]) -> T:
    """Return what `work` opens. Raises `PluginError`, which names the plug-in, for what is no `WukongError`."""
    try:
        return work()
    except WukongError:
        raise
    except Exception as cause:
        name, _ = named(spec)
        [entry_point] = [each for each in _entry_points(family) if each.name == name]
        raise PluginError(
            f"{_described(family, entry_point)} could not be opened: {_caused(cause)}",
            hint="check the plug-in's options with 'wukong config'",
        ) from cause


def _entry_points(family: Family) -> list[EntryPoint]:
    """All registrations of a family. One distribution that is found twice on the path counts once."""
    return list(entry_points(group=f"wukong.{family}"))


def _class_of(family: Family, name: str, found: Sequence[EntryPoint]) -> type[Any]:
    """Import the plug-in of this name and return its class, checked against the contract."""
    claims = [entry_point for entry_point in found if entry_point.name == name]
    if not claims:
        if not found:
            raise PluginError(
                f"no {family} plug-in is installed, not even Wukong's own, so {name!r} cannot be",
                hint="Wukong runs from a folder that is not installed: pip install -e . in the checkout",
            )
        raise PluginError(
            f"no {family} plug-in is called {name!r}",
            hint=suggestion(name, {entry_point.name for entry_point in found}),
        )
    if len(claims) > 1:
        owners = " and ".join(sorted(f"{_distribution(each)} ({each.value})" for each in claims))
        raise PluginError(f"the {family} plug-in name {name!r} is claimed by {owners}", hint="uninstall one of them")

    what = _described(family, claims[0])
    try:
        cls = _loaded_by_stevedore(family, name, found)
    except (Exception, SystemExit) as cause:
        extra = _extra_with(claims[0], cause)
        raise PluginError(
            f"{what} cannot be imported: {_caused(cause)}",
            hint=f"pip install '{extra}'" if extra else f"reinstall {_distribution(claims[0])}, or what it needs",
        ) from cause

    contract = _CONTRACTS[family]
    if not isinstance(cls, type) or not issubclass(cls, contract):
        raise PluginError(f"{what} is not a subclass of {_dotted(contract)}", hint="its author has to mend this")
    if missing := getattr(cls, "__abstractmethods__", ()):
        raise PluginError(f"{what} lacks {', '.join(sorted(missing))}", hint="its author has to mend this")
    _check_contract(family, what, cls)
    return cls


def _written_for(family: Family, cls: type[Any]) -> int:
    """Return the version of the contract that a plug-in names: its own attribute, not the one that it inherits."""
    own = [base for base in cls.__mro__ if base is not _CONTRACTS[family]]
    return next((vars(base)["CONTRACT"] for base in own if "CONTRACT" in vars(base)), 1)


def _check_contract(family: Family, what: str, cls: type[Any]) -> None:
    """Raise `PluginError` if a plug-in was written for a version of the contract that this Wukong does not keep."""
    theirs, ours = _written_for(family, cls), _CONTRACTS[family].CONTRACT
    if not isinstance(theirs, int) or theirs > ours:
        raise PluginError(
            f"{what} was written for version {theirs} of the contract, and this Wukong has {ours}",
            hint="pip install --upgrade wukong-serverless",
        )
    if theirs < _OLDEST[family]:
        since = [_CHANGES[family, version] for version in range(theirs + 1, ours + 1) if (family, version) in _CHANGES]
        changed = f": {'; '.join(since)}" if since else ""
        raise PluginError(
            f"{what} was written for version {theirs} of the contract, and this Wukong has {ours}{changed}",
            hint="install a newer version of the plug-in, or an older one of wukong-serverless",
        )


def _loaded_by_stevedore(family: Family, name: str, found: Sequence[EntryPoint]) -> object:
    from stevedore.driver import DriverManager  # here, because importing wukong must stay quick

    class Driver(DriverManager[Any]):
        def list_entry_points(self) -> list[EntryPoint]:
            return list(found)

    # Not `.driver`, which is the class wherever the instance is falsy.
    return Driver(f"wukong.{family}", name, invoke_on_load=False).extensions[0].plugin


def _check_options(family: Family, name: str, cls: type[Any], given: Mapping[str, Any]) -> None:
    """Hold options against the signature of the plug-in's constructor. Raises `PluginError`."""
    parameters = list(inspect.signature(cls).parameters.values())
    valid = {each.name: each for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        for key in given:
            if key not in valid:
                what = "takes no URL" if key == "url" else f"has no option {key!r}"
                raise PluginError(f"the {family} plug-in {name!r} {what}", hint=suggestion(key, valid))
    lacking = [key for key, each in valid.items() if each.default is each.empty and key not in given]
    if lacking:
        raise PluginError(
            f"the {family} plug-in {name!r} needs {', '.join(map(repr, lacking))}",
            hint=f'give it in a mapping: {{"name": "{name}", "{lacking[0]}": ...}}',
        )
    for key, annotation in _annotations(cls).items():
        if key in given:
            try:
                expect(key, given[key], annotation, where=f" of the {family} plug-in {name!r}")
            except ConfigError as error:
                raise PluginError(error.message, hint=error.hint) from None


def _annotations(cls: type[Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls.__init__)
    except Exception:  # an annotation that cannot be evaluated here is no fault of the options
        return {}


def _described(family: Family, entry_point: EntryPoint) -> str:
    return f"the {family} plug-in {entry_point.name!r} ({entry_point.value}, from {_distribution(entry_point)})"


def _distribution(entry_point: EntryPoint) -> str:
    return f"{entry_point.dist.name} {entry_point.dist.version}" if entry_point.dist else "an unknown distribution"


def _extra_with(entry_point: EntryPoint, cause: BaseException | None) -> str | None:
    """Return which extra of the plug-in's distribution brings the module that is not there; None: none does."""
    if not isinstance(cause, ModuleNotFoundError) or cause.name is None or entry_point.dist is None:
        return None
    module = cause.name.partition(".")[0]
    for requirement in entry_point.dist.requires or ():
        found = re.match(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]", requirement)
        if found is not None and found[1].lower().replace("-", "_") == module:
            return f"{entry_point.dist.name}[{found[2]}]"
    return None


def _caused(cause: BaseException) -> str:
    return f"{type(cause).__name__}: {cause}" if str(cause) else type(cause).__name__


def _dotted(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
