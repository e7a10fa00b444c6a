"""``wukong new-plugin``: a package with a plug-in that works and passes its conformance suite, to start from.

The files are in the folders `store` and `faas` beside this module, with placeholders such as ``@NAME@``.
"""

from __future__ import annotations

import argparse
import re
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.resources import files
from pathlib import Path

from wukong.command import AddCommand, tell
from wukong.errors import ConfigError

__all__ = ["add_to", "write"]

_TEXT = """\
Make a package with a plug-in that works, and that passes Wukong's conformance suite: a store in a folder, or a FaaS
backend of processes. Replace its parts by yours, and run the suite in between. Nothing is overwritten.

  wukong new-plugin store shelf      the folder wukong-shelf, for storage={"name": "shelf", ...}
  wukong new-plugin faas popen       the folder wukong-popen, for faas="popen"
"""
_KINDS = {"store": ("wukong.storage", "Store"), "faas": ("wukong.faas", "FaaS")}
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_FILES = {
    "pyproject.toml": "the package; users choose the plug-in by the name of its entry point",
    "@MODULE@.py": "the plug-in",
    "tests/test_@MODULE@.py": "the conformance suite, and tests of your own",
    "README.md": "what users read",
}


def add_to(command: AddCommand) -> None:
    """Add the command to the parser of the command line."""
    added = command("new-plugin", _run, _TEXT, "make a package with a plug-in, to be made yours")
    added.add_argument("kind", choices=sorted(_KINDS, reverse=True), help="what the plug-in is")
    added.add_argument("name", metavar="NAME", type=_name, help="what users choose it by, such as my-cloud")
    added.add_argument("--folder", type=Path, metavar="PATH", help="where to make it (default: wukong-NAME)")


def write(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the package of a plug-in into a folder, which is new or empty; return its files.

    Raises `ConfigError` if the folder is not empty or cannot be written, or if an installed plug-in has this name.
    """
    group, suffix = _KINDS[kind]
    if claims := [each for each in entry_points(group=group) if each.name == name]:
        owner = claims[0].dist.name if claims[0].dist else claims[0].value
        hint = f"choose another name, or uninstall {owner}"
        raise ConfigError(f"there is a {kind} plug-in {name!r} already, of {owner}", hint=hint)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already", hint="choose another name, or another --folder")
    module = f"wukong_{name.replace('-', '_')}"
    words = "".join(part.capitalize() for part in name.split("-"))
    stem = words[: -len(suffix)] if words.lower().endswith(suffix.lower()) else words
    replaced = {
        "@NAME@": name,
        "@PACKAGE@": f"wukong-{name}",
        "@MODULE@": module,
        "@CLASS@": f"{stem}{suffix}",
        "@VERSION@": _version(),
    }

    def filled(text: str) -> str:
        for token, value in replaced.items():
            text = text.replace(token, value)
        return text

    written = []
    try:
        for path in _FILES:
            file = folder / filled(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            source = Path(path).name.replace("test_@MODULE@", "test").replace("@MODULE@", "module")
            file.write_text(filled((files(__name__) / kind / f"{source}.txt").read_text("utf-8")), "utf-8")
            written.append(file)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from error
    return written


def _run(arguments: argparse.Namespace) -> int:
    folder: Path = arguments.folder or Path(f"wukong-{arguments.name}")
    written = write(arguments.kind, arguments.name, folder)
    width = max(len(str(file)) for file in written)
    tell(*(f"{file!s:{width}}  {what}" for file, what in zip(written, _FILES.values(), strict=True)))
    tell("", "It works. To install it, and to have the suite prove it:", "")
    tell(f"  cd {folder}", "  pip install -e '.[test]'", "  python -m pytest -q")
    return 0


def _name(text: str) -> str:
    if _NAME.fullmatch(text) and not text.startswith("wukong-"):
        return text
    meant = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-").removeprefix("wukong-")
    perhaps = f"; did you mean {meant!r}?" if _NAME.fullmatch(meant) else ""
    raise argparse.ArgumentTypeError(
        f"{text!r} cannot be a plug-in's name: small letters, digits and dashes, and not 'wukong-', with which the "
        f"name of the package begins{perhaps}"
    )


def _version() -> str:
    try:
        return version("wukong-serverless")
    except PackageNotFoundError:  # Wukong runs from a folder that is not installed
        return "0"
