"""Slow links in front of fast servers: a process for each that forwards TCP with a scripted bandwidth and latency.

    with Links([server.endpoint for server in servers], bandwidth_mb_s=25, latency_ms=1) as links:
        links.endpoints     where the servers are now

A link is one wire each way, shared by all connections: what is read from a sender leaves at the link's rate once all
before it has left, and arrives a latency later. Each connection may have a limited number of bytes on the wire, so that
a sender sees the link as it would see a slow peer, and connections that send at once get equal shares.

Run as a script it is one link; it ends when its standard input does:

    python factors_links.py 127.0.0.1:6379 --bandwidth-mb-s 25 --there-ms 0.5 --back-ms 0.5
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import select
import selectors
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

_READ_BYTES = 65_536
_WINDOW_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class Carried:
    """What a link has carried: bytes to the server, bytes back, and for how long it was full in either direction."""

    there_bytes: int = 0
    back_bytes: int = 0
    full_s: float = 0.0

    def __sub__(self, other: Carried) -> Carried:
        return Carried(
            self.there_bytes - other.there_bytes, self.back_bytes - other.back_bytes, self.full_s - other.full_s
        )


class Links:
    """One link process for each of these servers. Use as a context manager.

    Args:
        targets: addresses, ``host:port``.
        bandwidth_mb_s: of each link, each way, in units of 10**6 bytes; 0: no limit.
        there_ms, back_ms: how long bytes are on the way to the server, and back.
    """

    def __init__(self, targets: Sequence[str], bandwidth_mb_s: float, there_ms: float, back_ms: float) -> None:
        self._targets = targets
        self._options = [f"--bandwidth-mb-s={bandwidth_mb_s}", f"--there-ms={there_ms}", f"--back-ms={back_ms}"]
        self._processes: list[subprocess.Popen[str]] = []
        self.endpoints: list[str] = []

    def __enter__(self) -> Links:
        try:
            for target in self._targets:
                command = [sys.executable, __file__, target, *self._options]
                pipe = subprocess.PIPE
                self._processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
            for process in self._processes:
                assert process.stdout is not None
                port = process.stdout.readline().strip()
                if not port:
                    raise RuntimeError("a link did not start; its output says why")
                self.endpoints.append(f"127.0.0.1:{port}")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def carried(self) -> list[Carried]:
        """Return what each link has carried so far."""
        found = []
        for process in self._processes:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            found.append(Carried(**json.loads(process.stdout.readline())))
        return found

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in self._processes:
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


class Wire:
    """One way of a link: when what was read now leaves, and when it arrives.

    Args:
        bytes_per_s: its rate; 0: none.
        latency_s: how long it takes besides.
    """

    def __init__(self, bytes_per_s: float, latency_s: float) -> None:
        self._s_per_byte = 1 / bytes_per_s if bytes_per_s else 0.0
        self._latency_s = latency_s
        self._free_s = 0.0
        self.carried_bytes = 0
        self.due: deque[tuple[float, End, bytes]] = deque()

    def take(self, data: bytes, to: End, now_s: float) -> float:
        """Put bytes on the wire, none for the end of what a peer sends; return when they will have left."""
        self._free_s = max(self._free_s, now_s) + len(data) * self._s_per_byte
        self.carried_bytes += len(data)
        self.due.append((self._free_s + self._latency_s, to, data))
        return self._free_s


@dataclass(eq=False, slots=True)
class End:
    """One socket of a forwarded connection.

    Attributes:
        wire: what it reads goes onto this one. peer: the other socket.
        under_way: bytes read here that have not been written there.
        unwritten: bytes that have arrived and that the socket did not take yet.
        reads: it is read from. ended: its peer has sent its last.
    """

    socket: socket.socket
    wire: Wire
    peer: Any = None
    under_way: int = 0
    unwritten: deque[memoryview] = field(default_factory=deque)
    reads: bool = True
    ended: bool = False
    mask: int = 0


class Link:
    """The forwarding of one process.

    Args:
        target: the server. bytes_per_s: of each way. there_s, back_s: latencies.
    """

    def __init__(self, target: tuple[str, int], bytes_per_s: float, there_s: float, back_s: float) -> None:
        self._target = target
        self.there, self.back = Wire(bytes_per_s, there_s), Wire(bytes_per_s, back_s)
        self._full_s = self._full_until_s = 0.0
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4_096)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self.port: int = self._listener.getsockname()[1]

    def serve(self, orders: Any, answers: Any) -> None:
        """Forward until `orders` ends; answer each of its lines with the bytes carried each way."""
        self._selector.register(orders, selectors.EVENT_READ)
        # A selector that is a descriptor itself can be waited for with microseconds; its own waiting counts in
        # milliseconds, which is as long as the latencies here.
        waiting = [self._selector.fileno()]  # type: ignore[attr-defined]
        while True:
            now_s = time.monotonic()
            self._arrive(now_s)
            due_s = [wire.due[0][0] for wire in (self.there, self.back) if wire.due]
            select.select(waiting, (), (), max(0.0, min(due_s) - now_s) if due_s else None)
            for key, events in self._selector.select(0):
                if key.fileobj is orders:
                    if not orders.readline():
                        return
                    answers.write(json.dumps(asdict(self._carried())) + "\n")
                    answers.flush()
                elif key.fileobj is self._listener:
                    self._accept()
                else:
                    if events & selectors.EVENT_WRITE:
                        self._write(key.data)
                    if events & selectors.EVENT_READ:
                        self._read(key.data)

    def _carried(self) -> Carried:
        return Carried(self.there.carried_bytes, self.back.carried_bytes, self._full_s)

    def _accept(self) -> None:
        try:
            near, _ = self._listener.accept()
        except BlockingIOError:
            return
        far = socket.create_connection(self._target)
        for each in (near, far):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client, server = End(near, self.there), End(far, self.back)
        client.peer, server.peer = server, client
        self._watch(client)
        self._watch(server)

    def _watch(self, end: End) -> None:
        """Have the selector look for what this socket is to do now."""
        reads = end.reads and end.under_way < _WINDOW_BYTES
        mask = (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if end.unwritten else 0)
        if mask == end.mask:
            return
        if not end.mask:
            self._selector.register(end.socket, mask, end)
        elif not mask:
            self._selector.unregister(end.socket)
        else:
            self._selector.modify(end.socket, mask, end)
        end.mask = mask

    def _read(self, end: End) -> None:
        try:
            data = end.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        now_s = time.monotonic()
        free_s = end.wire.take(data, end.peer, now_s)
        self._full_s += max(0.0, free_s - max(now_s, self._full_until_s))
        self._full_until_s = max(free_s, self._full_until_s)
        end.under_way += len(data)
        end.reads = bool(data)
        self._watch(end)

    def _arrive(self, now_s: float) -> None:
        for wire in (self.there, self.back):
            while wire.due and wire.due[0][0] <= now_s:
                _, end, data = wire.due.popleft()
                if data:
                    end.unwritten.append(memoryview(data))
                else:
                    end.ended = True
                self._write(end)

    def _write(self, end: End) -> None:
        written = 0
        try:
            while end.unwritten:
                n = end.socket.send(end.unwritten[0])
                written += n
                if n == len(end.unwritten[0]):
                    end.unwritten.popleft()
                else:
                    end.unwritten[0] = end.unwritten[0][n:]
        except BlockingIOError:
            pass
        except OSError:  # whoever was to get it is gone
            written += sum(map(len, end.unwritten))
            end.unwritten.clear()
        end.peer.under_way -= written
        self._watch(end.peer)
        self._watch(end)
        if end.ended and not end.unwritten:
            self._end(end)

    def _end(self, end: End) -> None:
        """Its peer has sent all: say so, and close both once neither sends any more."""
        try:
            end.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno not in (errno.ENOTCONN, errno.EBADF):
                raise
        if end.peer.ended and not end.peer.unwritten:
            for each in (end, end.peer):
                each.reads = False
                self._watch(each)
                each.socket.close()


def main() -> None:
    """Be one link."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target")
    parser.add_argument("--bandwidth-mb-s", type=float, default=25.0)
    parser.add_argument("--there-ms", type=float, default=0.5)
    parser.add_argument("--back-ms", type=float, default=0.5)
    args = parser.parse_args()
    host, _, port = args.target.rpartition(":")
    link = Link((host, int(port)), args.bandwidth_mb_s * 1e6, args.there_ms / 1e3, args.back_ms / 1e3)
    print(link.port, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        link.serve(sys.stdin, sys.stdout)


if __name__ == "__main__":
    main()
