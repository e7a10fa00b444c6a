"""An account on the stand-in for ECS, as its tests use it."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import boto3
from botocore.config import Config
from waiting import wait

from wukong.emulators.aws_ecs import EcsStandIn, StandInTask

IDLE = "trap 'exit 3' TERM; echo ready; sleep 600 & wait"
TRUST = json.dumps({"Version": "2012-10-17", "Statement": []})


class Account:
    """A stand-in, boto3's clients of it, and a network, a cluster and a role in it."""

    def __init__(self, aws: EcsStandIn) -> None:
        self.aws = aws
        session = boto3.Session()
        config = Config(retries={"total_max_attempts": 1})
        self.ecs, self.ec2, self.iam, self.secrets, self.logs = (
            session.client(service, config=config, **aws.options)
            for service in ("ecs", "ec2", "iam", "secretsmanager", "logs")
        )
        self.families = 0
        self.prepare()

    def prepare(self) -> None:
        self.ecs.create_cluster(clusterName="mine")
        self.subnet = self.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        [group] = self.ec2.describe_security_groups(GroupNames=["default"])["SecurityGroups"]
        self.group = group["GroupId"]
        with contextlib.suppress(self.iam.exceptions.EntityAlreadyExistsException):  # a second stand-in
            self.iam.create_role(RoleName="pulls", AssumeRolePolicyDocument=TRUST)
        self.role = self.iam.get_role(RoleName="pulls")["Role"]["Arn"]

    def define(self, command: str = IDLE, /, **container: Any) -> str:
        """Register a definition of one container that runs a shell command; return its ARN."""
        self.families += 1
        given = {"name": "main", "image": "none", "entryPoint": ["/bin/sh", "-c"], "command": [command]}
        answer = self.ecs.register_task_definition(
            family=f"family-{self.families}",
            requiresCompatibilities=["FARGATE"],
            networkMode="awsvpc",
            cpu="256",
            memory="512",
            executionRoleArn=self.role,
            containerDefinitions=[{**given, **container}],
        )
        arn: str = answer["taskDefinition"]["taskDefinitionArn"]
        return arn

    def run(self, definition: str, **more: Any) -> dict[str, Any]:
        network = {"subnets": [self.subnet], "securityGroups": [self.group]}
        given = {"launchType": "FARGATE", "networkConfiguration": {"awsvpcConfiguration": network}}
        answer: dict[str, Any] = self.ecs.run_task(**{"cluster": "mine", "taskDefinition": definition, **given, **more})
        return answer

    def start(self, command: str = IDLE, /, **container: Any) -> str:
        """Run a task; return its ARN."""
        [task] = self.run(self.define(command, **container))["tasks"]
        arn: str = task["taskArn"]
        return arn

    def describe(self, arn: str) -> dict[str, Any]:
        [task] = self.ecs.describe_tasks(cluster="mine", tasks=[arn], include=["TAGS"])["tasks"]
        found: dict[str, Any] = task
        return found

    def seen(self, arn: str) -> StandInTask:
        [task] = [each for each in self.aws.tasks() if each.arn == arn]
        return task

    def is_in(self, arn: str, status: str) -> StandInTask:
        """Wait for a task to be in a state."""
        wait(lambda: self.seen(arn).status in (status, "STOPPED"), f"the task is {status}")
        task = self.seen(arn)
        assert task.status == status, task
        return task

    def is_ready(self, arn: str) -> StandInTask:
        """Wait for a task to run and to have said so: its traps are set then."""
        self.is_in(arn, "RUNNING")
        wait(lambda: self.aws.output(arn), "it says that it is ready")
        return self.seen(arn)

    def says(self, arn: str) -> str:
        """Wait for a task to end; return what it has written."""
        self.is_in(arn, "STOPPED")
        return self.aws.output(arn)
