"""Plug-ins of both families, found and loaded by name (`wukong.backends.loading`)."""

from wukong.backends.faas.loading import load_faas
from wukong.backends.loading import FAMILIES, Family, Plugin, installed, named, names
from wukong.backends.storage.loading import load_storage, visit_storage

__all__ = ["FAMILIES", "Family", "Plugin", "installed", "load_faas", "load_storage", "named", "names", "visit_storage"]
