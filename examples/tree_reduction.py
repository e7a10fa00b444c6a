"""Add up many integers, two at a time: a binary tree of tiny tasks, the first workload of the Wukong papers.

With a delay each addition sleeps, as if it were work, and executors are started for what can run at the same time:

    python examples/tree_reduction.py --size 1024 --delay-ms 100
"""

import argparse
import sys
import time

import dask

import wukong

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--size", type=int, default=1024, help="how many integers")
parser.add_argument("--delay-ms", type=float, default=0, help="how long each addition takes besides, milliseconds")
parser.add_argument("--faas", help="FaaS backend: a plug-in's name or a URL; else as configured")
parser.add_argument("--storage", help="intermediate store: a plug-in's name or a URL; else as configured")
args = parser.parse_args()
if args.size < 2:
    parser.error("--size: there is nothing to add up below 2")


@dask.delayed
def add(a, b):
    if args.delay_ms:
        time.sleep(args.delay_ms / 1000)
    return a + b


level = list(range(args.size))
n_tasks = 0
while len(level) > 1:
    pairs = [add(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
    n_tasks += len(pairs)
    level = pairs + level[len(pairs) * 2 :]  # if the count is odd, the last one waits for the next level

with wukong.Client(faas=args.faas, storage=args.storage) as client:
    start = time.perf_counter()
    result = level[0].compute()
    seconds = time.perf_counter() - start
    summary = client.last_job.summary()

expected = args.size * (args.size - 1) // 2
if result != expected:
    sys.exit(f"wrong answer: {result} instead of {expected}")
print(f"{args.size} integers added up in {n_tasks} tasks of {args.delay_ms:g} ms: {result}, in {seconds:.2f} s")
print(summary)
