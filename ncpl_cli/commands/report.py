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
        str | None, typer.Option("--format", help="html, md, json, csv or tex (tables); default by -o, else html.")
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
    figure_width: Annotated[
        str | None, typer.Option("--width", help="Width of those figures: 3.3in, 84mm; default as shown.")
    ] = None,
    font: Annotated[str | None, typer.Option(help="Their font, by name; PDFs hold it as TrueType.")] = None,
    kit: Annotated[
        str | None,
        typer.Option(help="A directory for a paper: figures, tables, methods, references, commands, checklist."),
    ] = None,
    db: Db = None,
) -> None:
    """Write one report of everything chosen: overview, curves, collapse, plasticity, correlations, methods.

    Example: ncpl report -o report.html --figures figures

    Example: ncpl report -o tables.tex
    """
    from ncpl_cli.analysis.words import count
    from ncpl_cli.errors import InputError
    from ncpl_cli.metrics.catalogue import METRICS
    from ncpl_cli.output import STDOUT, format_of, special
    from ncpl_cli.report.formats import FORMATS, TABLES
    from ncpl_cli.report.kit import write_kit
    from ncpl_cli.report.material import gather
    from ncpl_cli.report.report import build, write
    from ncpl_cli.report.theme import Look
    from ncpl_cli.store import open_store, shown

    kind = format_of(output, format_, [*FORMATS, *TABLES], "html", what="report format")
    if figures is not None and not figures.strip():
        raise InputError("--figures is empty.", "name a directory")
    if kit is not None and (output is not None or format_ is not None or figures is not None):
        raise InputError("--kit writes its own files.", "leave out -o, --format and --figures")
    if kit is not None and (not kit.strip() or Path(kit).is_file()):
        raise InputError("--kit names no directory.", "name a directory")
    look = Look.read(figure_width, font) if figure_width is not None or font is not None else None
    if look is not None and figures is None and kit is None:
        raise InputError("--width and --font are of the files that --figures or --kit writes.", "name a directory")
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
    if kit is not None:
        write_kit(made, material, Path(kit), look, progress)
        names = ", ".join(sorted(one.name for one in Path(kit).iterdir()))
        _common.note(f"{count(len(material.rows), 'run')} in {kit}: {names}.")
        return
    write(made, target, kind, figures=Path(figures) if figures else None, look=look, progress=progress)
    if target != STDOUT:
        size = "" if special(target) else f" ({Path(target).stat().st_size / 1e6:.1f} MB)"
        _common.note(f"{count(len(material.rows), 'run')} in {target}{size}.")
