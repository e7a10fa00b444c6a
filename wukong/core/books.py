"""The books of one executor: what it was told, and what it keeps account of. All parts of the executor share them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from wukong.core.events import Report
from wukong.core.ledger import Ledger
from wukong.core.names import Names, text_of
from wukong.core.payload import Order
from wukong.core.policy import Costs
from wukong.core.track import Recorder


@dataclass(frozen=True, slots=True)
class Books:
    """See the module's docstring.

    Attributes:
        order: what the executor was told. names: makes the keys of its job in the store.
        report: sums of what it did. recorder: what it did when.
        costs: what moving things costs, as far as is known.
        ledger: what it leaves in the store.
        keys: Dask's key of each task whose page is loaded.
    """

    order: Order
    names: Names
    report: Report
    recorder: Recorder
    costs: Costs
    ledger: Ledger
    keys: dict[int, Any] = field(default_factory=dict)

    def kind(self, task: int) -> str:
        """Return what the keys of tasks that do the same begin with; "" if the task's page is not loaded."""
        key = self.keys.get(task, "")
        return str(key[0]) if isinstance(key, tuple) else text_of(key).rpartition("-")[0] or text_of(key)

    def name(self, task: int) -> str:
        """Return a task's key as text, for a person; its number if its page is not loaded."""
        return text_of(self.keys.get(task, task))
