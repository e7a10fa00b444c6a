"""Snapshots of published versions, as SnapStart takes them: each is a process that has been initialised, see `frozen`.

PublishVersion --> Pending --initialised, hooks have run--> Active --> environments are copies of that process
                      `--an error, its end, its time limit--> Failed
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from wukong.emulators.aws_lambda.environment import EnvironmentHost
from wukong.emulators.aws_lambda.functions import Version
from wukong.emulators.aws_lambda.logs import Stream
from wukong.emulators.aws_lambda.spawner import Spawner

INIT_S = 130.0
"""How long initialising may take, or the function's time limit if that is longer."""


class Snapshots:
    """The snapshots of one service.

    Args:
        has: whether a version still exists, or runs.
    """

    def __init__(self, host: EnvironmentHost, has: Callable[[Version], bool]) -> None:
        self._host, self._has = host, has
        self._spawners: dict[Version, Spawner] = {}
        self._timers: dict[Version, asyncio.TimerHandle] = {}

    def take(self, version: Version) -> None:
        """Begin to take a snapshot of a version that has just been published."""
        host = self._host
        version.state = "Pending"
        log = Stream(host.logs, version, f"snapshot/[{version.number}]")
        environment = {**host.variables(version), "AWS_LAMBDA_LOG_STREAM_NAME": log.name}

        def news(told: Mapping[str, Any]) -> None:
            log.write(told["output"].encode())
            if "taken" in told:
                self._settle(version, "Active")
            else:
                error = told["failed"]
                self._settle(version, "Failed", f"{error.get('errorType')}: {error.get('errorMessage')}")

        self._spawners[version] = spawner = Spawner(
            host.loop,
            host.python,
            environment,
            snapshot=(str(version.code.folder), version.handler),
            on_news=news,
            on_lost=lambda: self._settle(version, "Failed", "The runtime has exited without providing a reason"),
        )
        limit_s = max(INIT_S, version.timeout_s)
        self._timers[version] = host.loop.call_later(limit_s, spawner.kill)

    def _settle(self, version: Version, state: str, why: str = "") -> None:
        timer = self._timers.pop(version, None)
        if timer is not None:
            timer.cancel()
            version.state, version.why = state, why

    def spawner_of(self, version: Version) -> Spawner:
        """Return what restores environments of a version that is ``Active``."""
        return self._spawners[version]

    def sweep(self) -> None:
        """End the snapshots of versions that are gone."""
        for version in [each for each in self._spawners if not self._has(each)]:
            spawner = self._spawners.pop(version)
            self._settle(version, "Failed", "The version has been deleted")
            spawner.close()
            self._host.loop.run_in_executor(None, spawner.wait)

    def close(self) -> list[Spawner]:
        """End all; return what is to be waited for."""
        for timer in self._timers.values():
            timer.cancel()
        for spawner in self._spawners.values():
            spawner.close()
        return list(self._spawners.values())
