"""What a deployment says of its functions is what runs: from CloudFormation's template, behind the Lambda service.

moto deploys, and runs nothing; the Lambda service runs, and knows no CloudFormation. Here the functions that the first
was told of are made in the second, as they are told, but for package and Python, which are this environment's own.
"""

import pytest
from deploy_account import opened
from test_deploy_template import of_type

import wukong
from wukong import cli
from wukong.deploy.logs import LogEvent, OfOneJob
from wukong.testing.lambda_service import ROLE, RUNTIME, LambdaService, deployment_package

pytestmark = pytest.mark.xdist_group("moto")

ELSEWHERE = ("Code", "Role", "LoggingConfig", "RecursiveLoop", "Environment", "Runtime")


@pytest.fixture
def service(monkeypatch, tmp_path, redis_url):
    """The service with what ``wukong deploy`` deploys."""
    aws = opened(monkeypatch, tmp_path)
    monkeypatch.setenv("WUKONG_STORAGE", redis_url)
    small = ["--memory", "512", "--timeout", "60"]
    assert cli.main(["deploy", "--yes", "--functions", "2", *small, "--snapstart", "--python", "3.13"]) == 0
    template = aws.call("cloudformation", "get_template", StackName="wukong")["TemplateBody"]
    with LambdaService(site_packages=True, starts_at_once=4) as running:
        there = running.client()
        names = {}
        for logical, properties in of_type(template, "AWS::Lambda::Function").items():
            names[logical] = name = properties["FunctionName"]
            deployed = aws.call("lambda", "get_function_configuration", FunctionName=name)
            said = {key: value for key, value in properties.items() if key not in ELSEWHERE}
            package = {"ZipFile": deployment_package({})}
            there.create_function(Role=ROLE, Code=package, Environment=deployed["Environment"], Runtime=RUNTIME, **said)
            there.put_function_recursion_config(FunctionName=name, RecursiveLoop=properties["RecursiveLoop"])
        for properties in of_type(template, "AWS::Lambda::Alias").values():
            name = names[properties["FunctionName"]["Ref"]]
            version = there.publish_version(FunctionName=name)["Version"]
            there.create_alias(**{**properties, "FunctionName": name, "FunctionVersion": version})
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
    faas = {"name": "aws-lambda", "function": ["wukong", "wukong-2"], "qualifier": "live"}
    with wukong.Client(faas=faas, progress=False, fan_out="eager") as client:
        first = client.get({"a": (shout, 1), "b": (shout, 2), "c": (sum, ["a", "b"])}, "c")
        ours = client.last_job.id
        second = client.get({"a": (shout, 3)}, "a")
    assert (first, second) == (3, 3)
    assert {each["version"] for each in service.environments()} == {"1"}
    filtered = OfOneJob(ours)
    shown = []
    for name in ("wukong", "wukong-2"):
        for line in service._ask("GET", "logs", function=name):
            shown += filtered.take(LogEvent(0, f"/aws/lambda/{name}", line["stream"], line["text"].rstrip("\n")))
    shown = "\n".join(line.text for line in [*shown, *filtered.rest()])
    assert "here is 1" in shown and "here is 2" in shown and "here is 3" not in shown
    assert "START RequestId" in shown and "REPORT RequestId" in shown
