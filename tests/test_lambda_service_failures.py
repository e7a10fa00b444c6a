"""What the Lambda service does when functions crash, hang, grow or cannot start: Lambda's words, and a fresh start."""

import base64
import json
import os
import signal
from pathlib import Path

import pytest
from faas_local_tools import evidence, left
from lambda_service_tools import FUNCTION, Function
from waiting import gone, wait

from wukong.testing.lambda_service import LambdaService

pytestmark = pytest.mark.xdist_group("lambda-service-failures")


@pytest.fixture(scope="module")
def service():
    with LambdaService(retry_delays_s=[]) as service:
        yield service


@pytest.fixture(scope="module")
def hasty():
    """A service with time limits that are over soon."""
    with LambdaService(retry_delays_s=[], time_limit_s=1.0) as service:
        yield service


@pytest.fixture
def function(service, tmp_path):
    return Function(service, service.client(), tmp_path)


def tail(answer):
    """Return the log tail of an answer as lines."""
    return base64.b64decode(answer["LogResult"]).decode().splitlines()


# Crashes.


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "Runtime exited without providing a reason"), (3, "Runtime exited with error: exit status 3")],
)
def test_a_function_that_exits_is_answered_for(function, status, words):
    answer = function.invoke({"do": "exit", "status": status}, LogType="Tail")
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    request_id = answer["ResponseMetadata"]["RequestId"]
    expected = {"errorType": "Runtime.ExitError", "errorMessage": f"RequestId: {request_id} Error: {words}"}
    assert answer["Payload"] == expected
    lines = tail(answer)
    assert f"RequestId: {request_id} Error: {words}" in lines
    assert lines[-1].rstrip().endswith("Status: error\tError Type: Runtime.ExitError")


def test_a_function_that_is_killed_is_answered_for(function):
    thread, answers = function.background(do="wait", name="here", **{"for": "never"})
    os.kill(left(function.directory, 1, "here")[0]["pid"], signal.SIGKILL)
    thread.join()
    assert answers[0]["Payload"]["errorMessage"].endswith("Error: Runtime exited with error: signal: killed")
    assert function.failures()[0]["reason"] == "crash"


def test_after_a_crash_the_next_call_starts_cold(function):
    first = function.call()
    function.invoke({"do": "exit", "status": 1})
    second = function.call()
    assert first["instance"] != second["instance"]
    assert second["calls"] == 1


def test_after_an_exception_the_next_call_finds_the_same_environment(function):
    first = function.call()
    function.invoke({"do": "raise"})
    assert function.call()["instance"] == first["instance"]


def test_what_a_function_has_started_ends_with_its_environment(function):
    function.call(do="child")
    child = left(function.directory, 1, "child")[0]["pid"]
    assert not gone(child)
    function.invoke({"do": "exit", "status": 1})
    wait(lambda: gone(child), "the child is gone")


def test_an_environment_that_dies_while_it_is_frozen_is_not_used_again(function):
    pid = function.call()["pid"]
    function.resting()
    os.kill(pid, signal.SIGKILL)
    wait(lambda: not function.environments(), "its end is known")
    assert function.call()["calls"] == 1


# Time and memory.


def test_a_function_over_its_time_limit_is_killed(hasty, tmp_path):
    function = Function(hasty, hasty.client(), tmp_path)
    thread, answers = function.background(do="wait", name="here", **{"for": "never"})
    pid = left(tmp_path, 1, "here")[0]["pid"]
    thread.join()
    request_id = answers[0]["ResponseMetadata"]["RequestId"]
    words = "Task timed out after 1.00 seconds"
    assert (answers[0]["StatusCode"], answers[0]["FunctionError"]) == (200, "Unhandled")
    assert answers[0]["Payload"] == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: {request_id} Error: {words}",
    }
    assert gone(pid)
    log = hasty.logs(function.name)
    assert any(line.endswith(f"{request_id} {words}\n\n") for line in log)
    assert "Status: timeout" in log[-1]
    assert function.failures()[0]["reason"] == "timeout"


def test_the_time_limit_is_worded_as_aws_words_it(service, tmp_path):
    function = Function(service, service.client(), tmp_path, Timeout=1)
    answer = function.invoke({"do": "wait", "for": "never"})
    assert answer["Payload"]["errorMessage"].endswith("Error: Task timed out after 1.00 seconds")


def test_a_child_that_a_function_waits_for_ends_at_its_time_limit_too(hasty, tmp_path):
    function = Function(hasty, hasty.client(), tmp_path)
    assert "timed out" in function.invoke({"do": "child", "seconds": 60})["Payload"]["errorMessage"]
    wait(lambda: gone(left(tmp_path, 1, "child")[0]["pid"]), "the child is gone")


def test_a_function_over_its_memory_is_killed(function):
    answer = function.invoke({"do": "fill", "size": 200 * 1_048_576}, LogType="Tail")
    assert answer["Payload"]["errorType"] == "Runtime.OutOfMemory"
    assert answer["Payload"]["errorMessage"].endswith("Error: Runtime exited with error: signal: killed")
    report = tail(answer)[-1]
    assert "Max Memory Used: 128 MB\t" in report
    assert report.endswith("Status: error\tError Type: Runtime.OutOfMemory")
    assert function.failures()[0]["reason"] == "memory"


def test_memory_within_the_limit_is_a_functions_own_affair(service, tmp_path):
    function = Function(service, service.client(), tmp_path, MemorySize=512)
    thread, answers = function.background(do="fill", size=200 * 1_048_576, name="here")
    pid = left(tmp_path, 1, "here")[0]["pid"]
    resident = Path(f"/proc/{pid}/statm")
    wait(lambda: int(resident.read_text().split()[1]) > 50_000, "the memory is in use")
    os.kill(pid, signal.SIGTERM)
    thread.join()
    assert answers[0]["Payload"]["errorMessage"].endswith("signal: terminated")


# Starting.


@pytest.mark.parametrize(
    ("code", "handler", "kind", "message"),
    [
        ("import nowhere", "function.handler", "Runtime.ImportModuleError", "No module named 'nowhere'"),
        ("def handler(", "function.handler", "Runtime.UserCodeSyntaxError", "Syntax error in module 'function'"),
        ("x = 1", "function.handler", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'function'"),
        ("raise KeyError('no key')", "function.handler", "KeyError", "no key"),
    ],
)
def test_a_function_that_cannot_be_initialised_says_why(service, tmp_path, code, handler, kind, message):
    function = Function(service, service.client(), tmp_path, code, handler=handler)
    answer = function.invoke(LogType="Tail")
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert answer["Payload"]["errorType"] == kind
    assert message in answer["Payload"]["errorMessage"]
    reports = [line for line in service.logs(function.name) if line.startswith("INIT_REPORT")]
    assert [report.split("\t")[1] for report in reports] == ["Phase: init", "Phase: invoke"]
    assert function.failures()[0]["reason"] == "start"
    assert function.environments() == []


def test_a_function_that_exits_while_it_is_initialised_is_answered_for(service, tmp_path):
    function = Function(service, service.client(), tmp_path, "import os; os._exit(4)")
    answer = function.invoke()
    assert answer["Payload"]["errorType"] == "Runtime.ExitError"
    assert answer["Payload"]["errorMessage"].endswith("Runtime exited with error: exit status 4")


ONCE = """
import os
marker = os.path.join(os.environ["EVIDENCE"], "tried")
if not os.path.exists(marker):
    open(marker, "w").close()
    {}
"""


def test_initialising_that_failed_is_tried_again_within_the_invocation(service, tmp_path):
    function = Function(service, service.client(), tmp_path, ONCE.format("os._exit(1)") + FUNCTION)
    assert function.call()["calls"] == 1


def test_initialising_that_takes_too_long_is_cut_short_and_tried_again(tmp_path):
    code = ONCE.format("import time; time.sleep(60)") + FUNCTION
    with LambdaService(init_s=2.0, time_limit_s=20.0) as service:
        function = Function(service, service.client(), tmp_path, code)
        assert function.call()["calls"] == 1
        [report] = [line for line in service.logs(function.name) if line.startswith("INIT_REPORT")]
        assert "Phase: init\tStatus: timeout" in report


def test_initialising_again_counts_towards_the_time_limit(tmp_path):
    code = "import time; time.sleep(60)\ndef handler(event, context): return 1"
    with LambdaService(init_s=0.1, time_limit_s=0.2) as service:
        function = Function(service, service.client(), tmp_path, code)
        assert "Task timed out after 0.20 seconds" in function.invoke()["Payload"]["errorMessage"]


# Scripted faults.


@pytest.fixture
def faults(service):
    yield service.set_faults
    service.set_faults(None)


@pytest.mark.parametrize(("when", "called"), [("before", 0), ("during", 1), ("after", 1)])
def test_a_crash_is_scripted_before_during_or_after_the_function(function, faults, when, called):
    function.call()
    faults({f"crash_{when}": 1.0, "crash_at_task": 100})
    event = {"do": "wait", "name": "here", "for": "never" if when == "during" else "."}
    answer = function.invoke(event)
    assert answer["Payload"]["errorType"] == "Runtime.ExitError"
    assert len(evidence(function.directory, "here")) == called


def test_throttling_is_scripted(function, faults):
    faults({"throttle": 1.0})
    with pytest.raises(function.client.exceptions.TooManyRequestsException) as caught:
        function.invoke()
    assert caught.value.response["Reason"] == "CallerRateLimitExceeded"
    assert caught.value.response["retryAfterSeconds"] == "1"


def test_the_same_seed_scripts_the_same_faults(function, faults):
    def outcomes():
        faults({"seed": 5, "crash_before": 0.5})
        return ["FunctionError" in function.invoke() for _ in range(8)]

    first = outcomes()
    assert {True, False} == set(first)
    assert outcomes() == first


def test_latency_and_cold_starts_are_scripted(function, faults):
    faults({"start_latency_s": 0.05, "cold_start_s": 0.2})
    answer = function.invoke(LogType="Tail")
    report = dict(part.split(": ", 1) for part in tail(answer)[-1].strip().split("\t"))
    assert float(report["Init Duration"].removesuffix(" ms")) >= 200
    assert "FunctionError" not in answer


def test_a_script_that_makes_no_sense_is_refused(service):
    with pytest.raises(RuntimeError, match="crash_befor"):
        service.set_faults({"crash_befor": 1.0})


# Functions that call functions.


CALLER = """
import boto3, json

def handler(event, context):
    client = boto3.client("lambda")
    answer = client.invoke(FunctionName=event["function"], Payload=json.dumps(event["event"]))
    return json.load(answer["Payload"])
"""


def test_a_function_reaches_the_service_with_boto3_as_it_would_reach_aws(service, function, tmp_path):
    caller = Function(service, function.client, tmp_path, CALLER, MemorySize=512, Timeout=30)
    answer = caller.invoke({"function": function.name, "event": {"from": "inside"}})
    assert answer["Payload"]["event"] == {"from": "inside"}, json.dumps(answer["Payload"])
