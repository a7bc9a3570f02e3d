"""`ncpl export`: every recorded epoch as a row, for any other tool."""

from __future__ import annotations

from typing import Annotated

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import Db
from ncpl_cli.errors import InputError
from ncpl_cli.streams import for_spreadsheets


def export(
    output: Annotated[str | None, typer.Option("-o", "--output", help="File; default standard output, also -.")] = None,
    format_: Annotated[str | None, typer.Option("--format", help="csv or parquet; default by the file's name.")] = None,
    runs: Annotated[str | None, typer.Option(help="Only these runs: ids or labels with commas.")] = None,
    scenario: Annotated[str | None, typer.Option(help="Only this scenario.")] = None,
    name: Annotated[str | None, typer.Option(help="Only runs with this label.")] = None,
    settings: Annotated[bool, typer.Option("--settings", help="A column for every setting that varies.")] = False,
    db: Db = None,
) -> None:
    """Write every recorded epoch as a row, metrics as columns, in full precision.

    Example: ncpl export -o epochs.csv
    """
    from ncpl_cli.analysis.words import count
    from ncpl_cli.output import STDOUT, format_of, opened
    from ncpl_cli.store import open_store

    kind = format_of(output, format_, ("csv", "parquet"), "csv")
    if kind == "parquet" and output is None:
        raise InputError("parquet goes into a file.", "name one with -o epochs.parquet")
    ids = [part.strip() for part in runs.split(",")] if runs is not None else None
    with open_store(_common.store_url(db), readonly=True) as store:
        frame = store.frame(ids, scenario=scenario, name=name, settings=settings)
    target = STDOUT if output is None else output
    with opened(target) as file:
        if kind == "csv":
            texts = frame.select_dtypes(include=["object", "string", "category"]).columns
            safe = frame.assign(**{column: frame[column].map(_cell) for column in texts}) if len(frame) else frame
            safe.rename(columns=for_spreadsheets).to_csv(file, index=False, mode="wb")
        else:
            file.write(frame.to_parquet(index=False))
    if target != STDOUT:
        _common.note(f"{count(len(frame), 'row')} of {count(frame['run'].nunique(), 'run')} in {target}.")


def _cell(value: object) -> object:
    return for_spreadsheets(value) if isinstance(value, str) else value
