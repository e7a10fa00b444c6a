"""The deployment key that survives a client: one for each user and store, for nobody else's eyes."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import wukong
from wukong import cli
from wukong.client import kept_key as module
from wukong.client.kept_key import kept_key, place_of
from wukong.config import Settings
from wukong.errors import ConfigError, JobError

REDIS = "redis://one:6379,two:6379"


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "wukong" / "keys"


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command; return its exit code and what it said, on stdout and on stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def key_of(storage: Any, **settings: Any) -> str | None:
    return kept_key(Settings.load(storage=storage, **settings))


def test_there_is_one_key_for_each_store_in_files_of_ones_own(data: Path) -> None:
    key = key_of(REDIS)
    assert key is not None and len(key) > 32
    assert key_of("redis://user:secret@two:6379,one:6379/") == key, "it is the same store"
    assert key_of({"name": "redis", "endpoints": ["one:6379", "two:6379"], "timeout_s": 5}) == key
    assert key_of("redis://one:6379") != key
    assert key_of({"name": "redis", "url": REDIS, "db": 1}) != key
    assert len(list(data.iterdir())) == 3
    assert {path.stat().st_mode & 0o777 for path in data.iterdir()} == {0o600}
    assert data.stat().st_mode & 0o777 == data.parent.stat().st_mode & 0o777 == 0o700
    assert not any("secret" in path.read_text() for path in data.iterdir())


def test_no_key_is_kept_for_a_store_that_ends_with_its_client(data: Path, tmp_path: Path) -> None:
    assert key_of("local") is None
    assert not data.exists()
    at_path = {"name": "local", "path": str(tmp_path / "store")}
    assert key_of({**at_path, "adopt": True}) == key_of(at_path) is not None


def test_clients_that_start_at_once_have_one_key() -> None:
    settings = Settings.load(storage=REDIS)
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: kept_key(settings), range(64)))) == 1


@pytest.mark.parametrize("where", ["", "read-only", "a file"])
def test_without_a_folder_for_it_the_key_is_a_random_one_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    monkeypatch.setattr(module, "_told", set())
    monkeypatch.delenv("XDG_DATA_HOME")
    if where == "":
        monkeypatch.setenv("HOME", "")
    else:
        home = "/proc" if where == "read-only" else tmp_path / "file"
        (tmp_path / "file").touch()
        monkeypatch.setenv("HOME", str(home))
    with caplog.at_level(logging.WARNING):
        assert key_of(REDIS) is None
        assert key_of(REDIS) is None
    [record] = caplog.records
    assert "no deployment key can be kept" in record.message


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(lambda path: path.chmod(0o640), "other users can read"), (lambda path: path.write_text("\n"), "no key in")],
)
def test_a_file_that_is_no_secret_or_no_key_is_an_error(
    data: Path, spoil: Callable[[Path], Any], said: str, command: Callable[..., tuple[int, str, str]]
) -> None:
    key = key_of(REDIS)
    [path] = data.iterdir()
    spoil(path)
    with pytest.raises(ConfigError, match=said):
        key_of(REDIS)
    code, out, _ = command("key", "rotate", "--storage", REDIS)
    assert (code, out.strip()) == (0, key_of(REDIS)) and out.strip() != key


def test_the_command_shows_the_key_and_makes_a_new_one(
    data: Path, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, key, where = command("key", "show", "--storage", REDIS)
    assert (code, key.strip()) == (0, key_of(REDIS))
    assert str(data) in where
    assert json.loads(command("key", "show", "--storage", REDIS, "--json")[1])["key"] == key.strip()
    code, new, _ = command("key", "rotate", "--storage", REDIS)
    assert (code, new.strip()) == (0, key_of(REDIS)) and new != key
    code, _, error = command("key", "show")
    assert code == 1 and "--storage" in error
    monkeypatch.setenv("WUKONG_KEY", "mine")
    assert command("key", "show", "--storage", REDIS)[1] == "mine\n"
    assert "WUKONG_KEY" in command("key", "rotate", "--storage", REDIS)[2]


def test_a_client_of_the_same_user_and_store_takes_a_job_over_and_one_with_another_key_is_told(
    redis_url: str, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    go = tmp_path / "go"
    script = f"""
import os, sys, threading, wukong
sys.path.insert(0, {str(Path(__file__).parent)!r})
from waiting import wait, wait_for
client = wukong.Client(storage={redis_url!r}, progress=False, heartbeat_s=0.1)
threading.Thread(target=client.get, args=({{"a": (wait_for, {str(go)!r}, 41)}}, ["a"]), daemon=True).start()
wait(lambda: client.last_job is not None and client.last_job._invoked)
print(client.last_job.id, flush=True)
sys.stdin.read()
"""
    given = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], **given) as process:
        assert process.stdout is not None
        job = process.stdout.readline().strip()
        process.kill()
    with wukong.Client(storage=redis_url, progress=False, key="another") as stranger:
        with pytest.raises(JobError, match="another deployment key") as raised:
            stranger.attach(job)
        assert raised.value.hint is not None and "wukong key show" in raised.value.hint
    go.touch()
    with wukong.Client(storage=redis_url, progress=False, heartbeat_s=0.1) as client:
        assert client.attach(job).result(timeout=100) == [41]


def test_keys_are_kept_among_a_users_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    place = place_of(Settings.load(storage=REDIS))
    assert place is not None
    assert os.fspath(place[1]).startswith("/home/somebody/.local/share/wukong/keys/")
