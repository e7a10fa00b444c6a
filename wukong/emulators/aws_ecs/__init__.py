"""A stand-in for ECS on Fargate, which really runs the tasks' commands: for tests, without AWS.

    with EcsStandIn() as aws:
        ecs = boto3.client("ecs", **aws.options)        # every other service of moto's is there as well
        ecs.create_cluster(clusterName="mine")
        ...
        ecs.run_task(cluster="mine", taskDefinition="redis", count=3, launchType="FARGATE", networkConfiguration=...)
        [node, *_] = aws.tasks()
        aws.kill(node)

For each task it starts the containers' ``entryPoint`` and ``command`` as real processes, with what AWS would give
them: environment, secrets from Secrets Manager, an address. Each task has a loopback address of its own, 127.0.0.2,
127.0.0.3, ... (a second stand-in on the same machine uses 127.0.1.2, ...). The processes find it in ``WUKONG_BIND``: a
definition that has to run on AWS as well says ``--bind ${WUKONG_BIND:-0.0.0.0}``. Images are not fetched, so the
programs have to be installed here, and a definition has to name the command that its image would run. Tasks go through
the same states as on AWS. They are HEALTHY when their health check, which really runs, succeeds; they end by SIGTERM
and then SIGKILL, and report why they ended. All processes end with the stand-in, and with the process that owns it.

A server of moto's answers everything else (task definitions, clusters, networks, roles, secrets, logs), and holds the
account. The account is emptied when a stand-in starts, unless another one of this process runs. Permissions are not
checked. It needs ``wukong-serverless[testing-ecs]`` and Linux; on macOS loopback addresses have to be added first, as
an error says.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from dataclasses import dataclass, replace
from typing import Any

from wukong.backends.faas.emulator.process import group_lives
from wukong.emulators.aws_ecs.calls import CAPACITY, LIMIT, EcsCalls
from wukong.emulators.aws_ecs.front import AwsCall, Front
from wukong.emulators.aws_ecs.life import BIND_VARIABLE, Delays, TaskHost
from wukong.emulators.aws_ecs.moto_server import ErrorAnswer, reset
from wukong.emulators.aws_ecs.task import StandInTask, Task

__all__ = ["BIND_VARIABLE", "CANNOT_PULL", "CAPACITY", "LIMIT", "Delays", "EcsStandIn", "StandInTask"]

CANNOT_PULL = (
    "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref: i/o timeout"
)
"""The message of a task that cannot fetch its image."""
_REGION = "us-east-1"
_UNKNOWN_KEY = {
    "ec2": ("AuthFailure", "AWS was not able to validate the provided access credentials"),
    "iam": ("InvalidClientTokenId", "The security token included in the request is invalid."),
    "sts": ("InvalidClientTokenId", "The security token included in the request is invalid."),
}
_open = 0
_opening = threading.Lock()


@dataclass(slots=True)
class _Failure:
    code: str
    message: str
    left: float


class EcsStandIn:
    """See the module's docstring.

    Args:
        task_limit: the most tasks at once in a region; further ones come back as ``failures`` of RunTask.
        lag_s: a task is listed and described only after this time, because ECS is eventually consistent.
        access_key: requests with other access keys are refused, as AWS does with unknown ones; None: anybody may.
        delays: how long things take, see `Delays`.

    `start` raises RuntimeError if moto is not installed or this machine has no loopback addresses to give.
    """

    def __init__(
        self,
        *,
        task_limit: int = 500,
        lag_s: float = 0.0,
        access_key: str | None = None,
        delays: Delays | None = None,
    ) -> None:
        self._task_limit, self._lag_s, self._access_key = task_limit, lag_s, access_key
        self._delays = delays or Delays()
        self._lock = threading.Lock()
        self._refusals: list[str] = []
        self._starts: dict[int, str] = {}
        self._failures: dict[str, list[_Failure]] = {}
        self._seen: list[tuple[str, str]] = []
        self._host: TaskHost | None = None
        self._calls: EcsCalls | None = None
        self._front: Front | None = None

    def start(self) -> EcsStandIn:
        """Begin to serve, on a free port."""
        global _open
        with _opening:
            if _open == 0:
                reset()
            self._host = TaskHost(self._delays, self._cannot_start)
            self._calls = EcsCalls(self._host, self._cannot_place, self._task_limit, self._lag_s)
            self._front = Front(self._answer, self._amend)
            _open += 1
        return self

    def stop(self) -> None:
        """Kill all tasks' processes and serve no more. Stopping twice is no error."""
        global _open
        front, self._front = self._front, None
        if front is None:
            return
        front.close()
        self._running_host().close()
        with _opening:
            _open -= 1

    def __enter__(self) -> EcsStandIn:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- how to reach it

    @property
    def url(self) -> str:
        """boto3's ``endpoint_url``, the same for every service."""
        assert self._front is not None, "the stand-in does not run"
        return self._front.url

    @property
    def options(self) -> dict[str, Any]:
        """The arguments for boto3's clients and sessions besides the service's name."""
        return {
            "endpoint_url": self.url,
            "region_name": _REGION,
            "aws_access_key_id": self._key,
            "aws_secret_access_key": "secret",
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same as environment variables, for this process or others."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": _REGION,
            "AWS_ACCESS_KEY_ID": self._key,
            "AWS_SECRET_ACCESS_KEY": "secret",
        }

    @property
    def _key(self) -> str:
        return self._access_key or "AKIDSTANDIN"

    # --- what it has

    def tasks(self) -> list[StandInTask]:
        """Return all tasks so far, in the order in which they were started."""
        return [each.seen() for each in list(self._running_calls().tasks.values())]

    def running(self) -> list[StandInTask]:
        """Return the tasks with a living process."""
        return [each for each in self.tasks() if any(map(group_lives, each.pids))]

    def output(self, task: StandInTask | str) -> str:
        """Return what a task's containers have written to stdout and stderr."""
        return self._running_host().output(self._task(task))

    def calls(self, service: str = "ecs") -> list[str]:
        """Return the actions that were asked of a service, in order."""
        with self._lock:
            return [action for each, action in self._seen if each == service]

    # --- what can happen

    def kill(self, task: StandInTask | str) -> None:
        """Kill a task's processes at once (SIGKILL), as if its machine were lost. A task that has none yet starts none.

        A task that has ended is no error.
        """
        found = self._task(task)
        if found.status not in ("DEPROVISIONING", "STOPPED"):
            self._running_host().kill(found)

    def freeze(self, task: StandInTask | str) -> None:
        """Suspend a task's processes (SIGSTOP): the task stays RUNNING, connections stay open, nothing answers."""
        self._signal(task, signal.SIGSTOP)

    def thaw(self, task: StandInTask | str) -> None:
        """Let a frozen task go on."""
        self._signal(task, signal.SIGCONT)

    def stop_task(self, task: StandInTask | str, code: str, reason: str) -> None:
        """Stop a task as AWS itself does, with ``SpotInterruption`` or ``TerminationNotice``."""
        self._running_host().end(self._task(task), code, reason)

    def refuse(self, n: int = 1, reason: str = CAPACITY) -> None:
        """Refuse to place the next `n` tasks: they come back as ``failures`` of RunTask, with this reason."""
        with self._lock:
            self._refusals += [reason] * n

    def fail_start(self, nth: int = 1, reason: str = CANNOT_PULL) -> None:
        """Make the `nth` task that fetches its image from now on stop there."""
        with self._lock:
            while nth in self._starts:
                nth += 1
            self._starts[nth] = reason

    def slow(self, **delays: float | None) -> None:
        """Change some of the `Delays` from now on."""
        host = self._running_host()
        host.delays = replace(host.delays, **delays)  # type: ignore[arg-type]

    def fail(self, action: str, code: str, message: str = "", times: float = float("inf")) -> None:
        """Make the next `times` calls of an action fail, of any service: ``fail("RunTask", "AccessDenied")``."""
        with self._lock:
            self._failures.setdefault(action, []).append(_Failure(code, message or f"{action} is refused", times))

    # --- inside

    def _answer(self, call: AwsCall) -> dict[str, Any] | None:
        with self._lock:
            self._seen.append((call.service, call.action))
            if self._access_key not in (None, call.access_key):
                unknown = "UnrecognizedClientException", "The security token included in the request is invalid."
                raise ErrorAnswer(*_UNKNOWN_KEY.get(call.service, unknown))
            for failure in self._failures.get(call.action, ()):
                if failure.left > 0:
                    failure.left -= 1
                    raise ErrorAnswer(failure.code, failure.message)
        calls = self._running_calls()
        if call.service == "ecs":
            return calls.answer(call.action, call.parameters, call.region)
        if call.action == "DeleteSecurityGroup":
            group = call.parameters.get("GroupId")
            if any(group in each.groups for each in calls.alive(call.region)):
                raise ErrorAnswer("DependencyViolation", f"resource {group} has a dependent object")
        return None

    def _amend(self, call: AwsCall, answer: bytes) -> bytes:
        """Add public addresses to network interfaces: their only address serves as the public one, too."""
        if call.action != "DescribeNetworkInterfaces":
            return answer
        for task in self._running_calls().alive(call.region):
            if task.public and task.interface and task.address:
                interface = f"<networkInterfaceId>{task.interface}</networkInterfaceId>"
                public = f"<association><publicIp>{task.address}</publicIp></association>"
                answer = answer.replace(interface.encode(), (interface + public).encode())
        return answer

    def _cannot_place(self) -> str | None:
        with self._lock:
            return self._refusals.pop(0) if self._refusals else None

    def _cannot_start(self) -> str | None:
        with self._lock:
            reason = self._starts.pop(1, None)
            self._starts = {nth - 1: each for nth, each in self._starts.items()}
            return reason

    def _task(self, task: StandInTask | str) -> Task:
        """Find a task by its ARN, its id or its address."""
        if isinstance(task, StandInTask):
            task = task.arn
        for each in reversed(self._running_calls().tasks.values()):
            if task in (each.arn, each.id, each.address):
                return each
        raise KeyError(f"no task is called {task!r}")

    def _signal(self, task: StandInTask | str, number: signal.Signals) -> None:
        for container in self._task(task).containers:
            if container.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(container.pid, number)

    def _running_host(self) -> TaskHost:
        assert self._host is not None, "the stand-in does not run"
        return self._host

    def _running_calls(self) -> EcsCalls:
        assert self._calls is not None, "the stand-in does not run"
        return self._calls
