"""`wukong new-plugin` makes a package, and says why if it cannot. Those packages are tested in `test_plugins.py`."""

import re

import pytest

from wukong import cli


@pytest.fixture
def new_plugin(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder; return its exit code and all that it has said."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            code = cli.main(["new-plugin", *arguments])
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out + err

    return run


@pytest.mark.parametrize("kind", ["store", "faas"])
def test_it_makes_a_package_and_says_what_to_do_next(new_plugin, tmp_path, kind):
    code, said = new_plugin(kind, "my-cloud")
    assert code == 0
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    names = ["README.md", "pyproject.toml", "tests/test_wukong_my_cloud.py", "wukong_my_cloud.py"]
    assert files == [f"wukong-my-cloud/{name}" for name in names]
    assert all(file in said for file in files)
    assert "cd wukong-my-cloud\n" in said
    for path in files:
        assert not re.search("@[A-Z]+@", (tmp_path / path).read_text()), f"{path} has a token in it"


def test_nothing_is_overwritten(new_plugin, tmp_path):
    mine = tmp_path / "wukong-shelf" / "mine.txt"
    mine.parent.mkdir()
    assert new_plugin("store", "shelf")[0] == 0  # a folder that is empty is as good as none
    for folder in ((), ("--folder", "wukong-shelf"), ("--folder", "wukong-shelf/README.md")):
        code, said = new_plugin("store", "shelf", *folder)
        assert code == 1
        assert "is there already\n  -> choose another name, or another --folder" in said
    assert new_plugin("store", "shelf", "--folder", "else/where")[0] == 0
    assert (tmp_path / "else" / "where" / "wukong_shelf.py").exists()


NAMES = [("My_Cloud", "my-cloud"), ("wukong-shelf", "shelf"), ("a b", "a-b"), ("../up", "up"), ("3d", None)]


@pytest.mark.parametrize(("name", "meant"), NAMES)
def test_a_name_that_is_none_is_refused_with_what_was_meant(new_plugin, tmp_path, name, meant):
    code, said = new_plugin("faas", name)
    assert code == 2
    assert f"{name!r} cannot be a plug-in's name: small letters, digits and dashes" in said
    assert (f"did you mean {meant!r}?" in said) if meant else ("did you mean" not in said)
    assert not any(tmp_path.iterdir())


def test_a_name_that_an_installed_plugin_has_is_refused(new_plugin):
    code, said = new_plugin("store", "redis")
    assert code == 1
    assert "there is a store plug-in 'redis' already, of wukong-serverless" in said
    assert new_plugin("faas", "redis")[0] == 0


def test_a_folder_that_cannot_be_written_is_an_error(new_plugin):
    code, said = new_plugin("store", "shelf", "--folder", "/proc/shelf")
    assert code == 1
    assert "ConfigError: /proc/shelf cannot be written: " in said
