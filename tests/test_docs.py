"""The documentation is run: every ```python block of README.md and docs/*.md, in order, one process for each file.

Where a ```text block follows a python block directly, it is what that block prints; `...` in it stands for anything.
An HTML comment that begins with "not run" before a block leaves the block out, and gives the reason.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from doctest import ELLIPSIS, OutputChecker
from pathlib import Path

import pytest

from wukong import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"^```python[^\n]*\n(?P<code>.*?)^```\n(?:\n*^```text\n(?P<output>.*?)^```)?", re.DOTALL | re.MULTILINE
)
_NOT_RUN = re.compile(r"<!--\s*not run.*?-->\s*\Z", re.DOTALL)
_MARK = "=== block "


@dataclass(frozen=True)
class Block:
    line: int
    code: str
    output: str | None


def blocks(text: str) -> list[Block]:
    return [
        Block(text.count("\n", 0, found.start("code")) + 1, found["code"], found["output"])
        for found in _BLOCK.finditer(text)
        if not _NOT_RUN.search(text[: found.start()])
    ]


def run(page: Path, cwd: Path) -> None:
    """Run a page's blocks in one process, and hold what each prints against what the page says it does."""
    found = blocks(page.read_text("utf-8"))
    program = "".join(
        # compile() with the page's own lines, so that an error's traceback points into the page
        f"print({_MARK + str(number)!r}, flush=True)\n"
        f"exec(compile({chr(10) * (block.line - 1) + block.code!r}, {str(page)!r}, 'exec'))\n"
        for number, block in enumerate(found)
    )
    (cwd / "page.py").write_text(program, "utf-8")
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=cwd,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=110,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = re.split(rf"^{re.escape(_MARK)}\d+\n", done.stdout, flags=re.MULTILINE)[1:]
    for block, got in zip(found, printed, strict=True):
        if block.output is not None:
            matched = OutputChecker().check_output(block.output, got, ELLIPSIS)
            assert matched, f"{page.name}, line {block.line} prints\n{got}\nand not\n{block.output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_is_what_happens(page, tmp_path):
    run(page, tmp_path)


def test_the_readme_shows_an_example_that_is_run():
    assert blocks((ROOT / "README.md").read_text("utf-8"))


def test_every_command_is_documented():
    text = "".join(page.read_text("utf-8") for page in PAGES)
    [commands] = [each.choices for each in cli.parser()._actions if each.dest == "==SUPPRESS==" and each.choices]
    assert [name for name in commands if f"wukong {name}" not in text] == []


PAGE = """\
```python
x = 1
print("one", x)
```

```text
one 1
```
<!-- not run: it needs an account -->
```python
raise SystemExit(3)
```
```python
print(x + 1)
```
"""


def test_blocks_run_in_order_and_share_their_names(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert [block.line for block in blocks(PAGE)] == [2, 14]
    run(page, tmp_path)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [("one 1", "two 2", r"page.md, line 2 prints"), ("print(x + 1)", "print(y)", r'page.md", line 14')],
)
def test_a_page_that_is_wrong_fails_at_its_line(tmp_path, right, wrong, message):
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace(right, wrong))
    with pytest.raises(AssertionError, match=message):
        run(page, tmp_path)
