"""The backend `aws-lambda` against a server that answers as Lambda's Invoke API does: invoking, and everything that
can go wrong meanwhile."""

import itertools
import json
import logging
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import textwrap
import threading
from contextlib import closing
from itertools import takewhile

import pytest
from aws_lambda_server import ACCEPTED, ACCESS, REGION, SECRET, Server
from aws_lambda_tools import _account, arrived, opened, running_server, sent, some  # noqa: F401

from wukong.backends.faas import Invocation
from wukong.backends.faas.aws_lambda import AwsLambda
from wukong.backends.faas.aws_lambda.event import unpack
from wukong.backends.http_connections import EndpointConnections
from wukong.errors import BackendError, ConfigError, PayloadTooLarge

# --- invoking


def test_every_invocation_arrives_once_if_nothing_goes_wrong(server):
    calls = some(300, 2_000)
    with opened(server) as backend:
        backend.invoke(calls)
    assert arrived(server) == sent(calls)
    assert {unpack(event)[0] for event in server.accepted} == {each.id for each in calls}


def test_many_are_under_way_at_once_and_connections_are_used_again(server):
    barrier = threading.Barrier(8)

    def together():
        barrier.wait(10)
        return ACCEPTED

    with opened(server, max_connections=8) as backend:
        for _ in range(3):
            server.script.extend([together] * 8)
            backend.invoke(some(200))
    assert len(server.accepted) == 600
    assert not barrier.broken
    assert server.connections == 8


def test_a_connection_that_opens_while_another_waits_for_its_answer_is_used(server, monkeypatch):
    both, first, opened_so_far = threading.Barrier(2), threading.Event(), itertools.count()
    really = EndpointConnections.open

    def together():
        first.set()
        both.wait(10)
        return ACCEPTED

    def slowly(connections):
        if next(opened_so_far):
            first.wait(10)
        return really(connections)

    monkeypatch.setattr(EndpointConnections, "open", slowly)
    with opened(server) as backend:
        server.script.extend([together] * 2)
        backend.invoke(some(2))
    assert not both.broken


def test_one_connection_is_enough_for_one_call_after_another(server):
    with opened(server) as backend:
        for _ in range(20):
            backend.invoke(some(1))
    assert server.connections == 1


def test_a_function_is_named_with_its_qualifier_and_prefix(server):
    arn = f"arn:aws:lambda:{REGION}:123456789012:function:mine"
    with closing(AwsLambda(endpoint_url=f"{server.url}/aws/", function=arn, qualifier="live")) as backend:
        backend.invoke(some(1))
    path = f"/aws/2015-03-31/functions/{arn.replace(':', '%3A')}/invocations?Qualifier=live"
    assert server.paths == [path]


def test_bursts_are_shared_out_among_several_functions(server):
    with opened(server, function=["a", "b", "c"]) as backend:
        backend.invoke(some(90))
    names = [path.split("/")[3] for path in server.paths]
    assert [names.count(name) for name in "abc"] == [30, 30, 30]


def test_while_one_function_throttles_the_others_go_on(server):
    with opened(server, function=["a", "b"], patience_s=5) as backend:
        server.full.add("a")
        backend.invoke(some(20))
        before = len(server.paths)
        backend.invoke(some(20))
    assert len(server.accepted) == 40
    assert {path.split("/")[3] for path in server.paths[before:]} == {"b"}


def test_a_payload_over_the_limit_is_refused_before_any_starts(server):
    with opened(server, payload_bytes=10_000) as backend:
        most = backend._room_bytes
        with pytest.raises(PayloadTooLarge, match=f"{most:,}"):
            backend.invoke([*some(3), Invocation("job/large", bytes(most + 1))])
        assert server.paths == []
        backend.invoke([Invocation("job/" + "0." * 300, bytes(most))])
    assert len(server.accepted) == 1


def test_threads_invoke_at_once(server):
    failed = []

    def invoke():
        try:
            backend.invoke(some(40))
        except BaseException as error:
            failed.append(error)

    with opened(server) as backend:
        threads = [threading.Thread(target=invoke) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failed
    assert len(server.accepted) == 240


def test_a_forked_child_opens_connections_of_its_own(server):
    with opened(server) as backend:
        backend.invoke(some(50))
        child = os.fork()
        if child == 0:
            try:
                backend.invoke(some(50))
                os._exit(0)
            except BaseException:
                os._exit(1)
        backend.invoke(some(50))
        assert os.waitpid(child, 0)[1] == 0
    assert len(server.accepted) == 150


def test_a_closed_backend_says_so(server):
    backend = AwsLambda(endpoint_url=server.url)
    backend.invoke(some(1))
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.invoke(some(1))


# --- clocks and credentials


@pytest.mark.parametrize("ahead_s", [3_600, -3_600])
def test_a_clock_that_is_wrong_is_made_up_for(server, ahead_s):
    server.ahead_s = ahead_s
    calls = some(40)
    with opened(server) as backend:
        backend.invoke(calls)
        backend.invoke(calls)
    assert arrived(server) == sorted(sent(calls) * 2)


def test_a_wrong_secret_key_is_an_error_at_once(server, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with opened(server) as backend, pytest.raises(BackendError, match="does not match") as refused:
        backend.invoke(some(1))
    assert "secret key" in refused.value.hint
    assert "wrong" not in str(refused.value).replace("is wrong", "")


def test_a_wrong_clock_is_not_blamed_for_a_wrong_secret_key(server, monkeypatch):
    server.ahead_s = 3_600
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with opened(server) as backend, pytest.raises(BackendError, match="does not match"):
        backend.invoke(some(1))


def test_a_session_token_is_sent_and_signed(server, monkeypatch):
    server.token = "FwoGZXIvYXdzEBYaD//session+token=="
    monkeypatch.setenv("AWS_SESSION_TOKEN", server.token)
    with opened(server) as backend:
        backend.invoke(some(3))
    assert len(server.accepted) == 3


def test_without_credentials_it_is_said_how_to_log_in(server, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with opened(server) as backend, pytest.raises(BackendError, match="no AWS credentials") as refused:
        backend.invoke(some(1))
    assert "aws sso login" in refused.value.hint


def test_a_profile_goes_before_credentials_in_the_environment(server, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody else")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    (tmp_path / "aws-config").write_text(
        f"[profile work]\nregion = {REGION}\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n"
    )
    with opened(server, profile="work") as backend:
        backend.invoke(some(2))
    assert len(server.accepted) == 2


def test_an_unknown_profile_is_a_mistake_in_the_configuration(server):
    with opened(server, profile="nobody") as backend, pytest.raises(ConfigError, match="nobody"):
        backend.invoke(some(1))


def test_without_a_region_it_is_said_where_to_give_one(server, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with opened(server) as backend, pytest.raises(ConfigError, match="no AWS region") as refused:
        backend.invoke(some(1))
    assert "AWS_DEFAULT_REGION" in refused.value.hint


def test_credentials_that_expire_are_renewed(server, monkeypatch, tmp_path):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    program = tmp_path / "log-in"
    told = {"Version": 1, "AccessKeyId": ACCESS, "SecretAccessKey": SECRET}
    program.write_text(
        textwrap.dedent(
            f"""\
            #!{sys.executable}
            import datetime, json, pathlib
            count = pathlib.Path({str(tmp_path / "count")!r})
            n = len(count.read_text()) if count.exists() else 0
            count.write_text("x" * (n + 1))
            soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=5)
            print(json.dumps({{**{told!r}, "SessionToken": f"token {{n}}", "Expiration": soon.isoformat()}}))
            """
        )
    )
    program.chmod(0o755)
    (tmp_path / "aws-config").write_text(f"[default]\ncredential_process = {program}\n")
    with opened(server) as backend:
        assert [backend._access.keys().token for _ in range(2)] == ["token 1", "token 2"]
        server.token = "token 3"
        backend.invoke(some(1))
    assert len(server.accepted) == 1


def test_a_function_opens_the_spec_and_invokes_without_boto3(server, monkeypatch):
    with opened(server, time_s=60.0, memory_bytes=2**30, profile=None) as backend:
        spec = backend.spec()
    assert json.loads(json.dumps(dict(spec.options))) == dict(spec.options)
    assert SECRET not in json.dumps(dict(spec.options))
    assert ACCESS not in json.dumps(dict(spec.options))
    code = f"""
import sys
from wukong.backends.faas import Invocation
from wukong.backends.spec import PluginSpec
backend = PluginSpec({spec.target!r}, {dict(spec.options)!r}).open()
assert backend.limits.time_s == 60.0
assert not {{"ssl", "http.client", "hmac"}} & set(sys.modules)
backend.invoke([Invocation("job/0.0", b"from inside")])
assert not {{"boto3", "botocore", "urllib3"}} & set(sys.modules)
"""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert arrived(server) == [b"from inside"]


# --- TLS and proxies


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    key, made = folder / "key.pem", folder / "certificate.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(key), "-out", str(made), "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*request, *files, *subject], check=True, capture_output=True)
    return made, key


@pytest.fixture
def tls_server(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    with Server(tls=context) as running:
        yield running


def test_tls_is_spoken_to_whom_the_configured_authorities_vouch_for(tls_server, certificate, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
    calls = some(60)
    with opened(tls_server, max_connections=5) as backend:
        backend.invoke(calls)
        for _ in range(5):
            backend.invoke(some(1))
    assert len(tls_server.accepted) == 65
    assert tls_server.connections <= 5


@pytest.mark.parametrize("calls", [1, 20])
def test_a_server_that_nobody_vouches_for_is_refused_at_once(tls_server, calls):
    with opened(tls_server, patience_s=3_600) as backend, pytest.raises(BackendError, match="certificate") as refused:
        backend.invoke(some(calls))
    assert "AWS_CA_BUNDLE" in refused.value.hint
    assert tls_server.paths == []


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


class _Tunnel(socketserver.StreamRequestHandler):
    def handle(self):
        head = [line.decode().strip() for line in takewhile(bytes.strip, self.rfile)]
        if not head:
            return  # hung up on
        self.server.asked.append(head)
        host, _, port = head[0].split(" ")[1].rpartition(":")
        with socket.create_connection((host, int(port))) as there:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=self._pump, args=(there, self.connection), daemon=True)
            back.start()
            self._pump(self.connection, there)
            back.join()

    @staticmethod
    def _pump(source, target):
        try:
            while data := source.recv(65_536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def test_a_proxy_that_the_environment_names_is_gone_through(tls_server, certificate, monkeypatch):
    with _Proxy(("127.0.0.1", 0), _Tunnel) as proxy:
        proxy.asked = []
        threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate[0]))
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:p%40ss@127.0.0.1:{proxy.server_address[1]}")
        with opened(tls_server) as backend:
            backend.invoke(some(2))
        proxy.shutdown()
    assert len(tls_server.accepted) == 2
    here = f"CONNECT {tls_server.url.removeprefix('https://')} "  # an earlier test may still be connecting elsewhere
    asked = [head for head in proxy.asked if head[0].startswith(here)]
    assert asked
    assert all("Proxy-Authorization: Basic dXNlcjpwQHNz" in head for head in asked)


# --- options


@pytest.mark.parametrize(
    "options",
    [
        {"function": []},
        {"function": ""},
        {"payload_bytes": 0},
        {"max_connections": 0},
        {"timeout_s": 0},
        {"patience_s": -1},
        {"time_s": 0},
        {"function": [f"arn:aws:lambda:{region}:123456789012:function:f" for region in ("us-east-1", "eu-west-1")]},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError):
        AwsLambda(**options)


def test_an_endpoint_that_is_no_url_is_refused():
    with closing(AwsLambda(endpoint_url="localhost:9001")) as backend, pytest.raises(ConfigError, match="endpoint"):
        backend.invoke(some(1))


def test_the_region_of_an_arn_is_the_region(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    backend = AwsLambda(function="arn:aws:lambda:sa-east-1:123456789012:function:f", time_s=1.0, memory_bytes=1)
    assert backend.spec().options["region"] == "sa-east-1"
    assert backend.spec().options["endpoint_url"] == "https://lambda.sa-east-1.amazonaws.com"
    backend.close()


def test_nothing_is_looked_up_and_nothing_logged_until_it_is_needed(caplog):
    with caplog.at_level(logging.DEBUG):
        AwsLambda(endpoint_url="http://127.0.0.1:1", profile="nobody").close()
    assert caplog.records == []
