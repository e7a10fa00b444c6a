"""The Lambda service as a client sees it: real boto3 over HTTP, real awslambdaric processes behind it."""

import base64
import http.client
import io
import json
import re
import socket
import zipfile
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from faas_local_tools import left
from lambda_service_tools import FUNCTION, Function, state
from waiting import wait

from wukong.emulators.aws_lambda.configuration import RUNTIME
from wukong.errors import ConfigError
from wukong.testing.lambda_service import LambdaService, deployment_package

pytestmark = pytest.mark.xdist_group("lambda-service")


@pytest.fixture(scope="module")
def service():
    with LambdaService(throttle_delay_s=0.0, retry_delays_s=[0.01, 0.01]) as service:
        yield service


@pytest.fixture(scope="module")
def client(service):
    return service.client()


@pytest.fixture(scope="module")
def shared(service, client, tmp_path_factory):
    """A function for tests that leave nothing behind in it."""
    return Function(service, client, tmp_path_factory.mktemp("evidence"))


@pytest.fixture
def function(service, client, tmp_path):
    made = Function(service, client, tmp_path)
    yield made
    client.delete_function(FunctionName=made.name)


def refused(call, **arguments):
    """Return the error that a call of boto3's ends with."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response


def send_raw(service, data):
    """Send bytes to the service; return what it answers until it hangs up."""
    parts = urlsplit(service.url)
    with socket.create_connection((parts.hostname, parts.port), 10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


def signed(service, url, body):
    """Return a request as botocore signs it."""
    request = AWSRequest("POST", url, data=body)
    key = Credentials(service.settings.access_key, service.settings.secret_key)
    SigV4Auth(key, "lambda", "us-east-1").add_auth(request)
    return request


# Invoke.


def test_a_function_is_called_and_its_result_returned(shared):
    answer = shared.invoke({"a": [1, "ü"]})
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert answer["Payload"]["event"] == {"a": [1, "ü"]}
    assert answer["Payload"]["id"] == answer["ResponseMetadata"]["RequestId"]
    assert "FunctionError" not in answer


def test_no_payload_is_an_empty_event(shared):
    assert shared.invoke()["Payload"]["event"] == {}


def test_an_environment_is_used_again_one_call_after_the_other(function):
    calls = [function.call() for _ in range(5)]
    assert [call["calls"] for call in calls] == [1, 2, 3, 4, 5]
    assert len({call["instance"] for call in calls}) == 1
    assert [each["invocations"] for each in function.environments()] == [5]


def test_calls_at_once_run_in_environments_of_their_own(function):
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(function.call, do="wait", name="here", **{"for": "gate"}) for _ in range(3)]
        assert len({each["pid"] for each in left(function.directory, 3, "here")}) == 3  # before any may go on
        function.open_gate("gate")
        assert len({each.result()["instance"] for each in waiting}) == 3
    assert function.service.status()["functions"][function.name]["in_flight"] == 0


def test_a_dry_run_runs_nothing(function):
    answer = function.client.invoke(FunctionName=function.name, InvocationType="DryRun")
    assert answer["StatusCode"] == 204
    assert function.environments() == []


def test_what_a_function_raises_is_an_answer_and_not_an_http_error(shared):
    answer = shared.invoke({"do": "raise"})
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    error = answer["Payload"]
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "no such luck")
    assert error["requestId"] == answer["ResponseMetadata"]["RequestId"]
    assert any("in handler" in frame for frame in error["stackTrace"])


def test_the_log_tail_has_the_output_between_the_platforms_own_lines(shared):
    shared.invoke()
    answer = shared.invoke({"do": "print", "text": "hello"}, LogType="Tail")
    request_id = answer["ResponseMetadata"]["RequestId"]
    lines = base64.b64decode(answer["LogResult"]).decode().splitlines()
    assert lines[0] == f"START RequestId: {request_id} Version: $LATEST"
    assert lines[1:3] == ["hello", "to stderr"]
    assert lines[3] == f"END RequestId: {request_id}"
    report = dict(part.split(": ", 1) for part in lines[4].strip().removeprefix("REPORT ").split("\t"))
    assert report["RequestId"] == request_id
    assert report["Memory Size"] == "128 MB"
    assert 5 < int(report["Max Memory Used"].removesuffix(" MB")) < 128
    assert int(report["Billed Duration"].removesuffix(" ms")) >= float(report["Duration"].removesuffix(" ms"))
    assert "Init Duration" not in report


def test_the_log_tail_is_the_last_4_kb(shared):
    answer = shared.invoke({"do": "print", "text": "x" * 5_000}, LogType="Tail")
    tail = base64.b64decode(answer["LogResult"])
    assert len(tail) == 4_096
    assert b"REPORT" in tail
    assert b"START" not in tail


def test_a_line_that_has_no_end_gets_one(shared):
    answer = shared.invoke({"do": "write", "text": "half a line"}, LogType="Tail")
    assert base64.b64decode(answer["LogResult"]).decode().splitlines()[1] == "half a line"
    assert "half a line\n" in "".join(shared.service.logs(shared.name))


def test_there_is_no_log_tail_unless_asked_for(shared):
    assert "LogResult" not in shared.invoke()


def test_a_cold_start_is_reported_and_billed(function):
    answer = function.invoke(LogType="Tail")
    text = base64.b64decode(answer["LogResult"]).decode()
    assert "initialised" in text
    report = dict(part.split(": ", 1) for part in text.splitlines()[-1].strip().split("\t"))
    init_ms = float(report["Init Duration"].removesuffix(" ms"))
    assert init_ms > 0
    assert float(report["Billed Duration"].removesuffix(" ms")) >= init_ms


def test_a_function_finds_the_environment_that_lambda_gives(service, client, tmp_path):
    function = Function(service, client, tmp_path, variables={"OWN": "mine"}, MemorySize=256, Timeout=7)
    context = function.call(do="context")
    found = context["environment"]
    assert found["AWS_LAMBDA_FUNCTION_NAME"] == context["name"] == function.name
    assert found["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == str(context["memory"]) == "256"
    assert found["AWS_LAMBDA_FUNCTION_VERSION"] == context["version"] == "$LATEST"
    assert found["AWS_LAMBDA_LOG_GROUP_NAME"] == f"/aws/lambda/{function.name}"
    assert found["AWS_LAMBDA_LOG_STREAM_NAME"] == function.environments()[0]["log_stream"]
    assert found["AWS_REGION"] == found["AWS_DEFAULT_REGION"] == "us-east-1"
    assert found["_HANDLER"] == "function.handler"
    assert found["TZ"] == ":UTC"
    assert found["OWN"] == "mine"
    assert found["LAMBDA_TASK_ROOT"] == context["path"][0]
    assert found["AWS_LAMBDA_RUNTIME_API"].startswith("127.0.0.1:")
    assert found["_X_AMZN_TRACE_ID"].startswith("Root=1-")
    assert "HOME" not in found
    assert "WUKONG" not in " ".join(found)
    assert 6_000 < context["left_ms"] <= 7_000


def test_a_function_sees_its_package_and_lambdas_runtime_and_nothing_else(service, client, tmp_path):
    code = (
        "from importlib.util import find_spec\ndef handler(names, _): return [find_spec(n) is not None for n in names]"
    )
    function = Function(service, client, tmp_path, code={"function.py": code, "own/__init__.py": ""})
    found = function.invoke(["own", "awslambdaric", "boto3", "dask", "wukong", "pytest"])["Payload"]
    assert found == [True, True, True, False, False, False]


def test_the_client_context_reaches_a_synchronous_function(shared):
    context = base64.b64encode(json.dumps({"custom": {"caller": "test"}}).encode()).decode()
    assert shared.invoke({"do": "context"}, ClientContext=context)["Payload"]["client"] == {"caller": "test"}


def test_a_client_context_that_is_no_json_is_refused(shared):
    error = refused(shared.client.invoke, FunctionName=shared.name, ClientContext="####")
    assert error["Error"]["Code"] == "InvalidParameterValueException"


def test_an_event_is_accepted_at_once_and_runs_with_the_id_that_was_returned(function):
    request_id = function.send(name="event")
    assert [each["id"] for each in left(function.directory, 1, "event")] == [request_id]


@pytest.mark.parametrize("kind", ["Event", "RequestResponse"])
@pytest.mark.parametrize("payload", [b"{", b"{'a': 1}", b"NaN", b"\x87", b"[" * 100_000])
def test_an_event_that_is_no_json_is_refused(shared, kind, payload):
    error = refused(shared.client.invoke, FunctionName=shared.name, InvocationType=kind, Payload=payload)
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert error["Error"]["Code"] == "InvalidRequestContentException"
    assert error["Error"]["Message"].startswith("Could not parse request body into json: ")


@pytest.mark.parametrize(("kind", "limit"), [("Event", 1_048_576), ("RequestResponse", 6_291_456)])
def test_the_payload_limits_are_exact(shared, kind, limit):
    largest = b'"' + b"x" * (limit - 2) + b'"'
    answer = shared.client.invoke(FunctionName=shared.name, InvocationType=kind, Payload=largest)
    answer["Payload"].read()
    with pytest.raises(shared.client.exceptions.RequestTooLargeException) as caught:
        shared.client.invoke(FunctionName=shared.name, InvocationType=kind, Payload=largest + b" ")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413
    expected = f"{limit + 1} byte payload is too large for the {kind} invocation type (limit {limit} bytes)"
    assert caught.value.response["Error"]["Message"] == expected


def test_a_response_over_the_limit_is_an_error_and_the_function_goes_on(function):
    assert len(function.call(do="return", size=6_291_554)) == 6_291_554  # and two quotes
    answer = function.invoke({"do": "return", "size": 6_291_555})
    assert answer["FunctionError"] == "Unhandled"
    assert answer["Payload"] == {
        "errorType": "Function.ResponseSizeTooLarge",
        "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes).",
    }
    assert function.call()["event"] == {}


# How functions are called.


def test_a_function_may_be_called_by_name_or_arn_in_whole_or_in_part(shared):
    arn = f"arn:aws:lambda:us-east-1:123456789012:function:{shared.name}"
    called = [shared.name, arn, f"123456789012:function:{shared.name}", f"function:{shared.name}"]
    assert [shared.invoke({"do": "context"}, name)["Payload"]["arn"] for name in called] == [arn] * 4


@pytest.mark.parametrize("qualifier", [None, "$LATEST"])
def test_a_function_is_told_how_it_was_called(shared, qualifier):
    more = {} if qualifier is None else {"Qualifier": qualifier}
    arn = f"arn:aws:lambda:us-east-1:123456789012:function:{shared.name}"
    expected = arn if qualifier is None else f"{arn}:{qualifier}"
    assert shared.invoke({"do": "context"}, **more)["Payload"]["arn"] == expected


@pytest.mark.parametrize("kind", ["Event", "RequestResponse"])
def test_an_unknown_function_is_named(client, kind):
    error = refused(client.invoke, FunctionName="nowhere", InvocationType=kind)
    assert error["ResponseMetadata"]["HTTPStatusCode"] == 404
    assert error["Error"]["Code"] == "ResourceNotFoundException"
    arn = "arn:aws:lambda:us-east-1:123456789012:function:nowhere:$LATEST"
    assert error["Error"]["Message"] == f"Function not found: {arn}"


def test_an_unknown_version_is_named(shared):
    error = refused(shared.client.invoke, FunctionName=shared.name, Qualifier="7")
    assert error["Error"]["Message"].endswith(f"{shared.name}:7")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("arn:aws:lambda:eu-west-1:123456789012:function:echo", "ResourceNotFoundException"),
        ("arn:aws:lambda:us-east-1:999999999999:function:echo", "AccessDeniedException"),
        ("not a name", "ValidationException"),
    ],
)
def test_a_function_elsewhere_or_of_somebody_else_is_not_reached(service, name, code):
    client = service.client(parameter_validation=False)
    assert refused(client.invoke, FunctionName=name)["Error"]["Code"] == code


def test_a_version_and_an_alias_keep_the_code_they_were_made_from(service, client, tmp_path):
    function = Function(service, client, tmp_path, "def handler(event, context): return [1, context.function_version]")
    version = client.publish_version(FunctionName=function.name)["Version"]
    client.create_alias(FunctionName=function.name, Name="live", FunctionVersion=version)
    new = "def handler(event, context): return [2, context.function_version]"
    client.update_function_code(FunctionName=function.name, ZipFile=deployment_package(new))
    answers = {qualifier: function.invoke(Qualifier=qualifier) for qualifier in ("$LATEST", version, "live")}
    assert {qualifier: answer["Payload"] for qualifier, answer in answers.items()} == {
        "$LATEST": [2, "$LATEST"],
        "1": [1, "1"],
        "live": [1, "1"],
    }
    assert answers["live"]["ExecutedVersion"] == "1"
    client.update_alias(FunctionName=function.name, Name="live", FunctionVersion="$LATEST")
    assert function.invoke(Qualifier="live")["Payload"] == [2, "$LATEST"]


# The control plane.


def test_a_function_is_made_found_listed_and_deleted_with_boto3(service, client, tmp_path):
    function = Function(service, client, tmp_path, Tags={"team": "blue"}, Description="a test")
    client.get_waiter("function_active_v2").wait(FunctionName=function.name)
    found = client.get_function(FunctionName=function.name)
    assert found["Tags"] == {"team": "blue"}
    configuration = client.get_function_configuration(FunctionName=function.name)
    assert configuration["State"] == "Active"
    assert configuration["LastUpdateStatus"] == "Successful"
    assert configuration["Description"] == "a test"
    assert configuration["CodeSize"] == len(deployment_package(FUNCTION))
    assert function.name in [each["FunctionName"] for each in client.list_functions()["Functions"]]
    function.call()
    client.delete_function(FunctionName=function.name)
    assert refused(client.get_function, FunctionName=function.name)["Error"]["Code"] == "ResourceNotFoundException"
    assert refused(client.invoke, FunctionName=function.name)["Error"]["Code"] == "ResourceNotFoundException"


def test_a_name_is_not_given_twice(shared):
    with pytest.raises(ClientError, match="ResourceConflictException"):
        shared.service.create_function(shared.name, FUNCTION)


def test_new_code_serves_from_the_next_call_on(function):
    function.call()
    package = deployment_package("def handler(event, context): return 'new'")
    function.client.update_function_code(FunctionName=function.name, ZipFile=package)
    function.client.get_waiter("function_updated_v2").wait(FunctionName=function.name)
    assert function.invoke()["Payload"] == "new"
    function.resting(1)


def test_new_configuration_serves_from_the_next_call_on(function):
    first = function.call(do="context")
    variables = {"EVIDENCE": str(function.directory), "OWN": "new"}
    function.client.update_function_configuration(
        FunctionName=function.name, Environment={"Variables": variables}, MemorySize=512, Timeout=20
    )
    second = function.call(do="context")
    assert (first["environment"].get("OWN"), second["environment"]["OWN"]) == (None, "new")
    assert (first["memory"], second["memory"]) == ("128", "512")
    assert second["left_ms"] > 10_000


def test_a_call_that_runs_while_the_code_changes_is_finished_with_the_old_code(function):
    thread, answers = function.background(do="wait", name="here", **{"for": "gate"})
    left(function.directory, 1, "here")
    package = deployment_package("def handler(event, context): return 'new'")
    function.client.update_function_code(FunctionName=function.name, ZipFile=package)
    assert function.invoke()["Payload"] == "new"
    function.open_gate("gate")
    thread.join()
    assert answers[0]["Payload"]["calls"] == 1
    function.resting(1)


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"Code": {"ZipFile": b"no zip"}}, "InvalidParameterValueException", "Could not unzip uploaded file"),
        ({"Code": {"S3Bucket": "bucket", "S3Key": "key"}}, "InvalidParameterValueException", "takes code as a ZipFile"),
        ({"PackageType": "Image"}, "InvalidParameterValueException", "no container images"),
        ({"Runtime": "python3.8"}, "InvalidParameterValueException", "not python3.8"),
        ({"Timeout": 901}, "ValidationException", "less than or equal to 900"),
        ({"EphemeralStorage": {"Size": 10_241}}, "ValidationException", "'10241' at 'ephemeralStorage.size'"),
        ({"MemorySize": 10_241}, "ValidationException", "less than or equal to 10240"),
        ({"Environment": {"Variables": {"AWS_REGION": "x"}}}, "InvalidParameterValueException", "reserved keys"),
        ({"Environment": {"Variables": {"BIG": "x" * 4_096}}}, "InvalidParameterValueException", "4KB limit"),
    ],
)
def test_what_aws_would_not_take_is_refused(service, client, change, code, message):
    good = {"Runtime": RUNTIME, "Role": "arn:aws:iam::123456789012:role/r", "Handler": "function.handler"}
    good["Code"] = {"ZipFile": deployment_package(FUNCTION)}
    error = refused(client.create_function, FunctionName="refused", **{**good, **change})
    assert error["Error"]["Code"] == code
    assert message in error["Error"]["Message"]
    assert "refused" not in [each["FunctionName"] for each in client.list_functions()["Functions"]]


def test_executables_in_a_package_stay_executable(service, client, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("function.py", "import os\ndef handler(e, c): return os.access('tool', os.X_OK)")
        tool = zipfile.ZipInfo("tool")
        tool.external_attr = 0o100755 << 16
        archive.writestr(tool, "#!/bin/sh\n")
    assert Function(service, client, tmp_path, buffer.getvalue()).invoke()["Payload"] is True


def test_an_event_invoke_configuration_is_kept_changed_and_deleted(shared):
    client, name = shared.client, shared.name
    client.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    changed = client.update_function_event_invoke_config(FunctionName=name, MaximumEventAgeInSeconds=60)
    assert (changed["MaximumRetryAttempts"], changed["MaximumEventAgeInSeconds"]) == (0, 60)
    found = client.get_function_event_invoke_config(FunctionName=name)
    assert (found["MaximumRetryAttempts"], found["MaximumEventAgeInSeconds"]) == (0, 60)
    client.delete_function_event_invoke_config(FunctionName=name)
    error = refused(client.get_function_event_invoke_config, FunctionName=name)
    assert error["Error"]["Code"] == "ResourceNotFoundException"


def test_account_settings_tell_the_concurrency_limit(service, client):
    limits = client.get_account_settings()["AccountLimit"]
    assert limits["ConcurrentExecutions"] == service.settings.most_at_once()


# Who may ask.


def test_a_request_without_a_signature_is_refused(service):
    answer = send_raw(service, b"GET /2015-03-31/functions/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"x-amzn-ErrorType: MissingAuthenticationTokenException" in answer
    assert answer.endswith(b'{"message":"Missing Authentication Token"}')


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"aws_secret_access_key": "guessed"}, "InvalidSignatureException"),
        ({"aws_access_key_id": "AKIAGUESSED"}, "UnrecognizedClientException"),
        ({"region_name": "eu-west-1"}, "InvalidSignatureException"),
    ],
)
def test_a_signature_by_another_key_or_for_another_region_is_refused(service, wrong, code):
    client = boto3.client("lambda", config=Config(retries={"total_max_attempts": 1}), **{**service.options, **wrong})
    error = refused(client.list_functions)
    assert (error["ResponseMetadata"]["HTTPStatusCode"], error["Error"]["Code"]) == (403, code)


def test_a_signature_covers_the_payload(service, shared):
    url = f"{service.url}/2015-03-31/functions/{shared.name}/invocations?Qualifier=%24LATEST"
    request = signed(service, url, b'{"a": 1}')
    parts = urlsplit(url)
    statuses = []
    for body in (b'{"a": 1}', b'{"a": 2}'):
        connection = http.client.HTTPConnection(parts.hostname, parts.port)
        connection.request("POST", f"{parts.path}?{parts.query}", body, dict(request.headers))
        statuses.append(connection.getresponse().status)
        connection.close()
    assert statuses == [200, 403]


def test_a_page_that_got_here_by_another_name_is_refused(service):
    """A page of the web may make its own name point here; its browser then sends that name."""
    head = b"GET /_wukong/status HTTP/1.1\r\nHost: evil.example:80\r\nAuthorization: Bearer %s\r\n\r\n"
    answer = send_raw(service, head % service.settings.secret_key.encode())
    assert answer.startswith(b"HTTP/1.1 403 ")


def test_what_the_service_tells_about_itself_takes_the_key(service):
    answer = send_raw(service, b"GET /_wukong/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert service.status()["functions"] is not None


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "example.com", ""])
def test_it_listens_on_this_machine_only(host):
    with pytest.raises(ConfigError, match="does not listen on"):
        LambdaService(host=host)


def test_an_unknown_setting_is_an_error_that_names_the_right_one():
    with pytest.raises(ConfigError, match="concurrency"):
        LambdaService(concurency=3)


# The wire.


def test_a_connection_is_kept_for_many_requests(service):
    one = b"GET /_wukong/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n"
    answer = send_raw(service, one % service.settings.secret_key.encode() * 3)
    assert answer.count(b"HTTP/1.1 200 OK") == 3


def test_requests_sent_in_one_go_are_answered_one_after_the_other(service, shared):
    url = f"{service.url}/2015-03-31/functions/{shared.name}/invocations"
    request = signed(service, url, b'{"a": 1}')
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    raw = f"POST {urlsplit(url).path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n{head}Content-Length: 8\r\n\r\n"
    answer = send_raw(service, (raw.encode() + b'{"a": 1}') * 3)
    calls = [int(found) for found in re.findall(rb'"calls": (\d+)', answer)]
    assert len(calls) == 3
    assert calls == list(range(calls[0], calls[0] + 3))
    assert answer.count(b"HTTP/1.1 200 OK") == 3


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"x" * 70_000), 431),
    ],
)
def test_a_request_that_cannot_be_read_is_refused_and_the_connection_ends(service, request_, status):
    assert send_raw(service, request_).startswith(b"HTTP/1.1 %d " % status)


def test_an_operation_that_there_is_not_is_refused(client):
    assert refused(client.list_layers)["ResponseMetadata"]["HTTPStatusCode"] == 404


# Frozen between invocations.


def test_an_environment_is_frozen_between_invocations(function):
    pid = function.call(do="tick")["pid"]
    function.resting()
    wait(lambda: state(pid) == "T", "the process is stopped")
    before = len(left(function.directory, 0, "tick"))
    function.call(do="wait", **{"for": "."})  # returns at once: the background goes on only meanwhile
    thread, _ = function.background(do="wait", **{"for": "gate"})
    left(function.directory, before + 3, "tick")
    function.open_gate("gate")
    thread.join()
    function.resting()
    wait(lambda: state(pid) == "T", "the process is stopped")


def test_environments_can_be_started_before_they_are_needed(function):
    function.service.warm(function.name, 3)
    assert {each["invocations"] for each in function.resting(3)} == {0}
    function.call()
    assert len(function.environments()) == 3
