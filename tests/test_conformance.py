"""The conformance suites can fail: stores and FaaS backends that break one promise each are caught, every one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conformance_mutations import PLUGINS, STORES

from wukong.testing.faas import FaaSTests
from wukong.testing.storage import StoreTests
from wukong.testing.suite import refuse_overrides

sys.path += [str(path) for path in PLUGINS.values()]
from conformance_backends import BACKENDS

STORE_SUITE = """
import json
import os
import pytest
import time
from importlib import import_module
from hypothesis import Phase, settings
from wukong.testing.storage import StoreTests
from wukong.testing.storage.base import end_early

os.environ["WUKONG_MUTANT_PASSWORD"] = "of the client"
settings.register_profile("to fail is enough", phases=[Phase.generate])  # nobody reads the smallest example
settings.load_profile("to fail is enough")
CAUGHT_BY = json.loads({caught_by!r})

class TestMutants(StoreTests):
    timeout_s = {timeout_s}

    @pytest.fixture(autouse=True)
    def _open(self, tmp_path, mutant):
        self.path, self.module = tmp_path / "store.sqlite", import_module(mutant)
        self.module.SqliteStore.is_away, self.module.SqliteStore.n_lives = False, 1
        end_early(type(self))  # it is another mutant's

    def make_store(self):
        return self.module.SqliteStore(str(self.path))

    def make_unreachable_store(self):
        return self.module.SqliteStore(str(self.path / "no" / "folder"))

    def restart_server(self):
        self.module.SqliteStore.is_away, self.module.SqliteStore.n_lives = True, 2
        time.sleep(0.1)
        self.module.SqliteStore.is_away = False

def pytest_generate_tests(metafunc):
    metafunc.parametrize("mutant", [m for m, tests in CAUGHT_BY.items() if metafunc.function.__name__ in tests])
"""
FAAS_SUITE = """
import conformance_backends
import json
import pytest
from wukong.testing.faas import FaaSTests

CAUGHT_BY = json.loads({caught_by!r})

class TestMutants(FaaSTests):
    timeout_s = 1.0

    @pytest.fixture(autouse=True)
    def _choose(self, mutant):
        self.mutant = conformance_backends.BACKENDS[mutant][0]

    def make_faas(self, function):
        return self.mutant(function=function, slots=2, payload_bytes=100_000)

    def make_limited_faas(self, function):
        return self.mutant(function=function, slots=2, time_s=0.5)

    def make_unreachable_faas(self, function):
        return self.mutant(function=function, slots=2)

def pytest_generate_tests(metafunc):
    metafunc.parametrize("mutant", [m for m, tests in CAUGHT_BY.items() if metafunc.function.__name__ in tests])
"""
RUN = """
import json, sys, pytest
class Recorder:
    failed = []
    def pytest_runtest_logreport(self, report):
        if report.failed:
            name, _, parameters = report.nodeid.rpartition("::")[2].partition("[")
            self.failed.append([name, parameters])
recorder = Recorder()
pytest.main(["test_mutants.py", "-q", "-p", "no:cacheprovider", "--tb=no", "--assert=plain"], plugins=[recorder])
open("failed.json", "w").write(json.dumps(recorder.failed))
"""


def names_of(suite):
    return {name for name in dir(suite) if name.startswith("test_")}


def failed(folder, suite, caught_by):
    """Run the tests that should see something, and return which have failed with which mutant.

    What has passed runs once more, and is given more time: on a busy machine a race may go well, and what was never
    woken may have ended by itself before it was looked at often enough.
    """
    found = ran(folder, suite, caught_by, 2.0)
    passed = {mutant: sorted(survivors(tests, mutant, found)) for mutant, tests in caught_by.items()}
    again = {mutant: tests for mutant, tests in passed.items() if tests}
    return found + ran(folder, suite, again, 20.0) if again else found


def ran(folder, suite, caught_by, timeout_s):
    (folder / "test_mutants.py").write_text(suite.format(caught_by=json.dumps(caught_by), timeout_s=timeout_s))
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "failed.json").unlink(missing_ok=True)
    path = [Path(__file__).parent, *PLUGINS.values()]
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (folder / "failed.json").exists(), done.stdout + done.stderr
    return json.loads((folder / "failed.json").read_text())


def survivors(tests, mutant, found):
    """The tests that this mutant has passed in all their forms."""
    return {test for test in tests if not any(name == test and mutant in form for name, form in found)}


@pytest.fixture(scope="module")
def failed_with_stores(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    source = (PLUGINS["wukong-sqlite"] / "wukong_sqlite.py").read_text()
    caught_by = {}
    for n, (piece, replacement, tests) in enumerate(STORES.values()):
        assert source.count(piece) == 1, f"the example store has moved on: {piece!r}"
        mutant = source.replace(piece, replacement).replace("wukong_sqlite:", f"mutant{n:03}:")
        (folder / f"mutant{n:03}.py").write_text(mutant)
        caught_by[f"mutant{n:03}"] = sorted(tests)
    return failed(folder, STORE_SUITE, caught_by)


@pytest.fixture(scope="module")
def failed_with_backends(tmp_path_factory):
    caught_by = {name: sorted(tests) for name, (_, tests) in BACKENDS.items()}
    return failed(tmp_path_factory.mktemp("backends"), FAAS_SUITE, caught_by)


@pytest.mark.xdist_group("conformance of stores")
@pytest.mark.parametrize("mutation", STORES)
def test_a_store_that_breaks_a_promise_is_caught(failed_with_stores, mutation):
    mutant = f"mutant{list(STORES).index(mutation):03}"
    assert survivors(STORES[mutation][2], mutant, failed_with_stores) == set()


@pytest.mark.xdist_group("conformance of backends")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_that_breaks_a_promise_is_caught(failed_with_backends, backend):
    assert survivors(BACKENDS[backend][1], backend, failed_with_backends) == set()


def test_every_test_of_the_store_suite_catches_something():
    assert set().union(*(tests for _, _, tests in STORES.values())) == names_of(StoreTests)


def test_every_test_of_the_faas_suite_catches_something():
    assert set().union(*(tests for _, tests in BACKENDS.values())) == names_of(FaaSTests)


PARTS = [
    (StoreTests, "test_keys_are_any_bytes"),
    (StoreTests, "store"),
    (StoreTests, "key"),
    (StoreTests, "hold"),
    (StoreTests, "_in_threads"),
    (StoreTests, "_start_others"),
    (StoreTests, "_is_whole"),
    (StoreTests, "hooks"),
    (FaaSTests, "test_ids_may_be_long"),
    (FaaSTests, "directory"),
    (FaaSTests, "_opened"),
    (FaaSTests, "_wait_for"),
]


@pytest.mark.parametrize(("suite", "name"), PARTS)
def test_neither_a_test_nor_what_it_is_made_of_can_be_overridden(suite, name):
    instead = {name: lambda self, *_: None}
    with pytest.raises(TypeError, match=f"Weak overrides {name} of the suite"):
        type("Weak", (suite,), instead)
    with pytest.raises(TypeError, match=f"Sly overrides {name} of the suite"):
        type("Sly", (type("Mixin", (), instead), suite), {})
    later = type("Later", (suite,), {})
    setattr(later, name, instead[name])
    with pytest.raises(TypeError, match=f"Later overrides {name} of the suite"):
        refuse_overrides(later)


@pytest.mark.parametrize("suite", [StoreTests, FaaSTests])
def test_a_subclass_defines_hooks_and_tests_of_its_own(suite):
    mine = type("Mine", (suite,), {**dict.fromkeys(suite.hooks), "test_of_my_own": None, "setup_class": None})
    refuse_overrides(type("Still", (mine,), {"timeout_s": 1.0}))


def test_a_suite_says_what_it_lacks():
    with pytest.raises(NotImplementedError, match="Mine has to define make_store"):
        type("Mine", (StoreTests,), {})().make_store()
    with pytest.raises(NotImplementedError, match="Mine has to define make_faas"):
        type("Mine", (FaaSTests,), {})().make_faas("module:function")
