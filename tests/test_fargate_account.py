"""What the store `fargate` makes, finds, uses and removes in an AWS account: the real boto3, in front of moto."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from fargate_tools import Bare, account

from wukong.backends.storage.fargate import Fargate
from wukong.backends.storage.fargate.account import FargateAccount
from wukong.backends.storage.fargate.calls import FargateCalls, FargateRefused
from wukong.backends.storage.fargate.nodes import Nodes
from wukong.backends.storage.fargate.options import FargateOptions, Shape
from wukong.emulators.aws_ecs import EcsStandIn
from wukong.emulators.aws_ecs.moto_server import reset
from wukong.errors import ConfigError, StoreError, StoreUnavailable

pytestmark = pytest.mark.xdist_group("fargate")

OURS = {"wukong:name": "wukong", "wukong:made-by": "store"}
STACKS = [{"Key": "wukong:name", "Value": "wukong"}, {"Key": "wukong:deployment", "Value": "wukong"}]
ALL = [
    "cluster wukong",
    "definition wukong-store",
    "group wukong-store",
    "role wukong-store",
    "secret wukong/store-password",
    "logs /ecs/wukong-store",
]


@pytest.fixture(scope="module")
def cloud() -> Iterator[EcsStandIn]:
    with account() as aws:
        yield aws


@pytest.fixture(scope="module")
def bare(cloud: EcsStandIn) -> Bare:
    return Bare(cloud)


@pytest.fixture(autouse=True)
def aws(cloud: EcsStandIn, monkeypatch: pytest.MonkeyPatch) -> EcsStandIn:
    """An account with nothing in it. boto3 makes each client once, and no pauses between its attempts."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    monkeypatch.setattr(FargateCalls, "_client", _shared)
    monkeypatch.setattr(cloud, "_failures", {})
    reset()
    return cloud


_client, _clients = FargateCalls._client, {}


def _shared(calls: FargateCalls, service: str) -> Any:
    who = service, calls.region, *calls._given, os.environ.get("AWS_ACCESS_KEY_ID"), os.environ["AWS_ENDPOINT_URL"]
    if who not in _clients:
        _clients[who] = _client(calls, service)
    return _clients[who]


def prepared(shape: Shape | None = None, **options: Any) -> Any:
    return FargateAccount(FargateOptions(**options)).prepare(shape or Shape())


def tags_of(tags: list[dict[str, str]]) -> dict[str, str]:
    return {tag.get("Key", tag.get("key", "")): tag.get("Value", tag.get("value", "")) for tag in tags}


def kinds(left: list[str]) -> list[str]:
    """What is left, with definitions by family and without their ARN."""
    return [re.sub(r"arn:.*/([\w-]+):\d+", r"\1", each) for each in left]


def function(network: dict[str, Any] | None, name: str = "wukong") -> None:
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    role = boto3.client("iam").create_role(RoleName=f"{name}-function", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    boto3.client("lambda").create_function(
        FunctionName=name,
        Role=role,
        Runtime="python3.12",
        Handler="a.b",
        Code={"ZipFile": b"no archive"},
        **({"VpcConfig": network} if network else {}),
    )


def in_a_vpc(bare: Bare) -> tuple[str, str, str]:
    """Make a VPC with a private subnet and a group; return their ids."""
    vpc = bare.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = bare.ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    group = bare.ec2.create_security_group(GroupName="functions", Description="them", VpcId=vpc)["GroupId"]
    return vpc, subnet, group


def rules(bare: Bare, group: str) -> list[tuple[int, int, list[str], list[str]]]:
    [told] = bare.ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    return [
        (
            rule["FromPort"],
            rule["ToPort"],
            sorted(pair["GroupId"] for pair in rule["UserIdGroupPairs"]),
            sorted(each["CidrIp"] for each in rule["IpRanges"]),
        )
        for rule in told["IpPermissions"]
    ]


# --- making


def test_what_is_missing_is_made_with_the_fixed_names_and_tagged(aws, bare):
    setup = prepared()
    assert kinds(bare.left()) == ALL
    role = bare.iam.get_role(RoleName="wukong-store")["Role"]
    [cluster] = bare.ecs.describe_clusters(clusters=["wukong"], include=["TAGS"])["clusters"]
    [logs] = bare.logs.describe_log_groups()["logGroups"]
    secret = bare.secrets.describe_secret(SecretId="wukong/store-password")
    [group] = bare.ec2.describe_security_groups(GroupIds=[setup.group])["SecurityGroups"]
    definition = bare.ecs.describe_task_definition(taskDefinition=setup.definition, include=["TAGS"])
    assert [
        tags_of(role["Tags"]),
        tags_of(cluster["tags"]),
        bare.logs.list_tags_for_resource(resourceArn=logs["arn"].removesuffix(":*"))["tags"],
        tags_of(secret["Tags"]),
        tags_of(group["Tags"]),
    ] == [OURS] * 5
    assert OURS.items() <= tags_of(definition["tags"]).items()
    assert logs["retentionInDays"] == 14
    assert re.fullmatch("[0-9a-f]{64}", bare.secrets.get_secret_value(SecretId=secret["ARN"])["SecretString"])
    [statement] = role["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
    policy = bare.iam.get_role_policy(RoleName="wukong-store", PolicyName="store")["PolicyDocument"]
    assert [each["Resource"] for each in policy["Statement"]] == [
        "arn:aws:secretsmanager:*:123456789012:secret:wukong/store-*",
        "arn:aws:logs:*:123456789012:log-group:/ecs/wukong-store:*",
        "*",
    ]


def test_the_password_is_in_the_secret_and_nowhere_else(aws, bare):
    setup = prepared(Shape(tls=True))
    for name in ("password", "certificate"):
        secret = bare.secrets.get_secret_value(SecretId=f"wukong/store-{name}")["SecretString"]
        told = bare.ecs.describe_task_definition(taskDefinition=setup.definition)["taskDefinition"]
        assert secret.strip() not in json.dumps(told, default=str)
    keys = FargateAccount(FargateOptions()).keys(Shape(tls=True))
    assert keys.password not in repr(keys)
    assert keys.ca_data.startswith("-----BEGIN CERTIFICATE-----")


def test_preparing_again_changes_nothing_and_another_shape_is_another_revision(aws, bare):
    first = prepared()
    seen = len(aws.calls()), len(aws.calls("iam")), len(aws.calls("ec2")), len(aws.calls("secretsmanager"))
    assert prepared() == first
    made = [
        action
        for service, at in zip(("ecs", "iam", "ec2", "secretsmanager"), seen, strict=True)
        for action in aws.calls(service)[at:]
        if not action.startswith(("Describe", "Get", "List"))
    ]
    assert made == []
    assert prepared(Shape(memory_mb=4096)).definition != first.definition
    assert prepared(Shape(memory_mb=4096)).definition.endswith(":2")


def test_a_secret_that_is_about_to_be_deleted_is_kept(aws, bare):
    prepared()
    password = bare.secrets.get_secret_value(SecretId="wukong/store-password")["SecretString"]
    bare.secrets.delete_secret(SecretId="wukong/store-password", RecoveryWindowInDays=7)
    prepared()
    assert FargateAccount(FargateOptions()).keys(Shape()).password == password


@pytest.mark.parametrize(
    ("action", "code"),
    [
        ("CreateRole", "EntityAlreadyExists"),
        ("CreateSecret", "ResourceExistsException"),
        ("CreateLogGroup", "ResourceAlreadyExistsException"),
        ("CreateSecurityGroup", "InvalidGroup.Duplicate"),
        ("AuthorizeSecurityGroupIngress", "InvalidPermission.Duplicate"),
    ],
)
def test_if_another_client_was_faster_its_own_is_used(aws, bare, monkeypatch, action, code):
    """The call is made, and then answered as if another client's had been there first."""
    real = FargateCalls.call

    def call(self, service, operation, **arguments):
        answer = real(self, service, operation, **arguments)
        if operation.replace("_", "") == action.lower():
            refused = FargateRefused(f"{code}: there is one")
            refused.code = code
            raise refused
        return answer

    monkeypatch.setattr(FargateCalls, "call", call)
    prepared(client_cidr="192.0.2.0/24")
    monkeypatch.undo()
    assert set(ALL) <= set(kinds(bare.left()))


# --- what a stack has made


def test_what_is_there_by_the_same_names_is_used_as_it_is_and_left_by_down(aws, bare):
    vpc = bare.ec2.describe_vpcs()["Vpcs"][0]["VpcId"]
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    bare.ecs.create_cluster(clusterName="wukong", tags=[{"key": "wukong:name", "value": "wukong"}])
    bare.iam.create_role(RoleName="wukong-store", AssumeRolePolicyDocument=trust, Tags=STACKS)
    bare.secrets.create_secret(Name="wukong/store-password", SecretString="ab" * 32, Tags=STACKS)
    bare.logs.create_log_group(logGroupName="/ecs/wukong-store", tags={"wukong:name": "wukong"})
    group = bare.ec2.create_security_group(
        GroupName="wukong-store",
        Description="made by the stack",
        VpcId=vpc,
        TagSpecifications=[{"ResourceType": "security-group", "Tags": STACKS}],
    )["GroupId"]
    before = bare.left()
    options = FargateOptions(client_cidr="192.0.2.7/32")
    nodes = Nodes(options, FargateAccount(options))
    setup = nodes.account.prepare(Shape())
    assert (setup.group, nodes.account.keys(Shape()).password) == (group, "ab" * 32)
    assert bare.iam.list_role_policies(RoleName="wukong-store")["PolicyNames"] == []
    assert rules(bare, group) == [(6379, 6379, [], ["192.0.2.7/32"])]
    removed = nodes.down(lambda *_: None)
    assert bare.left() == before
    assert rules(bare, group) == []
    assert removed.removed == ("task definition wukong-store",)
    assert len(removed.left) == 5


def test_down_removes_all_that_was_made_and_says_what(aws, bare):
    prepared(Shape(tls=True))
    prepared(Shape(memory_mb=4096))
    removed = Nodes(FargateOptions(), FargateAccount(FargateOptions())).down(lambda *_: None)
    assert bare.left() == []
    assert bare.ecs.list_task_definitions(status="INACTIVE")["taskDefinitionArns"] == []
    assert removed.removed == (
        "task definition wukong-store",
        "security group wukong-store",
        "role wukong-store",
        "secret wukong/store-password",
        "secret wukong/store-certificate",
        "log group /ecs/wukong-store",
        "cluster wukong",
    )
    assert (removed.stopped, removed.left) == ((), ())


def test_down_if_there_is_nothing_is_no_error(aws, bare):
    removed = Nodes(FargateOptions(), FargateAccount(FargateOptions())).down(lambda *_: None)
    assert (removed.stopped, removed.removed, removed.left) == ((), (), ())


def test_down_leaves_another_store_alone(aws, bare):
    prepared(name="other")
    before = bare.left()
    prepared()
    Nodes(FargateOptions(), FargateAccount(FargateOptions())).down(lambda *_: None)
    assert bare.left() == before


def test_down_leaves_a_cluster_in_which_others_run_something(aws, bare):
    prepared()
    aws.fail("DeleteCluster", "ClusterContainsServicesException", "The Cluster cannot be deleted while Services")
    removed = Nodes(FargateOptions(), FargateAccount(FargateOptions())).down(lambda *_: None)
    assert removed.left == ("cluster wukong",)
    assert kinds(bare.left()) == ["cluster wukong"]


# --- the network


def test_without_a_function_nodes_are_in_the_default_vpc_with_public_addresses_to_fetch_their_image_by(aws, bare):
    place = prepared().place
    [vpc] = bare.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    assert place.vpc == vpc["VpcId"]
    assert "default VPC" in place.why
    assert (place.admitted, place.public_ip) == ((), True)


def test_nodes_are_in_the_functions_network_and_admit_its_group_and_nobody_else(aws, bare):
    vpc, subnet, group = in_a_vpc(bare)
    function({"SubnetIds": [subnet], "SecurityGroupIds": [group]})
    setup = prepared()
    place = setup.place
    assert (place.vpc, place.subnets, place.admitted, place.public_ip) == (vpc, (subnet,), (group,), False)
    assert rules(bare, setup.group) == [(6379, 6379, [group], [])]
    assert "subnets of the function wukong" in place.why


def test_a_function_in_no_vpc_would_not_reach_nodes_and_nothing_is_made(aws, bare):
    function(None)
    before = bare.left()
    with pytest.raises(ConfigError, match="in no VPC") as caught:
        prepared()
    assert "wukong deploy --storage fargate" in str(caught.value)
    assert bare.left() == before
    [line] = Fargate().advice()
    assert "in no VPC" in line
    assert " -> " in line
    _, _, group = in_a_vpc(bare)
    assert "default VPC" in prepared(function_security_group=group).place.why


def test_subnets_and_groups_that_are_given_are_used(aws, bare):
    vpc, subnet, group = in_a_vpc(bare)
    setup = prepared(subnets=[subnet], function_security_group=group, client_cidr="192.0.2.0/24", public_ip=True)
    assert (setup.place.vpc, setup.place.subnets, setup.place.public_ip) == (vpc, (subnet,), True)
    assert rules(bare, setup.group) == [(6379, 6379, [group], ["192.0.2.0/24"])]


def test_a_client_is_admitted_to_nodes_that_are_there_already(aws, bare):
    setup = prepared()
    FargateAccount(FargateOptions(client_cidr="192.0.2.0/24")).admit()
    FargateAccount(FargateOptions(client_cidr="192.0.2.0/24")).admit()
    assert rules(bare, setup.group) == [(6379, 6379, [], ["192.0.2.0/24"])]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subnets": ["subnet-00000000"]}, "no such subnet in us-east-1"),
        ({"function": "nowhere"}, "no function nowhere in us-east-1"),
    ],
)
def test_a_network_that_is_not_there_is_named(aws, bare, options, message):
    with pytest.raises(ConfigError, match=message):
        prepared(**options)


def test_subnets_of_two_networks_are_refused(aws, bare):
    _, subnet, _ = in_a_vpc(bare)
    other = bare.ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"][0]
    with pytest.raises(ConfigError, match="give subnets of one VPC"):
        prepared(subnets=[subnet, other["SubnetId"]])


# --- refusals


@pytest.mark.parametrize(
    ("code", "message", "kind", "said"),
    [
        ("AccessDeniedException", "no", FargateRefused, "must be allowed ecs:DescribeClusters"),
        ("ExpiredTokenException", "late", FargateRefused, "aws sso login"),
        ("OptInRequired", "no", FargateRefused, "has to be enabled"),
        ("LimitExceededException", "too many", FargateRefused, "Service Quotas"),
        ("ClientException", "You've reached the limit on the number of vCPUs", FargateRefused, "Service Quotas"),
    ],
)
def test_a_refusal_says_what_to_do(aws, bare, code, message, kind, said):
    aws.fail("DescribeClusters", code, message)
    with pytest.raises(kind) as caught:
        prepared()
    assert said in str(caught.value)
    assert not isinstance(caught.value, StoreUnavailable)
    assert code in str(caught.value)


def test_throttling_is_waited_out_and_if_it_lasts_may_pass(aws):
    aws.fail("DescribeClusters", "ThrottlingException", "Rate exceeded", times=5)
    prepared()
    aws.fail("DescribeClusters", "ThrottlingException", "Rate exceeded")
    with pytest.raises(StoreUnavailable, match="ThrottlingException"):
        prepared()


def test_credentials_that_aws_does_not_know_are_an_error_that_says_so(monkeypatch):
    with account(access_key="AKIDKNOWN"):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDUNKNOWN")
        with pytest.raises(FargateRefused, match="UnrecognizedClientException") as caught:
            Nodes(FargateOptions(), FargateAccount(FargateOptions())).status()
        assert "log in" in str(caught.value)


def test_without_credentials_region_or_endpoint_the_error_says_what_is_missing(aws, bare, monkeypatch):
    with pytest.raises(StoreUnavailable, match="reaches them"):
        FargateAccount(FargateOptions(endpoint_url="http://127.0.0.1:9")).tasks()
    with pytest.raises(ConfigError, match=r"nobody[^$]*profile"):
        FargateAccount(FargateOptions(profile="nobody")).tasks()
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigError, match="no AWS region is configured"):
        FargateAccount(FargateOptions()).tasks()
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreError, match="no usable AWS credentials"):
        FargateAccount(FargateOptions()).tasks()


def test_without_boto3_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(StoreError, match=r"wukong-serverless\[fargate\]"):
        FargateAccount(FargateOptions()).tasks()


def test_of_a_store_that_was_not_started_is_said_what_stands_and_nothing_is_made(aws, bare):
    store = Fargate()
    [line] = store.advice()
    assert "no node of wukong runs yet" in line
    assert "default VPC" in line
    store.close()
    assert bare.left() == []
