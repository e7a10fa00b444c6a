"""The suite that proves a FaaS plug-in: subclass `FaaSTests` in a test module, say how to make one, run pytest.

    class TestMine(FaaSTests):
        def make_faas(self, function):
            return MyFaaS(function=function)

What the functions did is seen from files that they leave in a directory, not from what the plug-in says. A platform
whose functions do not see pytest's temporary directory gives a shared one by `evidence_directory`. Capabilities are
declared by the plug-in's attributes (`FaaS.limits`), and the suite reads them. These hooks are all that a subclass
says; see `wukong.testing.suite`. The rooms of this package hold a part of the contract each.
"""

from __future__ import annotations

from wukong.testing.faas.invoking import InvokingTests
from wukong.testing.faas.isolation import IsolationTests
from wukong.testing.faas.opening import OpeningTests

__all__ = ["FaaSTests"]


class FaaSTests(OpeningTests, InvokingTests, IsolationTests):
    """What every FaaS backend must do. Subclass it and define `make_faas`."""
