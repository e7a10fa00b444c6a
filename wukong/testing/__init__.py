"""Proofs that a plug-in keeps its contract: suites for plug-in authors to run on their own backends.

`wukong.testing.storage.StoreTests` proves a store, `wukong.testing.faas.FaaSTests` a FaaS backend. They need pytest and
Hypothesis, which the rest of the package never imports.
"""
