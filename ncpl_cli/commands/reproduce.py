"""`ncpl reproduce`: a paper's experiments as sweeps, and its claims beside our numbers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ncpl_cli import values
from ncpl_cli.commands import _common
from ncpl_cli.commands._common import DataDir, Db, Device, Json
from ncpl_cli.studies import SCALES
from ncpl_cli.values import Allowed, count

if TYPE_CHECKING:
    from ncpl_cli.analysis.claims import Judged
    from ncpl_cli.store import Store
    from ncpl_cli.studies import Part, PublishedStudy
    from ncpl_cli.sweep import Arm, Outcome


def reproduce(
    study: Annotated[str, typer.Argument(help="bonifazi2024, galanti2022, hui2022, ...; `list` says what each holds.")],
    scale: Annotated[str, typer.Option(help="smoke, laptop or full.", parser=Allowed(choices=SCALES))] = "smoke",
    part: Annotated[str | None, typer.Option(help="One part only; default all of them.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="PART=DATASET: another data set in a part's place; may be repeated: cifar=folder:DIR."),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Other seeds than the study's: 0-9.")] = None,
    jobs: Annotated[
        str, typer.Option(help="Workers: auto (one a core) or a number.", parser=Allowed(form=values.count_or_auto))
    ] = "auto",
    db: Db = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    json_: Json = False,
) -> None:
    """Run a paper's experiments and hold its claims against the results; the same again does what is missing.

    Example: ncpl reproduce bonifazi2024 --scale smoke
    """
    from ncpl_cli.studies import study_named

    if study == "list":
        _list(json_)
        return
    found = study_named(study)
    parts = _put(found, [found.part(part)] if part is not None else list(found.parts), data or ())

    from ncpl_cli import device as device_of
    from ncpl_cli.analysis.claims import undecided
    from ncpl_cli.commands._workers import Workers
    from ncpl_cli.errors import DataError, SweepFailed
    from ncpl_cli.store import open_store
    from ncpl_cli.studies import label
    from ncpl_cli.sweep import Options

    url, path = _common.store_url(db), _common.data_path(data_dir)
    kind, _, gpu = device_of.resolve(device).partition(":")
    options = Options(device=kind)
    document, bad = [], 0
    with open_store(url) as store:
        for one in parts:
            _common.note(f"{one.title} ({one.id}, {scale}). {one.about}")
            try:
                arms = arms_of(found.id, one, scale, seeds, path)
            except DataError as error:
                _common.note(f"note: {one.id} is left out: {error}")
                document.append(
                    _part_json(one, None, judged := undecided(one.claims, f"its data are not here: {error}"))
                )
                if not json_:
                    _show(one, judged)
                continue
            with Workers() as workers:
                outcome = _run(
                    label(found.id, one, scale), arms, store, options, jobs, (gpu,) if gpu else (), path, workers
                )
            bad += outcome.bad
            judged = _judged(found, one, scale, store)
            document.append(_part_json(one, outcome, judged))
            if not json_:
                _show(one, judged)
    if json_:
        _common.print_json({"study": found.id, "scale": scale, "db": url, "parts": document})
    else:
        where = f" --db {url}" if db else ""
        names = " ".join(f"--name {label(found.id, one, scale)}" for one in parts)
        _common.out(f"The whole of it in one file: ncpl report {names}{where}")
    if bad:
        raise SweepFailed(
            f"{count(bad, 'run')} failed or diverged; the others are done.", "ncpl sweep status shows why"
        )


def _put(study: PublishedStudy, parts: Sequence[Part], given: Sequence[str]) -> list[Part]:
    """The parts, each on the data set that `--data PART=DATASET` names for it; raises InputError for a misfit."""
    from ncpl_cli import settings
    from ncpl_cli.errors import InputError
    from ncpl_cli.scenarios import scenario_named

    put: dict[str, str] = {}
    for text in given:
        name, _, dataset = text.partition("=")
        if not dataset or name in put:
            raise InputError(f"--data {text!r}: write each part once, as --data PART=DATASET.")
        if study.part(name) not in parts:
            raise InputError(f"--data {text!r}: part {name} is not among those that are run.")
        settings.dataset_spec(scenario_named(study.part(name).plans["full"].scenario), {"dataset": dataset})
        put[name] = dataset
    return [part.on(put[part.id]) if part.id in put else part for part in parts]


def _run(
    name: str, arms: Sequence[Arm], store: Store, options: Any, jobs: str, gpus: Sequence[str], data_dir: Path | None,
    watcher: Any,
) -> Outcome:  # fmt: skip
    """The part as a sweep."""
    from ncpl_cli.sweep import run_sweep

    return run_sweep(
        arms, store, name=name, options=options, jobs=None if jobs == "auto" else int(jobs), gpus=gpus,
        data_dir=data_dir, watcher=watcher,
    )  # fmt: skip


def arms_of(study: str, part: Part, scale: str, seeds: str | None, data_dir: Path | None) -> list[Arm]:
    """The specs of every arm of a part, labelled; raises DataError where its data are not here."""
    from ncpl_cli import settings
    from ncpl_cli.scenarios import scenario_named
    from ncpl_cli.studies import arm_label
    from ncpl_cli.sweep import Arm

    plan = part.plans[scale]
    numbers = values.ranges(plan.seeds if seeds is None else seeds, "--seeds")
    arms = []
    for name, own in plan.arms.items():
        given = {**plan.settings, **own}
        scenario = scenario_named(str(given.pop("scenario", plan.scenario)))
        dataset = settings.dataset_spec(scenario, given)
        data = _common.load_data(dataset, data_dir)
        specs = settings.specs(scenario, given, data, dataset, numbers)
        arms.append(Arm(tuple(specs), arm_label(study, part, scale, name)))
    return arms


def _judged(study: PublishedStudy, part: Part, scale: str, store: Store) -> list[Judged]:
    from ncpl_cli.analysis import load
    from ncpl_cli.analysis.claims import addresses, arms_of, judge
    from ncpl_cli.studies import label

    chosen = load(store, addresses(part.claims), names=[label(study.id, part, scale)])
    return judge(part.claims, arms_of(chosen, study.id, part, scale))


def _part_json(part: Part, outcome: Outcome | None, judged: Sequence[Judged]) -> dict[str, Any]:
    return {"part": part.id, "title": part.title, "data": part.data or None, "sweep": outcome and outcome.to_json(),
            "claims": [one.to_json() for one in judged]}  # fmt: skip


def _show(part: Part, judged: Sequence[Judged]) -> None:
    """A part's claims as a table, then what must be known of each."""
    columns = ("claim", "published", "ours", "low", "high", "runs", "verdict")
    rows = []
    for one in judged:
        f = one.finding
        low, high = f.ci95 if f and f.ci95 else (None, None)
        rows.append((one.claim.says, one.claim.published, f and f.value, low, high, f and f.runs, one.verdict))
    _common.print_table(columns, rows, title=f"{part.title} ({part.id})")
    for one in judged:
        if one.finding and one.finding.survives:
            _common.say(f"{one.claim.id}: {one.finding.value:+.4g}; {one.finding.survives}", "- ")
    # a reason that several claims share is said once
    for why in dict.fromkeys(one.why for one in judged):
        ids = ", ".join(one.claim.id for one in judged if one.why == why)
        _common.say(f"{ids}: {why}", "- ")
    for one in judged:
        if one.finding and one.finding.beside:
            listed = ", ".join(f"{name} {value:.4g}" for name, value in one.finding.beside.items())
            _common.say(f"{one.claim.id}: beside it {listed}", "- ")
        if one.claim.caveat:
            _common.say(f"{one.claim.id}: {one.claim.caveat}", "- ")
    for command in part.analyses if sys.stdout.isatty() else ():
        _common.say(f"look further: {command}", "- ")
    _common.out()


def _list(json_: bool) -> None:
    """What can be reproduced: studies, parts, scales and the number of runs and claims."""
    from ncpl_cli.studies import STUDIES, study_named

    rows = []
    for name in STUDIES:
        study = study_named(name)
        for part in study.parts:
            for scale, plan in part.plans.items():
                runs = len(plan.arms) * len(values.ranges(plan.seeds, "seeds"))
                rows.append((study.id, part.id, scale, plan.scenario, runs, len(part.claims), part.title))
    columns = ("study", "part", "scale", "scenario", "runs", "claims", "what")
    if json_:
        _common.print_json({"studies": [dict(zip(columns, row, strict=True)) for row in rows]})
    else:
        _common.print_table(columns, rows)
