"""The control plane: as much as a client needs to deploy a package to the service with boto3 alone."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from wukong.emulators.aws_lambda.configuration import changed, created, event_settings
from wukong.emulators.aws_lambda.events import EventQueues
from wukong.emulators.aws_lambda.functions import Function, Functions, Version
from wukong.emulators.aws_lambda.names import LATEST, Name, arn, parse
from wukong.emulators.aws_lambda.package import UNZIPPED_BYTES, ZIPPED_BYTES, Code, remove, unpack
from wukong.emulators.aws_lambda.recursion import ALLOW, TERMINATE
from wukong.emulators.aws_lambda.refusal import Refusal, exists, invalid, not_found, not_in, unknown_operation
from wukong.emulators.aws_lambda.scaling import Scaler
from wukong.emulators.aws_lambda.settings import ServiceSettings
from wukong.emulators.aws_lambda.snapshots import Snapshots
from wukong.emulators.aws_lambda.wire import HttpRequest

Tell = Callable[[int, Any], None]
Refuse = Callable[[Refusal], None]


class ApiRequest(NamedTuple):
    """A request for one operation. `name` is the function's, if the path names one."""

    name: Name
    query: Mapping[str, str]
    body: Mapping[str, Any]
    further: str


class Control:
    """Operations on functions. Each answers with HTTP's status and the API's JSON, or raises `Refusal`.

    Args:
        folder: where code is unpacked.
        functions: those that are deployed, changed here alone.
        scaler, queues: what runs of them, and what waits.
        snapshots: of published versions.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        loop: asyncio.AbstractEventLoop,
        folder: Path,
        functions: Functions,
        scaler: Scaler,
        queues: EventQueues,
        snapshots: Snapshots,
    ) -> None:
        self._settings, self._loop, self._folder = settings, loop, folder
        self._functions, self._scaler, self._queues, self._snapshots = functions, scaler, queues, snapshots
        self._folders: set[Path] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        base, named = r"/2015-03-31/functions", r"/functions/(?P<name>[^/]+)"
        self._operations: list[tuple[str, re.Pattern[str], Callable[[ApiRequest], tuple[int, Any]]]] = [
            (method, re.compile(path), operation)
            for method, path, operation in (
                ("GET", base + "/?", self._list),
                ("GET", "/2015-03-31" + named, self._get),
                ("DELETE", "/2015-03-31" + named, self._delete),
                ("GET", "/2015-03-31" + named + "/configuration", self._get_configuration),
                ("PUT", "/2015-03-31" + named + "/configuration", self._configure),
                ("GET", "/2015-03-31" + named + "/versions", self._list_versions),
                ("POST", "/2015-03-31" + named + "/versions", self._publish),
                ("POST", "/2015-03-31" + named + "/aliases", self._create_alias),
                ("GET", "/2015-03-31" + named + "/aliases/(?P<further>[^/]+)", self._get_alias),
                ("PUT", "/2015-03-31" + named + "/aliases/(?P<further>[^/]+)", self._update_alias),
                ("DELETE", "/2015-03-31" + named + "/aliases/(?P<further>[^/]+)", self._delete_alias),
                ("GET", "/2019-09-30" + named + "/concurrency", self._get_concurrency),
                ("PUT", "/2017-10-31" + named + "/concurrency", self._put_concurrency),
                ("DELETE", "/2017-10-31" + named + "/concurrency", self._delete_concurrency),
                ("GET", "/2019-09-25" + named + "/event-invoke-config", self._get_event_settings),
                ("PUT", "/2019-09-25" + named + "/event-invoke-config", self._put_event_settings),
                ("POST", "/2019-09-25" + named + "/event-invoke-config", self._update_event_settings),
                ("DELETE", "/2019-09-25" + named + "/event-invoke-config", self._delete_event_settings),
                ("GET", "/2024-08-31" + named + "/recursion-config", self._get_recursion),
                ("PUT", "/2024-08-31" + named + "/recursion-config", self._put_recursion),
                ("GET", "/2016-08-19/account-settings/?", self._account),
            )
        ]

    def answer(self, request: HttpRequest, path: str, query: Mapping[str, str], tell: Tell, refuse: Refuse) -> None:
        """Carry out an operation and `tell` its answer, or `refuse`. To unpack a package takes a little longer."""
        settings = self._settings
        body = _json(request.body)
        if request.method == "POST" and path.rstrip("/") == "/2015-03-31/functions":
            self._later(self._create(body, tell), refuse)
            return
        found = re.fullmatch(r"/2015-03-31/functions/([^/]+)/code", path)
        if request.method == "PUT" and found:
            self._later(self._update_code(parse(unquote(found[1]), None, settings), body, tell), refuse)
            return
        for method, pattern, operation in self._operations:
            if method == request.method and (match := pattern.fullmatch(path)):
                groups = match.groupdict()
                named = unquote(groups["name"]) if "name" in groups else None
                name = Name("", None) if named is None else parse(named, query.get("Qualifier"), settings)
                tell(*operation(ApiRequest(name, query, body, unquote(groups.get("further", "")))))
                return
        raise unknown_operation()

    def _later(self, work: Any, refuse: Refuse) -> None:
        async def carry_out() -> None:
            try:
                await work
            except Refusal as refusal:
                refuse(refusal)

        task = self._loop.create_task(carry_out())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Functions.

    async def create(self, body: Mapping[str, Any]) -> Version:
        """Create a function from a request of ``CreateFunction``, with the zip in base64. Raises `Refusal`."""
        functions, settings = self._functions, self._settings
        name = parse(str(body.get("FunctionName", "")), None, settings)
        configured = created(body)
        _free(functions.by_name, name)
        code = await self._unpack(body.get("Code", {}), "CreateFunction")
        _free(functions.by_name, name)
        function = Function(name.function, arn(settings, name.function))
        function.tags = dict(body.get("Tags", {}))
        self._install(function, LATEST, code, configured)
        functions.by_name[function.name] = function
        return self._publish_version(function) if body.get("Publish") else function.latest()

    async def _create(self, body: Mapping[str, Any], tell: Tell) -> None:
        tell(201, (await self.create(body)).configuration("Pending", None))

    async def _update_code(self, name: Name, body: Mapping[str, Any], tell: Tell) -> None:
        function = self._functions.find(name)
        code = await self._unpack(body, "UpdateFunctionCode")
        self._functions.find(name)
        self._install(function, LATEST, code, function.latest().settings)
        told = self._publish_version(function) if body.get("Publish") else function.latest()
        tell(200, told.configuration(update="InProgress"))

    async def _unpack(self, source: Mapping[str, Any], operation: str) -> Code:
        if "ZipFile" not in source:
            raise invalid("This service takes code as a ZipFile: it has no S3 and runs no images")
        folder = self._folder / uuid.uuid4().hex
        self._folders.add(folder)
        return await self._loop.run_in_executor(None, unpack, source["ZipFile"], folder, operation)

    def _install(self, function: Function, number: str, code: Code, settings: Mapping[str, Any]) -> Version:
        before = function.versions.get(number)
        version = Version(function, number, code, settings)
        function.versions[number] = version
        if before is not None:
            self._scaler.retire(before)
        return version

    def _configure(self, call: ApiRequest) -> tuple[int, Any]:
        function = self._functions.find(call.name)
        latest = function.latest()
        version = self._install(function, LATEST, latest.code, changed(latest.settings, call.body))
        return 200, version.configuration(update="InProgress")

    def _list(self, call: ApiRequest) -> tuple[int, Any]:
        return 200, {"Functions": [each.latest().configuration() for each in self._functions.by_name.values()]}

    def _get(self, call: ApiRequest) -> tuple[int, Any]:
        version = self._functions.find_version(call.name)
        function = version.function
        told: dict[str, Any] = {
            "Code": {"RepositoryType": "S3", "Location": version.code.folder.as_uri()},
            "Configuration": version.configuration(),
        }
        if function.tags:
            told["Tags"] = function.tags
        if function.reserved is not None:
            told["Concurrency"] = {"ReservedConcurrentExecutions": function.reserved}
        return 200, told

    def _get_configuration(self, call: ApiRequest) -> tuple[int, Any]:
        return 200, self._functions.find_version(call.name).configuration()

    def _delete(self, call: ApiRequest) -> tuple[int, Any]:
        function = self._functions.find(call.name)
        if call.name.qualifier not in (None, LATEST):
            version = self._functions.find_version(call.name)
            if version.number in {alias["FunctionVersion"] for alias in function.aliases.values()}:
                raise exists(f"Version {version.number} has an alias")
            del function.versions[version.number]
            self._scaler.retire(version)
            return 204, None
        del self._functions.by_name[function.name]
        self._queues.close(function)
        for version in function.versions.values():
            self._scaler.retire(version)
        return 204, None

    # Versions and aliases.

    def _publish(self, call: ApiRequest) -> tuple[int, Any]:
        return 201, self._publish_version(self._functions.find(call.name)).configuration()

    def _publish_version(self, function: Function) -> Version:
        latest = function.latest()
        last = function.versions.get(str(function.published))
        if last is not None and (last.code, last.settings) == (latest.code, latest.settings):
            return last
        function.published += 1
        version = self._install(function, str(function.published), latest.code, latest.settings)
        if version.snapped:
            self._snapshots.take(version)
        return version

    def _list_versions(self, call: ApiRequest) -> tuple[int, Any]:
        function = self._functions.find(call.name)
        return 200, {"Versions": [version.configuration() for version in function.versions.values()]}

    def _create_alias(self, call: ApiRequest) -> tuple[int, Any]:
        function, alias = self._functions.find(call.name), str(call.body["Name"])
        if alias in function.aliases:
            raise exists(f"Alias already exists: {function.arn}:{alias}")
        function.aliases[alias] = self._alias(function, alias, call.body, {})
        return 201, function.aliases[alias]

    def _get_alias(self, call: ApiRequest) -> tuple[int, Any]:
        return 200, self._find_alias(call)[1]

    def _update_alias(self, call: ApiRequest) -> tuple[int, Any]:
        function, alias = self._find_alias(call)
        function.aliases[call.further] = self._alias(function, call.further, call.body, alias)
        return 200, function.aliases[call.further]

    def _delete_alias(self, call: ApiRequest) -> tuple[int, Any]:
        self._functions.find(call.name).aliases.pop(call.further, None)
        return 204, None

    def _find_alias(self, call: ApiRequest) -> tuple[Function, dict[str, Any]]:
        function = self._functions.find(call.name)
        if call.further not in function.aliases:
            raise not_found(f"Cannot find alias arn: {function.arn}:{call.further}")
        return function, function.aliases[call.further]

    def _alias(
        self, function: Function, name: str, body: Mapping[str, Any], before: Mapping[str, Any]
    ) -> dict[str, Any]:
        number = str(body.get("FunctionVersion", before.get("FunctionVersion", LATEST)))
        if number not in function.versions:
            raise not_found(f"Function not found: {function.arn}:{number}")
        return {
            "AliasArn": f"{function.arn}:{name}",
            "Name": name,
            "FunctionVersion": number,
            "Description": body.get("Description", before.get("Description", "")),
            "RevisionId": str(uuid.uuid4()),
        }

    # Concurrency, and the configuration of events.

    def _get_concurrency(self, call: ApiRequest) -> tuple[int, Any]:
        reserved = self._functions.find(call.name).reserved
        return 200, {} if reserved is None else {"ReservedConcurrentExecutions": reserved}

    def _put_concurrency(self, call: ApiRequest) -> tuple[int, Any]:
        function = self._functions.find(call.name)
        wanted = int(call.body["ReservedConcurrentExecutions"])
        others = self._functions.reserved() - (function.reserved or 0)
        if wanted < 0 or wanted + others > self._settings.most_at_once():
            raise invalid(
                "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
                "below its minimum value of [0]."
            )
        function.reserved = wanted
        return 200, {"ReservedConcurrentExecutions": wanted}

    def _delete_concurrency(self, call: ApiRequest) -> tuple[int, Any]:
        self._functions.find(call.name).reserved = None
        return 204, None

    def _get_event_settings(self, call: ApiRequest) -> tuple[int, Any]:
        function, qualifier = self._event_target(call)
        if qualifier not in function.event_settings:
            raise not_found(f"The function {function.arn}:{qualifier} doesn't have an EventInvokeConfig")
        return 200, function.event_settings[qualifier]

    def _put_event_settings(self, call: ApiRequest) -> tuple[int, Any]:
        return self._set_event_settings(call, {})

    def _update_event_settings(self, call: ApiRequest) -> tuple[int, Any]:
        return self._set_event_settings(call, self._get_event_settings(call)[1])

    def _set_event_settings(self, call: ApiRequest, before: Mapping[str, Any]) -> tuple[int, Any]:
        function, qualifier = self._event_target(call)
        told = {
            **event_settings(call.body, before),
            "FunctionArn": f"{function.arn}:{qualifier}",
            "LastModified": time.time(),
        }
        function.event_settings[qualifier] = told
        return 200, told

    def _delete_event_settings(self, call: ApiRequest) -> tuple[int, Any]:
        function, qualifier = self._event_target(call)
        function.event_settings.pop(qualifier, None)
        return 204, None

    def _event_target(self, call: ApiRequest) -> tuple[Function, str]:
        function = self._functions.by_name.get(call.name.function)
        qualifier = call.name.qualifier or LATEST
        if function is None or function.version(qualifier) is None:
            raise not_found("The function doesn't exist.")
        return function, qualifier

    def _get_recursion(self, call: ApiRequest) -> tuple[int, Any]:
        return 200, {"RecursiveLoop": self._functions.find(call.name).recursive_loop}

    def _put_recursion(self, call: ApiRequest) -> tuple[int, Any]:
        function, wanted = self._functions.find(call.name), call.body.get("RecursiveLoop")
        if wanted not in (ALLOW, TERMINATE):
            raise not_in(str(wanted), "recursiveLoop", (TERMINATE, ALLOW))
        function.recursive_loop = str(wanted)
        return 200, {"RecursiveLoop": wanted}

    def _account(self, call: ApiRequest) -> tuple[int, Any]:
        functions = self._functions
        most = self._settings.most_at_once()
        return 200, {
            "AccountLimit": {
                "CodeSizeUnzipped": UNZIPPED_BYTES,
                "CodeSizeZipped": ZIPPED_BYTES,
                "ConcurrentExecutions": most,
                "UnreservedConcurrentExecutions": most - functions.reserved(),
            },
            "AccountUsage": {"FunctionCount": len(functions.by_name)},
        }

    def sweep(self) -> None:
        """Remove code that no version and no environment needs any more."""
        needed = {fleet.version.code.folder for fleet in self._scaler.fleets}
        for function in self._functions.by_name.values():
            needed |= {version.code.folder for version in function.versions.values()}
        if self._tasks:
            return  # a package is being unpacked
        for folder in self._folders - needed:
            self._folders.discard(folder)
            self._loop.run_in_executor(None, remove, folder)


def _free(taken: Mapping[str, Function], name: Name) -> None:
    if name.function in taken:
        raise exists(f"Function already exist: {name.function}")


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body) if body else {}
    except ValueError as error:
        raise Refusal(400, "SerializationException", {"Message": str(error)}) from None
    if not isinstance(found, dict):
        raise Refusal(400, "SerializationException", {"Message": "The request's body is not an object"})
    return found
