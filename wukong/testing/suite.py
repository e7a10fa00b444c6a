"""What the conformance suites have in common: the suite alone says what is tested.

A suite is a class with tests, fixtures and a few *hooks*. A plug-in's author defines the hooks: how to make a backend,
how long to wait. Everything else is the suite's. A subclass, or a mixin beside it, that replaced a test, a fixture or
anything they are made of would prove something else. It is refused when the class is made, and again before its tests
run.
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

__all__ = ["Suite"]

_OWN = f"{__name__.rpartition('.')[0]}."


class Suite:
    """A class of tests for plug-ins.

    Attributes:
        hooks: the names that a subclass defines.
    """

    hooks: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_overrides(cls)

    @pytest.fixture(autouse=True)
    def _is_whole(self) -> None:
        """Find what was put in the place of a test after the class had been made."""
        refuse_overrides(type(self))


def refuse_overrides(cls: type[Suite]) -> None:
    """Raise TypeError if `cls` or a mixin of it replaces anything of its suite but a hook."""
    owns = [base for base in cls.__mro__ if issubclass(base, Suite) and base.__module__.startswith(_OWN)]
    hooks = frozenset().union(*(base.hooks for base in owns))
    names = {name for base in owns for name in vars(base) if not name.startswith("__")} - hooks
    first = {name: next(base for base in cls.__mro__ if name in vars(base)) for name in names}
    if overridden := sorted(name for name, base in first.items() if base not in owns):
        raise TypeError(
            f"{cls.__name__} overrides {', '.join(overridden)} of the suite. Neither its tests nor what they are made "
            "of can be overridden: what a plug-in cannot do it declares, and tests of your own have other names. "
            f"A subclass defines {', '.join(sorted(hooks))}."
        )
