"""A report in Markdown (GitHub's tables)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ncpl_cli.report.blocks import Commands, Figure, Report, Table, Text
from ncpl_cli.report.formats.text import cells, numbered, shown

_HEADS = {"finding": "What was found", "caveat": "What to keep in mind"}


def render(report: Report, pictures: Mapping[str, str], figures: Path | None) -> str:
    """Headings, sentences, tables; figures as links into `figures` where they were written there."""
    names = numbered(report)
    lines = [f"# {_text(report.title)}", "", ", ".join(f"{key}: {_text(value)}" for key, value in report.about), ""]
    for section in report.sections:
        lines += [f"## {_text(section.title)}", ""]
        for block in section.blocks:
            if isinstance(block, Text):
                head = block.title or _HEADS.get(block.kind, "")
                if head and block.sentences:
                    lines += [f"### {_text(head)}", ""]
                said = [_text(sentence) for sentence in block.sentences]
                lines += [*([" ".join(said)] if block.kind == "prose" else [f"- {s}" for s in said]), ""]
            elif isinstance(block, Commands):
                fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", "".join(block.lines))), default=0))
                lines += [f"{_text(block.caption)}:", "", fence, *block.lines, fence, ""]
            elif isinstance(block, Figure):
                lines += [f"**{names[block.id]}.** {_text(block.caption)}", ""]
                if figures:
                    lines += [f"![{_text(block.alt)}]({(figures / f'{block.id}.svg').as_posix()})", ""]
                lines += [*_table(block.numbers, names), ""]
            elif block.rows:
                lines += [*_table(block, names), ""]
    return "\n".join(lines).rstrip() + "\n"


def _table(one: Table, names: Mapping[str, str]) -> list[str]:
    one = shown(one)
    head = [f"**{names[one.id]}.** {_text(one.caption)}", ""]
    return [*head, _row(one.columns), _row(["---"] * len(one.columns)), *(_row(cells(one, r)) for r in one.rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_text(c) if c != '---' else c for c in cells)} |"


def _text(text: str) -> str:
    """Text as text: what Markdown or HTML would read as its own is escaped."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#!])", r"\\\1", plain)
