"""What ``wukong doctor`` says of the configured store's servers, and of the proxy."""

import subprocess

import pytest

from wukong import cli, doctor
from wukong.backends.storage.local import LocalStore
from wukong.config import Settings
from wukong.errors import StoreUnavailable
from wukong.proxy.beside import ProxyBeside
from wukong.testing.servers import MemcachedServer, free_port


@pytest.fixture
def run(capsys):
    """Run the command here, which costs less than an interpreter."""

    def run(*arguments):
        return subprocess.CompletedProcess(arguments, cli.main(["doctor", *arguments]), *capsys.readouterr())

    return run


class Advised(LocalStore):
    """A store that says something, fails to, or has nothing to say."""

    lines: tuple[str, ...] = ()
    error: Exception | None = None

    def advice(self):
        if self.error is not None:
            raise self.error
        return self.lines


@pytest.fixture
def store():
    store = Advised()
    yield store
    store.close()


def said_of(store):
    return [(check.state, check.what, check.advice) for check in doctor._store(Settings.load(storage=store))]


def test_what_endangers_jobs_on_a_memcached_is_noted_with_what_to_do_and_the_job_runs(run):
    with MemcachedServer("-M", memory_mb=300) as good, MemcachedServer(memory_mb=64) as bad:
        done = run("--storage", f"memcached://{good.endpoint},{bad.endpoint}")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    noted = [n for n, line in enumerate(lines) if line.startswith("note    storage memcached: ")]
    assert len(noted) == 2
    assert all(f"memcached at {bad.endpoint} " in lines[n] for n in noted)
    assert lines[noted[0] + 1].startswith("        -> start it with -M")
    assert lines[noted[1] + 1].startswith("        -> give it more")
    assert lines[-1].startswith("ok      a job on faas local, storage memcached")


def test_servers_that_cannot_be_reached_fail_by_name_and_no_job_is_tried(run):
    ports = [free_port(), free_port()]
    done = run("--storage", ",".join([f"memcached://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"]))
    assert done.returncode == 1, done.stdout + done.stderr
    failed, hint = done.stdout.splitlines()[-2:]
    assert failed.startswith("failed  storage memcached: ")
    assert all(f"memcached at 127.0.0.1:{port} cannot be reached" in failed for port in ports)
    assert hint == "        -> does the server run, and may this machine reach it?"


def test_a_store_that_has_nothing_against_its_servers_says_so(store):
    assert [(state, advice) for state, _, advice in said_of(store)] == [("ok", None)]


def test_a_store_without_advice_is_not_mentioned():
    local = LocalStore()
    assert said_of(local) == []
    local.close()


def test_each_line_of_advice_is_a_note(store):
    store.lines = ("it is slow -> buy a faster one", "it is a Tuesday")
    notes = [(state, what.partition(": ")[2], advice) for state, what, advice in said_of(store)]
    assert notes == [("note", "it is slow", "buy a faster one"), ("note", "it is a Tuesday", None)]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StoreUnavailable("it is away", hint="call it"), ("it is away", "call it")),
        (StoreUnavailable("it is away"), ("it is away", "see the message")),
        (KeyError("x"), ("KeyError: 'x'", "check the store's options")),
    ],
)
def test_a_store_that_cannot_say_has_failed(store, error, expected):
    store.error = error
    ((state, what, advice),) = said_of(store)
    assert (state, what.partition(": ")[2], advice) == ("failed", *expected)


def test_a_store_that_was_open_already_is_left_open(store):
    said_of(store)
    store.put({b"a": b"1"})
    assert store.get([b"a"]) == [b"1"]


def test_a_proxy_that_is_well_says_so_and_one_that_is_not_is_a_note():
    proxy = ProxyBeside(bytes(32))
    try:
        assert doctor._proxy(proxy.address) == doctor.Check("ok", f"proxy {proxy.address}: it serves")
    finally:
        proxy.close()
    gone = doctor._proxy(proxy.address)
    assert gone.state == "note" and gone.what.startswith(f"proxy {proxy.address} does not answer: ")
    assert "refused" in gone.what
    assert "wukong proxy" in gone.advice
    assert doctor._proxy("local:8989").state == "ok"
    assert doctor._proxy("nowhere").state == "failed"
