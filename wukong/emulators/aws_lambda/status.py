"""The service's own pages under ``/_wukong/``, which AWS does not have: for tests, benchmarks and plug-ins.

GET  status                        counters, waiting events, environments by state
GET  failures?after=N              failed attempts with a number above N
GET  dead-letters?after=N          events that were given up, as records of an on-failure destination
GET  environments                  an entry for each
GET  logs?function=NAME            lines of a function's log
POST warm?function=NAME&count=N    start environments before they are needed
PUT  faults                        replace the script of faults; null: none. Restarts the count
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from wukong.backends.faas.emulator.faults import FaultScript
from wukong.emulators.aws_lambda.events import EventQueues
from wukong.emulators.aws_lambda.functions import Functions
from wukong.emulators.aws_lambda.ledger import ServiceLedger
from wukong.emulators.aws_lambda.logs import LogBook
from wukong.emulators.aws_lambda.names import Name
from wukong.emulators.aws_lambda.refusal import invalid, unknown_operation
from wukong.emulators.aws_lambda.scaling import Scaler
from wukong.emulators.aws_lambda.script import ServiceScript
from wukong.emulators.aws_lambda.wire import HttpRequest
from wukong.errors import ConfigError


class StatusPages:
    """See the module's docstring."""

    def __init__(
        self,
        functions: Functions,
        ledger: ServiceLedger,
        logs: LogBook,
        script: ServiceScript,
        scaler: Scaler,
        queues: EventQueues,
    ) -> None:
        self._functions, self._ledger, self._logs, self._script = functions, ledger, logs, script
        self._scaler, self._queues = scaler, queues

    def answer(self, request: HttpRequest, path: str, query: Mapping[str, str]) -> Any:
        """Return the requested page. Raises `Refusal`."""
        ledger, functions = self._ledger, self._functions
        match request.method, path:
            case "GET", "status":
                return self._status()
            case "GET", "failures":
                return ledger.failures(_number(query, "after"))
            case "GET", "dead-letters":
                return ledger.dead_letters(_number(query, "after"))
            case "GET", "environments":
                return self._environments()
            case "GET", "logs":
                function = functions.find(Name(query.get("function", ""), None))
                return [line._asdict() for line in self._logs.lines(function.log_group)]
            case "POST", "warm":
                version = functions.find_version(Name(query.get("function", ""), query.get("qualifier")))
                self._scaler.warm(version, _number(query, "count"))
                return None
            case "PUT", "faults":
                try:
                    self._script.restart(FaultScript.of(json.loads(request.body)))
                except (ConfigError, ValueError, TypeError) as error:
                    raise invalid(str(error)) from None
                return None
        raise unknown_operation()

    def _status(self) -> dict[str, Any]:
        states: Counter[str] = Counter()
        for fleet in self._scaler.fleets:
            states.update({state: count for state, count in fleet.states.items() if count and state != "dead"})
        return {
            **self._ledger.counts,
            "billed_gb_s": self._ledger.billed_gb_s,
            "environments": states,
            "waiting": sum(len(fleet.waiting) for fleet in self._scaler.fleets),
            "functions": {
                function.name: {
                    "in_flight": self._scaler.in_flight(function),
                    "backlog": len(self._queues.of(function).backlog),
                    "resting": self._queues.of(function).resting,
                }
                for function in self._functions.by_name.values()
            },
        }

    def _environments(self) -> list[dict[str, Any]]:
        return [
            {
                "function": environment.version.function.name,
                "version": environment.version.number,
                "pid": environment.pid,
                "state": environment.state,
                "frozen": environment.frozen,
                "invocations": environment.invocations,
                "log_stream": environment.log.name,
            }
            for environment in self._scaler.environments()
        ]


def _number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "0")
    if not (text.isascii() and text.isdigit()):
        raise invalid(f"{name} is not a number: {text!r}")
    return int(text)
