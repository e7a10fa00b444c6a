"""What the tests of the fan-out proxy share: one in this process, a platform behind it, and peers that break rules."""

import asyncio
import json
import os
import socket
import struct
import threading
from base64 import b64decode
from collections import Counter
from contextlib import contextmanager

from aws_lambda_server import ACCEPTED, REGION, Server
from waiting import GIVE_UP_S

from wukong.proxy import protocol
from wukong.proxy.client import place
from wukong.proxy.limits import ProxyLimits
from wukong.proxy.service import ProxyService

KEY = bytes(range(32))
LAMBDA = "wukong.backends.faas.aws_lambda:AwsLambda"


class Platform(Server):
    """What stands in for AWS Lambda behind the real plug-in. See `aws_lambda_server.Server`."""

    def address(self, **options):
        """Return how a message names it."""
        known = {"region": REGION, "time_s": 60.0, "memory_bytes": 2**27, "endpoint_url": self.url, "function": "f"}
        return LAMBDA, {**known, **options}

    def made(self):
        """Return how often each invocation was accepted, by label."""
        with self.lock:
            return Counter(event["id"] for event in self.accepted)

    def payloads(self):
        """Return the payloads that were accepted, by label."""
        with self.lock:
            return {event["id"]: b64decode(event["payload"]) for event in self.accepted}

    def hold(self, times=1):
        """Answer the next requests only when `release` is set. Return what tells that n have come."""
        arrived = threading.Semaphore(0)

        def answer():
            arrived.release()
            assert self.release.wait(GIVE_UP_S)
            return ACCEPTED

        self.do(answer, times)
        return lambda: all(arrived.acquire(timeout=GIVE_UP_S) for _ in range(times))


class Serving:
    """A proxy in a thread of this process.

    Attributes:
        service: it. loop: where it runs. address: where it listens.
    """

    def __init__(self, workers=1, **limits):
        self._ready, self._over = threading.Event(), None
        self._arguments = {"workers": workers, "limits": ProxyLimits(**limits)}
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self):
        self.loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self.service = ProxyService(KEY, **self._arguments)
        await self.service.open()
        self.address = self.service.address
        self._ready.set()
        await self._over.wait()
        await self.service.end()

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(GIVE_UP_S)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(GIVE_UP_S)
        assert not self._thread.is_alive()

    def stop(self):
        """Begin to stop it in good order; return the future of that."""
        return asyncio.run_coroutine_threadsafe(self.service.stop(), self.loop)

    @property
    def counters(self):
        """What it has counted."""
        return self.service.counters


class Peer:
    """A sender that says what it is told to, byte by byte.

    Attributes:
        told: what the proxy greeted with.
    """

    def __init__(self, address, *, key=KEY, version=protocol.VERSION, auth=True, timeout_s=GIVE_UP_S):
        self.socket = socket.create_connection(place(address), timeout_s)
        said = protocol.hello(os.urandom(16), version)
        self.socket.sendall(said)
        start = self.receive(protocol.HELLO.size)
        self.version, _ = protocol.read_hello(start)
        size, proof = protocol.ANSWER.unpack(self.receive(protocol.ANSWER.size))
        text = self.receive(size)
        self.told = json.loads(text)
        self.talk = protocol.Talk(protocol.read_answer(key, said, start, proof, text)[0], b">")
        if auth:
            self.say({"type": "auth"})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def frame(self, header, body=()):
        """Return a frame as one piece."""
        return b"".join(self.talk.frame(header, body))

    def say(self, header, body=()):
        self.socket.sendall(self.frame(header, body))

    def invoke(self, faas, calls):
        self.say(protocol.invoke(faas, calls), [payload for _, payload in calls])

    def receive(self, size):
        found = b""
        while len(found) < size:
            piece = self.socket.recv(size - len(found))
            if not piece:
                raise EOFError(found)
            found += piece
        return found

    def hear(self):
        """Return the next frame's header; EOFError: it has hung up."""
        try:
            text_bytes, body_bytes, digest = protocol.HEAD.unpack(self.receive(protocol.HEAD.size))
            return self.talk.read(digest, self.receive(text_bytes), self.receive(body_bytes))
        except ConnectionResetError:
            raise EOFError from None

    def made(self, n_calls):
        """Return the answer to a message: for each invocation None, or why it was refused."""
        return protocol.read_made(self.hear(), n_calls)

    def hung_up(self):
        """Whether the proxy says nothing more, and closes the connection."""
        return hung_up(self.socket)


def hung_up(connection):
    """Whether the other side says nothing, and closes the connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@contextmanager
def impostor(*acts):
    """A server which is not a proxy: each act is called with one connection, in turn; yields address and counter."""
    listener = socket.create_server(("127.0.0.1", 0))
    taken = []

    def serve():
        for act in acts:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            taken.append(connection)
            with connection:
                connection.settimeout(GIVE_UP_S)
                try:
                    act(connection)
                except OSError:
                    continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}", taken
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(GIVE_UP_S)


def proxy_side(connection, key=KEY, **announced):
    """Greet a sender as a proxy does; return the conversation's frames, and the function that reads the next."""
    stream = connection.makefile("rb")
    heard = stream.read(protocol.HELLO.size)
    told = {**ProxyLimits().announced().plain(), **announced}
    greeting, conversation = protocol.answer(key, heard, os.urandom(16), told)
    connection.sendall(greeting)
    talk = protocol.Talk(conversation, b"<")

    def hear():
        text_bytes, body_bytes, digest = protocol.HEAD.unpack(stream.read(protocol.HEAD.size))
        return talk.read(digest, stream.read(text_bytes), stream.read(body_bytes))

    assert hear() == {"type": "auth"}
    return talk, hear


def calls(count, prefix="job/0", size=100):
    """Return n calls."""
    return [(f"{prefix}.{number}", struct.pack(">I", number) * (size // 4)) for number in range(count)]


def labels(made):
    """Return the labels of calls."""
    return frozenset(label for label, _ in made)
