"""Names and values that people write down, checked: unknown ones named, valid ones listed, the nearest suggested.

The settings of `wukong.config` and the options of plug-ins (`wukong.backends.plugins`) are checked alike. A value is
checked if its annotation is simple: scalars, None, `Literal`, unions, and lists, tuples, sequences and mappings of
these. Anything else is left to the code that takes the value.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from wukong.errors import ConfigError

_SECRET = ("password", "passwd", "secret", "token", "credential")
_WORDS: dict[Any, str] = {
    NoneType: "null",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
}


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name that `name` was probably meant to be; None if no name is near."""
    by_folded = {_folded(candidate): candidate for candidate in valid}
    found = difflib.get_close_matches(_folded(name), by_folded, n=1)
    return by_folded[found[0]] if found else None


def suggestion(name: str, valid: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name: what was meant, if that is clear, and what is valid."""
    names = sorted(valid)
    meant = nearest(name, names)
    listed = f"valid: {', '.join(names)}" if names else "there are none"
    return f"did you mean {meant!r}? {listed}" if meant else listed


def matches(value: object, annotation: Any) -> bool:
    """Return whether `value` is of the annotated type. A whole number is a number; true and false are not numbers."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is NoneType:
        return value is None
    if annotation in (int, float):
        return isinstance(value, int if annotation is int else (int, float)) and not isinstance(value, bool)
    if annotation in (str, bool):
        return isinstance(value, annotation)
    if origin in (Union, UnionType):
        return any(matches(value, argument) for argument in arguments)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if annotation in (list, tuple, Sequence) or origin in (list, tuple, Sequence):
        item = next((argument for argument in arguments if argument is not ...), Any)
        fixed = origin is tuple and ... not in arguments
        return isinstance(value, (list, tuple)) and (fixed or all(matches(each, item) for each in value))
    if annotation in (dict, Mapping) or origin in (dict, Mapping):
        return isinstance(value, Mapping) and (
            not arguments or all(matches(each, arguments[1]) for each in value.values())
        )
    return True


def words(annotation: Any) -> str:
    """Return an annotation in words, for an error message."""
    arguments = get_args(annotation)
    if annotation in _WORDS:
        return _WORDS[annotation]
    if get_origin(annotation) is Literal:
        return " or ".join(_written(choice) for choice in arguments)
    if get_origin(annotation) in (Union, UnionType):
        ordered = sorted(arguments, key=lambda argument: argument is NoneType)
        said = [words(argument) for argument in ordered]
        return (", or " if any("," in each for each in said) else " or ").join(said)
    if annotation is None:
        return _WORDS[NoneType]
    if get_origin(annotation) in (list, tuple, Sequence):
        items = [words(each) for each in arguments if each is not ...]
        return f"a list of {len(items)} items" if len(items) > 1 else f"a list, each item {items[0]}"
    if get_origin(annotation) in (dict, Mapping):
        return "a mapping"
    return str(annotation).removeprefix("typing.").replace("collections.abc.", "")


def shown(value: object) -> str:
    """Return a value as an error message may show it: written as in a configuration file, and shortened."""
    text = _written(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def expect(key: str, value: object, annotation: Any, where: str = "") -> None:
    """Raise `ConfigError` unless `value` is of the annotated type. A secret's value is not repeated."""
    if matches(value, annotation):
        return
    got = f"this {type(value).__name__}" if is_secret(key) else shown(masked(key, value))
    raise ConfigError(f"{key!r}{where} must be {words(annotation)}, not {got}")


def address_of(key: str, address: str, where: str = "") -> tuple[str, int]:
    """Return the host and the port of ``host:port``. Raises ConfigError for what is none."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65_535:
        hint = "write it as 127.0.0.1:8787; port 0 is any that is free"
        raise ConfigError(f"{key!r}{where} must be host:port, not {address!r}", hint=hint)
    return host.strip("[]"), int(port)


def is_secret(key: str) -> bool:
    """Return whether the value under this key is not to be shown."""
    last = key.rpartition(".")[2].lower()
    return last == "key" or any(word in last for word in _SECRET)


def masked(key: str, value: Any) -> Any:
    """Return `value` with everything secret replaced: secret keys at any depth, and passwords inside URLs."""
    if is_secret(key) and value is not None:
        return "***"
    if isinstance(value, Mapping):
        return {name: masked(str(name), each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(key, each) for each in value]
    if isinstance(value, str) and "://" in value:
        return _masked_url(value)
    return value


def _masked_url(url: str) -> str:
    scheme, _, rest = url.partition("://")
    # Up to the last @: if , or / is not escaped in a password, it is no less a secret.
    _, at, rest = rest.rpartition("@")
    place, question, query = rest.partition("?")
    shown_query = "&".join(
        f"{pair.partition('=')[0]}=***" if is_secret(pair.partition("=")[0]) else pair for pair in query.split("&")
    )
    return f"{scheme}://{'***@' if at else ''}{place}{question}{shown_query}"


def _written(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _folded(name: str) -> str:
    return str(name).lower().replace("-", "_")
