"""What tasks print and log on Lambda, brought from the functions' logs to the client.

`wukong_executor.log` writes every line with the invocation and the task that it is of. CloudWatch Logs is asked for new
lines now and then, and those of this client's jobs are handed on. On AWS they come some seconds late.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from wukong.backends.faas import TaskOutput
from wukong.backends.faas.aws_lambda.access import LambdaAccess, mapped
from wukong.core.interrupts import start_thread
from wukong.errors import WukongError

logger = logging.getLogger(__name__)

_EVERY_S = {True: 0.3, False: 2.0}
"""Pauses between two polls: of a service on this machine; of AWS, which allows an account few calls a second."""
_LATE_MS = 10_000
"""How much later than its timestamp a line may arrive."""
_CLOSE_S = 5.0
_PRINTED = re.compile(r"\[(stdout|stderr)\]\t([^\t]+)\t([^\t]*)\t(.*)", re.DOTALL)
_LOGGED = re.compile(r"\[([A-Z]+)\]\t[^\t]*\t[^\t]*\t([^\t]+)\t([^\t]*)\t([^\t]*)\t(.*)", re.DOTALL)
_PLATFORMS_OWN = ("START ", "END ", "REPORT ", "INIT_", "[", "{")


class Follower:
    """Hands the output of this client's tasks on, from a thread of its own, from the first job until it is closed.

    Args:
        access: to AWS.
        groups: returns the names of the functions' log groups.
        here: the service is one on this machine, and so are its logs.
        hand_on: takes the output.
    """

    def __init__(
        self,
        access: LambdaAccess,
        groups: Callable[[], Sequence[str]],
        here: bool,
        hand_on: Callable[[TaskOutput], None],
    ) -> None:
        self._access, self._groups, self._here, self._hand_on = access, groups, here, hand_on
        self._jobs: set[str] = set()
        self._since_ms = int(time.time() * 1_000) - 1_000
        self._seen: dict[str, int] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, jobs: Iterable[str]) -> None:
        """These jobs are this client's."""
        self._jobs.update(jobs)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="wukong-task-output", daemon=True)
            start_thread(self._thread)

    def close(self) -> None:
        """Hand on what was written last."""
        self._over.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        try:
            while not self._over.wait(_EVERY_S[self._here]):
                self._look()
            self._look()
        except WukongError as error:
            level = logging.DEBUG if self._here else logging.WARNING
            logger.log(level, "what tasks print is not shown: %s", error.message)

    def _look(self) -> None:
        newest_ms = self._since_ms
        for group in self._groups():
            fresh = []
            for event in self._events(group):
                name = f"{group} {event['eventId']}"
                if name not in self._seen:
                    self._seen[name] = int(event["timestamp"])
                    newest_ms = max(newest_ms, self._seen[name])
                    fresh.append(event)
            for output in parsed(fresh):
                if output.invocation.partition("/")[0] in self._jobs:
                    self._hand_on(output)
        self._since_ms = max(self._since_ms, newest_ms - _LATE_MS)
        self._seen = {name: at_ms for name, at_ms in self._seen.items() if at_ms >= self._since_ms}

    def _events(self, group: str) -> Iterator[Mapping[str, Any]]:
        client = self._access.client("logs", endpoint_url=self._access.endpoint_url if self._here else None)
        with mapped(None, "logs:FilterLogEvents"):
            pages = client.get_paginator("filter_log_events").paginate(logGroupName=group, startTime=self._since_ms)
            for page in pages:
                yield from page.get("events", ())


def parsed(events: Iterable[Mapping[str, Any]]) -> list[TaskOutput]:
    """Return what tasks wrote, of the events of one log. A line that goes on with a record is part of it."""
    found: list[TaskOutput] = []
    last: dict[str, int] = {}
    for event in events:
        text, stream = str(event["message"]).rstrip("\n"), str(event["logStreamName"])
        output = _output(text)
        if output is not None:
            last[stream] = len(found)
            found.append(output)
        elif stream in last and found[last[stream]].stream == "log" and not text.startswith(_PLATFORMS_OWN):
            begun = found[last[stream]]
            found[last[stream]] = TaskOutput(
                begun.invocation, begun.task, "log", f"{begun.text}\n{text}", begun.logger, begun.level
            )
        else:
            last.pop(stream, None)
    return found


def _output(text: str) -> TaskOutput | None:
    if printed := _PRINTED.fullmatch(text):
        stream, label, task, line = printed.groups()
        return TaskOutput(label, _task(task), "stdout" if stream == "stdout" else "stderr", f"{line}\n")
    if logged := _LOGGED.fullmatch(text):
        level, label, task, name, message = logged.groups()
        return TaskOutput(label, _task(task), "log", message, name, _level(level))
    if text.startswith("{") and '"wukong_invocation"' in text:
        try:
            told = json.loads(text)
            label, task, name = str(told["wukong_invocation"]), str(told["wukong_task"]), str(told.get("logger", ""))
            return TaskOutput(label, _task(task), "log", str(told["message"]), name, _level(str(told["level"])))
        except (ValueError, KeyError):
            return None
    return None


def _task(text: str) -> str | None:
    return None if text == "-" else text


def _level(name: str) -> int:
    return logging.getLevelNamesMapping().get(name, logging.INFO)
