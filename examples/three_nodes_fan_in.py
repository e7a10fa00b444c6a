"""Three tasks: two that depend on nothing, and a third that needs both (a fan-in).

python examples/three_nodes_fan_in.py --size 1000000
"""

import argparse
import sys

import dask

import wukong

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--size", type=int, default=1_000_000, help="add up the integers below this")
parser.add_argument("--faas", help="FaaS backend: a plug-in's name or a URL; else as configured")
parser.add_argument("--storage", help="intermediate store: a plug-in's name or a URL; else as configured")
args = parser.parse_args()


@dask.delayed
def add_up(start, stop, step):
    return sum(range(start, stop, step))


@dask.delayed
def combine(even, odd):
    return {"even": even, "odd": odd, "all": even + odd}


even = add_up(0, args.size, 2)
odd = add_up(1, args.size, 2)

with wukong.Client(faas=args.faas, storage=args.storage) as client:
    result = combine(even, odd).compute()
    summary = client.last_job.summary()

expected = args.size * (args.size - 1) // 2
if result["all"] != expected or result["even"] + result["odd"] != expected:
    sys.exit(f"wrong answer: {result}, but the integers below {args.size} add up to {expected}")
print(f"the integers below {args.size}: even ones {result['even']}, odd ones {result['odd']}, all {result['all']}")
print(summary)
