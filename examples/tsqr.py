"""Singular value decomposition of a tall and skinny matrix (TSQR), the way `dask.array.linalg.svd` does it.

The answer is checked without another SVD: the rows of `v` are orthonormal and diagonalise the Gram matrix X'X, whose
eigenvalues are the squares of the singular values. Dask's threads compute the Gram matrix, so that the check does not
depend on Wukong.

    python examples/tsqr.py --rows 200000 --columns 1000 --chunk 10000
"""

import argparse
import sys
import time

import dask
import dask.array as da
import numpy as np

import wukong

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--rows", type=int, default=200_000)
parser.add_argument("--columns", type=int, default=1_000)
parser.add_argument("--chunk", type=int, default=10_000, help="rows in a chunk; at least as many as columns")
parser.add_argument("--faas", help="FaaS backend: a plug-in's name or a URL; else as configured")
parser.add_argument("--storage", help="intermediate store: a plug-in's name or a URL; else as configured")
args = parser.parse_args()
if args.chunk < args.columns:
    parser.error("--chunk must be at least --columns")

X = da.random.default_rng(seed=1).random((args.rows, args.columns), chunks=(args.chunk, args.columns))
u, s, v = da.linalg.svd(X)

with wukong.Client(faas=args.faas, storage=args.storage) as client:
    start = time.perf_counter()
    s, v = dask.compute(s, v)
    seconds = time.perf_counter() - start
    summary = client.last_job.summary()

gram = (X.T @ X).compute(scheduler="threads")
if not np.allclose(v @ v.T, np.eye(args.columns), atol=1e-8):
    sys.exit("wrong answer: the right singular vectors are not orthonormal")
if not np.allclose(v @ gram @ v.T, np.diag(s**2), atol=1e-8 * s[0] ** 2):
    sys.exit("wrong answer: the singular values and vectors do not diagonalise X'X")
print(f"SVD of {args.rows} x {args.columns} in {X.npartitions} chunks: {seconds:.2f} s")
print(f"largest singular values {np.array2string(s[:3], precision=3)}, smallest {s[-1]:.3f}")
print(summary)
