"""The formats of a report; all carry the same content. The registry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ncpl_cli.report.blocks import Report
from ncpl_cli.report.formats import csv_format, html_format, json_format, latex_format, markdown_format

PAGE = "html"
"""The format that shows figures inside itself."""

# what a format is given: the report, inline SVG by figure id, where figures were written (seen from the report)
FORMATS: dict[str, Callable[[Report, Mapping[str, str], Path | None], str]] = {
    PAGE: html_format.render,
    "md": markdown_format.render,
    "json": json_format.render,
    "csv": csv_format.render,
}

TABLES: dict[str, Callable[[Report, Mapping[str, str], Path | None], str]] = {"tex": latex_format.render}
"""What takes only the tables of a report."""
