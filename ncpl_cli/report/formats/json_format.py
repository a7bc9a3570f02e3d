"""A report as one JSON document: full precision, undefined is null."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ncpl_cli.report.blocks import Block, Commands, Figure, Report, Table, Text


def render(report: Report, pictures: Mapping[str, str], figures: Path | None) -> str:
    """`{"title", "about", "sections": [{"id", "title", "blocks": [...]}]}`."""
    document = {
        "title": report.title,
        "about": dict(report.about),
        "sections": [
            {"id": s.id, "title": s.title, "blocks": [_block(block) for block in s.blocks]} for s in report.sections
        ],
    }
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1) + "\n"


def _block(block: Block) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"type": "text", "kind": block.kind, "title": block.title, "sentences": list(block.sentences)}
    if isinstance(block, Commands):
        return {"type": "commands", "caption": block.caption, "lines": list(block.lines)}
    if isinstance(block, Figure):
        return {"type": "figure", "id": block.id, "caption": block.caption, "alt": block.alt,
                "numbers": _table(block.numbers)}  # fmt: skip
    return {"type": "table", **_table(block)}


def _table(one: Table) -> dict[str, Any]:
    return {"id": one.id, "caption": one.caption, "columns": list(one.columns), "rows": [list(r) for r in one.rows]}
