"""What a deployment says of its functions is what runs: from CloudFormation's template, behind the Lambda service.

moto deploys, and runs nothing; the Lambda service runs, and knows no CloudFormation. Here the functions that the first
was told of are made in the second, as they are told, but for the package: the environment's own modules take its place.
"""

import pytest
from deploy_account import opened
from test_deploy_template import of_type

import wukong
from wukong import cli
from wukong.deploy.logs import LogEvent, OfOneJob
from wukong.testing.lambda_service import ROLE, LambdaService, deployment_package

pytestmark = pytest.mark.xdist_group("moto")

ELSEWHERE = ("Code", "Role", "LoggingConfig", "RecursiveLoop", "Environment")


@pytest.fixture
def service(monkeypatch, tmp_path, redis_url):
    """The service with what ``wukong deploy`` deploys."""
    aws = opened(monkeypatch, tmp_path)
    monkeypatch.setenv("WUKONG_STORAGE", redis_url)
    assert cli.main(["deploy", "--yes", "--functions", "2", "--memory", "512", "--timeout", "60"]) == 0
    template = aws.call("cloudformation", "get_template", StackName="wukong")["TemplateBody"]
    with LambdaService(site_packages=True, start="forked") as running:
        there = running.client()
        names = {}
        for logical, properties in of_type(template, "AWS::Lambda::Function").items():
            names[logical] = name = properties["FunctionName"]
            deployed = aws.call("lambda", "get_function_configuration", FunctionName=name)
            said = {key: value for key, value in properties.items() if key not in ELSEWHERE}
            package = {"ZipFile": deployment_package({})}
            there.create_function(Role=ROLE, Code=package, Environment=deployed["Environment"], **said)
            there.put_function_recursion_config(FunctionName=name, RecursiveLoop=properties["RecursiveLoop"])
        for properties in of_type(template, "AWS::Lambda::EventInvokeConfig").values():
            name = names[properties["FunctionName"]["Ref"]]
            there.put_function_event_invoke_config(**{**properties, "FunctionName": name})
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


def shout(n):
    print(f"here is {n}")
    return n


def test_jobs_run_on_what_was_deployed_and_their_logs_are_found(service):
    faas = {"name": "aws-lambda", "function": ["wukong", "wukong-2"]}
    with wukong.Client(faas=faas, progress=False, fan_out="eager") as client:
        first = client.get({"a": (shout, 1), "b": (shout, 2), "c": (sum, ["a", "b"])}, "c")
        ours = client.last_job.id
        second = client.get({"a": (shout, 3)}, "a")
    assert (first, second) == (3, 3)
    filtered = OfOneJob(ours)
    shown = []
    for name in ("wukong", "wukong-2"):
        for line in service._ask("GET", "logs", function=name):
            shown += filtered.take(LogEvent(0, f"/aws/lambda/{name}", line["stream"], line["text"].rstrip("\n")))
    shown = "\n".join(line.text for line in [*shown, *filtered.rest()])
    assert "here is 1" in shown and "here is 2" in shown and "here is 3" not in shown
    assert "START RequestId" in shown and "REPORT RequestId" in shown
