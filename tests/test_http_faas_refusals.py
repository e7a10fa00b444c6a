"""What executor servers refuse, and what `faas: http` makes of servers that are full, slow or of another version."""

import http.client
import json
import threading
import time
from contextlib import closing

import pytest
from http_tools import KEY, serving, url
from relay import Relay

from wukong.backends.faas import Invocation
from wukong.backends.faas.http import HttpFaaS, endpoint, wire
from wukong.errors import BackendError, ConfigError, PayloadTooLarge, Throttled
from wukong.testing.faas import FaaSTests
from wukong.testing.faas_functions import found, payload
from wukong.testing.servers import free_port
from wukong_executor.serve import deployment_key, server

SECRET = "hard to guess"


@pytest.fixture(scope="module")
def running():
    with serving() as one:
        yield one


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("WUKONG_DEPLOYMENT_KEY", KEY)


def post(running, path="/", body=b"{}", headers=None, method="POST"):
    with closing(http.client.HTTPConnection("127.0.0.1", running.server_port, timeout=20)) as connection:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, json.loads(answer.read() or b"{}")


def signed(verb, body, key=KEY, ago_s=0):
    return {wire.SIGNATURE_HEADER: wire.signature(bytes.fromhex(key), verb, body, int(time.time()) - ago_s)}


def await_that(seen, what):
    FaaSTests()._wait(seen, what)


def test_health_needs_no_key_and_everything_else_a_signature(running):
    assert post(running, "/health", None, method="GET")[::2] == (200, {"status": "ok"})
    assert post(running, "/", None, method="GET")[0] == 404
    for path in ("/", "/describe", "/state", "/cancel", "/behind/a/gateway/state"):
        assert post(running, path)[0] == 401


def test_a_signature_is_for_one_body_one_verb_one_key_and_for_some_minutes(running):
    body = json.dumps({"prefix": "no-such-job/"}).encode()
    assert post(running, "/cancel", body, signed("cancel", body))[0] == 200
    for headers in (
        signed("cancel", body + b" "),
        signed("state", body),
        signed("cancel", body, key="ef" * 32),
        signed("cancel", body, ago_s=400),
        signed("cancel", body, ago_s=-400),
        {wire.SIGNATURE_HEADER: "2;0;00"},
        {wire.SIGNATURE_HEADER: "nonsense"},
    ):
        status, _, told = post(running, "/cancel", body, headers)
        assert (status, bool(told["refused"])) == (401, True)
        assert KEY not in str(told)


def test_requests_that_make_no_sense_are_refused_in_words(running):
    for path, verb, body in (
        ("/", "invoke", b"nonsense"),
        ("/state", "state", b"{}"),
        ("/describe", "describe", b"[]"),
    ):
        status, _, told = post(running, path, body, signed(verb, body))
        assert (status, bool(told["error"])) == (400, True)
    assert post(running, "/", b"x" * 300_000)[0] == 413


def test_another_key_is_an_error_that_says_what_to_do_and_not_the_key(running, monkeypatch):
    monkeypatch.setenv("WUKONG_DEPLOYMENT_KEY", "ef" * 32)
    with closing(HttpFaaS(url=url(running))) as backend, pytest.raises(BackendError, match="WUKONG_KEY") as refused:
        backend.configure({"WUKONG_DEPLOYMENT_KEY": "ef" * 32})
    assert not isinstance(refused.value, Throttled)
    assert url(running) in str(refused.value)
    assert "ef" * 32 not in str(refused.value)


def test_variables_that_the_server_lacks_are_named_and_their_values_are_not(running, monkeypatch):
    monkeypatch.setenv("THERE", SECRET)
    with closing(HttpFaaS(url=url(running))) as backend:
        backend.configure({"WUKONG_DEPLOYMENT_KEY": KEY, "THERE": SECRET})
        with pytest.raises(BackendError, match="no value of the variables NOT_THERE, NOR_THIS") as refused:
            backend.configure({"NOT_THERE": SECRET, "THERE": SECRET, "NOR_THIS": SECRET})
        assert SECRET not in str(refused.value)
        with pytest.raises(BackendError, match="another value of the variable THERE") as refused:
            backend.configure({"THERE": "something else"})
        assert SECRET not in str(refused.value)


def test_other_versions_and_missing_modules_are_refused_before_a_job(running, monkeypatch):
    with closing(HttpFaaS(url=url(running))) as backend:
        backend.prepare(["json"])
        with pytest.raises(BackendError, match="no_such_module"):
            backend.prepare(["no_such_module"])
        HttpFaaS(url=url(running), check=False).prepare(["no_such_module"])
    described = server.describe
    monkeypatch.setattr(server, "describe", lambda names: described(names) | {"python": "2.7.18"})
    with closing(HttpFaaS(url=url(running))) as backend, pytest.raises(BackendError, match=r"Python is 2\.7\.18 on"):
        backend.prepare([])


def test_a_full_server_says_so_and_is_asked_again_until_it_has_room(tmp_path):
    waiters = FaaSTests()._waiters(tmp_path, ["a", "b"])
    with serving(places=1, queue=1) as running:
        with closing(HttpFaaS(url=url(running), direct=True, patience_s=0.3)) as backend:
            backend.invoke(waiters)
            await_that(lambda: backend.failures() == [] and backend.free_slots() == 0, "no place is free")
            body = wire.pack(wire.Posted(Invocation("job/c", payload(tmp_path, "c")), "a call"))
            status, headers, told = post(running, "/", body, signed("invoke", body))
            assert (status, headers["Retry-After"], told["free"]) == (429, "1", 0)
            with pytest.raises(Throttled, match="429: all places of this server are taken") as refused:
                backend.invoke([Invocation("job/d", payload(tmp_path, "d"))])
            assert url(running) in str(refused.value)
        with closing(HttpFaaS(url=url(running))) as backend:
            made = threading.Thread(target=backend.invoke, args=([Invocation("job/e", payload(tmp_path, "e"))],))
            made.start()
            FaaSTests()._release(tmp_path, ["a", "b"])
            made.join()
            await_that(lambda: "e" in found(tmp_path), "what was refused is taken when there is room")
    assert not {"c", "d"} & found(tmp_path).keys()


def test_what_a_full_server_has_taken_is_named_and_the_rest_may_be_posted_again(tmp_path):
    waiters = FaaSTests()._waiters(tmp_path, ["a", "b", "c"])
    with serving(places=1, queue=1) as running:
        with closing(HttpFaaS(url=url(running), patience_s=0.3)) as backend, pytest.raises(Throttled) as refused:
            backend.invoke(waiters)
        taken = refused.value.taken
        assert len(taken) == 2 and taken < {each.id for each in waiters}
        FaaSTests()._release(tmp_path, [each.removeprefix("job/") for each in taken])
        with closing(HttpFaaS(url=url(running))) as backend:
            backend.invoke([each for each in waiters if each.id not in taken])
            runs = FaaSTests()._release(tmp_path, ["a", "b", "c"])
    assert {name: len(each) for name, each in runs.items() if name in "abc"} == {"a": 1, "b": 1, "c": 1}


def test_an_invocation_whose_answer_is_lost_is_posted_again_and_runs_once(running, tmp_path, monkeypatch):
    real, n_calls = endpoint.HttpEndpoint.call, []

    def call(self, verb, body, timeout_s=None):
        answer = real(self, verb, body, timeout_s)
        if verb == "invoke":
            n_calls.append(1)
            if len(n_calls) < 3:
                raise TimeoutError("the answer does not come")
        return answer

    monkeypatch.setattr(endpoint.HttpEndpoint, "call", call)
    with closing(HttpFaaS(url=url(running), direct=True)) as backend:
        backend.invoke([Invocation("job/once", payload(tmp_path, "once"))])
        await_that(lambda: not backend.known(["job/once"]), "it has ended")
    assert (len(n_calls), len(found(tmp_path)["once"])) == (3, 1)


def test_a_server_that_is_slow_to_answer_is_given_up_in_the_end_and_has_what_it_may_have(running):
    options = {"direct": True, "timeout_s": 0.2, "patience_s": 0.5}
    with Relay(running.server_port) as relay, closing(HttpFaaS(url=f"http://{relay.endpoint}", **options)) as backend:
        assert backend.limits.concurrency == 2
        relay.forget()  # nothing gets through on what is open, and nobody says so
        assert backend.known(["job/0"]) == ["job/0"]
        relay.target = free_port()
        with pytest.raises(Throttled, match=r"does not answer|cannot be reached"):
            backend.invoke([Invocation("job/0", b"")])


def test_several_servers_at_one_url_cannot_be_told_apart_so_nothing_is_known(running):
    with serving() as other, Relay(running.server_port) as relay:
        backend = HttpFaaS(url=f"http://{relay.endpoint}", direct=True)
        backend._endpoints[0]._connections.close()  # it keeps none: each request finds another server
        with closing(backend):
            assert backend.known(["job/0"]) == set()
            for each in (other, running):
                relay.target = each.server_port
                backend.known(["job/0"])
            assert backend.known(["job/0"]) is None
            assert backend.free_slots() is None


def test_a_server_that_is_about_to_end_takes_nothing_and_says_so(tmp_path):
    with serving() as running:
        assert running.places.finish(0.0)
        assert post(running, "/health", None, method="GET")[::2] == (503, {"status": "ends"})
        with closing(HttpFaaS(url=url(running), patience_s=0.3)) as backend, pytest.raises(Throttled, match="to end"):
            backend.invoke([Invocation("job/0", payload(tmp_path, "late"))])
    assert not found(tmp_path)


def test_a_payload_that_is_too_large_is_refused_by_the_server_too(running):
    posted = wire.Posted(Invocation("job/0", bytes(100_001)), "a call")
    status, _, told = post(running, "/", wire.pack(posted), signed("invoke", wire.pack(posted)))
    assert (status, "100,001" in told["error"]) == (413, True)
    with closing(HttpFaaS(url=url(running), payload_bytes=200_000)) as backend, pytest.raises(PayloadTooLarge):
        backend.invoke([Invocation("job/0", bytes(100_001))])


def test_headers_are_read_from_variables_that_functions_need_too(running, monkeypatch):
    with closing(HttpFaaS(url=url(running), headers={"Authorization": "GATEWAY_TOKEN"})) as backend:
        with pytest.raises(BackendError, match="the variable GATEWAY_TOKEN, for the header Authorization, is not set"):
            backend.prepare([])
        monkeypatch.setenv("GATEWAY_TOKEN", f"Bearer {SECRET}")
        assert f"Authorization: Bearer {SECRET}\r\n".encode() in backend._endpoints[0]._request("state", b"")
        assert backend.environment() == {"GATEWAY_TOKEN": f"Bearer {SECRET}"}
        assert SECRET not in repr(backend) + json.dumps(dict(backend.spec().options))


def test_what_is_no_executor_server_is_said_to_be_none(running):
    with closing(HttpFaaS(url=f"{url(running)}/health/", patience_s=0.2)) as backend:
        assert backend.limits.payload_bytes == 100_000  # whatever stands in front puts before the path
    answer = endpoint.ServerAnswer(404, {}, "<html>no such service", 0.0)
    assert "no Wukong executor server is there" in str(endpoint.refused("http://elsewhere", answer))
    denied = endpoint.refused("http://elsewhere", endpoint.ServerAnswer(403, {}, "", 0.0))
    assert "the option headers names variables" in str(denied)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "no URL is named"),
        ({"url": "ftp://host"}, "is not the URL"),
        ({"url": "http://user:password@host"}, "must hold no password"),
        ({"url": "http://host", "patience_s": 0}, "patience_s is 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, says):
    with pytest.raises(ConfigError, match=says) as refused:
        HttpFaaS(**options)
    assert "user:password" not in str(refused.value)


def test_a_server_has_its_key_from_either_variable(monkeypatch):
    assert deployment_key().hex() == KEY
    monkeypatch.setenv("WUKONG_DEPLOYMENT_KEY", "no key")
    with pytest.raises(ConfigError, match="64 hex digits"):
        deployment_key()
    monkeypatch.delenv("WUKONG_DEPLOYMENT_KEY")
    with pytest.raises(ConfigError, match="WUKONG_KEY"):
        deployment_key()
    monkeypatch.setenv("WUKONG_KEY", SECRET)
    assert len(deployment_key()) == 32
