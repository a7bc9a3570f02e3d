"""Things of the user's own, named as `module:callable`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ncpl_cli.errors import InputError


def load_object(path: str) -> Callable[..., Any]:
    """The callable that `module:callable` names, looked for from the current directory on; raises InputError."""
    module_name, _, name = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{path} cannot be imported ({error}).", "write it as module:callable") from error
    if not callable(found):
        raise InputError(f"{path} is not callable.")
    return found  # type: ignore[no-any-return]
