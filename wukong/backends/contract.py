"""The check of a plug-in's answers against its contract, in one place for all that build on it.

An answer that breaks the contract raises an error that names the plug-in and the promise. Without the check it would
show as another error further up, which says nothing of the cause. `wukong.backends.storage.layers.Checked` and
`wukong.backends.faas.checked` use this, verb by verb.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from wukong.backends.spec import PluginSpec
from wukong.errors import WukongError

__all__ = ["Contract"]

T = TypeVar("T")


class Contract:
    """What a plug-in has promised.

    Args:
        plugin: the store or the backend.
        kind: what it is called in error messages.
        error: the exception class for a breach.
        suite: the conformance suite that its author can run.
    """

    def __init__(self, plugin: object, kind: str, error: type[WukongError], suite: str) -> None:
        self._plugin, self._kind, self._error, self._suite = type(plugin), kind, error, suite

    def asked(self, verb: str, call: Callable[..., T], *arguments: Any, passing: tuple[type[Exception], ...] = ()) -> T:
        """Return what the plug-in answers. Lets Wukong's exceptions, those in `passing`, and `MemoryError` pass."""
        try:
            return call(*arguments)
        except (WukongError, MemoryError):
            raise
        except Exception as error:
            if isinstance(error, passing):
                raise
            self.broken(f"{verb} raised {type(error).__name__}: {error}", error)

    def spec(self, call: Callable[[], object]) -> PluginSpec:
        """Return what `spec` answers."""
        answer = self.asked("spec", call)
        if not isinstance(answer, PluginSpec):
            self.broken(f"spec answered {type(answer).__name__}, not a PluginSpec")
        return answer

    def environment(self, call: Callable[[], Any]) -> dict[str, str]:
        """Return what `environment` answers."""
        answer = self.asked("environment", call)
        try:
            variables = dict(answer)
        except (TypeError, ValueError):
            self.broken(f"environment answered {type(answer).__name__}, not a mapping")
        for name, value in variables.items():
            if not isinstance(name, str) or not isinstance(value, str):
                self.broken(f"environment answered {type(value).__name__} for {name!r}; variables are text")
        return variables

    def broken(self, what: str, cause: Exception | None = None) -> NoReturn:
        """Raise the error that says which promise which plug-in has broken."""
        who = f"{self._plugin.__module__}:{self._plugin.__qualname__}"
        raise self._error(
            f"the {self._kind} plug-in {who} broke its contract: {what}",
            hint=f"its author has to mend this; {self._suite} finds it",
        ) from cause
