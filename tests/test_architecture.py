"""The house rules that no linter knows: one name, one thing; a module is a room, not a hall."""

import ast
from collections import defaultdict
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
