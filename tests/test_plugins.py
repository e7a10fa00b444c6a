"""Plug-ins are installed here as third parties' packages are, and used from processes that find them on their path."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from wukong.backends import loading, plugins
from wukong.backends.faas import FaaS
from wukong.backends.spec import PluginSpec
from wukong.errors import ConfigError, PluginError, StoreUnavailable
from wukong.new_plugin import write

EXAMPLES = Path(__file__).parent.parent / "examples" / "plugins"
pytestmark = pytest.mark.xdist_group("plugins")  # one process installs the packages, once


def uv(*arguments: str) -> None:
    command = [sys.executable, "-m", "uv", *arguments, "--quiet", "--no-cache", "--python", sys.executable]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def install(target: Path, *projects: Path) -> Path:
    """Install packages, or their wheels, into the folder `target`, as pip install --target does."""
    uv("pip", "install", "--no-deps", "--no-build-isolation", "--target", str(target), *map(str, projects))
    return target


def wheel(folder: Path, project: Path) -> Path:
    """Build a package by its own pyproject.toml and return the wheel."""
    uv("build", "--wheel", "--no-build-isolation", "--out-dir", str(folder), str(project))
    [built] = folder.glob(f"{project.name.replace('-', '_')}-*.whl")
    return built


def project(folder: Path, name: str, entry_points: dict[str, dict[str, str]], code: str = "") -> Path:
    """Write a package of one module and its entry points, and return where it is."""
    folder.mkdir()
    module = name.replace("-", "_")
    tables = "".join(
        f'[project.entry-points."{group}"]\n' + "".join(f'{key} = "{value}"\n' for key, value in names.items())
        for group, names in entry_points.items()
    )
    (folder / f"{module}.py").write_text(textwrap.dedent(code))
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        f'[project]\nname = "{name}"\nversion = "9.8"\n{tables}'
        f'[tool.hatch.build.targets.wheel]\ninclude = ["{module}.py"]\n'
    )
    return folder


@pytest.fixture(scope="module")
def examples(tmp_path_factory) -> Path:
    """The two example plug-ins, built and installed."""
    dist = tmp_path_factory.mktemp("dist")
    wheels = [wheel(dist, EXAMPLES / name) for name in ("wukong-sqlite", "wukong-threads")]
    return install(tmp_path_factory.mktemp("examples"), *wheels)


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory) -> Path:
    """Plug-ins with everything wrong that can be, installed."""
    folder = tmp_path_factory.mktemp("projects")
    broken = project(
        folder / "a",
        "broken-plugin",
        {"wukong.storage": {"broken": "broken_plugin:BrokenStore", "asserting": "broken_plugin.nowhere:Store"}},
        "import a_client_library_that_is_not_there",
    )
    wrong = project(
        folder / "b",
        "wrong-plugin",
        {
            "wukong.storage": {
                "wrong": "wrong_plugin:NotAStore",
                "function": "wrong_plugin:make",
                "partial": "wrong_plugin:Partial",
                "failing": "wrong_plugin:Failing",
                "stopping": "wrong_plugin:Stopping",
                "newer": "wrong_plugin:Newer",
                "older": "wrong_plugin:Older",
            },
            "wukong.faas": {"wrong": "wrong_plugin:Partial"},
        },
        """
        from wukong.backends.storage import Store
        from wukong.errors import StoreUnavailable

        class NotAStore:
            pass

        def make():
            return NotAStore()

        class Partial(Store):
            def get(self, keys): ...
            def put(self, items, ttl_s=None): ...

        class Whole(Partial):
            def delete(self, keys): ...
            def wait(self, key, timeout_s): ...
            def incr(self, arrivals, ttl_s=None): ...
            def spec(self): ...

        class Failing(Whole):
            def __init__(self, port: int = 1):
                raise RuntimeError("no such port")

        class Stopping(Whole):
            def __init__(self):
                raise StoreUnavailable("nobody answers")

        class Newer(Whole):
            CONTRACT = 99

        class Older(Newer):
            CONTRACT = 0
        """,
    )
    twin = project(folder / "c", "twin-plugin", {"wukong.storage": {"wrong": "twin_plugin:Other"}})
    asserting = project(
        folder / "d", "asserting-plugin", {"wukong.faas": {"asserting": "asserting_plugin:A"}}, "assert 0"
    )
    exiting = project(
        folder / "e", "exiting-plugin", {"wukong.faas": {"exiting": "exiting_plugin:A"}}, "raise SystemExit(0)"
    )
    target = tmp_path_factory.mktemp("mistaken")
    install(target, broken, wrong, asserting, exiting)
    install(target / "twin", twin)
    return target


def run(code: str, *path: Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new process that finds what is installed in the folders `path`."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), **environment},
        capture_output=True,
        text=True,
        timeout=280,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def answer(code: str, *path: Path, **environment: str):
    """Run code in a new process and return what it gives to `answer`."""
    prelude = "import json\ndef answer(value): print(json.dumps(value))\n"
    done = run(prelude + textwrap.dedent(code), *path, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def mistake(load: str, *path: Path) -> dict[str, str]:
    """Run one `load_...` call that must fail, and return the error in parts."""
    return answer(
        f"""
        from wukong.backends.plugins import load_faas, load_storage
        from wukong.errors import WukongError
        try:
            {load}
        except WukongError as error:
            answer({{"type": type(error).__name__, "text": str(error), "cause": type(error.__cause__).__name__}})
        """,
        *path,
    )


class OpenFaaS(FaaS):
    def __init__(self, slots: int = 1, *, region: str | None = None, tags: list[str] | None = None) -> None:
        self.options = {"slots": slots, "region": region, "tags": tags}

    def invoke(self, invocations):
        raise NotImplementedError

    def spec(self):
        return PluginSpec("nowhere:OpenFaaS")


@pytest.fixture
def open_faas(monkeypatch) -> type[OpenFaaS]:
    """OpenFaaS as the plug-in ``open``, beside those that are installed."""
    from importlib.metadata import EntryPoint, entry_points

    added = EntryPoint("open", f"{__name__}:OpenFaaS", "wukong.faas")
    monkeypatch.setattr(loading, "entry_points", lambda group: [*entry_points(group=group), added])
    return sys.modules[__name__].OpenFaaS


def test_a_plugin_for_another_version_of_the_contract_is_refused_with_what_changed(mistaken):
    newer = mistake('load_storage("newer")', mistaken)["text"]
    assert "'newer' (wrong_plugin:Newer, from wrong-plugin 9.8) was written for version 99 of the contract" in newer
    assert "-> pip install --upgrade wukong-serverless" in newer
    changes = '__import__("wukong.backends.loading").backends.loading._CHANGES["storage", 1] = "wait takes seconds"'
    older = mistake(f"{changes}; load_storage('older')", mistaken)["text"]
    assert "was written for version 0 of the contract, and this Wukong has 1: wait takes seconds" in older


def test_a_third_partys_store_is_found_by_name_and_works(examples, tmp_path):
    assert answer(
        f"""
        from wukong.backends.plugins import load_storage
        from wukong.backends.storage import Arrival
        store = load_storage({{"name": "sqlite", "path": {str(tmp_path / "s.sqlite")!r}}}, {{"poll_s": 0.001}})
        store.put({{b"a": b"", b"b": (b"1", b"2")}})
        first, second = store.incr([Arrival(b"r", (m,), 2, b"me", value=b"%d" % m) for m in (0, 1)])
        again = store.spec().open().incr([Arrival(b"r", (1,), 2, b"me")])[0]
        answer([
            [None if value is None else value.decode() for value in store.get([b"a", b"b", b"c"])],
            first.claimed, second.claimed, again.claimed, sorted(value.decode() for value in again.values),
        ])
        """,
        examples,
    ) == [["", "12", None], False, True, True, ["0", "1"]]


@pytest.mark.long
@pytest.mark.parametrize("package", ["wukong-sqlite", "wukong-threads"])
def test_an_example_plugin_passes_its_own_tests_from_its_wheel(examples, package, tmp_path):
    arguments = [str(EXAMPLES / package / "tests"), "-q", "-p", "no:cacheprovider"]
    command = f"import sys, pytest; sys.exit(pytest.main({arguments!r}))"
    done = run(command, examples, cwd=tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("kind", ["store", "faas"])
def test_a_new_plugin_passes_the_whole_suite(tmp_path, kind):
    write(kind, "mine", tmp_path / "mine")
    target = install(tmp_path / "site", tmp_path / "mine")
    command = "import sys, pytest; sys.exit(pytest.main(['mine', '-q', '-p', 'no:cacheprovider']))"
    done = run(command, target, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_new_plugin_of_any_name_installs_and_passes(tmp_path):
    """The page for authors, which `test_docs.py` runs, has what is quick in the suites pass."""
    folders = [tmp_path / "store", tmp_path / "faas"]
    write("store", "my-cloud-2", folders[0])
    write("faas", "my-functions", folders[1])
    target = install(tmp_path / "site", *folders)
    arguments = ["-q", "-p", "no:cacheprovider", "-k", "plain_data", *map(str, folders)]
    command = f"""
        import sys, pytest
        from wukong.backends.plugins import installed
        told = [(each.distribution, each.target, each.cause) for each in installed("storage") + installed("faas")]
        assert ("wukong-my-cloud-2 0.1.0", "wukong_my_cloud_2:MyCloud2Store", None) in told, told
        assert ("wukong-my-functions 0.1.0", "wukong_my_functions:MyFunctionsFaaS", None) in told, told
        sys.exit(pytest.main({arguments!r}))
    """
    done = run(command, target, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_third_party_plugins_of_both_families_run_a_job_together(examples, tmp_path):
    done = run(
        f"""
        import dask, dask.array as da, sqlite3, wukong
        where = {str(tmp_path / "s.sqlite")!r}
        with wukong.Client(
            faas={{"name": "threads", "slots": 2}}, storage={{"name": "sqlite", "path": where}}, patience_s=0.0
        ) as client:
            print(dask.delayed(sum)([dask.delayed(pow)(n, 2) for n in range(5)]).compute())
            x = da.arange(40_000, chunks=4_000).reshape(200, 200)
            print((x @ x.T).trace().compute(), client.gather(client.map(lambda n: n + 1, range(3))))
        with sqlite3.connect(where) as store:
            for table in ("entry", "fanin", "member"):
                print(store.execute(f"select count(*) from {{table}}").fetchone())
        """,
        examples,
    )
    expected = f"30\n{sum(n * n for n in range(40_000))} [1, 2, 3]\n" + 3 * "(0,)\n"
    assert (done.returncode, done.stdout) == (0, expected), done.stderr


def test_the_command_lists_third_party_plugins_beside_the_built_in_ones(examples):
    done = run("import sys; from wukong.cli import main; sys.exit(main(['plugins']))", examples)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["storage", "sqlite", "wukong-sqlite", "1.2.0", "1", "wukong_sqlite:SqliteStore", "ok"] in rows
    assert ["faas", "threads", "wukong-threads", "0.3.1", "1", "wukong_threads:ThreadsFaaS", "ok"] in rows
    assert [row[:2] for row in rows if row[1] == "local"] == [["faas", "local"], ["storage", "local"]]


def test_a_url_chooses_the_plugin_by_its_scheme(examples):
    error = mistake('load_storage("sqlite:///values")', examples)
    assert error["type"] == "PluginError"
    assert "'sqlite' takes no URL" in error["text"]
    assert "valid: max_value_bytes, path, poll_s" in error["text"]


def test_installed_lists_every_plugin_with_where_it_is_from_and_what_ails_it(examples, mistaken):
    rows = answer(
        """
        from dataclasses import astuple
        from wukong.backends.plugins import installed
        answer([astuple(plugin) for family in ("faas", "storage") for plugin in installed(family)])
        """,
        examples,
        mistaken,
    )
    by_name = {(family, name): rest for family, name, *rest in rows}
    assert by_name["storage", "sqlite"] == ["wukong-sqlite 1.2.0", "wukong_sqlite:SqliteStore", None, None, 1]
    assert by_name["faas", "threads"] == ["wukong-threads 0.3.1", "wukong_threads:ThreadsFaaS", None, None, 1]
    distribution, target, cause, _, contract = by_name["storage", "broken"]
    assert (distribution, target, contract) == ("broken-plugin 9.8", "broken_plugin:BrokenStore", None)
    assert cause == "ModuleNotFoundError: No module named 'a_client_library_that_is_not_there'"
    assert "AssertionError" in by_name["faas", "asserting"][2]
    assert "SystemExit" in by_name["faas", "exiting"][2]


def test_a_plugin_that_is_not_asked_for_is_not_imported(examples, mistaken):
    assert answer(
        """
        import sys
        from wukong.backends.plugins import load_faas
        load_faas("threads")
        answer([module for module in ("wukong_sqlite", "wrong_plugin", "wukong_threads") if module in sys.modules])
        """,
        examples,
        mistaken,
    ) == ["wukong_threads"]


def test_a_name_that_is_not_installed_lists_the_right_ones_and_the_nearest(examples):
    error = mistake('load_storage("sqllite")', examples)
    assert error["type"] == "PluginError"
    assert "no storage plug-in is called 'sqllite'" in error["text"]
    assert "did you mean 'sqlite'? valid: " in error["text"]
    assert " local, " in error["text"]


def test_a_broken_import_names_the_plugin_its_distribution_its_target_and_the_cause(mistaken):
    error = mistake('load_storage("broken")', mistaken)
    assert (error["type"], error["cause"]) == ("PluginError", "ModuleNotFoundError")
    for part in ("'broken'", "broken-plugin 9.8", "broken_plugin:BrokenStore", "a_client_library_that_is_not_there"):
        assert part in error["text"]


@pytest.mark.parametrize(("name", "cause"), [("asserting", "AssertionError"), ("exiting", "SystemExit")])
def test_a_plugin_that_stops_in_an_unusual_way_while_imported_is_named(mistaken, name, cause):
    error = mistake(f'load_faas("{name}")', mistaken)
    assert (error["type"], error["cause"]) == ("PluginError", cause)
    assert f"{name}-plugin 9.8" in error["text"]


@pytest.mark.parametrize("load", ['load_storage("function")', 'load_faas("wrong")'])
def test_what_is_no_subclass_of_the_contract_is_refused_by_name(mistaken, load):
    error = mistake(load, mistaken)
    assert error["type"] == "PluginError"
    assert "from wrong-plugin 9.8) is not a subclass of wukong.backends." in error["text"]


def test_a_store_that_lacks_methods_is_refused_with_their_names(mistaken):
    error = mistake('load_storage("partial")', mistaken)
    assert (error["type"], error["cause"]) == ("PluginError", "NoneType")
    assert "lacks delete, incr, spec, wait" in error["text"]


def test_a_name_that_two_distributions_claim_is_refused_naming_both(mistaken):
    error = mistake('load_storage("wrong")', mistaken, mistaken / "twin")
    assert error["type"] == "PluginError"
    assert "twin-plugin 9.8 (twin_plugin:Other) and wrong-plugin 9.8 (wrong_plugin:NotAStore)" in error["text"]


def test_one_distribution_that_is_on_the_path_twice_claims_its_name_once(examples, tmp_path):
    twice = install(tmp_path / "twice", EXAMPLES / "wukong-threads")
    code = 'from wukong.backends.plugins import load_faas; answer(type(load_faas("threads")).__name__)'
    assert answer(code, examples, twice) == "ThreadsFaaS"


def test_a_constructor_that_raises_is_reported_with_its_plugin_and_cause(mistaken):
    error = mistake('load_storage({"name": "failing", "port": 7})', mistaken)
    assert (error["type"], error["cause"]) == ("PluginError", "RuntimeError")
    assert "'failing'" in error["text"]
    assert "no such port" in error["text"]


def test_an_error_of_wukongs_own_passes_through_a_constructor_as_it_is(mistaken):
    assert mistake('load_storage("stopping")', mistaken)["type"] == StoreUnavailable.__name__


def test_a_plugin_that_was_reinstalled_under_another_name_is_found_at_once(examples, tmp_path):
    """Stevedore's list of entry points on disk would go on saying the old name, for a minute and more."""
    store = tmp_path / "store"
    entry_points = {"wukong.storage": {"before": "wukong_sqlite:SqliteStore"}}
    target = install(tmp_path / "target", project(store, "renamed-plugin", entry_points))
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    warm = """
        from stevedore import ExtensionManager, _cache
        _cache._c._disable_caching = False
        answer("before" in ExtensionManager("wukong.storage").entry_points_names())
    """
    assert answer(warm, target, examples, **environment)
    [listing] = target.glob("*.dist-info/entry_points.txt")
    stamp = listing.stat()
    listing.write_text(listing.read_text().replace("before", "after"))
    os.utime(listing, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    code = f"""
        from wukong.backends.plugins import load_storage
        answer(type(load_storage({{"name": "after", "path": {str(tmp_path / "s.sqlite")!r}}})).__name__)
    """
    assert answer(code, target, examples, **environment) == "SqliteStore"


def test_a_plugin_that_is_installed_while_python_runs_is_found(examples):
    assert (
        answer(
            f"""
        import sys
        from wukong.backends.plugins import load_faas
        from wukong.errors import PluginError
        try:
            load_faas("threads")
        except PluginError:
            sys.path.append({str(examples)!r})
            answer(type(load_faas("threads")).__name__)
        """
        )
        == "ThreadsFaaS"
    )


def test_an_open_backend_is_used_as_it_is():
    backend = OpenFaaS(slots=3)
    assert plugins.load_faas(backend) is backend
    with pytest.raises(PluginError, match="open already"):
        plugins.load_faas(backend, {"slots": 4})


@pytest.mark.parametrize("spec", [OpenFaaS, 3, None])
def test_what_is_neither_a_choice_nor_a_backend_is_refused(spec):
    with pytest.raises(PluginError, match="is not a faas backend"):
        plugins.load_faas(spec)


@pytest.mark.parametrize("spec", ["", "://host", {}, {"slots": 1}, {"name": 4}])
def test_a_choice_without_a_name_is_refused(spec):
    with pytest.raises(ConfigError, match="names no plug-in"):
        plugins.load_faas(spec)


def test_options_of_a_mapping_and_beside_it_reach_the_plugin_the_latter_on_top(open_faas):
    backend = plugins.load_faas({"name": "open", "slots": 3, "region": "north"}, {"region": "south", "tags": ["a"]})
    assert backend.options == {"slots": 3, "region": "south", "tags": ["a"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slot": 3}, r"'open' has no option 'slot'\n.*did you mean 'slots'\? valid: region, slots, tags"),
        ({"url": "open://x"}, r"'open' takes no URL\n.*valid: region, slots, tags"),
        ({"slots": "three"}, "'slots' of the faas plug-in 'open' must be a whole number, not 'three'"),
        ({"slots": True}, "must be a whole number, not true"),
        ({"region": 3}, "'region' of the faas plug-in 'open' must be text or null, not 3"),
        ({"tags": [1]}, r"'tags' of the faas plug-in 'open' must be a list, each item text, or null, not \[1\]"),
    ],
)
def test_an_option_that_is_unknown_or_ill_typed_names_itself(open_faas, options, message):
    with pytest.raises(PluginError, match=message):
        plugins.load_faas({"name": "open", **options})


def test_a_required_option_that_is_not_given_is_named(examples):
    assert "the storage plug-in 'sqlite' needs 'path'" in mistake('load_storage("sqlite")', examples)["text"]


def test_wukong_that_is_not_installed_is_said_so(monkeypatch):
    monkeypatch.setattr(loading, "entry_points", lambda group: [])
    with pytest.raises(PluginError, match="not even Wukong's own"):
        plugins.load_faas("local")


def test_importing_wukong_imports_neither_stevedore_nor_a_backend():
    modules = ("stevedore", "lmdb", "boto3", "redis", "wukong.backends.faas.local", "wukong.backends.storage.local")
    code = f"import sys, wukong; answer([name for name in {modules!r} if name in sys.modules])"
    assert answer(code) == []


def test_the_built_in_plugins_load():
    for family in plugins.FAMILIES:
        assert [(plugin.name, plugin.cause) for plugin in plugins.installed(family) if plugin.name == "local"] == [
            ("local", None)
        ]
