"""A Lambda service for tests, in a process of its own on a free port of the loopback interface.

    with LambdaService() as service:
        client = service.client()                                   # boto3's, for this endpoint and its credentials
        service.create_function("echo", "def handler(event, context): return event")
        client.invoke(FunctionName="echo", Payload=b"1")["Payload"].read()

    @pytest.fixture(scope="session")
    def aws():
        with LambdaService(retry_delays_s=[0.01, 0.01]) as service:
            yield service

What it is and does: `wukong.emulators.aws_lambda`. It needs ``wukong-serverless[emulate]``; `client` and
`create_function` need boto3. It verifies signatures with credentials made up for each service.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

from wukong.emulators.aws_lambda.configuration import RUNTIME
from wukong.emulators.aws_lambda.package import ROLE, deployment_package
from wukong.emulators.aws_lambda.settings import ServiceSettings

__all__ = ["ROLE", "RUNTIME", "LambdaService", "deployment_package"]

_PATIENCE_S = 20.0
_END_PATIENCE_S = 90.0
"""Long enough to end thousands of environments."""
_ANYBODY = "anybody"


class LambdaService:
    """One service process. It ends with `stop`, or when this process does, and leaves nothing behind.

    Args:
        settings: see `wukong.emulators.aws_lambda.settings.ServiceSettings`; as plain data. Raises ConfigError.
    """

    def __init__(self, **settings: Any) -> None:
        secret = {"access_key": "AKIA" + secrets.token_hex(8).upper(), "secret_key": secrets.token_urlsafe(30)}
        self._given = {**secret, **settings}
        self.settings = ServiceSettings.of(self._given)
        self._process: subprocess.Popen[str] | None = None
        self._url = ""
        self._client: Any = None

    # The process.

    def start(self) -> LambdaService:
        """Start the process; return when it serves. Raises RuntimeError with its output if it does not."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "wukong.emulators.aws_lambda.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(self._given) + "\n")
        self._process.stdin.flush()
        self._url = self._process.stdout.readline().strip()
        if not self._url:
            self.stop()
            raise RuntimeError("the Lambda service did not start; its output says why")
        return self

    def stop(self) -> None:
        """End the process and all it started. Stopping twice is no error."""
        if self._process is not None:
            assert self._process.stdin is not None and self._process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            try:
                self._process.wait(_END_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process.stdout.close()
            self._process = None

    def kill(self) -> None:
        """Kill the process at once, as a crash would."""
        assert self._process is not None, "the service does not run"
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    @property
    def pid(self) -> int:
        """The id of the service's process."""
        assert self._process is not None, "the service does not run"
        return self._process.pid

    def __enter__(self) -> LambdaService:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # How to reach it.

    @property
    def url(self) -> str:
        """What boto3 calls ``endpoint_url``."""
        return self._url

    @property
    def options(self) -> dict[str, Any]:
        """What boto3's clients and sessions are to be given besides the service's name."""
        return {
            "endpoint_url": self.url,
            "region_name": self.settings.region,
            "aws_access_key_id": self.settings.access_key or _ANYBODY,
            "aws_secret_access_key": self.settings.secret_key or _ANYBODY,
        }

    @property
    def environment(self) -> dict[str, str]:
        """The same options as environment variables, for other processes."""
        return {
            "AWS_ENDPOINT_URL_LAMBDA": self.url,
            "AWS_DEFAULT_REGION": self.settings.region,
            "AWS_ACCESS_KEY_ID": self.settings.access_key or _ANYBODY,
            "AWS_SECRET_ACCESS_KEY": self.settings.secret_key or _ANYBODY,
        }

    def client(self, *, retries: int = 0, **config: Any) -> Any:
        """Return boto3's client for it, which tries `retries` times again. `config`: see botocore's Config."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "lambda", config=Config(retries={"total_max_attempts": retries + 1}, **config), **self.options
        )

    def create_function(
        self, name: str, code: str | bytes | Mapping[str, str | bytes], handler: str = "function.handler", **more: Any
    ) -> None:
        """Put a function behind the service, through boto3. `more`: further arguments of ``create_function``.

        Args:
            code: the source of a module ``function``, several files by name, or a zip.
        """
        package = code if isinstance(code, bytes) else deployment_package(code)
        variables = more.pop("variables", {})
        if self._client is None:
            self._client = self.client()
        self._client.create_function(
            FunctionName=name,
            Runtime=RUNTIME,
            Role=ROLE,
            Handler=handler,
            Code={"ZipFile": package},
            Environment={"Variables": variables},
            **more,
        )

    # What it tells about itself.

    def status(self) -> dict[str, Any]:
        """Return counters, and what waits; see `wukong.emulators.aws_lambda.status`."""
        found: dict[str, Any] = self._ask("GET", "status")
        return found

    def failures(self, after: int = 0) -> list[dict[str, Any]]:
        """Return failed attempts whose number is above `after`."""
        found: list[dict[str, Any]] = self._ask("GET", "failures", after=after)
        return found

    def dead_letters(self, after: int = 0) -> list[dict[str, Any]]:
        """Return the events that were given up, as records of an on-failure destination."""
        found: list[dict[str, Any]] = self._ask("GET", "dead-letters", after=after)
        return found

    def environments(self, function: str | None = None) -> list[dict[str, Any]]:
        """Return the execution environments, of one function or of all."""
        found: Sequence[dict[str, Any]] = self._ask("GET", "environments")
        return [each for each in found if function is None or each["function"] == function]

    def logs(self, function: str) -> list[str]:
        """Return the lines of a function's log."""
        return [line["text"] for line in self._ask("GET", "logs", function=function)]

    def warm(self, function: str, count: int) -> None:
        """Have `count` environments started before they are needed; returns before they have started."""
        self._ask("POST", "warm", function=function, count=count)

    def set_faults(self, faults: Mapping[str, Any] | None) -> None:
        """Replace the script of faults; counting begins anew."""
        self._ask("PUT", "faults", body=json.dumps(faults))

    def _ask(self, method: str, what: str, body: str | None = None, **query: Any) -> Any:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=_PATIENCE_S)
        headers = {"Authorization": f"Bearer {self.settings.secret_key}"}
        with contextlib.closing(connection):
            connection.request(method, f"/_wukong/{what}?{urlencode(query)}", body, headers)
            response = connection.getresponse()
            answer = response.read()
        if response.status != 200:
            raise RuntimeError(f"the Lambda service answers {response.status}: {answer.decode()}")
        return json.loads(answer) if answer else None
