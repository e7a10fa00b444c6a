"""A store's second client, in another process: what one client wrote is read by a route that shares nothing with it."""

from __future__ import annotations

import hashlib
import multiprocessing
import pickle
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from wukong.backends.environment import keep, provide
from wukong.backends.spec import PluginSpec
from wukong.backends.storage import Arrival, Blob, Outcome, Store, joined

_MACHINES = (
    *("HOME", "LANG", "LC_", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "PYTHON", "SHELL", "SSL_CERT_", "TMPDIR", "TZ"),
    *("USER", "VIRTUAL_ENV", "XDG_"),
)


class RemoteProcess:
    """Another process that opens stores by their spec. One call at a time; `start` and `finish` let several overlap.

    Args:
        bare: prefixes of variables: it has these and the machine's own, and no others; None: all of this process's.
    """

    def __init__(self, bare: Sequence[str] | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        kept = None if bare is None else (*_MACHINES, *bare)
        self._process = context.Process(target=_serve, args=(theirs, kept), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def start(self, spec: PluginSpec, verb: str, *arguments: Any) -> None:
        """Ask for something; fetch the answer with `finish`."""
        self._pipe.send((spec, verb, arguments))

    def has_finished(self) -> bool:
        """Whether there is an answer to the last `start`."""
        return self._pipe.poll()

    def finish(self) -> Any:
        """Return the answer to the last `start`, or raise what it raised."""
        answer = self._pipe.recv()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def call(self, spec: PluginSpec, verb: str, *arguments: Any) -> Any:
        """Ask and wait for the answer. Verbs: those of `Store`, and those below."""
        self.start(spec, verb, *arguments)
        return self.finish()

    def close(self) -> None:
        """End the process. Closing twice is no error."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def configure(self, environment: Mapping[str, str]) -> None:
        """Set variables in the other process, as a platform does for its functions."""
        self.call(PluginSpec(""), "configure", dict(environment))

    def get(self, spec: PluginSpec, keys: Sequence[bytes]) -> list[bytes | None]:
        """`Store.get` in the other process, as bytes."""
        values: list[bytes | None] = self.call(spec, "get", keys)
        return values

    def put(self, spec: PluginSpec, items: Mapping[bytes, Blob], ttl_s: float | None = None) -> None:
        """`Store.put` in the other process."""
        self.call(spec, "put", {key: bytes(joined(blob)) for key, blob in items.items()}, ttl_s)

    def incr(self, spec: PluginSpec, arrivals: Sequence[Arrival]) -> list[Outcome]:
        """`Store.incr` in the other process."""
        outcomes: list[Outcome] = self.call(spec, "incr", arrivals)
        return outcomes

    def digests(self, spec: PluginSpec, keys: Sequence[bytes]) -> list[tuple[int, bytes] | None]:
        """Return the `digest` of each value, computed in the other process."""
        found: list[tuple[int, bytes] | None] = self.call(spec, "digests", keys)
        return found

    def start_watching(self, spec: PluginSpec, key: bytes, n_reads: int) -> None:
        """Begin to read a value over and over; `finish` returns the set of all digests that were seen, and None."""
        self.start(spec, "watch", key, n_reads)


def digest(value: Blob) -> tuple[int, bytes]:
    """Return a value's size and a hash of it."""
    data = memoryview(joined(value))
    return data.nbytes, hashlib.blake2b(data, digest_size=16).digest()


def _serve(pipe: Connection, kept: tuple[str, ...] | None) -> None:
    if kept is not None:
        keep(kept)
    stores: dict[str, Store] = {}
    while True:
        try:
            spec, verb, arguments = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            break
        try:
            if verb == "configure":
                provide(*arguments)
                pipe.send(None)
                continue
            name = repr(spec)
            if verb != "close" and name not in stores:
                stores[name] = spec.open()
            answer: Any = None
            if verb == "close":
                if name in stores:
                    stores.pop(name).close()
            elif verb == "get":
                answer = [None if value is None else bytes(value) for value in stores[name].get(*arguments)]
            elif verb == "digests":
                answer = [None if value is None else digest(value) for value in stores[name].get(*arguments)]
            elif verb == "watch":
                key, n_reads = arguments
                found = (stores[name].get([key])[0] for _ in range(n_reads))
                answer = {None if value is None else digest(value) for value in found}
            elif verb == "arrive":
                answer = [stores[name].incr([arrival])[0] for arrival in arguments[0]]
            else:
                answer = getattr(stores[name], verb)(*arguments)
                if isinstance(answer, memoryview | bytearray):
                    answer = bytes(answer)
            pipe.send(answer)
        except Exception as error:
            pipe.send(_sendable(error))
    for store in stores.values():
        store.close()


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"an error that does not survive pickling: {error!r}")
    return error
