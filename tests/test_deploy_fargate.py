"""Deploying the store on Fargate and the proxy, until nothing of them is left. Against moto's HTTP server.

moto runs no task. By CloudFormation it makes half of what ECS has and nothing of Cloud Map: `deploy_account_moto`
adds to it. What only AWS would show (that the proxy starts, and is found by its name) is checked as a template.
"""

import json
import re
import time

import deploy_account
import pytest
from deploy_account import ID, REGION, Contains
from deploy_account_fargate import NOTHING, everything, new_network, run_nodes
from test_deploy_checks import REGISTRY, push

from wukong.backends.storage.fargate.account import FargateAccount as Store
from wukong.backends.storage.fargate.nodes import Nodes
from wukong.backends.storage.fargate.options import FargateOptions as StoreOptions
from wukong.backends.storage.fargate.options import Shape

pytestmark = pytest.mark.xdist_group("moto")
aws, wukong = deploy_account.aws, deploy_account.wukong

PASSWORD = "WUKONG_REDIS_PASSWORD"
URI = f"{REGISTRY}/wukong"


@pytest.fixture
def network(aws):
    return new_network(aws)


@pytest.fixture
def deployed(wukong, network):
    """Deploy with these options, in the network."""

    def run(*options):
        exit_code, shown = wukong("deploy", "--yes", "--subnets", *network[1], *options)
        assert exit_code == 0, shown
        return shown

    return run


STORE = {
    "clusters": ["wukong"],
    "functions": ["wukong"],
    "groups": ["wukong-functions", "wukong-store"],
    "logs": ["/aws/lambda/wukong", "/ecs/wukong-store"],
    "names": [],
    "roles": ["wukong-", "wukong-store"],
    "secrets": ["wukong/store-password"],
    "tasks": [],
}
PROXY = {
    "clusters": ["wukong"],
    "functions": ["wukong"],
    "groups": ["wukong-functions", "wukong-proxy"],
    "logs": ["/aws/lambda/wukong", "/ecs/wukong-proxy"],
    "names": ["wukong.internal"],
    "roles": ["wukong-", "wukong-Proxy", "wukong-ProxyExecution"],
    "secrets": ["wukong/deployment-key"],
    "tasks": ["wukong-proxy"],
}


def variables(aws, name="wukong"):
    return aws.call("lambda", "get_function_configuration", FunctionName=name)["Environment"]["Variables"]


def service(aws):
    [found] = aws.call("ecs", "describe_services", cluster="wukong", services=["wukong-proxy"])["services"]
    return found


# --- the store


def test_the_store_from_nothing_and_back_to_nothing(aws, wukong, deployed, network):
    shown = deployed("--storage", "fargate")
    assert 'wukong.Client(faas="aws-lambda", storage="fargate")' in shown
    assert everything(aws) == STORE
    assert "store on Fargate: no node runs" in wukong("status")[1]
    assert wukong("destroy", "--yes")[0] == 0
    assert everything(aws) == NOTHING


def test_functions_and_nodes_get_the_same_password_which_nobody_sees(aws, wukong, deployed):
    shown = deployed("--storage", "fargate", "--functions", 2)
    held = aws.call("secretsmanager", "get_secret_value", SecretId="wukong/store-password")["SecretString"]
    assert re.fullmatch("[0-9a-f]{64}", held)
    assert [variables(aws, name)[PASSWORD] for name in ("wukong", "wukong-2")] == [held, held]
    template = aws.call("cloudformation", "get_template", StackName="wukong")["TemplateBody"]
    assert held not in shown + json.dumps(template) + wukong("status")[1]
    deployed("--storage", "fargate", "--memory", 512)
    assert variables(aws)[PASSWORD] == held


def test_the_store_takes_what_was_deployed_and_leaves_it(aws, wukong, deployed, network):
    deployed("--storage", "fargate")
    store = Store(StoreOptions())
    setup = store.prepare(Shape(tls=True))
    assert (setup.place.vpc, list(setup.place.subnets)) == (network[0], sorted(network[1]))
    named = [{"Name": "group-name", "Values": ["wukong-store"]}]
    [group] = aws.pages("ec2", "describe_security_groups", "SecurityGroups", Filters=named)
    assert setup.group == group["GroupId"]
    assert store.keys(Shape()).password == variables(aws)[PASSWORD]
    policies = aws.call("iam", "list_role_policies", RoleName="wukong-store")["PolicyNames"]
    assert policies == ["own"]  # which lets it read the certificate that was made just now
    assert everything(aws)["secrets"] == ["wukong/store-certificate", "wukong/store-password"]
    Nodes(store.options, store).down(lambda *_: None)
    store.close()
    assert everything(aws) == STORE


def test_a_store_that_was_set_up_before_is_in_the_way_until_it_is_down(aws, wukong, network):
    store = Store(StoreOptions(subnets=network[1]))
    store.prepare(Shape())
    options = ("--storage", "fargate", "--subnets", *network[1])
    assert wukong("deploy", "--yes", *options) == (1, Contains("5 things are in the way"))
    Nodes(store.options, store).down(lambda *_: None)
    store.close()
    assert wukong("deploy", "--yes", *options)[0] == 0


def test_clients_of_another_name_say_which_deployment_they_mean(aws, wukong, network):
    exit_code, shown = wukong("deploy", "--yes", "--name", "mine", "--storage", "fargate", "--subnets", *network[1])
    assert exit_code == 0, shown
    assert 'storage={"name": "fargate", "deployment": "mine"}' in shown
    assert everything(aws)["clusters"] == ["mine"]


def test_nodes_that_run_are_shown_and_stopped_before_the_rest_goes(aws, wukong, deployed, network):
    deployed("--storage", "fargate")
    run_nodes(aws, network[1][0], 2)
    shown = wukong("status")[1]
    assert re.search(r"^node-0 +RUNNING", shown, re.MULTILINE), shown
    assert re.search(r"^node-1 +RUNNING", shown, re.MULTILINE), shown
    exit_code, shown = wukong("destroy", "--yes")
    assert exit_code == 0, shown
    assert "2 nodes of the store on Fargate, first of all" in shown
    assert shown.index("2 nodes stopped") < shown.index("delete in progress")
    assert everything(aws) == NOTHING


def test_another_store_takes_the_place_of_the_one_on_fargate_once_its_nodes_have_stopped(
    aws, wukong, deployed, network
):
    deployed("--storage", "fargate")
    tasks = run_nodes(aws, network[1][0], 1)
    other = ("--storage", "redis://:tiger@redis.example.com:6379")
    elsewhere = ("--storage", "fargate", "--subnets", network[1][0])
    assert "would be stopped" not in wukong("deploy", "--plan", "--storage", "fargate", "--memory", 512)[1]
    for change in (other, elsewhere):
        assert "1 node of the store on Fargate would be stopped" in wukong("deploy", "--plan", *change)[1]
    [task] = aws.call("ecs", "describe_tasks", cluster="wukong", tasks=tasks)["tasks"]
    assert task["lastStatus"] == "RUNNING"
    exit_code, shown = wukong("deploy", "--yes", *other)
    assert exit_code == 0, shown
    there = everything(aws)
    assert (there["clusters"], there["secrets"], there["tasks"]) == ([], [], [])
    assert there["groups"] == ["wukong-functions"]  # the functions stay in the VPC
    assert variables(aws)[PASSWORD] == "tiger"
    assert "Fargate" not in wukong("status")[1]


def test_the_store_stays_if_none_is_configured_and_goes_if_none_is_wanted(aws, wukong, deployed):
    deployed("--storage", "fargate")
    assert wukong("deploy", "--yes") == (0, Contains("the store that is deployed stays: fargate"))
    assert wukong("deploy", "--yes") == (0, Contains("nothing to change"))
    assert wukong("deploy", "--yes", "--storage", "none") == (0, Contains("is changed"))
    assert (everything(aws)["clusters"], set(variables(aws))) == ([], {"WUKONG_DEPLOYMENT_KEY", "PYTHONHASHSEED"})


def test_what_opened_another_store_goes_if_none_is_wanted(aws, wukong):
    wukong("deploy", "--yes", "--storage", "redis://:tiger@redis.example.com:6379")
    assert PASSWORD in variables(aws)
    wukong("deploy", "--yes", "--storage", "none")
    assert PASSWORD not in variables(aws)


# --- the proxy


def test_the_proxy_from_nothing_and_back_to_nothing(aws, wukong, deployed, network):
    push(aws)
    shown = deployed("--storage", "none", "--proxy", "--proxy-image", URI)
    assert 'wukong.Client(faas="aws-lambda", proxy="proxy.wukong.internal:8989")' in shown
    assert everything(aws) == PROXY
    made = service(aws)
    assert (made["status"], made["desiredCount"], made["launchType"]) == ("ACTIVE", 1, "FARGATE")
    placed = made["networkConfiguration"]["awsvpcConfiguration"]
    assert (placed["subnets"], placed["assignPublicIp"]) == (sorted(network[1]), "DISABLED")
    assert wukong("destroy", "--yes")[0] == 0
    assert everything(aws) == NOTHING


def test_the_proxy_has_the_functions_own_image_and_key(aws, wukong, deployed):
    digest = push(aws)
    deployed("--storage", "none", "--proxy", "--image", URI)
    definition = aws.call("ecs", "describe_task_definition", taskDefinition="wukong-proxy")["taskDefinition"]
    [container] = definition["containerDefinitions"]
    assert container["image"] == f"{URI}@{digest}"
    [key] = container["secrets"]
    held = aws.call("secretsmanager", "get_secret_value", SecretId=key["valueFrom"])["SecretString"]
    assert held == variables(aws)[key["name"]]
    assert aws.call("s3", "list_buckets")["Buckets"] == []


def test_status_shows_the_proxy_and_what_it_costs(aws, wukong, deployed):
    push(aws)
    shown = deployed("--proxy", "--proxy-image", URI, "--proxy-cpu", 512, "--proxy-memory", 1_024)
    assert "proxy with 1 worker on 0.5 CPU, 1,024 MB" in shown
    assert "the proxy: $0.0198 an hour" in shown
    exit_code, shown = wukong("status")
    assert (exit_code, shown) == (
        0,
        Contains("proxy proxy.wukong.internal:8989: 1 of 1 running, $0.0198 an hour"),
    )


def test_status_fails_if_the_proxy_does_not_run(aws, wukong, deployed):
    push(aws)
    deployed("--proxy", "--proxy-image", URI)
    from moto.ecs.models import ecs_backends

    [made] = ecs_backends[ID][REGION].services.values()
    made.running_count = 0
    made.events = [{"id": "1", "message": "(service wukong-proxy) CannotPullContainerError"}]
    exit_code, shown = wukong("status")
    assert (exit_code, shown) == (1, Contains("0 of 1 running"))
    assert "CannotPullContainerError" in shown
    made.status = "INACTIVE"
    assert wukong("status") == (1, Contains("INACTIVE"))


@pytest.mark.parametrize("part", ["proxy", "store"])
def test_logs_of_each_part_are_shown(aws, wukong, deployed, part):
    push(aws)
    deployed("--proxy", "--proxy-image", URI, "--storage", "fargate")
    where = {"logGroupName": f"/ecs/wukong-{part}", "logStreamName": "one"}
    aws.call("logs", "create_log_stream", **where)
    event = {"timestamp": int(time.time() * 1_000), "message": f"the {part} says"}
    aws.call("logs", "put_log_events", logEvents=[event], **where)
    exit_code, shown = wukong("logs", "--of", part)
    [line] = shown.splitlines()
    assert (exit_code, line[23:]) == (0, f"  the {part} says")


def test_to_deploy_again_changes_nothing_and_without_the_proxy_removes_it(aws, wukong, deployed):
    push(aws)
    deployed("--proxy", "--proxy-image", URI, "--storage", "fargate")
    assert wukong("deploy", "--yes", "--storage", "fargate") == (0, Contains("nothing to change"))
    assert wukong("deploy", "--yes", "--memory", 512)[0] == 0  # what is not said stays
    assert service(aws)["status"] == "ACTIVE"
    shown = wukong("deploy", "--plan", "--no-proxy")[1]
    assert re.search(r"^remove +ProxyService +AWS::ECS::Service", shown, re.MULTILINE), shown
    assert not re.search(r"^remove +(Cluster|Store|Function)", shown, re.MULTILINE)
    assert wukong("deploy", "--yes", "--no-proxy")[0] == 0
    assert everything(aws) == STORE
    assert "proxy" not in wukong("status")[1]


def test_a_new_image_is_a_new_version_of_the_proxy(aws, wukong, deployed):
    push(aws)
    deployed("--proxy", "--proxy-image", URI)
    push(aws, repository="another")
    shown = wukong("deploy", "--yes", "--proxy-image", f"{REGISTRY}/another")[1]
    assert re.search("^change +ProxyTask ", shown, re.MULTILINE)
    assert not re.search("^change +Function", shown, re.MULTILINE)
    told = aws.call("ecs", "describe_task_definition", taskDefinition="wukong-proxy")["taskDefinition"]
    assert f"{REGISTRY}/another@" in told["containerDefinitions"][0]["image"]


def test_clients_are_let_in_if_they_are_named(aws, wukong, deployed):
    push(aws)
    deployed("--proxy", "--proxy-image", URI, "--storage", "fargate", "--clients", "10.0.0.0/16")
    by_name = {each["GroupName"]: each for each in aws.pages("ec2", "describe_security_groups", "SecurityGroups")}
    functions = by_name["wukong-functions"]["GroupId"]
    for name, port in (("wukong-store", 6379), ("wukong-proxy", 8989)):
        rules = by_name[name]["IpPermissions"]
        assert {(each["FromPort"], each["ToPort"]) for each in rules} == {(port, port)}
        assert {pair["GroupId"] for each in rules for pair in each["UserIdGroupPairs"]} == {functions}
        assert {block["CidrIp"] for each in rules for block in each["IpRanges"]} == {"10.0.0.0/16"}
    assert "clients from 10.0.0.0/16" in wukong("status")[1]


# --- planning


def test_a_plan_shows_all_of_it_and_leaves_nothing(aws, wukong, network):
    push(aws)
    options = ("--storage", "fargate", "--proxy", "--proxy-image", URI, "--subnets", *network[1])
    exit_code, shown = wukong("deploy", "--plan", *options)
    assert exit_code == 0, shown
    for kind in (
        *("ECS::Cluster", "ECS::Service", "ECS::TaskDefinition", "EC2::SecurityGroup", "SecretsManager::Secret"),
        *("ServiceDiscovery::PrivateDnsNamespace", "ServiceDiscovery::Service"),
    ):
        assert re.search(rf"^add +\w+ +AWS::{kind}$", shown, re.MULTILINE), (kind, shown)
    assert "the proxy: $0.0395 an hour; its name: $0.50 a month" in shown
    assert "2 secrets: $0.80 a month" in shown
    assert "the store: nothing while no nodes run" in shown
    assert everything(aws) == NOTHING


def test_a_public_address_costs(aws, wukong):
    push(aws)
    vpc, subnets = new_network(aws, "igw")
    aws.call(
        "ec2",
        "create_vpc_endpoint",
        VpcId=vpc,
        ServiceName=f"com.amazonaws.{REGION}.lambda",
        VpcEndpointType="Interface",
    )
    options = ("--storage", "none", "--proxy", "--proxy-image", URI)
    exit_code, shown = wukong("deploy", "--yes", *options, "--subnets", *subnets)
    assert (exit_code, shown) == (0, Contains("the proxy and its public address: $0.0445 an hour"))
    assert "note:" not in shown.replace("note: the configured store", "")
    assert service(aws)["networkConfiguration"]["awsvpcConfiguration"]["assignPublicIp"] == "ENABLED"
    assert "$0.0445 an hour" in wukong("status")[1]
