"""Mistakes about what is to run on Fargate are found before anything is created. Against moto's HTTP server."""

import json

import deploy_account
import pytest
from deploy_account import ID, REGION, Contains, opened
from deploy_account_fargate import NOTHING, everything, lead_out, new_network, run_nodes
from test_deploy_checks import REGISTRY, push

from wukong import cli
from wukong.backends.aws_calls import AwsCalls
from wukong.deploy.iam_policy import policy
from wukong.deploy.network import Network, surveyed
from wukong.deploy.options import DeployOptions

pytestmark = pytest.mark.xdist_group("moto")
aws, wukong = deploy_account.aws, deploy_account.wukong

URI = f"{REGISTRY}/wukong"


@pytest.fixture
def network(aws):
    return new_network(aws)


def nothing_was_made(aws):
    return everything(aws) == NOTHING and list(aws.pages("cloudformation", "describe_stacks", "Stacks")) == []


def test_functions_of_a_package_have_no_image_for_the_proxy(aws, wukong, network):
    exit_code, shown = wukong("deploy", "--yes", "--proxy", "--subnets", *network[1])
    assert (exit_code, shown) == (1, Contains("give --proxy-image"))
    assert nothing_was_made(aws)


def test_an_image_for_the_proxy_that_is_not_there(aws, wukong, network):
    push(aws)
    for uri, says in ((f"{URI}:v2", f"docker push {URI}:v2"), ("wukong:latest", "--proxy-image 'wukong:latest' names")):
        shown = wukong("deploy", "--yes", "--proxy", "--proxy-image", uri, "--subnets", *network[1])
        assert shown == (1, Contains(says))
    assert nothing_was_made(aws)


@pytest.mark.parametrize("what", [("--storage", "fargate"), ("--proxy", "--image", URI)])
def test_without_subnets_the_default_vpc_has_to_do(aws, wukong, what):
    push(aws)
    exit_code, shown = wukong("deploy", "--yes", *what)
    assert (exit_code, shown) == (1, Contains("from none of the default VPC"))
    assert "--subnets" in shown
    assert nothing_was_made(aws)
    default = [{"Name": "is-default", "Values": ["true"]}]
    [vpc] = [each["VpcId"] for each in aws.pages("ec2", "describe_vpcs", "Vpcs", Filters=default)]
    within = [{"Name": "vpc-id", "Values": [vpc]}]
    subnets = sorted(each["SubnetId"] for each in aws.pages("ec2", "describe_subnets", "Subnets", Filters=within))
    table = aws.call("ec2", "create_route_table", VpcId=vpc)["RouteTable"]["RouteTableId"]
    aws.call("ec2", "associate_route_table", RouteTableId=table, SubnetId=subnets[2])
    lead_out(aws, vpc, table, subnets[0], "nat")
    assert wukong("deploy", "--yes", *what) == (0, Contains(f"are put into the default VPC {vpc}"))
    placed = aws.call("lambda", "get_function_configuration", FunctionName="wukong")["VpcConfig"]
    assert placed["SubnetIds"] == [subnets[2]]
    for each in subnets:
        aws.call("ec2", "delete_subnet", SubnetId=each) if each != subnets[2] else None
    assert "no subnets are named" not in wukong("deploy", "--yes", *what)[1]  # those stay


def test_without_a_default_vpc_subnets_have_to_be_named(aws, wukong):
    for each in aws.pages("ec2", "describe_vpcs", "Vpcs"):
        within = [{"Name": "vpc-id", "Values": [each["VpcId"]]}]
        for subnet in aws.pages("ec2", "describe_subnets", "Subnets", Filters=within):
            aws.call("ec2", "delete_subnet", SubnetId=subnet["SubnetId"])
        aws.call("ec2", "delete_vpc", VpcId=each["VpcId"])
    assert wukong("deploy", "--yes", "--storage", "fargate") == (1, Contains("there is no default VPC"))


def test_a_vpc_in_which_names_are_not_resolved(aws, wukong):
    push(aws)
    vpc, subnets = new_network(aws, names=False)
    exit_code, shown = wukong("deploy", "--yes", "--proxy", "--image", URI, "--subnets", *subnets)
    assert (exit_code, shown) == (1, Contains(f"modify-vpc-attribute --vpc-id {vpc} --enable-dns-hostnames"))
    assert nothing_was_made(aws)
    assert wukong("deploy", "--plan", "--storage", "fargate", "--subnets", *subnets)[0] == 0  # which has no name


def test_a_proxy_that_would_not_start_is_told_of_with_the_endpoints_that_it_takes(aws):
    vpc, subnets = new_network(aws, None)
    needed = ["ecr.api", "ecr.dkr", "lambda", "logs", "s3", "secretsmanager"]
    options = DeployOptions(proxy=True, image=URI, subnets=tuple(subnets))
    for n, each in enumerate(needed):
        found = surveyed(aws, options)[1][-1]
        assert f"the proxy in {', '.join(sorted(subnets))} would not reach {', '.join(needed[n:])}:" in found.what
        name = f"com.amazonaws.{REGION}.{each}"
        assert name in found.todo and not found.fatal
        aws.call("ec2", "create_vpc_endpoint", VpcId=vpc, ServiceName=name, VpcEndpointType="Interface")
    assert surveyed(aws, options) == (Network(vpc, tuple(sorted(subnets))), [])


def test_names_that_are_taken_are_all_found(aws, wukong, network):
    push(aws)
    vpc, subnets = network
    aws.call("ecs", "create_cluster", clusterName="wukong")
    aws.call("iam", "create_role", RoleName="wukong-store", AssumeRolePolicyDocument="{}")
    for name in ("/ecs/wukong-store", "/ecs/wukong-proxy"):
        aws.call("logs", "create_log_group", logGroupName=name)
    for name in ("wukong/store-password", "wukong/deployment-key"):
        aws.call("secretsmanager", "create_secret", Name=name, SecretString="x")
    for name in ("wukong-store", "wukong-proxy", "wukong-functions"):
        aws.call("ec2", "create_security_group", GroupName=name, Description="d", VpcId=vpc)
    aws.call("servicediscovery", "create_private_dns_namespace", Name="wukong.internal", Vpc=vpc)
    options = ("--storage", "fargate", "--proxy", "--image", URI, "--subnets", *subnets)
    exit_code, shown = wukong("deploy", "--yes", *options)
    assert exit_code == 1
    assert "10 things are in the way" in shown
    for what in (
        *("an ECS cluster wukong", "a role wukong-store", "a log group /ecs/wukong-store", "a Cloud Map namespace"),
        *("a secret wukong/store-password", "a security group wukong-functions", "a security group wukong-proxy"),
    ):
        assert f"there is {what}" in shown
    assert "'wukong store down'" in shown
    assert list(aws.pages("cloudformation", "describe_stacks", "Stacks")) == []


def test_a_store_of_another_deployment_is_refused(aws, wukong, network):
    options = ("--storage", "fargate", "--set", "storage.deployment=theirs", "--subnets", *network[1])
    exit_code, shown = wukong("deploy", "--yes", *options)
    assert (exit_code, shown) == (1, Contains("give --name theirs"))
    assert wukong("deploy", "--plan", "--name", "theirs", *options)[0] == 0


# --- permissions


def test_the_printed_policies_have_every_action_that_the_commands_take(monkeypatch, tmp_path, capsys):
    printed = [each for fargate in (False, True) for each in policy("wukong", REGION, ID, fargate=fargate)["Statement"]]
    aws = opened(monkeypatch, tmp_path, {"Version": "2012-10-17", "Statement": printed})
    push(aws)
    _, subnets = new_network(aws)
    for options in (["--proxy"], ["--storage", "fargate"]):
        assert cli.main(["deploy", "--policy", *options]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert "ecs:CreateCluster" in {action for each in shown["Statement"] for action in each["Action"]}
    taken = set()

    def noting(calls, action, original=AwsCalls.mapped):
        taken.add(action)
        return original(calls, action)

    monkeypatch.setattr(AwsCalls, "mapped", noting)
    options = ["--storage", "fargate", "--proxy", "--proxy-image", URI, "--subnets", *subnets]
    assert cli.main(["deploy", "--yes", *options]) == 0
    own = {action for action in taken if ":" in action}
    run_nodes(aws, subnets[0], 1)
    taken.clear()
    for command in (["status"], ["deploy", "--yes", "--no-proxy"], ["destroy", "--yes"]):
        assert cli.main(command) == 0
    own |= {action for action in taken if ":" in action}
    allowed = {action for each in printed for action in each["Action"]}
    assert own - {"sts:GetCallerIdentity", "iam:SimulatePrincipalPolicy"} <= allowed
    assert {"ecs:StopTask", "ecs:DescribeServices", "servicediscovery:ListNamespaces"} <= own
    assert everything(aws)["clusters"] == []


def test_permissions_for_fargate_that_are_missing_are_named_before_anything_is_made(monkeypatch, tmp_path, capsys):
    aws = opened(monkeypatch, tmp_path, policy("wukong", REGION, ID))
    push(aws)
    _, subnets = new_network(aws)
    assert cli.main(["deploy", "--plan", "--image", URI, "--subnets", *subnets]) == 0
    assert cli.main(["deploy", "--yes", "--proxy", "--image", URI, "--subnets", *subnets]) == 1
    shown = capsys.readouterr().err
    for expected in ("ecs:CreateService", "servicediscovery:CreatePrivateDnsNamespace", "iam:CreateServiceLinkedRole"):
        assert expected in shown
    assert nothing_was_made(aws)
