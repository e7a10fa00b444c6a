"""A small HTTP server that answers as AWS Lambda's Invoke API does, or as a test tells it to.

    with Server() as server:
        server.say(429, "TooManyRequestsException", {"Retry-After": "0"})   # to the next request; then 202 again

Signatures are verified by botocore. What boto3 asks (configurations, synchronous invocations) has answers of its own.
"""

import json
import os
import re
import threading
import time
from collections import deque
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

ACCESS, SECRET, REGION = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "us-east-1"
ACCEPTED = (202, {}, b"")
THROTTLED = (429, {"x-amzn-ErrorType": "TooManyRequestsException", "Retry-After": "60"}, b"{}")


def log_in(monkeypatch, folder):
    """Make the environment that of somebody who is logged in, and nothing else of this machine's AWS configuration."""
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "aws-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "aws-credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


class Server:
    """Answers `script` in turn, each to one asynchronous invocation, and 202 when nothing is left of it.

    Attributes:
        accepted: the bodies of the events that were answered 202.
        paths: of all asynchronous requests.
        configurations: by function, what GetFunctionConfiguration says; without one it is not found.
        describes: what a synchronous invocation answers; of a list, in turn.
        denied: functions whose configuration may not be read. throttled: so often that is refused for its rate.
        secrets: what Secrets Manager has, by ARN. asked: what boto3 asked, in order.
        ahead_s: how far this server's clock is ahead.
        full: functions that throttle, for a minute each time.
        token: the session token that requests have to carry.
        connections: opened so far.
    """

    def __init__(self, tls=None):
        self.script = deque()
        self.accepted, self.paths, self.configurations, self.asked = [], [], {}, []
        self.describes = {}
        self.denied = set()
        self.full = set()
        self.secrets = {}
        self.throttled = 0
        self.ahead_s, self.token, self.connections = 0.0, None, 0
        self.lock = threading.Lock()
        self.release, self.stalled = threading.Event(), 0
        self.http = _HTTP(("127.0.0.1", 0), _Handler)
        self.http.lambda_ = self
        scheme = "http"
        if tls is not None:
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://localhost:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.release.set()
        self.http.shutdown()
        self.http.server_close()

    def say(self, status, code="", headers=None, message="said by the test", times=1, **more):
        """Answer the next requests with an error."""
        body = json.dumps({"Type": "User", "message": message, **more}).encode()
        self.script.extend(
            [(status, {"x-amzn-ErrorType": f"{code}:http://internal/", **(headers or {})}, body)] * times
        )

    def do(self, what, times=1):
        """Instead of answering: ``hang up``, ``stall``, ``close after`` or ``half``."""
        self.script.extend([what] * times)


class _HTTP(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request, client_address):
        """A client that hangs up in the middle is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        with self.server.lambda_.lock:
            self.server.lambda_.connections += 1

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server.lambda_
        function = unquote(re.fullmatch(r"/2015-03-31/functions/([^/]+)/configuration", urlsplit(self.path).path)[1])
        server.asked.append(("configuration", function))
        if server.throttled:
            server.throttled -= 1
            self._error(429, "TooManyRequestsException", "Rate exceeded")
        elif function in server.denied:
            self._error(403, "AccessDeniedException", "not authorized to perform: lambda:GetFunctionConfiguration")
        elif function not in server.configurations:
            self._error(404, "ResourceNotFoundException", f"Function not found: {function}")
        else:
            self._answer(200, {}, json.dumps(server.configurations[function]).encode())

    def do_POST(self):
        server = self.server.lambda_
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "X-Amz-Target" in self.headers:
            secret = json.loads(body)["SecretId"]
            server.asked.append(("secret", secret))
            if secret not in server.secrets:
                self._error(400, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
            else:
                self._answer(200, {}, json.dumps({"SecretString": server.secrets[secret]}).encode())
            return
        if (refusal := self._refusal(body)) is not None:
            self._error(403, "InvalidSignatureException", refusal)
            return
        if self.headers["X-Amz-Invocation-Type"] == "RequestResponse":
            server.asked.append(("describe", json.loads(body)))
            told = server.describes.pop(0) if isinstance(server.describes, list) else server.describes
            if isinstance(told, tuple):
                self._answer(*told)
            else:
                self._answer(200, {}, json.dumps(told).encode())
            return
        with server.lock:
            server.paths.append(self.path)
            if self.path.split("/")[3] in server.full:
                answer = THROTTLED
            else:
                answer = server.script.popleft() if server.script else ACCEPTED
        if callable(answer):
            answer = answer()
        if answer == "hang up":
            self.close_connection = True
            return
        if answer == "stall":
            with server.lock:
                server.stalled += 1
            server.release.wait(60)
            with server.lock:
                server.stalled -= 1
            self.close_connection = True
            return
        if answer == "half":
            self.wfile.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 10\r\n\r\nhalf")
            self.close_connection = True
            return
        if answer == "close after":
            self.close_connection = True
            answer = (202, {"Connection": "close"}, b"")
        elif answer == "close unsaid":
            self.close_connection = True
            answer = ACCEPTED
        if 200 <= answer[0] < 300:
            with server.lock:
                server.accepted.append(json.loads(body))
        self._answer(*answer)

    def _refusal(self, body):
        """Why the signature is refused, by botocore's own reckoning; None: it is right."""
        server, given = self.server.lambda_, self.headers
        stamp = given["X-Amz-Date"]
        made_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if abs(made_at - time.time() - server.ahead_s) > 300:
            return f"Signature expired: {stamp} is now earlier than it should be"
        if server.token is not None and given["X-Amz-Security-Token"] != server.token:
            return "The security token included in the request is wrong"
        names = re.search(r"SignedHeaders=([^,]*)", given["Authorization"])[1].split(";")
        request = AWSRequest("POST", f"{server.url}{self.path}", {name: given[name] for name in names}, body)
        request.context["timestamp"] = stamp
        signer = SigV4Auth(Credentials(ACCESS, SECRET, server.token), "lambda", REGION)
        text = signer.string_to_sign(request, signer.canonical_request(request))
        expected = signer._inject_signature_to_request(request, signer.signature(text, request))
        if expected.headers["Authorization"] != given["Authorization"]:
            return "The request signature we calculated does not match the signature you provided."
        return None

    def _error(self, status, code, message):
        body = json.dumps({"Type": "User", "message": message, "__type": code}).encode()
        self._answer(status, {"x-amzn-ErrorType": code}, body)

    def _answer(self, status, headers, body):
        self.send_response_only(status)
        headers = {"Date": formatdate(time.time() + self.server.lambda_.ahead_s, usegmt=True), **headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
