"""A report as one HTML page: no script, nothing loaded, a strict content security policy, light and dark."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

from ncpl_cli.report import theme
from ncpl_cli.report.blocks import Block, Report, Text
from ncpl_cli.report.formats.text import cells, numbered, shown

HERE = Path(__file__).parent


def render(report: Report, pictures: Mapping[str, str], figures: Path | None) -> str:
    """The page. Everything but our own SVG and style sheet is escaped by the template engine."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    drawn = {key: theme.panels_of(svg) for key, svg in pictures.items()}
    style = (HERE / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    engine = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    engine.filters["shown"] = shown
    engine.globals["cells"] = cells
    return engine.get_template("report.html").render(
        report=report,
        kind=_kind,
        names=numbered(report),
        style=Markup(style),
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        pictures={key: Markup(svg) for key, (svg, _) in drawn.items()},
        panels={key: panels for key, (_, panels) in drawn.items()},
        first=_first(report),
    )


def _first(report: Report) -> list[Block]:
    """What stands on the first screen: what is asked, the figure that answers, what was found and what was not."""
    blocks = next((section.blocks for section in report.sections if section.id == "overview"), ())
    said = [block for block in blocks if isinstance(block, Text) and block.kind in ("finding", "undecided")]
    return list(blocks[: blocks.index(said[-1]) + 1]) if said else []


def _kind(block: Block) -> str:
    return type(block).__name__
