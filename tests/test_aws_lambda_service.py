"""The backend `aws-lambda` in front of the Lambda service: real functions, run by the real runtime client."""

from contextlib import closing

import pytest
from aws_lambda_server import log_in

from wukong.backends.faas import Invocation
from wukong.backends.faas.aws_lambda import AwsLambda
from wukong.errors import BackendError, Retryable
from wukong.testing.faas import FaaSTests
from wukong.testing.faas_functions import found, payload
from wukong.testing.lambda_service import LambdaService
from wukong.testing.servers import free_port

KEY = "ab" * 32
CONFORM = """
from wukong.backends.faas.aws_lambda.event import asked, unpack
from wukong.backends.faas.description import describe
from wukong.testing.faas_functions import conform


def handler(event, context):
    modules = asked(event)
    if modules is not None:
        return describe(modules)
    conform(unpack(event)[1])
"""
FUNCTIONS = ("wukong", "second")


@pytest.fixture(scope="module")
def service():
    settings = {"site_packages": True, "start": "forked", "retry_delays_s": [0.01, 0.01], "throttle_delay_s": 0.0}
    with LambdaService(**settings) as running:
        for name in FUNCTIONS:
            variables = {"WUKONG_DEPLOYMENT_KEY": KEY, "PYTHONHASHSEED": "0"}  # as it is deployed
            running.create_function(name, CONFORM, Timeout=60, MemorySize=512, variables=variables)
        yield running


@pytest.fixture(autouse=True)
def _account(service, monkeypatch, tmp_path):
    log_in(monkeypatch, tmp_path)
    for name, value in service.environment.items():
        monkeypatch.setenv(name, value)


class OnTheService(FaaSTests):
    deployed_beforehand = True

    @pytest.fixture(autouse=True)
    def _in_front_of(self, service):
        self.service = service

    def make_unreachable_faas(self, function):
        return AwsLambda(endpoint_url=f"http://127.0.0.1:{free_port()}", patience_s=1.0)


class TestAwsLambda(OnTheService):
    def make_faas(self, function):
        assert function in CONFORM.replace(" import ", ":")
        return AwsLambda()


@pytest.mark.long
class TestAwsLambdaWithSeveralFunctions(OnTheService):
    def make_faas(self, function):
        return AwsLambda(function=list(FUNCTIONS), max_connections=4, endpoint_url=self.service.url)


def test_what_is_deployed_is_read_and_compared(service):
    with closing(AwsLambda(function=list(FUNCTIONS))) as backend:
        assert (backend.limits.time_s, backend.limits.memory_bytes) == (60.0, 512 * 1_048_576)
        assert backend.deployment_key() == KEY
        backend.configure({"WUKONG_DEPLOYMENT_KEY": KEY})
        backend.prepare(["json", "dask"])
        with pytest.raises(BackendError, match="no_such_module"):
            backend.prepare(["no_such_module"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"function": "nowhere"}, "Function not found"),
        ({"qualifier": "7"}, "Function not found"),
        ({"region": "eu-west-3"}, "region"),
    ],
)
def test_what_is_not_there_is_said_in_the_services_words(service, options, says):
    backend = AwsLambda(endpoint_url=service.url, time_s=1.0, memory_bytes=2**28, **options)
    with closing(backend), pytest.raises(BackendError, match=says) as refused:
        backend.invoke([Invocation("job/0", b"")])
    assert not isinstance(refused.value, Retryable)


def test_a_key_that_the_service_does_not_know_is_refused(service, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    backend = AwsLambda(time_s=1.0, memory_bytes=2**28)
    with closing(backend), pytest.raises(BackendError, match="UnrecognizedClientException"):
        backend.invoke([Invocation("job/0", b"")])


def test_the_largest_payload_fits_and_no_event_is_ever_over_the_limit(service, tmp_path):
    with closing(AwsLambda()) as backend:
        most = backend.limits.payload_bytes
        head = payload(tmp_path, "large")
        backend.invoke([Invocation("job/" + "0.1" * 400, head + bytes(most - len(head)))])
    FaaSTests()._wait(lambda: "large" in found(tmp_path), "the largest payload has arrived")


@pytest.mark.long
def test_a_thousand_invocations_arrive(service, tmp_path):
    names = {f"n{n}" for n in range(1_000)}
    with closing(AwsLambda(function=list(FUNCTIONS))) as backend:
        backend.invoke([Invocation(f"job/{name}", payload(tmp_path, name)) for name in sorted(names)])
    FaaSTests()._wait_for(tmp_path, names)
