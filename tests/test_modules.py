"""The user's own modules are imported where tasks run: one object with one state, as new as their files."""

from __future__ import annotations

import functools
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import pytest

from wukong.core import imports, modules
from wukong.core.codec import dump_code
from wukong.core.modules import Modules
from wukong.errors import CodecError

pytestmark = pytest.mark.fresh_hosts

BACKENDS = ("local", pytest.param("aws-lambda", marks=pytest.mark.xdist_group("everywhere: aws-lambda")))
on_both = pytest.mark.parametrize("everywhere", BACKENDS, indirect=True)

FILES = {
    "beside.py": """
        import contextvars, enum, multiprocessing, pickle, threading
        from pack.register import known, register

        LOCK = threading.Lock()
        STEP = contextvars.ContextVar("STEP", default=1)

        class Color(enum.Enum):
            RED = 1

        class Only:
            def __reduce__(self):
                return "THE_ONE"

        THE_ONE = Only()

        @register
        def step(x):
            with LOCK:
                return x + STEP.get()

        class Locked:
            def run(self):
                return 1

        LOCKED = Locked()

        def check(color, only):
            assert color is Color.RED and only is THE_ONE and known == {"step": step}
            assert pickle.loads(pickle.dumps(step)) is step
            with multiprocessing.Pool(1) as pool:
                assert pool.map(step, [1]) == [2]
            return only

        def later(x):
            import imported_late
            return imported_late.text() * x
        """,
    "imported_late.py": """
        from pathlib import Path
        import pack

        def text():
            return (Path(pack.__file__).parent / "data.txt").read_text()
        """,
    "pack/__init__.py": "",
    "pack/data.txt": "some data",
    "pack/register.py": """
        known = {}

        def register(f):
            known[f.__name__] = f
            return f
        """,
}


def written(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))


def run(folder: Path, program: str) -> str:
    (folder / "program.py").write_text(textwrap.dedent(program))
    ran = subprocess.run([sys.executable, "program.py"], cwd=folder, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@on_both
def test_identity_locks_registries_and_files_of_packages_hold_inside_tasks(everywhere: str, tmp_path: Path) -> None:
    written(tmp_path, FILES)
    out = run(
        tmp_path,
        """
        import beside, wukong
        from dask import compute, delayed

        def of_main(x):
            return beside.step(x) + 100

        with wukong.Client(progress=False) as client:
            one = delayed(beside.check)(beside.Color.RED, beside.THE_ONE)
            values = compute(one, delayed(of_main)(1), delayed(beside.later)(2), scheduler=client.get)
            assert values[0] is beside.THE_ONE
            print(*values[1:])
            kept = client.scatter([beside.THE_ONE])
            print(client.submit(lambda only: type(only).__module__, kept[0]).result(60))
        """,
    )
    assert out.splitlines() == ["102 some datasome data", "beside"]


@on_both
def test_a_module_that_was_edited_is_imported_anew(everywhere: str, tmp_path: Path) -> None:
    out = run(
        tmp_path,
        """
        import importlib, sys, wukong
        from pathlib import Path

        Path("edited.py").write_text("from used_by_it import N\\ndef f():\\n    return N\\n")
        Path("used_by_it.py").write_text("N = 1\\n")
        with wukong.Client(progress=False) as client:
            import edited
            print(client.submit(edited.f, pure=False).result(60))
            Path("used_by_it.py").write_text("N = 2\\n")
            print(client.submit(edited.f, pure=False).result(60))
            Path("elsewhere").mkdir()
            Path("elsewhere/added.py").write_text("def g():\\n    return 3\\n")
            sys.path.append(str(Path("elsewhere").resolve()))
            import added
            print(client.submit(added.g).result(60))
        """,
    )
    assert out.split() == ["1", "2", "3"]


def test_bytecode_of_a_source_just_edited_is_not_trusted_by_a_process_new_to_it(tmp_path: Path) -> None:
    out = run(
        tmp_path,
        """
        import os, py_compile
        from pathlib import Path
        from wukong.core import imports
        from wukong.core.modules import Modules

        Path("pack").mkdir()
        for source in (Path("alone.py"), Path("pack/inner.py")):
            source.write_text("N = 1\\n")
            py_compile.compile(str(source))
            times = os.stat(source)
            source.write_text("N = 2\\n")
            os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
        imports.enter("job", Modules((os.getcwd(),)), bytes)
        import alone, pack.inner
        print(alone.N, pack.inner.N)
        """,
    )
    assert out.split() == ["2", "2"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    written(tmp_path, FILES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(modules, "_named", set())
    before = set(sys.modules)
    import beside  # noqa: F401

    with modules.by_value():
        pass
    modules.note({"beside"})
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_what_is_named_and_all_that_it_imports_is_shipped(project: Path) -> None:
    (project / "unrelated.py").write_text("")
    found, archive = modules.used(shared=False)
    assert archive is not None and found.digest is not None and found.built_for is None
    assert set(modules._closure()) == set(FILES)
    assert modules.used(shared=False) == (found, archive)
    (project / "imported_late.py").write_text("def text(): return 'other'\n")
    assert modules.used(shared=False)[0].digest != found.digest


def imports_inside(x: int) -> int:
    import beside

    return int(beside.step(x))


class Carried:
    """What it is made of again names a module that neither it nor its class comes from."""

    def __init__(self, made_by: Any, *args: Any) -> None:
        self.made_by, self.args = made_by, args

    def __reduce__(self) -> Any:
        return self.made_by, self.args


NAMING = {
    "a function": lambda beside: beside.step,
    "a function in a list, twice": lambda beside: [beside.step, beside.step],
    "an object by its name": lambda beside: beside.THE_ONE,
    "a member of an enum": lambda beside: {"color": beside.Color.RED},
    "what an object is made of again by": lambda beside: Carried(beside.step, 1),
    "a bound method": lambda beside: beside.LOCKED.run,
    "a function by value that has the module": lambda beside: lambda: beside.THE_ONE,
    "a function by value that imports it": lambda beside: types.FunctionType(imports_inside.__code__, {}),
    "a partial of it": lambda beside: functools.partial(print, beside.step),
}


@pytest.mark.parametrize("named", NAMING)
def test_a_pickle_that_names_a_module_is_seen_to(project: Path, named: str) -> None:
    import beside

    modules._named.clear()
    dump_code(NAMING[named](beside))
    assert "beside" in modules._named


def test_a_text_that_is_the_name_of_a_module_does_not_name_it(project: Path) -> None:
    modules._named.clear()
    dump_code(["beside", {"beside": types.SimpleNamespace(beside="beside")}])
    assert not modules._named


def test_sources_that_are_too_large_are_an_error_that_names_the_package(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules, "MOST_BYTES", 2_000)
    (project / "pack" / "data.txt").write_text("x" * 2_000)
    with pytest.raises(CodecError, match=r"most of them pack \(2,\d+ bytes\); the limit is 2,000"):
        modules.used(shared=False)


def test_an_invocation_that_ends_before_it_imports_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_before", frozenset())
    monkeypatch.setattr(imports, "_stamps", {})
    monkeypatch.setattr(imports, "_n_modules", 0)
    imports.leave()
    assert imports._stamps == {}


def test_compiled_modules_for_another_platform_are_an_error() -> None:
    with pytest.raises(CodecError, match="are for cpython-27 on os2, the function runs"):
        imports.enter("job", Modules(digest="d", built_for="cpython-27 on os2"), lambda: b"")
