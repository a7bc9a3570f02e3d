"""`ncpl report`: everything chosen from the store as one page, or as md, json or csv with the same content."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import Db


def report(
    format_: Annotated[
        str | None, typer.Option("--format", help="html, md, json or csv; default by the ending of -o, else html.")
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="File, - for standard output; default report.html.")
    ] = None,
    scenario: Annotated[str | None, typer.Option(help="Only this scenario.")] = None,
    runs: Annotated[str | None, typer.Option(help="Only these runs: ids or labels with commas.")] = None,
    name: Annotated[list[str] | None, typer.Option(help="Only runs with this label; repeatable.")] = None,
    figures: Annotated[
        str | None, typer.Option(help="Also write every figure into this directory, as PDF, SVG and PNG.")
    ] = None,
    db: Db = None,
) -> None:
    """Write one report of everything chosen: overview, curves, collapse, plasticity, correlations, methods.

    Example: ncpl report -o report.html --figures figures
    """
    from ncpl_cli.errors import InputError
    from ncpl_cli.metrics.catalogue import METRICS
    from ncpl_cli.output import STDOUT, format_of, special
    from ncpl_cli.report.formats import FORMATS
    from ncpl_cli.report.material import gather
    from ncpl_cli.report.report import build, write
    from ncpl_cli.store import open_store, shown

    kind = format_of(output, format_, FORMATS, "html", what="report format")
    if figures is not None and not figures.strip():
        raise InputError("--figures is empty.", "name a directory")
    target = f"report.{kind}" if output is None else output
    ids = [part.strip() for part in runs.split(",")] if runs else None
    chosen = [("--scenario", scenario), ("--runs", runs), *(("--name", one) for one in name or ())]
    selection = shlex.join([word for key, value in chosen if value is not None for word in (key, value)])
    url = _common.store_url(db)
    progress = _common.NowAndThen("report")
    progress("reading the store")
    with open_store(url, readonly=True) as store:
        material = gather(
            store, {m.id: (m.formula, m.direction, m.source) for m in METRICS.values()}, ids=ids, scenario=scenario,
            names=name or (), selection=selection,
        )  # fmt: skip
    made = build(material, store=shown(url), progress=progress)
    write(made, target, kind, figures=Path(figures) if figures else None, progress=progress)
    if target != STDOUT:
        size = "" if special(target) else f" ({Path(target).stat().st_size / 1e6:.1f} MB)"
        _common.note(f"{len(material.rows)} runs in {target}{size}.")
