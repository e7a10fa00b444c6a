"""What programs written for `distributed` call: it is here, or the error says by its name why it is not."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait, wait_for

import wukong
from wukong.errors import BackendError, JobCancelled, NotOffered
from wukong.not_here import METHODS, NAMES

INNER = {"loop", "normalize_collection", "start", "sync"}
"""What only its own parts call."""


@pytest.fixture(scope="module")
def client() -> Iterator[wukong.Client]:
    with wukong.Client(progress=False) as client:
        yield client


def test_each_method_of_a_client_of_distributed_is_here_or_has_a_reason() -> None:
    import distributed  # here, for it takes a while in every process that runs tests

    theirs = {name for name, _ in inspect.getmembers(distributed.Client) if not name.startswith("_")}
    ours = set(dir(wukong.Client)) | METHODS.keys() | INNER
    assert not theirs - ours, "say in wukong/not_here.py why each of these is not here, and what is instead"
    assert not METHODS.keys() & set(dir(wukong.Client)), "these are here after all"


def test_what_is_not_here_says_so_by_name_and_what_there_is_instead(client: wukong.Client) -> None:
    import distributed

    with pytest.raises(NotOffered, match=r"(?s)'run'.*nothing runs between two jobs"):
        client.run(print)
    with pytest.raises(NotOffered, match=r"(?s)'scheduler_info'.*there is no scheduler"):
        client.scheduler_info()
    assert not hasattr(client, "upload_file")  # libraries ask in this way
    with pytest.raises(NotOffered, match=r"(?s)'Queue'.*as_completed"):
        wukong.Queue
    assert all(hasattr(distributed, name) or name in ("Pub", "Sub") for name in NAMES)
    for missing in (lambda: client.nothing_like_it, lambda: wukong.nothing_like_it):
        with pytest.raises(AttributeError, match="nothing_like_it") as caught:
            missing()
        assert not isinstance(caught.value, NotOffered)


def test_versions_of_both_sides_are_told(client: wukong.Client) -> None:
    found = client.get_versions(check=True, packages=["numpy", "no_such_module"])
    assert found["client"]["packages"] == found["function"]["packages"] and found["differences"] == []
    assert found["function"]["missing"] == ["no_such_module"]


def test_differences_of_versions_are_an_error_if_wanted(client: wukong.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wukong.client.versions.differences", lambda here, there: iter(["dask is 1 there and 2 here"]))
    assert client.get_versions()["differences"] == ["dask is 1 there and 2 here"]
    with pytest.raises(BackendError, match="do not fit: dask is 1 there"):
        client.get_versions(check=True)


def test_futures_know_their_client_and_are_found(client: wukong.Client) -> None:
    one, two = client.submit(abs, -1, pure=False), client.submit(abs, -2, pure=False)
    assert client.futures_of({"all": [one, (two,)]}) == [one, two] and one.client is client
    never = client.submit(wait_for, "/nowhere", 1, pure=False)
    never.cancel()
    with pytest.raises(JobCancelled):
        client.futures_of([never])


def test_what_is_fired_and_forgotten_is_done(
    client: wukong.Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate = client.submit(wait_for, str(tmp_path / "go"), tmp_path / "done", pure=False)
    wukong.fire_and_forget([client.submit(Path.touch, gate, pure=False)])
    del gate
    (tmp_path / "go").touch()
    wait((tmp_path / "done").exists)
    with caplog.at_level(logging.WARNING, "wukong"):
        wukong.fire_and_forget(client.submit(divmod, 1, 0, pure=False))
        wait(lambda: "that nobody waits for has failed" in caplog.text)
