"""`ncpl probe`: run the probes that warm-start runs still lack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import typer

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import DataDir, Db, Device, Json
from ncpl_cli.values import count


def probe(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs; default all that are finished and take probes.")
    ] = None,
    probe: Annotated[
        list[str] | None, typer.Option(help="KIND or KIND:KEY=VALUE,... beside those the runs were made with.")
    ] = None,
    probe_every: Annotated[
        int | None, typer.Option(min=1, help="With --probe: epochs between two; default after each task.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only runs with this label.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, max=4096, help="Threads; default the number of cores.")] = None,
    db: Db = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Run the probes that runs still lack, from their checkpoints.

    Several such commands may work on one store at the same time: each takes what nobody is at.

    Example: ncpl train warm-start --probes later; ncpl probe
    """
    from ncpl_cli import device as device_of
    from ncpl_cli import probes, settings
    from ncpl_cli import runs as running
    from ncpl_cli.commands._progress import Progress
    from ncpl_cli.errors import InputError, RunFailed
    from ncpl_cli.store import open_store

    kinds = probes.parse_all(probe or ())
    statuses: dict[str, str] = {}
    with open_store(_common.store_url(db), create=False) as store:
        chosen = store.select(runs or None, names=[name] if name is not None else ())
        rows = [row for row in chosen if takes(row, kinds)]
        if not rows:
            raise InputError("there is no run of that description that takes probes.", "ncpl probe RUN --probe labels")
        where = device_of.resolve(device)
        ready = [row for row in rows if row.status == "finished"]
        if waiting := len(rows) - len(ready):
            verb = "is" if waiting == 1 else "are"
            _common.note(f"{waiting} of {count(len(rows), 'run')} {verb} not finished; probes wait for that.")
        by_data: dict[Any, list[Any]] = {}
        for row in ready:
            by_data.setdefault(settings.dataset_of(row), []).append(row)
        with Progress() as progress:
            for dataset, of_data in by_data.items():
                data = _common.load_data(dataset, _common.data_path(data_dir))
                parents = [
                    replace(spec, probes=probes.merged(spec.probes, kinds), probe_every=probe_every or spec.probe_every)
                    for spec in (settings.from_row(row, data) for row in of_data)
                ]
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
            f"{len(failed)} of {count(len(statuses), 'probe')} did not finish.",
            f"ncpl runs show {failed[0]} tells more",
        )


def takes(row: Any, kinds: Sequence[Any]) -> bool:
    """Whether a stored run takes probes: those of its own, or those that are asked for now."""
    from ncpl_cli.scenarios import SCENARIOS

    ours = {scenario.id: scenario for scenario in SCENARIOS}
    trained = "dataset_digest" in row.settings  # others' logs may go by a scenario's name
    return (
        trained
        and row.scenario in ours
        and bool(kinds or row.recorded.get("probes") or hasattr(ours[row.scenario], "comes_with"))
    )
