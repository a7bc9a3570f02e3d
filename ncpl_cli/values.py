"""What a value may be: the one reader for options, sweep keys, interventions and files.

What says nothing about itself is a whole number from 1 to a thousand million, a finite number that is not negative,
or a text that is not empty: a new option is checked before anybody thinks of it. Standard library only.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ncpl_cli.errors import InputError, unknown

MOST = 10**9
"""A number above this is a slip of the hand, unless an option says otherwise."""

LONGEST_LIST = 100_000

SEEDS = 2**31 - 1
"""Seeds are below 2^31: what every store keeps as a whole number."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,30}", re.ASCII)
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Allowed:
    """What one value may be.

    kind          int, float, bool, str, or tuple: a list of whole numbers
    least, most   bounds, both allowed; None: as the module says
    above, below  bounds that are not allowed themselves
    choices       the only texts
    form          reads and checks a text of another form: (text, what it is called) -> value
    """

    kind: type = str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] | None = None
    form: Callable[[str, str], Any] | None = None

    def __call__(self, value: str) -> Any:
        """Read a value: so that an option can be declared with `parser=Allowed(...)`."""
        return read(value, self, "the value")

    @classmethod
    def of(cls, hint: Any, said: Mapping[str, Any]) -> Allowed:
        """From a type annotation and what a field or option says of itself (least, most, above, below, choices)."""
        known = {key: said.get(key) for key in ("least", "most", "above", "below", "choices", "form")}
        return cls(kind_of(hint), **known)

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value; `above` and `below` are not among them."""
        low = self.least if self.least is not None else self.above
        high = self.most if self.most is not None else self.below
        return (low if low is not None else int(self.kind is not float)), (high if high is not None else MOST)

    @property
    def words(self) -> str:
        """In words, e.g. `a number above 0 and at most 1`."""
        what = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of whole numbers"}
        if self.kind not in (int, float, tuple):
            return what.get(self.kind, "a text that is not empty")
        low, high = self.bounds
        lower = f"above {low:.10g}" if self.above is not None and self.least is None else f"of at least {low:.10g}"
        upper = f"below {high:.10g}" if self.below is not None and self.most is None else f"at most {high:.10g}"
        return f"{what[self.kind]} {lower} and {upper}"

    def holds(self, number: float) -> bool:
        """Whether a number lies within the bounds; NaN does not."""
        low, high = self.bounds
        inside = low <= number <= high
        return inside and (self.above is None or number > self.above) and (self.below is None or number < self.below)


def kind_of(hint: Any) -> type:
    """The plain type of an annotation: of `int | None` int, of `tuple[int, ...]` tuple, of `list[str]` str."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next(one for one in typing.get_args(hint) if one is not types.NoneType)
    if typing.get_origin(hint) is list:
        return kind_of(typing.get_args(hint)[0])
    found: type = typing.get_origin(hint) or hint
    return found


def read(value: Any, allowed: Allowed, said: str) -> Any:
    """A value as its option takes it, from text or from a file's own types; what was read before reads the same.

    said  how the person wrote the option: `--lr`, `lr`, `nc1: strength`
    Raises InputError that says what is allowed.
    """
    if allowed.form is not None:
        return allowed.form(value if allowed.kind is tuple else _text(_written(value), said), said)
    if allowed.choices is not None:
        if value not in allowed.choices:
            raise unknown(said, str(value), allowed.choices)
        return value
    if allowed.kind is str:
        return _text(value, said)
    if allowed.kind is tuple:
        return _list(value, allowed, said)
    found = _plain(value, allowed.kind)
    if found is None or (allowed.kind is not bool and not allowed.holds(found)):
        raise InputError(f"{said} {shown(value)} is impossible: it is {allowed.words}.")
    return found


def count(n: int, what: str, one: str = "", several: str = "") -> str:
    """`1 run`, `2 runs`; with a verb for each `1 run is`, `2 runs are`."""
    return " ".join(word for word in (f"{n}", what if n == 1 else f"{what}s", one if n == 1 else several) if word)


def shown(value: object) -> str:
    """A value in an error: quoted, and not longer than a line."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:50]}... ({len(text)} characters)"


def _plain(value: Any, kind: type) -> Any:
    """A bool, int or float; None where it is none. Digits are 0 to 9 and nothing else."""
    if kind is bool:
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        if kind is int:
            return int(text) if _WHOLE.fullmatch(text) else None
        return float(text) if _NUMBER.fullmatch(text) else None
    if kind is int:
        return value if isinstance(value, int) else None
    if isinstance(value, int | float) and abs(value) <= 1e300 and math.isfinite(value):
        return float(value) if isinstance(value, float) else value
    return None


def _written(value: Any) -> Any:
    """A whole number, of a file, as a command line has it."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _text(value: Any, said: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{said} {shown(value)} is not allowed: it is a text.")
    if not value.strip():
        raise InputError(f"{said} may not be empty.")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InputError(f"{said} {shown(value)} is not allowed: it is a text in UTF-8.")
    return value


def _list(value: Any, allowed: Allowed, said: str) -> tuple[int, ...]:
    """`50,1x20,10`, a whole number, or a list of these: entries, repeated so many times."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    numbers: list[int] = []
    for part in parts:
        first, times, count = part.strip().partition("x") if isinstance(part, str) else (part, "", "")
        number, repeated = _plain(first, int), _plain(count, int) if times else 1
        if number is None or repeated is None or repeated < 1 or not allowed.holds(number):
            raise InputError(
                f"{said} {shown(value)} is not a per-task list: each entry is {Allowed(int, *allowed.bounds).words}.",
                f"write it as {said} 1 or {said} 50,1x20,10",
            )
        if len(numbers) + repeated > LONGEST_LIST:
            raise InputError(f"{said} {shown(value)} is too long: a list has at most {LONGEST_LIST} entries.")
        numbers += [number] * repeated
    return tuple(numbers)


def ranges(value: Any, said: str, *, most: int = SEEDS) -> tuple[int, ...]:
    """Read `0-4`, `1,3,7`, a mixture, a whole number or a list of these; keeps the order, drops repetitions."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    numbers: dict[int, None] = {}
    for part in parts:
        ends = part.strip().split("-") if isinstance(part, str) else [part]
        bounds = [_plain(end, int) if not isinstance(end, str) or end.strip().isdigit() else None for end in ends]
        first, last = bounds[0], bounds[-1]
        if len(bounds) > 2 or first is None or last is None or not 0 <= first <= last <= most:
            raise InputError(
                f"{said} {shown(value)} is not a list of whole numbers from 0 to {most}.",
                f"write it as {said} 0-4 or {said} 1,3,7",
            )
        if len(numbers) + last - first >= LONGEST_LIST:
            raise InputError(f"{said} {shown(value)} is too long: a list has at most {LONGEST_LIST} entries.")
        numbers |= dict.fromkeys(range(first, last + 1))
    if not numbers:
        raise InputError(f"{said} names nothing.", f"write it as {said} 0-4 or {said} 1,3,7")
    return tuple(numbers)


def names(text: str, said: str) -> list[str]:
    """Read names with commas between them; none of them may be empty."""
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise InputError(
            f"{said} {shown(text)} names nothing between two commas.", f"write it as {said} A or {said} A,B"
        )
    return found


def several(text: str, said: str) -> str:
    """Names with commas between them, as they were written."""
    names(text, said)
    return text


def numbers(text: str, said: str) -> str:
    """A list of whole numbers, `0-4` or `1,3,7`, as it was written."""
    ranges(text, said)
    return text


def addresses(text: str, said: str) -> str:
    """Metrics with commas between them, each `metric[@split[/layer]]`, as they were written."""
    for one in names(text, said):
        if not re.fullmatch(r"[^@]+(@[^@/]+(/[^@]+)?)?", one):
            raise InputError(
                f"{said} {shown(one)} names no metric.", f"write it as {said} nc1, nc1@test or nc1@test/last"
            )
    return text


def count_or_auto(text: str, said: str) -> str:
    """`auto` or a whole number from 1: how many workers."""
    if text != "auto":
        read(text, Allowed(int, most=4096), f"{said} (auto or a number):")
    return text


def device(text: str, said: str) -> str:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps`; whether it is there is asked later, since that loads torch."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", text, re.ASCII):
        raise InputError(f"{said} {shown(text)} is no device.", "allowed: auto, cpu, cuda, cuda:N, mps")
    return text


def keep(text: str, said: str) -> str:
    """`last`, `probes`, `all` or `every:K`: which checkpoints stay."""
    kind, colon, every = text.partition(":")
    if kind == "every" and colon:
        read(every, Allowed(int), f"{said} every:")
    elif text not in ("last", "probes", "all"):
        raise InputError(f"{said} {shown(text)} is unknown.", "allowed: last, probes, every:K, all")
    return text


def schedule(text: str, said: str) -> str:
    """`constant`, `cosine`, `step:EVERY:FACTOR` or `step:AT/AT:FACTOR`: the learning rate over the epochs of a task."""
    kind, *parts = text.split(":")
    if kind == "step" and len(parts) == 2:
        at = [read(part, Allowed(int), f"{said} step: EVERY") for part in parts[0].split("/")]
        if sorted(set(at)) != at:
            raise InputError(
                f"{said} step: {shown(parts[0])} is not in order.", "name each epoch once: step:60/120:0.2"
            )
        read(parts[1], Allowed(float, above=0, most=1000), f"{said} step: FACTOR")
    elif text not in ("constant", "cosine"):
        raise InputError(
            f"{said} {shown(text)} is unknown.",
            "allowed: constant, cosine, step:EVERY:FACTOR (step:10:0.5), step:AT/AT:FACTOR (step:60/120:0.2), "
            "over the epochs of a task",
        )
    return text
