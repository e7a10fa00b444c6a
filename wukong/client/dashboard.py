"""The dashboard of a client: the report's page, live, on this machine only, from the standard library.

    GET /TOKEN/      the page
    GET /TOKEN/data  what it shows, as JSON (`wukong.client.feed`); ?job= which job, ?seen= what is known already

Whoever does not know the token gets nothing, not even what program answers. A name that somebody else has made lead to
this machine (DNS rebinding) is refused: addresses, ``localhost`` and the name that was told are not. In a forked child
the dashboard is its parent's.
"""

from __future__ import annotations

import http.server
import os
import secrets
import socket
import socketserver
import threading
import time
import weakref
from hmac import compare_digest
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qs, urlsplit

from wukong.client.feed import Feed
from wukong.client.notebook import anchor
from wukong.core.interrupts import start_thread
from wukong.errors import ConfigError
from wukong.options import address_of

_AT_ONCE = 32
_TIMEOUT_S = 10.0
_NO_ROOM_S = 0.1
_TOKEN_BYTES = 16
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_EVERYWHERE = ("0.0.0.0", "::")


class Dashboard:
    """A client's dashboard; see `wukong.Client.dashboard`. It serves until the client closes.

    Args:
        feed: what it tells.
        address: where: ``host:port``; port 0: any that is free.

    Attributes:
        link: its address, with the token that opens it. Whoever has it can see the client's jobs.
        closed: it serves no more.
    """

    def __init__(self, feed: Feed, address: str) -> None:
        host, port = address_of("dashboard_address", address)
        self._feed = feed
        self._token = secrets.token_urlsafe(_TOKEN_BYTES)
        try:
            self._server = _Server((host, port), self)
        except OSError as error:
            hint = "set another dashboard_address; port 0 is any that is free"
            raise ConfigError(f"the dashboard cannot listen on {address}: {error}", hint=hint) from error
        name = socket.gethostname() if host in _EVERYWHERE else host
        self._names = {name.lower(), "localhost"}
        shown = f"[{name}]" if ":" in name else name
        self.link = f"http://{shown}:{self._server.server_address[1]}/{self._token}/"
        self.closed = False
        feed.open = True
        self._thread = threading.Thread(target=self._serve, name="wukong-dashboard", daemon=True)
        start_thread(self._thread)
        _open.add(self)

    def _serve(self) -> None:
        while not self.closed:
            self._server.handle_request()
        self._server.server_close()

    def close(self) -> None:
        """Tell whoever looks that this is the end, and end. Closing twice is no error."""
        if self.closed:
            return
        self._feed.end()
        self._feed.open = False
        self.closed = True
        family, address = self._server.address_family, self._server.socket.getsockname()
        with socket.socket(family) as wake:
            wake.settimeout(1.0)
            here = "::1" if family == socket.AF_INET6 else "127.0.0.1"
            wake.connect_ex((here, *address[1:]) if address[0] in _EVERYWHERE else address)
        self._thread.join(1.0)

    def leave(self) -> None:
        """Let go of what a forked child has inherited."""
        self.closed = True
        self._server.socket.close()

    def answer(self, host: str, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Return status, content type and content for a request for `path`, sent to `host`."""
        if not self._is_me(host):
            return HTTPStatus.FORBIDDEN, "text/plain", b"not here\n"
        url = urlsplit(path)
        token, _, what = url.path.removeprefix("/").partition("/")
        if not compare_digest(token.encode(), self._token.encode()) or what not in ("", "data"):
            return HTTPStatus.NOT_FOUND, "text/plain", b"there is nothing here\n"
        if what == "data":
            asked = parse_qs(url.query)
            job, seen = (asked.get(name, [""])[0] for name in ("job", "seen"))
            return HTTPStatus.OK, "application/json", self._feed.answer(job, seen)
        from wukong.report.page import live_page

        return HTTPStatus.OK, "text/html; charset=utf-8", live_page(self._feed.client).encode()

    def _is_me(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._names:
                return True
            ip_address(name)
        except ValueError:
            return False
        return True

    def __repr__(self) -> str:
        return f"<wukong dashboard {self.link}>"

    def __str__(self) -> str:
        return self.link

    def _repr_html_(self) -> str:
        return anchor(self.link)


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], dashboard: Dashboard) -> None:
        self.dashboard = weakref.ref(dashboard)
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # not HTTPServer's, which asks the network for names

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError:
            time.sleep(_NO_ROOM_S)  # there are no file descriptors left, and the call would be the next one at once
            raise

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a page that was closed hears no answer."""


class _Handler(http.server.BaseHTTPRequestHandler):
    timeout = _TIMEOUT_S
    server: _Server

    def do_GET(self) -> None:
        dashboard = self.server.dashboard()
        if dashboard is None:
            return
        status, kind, content = dashboard.answer(self.headers.get("Host", ""), self.path)
        self.send_response_only(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **_HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no request that is understood."""
        self.send_response_only(code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the token is in every line."""


_open: weakref.WeakSet[Dashboard] = weakref.WeakSet()


def _in_child() -> None:
    for each in list(_open):
        each.leave()


os.register_at_fork(after_in_child=_in_child)
