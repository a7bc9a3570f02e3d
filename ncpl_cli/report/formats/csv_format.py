"""A report as one long CSV: every sentence, command and cell is a row; full precision, undefined is empty."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ncpl_cli.report.blocks import Cell, Commands, Figure, Report, Table, Text
from ncpl_cli.streams import for_spreadsheets

COLUMNS = ("section", "kind", "item", "row", "column", "value")


def render(report: Report, pictures: Mapping[str, str], figures: Path | None) -> str:
    """Rows of (section, kind, item, row, column, value); a table's cells have its id, row number and column name."""
    written = StringIO()
    out = csv.writer(written, lineterminator="\n")
    out.writerow(COLUMNS)
    out.writerow(("", "title", "", "", "", _safe(report.title)))
    out.writerows(("", "about", key, "", "", _safe(value)) for key, value in report.about)
    for section in report.sections:
        out.writerow((section.id, "title", "", "", "", section.title))
        for block in section.blocks:
            if isinstance(block, Text):
                said = enumerate(map(_safe, block.sentences))
                out.writerows((section.id, block.kind, block.title, i, "", sentence) for i, sentence in said)
            elif isinstance(block, Commands):
                out.writerows((section.id, "command", block.caption, i, "", s) for i, s in enumerate(block.lines))
            else:
                one = block.numbers if isinstance(block, Figure) else block
                kind = "figure" if isinstance(block, Figure) else "table"
                out.writerow((section.id, f"{kind} caption", one.id, "", "", _safe(block.caption)))
                _cells(out, section.id, kind, one)
    return written.getvalue()


def _cells(out: Any, section: str, kind: str, one: Table) -> None:
    for i, row in enumerate(one.rows):
        out.writerows((section, kind, one.id, i, _safe(c), _safe(v)) for c, v in zip(one.columns, row, strict=True))


def _safe(value: Cell) -> Cell:
    """Text that a spreadsheet would take for a formula is marked as text."""
    return for_spreadsheets(value) if isinstance(value, str) else value
