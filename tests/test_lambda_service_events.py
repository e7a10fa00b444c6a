"""Asynchronous events and limits: retries, dead letters, age, throttling, scaling, duplicates and losses."""

import os
import signal

import pytest
from botocore.exceptions import ClientError
from faas_local_tools import evidence, left
from lambda_service_tools import Function
from waiting import gone, wait

from wukong.testing.lambda_service import LambdaService

pytestmark = pytest.mark.xdist_group("lambda-service-events")


@pytest.fixture(scope="module")
def service():
    with LambdaService(retry_delays_s=[0.01, 0.02], throttle_delay_s=0.0) as service:
        yield service


@pytest.fixture
def function(service, tmp_path):
    return Function(service, service.client(), tmp_path)


@pytest.fixture
def faults(service):
    yield service.set_faults
    service.set_faults(None)


def status(function):
    return function.service.status()["functions"][function.name]


# Retries and dead letters.


@pytest.mark.parametrize("event", [{"do": "raise"}, {"do": "exit", "status": 1}])
def test_an_event_that_fails_is_tried_twice_more_under_its_id_and_then_given_up(function, event):
    request_id = function.send(name="tried", **event)
    [letter] = function.dead_letters()
    assert [each["id"] for each in evidence(function.directory, "tried")] == [request_id] * 3
    assert letter["requestContext"] == {
        "requestId": request_id,
        "functionArn": f"arn:aws:lambda:us-east-1:123456789012:function:{function.name}:$LATEST",
        "condition": "RetriesExhausted",
        "approximateInvokeCount": 3,
    }
    assert letter["requestPayload"] == {"name": "tried", **event}
    assert letter["responseContext"] == {
        "statusCode": 200,
        "executedVersion": "$LATEST",
        "functionError": "Unhandled",
    }
    assert letter["responsePayload"]["errorType"] in ("ValueError", "Runtime.ExitError")
    assert [each["attempt"] for each in function.failures()] == [0, 1, 2]


def test_retries_wait_for_their_delays(tmp_path):
    with LambdaService(retry_delays_s=[0.1, 0.3]) as service:
        function = Function(service, service.client(), tmp_path)
        function.send(do="raise", name="tried")
        function.dead_letters()
        first, second, third = sorted(each["time"] for each in evidence(tmp_path, "tried"))
        assert second - first >= 0.1
        assert third - second >= 0.3


def test_an_event_that_succeeds_is_not_tried_again(function):
    function.send(name="done")
    left(function.directory, 1, "done")
    function.resting()
    assert status(function) == {"in_flight": 0, "backlog": 0, "resting": 0}
    assert function.failures() == []


def test_how_often_an_event_is_tried_is_configured(function):
    function.client.put_function_event_invoke_config(FunctionName=function.name, MaximumRetryAttempts=0)
    function.send(do="raise", name="tried")
    [letter] = function.dead_letters()
    assert letter["requestContext"]["approximateInvokeCount"] == 1
    assert len(evidence(function.directory, "tried")) == 1


def test_an_event_that_would_be_too_old_is_not_tried_again(tmp_path):
    with LambdaService(retry_delays_s=[60.0], event_age_s=30.0) as service:
        function = Function(service, service.client(), tmp_path)
        function.send(do="raise")
        [letter] = function.dead_letters()
        assert letter["requestContext"]["condition"] == "EventAgeExceeded"
        assert letter["requestContext"]["approximateInvokeCount"] == 1


def test_an_event_that_waited_too_long_for_room_is_given_up(tmp_path):
    with LambdaService(concurrency=1, event_age_s=1.0, throttle_delay_s=0.0) as service:
        function = Function(service, service.client(), tmp_path, Timeout=60)
        function.send(do="wait", name="here", **{"for": "gate"})
        left(tmp_path, 1, "here")
        request_id = function.send(name="late")
        [letter] = function.dead_letters()
        assert letter["requestContext"]["condition"] == "EventAgeExceeded"
        assert letter["requestContext"]["requestId"] == request_id
        assert letter["requestContext"]["approximateInvokeCount"] == 0
        assert evidence(tmp_path, "late") == []


def test_a_failed_synchronous_call_is_the_callers_affair(function):
    function.invoke({"do": "raise", "name": "tried"})
    function.resting()
    assert len(evidence(function.directory, "tried")) == 1
    assert status(function)["resting"] == 0


def test_a_retry_is_made_with_the_newest_code(function):
    function.client.put_function_event_invoke_config(FunctionName=function.name, MaximumRetryAttempts=2)
    function.send(do="wait", name="here", **{"for": "gate"})
    pid = left(function.directory, 1, "here")[0]["pid"]
    variables = {"EVIDENCE": str(function.directory), "NEW": "1"}
    function.client.update_function_configuration(FunctionName=function.name, Environment={"Variables": variables})
    os.kill(pid, signal.SIGKILL)
    left(function.directory, 2, "here")
    function.open_gate("gate")
    [environment] = function.resting()
    assert gone(pid)
    assert environment["invocations"] == 1


# Duplicates and losses.


def test_an_event_is_delivered_twice_under_one_id_if_the_script_says_so(function, faults):
    faults({"duplicate": 1.0})
    request_id = function.send(name="twice")
    assert [each["id"] for each in left(function.directory, 2, "twice")] == [request_id] * 2


def test_an_event_is_lost_without_a_trace_if_the_script_says_so(function, faults):
    lost = function.service.status().get("lost", 0)
    faults({"lost": 1.0})
    function.send(name="lost")
    assert function.service.status()["lost"] == lost + 1
    faults(None)
    function.send(name="next")
    left(function.directory, 1, "next")
    assert evidence(function.directory, "lost") == []


def test_a_retry_draws_a_fault_of_its_own(function, faults):
    """With one crash in two, one event in eight fails three times; if retries repeated the first draw, half would."""
    faults({"seed": 1, "crash_after": 0.5})
    before = len(function.service.dead_letters())
    for _ in range(12):
        function.send(name="tried")
    wait(lambda: status(function) == {"in_flight": 0, "backlog": 0, "resting": 0}, "all events are done with")
    assert len(function.service.dead_letters()) - before < 4
    assert len(evidence(function.directory, "tried")) > 12


# Limits.


def throttled(function, reason, **event):
    with pytest.raises(function.client.exceptions.TooManyRequestsException) as caught:
        function.invoke(event)
    response = caught.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 429
    assert response["Error"]["Message"] == "Rate Exceeded."
    assert response["Reason"] == reason
    assert int(response["retryAfterSeconds"]) >= 1


def test_calls_over_a_functions_reserved_concurrency_are_refused_and_events_wait(function):
    function.client.put_function_concurrency(FunctionName=function.name, ReservedConcurrentExecutions=1)
    assert function.client.get_function_concurrency(FunctionName=function.name)["ReservedConcurrentExecutions"] == 1
    function.send(do="wait", name="here", **{"for": "gate"})
    left(function.directory, 1, "here")
    throttled(function, "ReservedFunctionConcurrentInvocationLimitExceeded")
    function.send(name="later")
    assert status(function) == {"in_flight": 1, "backlog": 1, "resting": 0}
    function.open_gate("gate")
    left(function.directory, 1, "later")
    assert len(function.resting()) == 1
    function.call()
    function.client.delete_function_concurrency(FunctionName=function.name)
    assert "ReservedConcurrentExecutions" not in function.client.get_function_concurrency(FunctionName=function.name)


def test_no_reserved_concurrency_switches_a_function_off(function):
    function.client.put_function_concurrency(FunctionName=function.name, ReservedConcurrentExecutions=0)
    throttled(function, "ReservedFunctionConcurrentInvocationLimitExceeded")


def test_one_call_after_the_other_fits_a_concurrency_of_one(function):
    function.client.put_function_concurrency(FunctionName=function.name, ReservedConcurrentExecutions=1)
    assert [function.call()["calls"] for _ in range(20)] == list(range(1, 21))


# Functions that invoke themselves. botocore passes the trace on if it takes itself to be inside of a function.


def invoked_in_a_chain(function, monkeypatch, length):
    """Invoke the function once for each link of a chain, as if each invocation came from the one before it."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", function.name)
    monkeypatch.delenv("_X_AMZN_TRACE_ID", raising=False)
    for _ in range(length):
        answer = function.call(do="context")
        monkeypatch.setenv("_X_AMZN_TRACE_ID", answer["environment"]["_X_AMZN_TRACE_ID"])


def test_a_chain_of_invocations_is_ended_after_16(function, monkeypatch):
    invoked_in_a_chain(function, monkeypatch, 16)
    with pytest.raises(function.client.exceptions.RecursiveInvocationException):
        function.invoke()
    request_id = function.send(name="never")
    [letter] = function.dead_letters()
    assert letter["requestContext"]["requestId"] == request_id
    assert evidence(function.directory, "never") == []
    monkeypatch.delenv("_X_AMZN_TRACE_ID")
    function.call()


def test_a_function_may_be_allowed_to_invoke_itself_for_ever(function, monkeypatch):
    client, name = function.client, function.name
    assert client.get_function_recursion_config(FunctionName=name)["RecursiveLoop"] == "Terminate"
    client.put_function_recursion_config(FunctionName=name, RecursiveLoop="Allow")
    assert client.get_function_recursion_config(FunctionName=name)["RecursiveLoop"] == "Allow"
    invoked_in_a_chain(function, monkeypatch, 20)


def test_no_more_may_be_reserved_than_there_is(function):
    most = function.service.settings.most_at_once()
    with pytest.raises(ClientError, match="UnreservedConcurrentExecution"):
        function.client.put_function_concurrency(FunctionName=function.name, ReservedConcurrentExecutions=most + 1)


def test_the_accounts_concurrency_is_shared_by_all_functions(tmp_path):
    with LambdaService(concurrency=2, throttle_delay_s=0.0) as service:
        one = Function(service, service.client(), tmp_path)
        other = Function(service, service.client(), tmp_path)
        for function in (one, other):
            function.send(do="wait", name="here", **{"for": "gate"})
        left(tmp_path, 2, "here")
        throttled(one, "ConcurrentInvocationLimitExceeded")
        other.send(name="later")
        one.open_gate("gate")
        left(tmp_path, 1, "later")


def test_environments_make_room_for_those_of_other_functions(tmp_path):
    with LambdaService(concurrency=2) as service:
        one = Function(service, service.client(), tmp_path)
        other = Function(service, service.client(), tmp_path)
        service.warm(one.name, 2)
        one.resting(2)
        other.call()
        wait(lambda: len(one.environments()) == 1, "one environment made room")
        assert len(other.environments()) == 1


def test_new_environments_come_at_a_limited_rate(tmp_path):
    with LambdaService(scaling=2, scaling_period_s=10_000.0) as service:
        function = Function(service, service.client(), tmp_path)
        for _ in range(2):
            function.send(do="wait", name="here", **{"for": "gate"})
        left(tmp_path, 2, "here")
        throttled(function, "ConcurrentInvocationLimitExceeded")
        function.open_gate("gate")
        function.resting(2)
        function.call()


def test_the_rate_of_new_environments_is_each_functions_own(tmp_path):
    with LambdaService(scaling=1, scaling_period_s=10_000.0) as service:
        for _ in range(2):
            function = Function(service, service.client(), tmp_path)
            assert [function.call()["calls"] for _ in range(20)] == list(range(1, 21))


@pytest.mark.parametrize("delay_s", [0.05, 1_000.0])
def test_a_throttled_queue_rests_before_it_goes_on(tmp_path, delay_s):
    with LambdaService(concurrency=1, throttle_delay_s=delay_s) as service:
        function = Function(service, service.client(), tmp_path)
        function.send(do="wait", name="first", **{"for": "gate"})
        left(tmp_path, 1, "first")
        function.send(name="second")
        function.open_gate("gate")
        if delay_s < 1:
            left(tmp_path, 1, "second")
        else:
            function.resting()
            assert status(function)["backlog"] == 1
            assert evidence(tmp_path, "second") == []


def test_events_that_wait_go_in_their_order(tmp_path):
    with LambdaService(concurrency=1, throttle_delay_s=0.0) as service:
        function = Function(service, service.client(), tmp_path)
        function.send(do="wait", name="gate keeper", **{"for": "gate"})
        left(tmp_path, 1, "gate keeper")
        sent = [function.send(name="queued") for _ in range(10)]
        function.open_gate("gate")
        arrived = sorted(left(tmp_path, 10, "queued"), key=lambda each: each["time"])
        assert [each["id"] for each in arrived] == sent


def test_only_so_many_environments_start_at_once(tmp_path):
    slow = "import time; time.sleep(0.05)\ndef handler(event, context): return 1"
    with LambdaService(starts_at_once=1) as service:
        function = Function(service, service.client(), tmp_path, slow)
        for _ in range(4):
            function.send()
        most = 0

        def done():
            nonlocal most
            most = max(most, service.status()["environments"].get("starting", 0))
            return service.status().get("succeeded") == 4

        wait(done, "all events are done with")
        assert most == 1


def test_a_deleted_functions_events_go_with_it(function):
    function.client.put_function_concurrency(FunctionName=function.name, ReservedConcurrentExecutions=1)
    function.send(do="wait", name="here", **{"for": "gate"})
    pid = left(function.directory, 1, "here")[0]["pid"]
    function.send(name="never")
    function.client.delete_function(FunctionName=function.name)
    function.open_gate("gate")
    wait(lambda: gone(pid), "its environment is gone")
    assert evidence(function.directory, "never") == []


def test_what_was_billed_is_added_up(tmp_path):
    with LambdaService() as service:
        function = Function(service, service.client(), tmp_path, MemorySize=1_024)
        for _ in range(3):
            function.call()
        found = service.status()
        assert (found["requests"], found["attempts"], found["succeeded"], found["cold_starts"]) == (3, 3, 3, 1)
        assert found["billed_ms"] >= 3
        assert found["billed_gb_s"] == pytest.approx(found["billed_ms"] / 1_000)
