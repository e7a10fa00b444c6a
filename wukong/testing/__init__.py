"""Proofs that a plug-in keeps its contract: suites for plug-in authors to run on their own backends.

`wukong.testing.storage.StoreTests` proves a store, `wukong.testing.faas.FaaSTests` a FaaS backend. They need pytest and
Hypothesis, which the rest of the package never imports.
"""

import sys

if "pytest" in sys.modules:  # so that a failing test of a suite shows the values it compared
    sys.modules["pytest"].register_assert_rewrite(f"{__name__}.storage", f"{__name__}.faas")
