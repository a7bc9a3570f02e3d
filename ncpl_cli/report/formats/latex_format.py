"""The tables of a report in LaTeX, with the rules of booktabs: for a paper, not the whole report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ncpl_cli.report.blocks import Report, Table
from ncpl_cli.report.formats.text import cells, shown

_ESCAPED = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
            **{c: f"\\{c}" for c in "&%$#_{}"}, "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
            "–": "--", "≤": r"$\le$", "…": r"\dots{}"}  # fmt: skip


def render(report: Report, pictures: Mapping[str, str], figures: Path | None) -> str:
    """Every table that stands in a section, with caption and label; `\\usepackage{booktabs}` is all it needs."""
    lines = [f"% {_plain(report.title)}; needs \\usepackage{{booktabs}}", ""]
    for section in report.sections:
        for block in section.blocks:
            if isinstance(block, Table) and block.rows:
                lines += [*_table(block), ""]
    return "\n".join(lines)


def _table(whole: Table) -> list[str]:
    one = shown(whole)
    texts = [isinstance(next((row[c] for row in one.rows if row[c] is not None), None), str)
             for c in range(len(one.columns))]  # fmt: skip
    return [
        r"\begin{table}", r"  \centering", f"  \\caption{{{latex(one.caption)}.}}", f"  \\label{{tab:{one.id}}}",
        f"  \\begin{{tabular}}{{{''.join('l' if text else 'r' for text in texts)}}}", r"    \toprule",
        f"    {' & '.join(map(latex, one.columns))} \\\\", r"    \midrule",
        *(f"    {' & '.join(map(latex, cells(one, row)))} \\\\" for row in one.rows),
        r"    \bottomrule", r"  \end{tabular}", r"\end{table}",
    ]  # fmt: skip


def latex(text: str) -> str:
    """Text as text: nothing of it is a command."""
    return "".join(_ESCAPED.get(character, character) for character in " ".join(text.split()))


def _plain(text: str) -> str:
    return " ".join(text.split())
