"""`ncpl runs`: list, show, release, delete."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ncpl_cli.app import App
from ncpl_cli.commands import _common
from ncpl_cli.commands._common import STATUSES, Db, Json
from ncpl_cli.commands._progress import CURVES
from ncpl_cli.commands._table import cell_text, duration, sparkline
from ncpl_cli.values import Allowed, count

app = App(help="List, show, release and delete runs.", invoke_without_command=True)


@app.callback()
def _alone(context: typer.Context) -> None:
    """List, show, release and delete runs; alone, list them."""
    if context.invoked_subcommand is None:
        list_runs()


@app.command("list")
def list_runs(
    scenario: Annotated[str | None, typer.Option(help="Only this scenario.")] = None,
    name: Annotated[str | None, typer.Option(help="Only runs with this label.")] = None,
    status: Annotated[
        str | None, typer.Option(help="Only runs with this status.", parser=Allowed(choices=STATUSES))
    ] = None,
    probes: Annotated[bool, typer.Option("--probes", help="Also the probes of warm-start runs.")] = False,
    db: Db = None,
    json_: Json = False,
) -> None:
    """List runs.

    Example: ncpl runs list --scenario permuted-mnist
    """
    from ncpl_cli.analysis.casualties import in_words, varying
    from ncpl_cli.store import open_store

    with open_store(_common.store_url(db), readonly=True) as store:
        among = store.select(scenario=scenario, names=[name] if name is not None else ())
    about = varying(among)  # of all statuses: what tells the diverged ones is what the others have otherwise
    found = [row for row in among if status in (None, row.status)]
    kept = {row.id for row in found if probes or scenario == row.scenario or row.parent is None}
    rows = [r for r in summaries(among, about, probes=True) if r["id"] in kept]
    if hidden := len(found) - len(rows):
        _common.note(f"{count(hidden, 'probe', 'is', 'are')} not listed: --probes shows them.")
    if json_:
        _common.print_json({"runs": rows})
        return
    if sys.stdout.isatty():
        return _for_a_terminal(rows, _curves(db, rows), [row for row in found if row.parent is None], name)
    columns = ("id", "scenario", "seed", "status", "epochs", "total_epochs", "seconds", "names", "held_by")
    more = [key for key in ("settings", "error") if any(r[key] for r in rows)]  # what tells runs apart, what went wrong
    cells = [{**r, "names": ", ".join(r["names"]), "settings": in_words(r["settings"])} for r in rows]
    _common.print_table((*columns, *more), [[r[c] for c in (*columns, *more)] for r in cells])


def _curves(db: str | None, rows: list[dict[str, Any]]) -> dict[str, dict[str, list[float | None]]]:
    from ncpl_cli.store import open_store

    if len(rows) > MOST_CURVES:
        return {}
    with open_store(_common.store_url(db), readonly=True) as store:
        return store.curves([row["id"] for row in rows], list(CURVES))


def _for_a_terminal(
    rows: list[dict[str, Any]], curves: dict[str, dict[str, list[float | None]]], found: list[Any], name: str | None
) -> None:
    """A line a run: why some went wrong is said first, for all that went so."""
    from ncpl_cli.analysis.casualties import casualties, together

    for line in together(casualties(found)):  # first: of many runs the end of the table is what stays in sight
        _common.say(line, "- ")
    least = ("epochs", "seconds", "names", "nc1 so far", "online so far")
    _common.print_table(*table_of(rows, curves, name), least=least)


def table_of(
    rows: list[dict[str, Any]], curves: dict[str, dict[str, list[float | None]]], name: str | None
) -> tuple[list[str], list[list[object]]]:
    """Columns and rows of a list of runs for a terminal; a column that says the same of all of them is left out."""
    from ncpl_cli.analysis.casualties import in_words

    def once(key: str) -> bool:
        return len({r[key] for r in rows}) > 1

    cells: list[dict[str, object]] = []
    for r in rows:
        whole = r["total_epochs"] in (None, r["epochs"])
        seen = curves.get(r["id"], {})
        cells.append({
            "run": r["id"],
            **({"scenario": r["scenario"]} if once("scenario") else {}),
            "seed": r["seed"], "status": r["status"],
            "settings": in_words(r["settings"]),
            "epochs": str(r["epochs"]) if whole else f"{r['epochs']}/{r['total_epochs']}",
            "seconds": r["seconds"],
            **({"names": ", ".join(r["names"])} if name is None and len({tuple(r["names"]) for r in rows}) > 1 else {}),
            **{f"{title} so far": sparkline(seen.get(metric, ())) for metric, title in CURVES.items()},
            "held by": r["held_by"],
        })  # fmt: skip
    columns = list(cells[0]) if cells else ["run", "seed", "status"]
    return columns, [[cell[column] for column in columns] for cell in cells]


MOST_CURVES = 300
"""Runs whose curves are read for a list; of more the epochs of a whole store would be read."""


@app.command("show")
def show(
    run: Annotated[str, typer.Argument(help="Id, the beginning of one, or a label.")],
    db: Db = None,
    json_: Json = False,
) -> None:
    """Show a run: settings, provenance, attempts, its last epoch and why values are undefined.

    Example: ncpl runs show 3fa9
    """
    from ncpl_cli.store import open_store

    with open_store(_common.store_url(db), readonly=True) as store:
        row = store.run(run)
        last = store.last_epoch(row.id)
        values = {str(a): v for a, v in store.values(row.id, last).items()}
        of_matrix = {name: of[last] for name, of in store.matrix_numbers(row.id).items() if last in of}
        values = {**of_matrix, **values}
        reasons = {str(a): why for a, why in store.reasons(row.id, last).items() if str(a) not in values}
        position = {
            k: v for k, v in store.final(row.id).items() if k in ("epoch", "task", "task_epoch", "samples_seen")
        }
        seen = store.task_accuracies(row.id)
        probed = sum(probe.seconds for probe in store.runs(parent=row.id))
        curves = store.curves([row.id], list(CURVES))[row.id] if sys.stdout.isatty() else {}
        attempts = [
            {"attempt": a["attempt"], "started": _time(a["started"]), "ended": _time(a["ended"]),
             "outcome": a["outcome"], **a["provenance"]}
            for a in store.attempts(row.id)
        ]  # fmt: skip
    document = {
        **_summary(row, probed), "settings": row.settings, "horizon": row.horizon, "recorded": row.recorded,
        "error": row.error, "created": _time(row.created),
        "last_epoch": {**position, "values": values, "undefined": reasons},
        "task_accuracy": {str(task): value for epoch, task, value in seen if epoch == last}, "attempts": attempts,
    }  # fmt: skip
    if json_:
        _common.print_json(document)
        return
    facts = {**_summary(row, probed), "names": ", ".join(row.names), "created": document["created"],
             "error": row.error}  # fmt: skip
    if curves:
        facts["seconds"] = duration(row.seconds + probed)
    for metric, values_so_far in curves.items():
        known = [v for v in values_so_far if v is not None]
        if bars := sparkline(known, 40):
            facts[metric] = f"{cell_text(float(known[0]))} {bars} {cell_text(float(known[-1]))}"
    _common.print_table(("run", ""), [(k, v) for k, v in facts.items() if v is not None])
    _common.print_table(("setting", "value"), sorted(row.settings.items()), title="Settings")
    _common.print_table(
        ("metric", "value"),
        [
            *((k, v) for k, v in {**position, **values}.items()),
            *((k, f"undefined: {why}") for k, why in reasons.items()),
        ],
        title="Last epoch",
    )
    if cost := row.recorded.get("cost"):
        columns = ("family", "epochs", "seconds an epoch")
        rows = [(name, int(of["epochs"]), of["seconds"] / of["epochs"]) for name, of in sorted(cost.items())]
        _common.print_table(columns, rows, title="What measuring has cost")
    shown = ("attempt", "started", "outcome", "ncpl", "commit", "device", "engine", "threads", "host")
    _common.print_table(shown, [[a.get(c) for c in shown] for a in attempts], title="Attempts")


@app.command("delete")
def delete(
    runs: Annotated[list[str], typer.Argument(help="Ids, beginnings of ids, or labels.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    db: Db = None,
) -> None:
    """Delete runs with their probes, epochs and checkpoints.

    Example: ncpl runs delete 3fa9 --yes
    """
    from ncpl_cli.store import open_store
    from ncpl_cli.store.run_row import is_id

    with open_store(_common.store_url(db), create=False) as store:
        found = store.belongings(runs)
        folders = [store.checkpoints / run for run in (*found.runs, *found.probes) if is_id(run)]
        said = (
            f"{count(len(found.runs), 'run')} ({', '.join(found.runs)}), "
            f"{count(len(found.probes), 'probe')}, {count(found.epochs, 'epoch')} and "
            f"{count(sum(len(list(folder.glob('*.safetensors'))) for folder in folders), 'checkpoint')}"
        )
        if not yes:
            typer.confirm(f"delete {said}?", abort=True, err=True)
        store.delete(*found.runs)
        for folder in folders:
            if folder.is_symlink():  # what it leads to is not the store's
                folder.unlink()
            else:
                shutil.rmtree(folder, ignore_errors=True)
        _common.note(f"deleted {said}.")


@app.command("release")
def release(
    run: Annotated[str, typer.Argument(help="Id, label, or the beginning of an id.")],
    force: Annotated[bool, typer.Option("--force", help="Also while its lease lasts: its host is lost.")] = False,
    db: Db = None,
) -> None:
    """Give a run free that a lost process holds, so that the same command goes on with it at once.

    What that process still writes, should it live after all, is refused.

    Example: ncpl runs release 3fa9 --force
    """
    from ncpl_cli.store import open_store
    from ncpl_cli.store.run_row import LAST_MOMENT

    with open_store(_common.store_url(db), create=False) as store:
        row = store.break_lease(run, force=force)
    if row.status != "running" or row.owner is None:
        _common.note(f"nobody holds run {row.id}: it is {row.status}.")
        return
    until = f"lasted until {_time(min(row.lease_expires or 0, LAST_MOMENT - 1))}" if row.held else "had ended"
    _common.note(
        f"run {row.id} is free: the lease of process {row.owner.pid} on {row.owner.host} {until}. It is interrupted "
        f"after epoch {row.epochs}; what that process still writes is refused."
    )


def summaries(rows: list[Any], about: Mapping[str, Mapping[str, object]], probes: bool = False) -> list[dict[str, Any]]:
    """What each run is, with the settings that tell it from the others; the seconds of its probes belong to it."""
    probed: dict[str, float] = {}
    for row in rows:
        if row.parent is not None:
            probed[row.parent] = probed.get(row.parent, 0.0) + row.seconds
    return [
        {**_summary(row, probed.get(row.id, 0.0)), "settings": about[row.id], "error": row.error}
        for row in rows
        if probes or row.parent is None
    ]


def _summary(row: Any, probes: float) -> dict[str, Any]:
    """What a run is; `probes`: seconds that its probes took, which belong to it."""
    holder = f"{row.owner.host}:{row.owner.pid}" if row.owner and row.held else None
    status = "interrupted" if row.status == "running" and not row.held else row.status
    return {
        "id": row.id, "scenario": row.scenario, "seed": row.seed, "status": status, "epochs": row.epochs,
        "total_epochs": row.total_epochs, "seconds": row.seconds + probes, "names": list(row.names), "held_by": holder,
        "parent": row.parent, "branch_epoch": row.branch_epoch,
    }  # fmt: skip


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
