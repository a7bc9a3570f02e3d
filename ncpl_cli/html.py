"""Results as notebooks show them: a caption, a table, notes; everything in it escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from ncpl_cli.streams import visible


def shown(caption: str, columns: Sequence[str], rows: Iterable[Sequence[object]], notes: Iterable[str] = ()) -> str:
    """HTML of a table: numbers to the right in four significant digits, a dash for what is undefined."""
    head = "".join(f"<th style='text-align:left'>{_text(name)}</th>" for name in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    below = "".join(f"<div>{_text(note)}</div>" for note in notes)
    return f"<div><div><b>{_text(caption)}</b></div><table><tr>{head}</tr>{body}</table>{below}</div>"


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "<td style='text-align:right'>–</td>"
    if isinstance(value, float):
        return f"<td style='text-align:right'>{value:.4g}</td>"
    side = "right" if isinstance(value, int) and not isinstance(value, bool) else "left"
    return f"<td style='text-align:{side}'>{_text(str(value))}</td>"


def _text(text: str) -> str:
    return html.escape(visible(text))
