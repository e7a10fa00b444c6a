"""Values that are kept beyond their jobs: who takes them, and that nobody does if code or inputs have changed."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
from dask import delayed
from dask._task_spec import Task

import wukong
from wukong import cli
from wukong.client.keeping import Keep, beyond
from wukong.config import Settings
from wukong.core import packages
from wukong.core.codec import names_in
from wukong.core.digest import Digests, Teller
from wukong.core.ingest import ingest
from wukong.core.kept import KeepOrder, KeptAbout
from wukong.core.shelves import FileShelf
from wukong.errors import ConfigError, StoreError


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shelf")


@pytest.fixture(scope="module")
def client(shelf: Path) -> Iterator[wukong.Client]:
    with wukong.Client(progress=False, keep_in=str(shelf)) as client:
        yield client


@pytest.fixture
def runs(tmp_path: Path) -> Callable[[], int]:
    """How often a task has noted that it ran since this was called last; it notes that in `$RUNS`."""
    seen = 0

    def new() -> int:
        nonlocal seen
        before, seen = seen, len(list(tmp_path.glob("run-*")))
        return seen - before

    return new


def module(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, name: str = "kept_program") -> ModuleType:
    """Return a program's module, made of this text; what it defines travels by value, as that of a script does."""
    made = ModuleType(name)
    note = "def note():\n    open(f'{NOTES}/run-{uuid.uuid4().hex}', 'w').close()\n"
    source = f"import os, uuid\nNOTES = {str(tmp_path)!r}\n{note}{text}"
    exec(compile(source, f"{name}.py", "exec"), made.__dict__)
    monkeypatch.setitem(sys.modules, name, made)
    return made


PROGRAM = """
from typing import NamedTuple
FACTOR = 2
class Pair(NamedTuple):
    a: int
    b: int
    def least(self): return min(self)
class Box(dict):
    def least(self): return min(self.values())
HELD = {"pair": Pair(0, 9), "box": Box(pair=Pair(0, 9))}
def helper(x): return x * FACTOR + 0
def work(x, y=1):
    note()
    return helper(x) + y + HELD["pair"].least() + HELD["box"].least().a
"""


def kept(client: wukong.Client, func: Any, *args: Any, **kwargs: Any) -> Any:
    return client.compute(delayed(func)(*args, **kwargs), sync=True, keep="test")


def test_what_was_computed_is_taken_also_by_another_client(
    client: wukong.Client, shelf: Path, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = module(tmp_path, PROGRAM, monkeypatch)
    assert kept(client, program.work, 4) == 9 and runs() == 1
    assert kept(client, program.work, 4) == 9 and runs() == 0
    assert client.compute(delayed(program.work)(4), keep="test").result(60) == 9 and runs() == 0
    again = module(tmp_path, "\n\n" + PROGRAM, monkeypatch)  # the same, further down in its file
    with wukong.Client(progress=False, keep_in=str(shelf)) as other:
        assert kept(other, again.work, 4) == 9 and runs() == 0
    assert client.compute(delayed(program.work)(4), sync=True) == 9 and runs() == 1  # nobody said keep
    assert client.compute(delayed(program.work)(4), sync=True, keep="another") == 9 and runs() == 1


CHANGES = {
    "the code": PROGRAM.replace("+ y", "- y"),
    "a function that it calls": PROGRAM.replace("x * FACTOR", "x - FACTOR"),
    "a global variable": PROGRAM.replace("FACTOR = 2", "FACTOR = 3"),
    "a default": PROGRAM.replace("y=1", "y=2"),
    "a method of a named tuple": PROGRAM.replace("min(self)", "max(self)"),
    "a method of a kind of dict": PROGRAM.replace("min(self.values())", "Pair(7, 7)"),
    "an item of a kind of dict": PROGRAM.replace("Box(pair=Pair(0", "Box(pair=Pair(2"),
    "a constant": PROGRAM.replace("FACTOR + 0", "FACTOR + 5"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_taken_if_code_has_changed(
    client: wukong.Client, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    kept(client, module(tmp_path, PROGRAM, monkeypatch).work, 5)
    assert runs() == 1
    changed = module(tmp_path, CHANGES[change], monkeypatch)
    assert kept(client, changed.work, 5) == changed.work(5) and runs() == 2  # one of them here
    assert kept(client, changed.work, 5) == kept(client, changed.work, 5) and runs() == 0


def test_nothing_is_taken_if_inputs_have_changed(
    client: wukong.Client, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = module(tmp_path, f"{PROGRAM}def told(x):\n    note()\n    return repr(x)\n", monkeypatch)
    small, large = np.arange(3), np.arange(20_000)
    arrays = (small, small + 1, small.astype(float), large, np.append(large, 1))
    values = (*arrays, [1], (1,), 1, 1.0, True, {1}, frozenset({1}))
    for ran in (len(values), 0):
        assert [kept(client, program.told, value) for value in values] == [repr(value) for value in values]
        assert runs() == ran
    kept(client, program.work, small), kept(client, program.work, large)
    assert runs() == 2
    np.testing.assert_array_equal(kept(client, program.work, np.arange(3)), [1, 3, 5])
    np.testing.assert_array_equal(kept(client, program.work, np.arange(20_000)), large * 2 + 1)
    assert runs() == 0
    above = delayed(program.work)(delayed(program.work)(1))
    assert client.compute(above, sync=True, keep="test") == 7 and runs() == 2
    other = delayed(program.work)(delayed(program.work)(1, y=0))  # what is above it is another one
    assert client.compute(other, sync=True, keep="test") == 5 and runs() == 2


def test_a_module_of_the_users_and_what_it_imports_are_code_too(
    client: wukong.Client, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    note = f"    open(os.path.join({str(tmp_path)!r}, f'run-{{uuid.uuid4().hex}}'), 'w').close()\n"
    (tmp_path / "kept_above.py").write_text(
        f"import os, uuid\ndef work(x):\n{note}    import kept_below\n    return kept_below.add(x)\n"
    )
    below = tmp_path / "kept_below.py"
    below.write_text("def add(x):\n    return x + 1\n")
    above = importlib.import_module("kept_above")
    try:
        assert kept(client, above.work, 1) == 2 and kept(client, above.work, 1) == 2 and runs() == 1
        below.write_text("def add(x):\n    return x + 10\n")
        assert kept(client, above.work, 1) == 11 and runs() == 1
    finally:
        sys.modules.pop("kept_above"), sys.modules.pop("kept_below", None)


def test_annotated_tasks_are_kept_and_only_what_is_not_there_runs(
    client: wukong.Client, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = module(tmp_path, PROGRAM, monkeypatch)
    with dask.annotate(keep="middle"):
        middle = [delayed(program.work)(delayed(program.work)(n)) for n in (10, 20)]
    assert delayed(sum)(middle).compute() == 43 + 83 and runs() == 4
    assert delayed(max)(middle).compute() == 83 and [each.compute() for each in middle] == [43, 83] and runs() == 0
    with dask.annotate(keep=True):
        array = da.ones((4, 4), chunks=2).map_blocks(program.work, dtype=float)
    with dask.config.set({"optimization.fuse.active": False}):  # Dask's own low-level fusion forgets annotations
        np.testing.assert_array_equal(array.compute(), np.full((4, 4), 3.0))
        runs()
        assert (array + 1).sum().compute() == 64 and runs() == 0
    np.testing.assert_array_equal(client.compute(array, sync=True, keep="whole"), np.full((4, 4), 3.0))
    assert runs() == 4 and client.compute(array, sync=True, keep="whole").sum() == 48 and runs() == 0


def test_a_job_that_failed_goes_on_from_what_it_has_kept(
    client: wukong.Client, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = module(tmp_path, PROGRAM, monkeypatch)
    bad = module(tmp_path, "def end(values):\n    raise LookupError(sum(values))\n", monkeypatch, "kept_end")
    good = module(tmp_path, "def end(values):\n    return sum(values)\n", monkeypatch, "kept_end")
    with dask.annotate(keep="stages"):
        stages = [delayed(program.work)(n) for n in (50, 51)]
    with pytest.raises(LookupError):
        client.compute(delayed(bad.end)(stages), sync=True)
    assert runs() == 2
    assert client.compute(delayed(good.end)(stages), sync=True) == 204 and runs() == 0


def test_equal_calls_have_a_value_each(client: wukong.Client) -> None:
    draws = [delayed(os.urandom, pure=False)(8) for _ in range(3)]
    first = client.compute(draws, sync=True, keep="draws")
    assert len(set(first)) == 3 and sorted(client.compute(draws, sync=True, keep="draws")) == sorted(first)


def test_with_collected_failures_what_there_is_is_kept(
    client: wukong.Client, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = module(tmp_path, PROGRAM + "def bad(x):\n    note()\n    raise LookupError(x)\n", monkeypatch)
    items = [delayed(program.work)(7), delayed(program.bad)(7)]
    for ran in (2, 1):
        got = client.compute(items, sync=True, on_error="collect", keep="partly")
        assert got.results[0] == 15 and not got.whole and runs() == ran


def test_what_cannot_be_told_from_others_is_not_kept_and_that_is_said(
    client: wukong.Client, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd:
        def __dask_tokenize__(self) -> Any:
            raise RuntimeError("who knows")

    client.compute(delayed(lambda odd: 1)(Odd(), dask_key_name="odd"), sync=True, keep="test")
    assert "the value of odd is neither kept nor taken" in caplog.text
    with pytest.raises(ConfigError, match="a name of letters"):
        client.compute(delayed(1), sync=True, keep="a/b")


@pytest.mark.parametrize("how", ["raise", "collect", "futures"])
def test_values_that_are_lost_are_computed_again(
    client: wukong.Client, shelf: Path, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    program = module(tmp_path, PROGRAM, monkeypatch)
    name, several = f"lost-{how}", [delayed(program.work)(n) for n in range(6)]
    values = [2 * n + 1 for n in range(6)]

    def computed() -> Any:
        if how == "futures":
            return client.gather(client.compute(several, keep=name))
        found = client.compute(several, sync=True, keep=name, on_error=how)
        return found.result() if how == "collect" else found

    assert computed() == values and runs() == 6
    for path in (shelf / "kept" / name).glob("*"):
        if path.suffix != ".about":
            path.unlink()
    assert computed() == values and runs() == 6
    assert computed() == values and runs() == 0


def test_a_client_with_another_key_keeps_values_of_its_own(
    client: wukong.Client, shelf: Path, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = module(tmp_path, PROGRAM, monkeypatch)
    assert kept(client, program.work, 40) == 81 and runs() == 1
    with wukong.Client(progress=False, keep_in=str(shelf), key="another") as other:
        assert kept(other, program.work, 40) == 81 and runs() == 1
        assert kept(other, program.work, 40) == kept(client, program.work, 40) == 81 and runs() == 0


def test_limits_are_kept_and_the_oldest_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings.load(keep_bytes=100, keep_s=1_000)
    abouts = [KeptAbout("a", str(i), "k", 40, 0.0, 2e9 + i) for i in range(3)] + [
        KeptAbout("b", "x", "k", 90, 0.0, 1.0)
    ]
    assert [about.digest for about in beyond(abouts, settings, {"a"})] == ["0", "x"]
    assert [about.digest for about in beyond(abouts, settings, {"b"})] == ["x"]
    with wukong.Client(progress=False, keep_in=str(tmp_path), keep_value_bytes=1_000) as client:
        client.compute(delayed(bytes)(5_000), sync=True, keep="large")
        assert client.compute(delayed(bytes)(50), sync=True, keep="large") == bytes(50)
    assert len(list(tmp_path.glob("kept/large/*.about"))) == 1


def written(shelf: FileShelf, name: str, digest: str, at: float) -> bytes:
    """Write a value that says it is of this time; return its place."""
    place = KeepOrder(name, digest, "k", None, 0, 0.0).place
    shelf.write(place, b"value", KeptAbout(name, digest, "k", 5, 0.0, at).pack(), 0.0)
    return place


def test_what_is_too_old_goes_under_all_names_and_so_does_what_was_left_behind(tmp_path: Path) -> None:
    shelf, folder = FileShelf(str(tmp_path)), tmp_path / "kept" / "others"
    written(shelf, "others", "old", 1.0)
    new = written(shelf, "others", "new", 2e9)
    for left in ("value", "value.about.1f.new", "young"):
        (folder / left).write_bytes(b"half")
        if left != "young":
            os.utime(folder / left, (1.0, 1.0))
    Keep(Settings.load(keep_bytes=1), lambda: shelf).evict({"mine"})
    assert {path.name for path in folder.iterdir()} == {"new", "new.about", "young"}
    assert shelf.value(new) == b"value"


def test_what_a_file_system_raises_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shelf = FileShelf(str(tmp_path / "file"))
    for fails in (
        lambda: shelf.write(b"kept/a/x", b"", b"", 0.0),
        lambda: shelf.value(b"kept/a/x"),
        lambda: shelf.abouts([b"kept/a/x"]),
        lambda: shelf.drop([b"kept/a/x"]),
    ):
        with pytest.raises(StoreError, match=r"what is kept in .*file' cannot be read or written") as raised:
            fails()
        assert raised.value.hint is not None and "keep_in" in raised.value.hint
    shelf = FileShelf(str(tmp_path / "folder"))
    assert shelf.value(b"kept/a/x") is None and shelf.abouts([b"kept/a/x"]) == [None] and shelf.places() == []
    place = tmp_path / "folder" / written(shelf, "a", "old", 1.0).decode()
    place.unlink()
    place.mkdir()  # which cannot be deleted as a file
    Keep(Settings.load(), lambda: shelf).evict({"a"})
    assert place.is_dir()


def test_a_place_in_which_nothing_can_be_kept_is_refused_before_the_job(
    client: wukong.Client, shelf: Path, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = module(tmp_path, PROGRAM, monkeypatch)
    assert kept(client, program.work, 60) == 121 and runs() == 1
    (tmp_path / "file").touch()
    with wukong.Client(progress=False, keep_in=str(tmp_path / "file" / "x")) as other:
        for outcome in (kept, lambda *call: other.compute(delayed(program.work)(61), keep="test").result(60)):
            with pytest.raises(ConfigError, match="file' is no folder") as raised:
                outcome(other, program.work, 61)
            assert "keep_in" in str(raised.value)
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(ConfigError, match="you may not write to"):
        kept(client, program.work, 61)
    assert kept(client, program.work, 60) == 121 and runs() == 0, "what is there is taken from a folder that one reads"


def test_a_full_disk_leaves_no_half_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shelf = FileShelf(str(tmp_path))
    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StoreError, match="No space left") as raised:
        written(shelf, "a", "x", 1.0)
    assert "room" in str(raised.value) and not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_the_command_names_what_is_kept_and_drops_all_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        code, (out, err) = cli.main(["kept", *arguments]), capsys.readouterr()
        return out if code == 0 else err

    monkeypatch.setenv("WUKONG_KEEP_IN", str(tmp_path / "shelf"))
    assert said("list") == "nothing is kept here\n"
    written(FileShelf(str(tmp_path / "shelf")), "features", "x", 2e9)
    (tmp_path / "shelf" / "kept" / "features" / "y.1f.new").touch()
    assert "features" in said("list", "features")
    for action in ("list", "drop"):
        assert said(action, "feature") == "nothing is kept under 'feature'; did you mean 'features'? valid: features\n"
    assert said("drop", "--all") == "dropped 1 value, 5 bytes, and 1 file that killed functions have left\n"
    assert [*tmp_path.rglob("*")] == [tmp_path / "shelf"]  # and no empty folders
    (tmp_path / "file").touch()
    monkeypatch.setenv("WUKONG_KEEP_IN", str(tmp_path / "file"))
    assert "file' is no folder" in said("list") and "file' is no folder" in said("drop", "features")


@pytest.mark.parametrize("root", ["{}", "memory:/{}"])
def test_names_of_folders_are_no_patterns(tmp_path: Path, root: str) -> None:
    shelf = FileShelf(root.format(tmp_path / "a[bc]*" / "d?"))
    places = [written(shelf, "a", digest, 1.0) for digest in ("x", "y")]
    assert shelf.places() == places and shelf.value(places[0]) == b"value"
    assert None not in shelf.abouts(places) and shelf.abouts([b"kept/a/z"]) == [None]
    shelf.drop(places)
    assert shelf.places() == [] and shelf.abouts(places) == [None, None]


def test_it_is_kept_in_a_store_that_outlives_the_client(
    redis_url: str, runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = module(tmp_path, PROGRAM, monkeypatch)
    for ran in (1, 0):
        with wukong.Client(storage=redis_url, progress=False) as client:
            assert kept(client, program.work, 4) == 9 and runs() == ran
    assert cli.main(["clean", "--storage", redis_url]) == 0
    capsys.readouterr()
    assert cli.main(["kept", "list", "--storage", redis_url]) == 0
    assert "test" in capsys.readouterr().out
    assert cli.main(["kept", "drop", "test", "--storage", redis_url]) == 0
    assert "dropped 1 value" in capsys.readouterr().out
    with wukong.Client(storage=redis_url, progress=False) as client:
        assert kept(client, program.work, 4) == 9 and runs() == 1
    assert cli.main(["kept", "drop", "--all", "--storage", redis_url]) == 0


DIGESTS = """
import sys, functools, abc, enum, collections, dataclasses, typing
sys.path.insert(0, {root!r})
from wukong.core.digest import Teller
K = {{"b": 1, "a": {{2, 3}}}}
def g(x): return x in {{"a", "b", "c"}} and K
class C:
    n = 1
    def m(self): return g(self.n)
    @property
    def p(self): return 2
    @functools.cached_property
    def q(self): return 3
class P(typing.NamedTuple):
    x: int
class E(enum.Enum):
    a = P(1)
class A(abc.ABC):
    __slots__ = ("s",)
    def __init__(self): self.s = collections.defaultdict(P, a={{"x", "y"}})
class S(set): pass
@dataclasses.dataclass
class D:
    e: E
    f: list = dataclasses.field(default_factory=lambda: [S("abc"), A()])
def f(x, y={{1, "z"}}):
    def inner(z): return g(z), f, C().m(), [C for _ in x]
    return inner
print(Teller().of((f, C, functools.partial(g, 1), f(1), lambda q: q + 1, {{"x": frozenset("abc")}}, D(E.a))))
"""


def test_the_versions_of_all_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import LinearRegression  # here, for it takes a second in every process that runs tests

    held = SimpleNamespace(func=np.mean)  # which Dask tells from others by what it is called
    values = [np.mean, np.add, np.dot, np.float64(1), np.random.default_rng(1).normal, LinearRegression().fit, da.sum]

    def told() -> list[str]:
        graph = ingest({"held": Task("held", repr, held)}, ["held"])
        return [*(Teller().of(value) for value in values), Digests(graph, names_in).of(0)]

    before = told()
    assert before == told() and len({*before}) == len(before)
    assert packages.requirements("sklearn.linear_model") == (f"scikit-learn=={version('scikit-learn')}",)
    assert packages.requirements("os") == packages.requirements("no_such_module") == ()
    monkeypatch.setattr(packages, "requirements", lambda module: (f"{module}==0",))
    assert not {*before} & {*told()}


def test_digests_are_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "digests.py").write_text(DIGESTS.format(root=str(Path(wukong.__file__).parents[1])))
    said = {
        subprocess.check_output(
            [sys.executable, "digests.py"], cwd=tmp_path, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        for seed in ("1", "2")
    }
    assert len(said) == 1
