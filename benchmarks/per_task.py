"""Round trips and bytes per task: every workload of `engines.py` on Wukong, on each store, in turn."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from side_by_side import One, Side, median_s
from store_servers import Ground
from workloads import BY_NAME


def measure(
    grounds: Sequence[Ground], names: Sequence[str], *, workers: int, repeat: int, until: float
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Run each workload on each store: once unmeasured, then `repeat` times in turn. Return runs by workload and store.

    Raises AssertionError if an answer is wrong.
    """
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with ExitStack() as stack:
        sides = [stack.enter_context(Side("Wukong", ground, workers)) for ground in grounds]
        for name in names:
            workload = BY_NAME[name]
            print(f"  {workload.title}", file=sys.stderr, flush=True)
            reference = workload.reference()
            runs: dict[str, list[One]] = {side.ground.name: [] for side in sides}
            for turn in range(1 + repeat):
                for side in sides:
                    if turn > 1 and time.monotonic() > until:
                        continue
                    answer, one = side.run(workload.build)
                    workload.check(answer, reference)
                    del answer
                    if turn:
                        runs[side.ground.name].append(one)
            for store, each in runs.items():
                calls = sum(each[-1].work[verb] for verb in ("gets", "puts", "incrs"))
                print(f"    {store:14} {median_s(each):.4f} s, {calls} calls of executors", file=sys.stderr, flush=True)
            results[name] = {store: [asdict(one) for one in each] for store, each in runs.items()}
    return results
