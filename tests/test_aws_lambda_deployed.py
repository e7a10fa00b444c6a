"""What is deployed on Lambda, held against what the client needs: limits, variables, versions, modules."""

import json
import logging
from contextlib import closing

import pytest
from aws_lambda_server import REGION, Server, log_in

from wukong.backends.faas.aws_lambda import AwsLambda, price
from wukong.backends.faas.aws_lambda.event import payload_room
from wukong.backends.faas.description import describe
from wukong.errors import BackendError

KEY = "ab" * 32
OTHER = "cd" * 32
KEY_VARIABLE, SECRET_VARIABLE = "WUKONG_DEPLOYMENT_KEY", "WUKONG_DEPLOYMENT_KEY_SECRET"
ARN = f"arn:aws:secretsmanager:{REGION}:123456789012:secret:wukong-key-AbCdEf"


def configuration(variables=None, **more):
    return {
        "Timeout": 120,
        "MemorySize": 1_769,
        "CodeSha256": "c0de",
        "Environment": {"Variables": variables or {}},
        **more,
    }


@pytest.fixture
def server(monkeypatch, tmp_path):
    log_in(monkeypatch, tmp_path)
    with Server() as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", running.url)
        running.configurations["wukong"] = configuration({KEY_VARIABLE: KEY, "WUKONG_STORE_PASSWORD": "hush"})
        running.describes = describe(())
        yield running


def opened(server, **options):
    return closing(AwsLambda(endpoint_url=server.url, **{"task_output": False, **options}))


def times_asked(server, what):
    return sum(kind == what for kind, _ in server.asked)


# --- limits


def test_limits_are_read_from_the_function_once(server):
    with opened(server) as backend:
        assert times_asked(server, "configuration") == 0
        for _ in range(3):
            assert (backend.limits.time_s, backend.limits.memory_bytes) == (120.0, 1_769 * 1_048_576)
        assert backend.spec().options["time_s"] == 120.0
    assert times_asked(server, "configuration") == 1


def test_limits_of_several_functions_are_the_least(server):
    server.configurations["wide"] = configuration(Timeout=900, MemorySize=512)
    with opened(server, function=["wukong", "wide"]) as backend:
        assert (backend.limits.time_s, backend.limits.memory_bytes) == (120.0, 512 * 1_048_576)


def test_reading_a_configuration_is_tried_again_if_it_is_throttled(server):
    server.throttled = 1
    with opened(server) as backend:
        assert backend.limits.time_s == 120.0
    assert times_asked(server, "configuration") == 2


def test_limits_that_are_given_are_not_asked_for(server):
    with opened(server, time_s=5.0, memory_bytes=2**30) as backend:
        assert (backend.limits.time_s, backend.limits.memory_bytes) == (5.0, 2**30)
    assert server.asked == []


def test_without_the_permission_limits_are_unknown_and_the_rest_goes_on(server, caplog):
    server.denied.add("wukong")
    with opened(server) as backend, caplog.at_level(logging.WARNING):
        assert backend.limits.time_s is None
        backend.configure({KEY_VARIABLE: OTHER})
        assert backend.deployment_key() is None
        backend.prepare([])
    assert len(caplog.records) == 1
    assert "GetFunctionConfiguration" in caplog.text


@pytest.mark.parametrize(
    "call",
    [
        lambda backend: backend.limits,
        lambda backend: backend.spec(),
        lambda backend: backend.configure({}),
        lambda backend: backend.prepare([]),
    ],
    ids=["limits", "spec", "configure", "prepare"],
)
def test_a_function_that_does_not_exist_is_named_with_its_place(server, call):
    with opened(server, function="nowhere", qualifier="live") as backend, pytest.raises(BackendError) as refused:
        call(backend)
    assert all(word in str(refused.value) for word in ("nowhere", "live", REGION, server.url, "wukong deploy"))


def test_a_function_that_cannot_run_is_an_error(server):
    server.configurations["wukong"] = configuration(State="Failed", StateReason="The image is gone.")
    with opened(server) as backend, pytest.raises(BackendError, match="The image is gone"):
        backend.configure({})


def test_an_endpoint_that_nobody_listens_at_is_an_error_at_once(server):
    url = server.url
    server.__exit__()
    with closing(AwsLambda(endpoint_url=url)) as backend, pytest.raises(BackendError, match="EndpointConnectionError"):
        backend.configure({})
    server.http.shutdown = lambda: None


# --- variables


def test_the_same_variables_are_accepted(server):
    with opened(server) as backend:
        backend.configure({KEY_VARIABLE: KEY, "WUKONG_STORE_PASSWORD": "hush"})
        backend.configure({})


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({KEY_VARIABLE: OTHER}, f"another value of variable {KEY_VARIABLE}"),
        ({"WUKONG_STORE_PASSWORD": "other"}, "another value of variable WUKONG_STORE_PASSWORD"),
        ({"WUKONG_MORE": "x"}, "no variable WUKONG_MORE"),
    ],
)
def test_a_variable_that_differs_is_named_and_no_value_told(server, variables, says, caplog):
    with opened(server) as backend, caplog.at_level(logging.DEBUG, "wukong"), pytest.raises(BackendError) as refused:
        backend.configure(variables)
    assert says in str(refused.value)
    assert "wukong deploy" in refused.value.hint
    told = str(refused.value) + "".join(record.getMessage() for record in caplog.records if record.name[:6] == "wukong")
    assert not any(secret in told for secret in (KEY, OTHER, "hush"))


def test_every_function_is_compared(server):
    server.configurations["second"] = configuration({KEY_VARIABLE: OTHER})
    with opened(server, function=["wukong", "second"]) as backend, pytest.raises(BackendError, match="second"):
        backend.configure({KEY_VARIABLE: KEY})


def test_variables_that_cannot_be_decrypted_are_not_compared(server):
    server.configurations["wukong"] = configuration()
    server.configurations["wukong"]["Environment"] = {"Error": {"ErrorCode": "AccessDeniedException", "Message": "KMS"}}
    with opened(server) as backend:
        backend.configure({KEY_VARIABLE: KEY})
        assert backend.deployment_key() is None


def test_the_deployment_key_is_the_functions_own(server):
    with opened(server) as backend:
        assert backend.deployment_key() == KEY
        assert KEY not in json.dumps(dict(backend.spec().options))


def test_the_deployment_key_is_fetched_from_the_secret_that_the_function_names(server):
    server.configurations["wukong"] = configuration({SECRET_VARIABLE: ARN})
    server.secrets[ARN] = KEY + "\n"
    with opened(server) as backend:
        assert backend.deployment_key() == KEY
        backend.configure({KEY_VARIABLE: KEY})
        with pytest.raises(BackendError, match=KEY_VARIABLE):
            backend.configure({KEY_VARIABLE: OTHER})
    assert times_asked(server, "secret") == 1


def test_a_secret_that_may_not_be_read_is_named_with_the_permission(server):
    server.configurations["wukong"] = configuration({SECRET_VARIABLE: ARN})
    with opened(server) as backend, pytest.raises(BackendError, match="wukong-key-AbCdEf") as refused:
        backend.deployment_key()
    assert "secretsmanager:GetSecretValue" in refused.value.hint


def test_who_was_given_the_key_need_not_read_the_secret(server, caplog):
    server.configurations["wukong"] = configuration({SECRET_VARIABLE: ARN})
    with opened(server) as backend:
        backend.configure({KEY_VARIABLE: KEY})
        with pytest.raises(BackendError, match="no variable WUKONG_MORE"):
            backend.configure({KEY_VARIABLE: KEY, "WUKONG_MORE": "x"})
    assert "not compared" in caplog.text
    assert KEY not in caplog.text


def test_functions_of_different_deployments_are_refused(server):
    server.configurations["second"] = configuration({KEY_VARIABLE: OTHER})
    backend = AwsLambda(endpoint_url=server.url, function=["wukong", "second"])
    with closing(backend), pytest.raises(BackendError, match="different deployment keys") as refused:
        backend.deployment_key()
    assert KEY not in str(refused.value) and OTHER not in str(refused.value)


# --- versions and modules


def test_functions_that_fit_are_asked_once(server):
    with opened(server) as backend:
        backend.prepare([])
        backend.prepare(["numpy", "dask"])
        backend.prepare(["dask"])
        backend.prepare([])
    assert [event["describe"] for kind, event in server.asked if kind == "describe"] == [[], ["dask", "numpy"]]


def test_functions_of_one_package_are_asked_through_one_of_them(server):
    server.configurations |= {"same": configuration(), "older": configuration(CodeSha256="01d")}
    with opened(server, function=["wukong", "same", "older"]) as backend:
        backend.prepare([])
    assert times_asked(server, "describe") == 2


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ({"python": "3.99.0"}, "Python is 3.99.0 on the function and 3."),
        ({"packages": {**describe(())["packages"], "wukong": "9.9"}}, "wukong is 9.9 on the function and"),
        ({"packages": {**describe(())["packages"], "dask": "2019.1"}}, "dask is 2019.1 on the function and"),
        ({"packages": {**describe(())["packages"], "cloudpickle": "0.1"}}, "cloudpickle is 0.1 on the function and"),
    ],
)
def test_versions_that_do_not_fit_are_both_named(server, there, says):
    server.describes |= there
    with opened(server) as backend:
        for _ in range(2):  # a second job is no better off
            with pytest.raises(BackendError, match=says) as refused:
                backend.prepare(["numpy"])
    assert "wukong deploy" in refused.value.hint


def test_a_missing_package_is_named_with_the_way_to_add_it(server):
    server.describes["missing"] = ["numpy.linalg", "numpy", "sklearn"]
    with opened(server) as backend, pytest.raises(BackendError, match="numpy==") as refused:
        backend.prepare(["numpy", "numpy.linalg", "sklearn"])
    assert "scikit-learn" in str(refused.value)
    assert "wukong deploy --requirements requirements.txt" in refused.value.hint
    assert "check=False" in refused.value.hint


def test_who_wants_no_comparison_gets_none(server):
    server.describes["missing"] = ["numpy"]
    with opened(server, check=False) as backend:
        backend.prepare(["numpy"])
    assert server.asked == []


def test_a_function_that_fails_at_its_start_says_why(server):
    told = {"errorType": "Runtime.ImportModuleError", "errorMessage": "No module named 'wukong'"}
    server.describes = (200, {"X-Amz-Function-Error": "Unhandled"}, json.dumps(told).encode())
    with opened(server) as backend, pytest.raises(BackendError, match="ImportModuleError: No module named 'wukong'"):
        backend.prepare([])
    assert times_asked(server, "describe") == 1


@pytest.mark.parametrize(
    ("times", "word"), [(3, "Runtime.ExitError"), (3, "Sandbox.Timedout"), (4, "fails 4 times: Runtime.ExitError")]
)
def test_a_function_that_crashes_while_it_is_asked_is_asked_again(server, times, word, caplog):
    kind = word.rpartition(" ")[2]
    told = {"errorType": kind, "errorMessage": "RequestId: 1 Error: Runtime exited with error: signal: killed"}
    crash = (200, {"X-Amz-Function-Error": "Unhandled"}, json.dumps(told).encode())
    server.describes = [crash] * times + [server.describes]
    with opened(server) as backend:
        if times < 4:
            backend.prepare([])
        else:
            with pytest.raises(BackendError, match=word):
                backend.prepare([])
    assert times_asked(server, "describe") == 4
    assert caplog.text.count(f"tried again: {kind}") == 3


@pytest.mark.parametrize("answer", [b"null", b'"hello"', b"not json", b'{"statusCode": 200}'])
def test_a_function_that_is_not_wukongs_is_told_from_one_that_is(server, answer):
    server.describes = (200, {}, answer)
    with opened(server) as backend, pytest.raises(BackendError, match="does not answer as one of Wukong's"):
        backend.prepare([])


def test_functions_too_busy_to_describe_themselves_are_not_waited_for(server, caplog):
    ours, busy = (
        server.describes,
        json.dumps({"Reason": "ConcurrentInvocationLimitExceeded", "message": "Rate Exceeded."}),
    )
    server.describes = (429, {"x-amzn-ErrorType": "TooManyRequestsException"}, busy.encode())
    with opened(server) as backend:
        backend.prepare([])
        assert times_asked(server, "describe") == 1
        assert "not compared" in caplog.text
        server.describes = {**ours, "python": "3.99.0"}
        with pytest.raises(BackendError, match=r"3\.99\.0"):  # the next job asks again
            backend.prepare([])


def test_who_may_not_invoke_is_told_so(server):
    server.describes = (403, {"x-amzn-ErrorType": "AccessDeniedException"}, b'{"message": "User is not authorized"}')
    with opened(server) as backend, pytest.raises(BackendError, match="not authorized") as refused:
        backend.prepare([])
    assert "lambda:InvokeFunction" in refused.value.hint


# --- the bill


def test_the_bill_goes_by_memory_architecture_and_the_size_of_events(server):
    server.configurations["wukong"] = configuration(Architectures=["arm64"], MemorySize=2_048)
    with opened(server) as backend:
        room = backend.limits.payload_bytes
        requests = [backend.billed_requests(size) for size in (0, 190_000, 200_000, room)]
        assert requests == [1, 1, 2, 13]
        bill = backend.bill(10, sum(requests), 20.0)
    assert bill.rates == price.RATES["arm64"].name
    assert bill.gb_seconds == pytest.approx(2 * 20.005)
    assert "10 invocations, 17 requests" in str(bill)


def test_prices_can_be_set(server):
    with opened(server, gb_second_usd=1.0, request_usd=0.5, memory_bytes=2**30) as backend:
        assert backend.bill(2, 2, 3.0).usd == pytest.approx(4.001)
        assert backend.bill(2, 2, 3.0).rates == "as configured"
        options = backend.spec().options
        assert (options["gb_second_usd"], options["request_usd"]) == (1.0, 0.5)


@pytest.mark.parametrize(("memory_mb", "event_bytes"), [(128, 262_144), (1_769, 262_144), (10_240, 524_288)])
def test_what_is_inline_is_no_dearer_than_fetching_it(server, memory_mb, event_bytes):
    server.configurations["wukong"] = configuration(MemorySize=memory_mb)
    with opened(server) as backend:
        assert backend.limits.inline_bytes == payload_room(event_bytes)
