"""How many tasks of each layer of a graph have been run: by end reports, or heartbeats of executors that run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence

from wukong.core.invocation_tree import InvocationState
from wukong.core.layers import layers_of


class LayerCounts:
    """The counts of one job; it looks at each end report once.

    Args:
        keys: of the job's tasks.
    """

    def __init__(self, keys: Iterable[Hashable]) -> None:
        self._names, self._of = layers_of(keys)
        self._tasks = Counter(self._of)
        self._ended: dict[tuple[str, int], Counter[int]] = {}

    def told(self, states: Sequence[InvocationState]) -> Mapping[str, tuple[int, int]]:
        """Return by layer how many tasks have been run, and how many there are."""
        ran = Counter[int]()
        for state in states:
            end, beat, of = state.end, state.beat, self._of
            if end is not None and end.track is not None and state.ended:
                key = state.invocation, end.attempt
                if (counts := self._ended.get(key)) is None:
                    counts = self._ended[key] = Counter(map(of.__getitem__, end.track.tasks))
                ran += counts
            elif beat is not None:
                for task, n in beat.layers:
                    ran[of[task]] += n
        counted = ((name, self._tasks[layer], ran[layer]) for layer, name in enumerate(self._names))
        return {name: (min(done, tasks), tasks) for name, tasks, done in counted}
