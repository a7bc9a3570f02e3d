"""How cells are written for people, and how blocks are numbered."""

from __future__ import annotations

from collections.abc import Iterator

from ncpl_cli.report.blocks import Cell, Figure, Report, Table


def cell(value: Cell) -> str:
    """Five significant digits, a dash for what is undefined."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.5g}" if isinstance(value, float) else str(value)


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
            elif isinstance(block, Table):
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
