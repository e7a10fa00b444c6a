"""Search parameters of a forest, and cross-validate it, with scikit-learn on top of joblib.

scikit-learn knows nothing of Wukong: each fit is a call of joblib's, and the training data are stored once. The forests
grow their trees in threads of their functions. Needs scikit-learn and joblib.

    python examples/scikit_learn_search.py --samples 5000 --folds 5
"""

import argparse
import sys
import time

import joblib
import numpy as np
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score

import wukong
import wukong.integrations.joblib

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--samples", type=int, default=5_000, help="samples to fit and validate on")
parser.add_argument("--folds", type=int, default=5, help="folds of the cross-validation")
parser.add_argument("--trees", type=int, default=40, help="trees of a forest")
parser.add_argument("--faas", help="FaaS backend: a plug-in's name or a URL; else as configured")
parser.add_argument("--storage", help="intermediate store: a plug-in's name or a URL; else as configured")
args = parser.parse_args()

X, y = make_classification(n_samples=args.samples, n_features=20, random_state=0)
forest = RandomForestClassifier(n_estimators=args.trees, random_state=0, n_jobs=2)
grid = {"max_depth": [2, 8], "min_samples_leaf": [1, 10]}

with wukong.Client(faas=args.faas, storage=args.storage) as client, joblib.parallel_config("wukong", client=client):
    start = time.perf_counter()
    search = GridSearchCV(forest, grid, cv=args.folds, refit=False).fit(X, y)
    best = forest.set_params(**search.best_params_)
    scores = cross_val_score(best, X, y, cv=args.folds)
    seconds = time.perf_counter() - start
    cost = client.cost()

with joblib.parallel_config("sequential"):
    expected = cross_val_score(best, X, y, cv=args.folds)
if not np.allclose(scores, expected) or not np.isclose(search.best_score_, scores.mean()):
    sys.exit(f"wrong answer: scores {scores}, best {search.best_score_}; scikit-learn alone finds {expected}")
print(f"{len(search.cv_results_['params']) * args.folds} fits, then {args.folds} more, in {seconds:.2f} s")
print(f"best: {search.best_params_}, {search.best_score_:.1%} right")
print(cost)
