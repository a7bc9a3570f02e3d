"""`ncpl export`: every recorded epoch as a row, for any other tool."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import Db
from ncpl_cli.errors import InputError, StoreError, unknown


def export(
    output: Annotated[str | None, typer.Option("-o", "--output", help="File; default standard output (csv).")] = None,
    format_: Annotated[str | None, typer.Option("--format", help="csv or parquet; default by the file's name.")] = None,
    runs: Annotated[str | None, typer.Option(help="Only these runs: ids or labels with commas.")] = None,
    scenario: Annotated[str | None, typer.Option(help="Only this scenario.")] = None,
    name: Annotated[str | None, typer.Option(help="Only runs with this label.")] = None,
    db: Db = None,
) -> None:
    """Write every recorded epoch as a row, metrics as columns, in full precision.

    Example: ncpl export -o epochs.csv
    """
    from ncpl_cli.store import open_store

    kind = format_ or ("parquet" if output and output.endswith(".parquet") else "csv")
    if kind not in ("csv", "parquet"):
        raise unknown("format", kind, ("csv", "parquet"))
    if kind == "parquet" and output is None:
        raise InputError("parquet goes into a file.", "name one with -o epochs.parquet")
    ids = [part.strip() for part in runs.split(",")] if runs is not None else None
    with open_store(_common.store_url(db), readonly=True) as store:
        frame = store.frame(ids, scenario=scenario, name=name)
    if output is None:
        frame.to_csv(sys.stdout, index=False)
        return
    target = Path(output)
    temporary = target.with_name(f".{target.name}.tmp")
    try:  # whole or not at all
        if kind == "csv":
            frame.to_csv(temporary, index=False)
        else:
            frame.to_parquet(temporary, index=False)
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StoreError(f"{target} cannot be written ({error.strerror}).", "name another file with -o") from error
    _common.note(f"{len(frame)} rows of {frame['run'].nunique()} runs in {target}.")
