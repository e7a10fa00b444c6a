"""A proxy beside a client: a process of its own on loopback, which ends with the process that started it."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import re
import selectors
import subprocess
import sys
import tempfile
import time
import weakref
from typing import IO, NoReturn

from wukong.backends.entry import KEY_VARIABLE
from wukong.errors import BackendError

__all__ = ["ProxyBeside"]

_BACKEND = "proxy"
_LOOK_S = 0.02
_STOP_S = 10.0
_WORDS = 2_000
_MODULE = ("-m", "wukong.proxy")

logger = logging.getLogger(__name__)


class ProxyBeside:
    """Start ``wukong proxy`` on this machine, and wait until it serves. It gets the key by its environment only.

    Args:
        key: the deployment's.
        port: where to listen on 127.0.0.1; 0: any free port.
        workers: as of ``wukong proxy``.
        start_timeout_s: how long it may take to serve.

    Attributes:
        address: ``"127.0.0.1:port"``.

    Raises `BackendError`, with what the process said, if it does not serve: the port is taken, say.
    """

    def __init__(self, key: bytes, *, port: int = 0, workers: int = 1, start_timeout_s: float = 20.0) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # it stays open as long as the process may write there
        command = [sys.executable, "-P", *_MODULE, "--json", "--parent", str(os.getpid())]
        command += ["--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env={**os.environ, KEY_VARIABLE: key.hex()},
                start_new_session=True,  # Ctrl-C is the client's alone: what it stops may still be invoking
            )
        except OSError as error:
            self._said.close()
            raise BackendError(f"{sys.executable} cannot be started: {error}", backend=_BACKEND) from error
        self._end = weakref.finalize(self, _stop, self._process, self._said, os.getpid())
        try:
            self.address = self._serving(time.monotonic() + start_timeout_s, start_timeout_s)
        except BaseException:
            self._process.kill()
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    def close(self) -> None:
        """Stop it: it finishes what it has accepted. Closing twice is no error."""
        self._end()

    def _serving(self, end: float, patience_s: float) -> str:
        """Return its address as soon as its health check answers there."""
        address = ""
        while time.monotonic() < end:
            if not address:
                address = self._announced(max(0.0, end - time.monotonic()))
            host, _, port = address.rpartition(":")
            connection = http.client.HTTPConnection(host, int(port), timeout=max(0.1, end - time.monotonic()))
            with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
                connection.request("GET", "/healthz")
                if connection.getresponse().status == http.client.OK:
                    return address
            if self._process.poll() is not None:
                self._fail("the proxy beside the client has ended")
            time.sleep(_LOOK_S)
        self._fail(f"the proxy beside the client does not serve after {patience_s:g} s")

    def _announced(self, patience_s: float) -> str:
        stream = self._process.stdout
        assert stream is not None
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            ready = selector.select(patience_s)
        line = stream.readline() if ready else b""
        if not line:
            if ready:  # it has closed its output, so it is about to end, and to say why
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_STOP_S)
            self._fail("the proxy beside the client did not start")
        return str(json.loads(line)["listening"])

    def _fail(self, what: str) -> NoReturn:
        self._said.seek(0)
        said = re.sub(r"^wukong: (\w+: )?", "", self._said.read().decode(errors="replace").strip()[-_WORDS:])
        raise BackendError(f"{what}{f': {said}' if said else ''}", backend=_BACKEND)


def _stop(process: subprocess.Popen[bytes], said: IO[bytes], owner: int) -> None:
    """End the process: in good order if it can be, else by force."""
    if os.getpid() == owner:  # a forked child leaves alone what is the parent's
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            logger.warning("the proxy beside this client did not stop within %g s, and was killed", _STOP_S)
            process.kill()
            process.wait()
        said.seek(0)
        if words := said.read().decode(errors="replace").strip()[-_WORDS:]:
            logger.warning("the proxy beside this client said: %s", words)
    if process.stdout is not None:
        process.stdout.close()
    said.close()
