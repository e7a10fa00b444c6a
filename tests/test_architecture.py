"""The house rules that no linter knows: one name, one thing; a module is a room, not a hall."""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]


def public_classes(*folders):
    """Return where each public class is defined, by its name: a list of ``path:line``."""
    found = defaultdict(list)
    for path in sorted(path for folder in folders for path in folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(f"{path.relative_to(folders[0].parent)}:{node.lineno}")
    return found


def shared(found):
    return {name: places for name, places in found.items() if len(places) > 1}


def test_no_two_public_classes_have_one_name():
    found = public_classes(ROOT / "wukong", ROOT / "executor")
    assert found["Walk"], "no classes are found at all"
    assert not shared(found), "each of these names means two things: give one of them a word of its own"


def test_a_name_that_is_given_twice_is_found_in_whatever_folder_and_however_deep(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two" / "deep"
    for folder, text in (
        (one, "class Node: ...\nclass _Own: ...\n"),
        (two, "def f():\n    class Node: ...\nclass _Own: ..."),
    ):
        folder.mkdir(parents=True)
        (folder / "module.py").write_text(text)
    assert shared(public_classes(one, tmp_path / "two")) == {"Node": ["one/module.py:1", "two/deep/module.py:2"]}


def test_no_module_is_longer_than_500_lines():
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for folder in ("wukong", "executor")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert lengths["wukong/core/walk/__init__.py"], "no modules are found at all"
    assert not {path: n for path, n in lengths.items() if n > 500}, "give what these have a room of its own"


def imported_at_once(nodes):
    """Yield the modules that this code imports when it is imported itself."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and not node.level:
            yield from (name for alias in node.names for name in (f"{node.module}.{alias.name}", node.module))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.If) and not runs_at_once(node.test):
            yield from imported_at_once(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported_at_once(ast.iter_child_nodes(node))


def runs_at_once(test):
    """Return whether what stands under this condition may run when its module is imported."""
    names = {getattr(each, "id", getattr(each, "attr", None)) for each in (test, getattr(test, "left", None))}
    return not names & {"TYPE_CHECKING", "__name__"}


IMPORTS = """
import a1
try:
    from a2 import name
except ImportError:
    import a3
else:
    import a4
finally:
    import a5
class Has:
    import a6
    def method(self):
        import never
if typing.TYPE_CHECKING:
    import never
else:
    import a7
if TYPE_CHECKING:
    import never
elif TYPES:
    with open("f"):
        import a8
    for each in ():
        match each:
            case 1:
                import a9
if __name__ == "__main__":
    import never
async def function():
    import never
"""


def test_what_a_module_imports_at_once_is_found_wherever_it_stands():
    assert set(imported_at_once(ast.parse(IMPORTS).body)) == {"a2.name", *(f"a{n}" for n in range(1, 10))}


def circle(imports):
    """Return modules that import each other in a circle; None: there is none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def test_no_modules_import_each_other_in_a_circle():
    sources = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path.read_text()
        for path in (ROOT / "wukong").rglob("*.py")
    }
    imports = {
        name: {*imported_at_once(ast.parse(text).body)} & (sources.keys() - {name}) for name, text in sources.items()
    }
    # A package's `__init__` that imports its own rooms is no circle: what they take from it they take by its name.
    own = {name: {other for other in others if not name.startswith(f"{other}.")} for name, others in imports.items()}
    assert "wukong.core.walk.fan_in" in own["wukong.core.walk"]
    assert circle(own) is None
    assert circle(own | {"wukong.core.walk.fan_in": {"wukong.core.walk.leaving"}})
