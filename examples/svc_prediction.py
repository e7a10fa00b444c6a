"""Fit a support vector classifier on a small sample, then predict for far more data than it was fitted on.

`dask_ml.wrappers.ParallelPostFit` predicts chunk by chunk. Needs scikit-learn and dask-ml.

    python examples/svc_prediction.py --samples 100000 --chunks 20
"""

import argparse
import sys
import time

import dask.array as da
import numpy as np
from dask_ml.wrappers import ParallelPostFit
from sklearn.datasets import make_classification
from sklearn.svm import SVC

import wukong

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--samples", type=int, default=100_000, help="samples to predict for")
parser.add_argument("--chunks", type=int, default=20, help="into how many chunks they are cut")
parser.add_argument("--faas", help="FaaS backend: a plug-in's name or a URL; else as configured")
parser.add_argument("--storage", help="intermediate store: a plug-in's name or a URL; else as configured")
args = parser.parse_args()

known, label = make_classification(n_samples=1_000, random_state=0)
classifier = ParallelPostFit(SVC(gamma="scale")).fit(known, label)

samples = np.random.default_rng(1).standard_normal((args.samples, known.shape[1]))
X = da.from_array(samples, chunks=(-(-args.samples // args.chunks), known.shape[1]))

with wukong.Client(faas=args.faas, storage=args.storage) as client:
    start = time.perf_counter()
    predicted = classifier.predict(X).compute()
    seconds = time.perf_counter() - start
    summary = client.last_job.summary()

expected = classifier.estimator.predict(samples)
if not np.array_equal(predicted, expected):
    sys.exit(f"wrong answer: {np.sum(predicted != expected)} of {args.samples} predictions differ from scikit-learn's")
print(f"{args.samples} samples in {X.npartitions} chunks classified in {seconds:.2f} s")
print(f"class 1: {predicted.mean():.1%}")
print(summary)
