"""What a task computes, as a digest: the same in any process, another one as soon as code or inputs are different.

    digest(task) = what it runs + its literal arguments + the digests of its inputs + the user's modules that it names

What a function runs is told by how it travels (`wukong.core.modules`):

    by value       its bytecode, constants and defaults, what it closes over, and the global variables that it names,
                   functions and classes among them likewise; not where it stands in its file
    from a file    its name, and the sources of its module and of all that this imports
    installed      its name, and the version of its package

Other values are told by their classes, likewise, and by what they are made of. That is their pickle, if the class
travels by value or is a kind of tuple, list, dict or set; else what Dask's `tokenize` says. What is not certain to be
the same in another process has no digest (`NoDigest`). Versions of packages that a task's pickle names are told too.

A difference that means nothing, such as an order of arguments, may make another digest; equal digests mean equal work.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import cached_property, lru_cache, partial
from hashlib import blake2b
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

from dask._task_spec import Alias, DataNode, GraphNode, NestedContainer, Task, TaskRef
from dask.base import tokenize

from wukong.core import modules, packages
from wukong.core.dag import Graph, op_refs
from wukong.core.names import text_of

_VERSION = f"2 {sys.implementation.cache_tag}"
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), range, slice)
_NOT_OF_A_CLASS = frozenset(  # where it stands, what is made of the rest, types of names, and notes of pickle's
    {
        *("__dict__", "__weakref__", "__doc__", "__module__", "__firstlineno__", "__static_attributes__"),
        *("__annotations__", "__annotate_func__", "__annotations_cache__", "__orig_bases__", "__parameters__"),
        *("__type_params__", "__abstractmethods__", "_abc_impl", "__dataclass_params__", "__slotnames__"),
    }
)
_CACHED = type(lru_cache(int))
_SLOTS = (GetSetDescriptorType, MemberDescriptorType)


class NoDigest(Exception):
    """What a task computes cannot be told; `args`: why."""


class Digests:
    """The digests of a graph's tasks.

    Args:
        graph: whose.
        named: returns the modules that a pickle of a value names (`wukong.core.modules.naming`).
    """

    def __init__(self, graph: Graph, named: Callable[[Any], Iterable[str]]) -> None:
        self._graph, self._named = graph, named
        self._of: dict[int, str | NoDigest] = {}
        self._objects: dict[int, str] = {}

    def of(self, task: int) -> str:
        """Return the digest of a task. Raises NoDigest."""
        found = self._found(task)
        if isinstance(found, NoDigest):
            raise found
        return found

    def _found(self, task: int) -> str | NoDigest:
        parents_of, left = self._graph.dag.parents_of, [task]
        while left:  # without recursion: chains are long
            above = [each for each in parents_of(left[-1]) if each not in self._of]
            if above:
                left += above
                continue
            here = left.pop()
            if here not in self._of:
                try:
                    self._of[here] = self._told(self._graph.ops[here])
                except NoDigest as none:
                    self._of[here] = NoDigest(f"{text_of(self._graph.keys[here])}: {none}") if here == task else none
                except RecursionError:
                    self._of[here] = NoDigest(f"{text_of(self._graph.keys[here])} is nested too deep")
        return self._of[task]

    def _ref(self, ref: int) -> str:
        if ref >= 0:
            found = self._of[ref]
            if isinstance(found, NoDigest):
                raise found
            return found
        if ref not in self._objects:
            self._objects[ref] = Teller().of(self._graph.objects[-1 - ref])
        return self._objects[ref]

    def _told(self, op: tuple[Any, ...]) -> str:
        tell = Teller()
        tell.word(_VERSION)
        if len(op) == 4:
            node, keys, refs, constants = op
            inputs = {key: self._ref(ref) for key, ref in zip(keys, refs, strict=True)}
            inputs |= {key: Teller().of(value) for key, value in constants.items()}
            tell.inputs = inputs
            tell.value(node)
        else:
            tell.value(op[0])
            args: list[Any] = [_Input(self._ref(ref)) for ref in op[1]] if len(op) == 2 else list(op[1])
            for position, ref in op[2] if len(op) == 3 else ():
                args[position] = _Input(self._ref(ref))
            for arg in args:
                tell.value(arg)
        literals = op if not any(ref < 0 for ref in op_refs(op)) else op[:-1]
        named = set(self._named(literals))
        tell.word(modules.sources_digest(named))
        for top in sorted({name.partition(".")[0] for name in named}):
            tell.word(*packages.requirements(top))
        return tell.digest()


class _Input:
    __slots__ = ("digest",)

    def __init__(self, digest: str) -> None:
        self.digest = digest


class Teller:
    """Takes in values one after the other; `digest` is of all of them.

    Attributes:
        inputs: the digests of a Dask node's inputs, by key.
    """

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=20)
        self._seen: dict[int, int] = {}
        self._held: list[Any] = []
        self.inputs: Mapping[Hashable, str] = {}

    def digest(self) -> str:
        """Return the digest of what was taken in."""
        return self._hash.hexdigest()

    def of(self, value: Any) -> str:
        """Take in one value; return the digest."""
        self.value(value)
        return self.digest()

    def word(self, *words: object) -> None:
        """Take in some words."""
        for word in words:
            data = str(word).encode("utf-8", "surrogatepass")
            self._hash.update(b"%d:" % len(data))
            self._hash.update(data)

    def value(self, value: Any) -> None:
        """Take in a value. Raises NoDigest."""
        kind = type(value)
        if kind in _PLAIN:
            self.word(kind.__name__, repr(value))
        elif kind is _Input:
            self.word("input", value.digest)
        elif kind in (tuple, list):
            self.word(kind.__name__, len(value))
            for each in value:
                self.value(each)
        elif kind is dict:
            self.word("dict", len(value))
            for key, each in value.items():
                self.value(key)
                self.value(each)
        elif kind in (set, frozenset):
            self.word(kind.__name__, *sorted(self._apart(each) for each in value))
        elif isinstance(value, GraphNode | TaskRef):
            self._node(value)
        elif kind is partial:
            self.word("partial")
            self.value((value.func, value.args, value.keywords))
        elif kind is FunctionType:
            self._function(value)
        elif kind is MethodType:
            self.word("method", value.__name__)
            self.value(value.__self__)
        elif kind is CodeType:
            self._code(value)
        elif kind is ModuleType:
            self._installed(value.__name__)
        elif isinstance(value, type):
            self._class(value)
        elif kind is BuiltinFunctionType and isinstance(value.__self__, ModuleType):
            self._installed(value.__module__ or "builtins")
            self.word("builtin", value.__qualname__)
        elif kind is _CACHED:
            self.word("cached")
            self.value(value.__wrapped__)
        elif kind in _SLOTS:
            self.word("slot", value.__name__)
        else:
            self._other(value)

    def _apart(self, value: Any) -> str:
        teller = Teller()
        teller.inputs = self.inputs
        return teller.of(value)

    def _node(self, node: Any) -> None:
        if isinstance(node, TaskRef):
            self.word("input", self.inputs.get(node.key, f"key {node.key!r}"))
        elif isinstance(node, Alias):
            self.word("input", self.inputs.get(node.target, f"key {node.target!r}"))
        elif isinstance(node, DataNode):
            self.value(node.value)
        elif isinstance(node, Task):
            self.word(type(node).__name__)
            self.value(node.klass if isinstance(node, NestedContainer) else node.func)
            self.value((tuple(node.args), dict(node.kwargs)))
        else:
            raise NoDigest(f"a {type(node).__qualname__} of Dask's is not known")

    def _met(self, value: Any) -> bool:
        """Whether this object was taken in before: then only its number is. It may refer to itself."""
        if id(value) in self._seen:
            self.word("again", self._seen[id(value)])
            return True
        self._seen[id(value)] = len(self._seen)
        self._held.append(value)
        return False

    def _function(self, function: FunctionType) -> None:
        if not modules.goes_by_value(function):
            self._installed(function.__module__)
            self.word("function", function.__module__, function.__qualname__)
            return
        if self._met(function):
            return
        self.word("function", function.__name__)
        self._code(function.__code__)
        self.value((function.__defaults__, function.__kwdefaults__))
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self.word("free", name)
            try:
                self.value(cell.cell_contents)
            except ValueError:  # not set yet
                self.word("empty")
        for name in _names(function.__code__):
            if name in function.__globals__:
                self.word("global", name)
                self.value(function.__globals__[name])

    def _code(self, code: CodeType) -> None:
        self.word("code", code.co_code.hex(), code.co_exceptiontable.hex(), code.co_flags, code.co_argcount)
        self.word(code.co_kwonlyargcount, code.co_posonlyargcount, *code.co_names, *code.co_varnames)
        self.word(*code.co_freevars, *code.co_cellvars)
        self.value(code.co_consts)

    def _class(self, cls: type) -> None:
        if not modules.goes_by_value(cls):
            self._installed(cls.__module__)
            self.word("class", cls.__module__, cls.__qualname__)
            return
        if self._met(cls):
            return
        self.word("class", cls.__qualname__)
        self.value(cls.__bases__)
        for name in sorted(vars(cls).keys() - _NOT_OF_A_CLASS):
            self.word("attribute", name)
            value = vars(cls)[name]
            if isinstance(value, staticmethod | classmethod):
                self.word(type(value).__name__)
                value = value.__func__
            elif isinstance(value, property):
                value = value.fget, value.fset, value.fdel
            elif isinstance(value, cached_property):
                value = value.func
            elif name == "__dataclass_fields__":
                value = [
                    (each.name, each.default, each.default_factory, *each.metadata.items()) for each in value.values()
                ]
            self.value(value)

    def _installed(self, module: str) -> None:
        """Take in the version of a module's package; what is not installed is told by its sources."""
        self.word("module", module, *packages.versions(module))

    def _other(self, value: Any) -> None:
        if self._met(value):
            return
        kind = type(value)
        self.word("value")
        self._class(kind)
        if isinstance(module := getattr(value, "__module__", None), str):
            self._installed(module)
        contains = isinstance(value, tuple | list | dict | set | frozenset)
        try:
            if hasattr(kind, "__dask_tokenize__") or not (contains or modules.goes_by_value(kind)):
                self.word(tokenize(value, ensure_deterministic=True))
                return
            parts = value.__reduce_ex__(4)
        except Exception as error:
            raise NoDigest(f"a {kind.__qualname__} cannot be told from others: {error}") from error
        if isinstance(value, set | frozenset):
            self.word(*sorted(self._apart(each) for each in value))
            self.value(getattr(value, "__dict__", None))
        else:
            self.value(tuple(list(part) if isinstance(part, Iterator) else part for part in parts))


def _names(code: CodeType) -> list[str]:
    """The global variables that code, and code inside it, may name."""
    inner = [name for const in code.co_consts if type(const) is CodeType for name in _names(const)]
    return list(dict.fromkeys([*code.co_names, *inner]))
