"""Answers of executor servers: those that end with their invocations, over TLS, and when the server's insides die."""

import json
import os
import signal
import ssl
import threading
from contextlib import closing
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from certificates import make_certificates
from http_tools import CONFORM, KEY, ExecutorServers, serving, url

from wukong.backends.faas import Invocation, Limits
from wukong.backends.faas.http import HttpFaaS
from wukong.errors import BackendError, Throttled
from wukong.testing.faas import FaaSTests
from wukong.testing.faas_functions import found, payload


@pytest.fixture(scope="module")
def running():
    with serving(places=2, queue=4) as one:
        yield one


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("WUKONG_DEPLOYMENT_KEY", KEY)


def await_that(seen, what):
    return FaaSTests()._wait(seen, what)


def test_an_answer_that_ends_with_its_invocation_says_how_that_ended(running, tmp_path):
    with closing(HttpFaaS(url=url(running), wait=True)) as backend:
        backend.invoke([Invocation("job/fine", payload(tmp_path, "fine"))])
        backend.invoke([Invocation("job/bad", payload(tmp_path, "bad", then={"raise": "on purpose"}))])
        [failure] = await_that(backend.failures, "it is told that one has failed")
        assert (failure.invocation, failure.reason) == ("job/bad", "error")
        assert "on purpose" in failure.detail
        assert backend.failures() == []


def test_what_a_server_says_of_its_places_is_not_undone_by_an_answer_that_was_overtaken(running):
    with closing(HttpFaaS(url=url(running), direct=True)) as backend:
        [endpoint] = backend._endpoints

        def hear(**told):
            endpoint.understood(202, HTTPMessage(), json.dumps(told).encode())
            return endpoint.free()

        earlier, later = running.told(), running.told()
        assert hear(**later | {"free": 1}) == 1
        assert hear(**earlier | {"free": 2}) == 1
        assert hear(**earlier | {"server": "one in its place", "free": 2}) == 2


def test_an_answer_that_breaks_off_is_a_failure_and_a_server_that_ends_well_breaks_none_off(tmp_path):
    waiting = FaaSTests()._waiters(tmp_path, ["a"])
    with ExecutorServers(1, "--places", "2", "--function", CONFORM) as servers:
        with closing(HttpFaaS(url=servers.urls[0], wait=True)) as backend:
            backend.invoke(waiting)
            await_that(lambda: found(tmp_path), "it runs")
            servers.signal(0, signal.SIGTERM)
            FaaSTests()._release(tmp_path, ["a"])
            assert servers.wait(0) == 0
            assert not FaaSTests()._settled(backend.failures)
        (tmp_path / ".go").unlink()
        servers.start(0)
        with closing(HttpFaaS(url=servers.urls[0], wait=True)) as backend:
            backend.invoke(FaaSTests()._waiters(tmp_path, ["b"]))
            await_that(lambda: "b" in found(tmp_path), "it runs")
            servers.signal(0)
            [failure] = await_that(backend.failures, "it is noticed that nobody answers any more")
            assert (failure.invocation, failure.reason) == ("job/b", "crash")


def test_if_the_parent_of_all_processes_dies_what_ran_is_reported_and_the_server_goes_on(running, tmp_path):
    names = ["c", "d"]
    with closing(HttpFaaS(url=url(running), direct=True)) as backend:
        backend.invoke(FaaSTests()._waiters(tmp_path, names))
        await_that(lambda: set(names) <= found(tmp_path).keys(), "both run")
        os.kill(running.places._local._link.process.pid, signal.SIGKILL)
        failed = []
        await_that(lambda: len(failed) == 2 or failed.extend(backend.failures()), "both are reported")
        assert {(each.invocation, each.reason) for each in failed} == {("job/c", "crash"), ("job/d", "crash")}
        assert backend.known(["job/c", "job/d"]) == set()
        backend.invoke([Invocation("job/after", payload(tmp_path, "after"))])
        await_that(lambda: "after" in found(tmp_path), "the next one runs")


def test_a_server_that_is_away_for_good_has_nothing_and_the_others_go_on(running, tmp_path):
    with ExecutorServers(1, "--places", "2", "--function", CONFORM) as others:
        backend = HttpFaaS(urls=[*others.urls, url(running)], direct=True)
        assert backend.limits.concurrency == 4
        backend.prepare(["json"])
    with closing(backend):
        assert backend.known(["job/0"]) == set()
        backend.prepare(["dask"])
        with pytest.raises(BackendError, match="no_such_module"):
            backend.prepare(["no_such_module"])
        backend.invoke([Invocation(f"job/{n}", payload(tmp_path, f"n{n}")) for n in range(4)])
        await_that(lambda: len(found(tmp_path)) == 4, "all run on the other one")


def test_failures_are_told_once_by_whichever_server_listens_there(tmp_path):
    def fail(n):
        with closing(HttpFaaS(url=servers.urls[0], direct=True)) as other:
            other.invoke([Invocation(f"job/{n}", payload(tmp_path, f"bad{n}", then={"raise": "on purpose"}))])
            await_that(lambda: not other.known([f"job/{n}"]), "it has failed")

    with ExecutorServers(1, "--places", "1", "--function", CONFORM) as servers:
        backend = HttpFaaS(url=servers.urls[0], direct=True)
        assert backend.known(["job/0"]) == set()
        for n in (1, 2):
            fail(n)
        assert [each.invocation for each in backend.failures()] == ["job/1", "job/2"]
        assert backend.failures() == []
        servers.signal(0)
        servers.wait(0)
        servers.start(0)
        fail(3)
        assert [each.invocation for each in backend.failures()] == ["job/3"]
        backend.close()


def test_a_server_that_ends_waits_for_answers_that_are_being_given():
    with serving() as running:
        ending = threading.Thread(target=running.finish, args=(1.0,))
        with running.answering():
            ending.start()
            assert not FaaSTests()._settled(lambda: not ending.is_alive())
        ending.join(1.0)
        assert not ending.is_alive()


def test_certificates_are_checked_against_the_authority_that_is_named(tmp_path):
    seen = tmp_path / "seen"
    seen.mkdir()
    server, key, authority = make_certificates(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(server, key)
    with serving(tls=tls) as running:
        secure = url(running).replace("http:", "https:")
        with closing(HttpFaaS(url=secure)) as backend, pytest.raises(BackendError, match="ca_file") as refused:
            backend.prepare([])
        assert not isinstance(refused.value, Throttled)
        for options in ({"ca_file": str(authority)}, {"verify": False}):
            for wait in (False, True):
                with closing(HttpFaaS(url=secure, wait=wait, **options)) as backend:
                    name = f"{len(options)}{wait}{list(options)}"
                    backend.invoke([Invocation("job/0", payload(seen, name))])
                    await_that(lambda name=name: name in found(seen), "it runs")


def test_what_stands_in_front_says_how_long_to_wait_and_is_asked_again_then():
    class Front(BaseHTTPRequestHandler):
        asked = 0

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            Front.asked += 1
            self.send_response(429)
            self.send_header("Retry-After", "60")
            self.end_headers()
            self.wfile.write(b"<html>too many")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Front) as front:
        threading.Thread(target=front.serve_forever, daemon=True).start()
        with closing(HttpFaaS(url=f"http://127.0.0.1:{front.server_port}", patience_s=30.0)) as backend:
            backend.__dict__["limits"] = Limits()  # else it would ask for them first
            with pytest.raises(Throttled, match="429: <html>too many"):
                backend.invoke([Invocation("job/0", b"")])
        front.shutdown()
    assert Front.asked == 1, "it was to wait for longer than there is patience"
