"""The template, without AWS: valid as cfn-lint has it, a role that may do no more than it must, and no secret in it."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from wukong.deploy.code import Image, Package
from wukong.deploy.network import Network
from wukong.deploy.options import MOST_FUNCTIONS, DeployOptions
from wukong.deploy.parts import TemplatePart
from wukong.deploy.template import BODY_BYTES, body, noted, template
from wukong.errors import ConfigError

PACKAGE = Package(Path("package.zip"), "ab" * 32, 10_000_000, "3.13", None, "wukong-code-123456789012-us-east-1")
IMAGE = Image("123456789012.dkr.ecr.us-east-1.amazonaws.com/wukong@sha256:" + "cd" * 32, "wukong:latest")
VPC = Network("vpc-0123456789abcdef0", ("subnet-0123456789abcdef0", "subnet-0123456789abcdef1"))
NETWORK = {"subnets": ("subnet-0123456789abcdef0",), "security_groups": ("sg-0123456789abcdef0",)}


def of_type(document, kind):
    return {name: each["Properties"] for name, each in document["Resources"].items() if each["Type"] == kind}


def on_fargate():
    """Deployments with something on Fargate, each in another network."""
    with_both = DeployOptions(
        functions=2,
        store="fargate",
        proxy=True,
        proxy_image="wukong:latest",
        proxy_workers=3,
        clients=("10.0.0.0/16", "192.0.2.7/32"),
        tags={"team": "a"},
        subnets=VPC.task_subnets,
    )
    with_store = DeployOptions(store="fargate", key_in="secrets-manager", **NETWORK)
    with_proxy = DeployOptions(
        proxy=True, image="wukong:latest", architecture="x86_64", key_in="secrets-manager", **NETWORK
    )
    return {
        "both": template(with_both.checked(), PACKAGE, network=VPC, proxy_image=IMAGE),
        "store": template(with_store.checked(), PACKAGE, network=replace(VPC, public=True)),
        "proxy": template(
            with_proxy.checked(), IMAGE, ["WUKONG_REDIS_PASSWORD"], network=replace(VPC, public=True), proxy_image=IMAGE
        ),
        "neither": template(DeployOptions(subnets=VPC.task_subnets).checked(), PACKAGE, network=VPC),
        "table": template(DeployOptions(store="dynamodb").checked(), PACKAGE),
    }


def functions(document):
    return list(of_type(document, "AWS::Lambda::Function").values())


def statements(document, role="Role"):
    role = of_type(document, "AWS::IAM::Role")[role]
    return {each["Sid"]: each for each in role["Policies"][0]["PolicyDocument"]["Statement"]}


def resolved(value):
    """An ARN as it will be, of a name, `Fn::Sub` or a reference."""
    if isinstance(value, dict) and "Fn::Sub" in value:
        value = value["Fn::Sub"]
        for name, known in (("Partition", "aws"), ("Region", "us-east-1"), ("AccountId", "1")):
            value = value.replace(f"${{AWS::{name}}}", known)
    return value


def test_cfn_lint_has_nothing_to_say(tmp_path):
    for n, (key_in, network, code) in enumerate(
        itertools.product(("environment", "secrets-manager"), ({}, NETWORK), (PACKAGE, IMAGE))
    ):
        options = DeployOptions(
            functions=2, key_in=key_in, reserved_concurrency=10, tags={"team": "a"}, **network
        ).checked()
        document = template(options, code, ["WUKONG_REDIS_PASSWORD", "WUKONG_REDIS_USERNAME"])
        (tmp_path / f"{n}.json").write_text(body(document))
    versions = {
        "snapstart": template(
            DeployOptions(functions=2, larger_mb=(3_538,), snapstart=True).checked(), PACKAGE, marks={"A": "1"}
        ),
        "provisioned": template(DeployOptions(provisioned_concurrency=5, ephemeral_storage_mb=1_024).checked(), IMAGE),
    }
    for name, document in {**on_fargate(), **versions}.items():
        (tmp_path / f"{name}.json").write_text(body(document))
    lint = str(Path(sys.executable).with_name("cfn-lint"))
    command = [lint, "--include-checks", "I", "--regions", "us-east-1", "--", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_same_options_give_the_same_template():
    options = DeployOptions(functions=3, key_in="secrets-manager", **NETWORK)
    assert body(template(options, PACKAGE, ["B", "A"])) == body(template(options, PACKAGE, ["A", "B"]))


def test_the_largest_deployment_fits_into_one_call():
    options = DeployOptions(
        name="a" * 24,
        functions=MOST_FUNCTIONS,
        key_in="secrets-manager",
        reserved_concurrency=1_000,
        subnets=tuple(f"subnet-{n:017x}" for n in range(6)),
        security_groups=tuple(f"sg-{n:017x}" for n in range(5)),
        proxy=True,
        image="wukong:latest",
        clients=("10.0.0.0/16",) * 5,
    ).checked()
    body(template(options, IMAGE, [f"WUKONG_REDIS_PASSWORD_{n}" for n in range(4)], network=VPC, proxy_image=IMAGE))
    body(template(replace(options, store="fargate"), IMAGE, network=VPC, proxy_image=IMAGE))
    with pytest.raises(ConfigError, match=f"{BODY_BYTES:,}"):
        body(template(DeployOptions(tags={f"{n:0128}": "x" * 256 for n in range(140)}), IMAGE))


def test_a_function_is_as_the_options_say():
    options = DeployOptions(
        name="mine", functions=2, memory_mb=512, timeout_s=60, architecture="x86_64", log_retention_days=3
    )
    document = template(options, PACKAGE)
    first, second = functions(document)
    assert (first["FunctionName"], second["FunctionName"]) == ("mine", "mine-2")
    for each in (first, second):
        assert (each["MemorySize"], each["Timeout"], each["Architectures"]) == (512, 60, ["x86_64"])
        assert (each["Runtime"], each["Handler"]) == ("python3.13", "wukong_executor.handler.handler")
        assert each["Code"] == {"S3Bucket": PACKAGE.bucket, "S3Key": f"{'ab' * 32}.zip"}
        assert "ReservedConcurrentExecutions" not in each and "VpcConfig" not in each
    groups = of_type(document, "AWS::Logs::LogGroup")
    assert [each["LogGroupName"] for each in groups.values()] == ["/aws/lambda/mine", "/aws/lambda/mine-2"]
    assert [each["RetentionInDays"] for each in groups.values()] == [3, 3]
    assert [each["LoggingConfig"]["LogGroup"]["Ref"] for each in (first, second)] == list(groups)


def test_an_image_takes_the_place_of_the_package():
    [function] = functions(template(DeployOptions(), IMAGE))
    assert (function["PackageType"], function["Code"]) == ("Image", {"ImageUri": IMAGE.uri})
    assert "Runtime" not in function and "Handler" not in function


def test_executors_may_invoke_executors_in_long_chains():
    assert [each["RecursiveLoop"] for each in functions(template(DeployOptions(functions=2), PACKAGE))] == ["Allow"] * 2


def test_events_that_fail_are_tried_twice_more_and_not_for_hours():
    settings = of_type(template(DeployOptions(functions=2), PACKAGE), "AWS::Lambda::EventInvokeConfig")
    assert [each["FunctionName"]["Ref"] for each in settings.values()] == ["Function", "Function2"]
    for each in settings.values():
        assert (each["MaximumRetryAttempts"], each["MaximumEventAgeInSeconds"]) == (2, 3_600)


# --- the role


def test_the_role_may_invoke_its_own_functions_and_write_their_logs_and_no_more():
    found = statements(template(DeployOptions(functions=2), PACKAGE))
    assert {sid: each["Action"] for sid, each in found.items()} == {
        "InvokeOwnFunctions": ["lambda:InvokeFunction"],
        "WriteOwnLogs": ["logs:CreateLogStream", "logs:PutLogEvents"],
    }
    assert list(map(resolved, found["InvokeOwnFunctions"]["Resource"])) == [
        "arn:aws:lambda:us-east-1:1:function:wukong",
        "arn:aws:lambda:us-east-1:1:function:wukong-2",
    ]
    assert list(map(resolved, found["WriteOwnLogs"]["Resource"])) == [
        "arn:aws:logs:us-east-1:1:log-group:/aws/lambda/wukong:*",
        "arn:aws:logs:us-east-1:1:log-group:/aws/lambda/wukong-2:*",
    ]


@pytest.mark.parametrize("network", [{}, NETWORK])
@pytest.mark.parametrize("key_in", ["environment", "secrets-manager"])
def test_nothing_is_allowed_on_all_resources_but_network_interfaces(key_in, network):
    found = statements(template(DeployOptions(key_in=key_in, **network), PACKAGE))
    anywhere = {sid for sid, each in found.items() if each["Effect"] == "Allow" and "*" in map(str, each["Resource"])}
    assert anywhere == ({"OwnNetworkInterfaces"} if network else set())
    assert all(action.startswith("ec2:") for sid in anywhere for action in found[sid]["Action"])
    assert all("*" not in action for each in found.values() for action in each["Action"])


def test_in_a_vpc_the_functions_own_code_may_not_touch_network_interfaces():
    document = template(DeployOptions(functions=2, **NETWORK), PACKAGE)
    found = statements(document)
    assert functions(document)[1]["VpcConfig"] == {
        "SubnetIds": list(NETWORK["subnets"]),
        "SecurityGroupIds": list(NETWORK["security_groups"]),
    }
    denied = found["NotByTheFunctionsCode"]
    assert (denied["Effect"], denied["Action"]) == ("Deny", found["OwnNetworkInterfaces"]["Action"])
    sources = denied["Condition"]["ArnEquals"]["lambda:SourceFunctionArn"]
    assert [resolved(each).rpartition(":")[2] for each in sources] == ["wukong", "wukong-2"]


def test_the_role_is_for_lambda_alone():
    [role] = of_type(template(DeployOptions(), PACKAGE), "AWS::IAM::Role").values()
    [trust] = role["AssumeRolePolicyDocument"]["Statement"]
    assert (trust["Principal"], trust["Action"]) == ({"Service": "lambda.amazonaws.com"}, "sts:AssumeRole")


# --- secrets


def test_the_key_and_the_stores_variables_come_as_parameters_that_are_not_shown():
    document = template(DeployOptions(), PACKAGE, ["WUKONG_REDIS_PASSWORD"])
    assert all(each["NoEcho"] and "Default" not in each for each in document["Parameters"].values())
    [function] = functions(document)
    assert function["Environment"]["Variables"] == {
        "PYTHONHASHSEED": "0",  # all functions hash texts alike
        "WUKONG_DEPLOYMENT_KEY": {"Ref": "DeploymentKey"},
        "WUKONG_REDIS_PASSWORD": {"Ref": "StoreVariable1"},
    }
    assert not any("Ref" in json.dumps(each) and "Store" in json.dumps(each) for each in document["Outputs"].values())


def test_a_key_in_secrets_manager_is_named_in_the_environment_and_read_by_the_role_alone():
    document = template(DeployOptions(key_in="secrets-manager"), PACKAGE)
    [secret] = of_type(document, "AWS::SecretsManager::Secret").values()
    assert (secret["Name"], secret["SecretString"]) == ("wukong/deployment-key", {"Ref": "DeploymentKey"})
    [function] = functions(document)
    assert function["Environment"]["Variables"] == {
        "PYTHONHASHSEED": "0",
        "WUKONG_DEPLOYMENT_KEY_SECRET": {"Ref": "KeySecret"},
    }
    read = statements(document)["ReadOwnKey"]
    assert (read["Action"], read["Resource"]) == (["secretsmanager:GetSecretValue"], [{"Ref": "KeySecret"}])


# --- what is noted, and what is added


def test_the_options_are_noted_so_that_a_later_deployment_keeps_them():
    options = DeployOptions(
        functions=2, memory_mb=3_008, tags={"team": "a"}, key_in="secrets-manager", **NETWORK
    ).checked()
    kept = noted(json.loads(body(template(options, PACKAGE)))["Metadata"])
    assert DeployOptions.over("wukong", kept["options"], {}) == options
    assert DeployOptions.over("wukong", kept["options"], {"memory_mb": 512}).memory_mb == 512
    assert kept["code"]["digest"] == "ab" * 32
    assert noted({"Wukong": {"format": 99}}) == noted({}) == {}


def test_a_store_of_its_own_adds_a_part():
    part = TemplatePart(
        parameters={"StorePassword": {"Type": "String", "NoEcho": True}},
        resources={"Table": {"Type": "AWS::DynamoDB::Table"}},
        statements=[{"Sid": "FindServers", "Effect": "Allow", "Action": ["ecs:ListTasks"], "Resource": ["arn"]}],
        variables={"PASSWORD": {"Ref": "StorePassword"}},
        outputs={"Table": {"Value": {"Ref": "Table"}}},
    )
    document = template(DeployOptions(), PACKAGE, parts=[part])
    assert "FindServers" in statements(document)
    assert functions(document)[0]["Environment"]["Variables"]["PASSWORD"] == {"Ref": "StorePassword"}
    assert {"StorePassword", "DeploymentKey"} == set(document["Parameters"])
    assert "Table" in document["Resources"] and "Table" in document["Outputs"]
    with pytest.raises(ValueError, match="both define"):
        template(DeployOptions(), PACKAGE, parts=[part, part])
