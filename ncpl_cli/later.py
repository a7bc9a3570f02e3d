"""Modules that load when they are first used, so that a command line is read and refused before torch is there."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    def __getattr__(self, name: str) -> Any:
        found = importlib.import_module(self.__name__)
        self.__dict__.update(found.__dict__)  # from now on an attribute costs what it always costs
        return getattr(found, name)


def later(name: str) -> Any:
    """The module of this name, to be loaded at its first use; in an `else` of `if TYPE_CHECKING`, for the types."""
    return _Later(name)
