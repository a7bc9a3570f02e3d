"""`ncpl export`: every recorded epoch as a row, for any other tool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Annotated

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import Db
from ncpl_cli.commands._described import describe
from ncpl_cli.errors import InputError
from ncpl_cli.streams import for_spreadsheets

if TYPE_CHECKING:
    import pandas as pd


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

    Beside a file lies `datapackage.json`: unit, formula, direction and source of every column.

    Example: ncpl export -o epochs.csv

    Example: ncpl export --format tensorboard -o logs
    """
    from ncpl_cli.analysis.words import count
    from ncpl_cli.output import STDOUT, format_of, opened
    from ncpl_cli.store import open_store

    if format_ == "tensorboard":
        return _event_files(output, runs, scenario, name, db)
    kind = format_of(output, format_, ("csv", "parquet"), "csv")
    if kind == "parquet" and output is None:
        raise InputError("parquet goes into a file.", "name one with -o epochs.parquet")
    ids = [part.strip() for part in runs.split(",")] if runs is not None else None
    target = STDOUT if output is None else output
    number = 0
    with open_store(_common.store_url(db), readonly=True) as store:
        of_runs, pieces = store.pieces(ids, scenario=scenario, name=name, settings=settings)
        with opened(target) as file:
            for piece in (_csv if kind == "csv" else _parquet)(of_runs, pieces, file):
                number += len(piece)
    if target != STDOUT:
        described = describe(of_runs, target, kind)
        beside = f"; {described} says what its columns are" if described else ""
        _common.note(f"{count(number, 'row')} of {count(len(of_runs), 'run')} in {target}{beside}.")


def _csv(of_runs: pd.DataFrame, pieces: Iterable[pd.DataFrame], file: IO[bytes]) -> Iterator[pd.DataFrame]:
    """Write each piece, a head first, and hand it on."""
    texts = of_runs.select_dtypes(include=["object", "string", "category"])
    kinds = {str(column): texts[column].map(_cell).dtype for column in texts}  # of all runs, not of those of a piece
    of_runs.iloc[:0].rename(columns=for_spreadsheets).to_csv(file, index=False, mode="wb")
    for piece in pieces:
        safe = piece.assign(**{column: piece[column].map(_cell).astype(kind) for column, kind in kinds.items()})
        safe.to_csv(file, index=False, mode="wb", header=False)
        yield piece


def _parquet(of_runs: pd.DataFrame, pieces: Iterable[pd.DataFrame], file: IO[bytes]) -> Iterator[pd.DataFrame]:
    """The same; the types are those of all runs together, since a piece may hold nothing in a column."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.Schema.from_pandas(of_runs, preserve_index=False)
    with ParquetWriter(file, schema) as writer:
        for piece in pieces:
            writer.write_table(pa.Table.from_pandas(piece, schema, preserve_index=False))
            yield piece


def _event_files(
    output: str | None, runs: str | None, scenario: str | None, name: str | None, db: str | None
) -> None:  # fmt: skip
    """A folder a run with an event file of TensorBoard; all of them or none."""
    import tempfile
    from pathlib import Path

    from ncpl_cli.analysis.words import count
    from ncpl_cli.errors import StoreError
    from ncpl_cli.records import Address
    from ncpl_cli.store import open_store
    from ncpl_cli.store.event_files import events

    folder = Path(output or "")
    if output is None or not output.strip() or output == "-" or folder.exists():
        what = f"{output} is there already." if output and folder.exists() else "tensorboard goes into a new folder."
        raise InputError(what, "name a new folder with -o logs")
    ids = [part.strip() for part in runs.split(",")] if runs is not None else None
    with open_store(_common.store_url(db), readonly=True) as store:
        chosen = store.select(ids, scenario=scenario, names=[name] if name is not None else ())
        addresses = store.recorded([row.id for row in chosen])
        columns = store.series([Address(*address) for address in addresses], [row.id for row in chosen])
    try:
        with tempfile.TemporaryDirectory(prefix=".ncpl-", dir=folder.absolute().parent) as made:
            for row in chosen:
                own = columns.get(row.id)
                if own is None or not len(own["epoch"]):
                    continue
                place = Path(made) / "all" / row.id
                place.mkdir(parents=True)
                steps = [
                    (int(epoch), {str(a): float(own[str(a)][i]) for a in addresses if own[str(a)][i] == own[str(a)][i]})
                    for i, epoch in enumerate(own["epoch"])
                ]
                first = {"seed": float(row.seed), "task": float(own["task"][0])}
                steps[0] = (steps[0][0], steps[0][1] | first)
                (place / f"events.out.tfevents.{int(row.created)}.ncpl").write_bytes(events(steps, row.created))
            (Path(made) / "all").mkdir(exist_ok=True)
            (Path(made) / "all").rename(folder)
    except OSError as error:
        raise StoreError(f"{folder} cannot be made ({error.strerror}).", "name another one") from error
    _common.note(f"{count(len(chosen), 'run')} in {folder}: tensorboard --logdir {folder} shows them.")


def _cell(value: object) -> object:
    return for_spreadsheets(value) if isinstance(value, str) else value
