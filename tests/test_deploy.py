"""Deploying from nothing and back to nothing, against moto's HTTP server. moto runs no function."""

import pytest
from deploy_account import ID, REGION, opened

from wukong import cli
from wukong.backends.faas.aws_lambda import AwsLambda

pytestmark = pytest.mark.xdist_group("moto")

BUCKET = f"wukong-code-{ID}-{REGION}"
KEY, SECRET = "WUKONG_DEPLOYMENT_KEY", "WUKONG_DEPLOYMENT_KEY_SECRET"


@pytest.fixture
def aws(monkeypatch, tmp_path):
    return opened(monkeypatch, tmp_path)


@pytest.fixture
def wukong(aws, capsys):
    """Run a command, and return its exit code and what it showed."""

    def run(*arguments):
        exit_code = cli.main(list(map(str, arguments)))
        shown = capsys.readouterr()
        return exit_code, shown.out + shown.err

    return run


def everything(aws):
    """What there is in the account, by its name."""
    stacks = aws.pages("cloudformation", "describe_stacks", "Stacks")
    return {
        "stacks": [each["StackName"] for each in stacks if each["StackStatus"] != "DELETE_COMPLETE"],
        "functions": [each["FunctionName"] for each in aws.pages("lambda", "list_functions", "Functions")],
        "roles": [each["RoleName"] for each in aws.pages("iam", "list_roles", "Roles")],
        "logs": [each["logGroupName"] for each in aws.pages("logs", "describe_log_groups", "logGroups")],
        "buckets": [each["Name"] for each in aws.call("s3", "list_buckets")["Buckets"]],
        "secrets": [
            each["Name"]
            for each in aws.pages("secretsmanager", "list_secrets", "SecretList", IncludePlannedDeletion=True)
        ],
    }


NOTHING = {"stacks": [], "functions": [], "roles": [], "logs": [], "buckets": [], "secrets": []}


def function(aws, name="wukong"):
    return aws.call("lambda", "get_function_configuration", FunctionName=name)


def test_from_nothing_and_back_to_nothing(aws, wukong):
    exit_code, shown = wukong("deploy", "--yes")
    assert exit_code == 0, shown
    assert 'wukong.Client(faas="aws-lambda")' in shown
    there = everything(aws)
    assert there.pop("roles")[0].startswith("wukong-Role-")
    assert there == {
        "stacks": ["wukong"],
        "functions": ["wukong"],
        "logs": ["/aws/lambda/wukong"],
        "buckets": [BUCKET],
        "secrets": [],
    }
    made = function(aws)
    assert (made["MemorySize"], made["Timeout"], made["Handler"]) == (1_769, 900, "wukong.executor.handler.handler")
    retries = aws.call("lambda", "get_function_event_invoke_config", FunctionName="wukong")
    assert (retries["MaximumRetryAttempts"], retries["MaximumEventAgeInSeconds"]) == (2, 3_600)
    [group] = aws.pages("logs", "describe_log_groups", "logGroups")
    assert group["retentionInDays"] == 14
    exit_code, shown = wukong("destroy", "--yes")
    assert (exit_code, everything(aws)) == (0, NOTHING), shown


def test_the_clients_backend_reads_what_was_deployed(aws, wukong):
    wukong("deploy", "--yes", "--memory", 2_048, "--timeout", 60, "--functions", 2)
    backend = AwsLambda(function=["wukong", "wukong-2"])
    assert (backend.limits.time_s, backend.limits.memory_bytes) == (60.0, 2_048 * 1_048_576)
    key = backend.deployment_key()
    assert len(bytes.fromhex(key)) == 32
    backend.configure({KEY: key})
    backend.close()
