"""How numbers, counts and settings are written for people."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ncpl_cli.values import count as count  # as every other word is written


def p_text(p: float) -> str:
    """A p-value as people read it."""
    return f"{p:.2g}" if p >= 0.001 else f"{p:.1e}"


def signed(value: float | None) -> str:
    """A correlation with its sign and two decimals, a dash for what is undefined."""
    return "–" if value is None else f"{value:+.2f}"


def rounded(value: float | None, error: float | None) -> str:
    """A number to two digits of its standard error, four significant digits where that is not known."""
    if value is None:
        return "–"
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.4g}"
    digits = min(max(1 - math.floor(math.log10(error)), 0), 12)
    return f"{value:.{digits}f}"


def ranges(numbers: Sequence[int]) -> str:
    """`0-4, 7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)


def slug(text: str, most: int = 40) -> str:
    """Text as part of a file's name: letters, digits, dots and dashes of ASCII."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", text)[:most].strip("-.") or "x"


def said(value: object) -> str:
    """A setting's value as people read it."""
    return " + ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else str(value)
