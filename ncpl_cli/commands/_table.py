"""A table as a terminal shows it: what fits into a line, and no id, number, name or status broken or cut."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from ncpl_cli.streams import visible

SETTINGS = ("value",)
"""Columns of settings, which are never rounded."""

TIMES = ("seconds",)
"""Columns of seconds, which a person reads as 1m17s."""

BARS = "▁▂▃▄▅▆▇█"


def laid_out(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None, width: int, least: Collection[str] = ()
) -> Any:
    """A Rich table: numbers to the right with decimals that stay, no empty column.

    Only texts of several words are wrapped, between words. What is too wide goes without `least`, the last of them
    first; where even that is too wide a row becomes a block.
    """
    from rich.table import Column, Table

    said = [c for c in range(len(columns)) if not rows or any(row[c] not in (None, "") for row in rows)]
    names = ["time" if columns[c] in TIMES else columns[c] for c in said]
    numbers = [columns[c] in TIMES or all(row[c] is None or isinstance(row[c], int | float) for row in rows)
               for c in said]  # fmt: skip
    texts = [_column(columns[c], [row[c] for row in rows]) for c in said]

    def least_widths() -> list[int]:
        return [max(len(word) for text in (name, *texts[c]) for word in (text.split() or [""]))
                for c, name in enumerate(names)]  # fmt: skip

    widths = least_widths()
    kept = list(range(len(said)))

    def too_wide() -> bool:
        return bool(rows) and sum(widths[c] for c in kept) + 2 * (len(kept) - 1) > width

    if too_wide():  # a number's name may take two lines
        names = [name.replace("_", "\n") if numbers[c] else name for c, name in enumerate(names)]
        widths = least_widths()
    for name in reversed(list(least)):
        if too_wide():
            kept = [c for c in kept if columns[said[c]] != name]
    shape: Any = {"box": None, "padding": (0, 2, 0, 0), "pad_edge": False, "title": title, "title_justify": "left"}
    if too_wide():
        blocks = Table(*(Column(overflow="fold") for _ in range(2)), show_header=False, **shape)
        for i in range(len(rows)):
            for c in range(len(said)):
                blocks.add_row("time" if columns[said[c]] in TIMES else columns[said[c]], texts[c][i])
            if i + 1 < len(rows):
                blocks.add_row("", "")
        return blocks
    whole = [all(" " not in text for text in texts[c]) for c in range(len(said))]  # never narrower than it is
    heads = [Column(names[c], overflow="fold", min_width=widths[c], no_wrap=whole[c],
                    justify="right" if numbers[c] else "left") for c in kept]  # fmt: skip
    table = Table(*heads, header_style="bold", **shape)
    for i in range(len(rows)):
        table.add_row(*(texts[c][i] for c in kept))
    return table


def _column(name: str, cells: Sequence[object]) -> list[str]:
    """The cells of a column as texts: fixed decimals where all its numbers can be read so."""
    if name in TIMES:
        return [cell_text(cell) if not isinstance(cell, int | float) else f"{cell:.1f}s" if cell < 9.95 else
                duration(cell) for cell in cells]  # fmt: skip
    floats = [abs(cell) for cell in cells if isinstance(cell, float) and math.isfinite(cell) and cell]
    if name in SETTINGS:  # what was given, not what was measured
        return [f"{cell:g}" if isinstance(cell, float) else cell_text(cell) for cell in cells]
    if len(floats) > 1 and min(floats) >= (5e-4 if max(floats) < 100 else 0.05) and max(floats) < 1e4:
        decimals = 4 if max(floats) < 100 else 2
        return [f"{cell:.{decimals}f}" if isinstance(cell, float) else cell_text(cell) for cell in cells]
    return [cell_text(cell) for cell in cells]


def cell_text(cell: object) -> str:
    """A value as a person reads it: four significant digits, a dash for what is undefined."""
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return visible(str(cell))


def sparkline(values: Iterable[float | None], width: int = 8) -> str:
    """Values in order as a few bars, from the smallest to the largest; nothing where there are not two, or no bars."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    try:
        BARS.encode(sys.stdout.encoding or getattr(sys.__stdout__, "encoding", None) or "ascii")
    except UnicodeError:
        return ""
    if len(known) < 2:
        return ""
    width = min(width, len(known))
    edges = [round(i * len(known) / width) for i in range(width + 1)]
    means = [sum(known[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    span = high - low or 1.0
    return "".join(BARS[min(int((mean - low) / span * len(BARS)), len(BARS) - 1)] for mean in means)


def duration(seconds: float) -> str:
    """`8s`, `3m20s`, `2h05m`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds}s"
    if seconds >= 172800:
        return f"{seconds // 86400} days"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
