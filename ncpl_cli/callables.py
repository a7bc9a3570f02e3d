"""Things of the user's own, named as `module:callable`, and what goes wrong in them said with their file and line."""

from __future__ import annotations

import importlib
import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ncpl_cli.errors import InputError, NcplError


class OwnCodeFailed(NcplError):
    """What the user's code raised; exit code 1, as for any work that failed."""


def load_object(path: str) -> Callable[..., Any]:
    """The callable that `module:callable` names, looked for from the current directory on; raises InputError."""
    module_name, _, name = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise InputError(f"{path} cannot be imported: {said(error)}.", "write it as module:callable") from error
    for part in name.split("."):
        if not hasattr(found, part):
            near = ", ".join(n for n, value in vars(found).items() if callable(value) and not n.startswith("_"))
            raise InputError(
                f"{path} cannot be imported: {module_name} has no {part!r}.",
                f"it has: {near}" if near else "write it as module:callable",
            )
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{path} is not callable: it is a {type(found).__name__}.", "write it as module:callable")
    return found  # type: ignore[no-any-return]


def call(path: str, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What the user's `function`, named `path`, returns.

    Raises InputError where it does not take what it is given, OwnCodeFailed with its file and line where it raises.
    """
    try:
        inspect.signature(function).bind(*given, **named)
    except ValueError:
        pass  # written in C: no signature to be had
    except TypeError as error:
        arguments = ", ".join([*(type(one).__name__ for one in given), *(f"{key}=" for key in named)])
        raise InputError(f"{path} cannot be called with ({arguments}): {error}.") from error
    with blamed(path):
        return function(*given, **named)


@contextmanager
def blamed(path: str) -> Iterator[None]:
    """Whatever the user's code, named `path`, raises becomes a sentence with its message, file and line."""
    try:
        yield
    except NcplError:
        raise
    except (Exception, SystemExit) as error:
        raise OwnCodeFailed(f"{path} failed: {said(error)}.", "--debug shows the whole traceback") from error


def where(error: BaseException) -> str | None:
    """`file, line N` of the last line of the user's own that led to an error; None where there is none.

    The user's own is what ncpl has called and belongs neither to it nor to Python nor to an installed package.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    ours = Path(__file__).parent
    foreign = [ours, *{Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")}]
    called = found = None
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        called = called or file.is_relative_to(ours)
        if called and not frame.filename.startswith("<") and not any(file.is_relative_to(root) for root in foreign):
            found = f"{file}, line {frame.lineno}"
    return found


def said(error: BaseException) -> str:
    """An error in one line: its kind, its message, and where in the user's own code it arose."""
    text = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())
    at = f" ({place})" if (place := where(error)) else ""
    return f"{type(error).__name__}: {text}".rstrip(".: ") + at
