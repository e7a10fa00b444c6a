"""What many tests share and is dear to make, a service or an account, is made by one process: theirs are a group."""

import pytest


@pytest.mark.xdist_group("groups")
def test_a_group_of_tests_runs_in_one_process(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("loadgroup", default=False):
        pytest.skip("tests are not distributed by groups")
    assert request.node.nodeid.endswith("@groups"), "this pytest-xdist does not keep groups together with this pytest"
