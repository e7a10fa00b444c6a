"""The proxy's answers to plain HTTP, on the same port: is it well, and what has it done. No secrets, so no key."""

from __future__ import annotations

import http
import json
from collections.abc import Mapping

__all__ = ["METHODS", "MOST_BYTES", "page", "prometheus"]

METHODS = (b"GET ", b"HEAD")
"""How the requests begin that are understood."""
MOST_BYTES = 8_192
_PREFIX = "wukong_proxy_"


def page(head: bytes, health: str, counters: Mapping[str, float], gauges: Mapping[str, float]) -> bytes:
    """Return the answer to a request.

    Args:
        head: the request, up to the empty line.
        health: ``"ok"``, or why it does not serve.
        counters, gauges: what ``/metrics`` shows.
    """
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if path == b"/healthz":
        status = 200 if health == "ok" else 503
        return _answer(status, "application/json", json.dumps({"status": health}) + "\n", method)
    if path == b"/metrics":
        return _answer(200, "text/plain; version=0.0.4", prometheus(counters, gauges), method)
    return _answer(404, "text/plain", "there is /healthz and /metrics\n", method)


def prometheus(counters: Mapping[str, float], gauges: Mapping[str, float]) -> str:
    """Return counters and gauges in Prometheus' text format."""
    lines = []
    for kind, values in (("counter", counters), ("gauge", gauges)):
        for name, value in values.items():
            full = _PREFIX + name + ("_total" if kind == "counter" else "")
            lines += [f"# TYPE {full} {kind}", f"{full} {value:g}" if isinstance(value, float) else f"{full} {value}"]
    return "\n".join([*lines, ""])


def _answer(status: int, kind: str, text: str, method: bytes) -> bytes:
    body = text.encode()
    head = (
        f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if method == b"HEAD" else body)
