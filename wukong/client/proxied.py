"""The client's fan-out proxy: one that runs already, or one that the client starts and stops when it closes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from wukong.core.payload import Address, Relayed
from wukong.errors import ConfigError
from wukong.proxy.beside import ProxyBeside
from wukong.proxy.client import Proxy

_LOCAL = "local"


class Proxied:
    """A `ProxyPort`, and the address at which executors find the same proxy.

    Attributes:
        address: for an `Envelope`. The key is not in it; functions have it in their environment.
    """

    def __init__(self, proxy: Proxy, place: str) -> None:
        self._proxy = proxy
        self.address: Address = (f"{Proxy.__module__}:{Proxy.__name__}", {"address": place})

    def invoke(self, faas: Address, calls: Sequence[tuple[str, bytes]]) -> Relayed:
        """See `wukong.core.payload.ProxyPort`."""
        return self._proxy.invoke(faas, calls)


@contextmanager
def proxied(setting: str, key: bytes) -> Iterator[Proxied]:
    """Open what the setting `proxy` names: ``host:port``; ``local`` or ``local:port`` starts one beside the client."""
    with ExitStack() as opened:
        place = setting
        name, colon, port = setting.partition(":")
        if name == _LOCAL:
            if colon and not (port.isdecimal() and int(port) < 65_536):
                raise ConfigError(f"'proxy' is {setting!r}; a port is a number up to 65535", hint='proxy="local:8989"')
            beside = ProxyBeside(key, port=int(port or 0))
            opened.callback(beside.close)
            place = beside.address
        proxy = Proxy(place, key=key)
        opened.callback(proxy.close)
        yield Proxied(proxy, place)
