"""`ncpl import`: anyone's logs into the same analysis."""

from __future__ import annotations

from typing import Annotated

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import Db, Json

EVERY = 250_000
"""Rows between two lines of progress."""


def import_(
    file: Annotated[
        str, typer.Argument(help="CSV, one row per recorded epoch: run, seed, epoch, task, metrics; or see --from.")
    ],
    scenario: Annotated[str, typer.Option(help="Scenario that these runs belong to.")],
    name: Annotated[str, typer.Option(help="Label of these runs; analyses group imported runs by it.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace runs stored with other values.")] = False,
    skip: Annotated[list[str] | None, typer.Option(help="Leave this column out; repeatable.")] = None,
    kind: Annotated[
        str, typer.Option("--from", help="What wrote it: csv, lightning, tensorboard, trackio or jsonl.")
    ] = "csv",
    epochs_from: Annotated[
        int | None,
        typer.Option(
            help="What the first trained epoch is called: 0, or 1 (0 = untrained); default as the file shows."
        ),
    ] = None,
    db: Db = None,
    json_: Json = False,
) -> None:
    """Import a CSV of recorded epochs, in the shape that ncpl export writes: all of it or nothing.

    Columns run (any label), seed, epoch, and where they apply task (default 0), split and layer; all others are
    metrics, by id (nc1, test_accuracy) or under a name of their own. The same file twice changes nothing.

    Example: ncpl import results.csv --scenario warm-start --name theirs

    Example: ncpl import lightning_logs --from lightning --scenario warm-start --name theirs
    """
    from ncpl_cli import __version__
    from ncpl_cli.analysis.words import count
    from ncpl_cli.errors import InputError
    from ncpl_cli.metrics.catalogue import METRICS
    from ncpl_cli.records import Address
    from ncpl_cli.scenarios import SCENARIOS
    from ncpl_cli.store import open_store
    from ncpl_cli.store.imports import import_csv

    if epochs_from not in (None, 0, 1):
        raise InputError(f"--epochs-from {epochs_from} is neither 0 nor 1.")
    if not name.strip() or not scenario.strip():
        raise InputError("--name and --scenario may not be empty.")

    def progress(rows: int) -> None:
        if rows // EVERY > progressed[0] // EVERY:
            _common.note(f"{rows} rows read.")
        progressed[0] = rows

    progressed = [0]
    with open_store(_common.store_url(db)) as store:
        done = import_csv(
            store, file, scenario=scenario, name=name, replace=replace, skip=skip or (), kind=kind,
            epochs_from=epochs_from, provenance={"ncpl": __version__}, progress=progress,
        )  # fmt: skip
    unknown = [m for m in done.metrics if Address.parse(m).metric not in METRICS]
    notes = list(done.notes)
    if unknown:
        notes.append(
            f"not in the catalogue, stored under their own names: {', '.join(unknown[:20])}"
            f"{f' and {len(unknown) - 20} more' if len(unknown) > 20 else ''}."
        )
    if not done.metrics:
        notes.append("no column is a metric: nothing was measured in these rows.")
    if done.ignored:
        notes.append(f"columns left out: {', '.join(done.ignored)}.")
    if done.not_finite:
        notes.append(f"{count(done.not_finite, 'value', 'that is', 'that are')} nan or infinite: undefined.")
    known = [one.id for one in SCENARIOS]
    if scenario not in known:
        notes.append(f"{scenario} is no scenario of ncpl ({', '.join(known)}): its runs are analysed by themselves.")
    if json_:
        _common.print_json(
            {
                "file": file, "scenario": scenario, "name": name, "rows": done.rows, "epochs_stored": done.epochs,
                "runs": dict(done.runs), "new": done.new, "extended": done.extended, "replaced": done.replaced,
                "unchanged": done.unchanged, "metrics": list(done.metrics), "notes": notes,
                "db": _common.store_url(db),
            }
        )  # fmt: skip
        return
    for line in notes:
        _common.note(f"note: {line}")
    kinds = {"new": done.new, "extended": done.extended, "replaced": done.replaced, "unchanged": done.unchanged}
    said = ", ".join(f"{n} {kind}" for kind, n in kinds.items() if n) or "none"
    rows, of, stored = count(done.rows, "row"), count(len(done.runs), "run"), count(done.epochs, "epoch")
    _common.out(f"{rows} of {of} ({said}); {stored} stored as {name!r}.")
