"""One task on one executor: the smallest thing that Wukong can run.

python examples/single_node.py --size 1000000
"""

import argparse
import sys

import dask

import wukong

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--size", type=int, default=1_000_000, help="how many squares to add up")
parser.add_argument("--faas", help="FaaS backend: a plug-in's name or a URL; else as configured")
parser.add_argument("--storage", help="intermediate store: a plug-in's name or a URL; else as configured")
args = parser.parse_args()


@dask.delayed
def sum_of_squares(n):
    return sum(i * i for i in range(n + 1))


with wukong.Client(faas=args.faas, storage=args.storage) as client:
    result = sum_of_squares(args.size).compute()
    summary = client.last_job.summary()

n = args.size
expected = n * (n + 1) * (2 * n + 1) // 6
if result != expected:
    sys.exit(f"wrong answer: {result} instead of {expected}")
print(f"the squares of 0..{n} add up to {result}")
print(summary)
