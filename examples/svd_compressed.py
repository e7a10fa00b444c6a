"""The first few singular values and vectors of a square matrix, by random projection (`svd_compressed`).

Whatever the random projection was, u' X v' is the diagonal matrix of the singular values found, and u and v are
orthonormal. Uniform random numbers have a mean of 1/2, so that the largest singular value is close to size / 2.

    python examples/svd_compressed.py --size 10000 --chunk 2000 --rank 5
"""

import argparse
import sys
import time

import dask
import dask.array as da
import numpy as np

import wukong

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--size", type=int, default=10_000, help="rows and columns of the matrix")
parser.add_argument("--chunk", type=int, default=2_000, help="rows and columns of a chunk")
parser.add_argument("--rank", type=int, default=5, help="how many singular values")
parser.add_argument("--faas", help="FaaS backend: a plug-in's name or a URL; else as configured")
parser.add_argument("--storage", help="intermediate store: a plug-in's name or a URL; else as configured")
args = parser.parse_args()

X = da.random.default_rng(seed=1).random((args.size, args.size), chunks=(args.chunk, args.chunk))
u, s, v = da.linalg.svd_compressed(X, k=args.rank, seed=2)

with wukong.Client(faas=args.faas, storage=args.storage) as client:
    start = time.perf_counter()
    u, s, v = dask.compute(u, s, v)
    seconds = time.perf_counter() - start
    summary = client.last_job.summary()

identity = np.eye(args.rank)
if not np.allclose(u.T @ u, identity, atol=1e-8) or not np.allclose(v @ v.T, identity, atol=1e-8):
    sys.exit("wrong answer: the singular vectors are not orthonormal")
projected = u.T @ (X @ v.T).compute(scheduler="threads")
if not np.allclose(projected, np.diag(s), atol=1e-8 * s[0]):
    sys.exit("wrong answer: u' X v' is not the diagonal matrix of the singular values")
if abs(s[0] - args.size / 2) > 0.05 * args.size / 2:
    sys.exit(f"wrong answer: the largest singular value is {s[0]}, far from {args.size / 2}")
print(f"{args.rank} singular values of {args.size} x {args.size} in {X.npartitions} chunks: {seconds:.2f} s")
print(f"singular values {np.array2string(s, precision=3)}")
print(summary)
