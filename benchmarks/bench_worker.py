"""One engine in a process of its own, driven by `engines.py` over two pipes, one JSON object per line each way.

bench_worker.py ENGINE REQUESTS_FD REPLIES_FD REFERENCES     run workloads until told to stop
bench_worker.py --start-up ENGINE                            time from `import dask` to a first result, printed
bench_worker.py --reference WORKLOAD REFERENCES              compute what a workload's answers are checked against
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def run_once(engine: Any, name: str, folder: Path) -> dict[str, Any]:
    """Build, run and check one workload once; return the answer's time in seconds, or what went wrong."""
    from workloads import BY_NAME, load_reference

    workload = BY_NAME[name]
    run = workload.build()
    reference = load_reference(workload, folder)
    gc.collect()
    engine.last_s = None
    start = time.perf_counter()
    try:
        answer = run(engine.get)
        seconds = time.perf_counter() - start
        workload.check(answer, reference)
    except AssertionError as wrong:
        return {"error": f"wrong answer: {wrong}"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:300]}
    return {"seconds": engine.last_s or seconds, "details": engine.details()}


def serve(engine_name: str, requests_fd: int, replies_fd: int, folder: Path) -> None:
    """Start the engine and answer requests until the pipe closes."""
    from peers import ENGINES

    engine = ENGINES[engine_name]()
    with os.fdopen(requests_fd) as requests, os.fdopen(replies_fd, "w", buffering=1) as replies:
        engine.load()
        engine.start()
        print(json.dumps({"ready": True}), file=replies)
        for line in requests:
            print(json.dumps(run_once(engine, json.loads(line)["run"], folder)), file=replies)
    engine.close()


def start_up(engine_name: str) -> None:
    """Print the seconds to import Dask, the engine on top of it, to start the engine, and to its first result."""
    from peers import ENGINES, START_UP_ONLY

    marks = [time.perf_counter()]
    import dask

    marks.append(time.perf_counter())
    engine = (ENGINES | START_UP_ONLY)[engine_name]()
    engine.load()
    marks.append(time.perf_counter())
    engine.start()
    marks.append(time.perf_counter())
    answer = dask.delayed(sum)([1, 2]).compute(scheduler=engine.get)
    marks.append(time.perf_counter())
    assert answer == 3, answer
    names = ("dask_s", "import_s", "start_s", "first_s")
    print(json.dumps({name: marks[i + 1] - marks[i] for i, name in enumerate(names)}), flush=True)
    engine.close()


if __name__ == "__main__":
    if sys.argv[1] == "--start-up":
        start_up(sys.argv[2])
    elif sys.argv[1] == "--reference":
        from workloads import BY_NAME, save_reference

        save_reference(BY_NAME[sys.argv[2]], Path(sys.argv[3]))
    else:
        serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
