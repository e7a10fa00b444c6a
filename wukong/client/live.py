"""A client's dashboard, made when somebody first asks for it; all clients of this process may be asked at once.

This costs next to nothing while nobody asks: the server and the page are imported then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wukong.client.feed import Feed

if TYPE_CHECKING:
    from wukong.client.dashboard import Dashboard


class Live:
    """See the module's docstring. It must not refer to the client, whose end it sees.

    Args:
        client: the client's id.
        address: where the dashboard is to be: ``host:port``.

    Attributes:
        feed: what the dashboard tells.
    """

    def __init__(self, client: str, address: str) -> None:
        self.feed = Feed(client)
        self._address = address
        self._dashboard: Dashboard | None = None
        self._lock = threading.Lock()
        if _everywhere is not None:
            _everywhere.feeds.append(self.feed)
            self.feed.keeps = _everywhere.keep
            if _everywhere.greet is not None:
                _everywhere.greet(self.dashboard().link)

    @property
    def link(self) -> str | None:
        """Where the dashboard is; None: nobody has asked for one, or it has ended."""
        return None if self._dashboard is None or self._dashboard.closed else self._dashboard.link

    def dashboard(self) -> Dashboard:
        """Return the dashboard, which serves from now on."""
        from wukong.client.dashboard import Dashboard

        with self._lock:
            if self._dashboard is None:
                self._dashboard = Dashboard(self.feed, self._address)
            return self._dashboard

    def close(self) -> None:
        """End the dashboard, if there is one."""
        if self._dashboard is not None:
            self._dashboard.close()


@dataclass(slots=True)
class _Everywhere:
    greet: Callable[[str], None] | None
    keep: bool
    feeds: list[Feed] = field(default_factory=list)


_everywhere: _Everywhere | None = None


@contextmanager
def everywhere(greet: Callable[[str], None] | None = None, *, keep: bool = False) -> Iterator[list[Feed]]:
    """Yield the feeds of all clients that this process makes meanwhile; they are added as clients are made.

    `greet`: open each client's dashboard at once, and call this with its link. `keep`: make and keep the page of every
    job.
    """
    global _everywhere
    _everywhere = _Everywhere(greet, keep)
    try:
        yield _everywhere.feeds
    finally:
        _everywhere = None
