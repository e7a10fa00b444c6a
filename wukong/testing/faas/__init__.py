"""The suite that proves a FaaS plug-in: subclass `FaaSTests` in a test module, say how to make one, run pytest.

    class TestMine(FaaSTests):
        def make_faas(self, function):
            return MyFaaS(function=function)

The suite sees what functions did from files that they leave in a directory, not from what the plug-in says. If a
platform's functions do not see pytest's temporary directory, name a shared one by `evidence_directory`. The plug-in's
attributes declare its capabilities (`FaaS.limits`), and the suite reads them. A subclass defines hooks and nothing
else; see `wukong.testing.suite`. Each module of this package holds a part of the contract.
"""

from __future__ import annotations

from wukong.testing.faas.invoking import InvokingTests
from wukong.testing.faas.isolation import IsolationTests
from wukong.testing.faas.opening import FaaSOpeningTests

__all__ = ["FaaSTests"]


class FaaSTests(FaaSOpeningTests, InvokingTests, IsolationTests):
    """What every FaaS backend must do. Subclass it and define `make_faas`."""
