"""A part that is named in text with options of its own: `ID` or `ID:KEY=VALUE,...` (interventions, objectives, probes).

A part is a frozen dataclass with an `id`, whose fields are made by `option`.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import field, fields
from typing import Any, Protocol, TypeVar

from ncpl_cli.errors import InputError, unknown


class Part(Protocol):
    """What can be named."""

    @property
    def id(self) -> str:
        """Its name."""
        ...


Kind = TypeVar("Kind")


def option(default: Any, help: str, *, least: float = -float("inf"), most: float = float("inf"),
           choices: tuple[str, ...] | None = None) -> Any:  # fmt: skip
    """An option of a part: a dataclass field with its help and what is allowed."""
    return field(default=default, metadata={"help": help, "least": least, "most": most, "choices": choices})


def read(word: str, text: str, known: Mapping[str, type[Kind]], also: Iterable[str] = ()) -> Kind:
    """The part that a text names; raises InputError that says what is allowed. `word` is what such parts are called."""
    name, _, rest = text.partition(":")
    if name not in known:
        raise unknown(word, name, [*known, *also])
    kind: Any = known[name]
    types = typing.get_type_hints(kind)
    options = {f.name: f for f in fields(kind)}
    given: dict[str, Any] = {}
    for piece in filter(None, rest.split(",")):
        key, equals, value = piece.partition("=")
        if key not in options:
            raise unknown(f"parameter of {name}", key, options)
        if not equals or key in given:
            raise InputError(f"--{word} {text!r}: {key} is to be given once, as {key}=VALUE.")
        given[key] = _value(name, key, value, types[key], options[key].metadata)
    made: Kind = kind(**given)
    return made


def written(part: Any) -> str:
    """As `read` reads it: `nc1:strength=0.05,clip=200`, options at their default left out."""
    given = [f"{f.name}={_text(getattr(part, f.name))}" for f in fields(part) if getattr(part, f.name) != f.default]
    return f"{part.id}:{','.join(given)}" if given else str(part.id)


def _value(name: str, key: str, text: str, kind: type, allowed: Any) -> Any:
    if choices := allowed["choices"]:
        if text not in choices:
            raise InputError(f"{name}: {key}={text} is unknown.", f"allowed: {', '.join(choices)}")
        return text
    try:
        value = kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{name}: {key}={text} is not {what}.") from None
    if not allowed["least"] <= value <= allowed["most"]:  # also NaN
        most = f" and at most {allowed['most']:g}" if allowed["most"] < float("inf") else ""
        raise InputError(f"{name}: {key}={text} is impossible: it is at least {allowed['least']:g}{most}.")
    return value


def _text(value: object) -> str:
    """Short where that says it all, else every digit: a stored label is read again."""
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
