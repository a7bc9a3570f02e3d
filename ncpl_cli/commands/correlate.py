"""`ncpl correlate`: does collapse go with plasticity, within runs or across them?"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ncpl_cli.commands import _became, _common, _correlation, _prediction
from ncpl_cli.commands._common import Db, Json
from ncpl_cli.errors import InputError, NothingFound, unknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ncpl_cli.analysis import GroupCorrelation, Options, Study
    from ncpl_cli.analysis.preregistered import Question
    from ncpl_cli.store import Store


@_became.told
def correlate(
    x: Annotated[str, typer.Option("--x", help="metric, metric@split, metric@split/layer; with commas.")] = "nc1",
    y: Annotated[
        str | None,
        typer.Option("--y", help="Likewise; default plasticity_loss with several tasks, else probe_test_accuracy."),
    ] = None,
    window: Annotated[
        int, typer.Option(min=2, max=10**6, help="Length of the sliding window, in epochs or tasks.")
    ] = 100,
    scenario: Annotated[str | None, typer.Option(help="Only this scenario.")] = None,
    runs: Annotated[str | None, typer.Option(help="Only these runs: ids or labels with commas.")] = None,
    name: Annotated[list[str] | None, typer.Option(help="Only runs with this label; repeatable.")] = None,
    method: Annotated[str, typer.Option(help="pearson or spearman.")] = "pearson",
    across: Annotated[
        str | None, typer.Option(help="epochs, tasks or runs; default tasks where a run has several, else epochs.")
    ] = None,
    control: Annotated[
        list[str] | None, typer.Option(help="Hold this metric fixed; repeatable. Default train_accuracy.")
    ] = None,
    lags: Annotated[str | None, typer.Option(help="Also shift y by these many rows, e.g. -20:20.")] = None,
    pairs: Annotated[str | None, typer.Option(help="all: every pair of recorded metrics.")] = None,
    pool: Annotated[bool, typer.Option("--pool", help="Merge groups; runs of one seed then count as one.")] = False,
    split: Annotated[str, typer.Option(help="Split of metrics that name none.")] = "train",
    layer: Annotated[str, typer.Option(help="Layer of metrics that name none.")] = "last",
    multiverse: Annotated[
        bool, typer.Option("--multiverse", help="Every defensible analysis: how many agree, and what decides the sign.")
    ] = False,
    predict: Annotated[
        str | None, typer.Option(help="Which diagnostic before a task ranks this metric of the task? All in one table.")
    ] = None,
    plan: Annotated[
        str | None,
        typer.Option(help="TOML of questions: answer each as it was planned, and say what has changed since."),
    ] = None,
    resampling_seed: Annotated[int, typer.Option(help="Seed of all resampling.")] = 0,
    plot: Annotated[str | None, typer.Option(help="Draw the windows into this file: .svg, .png or .pdf.")] = None,
    db: Db = None,
    json_: Json = False,
) -> None:
    """Correlate two metrics: the published statistic, and beside it what a statistician would ask for.

    Example: ncpl correlate --x nc1 --y test_accuracy --scenario warm-start --window 100
    """
    from ncpl_cli.analysis import Options, all_pairs
    from ncpl_cli.analysis import correlate as correlation_of
    from ncpl_cli.analysis.levels import between_settings
    from ncpl_cli.analysis.preregistered import read_plan
    from ncpl_cli.metrics.catalogue import METRICS
    from ncpl_cli.report.correlation_figure import check_figure, save_windows
    from ncpl_cli.store import open_store

    questions = read_plan(Path(plan)).questions if plan else ()
    if questions and (pairs or y is not None or x != "nc1" or control or predict):
        raise InputError("--plan names pairs and controls: leave out --x, --y, --pairs, --control and --predict.")
    if predict:
        if pairs or multiverse or y is not None or plot:
            raise InputError("--predict ranks every diagnostic: leave out --y, --pairs, --multiverse and --plot.")
        _prediction.run(predict, runs, scenario, name or (), resampling_seed, _common.store_url(db), json_)
        return
    if multiverse and (pairs or across == "runs"):
        raise InputError(
            "--multiverse takes one pair within runs: leave out --pairs and --across runs.",
            "ncpl correlate --multiverse; over runs, --across runs holds each control fixed by itself",
        )
    if pairs and (y is not None or x != "nc1"):
        raise InputError("--pairs all takes every pair: leave out --x and --y.")
    if questions:
        x, y = ",".join(q.x for q in questions), ",".join(q.y for q in questions)
        control = [c for q in questions for c in q.controls]
    xs = [_address(part, split, layer) for part in x.split(",")]
    ys = [_address(part, split, layer) for part in y.split(",")] if y else []
    controls = tuple(_address(part, split, layer) for one in control or [] for part in one.split(","))
    options = Options(
        window=window, method=method, across=across, controls=controls, lags=_lags(lags), pool=pool,
        seed=resampling_seed, directions={m.id: m.direction for m in METRICS.values()},
    )  # fmt: skip
    with open_store(_common.store_url(db), readonly=True) as store:
        study = _study(
            store, [*xs, *ys], controls, runs, scenario, name or (), everything=bool(pairs), choose_y=not ys,
            collapse=multiverse,
        )  # fmt: skip
    chosen = all_pairs(study) if pairs else [(a, b) for a in xs for b in ys if a != b]
    if pairs and not chosen:
        raise NothingFound("no two metrics that vary are recorded.", "ncpl export shows what is recorded")
    if plot is not None:
        check_figure(plot, len(chosen))
    if questions:
        results = tuple(
            result
            for q in questions
            for result in correlation_of(
                study, [(q.x, q.y)],
                replace(options, window=q.window, method=q.method, across=q.across, controls=q.controls),
            )
        )  # fmt: skip
        _say_changes(questions, study)
    else:
        results = correlation_of(study, chosen, options, xs=xs)
    if multiverse:
        results = _with_multiverse(study, results, options)
    if plot is not None:
        save_windows(results, plot)
        if plot != "-":
            _common.note(f"drawn into {plot}.")
    if json_:
        document = {"groups": [result.to_json() for result in results]}
        more = {"between_settings": [b.to_json() for b in between]} if (between := between_settings(results)) else {}
        _common.print_json(document | more)
        return
    _correlation.show(results)
    for one in between_settings(results):
        _common.say(one.sentence())


def _say_changes(questions: Sequence[Question], study: Study) -> None:
    """What has changed since the plans that these runs were made under."""
    from ncpl_cli.analysis.preregistered import Plan, changes

    now = Plan(tuple(questions))
    stored = dict.fromkeys(s.run.plan for s in study.series if s.run.plan)
    if not stored:
        _common.note(f"plan {now.digest}: these runs were begun without a plan; all of it was asked afterwards.")
    for text in stored:
        before = Plan.of(text)
        if lines := changes(before, now):
            _common.note(
                f"plan {before.digest}, under which runs were made, has become {now.digest}: {'; '.join(lines)}."
            )


def _with_multiverse(
    study: Study, results: Sequence[GroupCorrelation], options: Options
) -> tuple[GroupCorrelation, ...]:
    """The results, each with the verdict over every defensible analysis of its pair."""
    from ncpl_cli.analysis import groups
    from ncpl_cli.analysis.multiverse import multiverse

    found = []
    progress = _common.NowAndThen("multiverse")
    by_title = {group.title: group for group in groups(study, pool=options.pool)}
    for result in results:
        whole = multiverse(by_title[result.title], result.x, result.y, options, progress=progress)
        found.append(result if whole is None else replace(result, multiverse=whole))
    return tuple(found)


def _study(
    store: Store, addresses: list[str], controls: tuple[str, ...], runs: str | None, scenario: str | None,
    names: list[str] | tuple[()], *, everything: bool, choose_y: bool, collapse: bool = False,
) -> Study:  # fmt: skip
    from ncpl_cli.analysis import load
    from ncpl_cli.analysis.correlation import DEFAULT_ADDRESSES
    from ncpl_cli.analysis.directions import is_collapse
    from ncpl_cli.analysis.results import DEFAULT_CONTROL

    # a default y is chosen by what is there; both plasticity losses stand side by side over runs
    wanted = [*addresses, *controls, DEFAULT_CONTROL]
    if choose_y or any(a.startswith("plasticity_loss") for a in addresses):
        wanted += DEFAULT_ADDRESSES
    ids = [part.strip() for part in runs.split(",")] if runs else None
    if collapse and not everything:  # every recorded collapse metric may stand for x
        chosen = [row.id for row in store.select(ids, scenario=scenario, names=names)]
        wanted += [str(a) for a in store.recorded(chosen) if is_collapse(a.metric)]
    study = load(store, None if everything else wanted, ids=ids, scenario=scenario, names=names)
    known = set(study.addresses())
    settings = {key for s in study.series for key in s.run.settings}  # a control may be one of these
    for address in [*addresses, *(c for c in controls if c not in settings)]:
        if study.series and address not in known and address not in DEFAULT_ADDRESSES:
            raise unknown("metric of these runs", address, map(str, store.recorded([s.run.id for s in study.series])))
    return study


def _address(text: str, split: str, layer: str) -> str:
    """An address with the defaults of --split and --layer, where its metric has splits and layers."""
    from ncpl_cli.metrics.catalogue import METRICS
    from ncpl_cli.records import Address

    metric = METRICS.get(Address.parse(text).metric)
    if metric is not None and metric.family in ("collapse", "units"):
        return str(Address.parse(text, split, layer))
    return str(Address.parse(text))


def _lags(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    found = re.fullmatch(r"\s*([+-]?[0-9]{1,6})\s*:\s*([+-]?[0-9]{1,6})\s*", text)
    if not found:
        raise InputError(f"--lags {text!r} is not a range.", "write it as --lags -20:20")
    return int(found[1]), int(found[2])
