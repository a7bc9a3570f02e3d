"""What a report consists of: sections of sentences, tables, figures and commands, apart from any file format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Cell = str | int | float | bool | None


@dataclass(frozen=True)
class Text:
    """Sentences.

    kind  plain (a list), prose (a paragraph), finding (what was found), undecided (what does not stand), caveat (what
          weakens it)
    """

    sentences: tuple[str, ...]
    kind: str = "plain"
    title: str = ""


@dataclass(frozen=True)
class Commands:
    """Commands to run, with what they are for."""

    caption: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Numbers as they are, undefined ones None; formats round for people, json and csv do not."""

    id: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @classmethod
    def of(cls, id_: str, caption: str, frame: pd.DataFrame) -> Table:
        """A frame as a table: plain Python values, NaN as None."""
        plain = frame.astype(object).where(frame.notna(), None)
        rows = tuple(tuple(_plain(value) for value in row) for row in plain.itertuples(index=False))
        return cls(id_, caption, tuple(map(str, frame.columns)), rows)


@dataclass(frozen=True, eq=False)
class Figure:
    """A drawing and the numbers that are drawn.

    caption  what is shown, with what uncertainty
    alt      what one sees, for those who do not
    numbers  everything drawn
    draw     makes the plotnine figure; called only by formats that show it
    """

    id: str
    caption: str
    alt: str
    numbers: Table
    draw: Callable[[], Any]


Block = Text | Commands | Table | Figure


@dataclass(frozen=True)
class Section:
    """One part of a report. An empty one says what is missing, and the commands that fill it."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    is_empty: bool = False

    @classmethod
    def empty(cls, id_: str, title: str, missing: str, *commands: str) -> Section:
        """A section for which the chosen runs have nothing."""
        return cls(id_, title, (Text((missing,)), Commands("Run this to fill the section", commands)), True)


@dataclass(frozen=True)
class Report:
    """A whole report. `about`: when, from which store, with which selection it was made."""

    title: str
    about: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]

    def figures(self) -> Iterator[Figure]:
        """All figures in order."""
        for section in self.sections:
            yield from (block for block in section.blocks if isinstance(block, Figure))


def table(id_: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table of any values, made plain."""
    return Table(id_, caption, tuple(columns), tuple(tuple(_plain(cell) for cell in row) for row in rows))


def _plain(value: Any) -> Cell:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
