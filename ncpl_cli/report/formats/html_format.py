"""A report as one HTML page: no script, nothing loaded, a strict content security policy, light and dark."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

from ncpl_cli.report.blocks import Block, Report
from ncpl_cli.report.formats.text import cell, numbered

HERE = Path(__file__).parent


def render(report: Report, pictures: Mapping[str, str], figures: Path | None) -> str:
    """The page. Everything but our own SVG and style sheet is escaped by the template engine."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    style = (HERE / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    engine = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    engine.filters["cell"] = cell
    return engine.get_template("report.html").render(
        report=report,
        kind=_kind,
        names=numbered(report),
        style=Markup(style),
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        pictures={key: Markup(svg) for key, svg in pictures.items()},
    )


def _kind(block: Block) -> str:
    return type(block).__name__
