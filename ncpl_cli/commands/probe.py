"""`ncpl probe`: run the probes that warm-start runs still lack."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import DataDir, Db, Device, Json


def probe(
    runs: Annotated[list[str] | None, typer.Argument(help="Warm-start runs; default all that are finished.")] = None,
    name: Annotated[str | None, typer.Option(help="Only runs with this label.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, max=4096, help="Threads; default the number of cores.")] = None,
    db: Db = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Run the probes that warm starts still lack, from their checkpoints.

    Several such commands may work on one store at the same time: each takes what nobody is at.

    Example: ncpl train warm-start --probes later; ncpl probe
    """
    from ncpl_cli import device as device_of
    from ncpl_cli import runs as running
    from ncpl_cli import settings
    from ncpl_cli.commands._progress import Progress
    from ncpl_cli.errors import InputError, RunFailed
    from ncpl_cli.store import open_store

    where = device_of.resolve(device)
    statuses: dict[str, str] = {}
    with open_store(_common.store_url(db), create=False) as store:
        rows = store.select(runs or None, names=[name] if name is not None else ())
        if not rows:
            raise InputError("there is no warm-start run of that description.", "ncpl train warm-start makes some")
        ready = [row for row in rows if row.status == "finished"]
        if waiting := len(rows) - len(ready):
            _common.note(f"{waiting} of {len(rows)} runs are not finished; their probes wait.")
        by_data: dict[Any, list[Any]] = {}
        for row in ready:
            by_data.setdefault(settings.dataset_of(row), []).append(row)
        with Progress() as progress:
            for dataset, of_data in by_data.items():
                data = _common.load_data(dataset, _common.data_path(data_dir))
                parents = [settings.from_row(row, data) for row in of_data]
                statuses |= running.probe(
                    parents, store, data, device=where, observer=progress, name=name, jobs=jobs, skip_held=True
                )
    counts = dict(Counter(statuses.values()))
    if json_:
        _common.print_json({"probes": counts})
    else:
        _common.print_table(("status", "probes"), sorted(counts.items()))
    if failed := [run for run, status in statuses.items() if status != "finished"]:
        raise RunFailed(
            f"{len(failed)} of {len(statuses)} probes did not finish.", f"ncpl runs show {failed[0]} tells more"
        )
