"""The documentation is run: every ```python block of README.md and docs/*.md, in order, one process for each file.

If a ```text block follows a python block directly, it is what that block prints; `...` in it stands for anything.
An HTML comment directly before a block says otherwise:

    <!-- not run: reason -->        the block is left out, for that reason
    <!-- file: path -->             the block, of any kind, is written to that file
    <!-- shows: path -->            the block, of any kind, is what that file holds
    <!-- run -->                    a ```console block: its commands (`$ ...`) are run, and print what follows them
    <!-- run: command -->           the same, and before them this command, in the same shell
    <!-- run instead: command -->   this command is run in the block's place, where it would need a network, or hours

Pages find packages that they install in the folder `site`.
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
from wukong.backends.faas import FaaS
from wukong.backends.storage import Store

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"(?:^<!--(?P<comment>(?:(?!-->).)*)-->\s*)?"
    r"^```(?P<kind>\w+)[^\n]*\n(?P<text>.*?)^```\n(?:\n*^```text\n(?P<output>.*?)^```)?",
    re.DOTALL | re.MULTILINE,
)
# In a group, for groups begin before single tests, and a page may take a minute.
pytestmark = pytest.mark.xdist_group("docs")
_COMMAND = re.compile(r"^\$ (.*)$", re.MULTILINE)
_MARK = "=== block "


@dataclass(frozen=True)
class Block:
    """A piece of a page that does something: `program` is Python, which prints `output` unless that is None."""

    line: int
    program: str
    output: str | None


def blocks(text: str) -> list[Block]:
    found = []
    for block in _BLOCK.finditer(text):
        line = text.count("\n", 0, block.start("text")) + 1
        verb, _, argument = (block["comment"] or "").strip().partition(":")
        argument, code = argument.strip(), block["text"]
        if verb == "file":
            found.append(Block(line, f"_write_({argument!r}, {code!r})", None))
        elif verb == "shows":
            found.append(Block(line, f"_show_({argument!r})", code))
        elif verb == "run instead":
            found.append(Block(line, f"_shell_({argument!r})", None))
        elif verb == "run":
            commands = _COMMAND.findall(code)
            said = "".join(output.removeprefix("\n") for output in _COMMAND.split(code)[2::2])
            found.append(Block(line, f"_shell_({' && '.join(filter(None, [argument, *commands]))!r})", said))
        elif block["kind"] == "python" and not verb.startswith("not run"):
            # compile() with the page's own lines, so that an error's traceback points into the page
            program = f"exec(compile({line - 1} * chr(10) + {code!r}, _page_, 'exec'))"
            found.append(Block(line, program, block["output"]))
    return found


HASTENED = f"""\
import sys
sys.path.append({str(Path(__file__).parent)!r})
%s
sys.path.pop()


"""
MOTO = "from aws_descriptions import hasten_moto, share_descriptions; share_descriptions(), hasten_moto()"
HOSTS = "import warm_hosts; warm_hosts.fresh(False), warm_hosts.install()"  # a page has many clients
PRELUDE = """\
def _shell_(command):
    import subprocess
    done = subprocess.run(command, shell=True, stdin=subprocess.DEVNULL, stdout=-1, stderr=-2, encoding="utf-8")
    print(done.stdout, end="")
    if done.returncode:
        raise SystemExit(f"{_page_}: exit code {done.returncode} of\\n{command}\\n{done.stdout}")


def _write_(path, text):
    import pathlib
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(path).write_text(text, "utf-8")


def _show_(path):
    import pathlib
    print(pathlib.Path(path).read_text("utf-8"), end="")


"""


def run(page: Path, cwd: Path) -> None:
    """Run a page's blocks in one process, and hold what each prints against what the page says it does."""
    found = blocks(page.read_text("utf-8"))
    text = page.read_text("utf-8")
    hastened = "\n".join([MOTO] * ("aws_ecs" in text) + [HOSTS] * (text.count("wukong.Client(") > 1))
    program = f"_page_ = {str(page)!r}\n{HASTENED % hastened}{PRELUDE}" + "".join(
        f"print({_MARK + str(number)!r}, flush=True)\n{block.program}\n" for number, block in enumerate(found)
    )
    (cwd / "page.py").write_text(program, "utf-8")
    (cwd / "site").mkdir()
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONIOENCODING": "utf-8",
            "PYTHONPATH": str(cwd / "site"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        },
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=280,
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


PLACES = """\
<!-- file: folder/said.txt -->
```toml
one
two
```

<!-- run: cd folder -->
```console
$ cat said.txt
one
...
$ test -e instead.txt || echo "not yet"
not yet
```

<!-- run instead: touch folder/instead.txt -->
```console
$ pip install the-whole-world
```

```console
$ exit 1
```

```python
print(sorted(path.name for path in __import__("pathlib").Path("folder").iterdir()))
```

```text
['instead.txt', 'said.txt']
```
"""


def test_blocks_are_written_to_files_run_in_a_shell_or_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PLACES)
    assert [block.line for block in blocks(PLACES)] == [3, 9, 18, 26]
    run(page, tmp_path)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("two\n```", "two\n```\n<!-- run -->\n```console\n$ false\n```", r"exit code 1 of\s+false"),
        ("not yet\n```", "not any more\n```", r"page.md, line 9 prints"),
        ("touch folder/", "touch nowhere/", r"exit code 1 of\s+touch nowhere/instead.txt"),
    ],
)
def test_a_command_that_fails_or_says_something_else_fails_the_page(tmp_path, right, wrong, message):
    page = tmp_path / "page.md"
    page.write_text(PLACES.replace(right, wrong))
    with pytest.raises(AssertionError, match=message):
        run(page, tmp_path)


@pytest.mark.parametrize("contract", [FaaS, Store])
def test_the_page_for_authors_of_plugins_opens_with_every_method_of_the_contracts(contract):
    opens = (ROOT / "docs/plugins.md").read_text().partition("\n## A store\n")[0]
    methods = [name for name in vars(contract) if name[0].islower() and callable(getattr(contract, name))]
    assert [name for name in methods if f"`{name}(" not in opens] == []
