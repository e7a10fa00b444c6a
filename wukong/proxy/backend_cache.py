"""Which FaaS backends a proxy opens, and those that it has open."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from importlib.metadata import entry_points

from wukong.backends.faas import FaaS
from wukong.backends.faas.checked import CheckedFaaS
from wukong.backends.spec import PluginSpec
from wukong.core.payload import Address

__all__ = ["BackendCache", "admitted"]

_MOST_OPEN = 16

logger = logging.getLogger(__name__)


def admitted() -> frozenset[str]:
    """Return the targets that may be opened for others: those of the installed plug-ins whose platform is elsewhere.

    A target comes over the network, and opening one is a call of a function by name. So only a target that an installed
    plug-in (an entry point in ``wukong.faas``) names is opened: its `FaaS.opens_at`, or else, if its functions are
    deployed beforehand, its class. A class that makes a platform of its own is never opened: it may take the name of
    any function as an option.
    """
    targets = set()
    for entry_point in entry_points(group="wukong.faas"):
        try:
            cls = entry_point.load()
            if cls.opens_at is not None:
                targets.add(cls.opens_at)
            elif not cls.configurable:
                targets.add(entry_point.value)
        except Exception as error:  # whatever is wrong with one plug-in, the others can be used
            logger.warning("the faas plug-in %r cannot be used: %s", entry_point.name, error)
    return frozenset(targets)


class BackendCache:
    """Open backends by address, kept for the next message. Each thread has its own.

    A plug-in keeps as many connections as one thread uses at once; if several threads shared it, it would open most of
    them anew for each message.
    """

    def __init__(self) -> None:
        self._opened: OrderedDict[str, FaaS] = OrderedDict()

    def get(self, address: Address) -> FaaS:
        """Return the backend at an address that is admitted; the one used least recently makes room for a new one."""
        target, options = address
        name = _name(address)
        faas = self._opened.get(name)
        if faas is None:
            while len(self._opened) >= _MOST_OPEN:
                self._opened.popitem(last=False)[1].close()
            faas = self._opened[name] = CheckedFaaS(PluginSpec(target, options).open())
        self._opened.move_to_end(name)
        return faas

    def drop(self, address: Address) -> None:
        """Close the backend at an address: its platform may be gone. Next time it is opened anew."""
        faas = self._opened.pop(_name(address), None)
        if faas is not None:
            faas.close()

    def close(self) -> None:
        """Close all."""
        while self._opened:
            self._opened.popitem()[1].close()


def _name(address: Address) -> str:
    target, options = address
    return json.dumps([target, dict(options)], sort_keys=True)
