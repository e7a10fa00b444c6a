"""What can go wrong while the backend `aws-lambda` invokes: what passes is tried again, the rest says what to do."""

import pickle
import socket
import time
from contextlib import closing
from dataclasses import replace

import pytest
from aws_lambda_server import ACCEPTED, REGION
from aws_lambda_tools import _account, arrived, opened, running_server, sent, some  # noqa: F401

from wukong.backends.faas.aws_lambda import AwsLambda
from wukong.backends.faas.aws_lambda.event import unpack
from wukong.errors import BackendError, ConfigError, PayloadTooLarge, Retryable, Throttled

# --- passing faults


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (429, "TooManyRequestsException"),
        (400, "ThrottlingException"),
        (500, "ServiceException"),
        (502, "ENINotReadyException"),
        (502, "EC2ThrottledException"),
        (502, "SubnetIPAddressLimitReachedException"),
        (503, ""),
        (504, ""),
        (408, "SnapStartTimeoutException"),
        (409, "ResourceConflictException"),
        (409, "CodeArtifactUserPendingException"),
    ],
)
def test_what_passes_is_tried_again(server, status, code):
    calls = some(10)
    with opened(server) as backend:
        server.say(status, code, times=3)
        backend.invoke(calls)
    assert arrived(server) == sent(calls)
    assert len(server.paths) == 13


@pytest.mark.parametrize("what", ["hang up", "half"])
def test_a_connection_that_breaks_is_replaced_and_its_call_made_again(server, what):
    calls = some(30)
    with opened(server) as backend:
        server.do(what, times=4)
        backend.invoke(calls)
    assert arrived(server) == sent(calls)


def test_an_answer_that_does_not_come_is_not_waited_for(server):
    calls = some(10)
    with opened(server, timeout_s=0.2) as backend:
        server.do("stall", times=2)
        backend.invoke(calls)
        assert server.stalled == 2
    assert set(arrived(server)) == set(sent(calls))  # what another answer was too late for has arrived twice


def test_an_answer_that_does_not_come_counts_on_a_connection_that_was_good_before(server):
    with opened(server, timeout_s=1.0, patience_s=0.1) as backend:
        backend.invoke(some(1))
        server.do("stall")
        with pytest.raises(BackendError, match=r"no answer within 1 s"):
            backend.invoke(some(1))


@pytest.mark.parametrize("what", ["close after", "close unsaid"])
def test_connections_that_the_server_closes_cost_no_failure(server, what):
    calls = some(20)
    with opened(server, patience_s=0.001) as backend:  # the first failure that counted would be the last
        for _ in range(3):
            server.do(what, times=20)
            backend.invoke(calls)
    assert len(server.accepted) == 60


def test_a_server_that_was_away_is_found_again(server):
    with opened(server) as backend:
        backend.invoke(some(5))
        with backend._invokers[0].connections._lock:
            for _, connection in backend._invokers[0].connections._idle:
                connection.shutdown(socket.SHUT_RDWR)
        backend.invoke(some(5))
    assert len(server.accepted) == 10


def test_retry_after_is_honoured(server):
    with opened(server) as backend:
        server.say(429, "TooManyRequestsException", {"Retry-After": "0.3"})
        began = time.monotonic()
        backend.invoke(some(1))
        assert time.monotonic() - began >= 0.3


def test_throttling_beyond_the_patience_is_an_error_that_may_be_tried_again(server):
    with opened(server, patience_s=2.0) as backend:
        server.say(429, "TooManyRequestsException", Reason="ConcurrentInvocationLimitExceeded", times=1_000)
        with pytest.raises(Throttled, match="ConcurrentInvocationLimitExceeded") as refused:
            backend.invoke(some(3))
    assert isinstance(refused.value, Retryable)
    assert all(word in str(refused.value) for word in ("wukong", REGION, server.url, "patience_s"))
    assert 1 < len(server.paths) < 100


def test_who_is_told_to_come_back_after_the_patience_gives_up_at_once(server):
    with opened(server, patience_s=30) as backend:
        server.say(429, "TooManyRequestsException", {"Retry-After": "3600"})
        with pytest.raises(Throttled):
            backend.invoke(some(1))
    assert len(server.paths) == 1


def test_what_was_taken_before_a_throttle_is_named_and_the_rest_may_be_asked_again(server):
    calls = some(5)
    server.script.extend([ACCEPTED] * 2)
    server.say(429, "TooManyRequestsException", {"Retry-After": "3600"})
    with opened(server, max_connections=1) as backend, pytest.raises(Throttled) as refused:
        backend.invoke(calls)
    taken = refused.value.taken
    assert len(taken) == 2
    assert {unpack(event)[0] for event in server.accepted} == taken
    with opened(server) as backend:
        backend.invoke([each for each in calls if each.id not in taken])
    assert arrived(server) == sent(calls)


def test_a_rest_that_one_burst_was_told_to_take_holds_for_the_next(server):
    with opened(server, patience_s=0.5) as backend:
        server.say(429, "TooManyRequestsException", {"Retry-After": "3600"}, Reason="CallerRateLimitExceeded")
        for _ in range(2):
            with pytest.raises(Throttled, match="CallerRateLimitExceeded"):
                backend.invoke(some(1))
    assert len(server.paths) == 1


def test_a_platform_that_keeps_failing_is_given_up(server):
    with opened(server, patience_s=0.2) as backend:
        server.say(500, "ServiceException", message="internal", times=1_000)
        with pytest.raises(Throttled, match="ServiceException: internal"):
            backend.invoke(some(3))


def test_answers_that_never_come_are_given_up(server):
    with opened(server, patience_s=0.3, timeout_s=0.1) as backend:
        server.do("stall", times=1_000)
        with pytest.raises(BackendError, match=r"no answer within 0\.1 s"):
            backend.invoke(some(2))


def test_an_endpoint_that_cannot_be_reached_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for calls in (1, 30):
        backend = AwsLambda(endpoint_url=f"http://127.0.0.1:{port}", patience_s=0.1)
        with closing(backend), pytest.raises(BackendError, match=f"{port} cannot be reached.*refused"):
            backend.invoke(some(calls))


def test_a_host_that_does_not_exist_is_given_up_at_once(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with closing(AwsLambda(endpoint_url="http://lambda.no-such-region.example", patience_s=3_600)) as backend:
        for calls in (1, 30):
            with pytest.raises(BackendError, match="cannot be reached") as refused:
                backend.invoke(some(calls))
    assert "region" in refused.value.hint


# --- what only somebody can mend


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (404, "ResourceNotFoundException", "wukong deploy"),
        (403, "AccessDeniedException", "lambda:InvokeFunction"),
        (403, "UnrecognizedClientException", "aws sts get-caller-identity"),
        (403, "ExpiredTokenException", "aws sso login"),
        (403, "InvalidSignatureException", "region"),
        (403, "MissingAuthenticationTokenException", "aws sso login"),
        (400, "IncompleteSignatureException", "credentials"),
        (502, "KMSAccessDeniedException", "kms:Decrypt"),
        (502, "KMSDisabledException", "kms:Decrypt"),
        (502, "InvalidSubnetIDException", "VPC"),
        (502, "EC2AccessDeniedException", "VPC"),
        (502, "InvalidRuntimeException", "wukong deploy"),
        (409, "RuntimeVersionDeletedException", "wukong deploy"),
        (400, "RecursiveInvocationException", "--recursive-loop Allow --function-name"),
        (400, "NoPublishedVersionException", "qualifier"),
        (404, "", "endpoint_url"),
    ],
)
def test_a_permanent_fault_fails_at_once_and_says_what_to_do(server, status, code, hint):
    with opened(server, function="mine", qualifier="live") as backend:
        server.say(status, code, message="in AWS's words", times=50)
        with pytest.raises(BackendError, match="in AWS's words") as refused:
            backend.invoke(some(1))
        assert len(server.paths) == 1
    error = refused.value
    assert not isinstance(error, Retryable)
    assert hint in error.hint
    assert all(word in str(error) for word in ("mine", "live", REGION, server.url, code))
    assert "{" not in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_batch_that_meets_a_permanent_fault_leaves_a_backend_that_works(server):
    with opened(server) as backend:
        server.say(403, "AccessDeniedException")
        with pytest.raises(BackendError):
            backend.invoke(some(100))
        server.accepted.clear()
        server.script.clear()
        calls = some(100)
        backend.invoke(calls)
    assert set(sent(calls)) <= set(arrived(server))


def test_what_is_for_a_larger_size_goes_to_the_function_that_has_it(server):
    known = {"time_s": 60.0, "memory_bytes": 2**30}
    with opened(server, larger=["wide", "wider"], larger_bytes=[2**31, 2**32], **known) as backend:
        assert backend.limits.sizes == (2**30, 2**31, 2**32)
        backend.invoke([replace(each, size=n) for n, each in enumerate(some(3))])
        assert [path.split("/")[3] for path in server.paths] == ["wukong", "wide", "wider"]
        with pytest.raises(BackendError, match="there are 3 sizes"):
            backend.invoke([replace(some(1)[0], size=3)])
        options = backend.spec().options
        assert (options["larger"], options["larger_bytes"]) == (["wide", "wider"], [2**31, 2**32])
    with (
        opened(server, larger=["wide"], larger_bytes=[2**29], **known) as backend,
        pytest.raises(ConfigError, match="are 1,024 MB, 512 MB"),
    ):
        backend.spec()


@pytest.mark.parametrize("code", ["RequestTooLargeException", "RequestEntityTooLargeException"])
def test_a_limit_that_is_lower_over_there_is_told(server, code):
    with opened(server) as backend:
        server.say(413, code, message="262145 byte payload is too large (limit 262144 bytes)")
        with pytest.raises(PayloadTooLarge, match="limit 262144") as refused:
            backend.invoke(some(1))
    assert "payload_bytes" in refused.value.hint


def test_an_answer_of_something_else_than_lambda_is_shown(server):
    with opened(server) as backend:
        server.script.append((403, {"Content-Type": "text/html"}, b"<html>Blocked by the proxy</html>"))
        with pytest.raises(BackendError, match="Blocked by the proxy"):
            backend.invoke(some(1))
