"""`ncpl train SCENARIO`: one sub-command per scenario, made from the scenario's own fields."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ncpl_cli import values
from ncpl_cli.app import App, told
from ncpl_cli.commands import _beforehand, _common
from ncpl_cli.commands._common import DataDir, Db, Device, DryRun, Gap, Json, Plan
from ncpl_cli.values import Allowed


class Scenarios(TyperGroup):
    """Sub-commands that are made when they are asked for, so that `ncpl --help` loads no numerical library."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The scenarios' ids, in the registry's order."""
        from ncpl_cli.scenarios import SCENARIOS

        return [scenario.id for scenario in SCENARIOS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The sub-command of a scenario; raises InputError that lists the known ones."""
        from ncpl_cli.scenarios import scenario_named

        scenario = scenario_named(cmd_name)
        text = f"{scenario.__doc__}\n\nExample: ncpl train {cmd_name} --seeds 0-4"
        own = scenario_parameters(scenario)
        parameters = [*own, *parameters_of(common_options, without=[p.name for p in own])]
        return command(cmd_name, text, parameters, lambda given: train(scenario, given))


app = App(cls=Scenarios, help="Train runs of a scenario, measured every epoch.")


@app.callback()
def _group() -> None:
    """Train runs of a scenario, measured every epoch."""


def common_options(
    seed: Annotated[int | None, typer.Option(help="One seed; default 0.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Several seeds: 0-4 or 1,3,7.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="digits, mnist, cifar10, ... (ncpl catalog), folder:PATH, module:callable.")
    ] = None,
    train_samples: Annotated[int | None, typer.Option(help="Training samples in all, class-balanced.")] = None,
    validation_fraction: Annotated[float | None, typer.Option(help="Share of training samples set aside.")] = None,
    image_size: Annotated[int | None, typer.Option(help="folder: side in pixels; default the median.")] = None,
    normalisation: Annotated[
        str | None,
        typer.Option(help="Pixels by the channels' own deviation or, cifar10, as published: own, published."),
    ] = None,
    network: Annotated[
        str | None, typer.Option(help="mlp, resnet18, convnet, wide_resnet or module:callable; default the scenario's.")
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            help="Units per layer, default 100; of others channels (64, convnet 16) or, wide_resnet, the factor 4."
        ),
    ] = None,
    depth: Annotated[
        int | None, typer.Option(help="Hidden layers, default 3; wide_resnet: 10, 16, ..., default 28.")
    ] = None,
    activation: Annotated[str | None, typer.Option(help="Activation; default relu.")] = None,
    norm: Annotated[str | None, typer.Option(help="none, layer or batch; default none.")] = None,
    init: Annotated[str | None, typer.Option(help="kaiming or torch (each layer as torch makes it).")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd, adam or adamw; default sgd.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; default the scenario's, for adam 1e-3.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of sgd; default 0.")] = None,
    beta1: Annotated[float | None, typer.Option(help="Of adam and adamw; default 0.9.")] = None,
    beta2: Annotated[float | None, typer.Option(help="Of adam and adamw; default 0.999.")] = None,
    eps: Annotated[float | None, typer.Option(help="Of adam and adamw; default 1e-8.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay; default 0.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Batch size; default the scenario's.")] = None,
    lr_schedule: Annotated[
        str | None, typer.Option(help="constant, cosine or step:EVERY:FACTOR within a task.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="cross_entropy[:smoothing=S] or mse; default the scenario's (ncpl catalog).")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="float32, float64, tf32 (CUDA) or bf16; default float32.")
    ] = None,
    intervention: Annotated[
        list[str] | None, typer.Option(help="ID or ID:KEY=VALUE,...; may be repeated (ncpl catalog).")
    ] = None,
    probe: Annotated[
        list[str] | None,
        typer.Option(help="KIND or KIND:KEY=VALUE,...; may be repeated: full-data, labels, offset, next-task."),
    ] = None,
    probe_every: Annotated[int | None, typer.Option(help="Epochs between two probes; default after each task.")] = None,
    probe_epochs: Annotated[int | None, typer.Option(help="Epochs of a probe; default 10.")] = None,
    fresh_baseline: Annotated[
        bool, typer.Option("--fresh-baseline", help="Train a fresh network on every task too: fresh_beforehand.")
    ] = False,
    fresh_baseline_over: Annotated[
        str | None, typer.Option(help="What it covers: a task's first epoch or the whole task; default first.")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="auto, online or stacked; default auto.")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="default, all, or ids with commas (ncpl catalog); ID@start: before a task's first step."),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Layers to measure: last or all; default last.")] = None,
    measure_every: Annotated[int | None, typer.Option(help="Measure every K epochs; default 1.")] = None,
    measure_at: Annotated[
        str | None, typer.Option(help="Epochs with every chosen metric, e.g. 0,1,5; elsewhere no expensive ones.")
    ] = None,
    measure_samples: Annotated[int | None, typer.Option(help="Samples per split to measure on; default all.")] = None,
    task_accuracy: Annotated[
        str | None,
        typer.Option(help="Tested again: current task, end (some 30 tasks), all, every epoch all; default end."),
    ] = None,
    keep_checkpoints: Annotated[
        str | None, typer.Option(help="last, probes, every:K or all; default last, warm-start: probes.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, max=4096, help="Runs trained side by side; default the number of cores.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="A label for these runs.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on where an identical run stopped, or begin anew.")] = True,
    dry_run: DryRun = False,
    plan: Plan = None,
    gap: Gap = None,
    db: Db = None,
    data_dir: DataDir = None,
    device: Device = "auto",
    json_: Json = False,
) -> None: ...


def scenario_parameters(scenario: Any) -> list[inspect.Parameter]:
    """A scenario's options, as a function that Typer reads would have them."""
    from ncpl_cli.spec import ALLOWED

    own_types = typing.get_type_hints(scenario)
    parameters = []
    for f in fields(scenario):
        kind = own_types[f.name]
        text = f.metadata["help"] + (f" ({' or '.join(f.metadata['choices'])})" if f.metadata["choices"] else "")
        shown = ",".join(map(str, f.default)) if isinstance(f.default, tuple) else f.default
        if f.default is not None:
            text += f"; default {shown}"
        parameters.append(_parameter(f.name, text, Allowed.of(kind, f.metadata)))
    text = "now, or later: ncpl probe runs what is missing; default now"
    parameters.append(_parameter("probes", text, ALLOWED["probes"]))
    return parameters


def _parameter(name: str, text: str, allowed: Allowed) -> inspect.Parameter:
    shown: Any = allowed.kind
    if allowed.kind is tuple:  # a list is checked here and kept as it was written: a sweep's name follows from that
        shown, written = str, allowed
        allowed = Allowed(form=lambda text, said: (values.read(text, written, said), text)[1])
    annotation = Annotated[shown | None, typer.Option(help=text, parser=allowed)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def parameters_of(function: Callable[..., None], *, without: Collection[str] = ()) -> list[inspect.Parameter]:
    """The options that a function's signature describes."""
    hints = typing.get_type_hints(function, include_extras=True)
    return [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[parameter.name])
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in without
    ]


def command(name: str, text: str, parameters: list[inspect.Parameter], body: Callable[[dict[str, Any]], None]) -> Any:
    """A command whose options are made, not written; `body` gets them by name."""

    def call(**given: Any) -> None:
        body(given)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    one = App()
    one.command(name=name, help=text)(call)
    return told(typer.main.get_command(one))


def planned(spec: Any, plan: str | None) -> Any:
    """The spec under a plan of the analysis, which its run keeps; it is no part of its identity."""
    from dataclasses import replace

    return spec if plan is None else replace(spec, measure=replace(spec.measure, plan=plan))


SHOWN = ("online_accuracy", "test_accuracy", "nc1", "plasticity_loss")
"""The metrics of a run's last epoch that are printed."""


def train(scenario: Any, given: dict[str, Any]) -> None:
    """Train the runs that the options describe, and print what became of them."""
    from ncpl_cli import settings
    from ncpl_cli.errors import InputError

    if given["seed"] is not None and given["seeds"] is not None:
        raise InputError("--seed and --seeds say the same thing: give one.")
    _beforehand.check(given["gap"], given["dry_run"])
    seeds = given["seeds"] if given["seeds"] is not None else (given["seed"] if given["seed"] is not None else 0,)
    asked = settings.asked(scenario, given)
    plan = _beforehand.plan_text(given["plan"])
    settings.find(asked)  # from here on the line is right, as far as it can be known without data and torch

    from ncpl_cli import device as device_of
    from ncpl_cli.plan import best_device

    auto = given["device"] == "auto"
    device = "auto" if auto else device_of.resolve(given["device"])
    data = _common.load_data(asked.dataset, _common.data_path(given["data_dir"]))
    specs = [planned(spec, plan) for spec in settings.on(asked, data, seeds)]
    if auto:
        device = best_device(specs, lambda: device_of.resolve("auto"))
    settings.ready(specs, data, device)
    if given["dry_run"]:
        return _show_plan(specs, data, device, given.get("probes") != "later", given)

    from ncpl_cli import runs
    from ncpl_cli.analysis.warm_start import warm_start_gap
    from ncpl_cli.commands._progress import Progress
    from ncpl_cli.errors import RunFailed
    from ncpl_cli.store import open_store, shown

    url = _common.store_url(given["db"])
    with open_store(url) as store:
        with Progress() as progress:
            statuses = runs.run(
                specs, store, data, device=device, observer=progress, name=given["name"], jobs=given["jobs"],
                keep=given["keep_checkpoints"], resume=given["resume"], probes=given.get("probes") != "later",
            )  # fmt: skip
        results = [_result(store, spec.id) for spec in specs]
        gap = warm_start_gap(store, [spec.id for spec in specs]) if hasattr(scenario, "branch_epochs") else None
        bad = [run for run, status in statuses.items() if status != "finished"]
        why = store.run(bad[0]).error if bad else None
    if gap:
        results = [result | probed.to_json() for result, probed in zip(results, gap.runs, strict=True)]
    if given["json_"]:
        document = {"runs": results, "db": shown(url)}
        _common.print_json(document | ({"warm_start_gap": gap.over_seeds.to_json()} if gap else {}))
    else:
        _print_results(results, shown(url))
        for sentence in gap.sentences() if gap else ():
            _common.say(sentence)
    if bad:
        raise RunFailed(
            f"{len(bad)} of {values.count(len(statuses), 'run')} did not finish: "
            f"{', '.join(f'{r} {statuses[r]}' for r in bad[:5])}{' ...' if len(bad) > 5 else ''}; {bad[0]}: {why}.",
            f"ncpl runs show {bad[0]} tells more; a smaller --lr often helps a run that diverged",
        )


def _result(store: Any, run: str) -> dict[str, Any]:
    row = store.run(run)
    final = store.final(run)
    probed = sum(probe.seconds for probe in store.runs(parent=run))
    return {
        "id": row.id, "scenario": row.scenario, "seed": row.seed, "status": row.status,
        "epochs": final.get("epoch") or 0, "seconds": row.seconds + probed,
        "final": {k: final.get(k) for k in ("task", "epoch", *SHOWN)},
    }  # fmt: skip


def _print_results(results: list[dict[str, Any]], url: str) -> None:
    own = ("run", "seed", "status", "epochs", "seconds")
    # a single task has no plasticity loss; what it has instead is a probe's result
    probed = ("cold_start", "warm_start", "warm_start_gap")
    final = ("online_accuracy", "test_accuracy", "nc1") if "probes" in results[0] else ("task", *SHOWN)
    _common.print_table(
        (*own, *final, *(probed if "probes" in results[0] else ())),
        [
            (r["id"], *(r[key] for key in own[1:]), *(r["final"][key] for key in final),
             *(r[key] for key in probed if key in r))
            for r in results
        ],
        least=("nc1", "test_accuracy", "seconds", "epochs", "task"),
    )  # fmt: skip
    _common.note(f"store: {url}   next: ncpl runs show {results[0]['id']}, ncpl export -o epochs.csv")


def _show_plan(specs: list[Any], data: Any, device: str, probes: bool, given: dict[str, Any]) -> None:
    from ncpl_cli import estimate
    from ncpl_cli.commands._table import duration
    from ncpl_cli.spec import flat

    with _common.known_epochs(_common.store_url(given["db"])) as known:
        document = estimate.dry_run(specs, data, device, probes=probes, known=known)
    if given["gap"] is not None:
        # this arm and the plain one it will be compared with, as fast as these runs are one by one
        each = document["seconds_one_by_one"]
        document["power"] = _beforehand.seeds_for(
            given["gap"], _common.store_url(given["db"]), specs[0].scenario.id, flat(specs[0]), len(specs), 2,
            None if each is None else each / len(specs), 1,
        )  # fmt: skip
    if given["json_"]:
        _common.print_json(document)
        return
    _common.print_table(
        ("run", "seed", "cohort", "engine", "epochs"),
        [(r["id"], r["seed"], r["cohort"], r["engine"], r["epochs"]) for r in document["runs"]],
    )
    _common.note(document["engine_why"])
    if document["probes"]:
        _common.note(f"{values.count(document['probes'], 'probe', 'branches', 'branch')} off these runs.")
    seconds = document["seconds"]
    _common.note(
        f"{'at most' if document['at_most'] else 'about'} "
        f"{duration(seconds) if seconds is not None else 'an unknown time'} in all, "
        f"{document['bytes'] / 1e6:.1f} MB; nothing was trained or written."
    )
    if "power" in document:
        _common.say(document["power"]["sentence"])
