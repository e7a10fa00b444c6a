"""A worker process of the proxy: it reads pieces from its parent, makes them in a few threads, and answers each.

Parent and worker are one program on one machine, joined by a pair of sockets. A message is the sizes of header and
body, the header (JSON, with the piece's number), the body. If the parent hangs up, in whatever way, the worker ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock
from typing import Any, NoReturn

from wukong.proxy import protocol
from wukong.proxy.invoker import InvokerThreads

__all__ = ["HEAD", "framed"]

HEAD = struct.Struct(">QQ")


def framed(header: Mapping[str, Any], body: Sequence[bytes] = ()) -> bytes:
    """Return a message between parent and worker."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([HEAD.pack(len(text), sum(map(len, body))), text, *body])


def main(descriptor: int, threads: int) -> NoReturn:
    """Be a worker, to the end of this process."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent handles them, and lets its workers finish
        signal.signal(number, signal.SIG_IGN)
    parent = socket.socket(fileno=descriptor)
    lock, invokers = Lock(), InvokerThreads(threads)

    def serve(header: dict[str, Any], body: bytes) -> None:
        try:
            faas, calls = protocol.read_invoke(header, body)
            answer = framed({"id": header["id"], **protocol.made(invokers.make(faas, calls))})
            with lock:
                parent.sendall(answer)
        except OSError:
            os._exit(0)  # the parent is gone
        except Exception:
            traceback.print_exc()
            os._exit(1)  # the parent sees that, refuses what was under way, and starts another

    with suppress(OSError), parent.makefile("rb") as stream:  # an error means as well that the parent has ended
        while len(head := stream.read(HEAD.size)) == HEAD.size:
            text_bytes, body_bytes = HEAD.unpack(head)
            text, body = stream.read(text_bytes), stream.read(body_bytes)
            if len(body) < body_bytes or len(text) < text_bytes:
                break
            invokers.pool.submit(serve, json.loads(text), body)
    os._exit(0)  # nobody waits for what is still being made


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
