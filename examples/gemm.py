"""Multiply two square matrices, block by block (GEMM).

Checked after Freivalds: (A B) x = A (B x) for a random vector x. That costs next to nothing, and a wrong block breaks
the equation.

    python examples/gemm.py --size 4000 --chunk 1000
"""

import argparse
import sys
import time

import dask.array as da
import numpy as np

import wukong

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--size", type=int, default=4_000, help="rows and columns of the matrices")
parser.add_argument("--chunk", type=int, default=1_000, help="rows and columns of a chunk")
parser.add_argument("--faas", help="FaaS backend: a plug-in's name or a URL; else as configured")
parser.add_argument("--storage", help="intermediate store: a plug-in's name or a URL; else as configured")
args = parser.parse_args()

rng = da.random.default_rng(seed=1)
A = rng.random((args.size, args.size), chunks=(args.chunk, args.chunk))
B = rng.random((args.size, args.size), chunks=(args.chunk, args.chunk))

with wukong.Client(faas=args.faas, storage=args.storage) as client:
    start = time.perf_counter()
    C = (A @ B).compute()
    seconds = time.perf_counter() - start
    summary = client.last_job.summary()

x = np.random.default_rng(2).standard_normal((args.size, 1))
expected = (A @ (B @ da.from_array(x, chunks=(args.chunk, 1)))).compute(scheduler="threads")
if not np.allclose(C @ x, expected, rtol=1e-9, atol=1e-9 * args.size**2):
    sys.exit("wrong answer: (A B) x is not A (B x)")
print(f"{args.size} x {args.size} matrices multiplied in chunks of {args.chunk}: {seconds:.2f} s")
print(f"mean of the product {C.mean():.3f}")
print(summary)
