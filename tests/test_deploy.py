"""Deploying from nothing and back to nothing, against moto's HTTP server. moto runs no function."""

import io
import json
import re
import zipfile

import deploy_account
import pytest
from deploy_account import ID, REGION, Contains, opened

from wukong import Client
from wukong.backends.aws_calls import AwsCalls
from wukong.backends.faas.aws_lambda import AwsLambda
from wukong.deploy.account import DeployAccount
from wukong.deploy.iam_policy import policy
from wukong.deploy.package.build import HERE
from wukong.errors import BackendError

pytestmark = pytest.mark.xdist_group("moto")
aws, wukong = deploy_account.aws, deploy_account.wukong

BUCKET, VALUES = f"wukong-code-{ID}-{REGION}", f"wukong-values-{ID}-{REGION}"
USE = 'wukong.Client(faas="aws-lambda", storage={"name": "dynamodb", "values": "s3"})'
KEY, SECRET = "WUKONG_DEPLOYMENT_KEY", "WUKONG_DEPLOYMENT_KEY_SECRET"


def everything(aws):
    """What there is in the account, by its name."""
    stacks = aws.pages("cloudformation", "describe_stacks", "Stacks")
    return {
        "stacks": [each["StackName"] for each in stacks if each["StackStatus"] != "DELETE_COMPLETE"],
        "functions": sorted(each["FunctionName"] for each in aws.pages("lambda", "list_functions", "Functions")),
        "roles": [each["RoleName"] for each in aws.pages("iam", "list_roles", "Roles")],
        "logs": [each["logGroupName"] for each in aws.pages("logs", "describe_log_groups", "logGroups")],
        "buckets": [each["Name"] for each in aws.call("s3", "list_buckets")["Buckets"]],
        "tables": list(aws.pages("dynamodb", "list_tables", "TableNames")),
        "secrets": [
            each["Name"]
            for each in aws.pages("secretsmanager", "list_secrets", "SecretList", IncludePlannedDeletion=True)
        ],
    }


NOTHING = {"stacks": [], "functions": [], "roles": [], "logs": [], "buckets": [], "tables": [], "secrets": []}


def function(aws, name="wukong"):
    found = aws.call("lambda", "get_function_configuration", FunctionName=name)
    del found["ResponseMetadata"]
    return found


def test_from_nothing_and_back_to_nothing(aws, wukong):
    exit_code, shown = wukong("deploy", "--yes")
    assert exit_code == 0, shown
    assert USE in shown
    there = everything(aws)
    assert there.pop("roles")[0].startswith("wukong-Role-")
    assert there == {
        "stacks": ["wukong"],
        "functions": ["wukong"],
        "logs": ["/aws/lambda/wukong"],
        "buckets": [BUCKET, VALUES],
        "tables": ["wukong"],
        "secrets": [],
    }
    made = function(aws)
    assert (made["MemorySize"], made["Timeout"], made["Handler"]) == (1_769, 900, "wukong_executor.handler.handler")
    retries = aws.call("lambda", "get_function_event_invoke_config", FunctionName="wukong")
    assert (retries["MaximumRetryAttempts"], retries["MaximumEventAgeInSeconds"]) == (2, 3_600)
    [group] = aws.pages("logs", "describe_log_groups", "logGroups")
    assert group["retentionInDays"] == 14
    exit_code, shown = wukong("destroy", "--yes")
    assert (exit_code, everything(aws)) == (0, NOTHING), shown


def test_it_says_what_to_use_it_with(aws, wukong):
    assert USE in wukong("deploy", "--yes")[1]
    again = wukong("deploy", "--yes", "--functions", 2, "--region", REGION)[1]
    assert '{"name": "aws-lambda", "function": ["wukong", "wukong-2"], "region": "us-east-1"}' in again


def test_the_clients_backend_reads_what_was_deployed(aws, wukong):
    wukong("deploy", "--yes", "--memory", 2_048, "--timeout", 60, "--functions", 2)
    backend = AwsLambda(function=["wukong", "wukong-2"])
    assert (backend.limits.time_s, backend.limits.memory_bytes) == (60.0, 2_048 * 1_048_576)
    key = backend.deployment_key()
    assert len(bytes.fromhex(key)) == 32
    backend.configure({KEY: key})
    backend.close()


# --- planning


def test_a_plan_shows_what_would_be_made_and_leaves_nothing(aws, wukong):
    exit_code, shown = wukong("deploy", "--plan")
    assert exit_code == 0, shown
    for kind in ("Lambda::Function", "Lambda::EventInvokeConfig", "Logs::LogGroup", "IAM::Role"):
        assert re.search(rf"^add +\w+ +AWS::{kind}$", shown, re.MULTILINE), shown
    assert "a month in which nothing runs costs $0.00" in shown
    assert "nothing was changed" in shown
    assert everything(aws) == NOTHING


def test_a_plan_of_a_change_changes_nothing(aws, wukong):
    wukong("deploy", "--yes")
    exit_code, shown = wukong("deploy", "--plan", "--memory", 512)
    assert exit_code == 0
    assert re.search(r"^change +Function +AWS::Lambda::Function", shown, re.MULTILINE), shown
    assert not re.search("^(add|remove) ", shown, re.MULTILINE)
    assert function(aws)["MemorySize"] == 1_769
    assert [each for each in aws.pages("cloudformation", "list_change_sets", "Summaries", StackName="wukong")
            if each["ExecutionStatus"] == "AVAILABLE"] == []  # fmt: skip


def test_nothing_is_made_by_whoever_does_not_agree(aws, wukong, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "no")
    assert wukong("deploy") == (1, Contains("nothing was changed"))
    assert everything(aws) == NOTHING
    monkeypatch.setattr("builtins.input", lambda _: "y")
    assert wukong("deploy")[0] == 0
    monkeypatch.setattr("builtins.input", lambda _: "")
    assert wukong("destroy") == (1, Contains("nothing was removed"))
    assert everything(aws)["functions"] == ["wukong"]


def test_if_nobody_can_be_asked_it_has_to_be_said(aws, wukong):
    assert wukong("deploy") == (1, Contains("give --yes"))
    assert wukong("destroy") == (1, Contains("give --yes"))
    assert everything(aws) == NOTHING


# --- deploying again


def test_to_deploy_again_changes_nothing(aws, wukong):
    wukong("deploy", "--yes", "--memory", 512)
    before = function(aws)
    exit_code, shown = wukong("deploy", "--yes")
    assert (exit_code, shown) == (0, Contains("nothing to change"))
    assert USE in shown
    assert function(aws) == before


def test_what_is_not_said_stays(aws, wukong):
    wukong("deploy", "--yes", "--memory", 512, "--timeout", 60, "--reserved-concurrency", 5, "--tags", "team=a")
    wukong("deploy", "--yes", "--timeout", 120)
    assert (function(aws)["MemorySize"], function(aws)["Timeout"]) == (512, 120)
    assert "5 executions reserved for each" in wukong("status")[1]
    wukong("deploy", "--yes", "--reserved-concurrency", "none")
    assert "reserved for each" not in wukong("status")[1]


def test_functions_come_and_go(aws, wukong):
    wukong("deploy", "--yes", "--functions", 3)
    assert everything(aws)["functions"] == ["wukong", "wukong-2", "wukong-3"]
    wukong("deploy", "--yes", "--functions", 2)
    there = everything(aws)
    assert (there["functions"], there["logs"]) == (
        ["wukong", "wukong-2"],
        ["/aws/lambda/wukong", "/aws/lambda/wukong-2"],
    )
    keys = {function(aws, name)["Environment"]["Variables"][KEY] for name in there["functions"]}
    assert len(keys) == 1


def test_a_new_package_takes_the_place_of_the_old_one(aws, wukong, tmp_path):
    wukong("deploy", "--yes")
    [old] = [each["Key"] for each in aws.pages("s3", "list_objects_v2", "Contents", Bucket=BUCKET)]
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("numpy\n")
    before = function(aws)["CodeSha256"]
    exit_code, shown = wukong("deploy", "--yes", "--requirements", requirements)
    assert exit_code == 0, shown
    [new] = [each["Key"] for each in aws.pages("s3", "list_objects_v2", "Contents", Bucket=BUCKET)]
    assert new != old
    assert function(aws)["CodeSha256"] != before
    assert "--requirements requirements.txt" in wukong("status")[1]
    # To leave them out by mistake would take packages from the functions that jobs need.
    assert wukong("deploy", "--yes", "--memory", 512) == (1, Contains("give --requirements again"))
    assert wukong("deploy", "--yes", "--requirements", "none") == (0, Contains("is changed"))


def test_the_bucket_is_private_and_encrypted(aws, wukong):
    wukong("deploy", "--yes", "--tags", "team=a")
    block = aws.call("s3", "get_public_access_block", Bucket=BUCKET)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True} and len(block) == 4
    [rule] = aws.call("s3", "get_bucket_encryption", Bucket=BUCKET)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    [rule] = aws.call("s3", "get_bucket_lifecycle_configuration", Bucket=BUCKET)["Rules"]
    assert rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 1
    tags = {each["Key"]: each["Value"] for each in aws.call("s3", "get_bucket_tagging", Bucket=BUCKET)["TagSet"]}
    assert tags == {"team": "a", "wukong:deployment": "wukong"}


def test_two_deployments_stand_beside_each_other(aws, wukong):
    wukong("deploy", "--yes")
    wukong("deploy", "--yes", "--name", "other", "--key-in", "secrets-manager")
    assert everything(aws)["functions"] == ["other", "wukong"]
    exit_code, _ = wukong("destroy", "--yes", "--name", "other")
    there = everything(aws)
    assert (exit_code, there["functions"], there["buckets"], there["secrets"]) == (0, ["wukong"], [BUCKET, VALUES], [])


def test_the_configured_backend_says_where_and_what(aws, wukong):
    elsewhere = ("--faas", "aws-lambda", "--set", "faas.function=mine", "--set", "faas.region=eu-central-1")
    exit_code, shown = wukong("deploy", "--yes", *elsewhere)
    assert exit_code == 0, shown
    there = DeployAccount("eu-central-1")
    assert function(there, "mine")["MemorySize"] == 1_769
    where = there.call("s3", "get_bucket_location", Bucket=f"mine-code-{ID}-eu-central-1")
    assert where["LocationConstraint"] == "eu-central-1"
    assert wukong("destroy", "--yes", *elsewhere)[0] == 0
    assert everything(there) == NOTHING


# --- the key and other secrets


def key_of(aws):
    return function(aws)["Environment"]["Variables"][KEY]


def test_the_key_stays_over_deployments_and_not_over_destruction(aws, wukong):
    wukong("deploy", "--yes")
    first = key_of(aws)
    wukong("deploy", "--yes", "--memory", 512)
    assert key_of(aws) == first
    wukong("destroy", "--yes")
    wukong("deploy", "--yes")
    assert key_of(aws) != first


def test_the_key_is_never_shown(aws, wukong, caplog):
    caplog.set_level("DEBUG", "wukong")
    shown = wukong("deploy", "--yes")[1] + wukong("deploy", "--yes", "--memory", 512)[1] + wukong("status")[1]
    assert key_of(aws) not in shown + caplog.text
    assert key_of(aws) not in aws.call("cloudformation", "get_template", StackName="wukong")["TemplateBody"].__repr__()


def test_with_a_key_configured_clients_and_functions_have_the_same(aws, wukong, monkeypatch):
    monkeypatch.setenv("WUKONG_KEY", "our own secret")
    wukong("deploy", "--yes")
    configured = {}

    class Backend(AwsLambda):
        def configure(self, environment):
            configured.update(environment)
            raise BackendError("all that is wanted")

    with pytest.raises(BackendError, match="all that is wanted"):
        Client(faas=Backend())
    assert configured[KEY] == key_of(aws)
    assert wukong("deploy", "--yes") == (0, Contains("nothing to change"))


def test_the_key_in_secrets_manager(aws, wukong):
    exit_code, shown = wukong("deploy", "--yes", "--key-in", "secrets-manager")
    assert exit_code == 0, shown
    assert "the secret: $0.40 a month" in shown
    variables = function(aws)["Environment"]["Variables"]
    assert KEY not in variables
    held = aws.call("secretsmanager", "get_secret_value", SecretId=variables[SECRET])["SecretString"]
    backend = AwsLambda()
    assert backend.deployment_key() == held and len(bytes.fromhex(held)) == 32
    backend.close()
    wukong("destroy", "--yes")
    assert everything(aws) == NOTHING  # not even scheduled for deletion


def test_the_key_moves_without_changing(aws, wukong):
    wukong("deploy", "--yes")
    key = key_of(aws)
    wukong("deploy", "--yes", "--key-in", "secrets-manager")
    arn = function(aws)["Environment"]["Variables"][SECRET]
    assert aws.call("secretsmanager", "get_secret_value", SecretId=arn)["SecretString"] == key


def test_what_opens_the_store_goes_into_the_functions_and_is_not_shown(aws, wukong):
    store = ("--storage", "redis://scott:tiger@redis.example.com:6379")
    shown = wukong("deploy", "--yes", *store)[1]
    variables = function(aws)["Environment"]["Variables"]
    assert (variables["WUKONG_REDIS_USERNAME"], variables["WUKONG_REDIS_PASSWORD"]) == ("scott", "tiger")
    assert "tiger" not in shown
    assert "embedded" not in shown
    [stack] = aws.call("cloudformation", "describe_stacks", StackName="wukong")["Stacks"]
    assert {each["ParameterKey"] for each in stack["Parameters"]} == {
        "DeploymentKey",
        "StoreVariable1",
        "StoreVariable2",
    }
    assert wukong("deploy", "--yes", *store) == (0, Contains("nothing to change"))


def test_the_clients_of_the_configured_store_go_into_the_package(aws, wukong, memcached_url):
    wukong("deploy", "--yes", "--storage", memcached_url)
    [each] = aws.pages("s3", "list_objects_v2", "Contents", Bucket=BUCKET)
    package = aws.call("s3", "get_object", Bucket=BUCKET, Key=each["Key"])["Body"].read()
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        said = json.loads(archive.read("said"))
    assert said["extras"] == ["redis", "memcached"]
    assert (said["architecture"], said["python"], said["direct"]) == ("arm64", HERE, False)


def test_what_opens_the_store_stays_if_none_is_configured(aws, wukong):
    wukong("deploy", "--yes", "--storage", "redis://scott:tiger@redis.example.com:6379")
    exit_code, shown = wukong("deploy", "--yes", "--memory", 512)
    assert (exit_code, shown) == (0, Contains("stays: WUKONG_REDIS_PASSWORD, WUKONG_REDIS_USERNAME"))
    assert function(aws)["Environment"]["Variables"]["WUKONG_REDIS_PASSWORD"] == "tiger"
    wukong("deploy", "--yes", "--storage", "redis://redis.example.com:6379")
    assert set(function(aws)["Environment"]["Variables"]) == {KEY, "PYTHONHASHSEED"}


def test_that_the_embedded_store_will_not_do_is_said(aws, wukong):
    wukong("deploy", "--yes", "--storage", "none")
    assert "note: the configured store is the embedded one" in wukong("deploy", "--plan")[1]


# --- status and destroy


def test_status_shows_every_function(aws, wukong):
    assert wukong("status") == (1, Contains("'wukong deploy' makes one"))
    assert json.loads(wukong("status", "--json")[1])["deployed"] is False
    wukong("deploy", "--yes", "--functions", 2, "--reserved-concurrency", 7)
    exit_code, shown = wukong("status")
    assert exit_code == 0, shown
    rows = [line.split() for line in shown.splitlines() if line.startswith("wukong")]
    assert [(row[0], row[1], row[2]) for row in rows] == [
        ("wukong", "Active", "1,769"),
        ("wukong-2", "Active", "1,769"),
    ]
    told = json.loads(wukong("status", "--json")[1])
    assert {"account": ID, "region": REGION, "name": "wukong", "deployed": True, "ok": True}.items() <= told.items()
    assert [(each["name"], each["memory_mb"], each["reserved"]) for each in told["functions"]] == [
        ("wukong", 1_769, 7),
        ("wukong-2", 1_769, 7),
    ]
    aws.call("lambda", "delete_function", FunctionName="wukong-2")
    exit_code, shown = wukong("status")
    assert (exit_code, shown) == (1, Contains("wukong-2  not there"))


def test_status_says_that_lambda_would_end_chains_of_executors_and_how_to_allow_them(aws, wukong):
    wukong("deploy", "--yes", "--functions", 2)
    assert wukong("status")[0] == 0
    aws.call("lambda", "put_function_recursion_config", FunctionName="wukong-2", RecursiveLoop="Terminate")
    command = "aws lambda put-function-recursion-config --recursive-loop Allow --function-name wukong-2"
    assert wukong("status") == (1, Contains(command))
    told = json.loads(wukong("status", "--json")[1])
    assert [(each["recursive_loop"], each["ok"]) for each in told["functions"]] == [
        ("Allow", True),
        ("Terminate", False),
    ]


def test_sizes_up_to_the_largest_with_their_cpus_and_a_tmp_of_ones_own(aws, wukong):
    exit_code, shown = wukong("deploy", "--yes", "--memory", 10_240, "--ephemeral-storage", 2_048)
    assert (exit_code, shown) == (0, Contains("10,240 MB, /tmp of 2,048 MB"))
    assert function(aws)["EphemeralStorage"] == {"Size": 2_048}
    exit_code, shown = wukong("status")
    [row] = [line.split() for line in shown.splitlines() if line.startswith("wukong")]
    assert (exit_code, row[2:5]) == (0, ["10,240", "MB", "5.8"])
    assert "/tmp of" not in wukong("deploy", "--yes", "--ephemeral-storage", 512)[1]


def test_functions_of_several_sizes_come_and_go_by_themselves(aws, wukong):
    exit_code, shown = wukong("deploy", "--yes", "--sizes", "1769,3538,10240")
    assert (exit_code, shown) == (0, Contains("1,769 MB and 3,538 MB and 10,240 MB"))
    assert 'faas={"name": "aws-lambda", "larger": ["wukong-3538mb", "wukong-10240mb"]}' in shown
    names = ["wukong", "wukong-10240mb", "wukong-3538mb"]
    assert everything(aws)["functions"] == names
    assert everything(aws)["logs"] == [f"/aws/lambda/{name}" for name in names]
    assert [function(aws, name)["MemorySize"] for name in names] == [1_769, 10_240, 3_538]
    assert wukong("status") == (0, Contains("wukong-10240mb  Active  10,240 MB  5.8"))
    shown = wukong("deploy", "--yes", "--functions", 2, "--memory", 2_000)[1]  # which moves no other
    assert '"function": ["wukong", "wukong-2"], "larger": ["wukong-3538mb", "wukong-10240mb"]' in shown
    assert "made anew" not in shown
    assert wukong("deploy", "--yes", "--sizes", "none", "--functions", 1) == (0, Contains('faas="aws-lambda"'))
    assert everything(aws)["functions"] == ["wukong"]
    assert wukong("destroy", "--yes")[0] == 0
    assert everything(aws) == NOTHING


def test_to_destroy_what_is_not_there_is_no_error(aws, wukong):
    assert wukong("destroy", "--yes") == (0, Contains("there is nothing of a deployment called wukong"))


def test_destroy_removes_buckets_that_are_left_over(aws, wukong):
    wukong("deploy", "--yes")
    aws.call("cloudformation", "delete_stack", StackName="wukong")
    assert everything(aws) == {**NOTHING, "buckets": [BUCKET, VALUES]}
    assert wukong("destroy", "--yes")[0] == 0
    assert everything(aws) == NOTHING


def test_destroy_and_deploy_touch_no_stack_of_somebody_else(aws, wukong):
    body = json.dumps({"Resources": {"Logs": {"Type": "AWS::Logs::LogGroup"}}})
    aws.call("cloudformation", "create_stack", StackName="wukong", TemplateBody=body)
    for command in ("deploy", "destroy"):
        assert wukong(command, "--yes") == (1, Contains("it is not one of Wukong's"))
    assert everything(aws)["stacks"] == ["wukong"]
    assert wukong("status")[0] == 1


def test_destroy_and_deploy_touch_no_bucket_of_something_else(aws, wukong):
    aws.call("s3", "create_bucket", Bucket=BUCKET)
    aws.call("s3", "put_object", Bucket=BUCKET, Key="mine", Body=b"1")
    for command in ("deploy", "destroy"):
        assert wukong(command, "--yes") == (1, Contains(f"the bucket {BUCKET} is not one of Wukong's"))
    assert len(list(aws.pages("s3", "list_objects_v2", "Contents", Bucket=BUCKET))) == 1


# --- permissions


def test_the_printed_policy_has_every_action_that_the_commands_take(monkeypatch, tmp_path, wukong):
    opened(monkeypatch, tmp_path, policy("wukong", REGION, ID))
    exit_code, shown = wukong("deploy", "--policy")
    assert exit_code == 0
    allowed = {action for statement in json.loads(shown)["Statement"] for action in statement["Action"]}
    assert allowed == {action for statement in policy("any", REGION)["Statement"] for action in statement["Action"]}
    taken = set()

    def noting(calls, action, original=AwsCalls.mapped):
        taken.add(action)
        return original(calls, action)

    monkeypatch.setattr(AwsCalls, "mapped", noting)
    wukong("deploy", "--yes", "--key-in", "secrets-manager")
    wukong("deploy", "--yes", "--functions", 2)
    wukong("status")
    wukong("logs")
    wukong("destroy", "--yes")
    free = {"sts:GetCallerIdentity", "iam:SimulatePrincipalPolicy"}
    assert {action for action in taken if ":" in action} - free <= allowed
    assert len(taken & allowed) > 20
