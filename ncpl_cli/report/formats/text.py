"""How cells are written for people, and how blocks are numbered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ncpl_cli.report.blocks import Cell, Figure, Report, Table


def cells(one: Table, row: Sequence[Cell]) -> list[str]:
    """A row for people: numbers rounded by their standard error where the row has an interval, else to four digits."""
    decimals = _decimals(one, row)
    return [cell(value, decimals if name in OF_THE_INTERVAL else None)
            for name, value in zip(one.columns, row, strict=True)]  # fmt: skip


def cell(value: Cell, decimals: int | None = None) -> str:
    """So many decimals, else four significant digits; a dash for what is undefined."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if decimals is None else f"{value:.{decimals}f}"


OF_THE_INTERVAL = frozenset(
    ("r", "low", "high", "mean", "gain", "ours", "published", "value", "first", "last", "last: low", "last: high", "sd",
     "std", "arm's", "plain", "lowest", "highest", "matched")
)  # fmt: skip
"""Columns of what an interval is about: they are rounded as far as the interval is known."""

ENDS = (("low", "high"), ("last: low", "last: high"))


def _decimals(one: Table, row: Sequence[Cell]) -> int | None:
    """Decimals of a row that has an interval."""
    named = dict(zip(one.columns, row, strict=True))
    for low, high in ENDS:
        a, b = named.get(low), named.get(high)
        if isinstance(a, float) and isinstance(b, float):
            return decimals_of(a, b)
    return None


def decimals_of(low: float, high: float) -> int | None:
    """Decimals at which a quarter of a 95 % interval, about the standard error, has two digits; None without width."""
    return min(max(0, 1 - math.floor(math.log10((high - low) / 4))), 6) if high > low else None


def shown(one: Table) -> Table:
    """The table without columns in which nothing stands."""
    kept = [c for c in range(len(one.columns)) if not one.rows or any(row[c] not in (None, "") for row in one.rows)]
    if len(kept) == len(one.columns):
        return one
    return Table(
        one.id, one.caption, tuple(one.columns[c] for c in kept), tuple(tuple(r[c] for c in kept) for r in one.rows)
    )


def numbered(report: Report) -> dict[str, str]:
    """`Figure 3`, `Table 2` by block id; the numbers behind a figure carry the figure's number."""
    names: dict[str, str] = {}
    figures = tables = 0
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Figure):
                figures += 1
                names[block.id] = f"Figure {figures}"
                names[block.numbers.id] = f"Numbers of figure {figures}"
            elif isinstance(block, Table) and block.rows:
                tables += 1
                names[block.id] = f"Table {tables}"
    return names


def tables(report: Report) -> Iterator[tuple[str, Table]]:
    """(section id, table) of every table, those behind figures among them."""
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Figure):
                yield section.id, block.numbers
            elif isinstance(block, Table):
                yield section.id, block
