"""The stand-in for ECS, as boto3 sees it: what it answers, what really runs, and that nothing outlives it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
import redis
from botocore.exceptions import ClientError
from botocore.session import get_session
from ecs_account import IDLE, TRUST, Account
from waiting import gone, wait

from wukong.emulators.aws_ecs import CANNOT_PULL, CAPACITY, LIMIT, EcsStandIn
from wukong.emulators.aws_ecs.task import Task

pytestmark = pytest.mark.xdist_group("ecs")

REDIS = "exec redis-server --bind ${WUKONG_BIND:-0.0.0.0} --save '' --requirepass $PASSWORD"
PING = "REDISCLI_AUTH=$PASSWORD redis-cli -h ${WUKONG_BIND:-127.0.0.1} ping | grep -q PONG"


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with EcsStandIn(access_key="AKIDMINE") as aws:
        yield Account(aws)


@pytest.fixture(autouse=True)
def _tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test finds the account without tasks that run."""
    yield
    if "account" in request.fixturenames:
        account = request.getfixturevalue("account")
        account.aws.slow(stop_timeout_s=0.01)
        for task in account.aws.tasks():
            account.aws.stop_task(task, "ServiceSchedulerInitiated", "the test has ended")
        wait(lambda: all(task.status == "STOPPED" for task in account.aws.tasks()), "all have ended")
        account.aws.slow(provisioning_s=0.0, pending_s=0.0, stopping_s=0.0, stop_timeout_s=None, health_interval_s=0.1)


def refused(call: Callable[..., Any], **arguments: Any) -> tuple[str, str]:
    """Make a call that is refused; return the error's code and message."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    said = caught.value.response["Error"]
    return said["Code"], said["Message"]


# --- what really runs


def test_a_task_is_a_real_redis_at_an_address_of_its_own(account: Account) -> None:
    secret = account.secrets.create_secret(Name="password", SecretString="s3cret")["ARN"]
    definition = account.define(
        REDIS,
        secrets=[{"name": "PASSWORD", "valueFrom": secret}],
        healthCheck={"command": ["CMD-SHELL", PING], "interval": 5, "retries": 1},
    )
    started = account.run(definition, count=3)["tasks"]
    for task in started:
        wait(lambda task=task: account.describe(task["taskArn"])["healthStatus"] == "HEALTHY", "it is healthy")
    found = [account.describe(task["taskArn"]) for task in started]
    hosts = []
    for task in found:
        [attachment] = task["attachments"]
        assert attachment["type"] == "ElasticNetworkInterface" and attachment["status"] == "ATTACHED"
        details = {each["name"]: each["value"] for each in attachment["details"]}
        hosts.append(details["privateIPv4Address"])
        assert details["subnetId"] == account.subnet
        [container] = task["containers"]
        assert container["networkInterfaces"][0]["privateIpv4Address"] == hosts[-1]
        [interface] = account.ec2.describe_network_interfaces(NetworkInterfaceIds=[details["networkInterfaceId"]])[
            "NetworkInterfaces"
        ]
        assert interface["PrivateIpAddress"] == hosts[-1]
        assert [each["GroupId"] for each in interface["Groups"]] == [account.group]
    assert len(set(hosts)) == 3
    for host in hosts:
        with redis.Redis(host, password="s3cret", protocol=2) as client:
            assert client.config_get("bind")["bind"] == host
    with pytest.raises(redis.AuthenticationError), redis.Redis(hosts[0], password="another", protocol=2) as client:
        client.ping()
    assert {task.address for task in account.aws.running()} == set(hosts)


def test_a_process_sees_what_it_is_given_and_nothing_else(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_PARENT", "1")
    plain = account.secrets.create_secret(Name="plain", SecretString="all of it")["ARN"]
    keyed = account.secrets.create_secret(Name="keyed", SecretString=json.dumps({"user": "me", "password": "x"}))["ARN"]
    arn = account.run(
        account.define(
            "env; pwd",
            environment=[{"name": "GIVEN", "value": "a b"}, {"name": "CHANGED", "value": "before"}],
            secrets=[{"name": "PLAIN", "valueFrom": plain}, {"name": "KEYED", "valueFrom": f"{keyed}:password::"}],
        ),
        overrides={"containerOverrides": [{"name": "main", "environment": [{"name": "CHANGED", "value": "after"}]}]},
    )["tasks"][0]["taskArn"]
    *lines, folder = account.says(arn).splitlines()
    found = dict(line.split("=", 1) for line in lines)
    assert found.items() >= {"GIVEN": "a b", "CHANGED": "after", "PLAIN": "all of it", "KEYED": "x"}.items()
    assert found["WUKONG_BIND"] == account.seen(arn).address
    assert found["PATH"] == os.environ["PATH"]
    aws = {"AWS_EXECUTION_ENV", "AWS_REGION", "AWS_DEFAULT_REGION", "HOSTNAME", "HOME"}
    shell = {"PWD", "OLDPWD", "SHLVL", "_"}
    assert set(found) - aws - shell == {"PATH", "WUKONG_BIND", "GIVEN", "CHANGED", "PLAIN", "KEYED"}
    assert folder != os.getcwd()


def test_what_a_container_leaves_behind_ends_with_its_first_process(account: Account) -> None:
    arn = account.start("sleep 600 & echo $!; exit 7")
    pid = int(account.says(arn))
    wait(lambda: gone(pid), "the process in the background is gone")
    assert account.seen(arn).exit_codes == {"main": 7}


def test_a_secret_key_that_is_not_there_and_a_missing_secret_keep_a_task_from_starting(account: Account) -> None:
    keyed = account.secrets.create_secret(Name="other", SecretString='{"user": "me"}')["ARN"]
    for value, says in ((f"{keyed}:password::", "json key password"), (f"{keyed[:-6]}absent", "can't find")):
        arn = account.start(IDLE, secrets=[{"name": "SECRET", "valueFrom": value}])
        task = account.is_in(arn, "STOPPED")
        assert task.stop_code == "TaskFailedToStart"
        assert "ResourceInitializationError: unable to pull secrets" in task.stopped_reason
        assert says in task.stopped_reason


def test_a_log_group_has_to_be_there(account: Account) -> None:
    log = {"logDriver": "awslogs", "options": {"awslogs-group": "/mine", "awslogs-region": "us-east-1"}}
    log["options"]["awslogs-stream-prefix"] = "x"
    arn = account.start(IDLE, logConfiguration=log)
    assert "log group does not exist" in account.is_in(arn, "STOPPED").stopped_reason
    account.logs.create_log_group(logGroupName="/mine")
    account.is_in(account.start(IDLE, logConfiguration=log), "RUNNING")


def test_a_task_ends_with_its_essential_containers(account: Account) -> None:
    shell = {"image": "none", "entryPoint": ["/bin/sh", "-c"]}
    containers = [
        {**shell, "name": "beside", "command": ["exit 4"], "essential": False},
        {**shell, "name": "main", "command": ["trap 'exit 5' TERM; echo ready; sleep 600 & wait"]},
    ]
    definition = account.ecs.register_task_definition(
        family="two",
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        cpu="256",
        memory="512",
        containerDefinitions=containers,
    )["taskDefinition"]["taskDefinitionArn"]
    [started] = account.run(definition)["tasks"]
    arn = started["taskArn"]
    account.is_ready(arn)
    wait(lambda: account.seen(arn).exit_codes == {"beside": 4}, "the one beside has ended")
    assert account.seen(arn).status == "RUNNING"
    os.kill(account.seen(arn).pids[0], signal.SIGTERM)
    task = account.is_in(arn, "STOPPED")
    assert (task.stop_code, task.exit_codes) == ("EssentialContainerExited", {"beside": 4, "main": 5})


def test_a_program_that_is_not_there_says_so(account: Account) -> None:
    arn = account.start(IDLE, entryPoint=["no-such-program"])
    task = account.is_in(arn, "STOPPED")
    assert "CannotStartContainerError" in task.stopped_reason and "no-such-program" in task.stopped_reason
    assert account.seen(account.start(IDLE, entryPoint=[], command=[])).status != "RUNNING"


# --- the life of a task


def test_a_task_goes_through_the_states_of_aws(account: Account) -> None:
    account.aws.slow(provisioning_s=0.5, pending_s=0.5, stopping_s=0.5)
    arn = account.start("sleep 0.5")
    states: list[str] = []

    def seen() -> bool:
        status = account.describe(arn)["lastStatus"]
        if states[-1:] != [status]:
            states.append(status)
        return status == "STOPPED"

    wait(seen, "it has ended")
    assert [each for each in states if each not in ("DEACTIVATING", "STOPPING")] == [
        "PROVISIONING",
        "PENDING",
        "RUNNING",
        "DEPROVISIONING",
        "STOPPED",
    ]
    task = account.describe(arn)
    ordered = ["createdAt", "pullStartedAt", "pullStoppedAt", "startedAt", "stoppingAt", "stoppedAt"]
    assert [task[name] for name in ordered] == sorted(task[name] for name in ordered)
    assert (task["stopCode"], task["containers"][0]["exitCode"]) == ("EssentialContainerExited", 0)
    assert task["stoppedReason"] == "Essential container in task exited"
    assert task["attachments"][0]["status"] == "DELETED"


def test_stopping_asks_first_and_then_kills(account: Account) -> None:
    arn = account.start(IDLE)
    account.is_ready(arn)
    answer = account.ecs.stop_task(cluster="mine", task=arn, reason="enough")["task"]
    assert answer["desiredStatus"] == "STOPPED" and answer["stoppedReason"] == "enough"
    task = account.is_in(arn, "STOPPED")
    assert (task.stop_code, task.stopped_reason, task.exit_codes) == ("UserInitiated", "enough", {"main": 3})

    account.aws.slow(stop_timeout_s=0.1)
    arn = account.start("trap '' TERM; echo ready; while :; do sleep 600; done")
    account.is_ready(arn)
    account.ecs.stop_task(cluster="mine", task=arn.rpartition("/")[2])
    assert account.is_in(arn, "STOPPED").exit_codes == {"main": 137}


def test_a_task_is_stopped_before_it_has_begun(account: Account) -> None:
    account.aws.slow(pending_s=60.0)
    arn = account.start(IDLE)
    account.is_in(arn, "PENDING")
    account.ecs.stop_task(cluster="mine", task=arn, reason="never mind")
    task = account.is_in(arn, "STOPPED")
    assert (task.stop_code, task.stopped_reason, task.pids) == ("UserInitiated", "never mind", ())
    assert "startedAt" not in account.describe(arn)


def test_health_is_what_the_check_says(account: Account) -> None:
    check = {"command": ["CMD-SHELL", "test -e $FILE"], "interval": 5, "timeout": 2, "retries": 2}
    environment = [{"name": "FILE", "value": "/nowhere"}]
    arn = account.start(IDLE, healthCheck=check, environment=environment)
    wait(lambda: account.describe(arn)["healthStatus"] == "UNHEALTHY", "it is found to be unhealthy")
    assert account.describe(arn)["lastStatus"] == "RUNNING", "which ends no task that is of no service"
    assert account.describe(account.start(IDLE))["healthStatus"] == "UNKNOWN", "there is no check"


def test_a_killed_task_ends_as_with_its_machine(account: Account) -> None:
    arn = account.start(IDLE)
    task = account.is_in(arn, "RUNNING")
    assert [each.arn for each in account.aws.running()] == [arn]
    account.aws.kill(task)
    task = account.is_in(arn, "STOPPED")
    assert (task.stop_code, task.exit_codes) == ("EssentialContainerExited", {"main": 137})
    assert account.aws.running() == []


def test_a_task_that_is_killed_before_it_has_begun_does_not_begin(account: Account) -> None:
    account.aws.slow(pending_s=60.0)
    arn = account.start(IDLE)
    account.is_in(arn, "PENDING")
    account.aws.kill(arn)
    task = account.is_in(arn, "STOPPED")
    assert (task.stop_code, task.exit_codes) == ("TaskFailedToStart", {})


def test_a_task_ends_though_its_health_check_ends_at_the_same_moment(account: Account) -> None:
    account.aws.slow(health_interval_s=0.0005)
    check = {"command": ["CMD-SHELL", "false"], "interval": 5, "timeout": 2, "retries": 2}
    started = account.run(account.define("sleep 600", healthCheck=check), count=10)["tasks"]
    for task in started:
        account.is_in(task["taskArn"], "RUNNING")
    for task in started:
        account.aws.kill(task["taskArn"])
    for task in started:
        account.is_in(task["taskArn"], "STOPPED")


def test_a_frozen_task_runs_and_does_nothing(account: Account) -> None:
    arn = account.start("trap 'exit 0' USR1; echo ready; while :; do sleep 0.01; done")
    [pid] = account.is_ready(arn).pids
    account.aws.freeze(arn)
    os.kill(pid, signal.SIGUSR1)
    assert account.seen(arn).status == "RUNNING"
    account.aws.thaw(arn)
    assert account.is_in(arn, "STOPPED").exit_codes == {"main": 0}


# --- placing tasks


def test_not_more_than_ten_at_a_time(account: Account) -> None:
    definition = account.define()
    for count in (0, 11):
        code, message = refused(account.run, definition=definition, count=count)
        assert code == "InvalidParameterException" and "10" in message
    assert account.ecs.list_tasks(cluster="mine")["taskArns"] == []


def test_a_client_token_starts_tasks_once(account: Account) -> None:
    definition = account.define()
    once = account.run(definition, count=2, clientToken="a-token")
    again = account.run(definition, count=2, clientToken="a-token")
    assert [each["taskArn"] for each in again["tasks"]] == [each["taskArn"] for each in once["tasks"]]
    assert refused(account.run, definition=definition, count=1, clientToken="a-token")[0] == "ConflictException"
    assert len(account.ecs.list_tasks(cluster="mine")["taskArns"]) == 2


def test_tasks_that_cannot_be_placed_come_back_as_failures(account: Account) -> None:
    account.aws.refuse(2)
    answer = account.run(account.define(), count=3)
    assert len(answer["tasks"]) == 1
    assert [each["reason"] for each in answer["failures"]] == [CAPACITY] * 2
    assert account.run(account.define())["failures"] == []


def test_a_region_takes_so_many_tasks_and_each_is_seen_after_a_while() -> None:
    with EcsStandIn(task_limit=2, lag_s=2.0) as aws:
        account = Account(aws)
        answer = account.run(account.define(), count=3)
        [first, _] = answer["tasks"]
        assert [each["reason"] for each in answer["failures"]] == [LIMIT]
        missing = account.ecs.describe_tasks(cluster="mine", tasks=[first["taskArn"]])
        assert missing["failures"] == [{"arn": first["taskArn"], "reason": "MISSING"}]
        wait(lambda: account.ecs.list_tasks(cluster="mine")["taskArns"], "they are listed")


def test_the_start_of_one_of_many_fails(account: Account) -> None:
    account.aws.fail_start(2)
    started = account.run(account.define(), count=3)["tasks"]
    arns = [each["taskArn"] for each in started]
    wait(lambda: {account.seen(arn).status for arn in arns} == {"RUNNING", "STOPPED"}, "all are decided")
    [failed] = [arn for arn in arns if account.seen(arn).status == "STOPPED"]
    task = account.describe(failed)
    assert (task["stopCode"], task["stoppedReason"]) == ("TaskFailedToStart", CANNOT_PULL)
    assert task["containers"][0]["reason"] == CANNOT_PULL and "exitCode" not in task["containers"][0]


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        ({"definition": "no-such-family"}, "ClientException", "Unable to describe task definition"),
        ({"networkConfiguration": {}}, "InvalidParameterException", "Network Configuration must be provided"),
        (
            {"networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-0"]}}},
            "InvalidParameterException",
            "subnet-0",
        ),
        ({"launchType": "EC2"}, "InvalidParameterException", "container instances"),
    ],
    ids=lambda each: "" if isinstance(each, str) else ",".join(each),
)
def test_what_cannot_be_run_is_refused(account: Account, given: dict[str, Any], code: str, says: str) -> None:
    told = refused(account.run, **{"definition": account.define(), **given})
    assert told[0] == code and says in told[1]


def test_a_role_and_a_cluster_have_to_be_there(account: Account) -> None:
    definition = account.define()
    account.iam.create_role(RoleName="leaves", AssumeRolePolicyDocument=TRUST)
    account.role, kept = account.role.replace("pulls", "leaves"), account.role
    leaving = account.define()
    account.role = kept
    account.iam.delete_role(RoleName="leaves")
    code, message = refused(account.run, definition=leaving)
    assert code == "ClientException" and "unable to assume the role" in message
    assert refused(account.run, definition=definition, cluster="theirs")[0] == "ClusterNotFoundException"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cpu": "256", "memory": "8192"}, "No Fargate configuration"),
        ({"networkMode": "bridge"}, "awsvpc"),
        ({"container": {"healthCheck": {"command": ["CMD-SHELL", "true"], "interval": 1}}}, "interval"),
        ({"container": {"stopTimeout": 600}}, "stopTimeout"),
    ],
    ids=lambda given: "" if isinstance(given, str) else ",".join(given),
)
def test_a_definition_that_fargate_does_not_take_is_refused(account: Account, given: dict[str, Any], says: str) -> None:
    container = {"name": "main", "image": "none", **given.pop("container", {})}
    base = {"networkMode": "awsvpc", "cpu": "256", "memory": "512", "requiresCompatibilities": ["FARGATE"]}
    arguments = {**base, **given, "family": "wrong", "containerDefinitions": [container]}
    code, message = refused(account.ecs.register_task_definition, **arguments)
    assert code == "ClientException" and says in message


# --- looking


def test_tasks_are_listed_in_pages_and_by_filters(account: Account) -> None:
    mine, other = account.define(), account.define()
    started = {each["taskArn"] for each in account.run(mine, count=5, startedBy="me")["tasks"]}
    further = {each["taskArn"] for each in account.run(other, count=2)["tasks"]}
    pages = account.ecs.get_paginator("list_tasks").paginate(cluster="mine", PaginationConfig={"PageSize": 3})
    sizes = [len(page["taskArns"]) for page in pages]
    assert sizes == [3, 3, 1]

    def listed(**filters: str) -> set[str]:
        return set(account.ecs.list_tasks(cluster="mine", **filters)["taskArns"])

    assert listed() == started | further
    assert listed(startedBy="me") == started
    assert listed(family=other.rpartition("/")[2].partition(":")[0]) == further
    assert listed(serviceName="none") == set()
    gone_arn = min(started)
    account.ecs.stop_task(cluster="mine", task=gone_arn)
    assert listed(startedBy="me") == started - {gone_arn}
    assert gone_arn in listed(desiredStatus="STOPPED")
    assert refused(account.ecs.list_tasks, cluster="mine", startedBy="me", family="x")[0] == "InvalidParameterException"


def test_tags_are_there_for_who_asks_for_them(account: Account) -> None:
    [task] = account.run(account.define(), tags=[{"key": "slot", "value": "node-0"}])["tasks"]
    arn = task["taskArn"]
    account.ecs.tag_resource(resourceArn=arn, tags=[{"key": "more", "value": "yes"}])
    assert {each["key"]: each["value"] for each in account.describe(arn)["tags"]} == {"slot": "node-0", "more": "yes"}
    account.ecs.untag_resource(resourceArn=arn, tagKeys=["slot"])
    assert account.ecs.list_tags_for_resource(resourceArn=arn)["tags"] == [{"key": "more", "value": "yes"}]
    assert account.ecs.describe_tasks(cluster="mine", tasks=[arn])["tasks"][0]["tags"] == []


def test_what_a_task_uses_cannot_be_removed_while_it_lives(account: Account) -> None:
    network = account.ec2.describe_subnets(SubnetIds=[account.subnet])["Subnets"][0]["VpcId"]
    group = account.ec2.create_security_group(GroupName="mine", Description="-", VpcId=network)["GroupId"]
    account.ecs.create_cluster(clusterName="brief")
    vpc = {"subnets": [account.subnet], "securityGroups": [group]}
    definition = account.define()
    account.ecs.run_task(
        cluster="brief",
        taskDefinition=definition,
        launchType="FARGATE",
        networkConfiguration={"awsvpcConfiguration": vpc},
    )
    [cluster] = account.ecs.describe_clusters(clusters=["brief"])["clusters"]
    assert cluster["runningTasksCount"] + cluster["pendingTasksCount"] == 1
    assert refused(account.ec2.delete_security_group, GroupId=group)[0] == "DependencyViolation"
    assert refused(account.ecs.delete_cluster, cluster="brief")[0] == "ClusterContainsTasksException"
    arn = account.aws.tasks()[-1].arn
    account.ecs.stop_task(cluster="brief", task=arn)
    account.is_in(arn, "STOPPED")
    account.ec2.delete_security_group(GroupId=group)
    account.ecs.delete_cluster(cluster="brief")


def test_a_public_address_is_asked_for(account: Account) -> None:
    network = {"subnets": [account.subnet], "assignPublicIp": "ENABLED"}
    [task] = account.run(account.define(), networkConfiguration={"awsvpcConfiguration": network})["tasks"]
    address = account.is_in(task["taskArn"], "RUNNING").address
    filters = [{"Name": "description", "Values": [task["taskArn"]]}]
    [interface] = account.ec2.describe_network_interfaces(Filters=filters)["NetworkInterfaces"]
    assert interface["Association"]["PublicIp"] == interface["PrivateIpAddress"] == address


def test_answers_have_the_shape_that_botocore_knows(account: Account) -> None:
    """What boto3 does not know it would drop without a word."""
    model = get_session().get_service_model("ecs")
    check = {"command": ["CMD-SHELL", "true"], "interval": 5}
    arn = account.start("exit 1", healthCheck=check)
    account.is_in(arn, "STOPPED")
    [task] = [each for each in account.aws._running_calls().tasks.values() if each.arn == arn]  # as it is sent
    assert isinstance(task, Task)
    assert strangers(json.loads(json.dumps(task.described(tags=True))), model.shape_for("Task")) == []


def strangers(value: Any, shape: Any, where: str = "task") -> list[str]:
    """What is of no member, or of another type than its shape."""
    kinds = {"string": str, "boolean": bool, "integer": int, "long": int, "timestamp": (int, float), "double": float}
    if shape.type_name == "structure":
        unknown = [f"{where}.{name}" for name in value if name not in shape.members]
        known = [name for name in value if name in shape.members]
        return unknown + [
            each for name in known for each in strangers(value[name], shape.members[name], f"{where}.{name}")
        ]
    if shape.type_name == "list":
        return [each for item in value for each in strangers(item, shape.member, f"{where}[]")]
    return [] if isinstance(value, kinds[shape.type_name]) else [f"{where}: {value!r}"]


# --- what can be told to fail


def test_other_access_keys_are_refused(account: Account) -> None:
    options = {**account.aws.options, "aws_access_key_id": "AKIDTHEIRS"}
    for service, call, code in (
        ("ecs", "list_clusters", "UnrecognizedClientException"),
        ("ec2", "describe_vpcs", "AuthFailure"),
        ("sts", "get_caller_identity", "InvalidClientTokenId"),
    ):
        assert refused(getattr(boto3.client(service, **options), call))[0] == code


def test_any_call_of_any_service_fails_as_often_as_told(account: Account) -> None:
    account.aws.fail("ListClusters", "ThrottlingException", "Rate exceeded", times=1)
    account.aws.fail("DescribeKeyPairs", "UnauthorizedOperation", "you may not", times=1)
    assert refused(account.ecs.list_clusters) == ("ThrottlingException", "Rate exceeded")
    assert account.ecs.list_clusters()["clusterArns"]
    assert refused(account.ec2.describe_key_pairs) == ("UnauthorizedOperation", "you may not")
    assert account.ec2.describe_key_pairs()["KeyPairs"] == []
    assert account.aws.calls("ec2")[-2:] == ["DescribeKeyPairs"] * 2
