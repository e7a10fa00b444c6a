"""The conformance suites can fail: stores and FaaS backends that break one promise each are caught, every one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conformance_mutations import STORES

from wukong.testing.faas import FaaSTests
from wukong.testing.storage import StoreTests

PLUGINS = Path(__file__).parent.parent / "examples" / "plugins"
pytestmark = pytest.mark.xdist_group("conformance")

SUITE = """
import json
import pytest
from importlib import import_module
from wukong.testing.storage import StoreTests

CAUGHT_BY = json.loads({caught_by!r})

class TestMutants(StoreTests):
    timeout_s = 3.0

    @pytest.fixture(autouse=True)
    def _open(self, tmp_path, mutant):
        self.path, self.module = tmp_path / "store.sqlite", import_module(mutant)

    def make_store(self):
        return self.module.SqliteStore(str(self.path), max_value_bytes=70_000_000)

    def make_unreachable_store(self):
        return self.module.SqliteStore(str(self.path / "no" / "folder"))

def pytest_generate_tests(metafunc):
    metafunc.parametrize("mutant", [m for m, tests in CAUGHT_BY.items() if metafunc.function.__name__ in tests])
"""
RECORDER = """
import json, sys, pytest
class Recorder:
    seen = {}
    def pytest_runtest_logreport(self, report):
        if report.failed:
            name, _, parameters = report.nodeid.partition("::")[2].partition("::")[2].partition("[")
            self.seen.setdefault(name, []).append(parameters.rstrip("]"))
recorder = Recorder()
pytest.main([sys.argv[1], "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--tb=line", "--durations=25"], plugins=[recorder])
open(sys.argv[2], "w").write(json.dumps(recorder.seen))
"""


def names_of(suite):
    return {name for name in dir(suite) if name.startswith("test_")}


@pytest.fixture(scope="module")
def failed_stores(tmp_path_factory):
    """Which tests have failed with which mutation, all in one run of pytest's."""
    folder = tmp_path_factory.mktemp("mutants")
    source = (PLUGINS / "wukong-sqlite" / "wukong_sqlite.py").read_text()
    caught_by = {}
    for n, (piece, replacement, tests) in enumerate(STORES.values()):
        assert source.count(piece) == 1, f"the example store has moved on: {piece!r}"
        text = source.replace(piece, replacement).replace("wukong_sqlite:", f"mutant{n:03}:")
        (folder / f"mutant{n:03}.py").write_text(text)
        caught_by[f"mutant{n:03}"] = sorted(tests)
    (folder / "test_mutants.py").write_text(SUITE.format(caught_by=json.dumps(caught_by)))
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-c", RECORDER, "test_mutants.py", "failed.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    print(done.stdout[-6000:])
    assert (folder / "failed.json").exists(), done.stdout + done.stderr
    return json.loads((folder / "failed.json").read_text())


@pytest.mark.parametrize("mutation", STORES)
def test_a_store_that_breaks_a_promise_is_caught(failed_stores, mutation):
    name = f"mutant{list(STORES).index(mutation):03}"
    survived = {
        test for test in STORES[mutation][2] if not any(name in each for each in failed_stores.get(test, []))
    }
    assert survived == set()


def test_every_test_of_the_store_suite_catches_something():
    assert names_of(StoreTests) - set().union(*(tests for _, _, tests in STORES.values())) == set()
    assert set().union(*(tests for _, _, tests in STORES.values())) - names_of(StoreTests) == set()
