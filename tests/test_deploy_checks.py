"""Mistakes are found before anything is created, each with what to do about it. Against moto's HTTP server."""

import json
from types import SimpleNamespace

import deploy_account
import pytest
from deploy_account import CONCURRENCY, ID, REGION, Contains, opened

from wukong import cli
from wukong.deploy import code
from wukong.deploy.account import DeployAccount
from wukong.deploy.iam_policy import policy
from wukong.deploy.image import found_image
from wukong.deploy.network import surveyed
from wukong.deploy.options import DeployOptions
from wukong.deploy.permissions import permission_findings
from wukong.errors import BackendError, ConfigError

pytestmark = pytest.mark.xdist_group("moto")
aws = deploy_account.aws

REGISTRY = f"{ID}.dkr.ecr.{REGION}.amazonaws.com"
CONFIG = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 7, "digest": f"sha256:{'0' * 64}"}
MANIFEST = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
    "config": CONFIG,
    "layers": [],
}


@pytest.fixture
def deploy(aws, capsys, monkeypatch):
    """Deploy, which must fail before a package is built; return the exit code and what it showed."""
    monkeypatch.setattr(code, "build", lambda *_, **__: pytest.fail("nothing should have been built"))

    def run(*arguments):
        exit_code = cli.main(["deploy", "--yes", *map(str, arguments)])
        assert aws.call("s3", "list_buckets")["Buckets"] == []
        shown = capsys.readouterr()
        return exit_code, shown.out + shown.err

    return run


# --- who and where


def test_a_value_that_cannot_be_is_one_message(deploy):
    exit_code, shown = deploy("--memory", 100)
    assert (exit_code, shown) == (1, Contains("wukong: ConfigError: --memory 100 cannot be\n  -> from 128 to 10240 MB"))


def test_no_credentials(aws, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(BackendError, match="no usable AWS credentials") as caught:
        _ = DeployAccount().identity
    assert "aws sso login" in caught.value.hint


def test_no_region(aws, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigError, match="no AWS region is configured") as caught:
        _ = DeployAccount().region
    assert "--region" in caught.value.hint


def test_a_profile_that_is_not_there(aws, capsys):
    assert cli.main(["deploy", "--yes", "--profile", "nobody"]) == 1
    shown = capsys.readouterr().err
    assert "nobody" in shown and "--profile" in shown


def test_an_endpoint_that_does_not_answer(aws, capsys):
    assert cli.main(["status", "--endpoint-url", "http://127.0.0.1:9"]) == 1
    assert "check the region and the endpoint" in capsys.readouterr().err


# --- what is there already


def test_functions_and_log_groups_of_the_same_name_are_all_found(aws, deploy):
    role = aws.call("iam", "create_role", RoleName="wukong-Role-1", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    for name in ("wukong", "wukong-2"):
        aws.call(
            "lambda",
            "create_function",
            FunctionName=name,
            Role=role,
            Runtime="python3.13",
            Handler="a.b",
            Code={"ZipFile": b"PK\x05\x06" + bytes(18)},
        )
    aws.call("logs", "create_log_group", logGroupName="/aws/lambda/wukong-2")
    exit_code, shown = deploy("--functions", 2)
    assert exit_code == 1
    assert "3 things are in the way" in shown
    for thing in ("a function wukong already", "a function wukong-2", "a log group /aws/lambda/wukong-2"):
        assert thing in shown
    assert "aws logs delete-log-group --log-group-name /aws/lambda/wukong-2" in shown


def test_a_log_group_of_a_longer_name_is_in_nobodys_way(aws, capsys):
    aws.call("logs", "create_log_group", logGroupName="/aws/lambda/wukong-old")
    assert cli.main(["deploy", "--plan"]) == 0


def test_a_package_does_not_become_an_image(aws, capsys):
    cli.main(["deploy", "--yes"])
    push(aws)
    capsys.readouterr()
    assert cli.main(["deploy", "--yes", "--image", f"{REGISTRY}/wukong"]) == 1
    assert "'wukong destroy --name wukong' first" in capsys.readouterr().err


# --- limits of the account


def test_more_executions_reserved_than_there_are(aws, deploy):
    CONCURRENCY.update(ConcurrentExecutions=1_000, UnreservedConcurrentExecutions=300)
    exit_code, shown = deploy("--functions", 2, "--reserved-concurrency", 150)
    assert (exit_code, shown) == (1, Contains("give at most --reserved-concurrency 100"))


def test_what_is_reserved_already_counts_as_there(aws, capsys):
    CONCURRENCY.update(ConcurrentExecutions=1_000, UnreservedConcurrentExecutions=300)
    assert cli.main(["deploy", "--yes", "--reserved-concurrency", "200"]) == 0
    CONCURRENCY.update(UnreservedConcurrentExecutions=100)
    assert cli.main(["deploy", "--yes", "--reserved-concurrency", "190"]) == 0
    assert cli.main(["deploy", "--yes", "--reserved-concurrency", "291"]) == 1
    for count, exit_code in ((191, 1), (190, 0)):
        arguments = ["--reserved-concurrency", "none", "--provisioned-concurrency", str(count)]
        assert cli.main(["deploy", "--plan", *arguments]) == exit_code


def test_a_new_accounts_limit_is_told_and_stops_nobody(aws, capsys):
    CONCURRENCY.update(ConcurrentExecutions=10, UnreservedConcurrentExecutions=10)
    assert cli.main(["deploy", "--plan"]) == 0
    assert "note: this account may run 10 functions at once" in capsys.readouterr().out
    assert cli.main(["deploy", "--yes", "--reserved-concurrency", "1"]) == 1
    assert "leave --reserved-concurrency out" in capsys.readouterr().err


def test_variables_that_are_too_long(deploy):
    assert deploy("--storage", f"redis://u:{'x' * 4_000}@h:6379") == (1, Contains("give it shorter passwords"))


# --- images


def push(aws, tag="latest", manifest=MANIFEST, repository="wukong"):
    aws.call("ecr", "create_repository", repositoryName=repository)
    told = aws.call(
        "ecr",
        "put_image",
        repositoryName=repository,
        imageTag=tag,
        imageManifest=json.dumps(manifest),
        imageManifestMediaType=manifest["mediaType"],
    )
    return told["image"]["imageId"]["imageDigest"]


def test_an_image_is_deployed_by_its_digest(aws, capsys):
    digest = push(aws)
    assert cli.main(["deploy", "--yes", "--image", f"{REGISTRY}/wukong"]) == 0
    made = aws.call("lambda", "get_function", FunctionName="wukong")["Code"]
    assert made["ImageUri"] == f"{REGISTRY}/wukong@{digest}"
    assert "the image in ECR" in capsys.readouterr().out
    assert [each["Name"] for each in aws.call("s3", "list_buckets")["Buckets"]] == [f"wukong-values-{ID}-{REGION}"]
    assert cli.main(["deploy", "--yes"]) == 0
    assert "nothing to change" in capsys.readouterr().out
    assert cli.main(["destroy", "--yes"]) == 0


def test_an_image_is_found_by_tag_and_by_digest(aws):
    digest = push(aws, "v1", repository="team/wukong")
    uri = f"{REGISTRY}/team/wukong@{digest}"
    assert found_image(aws, f"{REGISTRY}/team/wukong:v1").uri == uri
    assert found_image(aws, uri).uri == uri


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("wukong:latest", "names no image in ECR"),
        ("public.ecr.aws/lambda/python:3.13", "names no image in ECR"),
        (f"{ID}.dkr.ecr.eu-west-1.amazonaws.com/wukong", "give --region eu-west-1"),
        (f"{REGISTRY}/other", "aws ecr create-repository --repository-name other"),
        (f"{REGISTRY}/wukong:v2", f"docker push {REGISTRY}/wukong:v2"),
    ],
)
def test_an_image_that_is_not_there(aws, deploy, uri, says):
    push(aws)
    assert deploy("--image", uri) == (1, Contains(says))


def test_a_list_of_images_is_none(aws, deploy):
    listing = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
    told = {"imageDetails": [{"imageManifestMediaType": listing["mediaType"], "imageDigest": "sha256:0"}]}
    account = SimpleNamespace(region=REGION, call=lambda *_, **__: told)
    with pytest.raises(BackendError, match="a list of images") as caught:
        found_image(account, f"{REGISTRY}/wukong")
    assert "--provenance=false" in caught.value.hint


# --- networks


@pytest.fixture
def vpc(aws):
    """A VPC with two subnets and a security group, and nothing that leads out of it."""
    made = aws.call("ec2", "create_vpc", CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = tuple(
        aws.call("ec2", "create_subnet", VpcId=made, CidrBlock=f"10.0.{n}.0/24")["Subnet"]["SubnetId"] for n in (0, 1)
    )
    group = aws.call("ec2", "create_security_group", GroupName="g", Description="g", VpcId=made)["GroupId"]
    return SimpleNamespace(id=made, subnets=subnets, group=group)


def found(aws, subnets, group, **options):
    chosen = DeployOptions(subnets=tuple(subnets), security_groups=(group,), **options)
    return surveyed(aws, chosen)[1]


def test_every_subnet_and_group_that_is_not_there_is_named(aws, vpc):
    missing = found(aws, [vpc.subnets[0], "subnet-0123456789abcdef0"], "sg-0123456789abcdef0")
    assert [each.what for each in missing] == [
        "there is no subnet subnet-0123456789abcdef0 in us-east-1",
        "there is no security group sg-0123456789abcdef0 in us-east-1",
    ]
    assert missing[0].todo == "'aws ec2 describe-subnets' lists those there are"
    assert all(each.fatal for each in missing)


def test_a_group_of_another_vpc_is_refused(aws, vpc):
    other = aws.call("ec2", "create_vpc", CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    group = aws.call("ec2", "create_security_group", GroupName="o", Description="o", VpcId=other)["GroupId"]
    [finding] = found(aws, vpc.subnets, group)
    assert finding.fatal and "different VPCs" in finding.what
    assert vpc.id in finding.what and other in finding.what


def test_subnets_without_a_way_to_lambda_are_told_of(aws, vpc):
    [finding] = found(aws, vpc.subnets, vpc.group)
    assert not finding.fatal
    assert all(subnet in finding.what for subnet in vpc.subnets)
    assert f"com.amazonaws.{REGION}.lambda" in finding.todo


def test_a_public_subnet_is_no_way_out(aws, vpc):
    gateway = aws.call("ec2", "create_internet_gateway")["InternetGateway"]["InternetGatewayId"]
    aws.call("ec2", "attach_internet_gateway", InternetGatewayId=gateway, VpcId=vpc.id)
    [table] = aws.pages("ec2", "describe_route_tables", "RouteTables", Filters=[{"Name": "vpc-id", "Values": [vpc.id]}])
    route = {"RouteTableId": table["RouteTableId"], "DestinationCidrBlock": "0.0.0.0/0", "GatewayId": gateway}
    aws.call("ec2", "create_route", **route)
    assert len(found(aws, vpc.subnets, vpc.group)) == 1


def test_a_nat_gateway_is_a_way_out_for_the_subnets_that_are_routed_to_it(aws, vpc):
    address = aws.call("ec2", "allocate_address", Domain="vpc")["AllocationId"]
    gateway = aws.call("ec2", "create_nat_gateway", SubnetId=vpc.subnets[0], AllocationId=address)
    table = aws.call("ec2", "create_route_table", VpcId=vpc.id)["RouteTable"]["RouteTableId"]
    nat = gateway["NatGateway"]["NatGatewayId"]
    aws.call("ec2", "create_route", RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
    aws.call("ec2", "associate_route_table", RouteTableId=table, SubnetId=vpc.subnets[0])
    [finding] = found(aws, vpc.subnets, vpc.group)
    assert vpc.subnets[1] in finding.what and vpc.subnets[0] not in finding.what
    assert found(aws, vpc.subnets[:1], vpc.group) == []


def test_endpoints_are_enough_if_there_is_one_for_each_service(aws, vpc):
    def endpoint(service):
        name = f"com.amazonaws.{REGION}.{service}"
        aws.call("ec2", "create_vpc_endpoint", VpcId=vpc.id, ServiceName=name, VpcEndpointType="Interface")

    endpoint("lambda")
    assert found(aws, vpc.subnets, vpc.group) == []
    [finding] = found(aws, vpc.subnets, vpc.group, key_in="secrets-manager")
    assert "would not reach secretsmanager" in finding.what
    endpoint("secretsmanager")
    assert found(aws, vpc.subnets, vpc.group, key_in="secrets-manager") == []
    [finding] = found(aws, vpc.subnets, vpc.group, store="dynamodb")
    assert "would not reach dynamodb and s3" in finding.what
    assert f"a gateway endpoint com.amazonaws.{REGION}.dynamodb" in finding.todo
    endpoint("dynamodb")
    endpoint("s3")
    assert found(aws, vpc.subnets, vpc.group, store="dynamodb") == []


def test_functions_in_a_vpc_are_deployed_with_a_note(aws, vpc, capsys):
    arguments = ["--subnets", *vpc.subnets, "--security-groups", vpc.group]
    assert cli.main(["deploy", "--yes", *arguments]) == 0
    told = aws.call("lambda", "get_function_configuration", FunctionName="wukong")["VpcConfig"]
    assert (told["SubnetIds"], told["SecurityGroupIds"]) == (list(vpc.subnets), [vpc.group])
    shown = capsys.readouterr().out
    assert "would not reach lambda" in shown and "NAT gateways and endpoints" in shown


# --- permissions


def without(*actions):
    """The policy that is printed, without these."""
    document = policy("wukong", REGION, ID)
    for statement in document["Statement"]:
        statement["Action"] = [each for each in statement["Action"] if each not in actions]
    return document


def test_permissions_that_are_missing_are_all_named_before_anything_is_made(monkeypatch, tmp_path, capsys):
    aws = opened(monkeypatch, tmp_path, without("lambda:CreateFunction", "iam:PassRole", "s3:PutObject"))
    assert cli.main(["deploy", "--yes"]) == 1
    shown = capsys.readouterr().err
    for expected in (
        f"lambda:CreateFunction on arn:aws:lambda:{REGION}:{ID}:function:wukong",
        f"iam:PassRole on arn:aws:iam::{ID}:role/wukong-Role-*",
        "s3:PutObject on arn:aws:s3:::wukong-code-",
        "wukong deploy --policy",
        "user/deployer may not",
    ):
        assert expected in shown
    assert list(aws.pages("cloudformation", "describe_stacks", "Stacks")) == []
    assert cli.main(["deploy", "--yes", "--no-permission-check"]) == 0


def test_only_the_permissions_that_the_options_take_are_asked_for(monkeypatch, tmp_path):
    aws = opened(
        monkeypatch, tmp_path, without("secretsmanager:CreateSecret", "ec2:DescribeVpcs", "ecr:DescribeImages")
    )
    assert list(permission_findings(aws, DeployOptions())) == []
    [finding] = permission_findings(aws, DeployOptions(key_in="secrets-manager"))
    assert "secretsmanager:CreateSecret" in finding.what and "ec2" not in finding.what
    [finding] = permission_findings(aws, DeployOptions(subnets=("s",), security_groups=("g",)))
    assert "ec2:DescribeVpcs" in finding.what
    [finding] = permission_findings(aws, DeployOptions(image="i"))
    assert "ecr:DescribeImages" in finding.what


def test_the_printed_policy_is_for_one_deployment_alone(monkeypatch, tmp_path):
    aws = opened(monkeypatch, tmp_path, without())
    [finding] = permission_findings(aws, DeployOptions(name="other"))
    assert "lambda:CreateFunction" in finding.what


def test_that_permissions_cannot_be_checked_is_told_and_stops_nobody(monkeypatch, tmp_path, capsys):
    opened(monkeypatch, tmp_path, without())
    monkeypatch.setattr("moto.iam.responses.IamResponse.simulate_principal_policy", denied, raising=True)
    assert cli.main(["deploy", "--yes"]) == 0
    shown = capsys.readouterr().out
    assert "note: permissions were not checked beforehand" in shown and "AccessDenied" in shown


def denied(self):
    from moto.core.exceptions import ServiceException

    class AccessDenied(ServiceException):
        code = "AccessDenied"

    raise AccessDenied("not authorized to perform: iam:SimulatePrincipalPolicy")


def test_a_session_of_a_role_is_checked_as_the_role(aws, monkeypatch):
    asked = []
    arn = f"arn:aws:iam::{ID}:role/people/Admin"

    class Assumed:
        id, region, partition = ID, REGION, "aws"

        @property
        def identity(self):
            return {"Arn": f"arn:aws:sts::{ID}:assumed-role/Admin/me"}

        def call(self, service, operation, **arguments):
            assert (service, operation, arguments) == ("iam", "get_role", {"RoleName": "Admin"})
            return {"Role": {"Arn": arn}}

        def pages(self, *_, PolicySourceArn, ActionNames, **__):
            asked.append(PolicySourceArn)
            return [{"EvalActionName": each, "EvalDecision": "allowed"} for each in ActionNames]

    assert list(permission_findings(Assumed(), DeployOptions())) == []
    assert set(asked) == {arn}


def test_a_call_that_is_refused_says_which_permission_it_takes(aws, monkeypatch):
    monkeypatch.setattr("moto.iam.responses.IamResponse.simulate_principal_policy", denied)
    with pytest.raises(BackendError) as caught:
        list(aws.pages("iam", "simulate_principal_policy", "EvaluationResults", PolicySourceArn="a" * 20,
                       ActionNames=["s3:GetObject"], ResourceArns=["*"]))  # fmt: skip
    assert caught.value.denied
    assert "must be allowed iam:SimulatePrincipalPolicy" in caught.value.hint
