"""Commands whose options are checked as they are read: every parameter of every command passes through values.read.

A parameter says what it may be by Typer's own `min` and `max`, by `parser=Allowed(...)`, by its name in spec.ALLOWED,
or by nothing but its type; flags take no value. So a new option refuses nan, Unicode digits,
nothing and 10^20 without a line of its own.
"""

from __future__ import annotations

import copy
import inspect
import typing
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup
from typer.models import ArgumentInfo, ParameterInfo

from ncpl_cli import values
from ncpl_cli.errors import unknown
from ncpl_cli.spec import ALLOWED
from ncpl_cli.values import Allowed


class Group(TyperGroup):
    """A group whose unknown commands are answered with the known ones."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command; raises InputError that lists the known ones."""
        if (known := super().get_command(ctx, cmd_name)) is None:
            raise unknown(f"command of {ctx.command_path}", cmd_name, self.list_commands(ctx))
        return told(known)


def told(command: Any) -> Any:
    """The command, listed with its whole first paragraph: Typer would cut it off at the line's end."""
    command.short_help = " ".join((command.help or "").split("\n\n")[0].split())
    return command


class App(typer.Typer):
    """A Typer whose commands read their options through values.read."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"add_completion": False, "cls": Group, "rich_markup_mode": None, **given})

    def command(self, *given: Any, **named: Any) -> Callable[[Any], Any]:
        """As Typer's, for a function whose parameters are checked."""
        register = super().command(*given, **named)

        def take(function: Any) -> Any:
            register(checked(function))
            return function

        return take


class Reader:
    """What reads one parameter; `allowed` says what it may be, for completion too."""

    __name__ = "VALUE"

    def __init__(self, allowed: Allowed, said: str) -> None:
        self.allowed, self._said = allowed, said

    def __call__(self, text: str) -> Any:
        """The value; raises InputError that says what is allowed."""
        return values.read(text, self.allowed, self._said)


def checked(function: Any) -> Any:
    """The function with parameters that Typer reads through values.read."""

    def call(**given: Any) -> Any:
        return function(**given)

    hints = typing.get_type_hints(function, include_extras=True)
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=_read(name, hints[name]))
        for name, parameter in inspect.signature(function).parameters.items()
    ]
    call.__name__, call.__doc__ = getattr(function, "__name__", "call"), function.__doc__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def _read(name: str, annotation: Any) -> Any:
    """The annotation with a parser that checks."""
    if typing.get_origin(annotation) is not typing.Annotated:
        return annotation
    hint, *extras = typing.get_args(annotation)
    (info,) = (one for one in extras if isinstance(one, ParameterInfo))
    kind = values.kind_of(hint)
    if kind is bool:
        return annotation
    info, said, allowed = copy.copy(info), said_of(name, info), ALLOWED.get(name, Allowed(kind))
    if isinstance(info.parser, Allowed):
        allowed = info.parser
    elif info.min is not None or info.max is not None:
        allowed = Allowed(kind, info.min, info.max)
    info.min = info.max = None
    info.parser = Reader(allowed, said)
    return typing.Annotated[hint, info]


def said_of(name: str, info: ParameterInfo) -> str:
    """How a person writes a parameter: the option's name, or the argument's in capitals."""
    if isinstance(info, ArgumentInfo):
        return name.rstrip("_").upper()
    written = [one for one in info.param_decls or () if one.startswith("--")]
    return written[0] if written else "--" + name.rstrip("_").replace("_", "-")
