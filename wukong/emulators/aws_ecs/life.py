"""The life of a task: its address, its secrets, its real processes, their health, and their end.

All of it runs in one event loop, in a thread of its own. A task's processes see their definition's environment and
secrets, ``WUKONG_BIND`` (their address), what AWS sets, and ``PATH``; nothing else of the parent's environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wukong.backends.environment import variable
from wukong.core.scratch import discard, scratch
from wukong.emulators.aws_ecs.addresses import Block
from wukong.emulators.aws_ecs.moto_server import ask_query
from wukong.emulators.aws_ecs.reaper import Reaper, kill_group
from wukong.emulators.aws_ecs.secret import NoSecret, log_group_is_there, secret_value
from wukong.emulators.aws_ecs.task import Container, Task

__all__ = ["BIND_VARIABLE", "Delays", "TaskHost"]

BIND_VARIABLE = "WUKONG_BIND"
"""The environment variable with the address at which a process has to listen."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STOP_TIMEOUT_S = 30.0
_HEALTH = {"interval": 30, "timeout": 5, "retries": 3, "startPeriod": 0}
_SELDOMER = 10
"""The factor by which health checks of a healthy container are rarer."""


@dataclass(frozen=True, slots=True)
class Delays:
    """The times of slow steps, seconds.

    Attributes:
        provisioning_s: in PROVISIONING, until a task has its network interface.
        pending_s: in PENDING, to fetch the image.
        stopping_s: in DEPROVISIONING, to take the network interface away.
        health_interval_s: between two health checks until the first success, then ten times as long; None: as the
            definition says.
        stop_timeout_s: between SIGTERM and SIGKILL; None: as the definition says, else 30 s.
    """

    provisioning_s: float = 0.0
    pending_s: float = 0.0
    stopping_s: float = 0.0
    health_interval_s: float | None = 0.1
    stop_timeout_s: float | None = None


class _Ending(Exception):
    """Why a task cannot run, and which container is at fault."""

    def __init__(self, reason: str, container: Container | None = None) -> None:
        super().__init__(reason)
        self.reason, self.container = reason, container


class TaskHost:
    """The host of tasks.

    Args:
        fails: called for each task that fetches its image; returns why that fails, or None.
    """

    def __init__(self, delays: Delays, fails: Callable[[], str | None]) -> None:
        self.delays = delays
        self._fails = fails
        self._block = Block()
        self._reaper = Reaper()
        self._folder = Path(scratch("wukong-tasks-"))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wukong-ecs", daemon=True)
        self._thread.start()
        self._lives: set[asyncio.Task[None]] = set()

    def begin(self, task: Task) -> None:
        """Let a task's life begin. From any thread."""
        self._loop.call_soon_threadsafe(self._keep, self._live(task))

    def end(self, task: Task, code: str, reason: str) -> None:
        """Make a task end, as StopTask does. From any thread; the end has begun when this returns."""

        async def end() -> None:
            task.doom(code, reason)
            task.stop.set()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()

    def kill(self, task: Task) -> None:
        """Kill a task's processes; a task that has none yet starts none."""

        async def kill() -> None:
            pids = [each.pid for each in task.containers if each.pid is not None]
            for pid in pids:
                kill_group(pid)
            if not pids:
                task.doom("TaskFailedToStart", "the task's machine was lost before it started")
                task.stop.set()

        asyncio.run_coroutine_threadsafe(kill(), self._loop).result()

    def close(self) -> None:
        """Kill all processes and forget all tasks."""

        async def end() -> None:
            for life in self._lives:
                life.cancel()
            await asyncio.gather(*self._lives, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reaper.close()
        self._block.close()
        discard(str(self._folder))

    def output(self, task: Task) -> str:
        """Return what a task's containers have written, in the order of the definition."""
        folder = self._folder / task.id
        files = [folder / f"{each.name}.log" for each in task.containers]
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def _keep(self, life: Coroutine[Any, Any, None]) -> None:
        kept = self._loop.create_task(life)
        self._lives.add(kept)
        kept.add_done_callback(self._lives.discard)

    # --- one task

    async def _live(self, task: Task) -> None:
        looking: list[asyncio.Task[None]] = []
        try:
            await self._begin(task)
            looking = [asyncio.ensure_future(self._look_after(task, each)) for each in task.containers]
            await self._run(task)
        except _Ending as ending:
            task.doom("TaskFailedToStart", ending.reason)
            if ending.container is not None:
                ending.container.reason = ending.reason
        except Exception as error:  # the stand-in's own mistake: show it, rather than hang
            task.doom("TaskFailedToStart", f"the stand-in failed: {error!r}")
        finally:
            for each in looking:
                each.cancel()
            await asyncio.gather(*looking, return_exceptions=True)
            for container in task.containers:  # if the task could not start, or the stand-in is closed
                if container.pid is not None:
                    kill_group(container.pid)
                    await self._wait(container)
        await self._gone(task)

    async def _begin(self, task: Task) -> None:
        await self._pause(task, self.delays.provisioning_s)
        await asyncio.to_thread(self._attach, task)
        task.become("PENDING")
        secrets = [await asyncio.to_thread(self._secrets, task, each) for each in task.containers]
        await self._pause(task, self.delays.pending_s)
        failure = self._fails()
        if failure is not None:
            raise _Ending(failure, task.containers[0])
        for container, found in zip(task.containers, secrets, strict=True):
            await self._spawn(task, container, found)
        task.become("RUNNING")

    async def _run(self, task: Task) -> None:
        """Wait until all its processes have ended."""
        waits = {asyncio.ensure_future(self._wait(each)): each for each in task.containers}
        stop = asyncio.ensure_future(task.stop.wait())
        try:
            while not task.stop.is_set():
                left = [each for each in waits if not each.done()]
                await asyncio.wait([*left, stop], return_when=asyncio.FIRST_COMPLETED)
                if any(wait.done() and each.essential for wait, each in waits.items()):
                    task.doom("EssentialContainerExited", "Essential container in task exited")
                    task.stop.set()
                elif all(wait.done() for wait in waits):
                    task.doom("EssentialContainerExited", "all containers in task exited")
                    task.stop.set()
            task.become("DEACTIVATING")
            await asyncio.sleep(0)
            task.become("STOPPING")
            await asyncio.gather(*map(self._stop, task.containers))
            await asyncio.gather(*waits)
        finally:
            for each in (*waits, stop):
                each.cancel()

    async def _gone(self, task: Task) -> None:
        task.become("DEPROVISIONING")
        await asyncio.sleep(self.delays.stopping_s)
        try:
            if task.interface is not None:
                await asyncio.to_thread(
                    ask_query, "ec2", "DeleteNetworkInterface", task.region, NetworkInterfaceId=task.interface
                )
        finally:
            if task.address is not None:
                self._block.give_back(task.address)
            task.become("STOPPED")

    async def _pause(self, task: Task, delay_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(delay_s, 0.001)):  # wait_for may swallow a cancellation
                await task.stop.wait()
        if task.stop.is_set():
            raise _Ending(task.stopped_reason)

    # --- what it needs

    def _attach(self, task: Task) -> None:
        groups = {f"SecurityGroupId.{n}": group for n, group in enumerate(task.groups, 1)}
        try:
            address = self._block.take()
        except RuntimeError as error:
            raise _Ending(f"ResourceInitializationError: {error}") from error
        answer = ask_query(
            "ec2",
            "CreateNetworkInterface",
            task.region,
            SubnetId=task.subnet,
            PrivateIpAddress=address,
            Description=f"{task.arn}",
            **groups,
        )
        if answer is None:
            self._block.give_back(address)
            raise _Ending(f"Unexpected EC2 error while attempting to Create Network Interface in subnet {task.subnet}")
        task.zone, task.mac = _tag(answer, "availabilityZone"), _tag(answer, "macAddress")
        task.address, task.interface = address, _tag(answer, "networkInterfaceId")

    def _secrets(self, task: Task, container: Container) -> dict[str, str]:
        log = container.definition.get("logConfiguration") or {}
        options = log.get("options") or {}
        if log.get("logDriver") == "awslogs" and not log_group_is_there(options, task.region):
            raise _Ending(
                "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: "
                "failed to create Cloudwatch log stream: ResourceNotFoundException: The specified log group does not "
                f"exist. : exit status 1 ({options.get('awslogs-group')})"
            )
        try:
            named = container.definition.get("secrets") or ()
            return {each["name"]: secret_value(each["valueFrom"], task.region) for each in named}
        except NoSecret as error:
            raise _Ending(
                "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval "
                f"failed: unable to retrieve secret from asm: service call has been retried 1 time(s): {error}"
            ) from error

    # --- processes

    async def _spawn(self, task: Task, container: Container, secrets: Mapping[str, str]) -> None:
        definition = container.definition
        argv = [*(definition.get("entryPoint") or ()), *(definition.get("command") or ())]
        if not argv:
            raise _Ending(
                "CannotStartContainerError: there are no images here: a definition has to say entryPoint or command",
                container,
            )
        folder = self._folder / task.id
        folder.mkdir(exist_ok=True)
        container_folder = folder / container.name
        container_folder.mkdir()
        with (folder / f"{container.name}.log").open("wb") as log:
            try:
                container.process = await asyncio.create_subprocess_exec(
                    *argv,
                    env=self._environment(task, container, secrets),
                    cwd=container_folder,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                container.exit_code = 127
                raise _Ending(
                    f'CannotStartContainerError: failed to create shim task: exec: "{argv[0]}": {error.strerror}',
                    container,
                ) from error
        container.pid = container.process.pid
        self._reaper.watch(container.pid)

    def _environment(self, task: Task, container: Container, secrets: Mapping[str, str]) -> dict[str, str]:
        return {
            "PATH": variable("PATH") or _PATH,
            "HOME": "/",
            "HOSTNAME": f"ip-{(task.address or '').replace('.', '-')}.ec2.internal",
            "AWS_EXECUTION_ENV": "AWS_ECS_FARGATE",
            "AWS_REGION": task.region,
            "AWS_DEFAULT_REGION": task.region,
            BIND_VARIABLE: task.address or "",
            **{each["name"]: each["value"] for each in container.definition.get("environment") or ()},
            **secrets,
        }

    async def _wait(self, container: Container) -> None:
        process = container.process
        assert process is not None
        code = await process.wait()
        kill_group(process.pid)  # all processes of a container end with its first one
        self._reaper.forget(process.pid)
        container.pid, container.exit_code = None, code if code >= 0 else 128 - code

    async def _stop(self, container: Container) -> None:
        if container.pid is None:
            return
        limit_s = self.delays.stop_timeout_s
        if limit_s is None:
            limit_s = float(container.definition.get("stopTimeout") or _STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.kill(container.pid, signal.SIGTERM)
        assert container.process is not None
        pid = container.pid
        try:
            async with asyncio.timeout(limit_s):
                await container.process.wait()
        except TimeoutError:
            kill_group(pid)

    async def _look_after(self, task: Task, container: Container) -> None:
        """Run its health check again and again, while it runs."""
        check = container.definition.get("healthCheck")
        if not check or check["command"] == ["NONE"]:
            return
        how = {**_HEALTH, **{name: value for name, value in check.items() if value is not None}}
        kind, *argv = how["command"]
        argv = argv if kind == "CMD" else ["/bin/sh", "-c", *argv]
        loop = asyncio.get_running_loop()
        counted_from_s = loop.time() + how["startPeriod"]
        secrets = await asyncio.to_thread(self._secrets, task, container)
        environment = self._environment(task, container, secrets)
        failed = 0
        while True:
            interval_s = self.delays.health_interval_s
            if interval_s is not None and container.health == "HEALTHY":
                interval_s *= _SELDOMER
            await asyncio.sleep(how["interval"] if interval_s is None else interval_s)
            if await _succeeds(argv, environment, how["timeout"]):
                container.health, failed = "HEALTHY", 0
            elif container.health == "HEALTHY" or loop.time() >= counted_from_s:
                failed += 1
                if failed >= how["retries"]:
                    container.health = "UNHEALTHY"


async def _succeeds(argv: list[str], environment: Mapping[str, str], timeout_s: float) -> bool:
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    try:
        async with asyncio.timeout(timeout_s):
            return await process.wait() == 0
    except TimeoutError:
        return False
    finally:
        if process.returncode is None:
            kill_group(process.pid)
            await process.wait()


def _tag(xml: str, name: str) -> str:
    return xml.partition(f"<{name}>")[2].partition("<")[0]
