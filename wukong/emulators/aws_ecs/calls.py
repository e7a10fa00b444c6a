"""The calls of ECS about tasks, and the changes that tasks make to moto's answers to other calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from wukong.emulators.aws_ecs.life import TaskHost
from wukong.emulators.aws_ecs.moto_server import ACCOUNT, ErrorAnswer, ask, ask_query
from wukong.emulators.aws_ecs.rules import check_definition
from wukong.emulators.aws_ecs.task import Task

__all__ = ["CAPACITY", "LIMIT", "EcsCalls"]

Answer: TypeAlias = dict[str, Any]
Call: TypeAlias = Callable[[Mapping[str, Any], str], Answer]

CAPACITY = "Capacity is unavailable at this time. Please try again later or in a different availability zone"
LIMIT = "You've reached the limit on the number of tasks you can run concurrently"
_MOST_STARTED = 10
_MOST_SUBNETS = 16
_MOST_GROUPS = 5
_MOST_DESCRIBED = 100
_PAGE = 100
_ALONE = ("family", "serviceName", "containerInstance")
"""Filters of ListTasks that exclude ``startedBy``."""


class EcsCalls:
    """Answers calls, and keeps the tasks.

    Args:
        host: of the tasks.
        refuses: called for each task to place; returns why it cannot be placed, or None.
        task_limit: the most tasks at once in a region.
        lag_s: how long after its start a task can be listed and described.

    Attributes:
        tasks: all tasks so far, by ARN, in the order in which they were started.
    """

    def __init__(self, host: TaskHost, refuses: Callable[[], str | None], task_limit: int, lag_s: float) -> None:
        self.tasks: dict[str, Task] = {}
        self.lag_s = lag_s
        self._host = host
        self._refuses = refuses
        self._task_limit = task_limit
        self._tokens: dict[tuple[str, str], tuple[Mapping[str, Any], list[str], list[Answer]]] = {}
        self._lock = threading.Lock()
        self._calls: dict[str, Call] = {
            "RunTask": self._run_task,
            "DescribeTasks": self._describe_tasks,
            "ListTasks": self._list_tasks,
            "StopTask": self._stop_task,
            "RegisterTaskDefinition": self._register_task_definition,
            "DescribeClusters": self._describe_clusters,
            "DeleteCluster": self._delete_cluster,
            "TagResource": self._tag_resource,
            "UntagResource": self._untag_resource,
            "ListTagsForResource": self._list_tags,
        }

    def answer(self, action: str, what: Mapping[str, Any], region: str) -> Answer | None:
        """Answer a call; None if it is not one of these. Raises `ErrorAnswer`."""
        call = self._calls.get(action)
        return None if call is None else call(what, region)

    def alive(self, region: str | None = None) -> list[Task]:
        """Return the tasks that have not ended."""
        found = list(self.tasks.values())
        return [each for each in found if each.status != "STOPPED" and region in (None, each.region)]

    # --- running

    def _run_task(self, what: Mapping[str, Any], region: str) -> Answer:
        cluster = self._cluster(what, region)
        count = what.get("count", 1)
        if not 1 <= count <= _MOST_STARTED:
            raise ErrorAnswer("InvalidParameterException", "count should be between 1 and 10.")
        definition = ask("ecs", "DescribeTaskDefinition", region, taskDefinition=what["taskDefinition"])
        definition = definition["taskDefinition"]
        if definition["status"] != "ACTIVE":
            raise ErrorAnswer("ClientException", "TaskDefinition is inactive")
        self._check_launch(what, definition, region)
        with self._lock:
            token = what.get("clientToken")
            known = self._tokens.get((cluster, token)) if token else None
            if known is not None:
                before, arns, failures = known
                if before != what:
                    message = "The provided clientToken is already in use with a different RunTask request."
                    raise ErrorAnswer("ConflictException", message, resourceIds=arns)
                return self._started([self.tasks[each] for each in arns], failures)
            started: list[Task] = []
            failures = []
            for _ in range(count):
                reason = self._refuses()
                if reason is None and len(self.alive(region)) >= self._task_limit:
                    reason = LIMIT
                if reason is not None:
                    failures.append({"reason": reason})
                    continue
                task = Task(region, cluster, definition, what)
                self.tasks[task.arn] = task
                started.append(task)
            if token:
                self._tokens[cluster, token] = dict(what), [each.arn for each in started], failures
        answer = self._started(started, failures)
        for task in started:
            self._host.begin(task)
        return answer

    def _started(self, tasks: list[Task], failures: list[Answer]) -> Answer:
        return {"tasks": [each.described(tags=True) for each in tasks], "failures": failures}

    def _check_launch(self, what: Mapping[str, Any], definition: Mapping[str, Any], region: str) -> None:
        if what.get("launchType", "FARGATE") != "FARGATE" or "FARGATE" not in definition.get("compatibilities", ()):
            raise ErrorAnswer("InvalidParameterException", "the stand-in has Fargate only: no container instances")
        if what.get("launchType") is None and not what.get("capacityProviderStrategy"):
            raise ErrorAnswer("InvalidParameterException", "No Container Instances were found in your cluster.")
        network = what.get("networkConfiguration", {}).get("awsvpcConfiguration")
        if not network:
            message = "Network Configuration must be provided when networkMode 'awsvpc' is specified."
            raise ErrorAnswer("InvalidParameterException", message)
        subnets, groups = network.get("subnets") or [], network.get("securityGroups") or []
        if not subnets:
            raise ErrorAnswer("InvalidParameterException", "subnets can not be empty.")
        if len(subnets) > _MOST_SUBNETS or len(groups) > _MOST_GROUPS:
            raise ErrorAnswer(
                "InvalidParameterException", "too many subnets (16 at most) or security groups (5 at most)"
            )
        for kind, param, ids in (("Subnets", "SubnetId", subnets), ("SecurityGroups", "GroupId", groups)):
            which = {f"{param}.{n}": each for n, each in enumerate(ids, 1)}
            if ids and ask_query("ec2", f"Describe{kind}", region, **which) is None:
                kind_text = "subnet" if kind == "Subnets" else "security group"
                message = f"Error retrieving {kind_text} information for [{', '.join(ids)}]: it does not exist"
                raise ErrorAnswer("InvalidParameterException", message)
        for name in ("executionRoleArn", "taskRoleArn"):
            arn = definition.get(name)
            if arn and ask_query("iam", "GetRole", region, RoleName=arn.rpartition("/")[2]) is None:
                raise ErrorAnswer(
                    "ClientException",
                    f"ECS was unable to assume the role '{arn}' that was provided for this task. Please verify that "
                    "the role being passed has the proper trust relationship and permissions and that your IAM user "
                    "has permissions to pass this role.",
                )

    def _stop_task(self, what: Mapping[str, Any], region: str) -> Answer:
        cluster = self._cluster(what, region)
        task = self._find(what["task"], cluster)
        if task is None:
            raise ErrorAnswer("InvalidParameterException", "The referenced task was not found.")
        if task.wanted == "RUNNING":
            self._host.end(task, "UserInitiated", what.get("reason") or "Task stopped by user")
        return {"task": task.described(tags=False)}

    # --- looking

    def _describe_tasks(self, what: Mapping[str, Any], region: str) -> Answer:
        cluster = self._cluster(what, region)
        wanted = what.get("tasks") or []
        if not 1 <= len(wanted) <= _MOST_DESCRIBED:
            raise ErrorAnswer("InvalidParameterException", "Tasks must have between 1 and 100 elements.")
        found = {name: self._find(name, cluster) for name in wanted}
        missing = [{"arn": _arn(name, cluster), "reason": "MISSING"} for name, task in found.items() if task is None]
        tags = "TAGS" in (what.get("include") or ())
        return {"tasks": [each.described(tags=tags) for each in found.values() if each], "failures": missing}

    def _list_tasks(self, what: Mapping[str, Any], region: str) -> Answer:
        cluster = self._cluster(what, region)
        if what.get("startedBy") and any(what.get(name) for name in _ALONE):
            raise ErrorAnswer("InvalidParameterException", "startedBy cannot be combined with other filters.")
        size = what.get("maxResults", _PAGE)
        if not 1 <= size <= _PAGE:
            raise ErrorAnswer("InvalidParameterException", "maxResults must be between 1 and 100.")
        desired = what.get("desiredStatus", "RUNNING")
        arns = [
            each.arn
            for each in self._visible(cluster)
            if each.wanted == desired
            and what.get("family") in (None, each.family)
            and what.get("startedBy") in (None, each.begun_by)
            and what.get("launchType") in (None, "FARGATE")
            and not what.get("containerInstance")
            and not what.get("serviceName")
        ]
        begin = _page(what.get("nextToken"))
        answer: Answer = {"taskArns": arns[begin : begin + size]}
        if len(arns) > begin + size:
            answer["nextToken"] = f"from-{begin + size}"
        return answer

    # --- moto's answers, with tasks added

    def _register_task_definition(self, what: Mapping[str, Any], region: str) -> Answer:
        check_definition(what)
        answer = ask("ecs", "RegisterTaskDefinition", region, **what)
        answer["taskDefinition"].setdefault("registeredAt", time.time())
        return answer

    def _describe_clusters(self, what: Mapping[str, Any], region: str) -> Answer:
        answer = ask("ecs", "DescribeClusters", region, **what)
        for cluster in answer["clusters"]:
            inside = [each for each in self.alive(region) if each.cluster == cluster["clusterArn"]]
            running = sum(each.status == "RUNNING" for each in inside)
            cluster.update(runningTasksCount=running, pendingTasksCount=len(inside) - running)
        return answer

    def _delete_cluster(self, what: Mapping[str, Any], region: str) -> Answer:
        cluster = self._cluster(what, region)
        if any(each.cluster == cluster for each in self.alive(region)):
            raise ErrorAnswer("ClusterContainsTasksException", "The Cluster cannot be deleted while Tasks are active.")
        return ask("ecs", "DeleteCluster", region, **what)

    def _tag_resource(self, what: Mapping[str, Any], region: str) -> Answer:
        task = self.tasks.get(what["resourceArn"])
        if task is None:
            return ask("ecs", "TagResource", region, **what)
        task.tags.update({each["key"]: each.get("value", "") for each in what["tags"]})
        return {}

    def _untag_resource(self, what: Mapping[str, Any], region: str) -> Answer:
        task = self.tasks.get(what["resourceArn"])
        if task is None:
            return ask("ecs", "UntagResource", region, **what)
        for key in what["tagKeys"]:
            task.tags.pop(key, None)
        return {}

    def _list_tags(self, what: Mapping[str, Any], region: str) -> Answer:
        task = self.tasks.get(what["resourceArn"])
        if task is None:
            return ask("ecs", "ListTagsForResource", region, **what)
        return {"tags": [{"key": key, "value": value} for key, value in task.tags.items()]}

    # --- finding

    def _cluster(self, what: Mapping[str, Any], region: str) -> str:
        """Return the ARN of the requested cluster. Raises `ErrorAnswer` if there is none."""
        name = what.get("cluster") or "default"
        found = ask("ecs", "DescribeClusters", region, clusters=[name])["clusters"]
        if not found or found[0]["status"] != "ACTIVE":
            raise ErrorAnswer("ClusterNotFoundException", "Cluster not found.")
        return str(found[0]["clusterArn"])

    def _visible(self, cluster: str) -> list[Task]:
        latest = time.time() - self.lag_s
        return [
            each for each in list(self.tasks.values()) if each.cluster == cluster and each.times["createdAt"] <= latest
        ]

    def _find(self, name: str, cluster: str) -> Task | None:
        wanted = _arn(name, cluster)
        return next((each for each in self._visible(cluster) if each.arn == wanted), None)


def _arn(task: str, cluster: str) -> str:
    """Return a task's ARN, from its ARN or its id."""
    if task.startswith("arn:"):
        return task
    region, name = cluster.split(":")[3], cluster.rpartition("/")[2]
    return f"arn:aws:ecs:{region}:{ACCOUNT}:task/{name}/{task}"


def _page(token: str | None) -> int:
    if token is None:
        return 0
    start = token.removeprefix("from-")
    if not start.isdigit():
        raise ErrorAnswer("InvalidParameterException", "Invalid token")
    return int(start)
