"""A part that is named in text with options of its own: `ID` or `ID:KEY=VALUE,...` (interventions, objectives, probes).

A part is a frozen dataclass with an `id`, whose fields are made by `option`.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import field, fields
from typing import Any, Protocol, TypeVar

from ncpl_cli import values
from ncpl_cli.errors import InputError, unknown
from ncpl_cli.values import Allowed


class Part(Protocol):
    """What can be named."""

    @property
    def id(self) -> str:
        """Its name."""
        ...


Kind = TypeVar("Kind")


def option(default: Any, help: str, **allowed: Any) -> Any:
    """An option of a part: a dataclass field with its help and what is allowed (values.Allowed)."""
    return field(default=default, metadata={"help": help, **allowed})


def read(word: str, text: str, known: Mapping[str, type[Kind]], also: Iterable[str] = ()) -> Kind:
    """The part that a text names; raises InputError that says what is allowed. `word` is what such parts are called."""
    name, colon, rest = text.partition(":")
    if name not in known:
        raise unknown(word, name, [*known, *also])
    kind: Any = known[name]
    types = typing.get_type_hints(kind)
    options = {f.name: f for f in fields(kind)}
    given: dict[str, Any] = {}
    for piece in rest.split(",") if colon else ():
        key, equals, value = piece.partition("=")
        if key not in options:
            raise unknown(f"parameter of {name}", key, options)
        if not equals or key in given:
            raise InputError(f"--{word} {text!r}: {key} is to be given once, as {key}=VALUE.")
        given[key] = values.read(value, Allowed.of(types[key], options[key].metadata), f"{name}: {key}")
    made: Kind = kind(**given)
    return made


def written(part: Any) -> str:
    """As `read` reads it: `nc1:strength=0.05,clip=200`, options at their default left out."""
    given = [f"{f.name}={_text(getattr(part, f.name))}" for f in fields(part) if getattr(part, f.name) != f.default]
    return f"{part.id}:{','.join(given)}" if given else str(part.id)


def _text(value: object) -> str:
    """Short where that says it all, else every digit: a stored label is read again."""
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
