"""What botocore and moto would read and work out anew for each session and each request is kept for the whole process.

To make a client takes ten times as long otherwise, most of it to look for descriptions of services in hundreds of
folders. None of it depends on a test.
"""

from functools import cache
from types import SimpleNamespace
from typing import Any

from botocore import hooks
from botocore.loaders import Loader


def share_descriptions() -> None:
    """Have all loaders that look in the same places share what they find, and all sessions how events are called."""
    made, found = Loader.__init__, {}
    aliasing, names = hooks.EventAliaser.__init__, {}

    def init_aliaser(self: hooks.EventAliaser, *arguments: Any, **named: Any) -> None:
        aliasing(self, *arguments, **named)
        if self._event_aliases == hooks.EVENT_ALIASES:
            self._alias_name_cache = names

    def init(self: Loader, *arguments: Any, **named: Any) -> None:
        made(self, *arguments, **named)
        self._cache = found.setdefault((type(self), *self.search_paths), {})

    Loader.__init__ = init
    hooks.EventAliaser.__init__ = init_aliaser
    hooks.accepts_kwargs = cache(hooks.accepts_kwargs)


@cache
def hasten_moto() -> None:
    """List moto's services once, not for every request."""
    from moto import backends

    services = list(backends.list_of_moto_modules())
    backends.list_of_moto_modules = lambda: services


def hasten_templates() -> None:
    """Have moto's CloudFormation parse templates by libyaml."""
    import yaml
    from moto.cloudformation import models, responses
    from moto.cloudformation.utils import yaml_tag_constructor

    if hasattr(yaml, "CLoader"):

        class FastLoader(yaml.CLoader):
            pass

        yaml.add_multi_constructor("", yaml_tag_constructor, FastLoader)
        models.yaml = responses.yaml = SimpleNamespace(**{**vars(yaml), "Loader": FastLoader})
