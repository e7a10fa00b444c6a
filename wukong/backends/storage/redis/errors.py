"""Wukong's errors for the faults of a Redis server: which ones to retry, and what to do about the rest."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Mapping
from typing import TypeAlias

import redis
from redis import exceptions

from wukong.backends.storage.redis.access import RedisAccess
from wukong.backends.storage.redis.address import BACKEND, Endpoint
from wukong.backends.storage.redis.scripts import ARRIVE, TAKE
from wukong.backends.storage.redis.tls import NoTls, speaks_tls
from wukong.errors import StoreError, StoreFull, StoreUnavailable

__all__ = ["damaged", "is_damage", "is_refused", "is_replica", "refuses_to_tell", "translated"]

_Story: TypeAlias = tuple[type[StoreError], str, str | None]

_CODES: Mapping[type[Exception], str] = {
    exceptions.OutOfMemoryError: "OOM",
    exceptions.BusyLoadingError: "LOADING",
    exceptions.ReadOnlyError: "READONLY",
    exceptions.MasterDownError: "MASTERDOWN",
    exceptions.ClusterDownError: "CLUSTERDOWN",
    exceptions.TryAgainError: "TRYAGAIN",
    exceptions.AskError: "MOVED",
    exceptions.ClusterCrossSlotError: "CROSSSLOT",
    exceptions.NoPermissionError: "NOPERM",
}
_CODE = re.compile(rf"\b({'|'.join([*_CODES.values(), 'ASK', 'BUSY', 'NOREPLICAS', 'NOAUTH'])})\b")
_PASSING = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS")
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST")
_DAMAGE = re.compile(r"\bWRONGTYPE\b|user_script:\d+: (?:attempt|bad argument|invalid)|hash value is not")
_MOVED = ("READONLY", "MASTERDOWN")
_FORBIDDEN = re.compile(r"can't run this command or subcommand|has no permissions to run the")  # Redis; Valkey
_UNKNOWN = re.compile(r"unknown (?:sub)?command|unknown redis command|NOPROTO|unsupported protocol", re.I)
_CLIENTS = (
    "raise its maxclients, or let fewer functions run at once: max_slots of the emulator, concurrency of AWS Lambda; "
    "each has two connections or three"
)
_REPLICA = "name the primary, or a name that leads to it after a failover"
_RENAMED = "it is renamed away there, or the server is older than Redis 6.2: docs/configuration.md lists what is needed"
_SILENT = "is it overloaded, or does a firewall drop what is sent to it?"
_COMMANDS = "what it needs is listed in docs/configuration.md"
_TLS_OR_NOT = "redis:// is without TLS, rediss:// with it; check the port too"


def translated(error: Exception, server: Endpoint, access: RedisAccess, waited_s: float | None = None) -> StoreError:
    """Return the error to raise for redis-py's `error`, from a connection to `server` with `access`.

    `waited_s`: how long the client waited for an answer; None: as long as a small operation may take.

    If the server hung up on a client without TLS, this asks the server whether it speaks TLS.
    """
    kind, what, hint = _refusal(error, access.password_variable) or _unreached(
        error, server, access, access.longest_s() if waited_s is None else waited_s
    )
    return kind(f"the Redis server {server.name} {what}", backend=BACKEND, hint=hint)


def is_damage(error: redis.ResponseError) -> bool:
    """Return whether a server says that a key holds something that this store has not put there."""
    return _DAMAGE.search(str(error)) is not None


def damaged(server: str, what: str, key: bytes, error: Exception) -> StoreError:
    """Return the error to raise for a `what` under `key` that is damaged."""
    return StoreError(
        f"the {what} {key!r} on the Redis server {server} is damaged: {error}",
        backend=BACKEND,
        hint="something else writes under the store's prefix: give the store a prefix or a database of its own",
    )


def _refusal(error: Exception, password_variable: str) -> _Story | None:
    """What a server's own error means; None if the server sent none."""
    text = str(error)
    if isinstance(error, exceptions.AuthenticationError):
        return _login(text, password_variable)
    if isinstance(error, exceptions.InvalidResponse):
        return StoreError, f"does not answer as Redis does: {text}", _TLS_OR_NOT
    code = _code(error, text)
    if code == "OOM":
        return StoreFull, "has no memory left", "raise its maxmemory, add servers, or set a smaller ttl_s"
    if code in ("MOVED", "ASK", "CROSSSLOT"):
        return (
            StoreError,
            "is part of a Redis Cluster, which sends its clients from one node to another",
            "say so: redis://...?cluster=true, or the option cluster=True",
        )
    if "max number of clients reached" in text:
        return StoreUnavailable, f"cannot serve now: {text}", _CLIENTS
    if code in _PASSING:
        return StoreUnavailable, f"cannot serve now: {text}", _REPLICA if code in _MOVED else None
    if code == "NOPERM" or _FORBIDDEN.search(text):
        command = _command(text)
        what = f"the command {command}" if command else f"what is needed: {text}"
        return StoreError, f"does not permit its user {what}", _COMMANDS
    if not isinstance(error, redis.ResponseError):
        return None
    if code == "NOAUTH" or "HELLO must be called" in text:
        return _login(text, password_variable)
    if "DB index is out of range" in text:
        return StoreError, "has no database of this number", "choose a smaller db, or raise its setting `databases`"
    if _UNKNOWN.search(text) and (command := _command(text)):
        return StoreError, f"does not know the command {command}", _RENAMED
    return StoreError, f"refuses a command: {text}", None


def _command(text: str) -> str | None:
    """The command that an error is about. The error names it, or a line of one of our scripts that calls it."""
    if named := re.search(r"(?:run the|unknown (?:sub)?command) ['\"`]([^'\"`]+)", text):
        return named[1].replace("|", " ").upper()
    place = re.search(r"user_script: ?(\d+)", text)
    if place is None:
        return None
    told = [each for each in (ARRIVE, TAKE) if each.sha.decode() in text]  # Valkey does not say which script it is
    lines = [each.source.decode().splitlines()[int(place[1]) - 1 : int(place[1])] for each in told or (ARRIVE, TAKE)]
    called = {found[1] for [line] in filter(None, lines) if (found := re.search(r"call\('(\w+)'", line))}
    return called.pop() if len(called) == 1 else None


def _code(error: Exception, text: str) -> str | None:
    """The code that a server's error begins with.

    Older versions of redis-py know fewer codes, and older servers wrap an error of a script in another error.
    """
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    found = _CODE.search(text) if isinstance(error, redis.ResponseError) else None
    return found[1] if found else None


def _login(text: str, variable: str) -> _Story:
    if "without any password" in text:
        return (
            StoreError,
            "knows no password, and one is given",
            f"set one on the server, or give none: not in the URL, as an option, or in {variable}",
        )
    if "WRONGPASS" in text or "invalid" in text:
        return StoreError, "refuses this username and password", f"check the URL, the options, and {variable}"
    return StoreError, "wants a password", f"give it in the URL, as the option `password`, or in {variable}"


def is_replica(error: Exception) -> bool:
    """Whether a server says that it follows another one, and takes no writes."""
    return isinstance(error, redis.RedisError) and _code(error, str(error)) in _MOVED


def is_refused(error: BaseException | None) -> bool:
    """Whether a server refuses a command as such: to this user, or because it does not know it."""
    text = str(error)
    return isinstance(error, redis.ResponseError) and (
        _code(error, text) == "NOPERM" or _FORBIDDEN.search(text) is not None or _UNKNOWN.search(text) is not None
    )


def refuses_to_tell(error: BaseException | None) -> bool:
    """Whether a server refuses to report writes to keys, because it denies or lacks `CLIENT` or RESP3."""
    return is_refused(error) and re.search(r"client|hello|tracking|caching|noproto", str(error), re.I) is not None


def _unreached(error: Exception, server: Endpoint, access: RedisAccess, waited_s: float) -> _Story:
    """Return what went wrong between the client and the server."""
    cause = _cause(error)
    if isinstance(cause, NoTls):
        return StoreError, "does not speak TLS", _TLS_OR_NOT
    if isinstance(cause, socket.gaierror):
        if cause.errno == socket.EAI_AGAIN:
            return StoreUnavailable, f"cannot be looked up for now: {cause.strerror}", None
        return StoreError, "is not known by that name", "check its spelling, and that its network can be reached"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            StoreError,
            f"cannot be trusted: {cause.verify_message}",
            "name its authority's certificate as `ca_file`; verify='ca' lets its host name differ",
        )
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        if cause.reason in _NO_TLS:
            return StoreError, "does not speak TLS", _TLS_OR_NOT
        return StoreError, f"did not agree on TLS: {cause.reason or cause}", "check ca_file, cert_file, key_file"
    if isinstance(cause, PermissionError):
        return StoreError, "may not be connected to by this user", None
    if isinstance(error, exceptions.TimeoutError) or isinstance(cause, TimeoutError):
        if "connecting" in str(error):
            return StoreUnavailable, f"could not be connected to within {access.connect_timeout_s:g} s", _SILENT
        return StoreUnavailable, f"did not answer within {waited_s:.2g} s", _SILENT
    plain = server.host is not None and access.tls is None
    if plain and _hung_up(error, cause) and speaks_tls(server.host or "", server.port):
        return StoreError, "speaks TLS, and this client does not", _TLS_OR_NOT
    if isinstance(cause, OSError) and cause.errno:
        running = "is it running, and is this its address?"
        return StoreUnavailable, f"cannot be reached: {os.strerror(cause.errno)}", running
    return StoreUnavailable, f"cannot be reached: {str(error).rstrip('.')}", None


def _hung_up(error: Exception, cause: BaseException) -> bool:
    return isinstance(cause, ConnectionResetError | BrokenPipeError) or "closed by server" in str(error)


def _cause(error: BaseException) -> BaseException:
    """The operating system's error behind a client library's; `error` itself if there is none."""
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            break
        if isinstance(seen, OSError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error
