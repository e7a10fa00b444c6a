"""Bytecode beside the sources, made once. Also a script, for other interpreters: needs nothing but Python.

    python bytecode.py FOLDER PLACE

By default, bytecode contains the modification time of its source. In a package all times are the same, so it would not
match, and functions cannot write new bytecode: every cold start would compile everything. Unchecked hash-based bytecode
is always taken. `PLACE` is the folder's later path, for tracebacks.
"""

from __future__ import annotations

import py_compile
import shutil
import subprocess
import sys
from pathlib import Path


def compile_folder(folder: Path, place: str) -> int:
    """Compile every source below `folder`, in order; return how many fail (templates, sources for other Pythons)."""
    failed = 0
    for source in sorted(folder.rglob("*.py")):
        where = f"{place}/{source.relative_to(folder).as_posix()}"
        try:
            py_compile.compile(
                str(source), dfile=where, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
            )
        except (py_compile.PyCompileError, UnicodeDecodeError):
            failed += 1
    return failed


def interpreter(python: str) -> str | None:
    """Return an interpreter of this minor version, ``"3.13"`` say; None if none runs here."""
    candidates = [sys.executable, shutil.which(f"python{python}"), _of_uv(python)]
    return next((each for each in candidates if each is not None and _version(each) == python), None)


def _of_uv(python: str) -> str | None:
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    try:
        found = subprocess.run(
            [uv, "python", "find", "--no-python-downloads", python], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return found.stdout.strip() or None


def _version(path: str) -> str:
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.run([path, "-I", "-c", program], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


if __name__ == "__main__":
    compile_folder(Path(sys.argv[1]), sys.argv[2])
