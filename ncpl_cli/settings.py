"""From options, wherever they were written (command line, sweep file, Python), to run specs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ncpl_cli import objectives
from ncpl_cli.data import Dataset
from ncpl_cli.errors import InputError, unknown
from ncpl_cli.interventions import Intervention, parse, parse_all
from ncpl_cli.interventions.decay import L2
from ncpl_cli.metrics.catalogue import check_names, chosen
from ncpl_cli.networks import ACTIVATIONS, DEFAULT_WIDTH, NETWORKS, NORMS
from ncpl_cli.objectives import Objective
from ncpl_cli.scenarios import SCENARIOS, Scenario, WarmStartProbe, objective_of, objectives_of
from ncpl_cli.spec import DatasetSpec, MeasureSpec, NetworkSpec, OptimizerSpec, RunSpec

OPTIMIZER_LR = {"sgd": 0.01, "adam": 1e-3, "adamw": 1e-3}
"""Optimisers and their usual learning rates, used where neither the user nor the scenario's preset gives one."""

PRECISIONS = ("float32", "float64", "tf32", "bf16")


DATASET_OPTIONS = ("train_samples", "validation_fraction", "image_size", "normalisation")


def dataset_spec(scenario: type[Scenario], given: Mapping[str, Any]) -> DatasetSpec:
    """Which data the options ask for; the scenario's preset names the default."""
    return DatasetSpec(
        name=str(given.get("dataset") or scenario.presets("")["dataset"]),
        **{key: given[key] for key in DATASET_OPTIONS if given.get(key)},
    )


def specs(
    scenario: type[Scenario], given: Mapping[str, Any], data: Dataset, dataset: DatasetSpec, seeds: Sequence[int]
) -> list[RunSpec]:
    """One spec a seed. `given` holds only what was said: everything else takes its default.

    Raises InputError, with what is allowed, on an unknown name, an impossible value or an impossible combination.
    """
    presets = scenario.presets(dataset.name)
    own: dict[str, Any] = {f.name: presets[f.name] for f in fields(scenario) if f.name in presets}
    own |= {f.name: given[f.name] for f in fields(scenario) if given.get(f.name) is not None}
    for option in fields(scenario):
        choices = option.metadata.get("choices")
        if choices and own.get(option.name, option.default) not in choices:
            raise unknown(_dashed(option.name), own[option.name], choices)
    interventions, decay = _interventions(given)
    if decay is not None:
        given = {**given, "weight_decay": decay}
    made = scenario.of(own)
    spec = RunSpec(
        scenario=made,
        dataset=dataset,
        dataset_digest=data.digest,
        network=network_spec(given, str(presets["network"])),
        optimizer=_optimizer(presets, given, len(data.train)),
        interventions=interventions,
        objective=_objective(made, given),
        precision=_one_of("precision", given.get("precision") or "float32", PRECISIONS),
        measure=_measure(given),
        engine=given.get("engine") or "auto",
    )
    if dataset.normalisation != "own" and spec.network.name == "mlp":
        raise InputError(
            f"--normalisation {dataset.normalisation} is not for --network mlp, which takes pixels as they are.",
            "--network resnet18 or module:callable",
        )
    spec.scenario.check_data(data)
    for one in interventions:
        _check_intervention(one, spec, data)
    return [replace(spec, seed=seed) for seed in seeds]


def dataset_of(row: Any) -> DatasetSpec:
    """Which data a stored run (store.RunRow) was set up with."""
    given = {f.name: row.settings[f.name] for f in fields(DatasetSpec) if f.name in row.settings}
    return DatasetSpec(row.settings["dataset"], **given)


def from_row(row: Any, data: Dataset) -> RunSpec:
    """The spec of a stored run (store.RunRow), from its settings; raises InputError when it is not reproduced."""
    known: dict[str, type[Any]] = {one.id: one for one in (*SCENARIOS, WarmStartProbe)}
    if row.scenario not in known:
        raise InputError(f"run {row.id} is of {row.scenario}, which this ncpl cannot train.")
    stored, recorded = row.settings, {**row.recorded, "metrics": tuple(row.recorded["metrics"])}

    def part(kind: type[Any], **named: Any) -> Any:
        return kind(**named, **{
            f.name: tuple(stored[f.name]) if isinstance(stored[f.name], list) else stored[f.name]
            for f in fields(kind) if f.name in stored and f.name not in named and f.name != "name"
        })  # fmt: skip

    spec = RunSpec(
        scenario=part(known[row.scenario]),
        dataset=part(DatasetSpec, name=stored["dataset"]),
        dataset_digest=data.digest,
        network=part(NetworkSpec, name=stored["network"]),
        optimizer=part(OptimizerSpec, name=stored["optimizer"]),
        interventions=parse_all(stored["interventions"]),
        objective=objectives.parse(stored["objective"]) if stored.get("objective") else None,
        precision=stored["precision"],
        seed=row.seed,
        measure=MeasureSpec(**{f.name: recorded[f.name] for f in fields(MeasureSpec) if f.name in recorded}),
        engine=recorded.get("engine", "auto"),
    )  # fmt: skip
    if spec.id != row.id:
        raise InputError(
            f"run {row.id} cannot be set up again from its settings: {data.name} or this version of ncpl has changed.",
            f"it was trained on data with digest {stored['dataset_digest']}; here it is {data.digest}",
        )
    return spec


def _interventions(given: Mapping[str, Any]) -> tuple[tuple[Intervention, ...], float | None]:
    """The interventions, and the weight decay where it was written as one: the optimiser carries that."""
    texts = list(given.get("intervention") or ())
    decays = [text for text in texts if text.partition(":")[0] == "weight_decay"]
    if not decays:
        return parse_all(texts), None
    if given.get("weight_decay") is not None or len(decays) > 1:
        raise InputError("--weight-decay and --intervention weight_decay say the same thing: give one.")
    pull = parse("l2" + decays[0].removeprefix("weight_decay"))
    assert isinstance(pull, L2)
    if (pull.phase, pull.tasks) != (L2().phase, L2().tasks):
        raise InputError("weight_decay acts throughout; --intervention l2 takes phase and tasks.")
    return parse_all([text for text in texts if text not in decays]), pull.strength


def _objective(scenario: Scenario, given: Mapping[str, Any]) -> Objective | None:
    """What the run asks in place of the scenario's own objective."""
    if not given.get("objective"):
        return None
    found, allowed = objectives.parse(given["objective"]), objectives_of(scenario)
    if found.id not in allowed:
        raise InputError(
            f"--objective {found.id} cannot be asked in {scenario.id}.", f"allowed there: {', '.join(allowed)}"
        )
    return None if found == objective_of(scenario) else found


def _check_intervention(one: Intervention, spec: RunSpec, data: Dataset) -> None:
    """Raise InputError where an intervention could do nothing or nothing sensible."""
    if one.networks is not None and spec.network.name != one.networks:
        raise InputError(f"--intervention {one.id} knows the units of an {one.networks}, not of {spec.network.name}.")
    if one.needs_classes and not one.idle and "cross_entropy" not in objectives_of(spec.scenario):
        raise InputError(f"--intervention {one.id} compares classes: {spec.scenario.id} asks for numbers.")
    classes = data.classes - len(getattr(spec.scenario, "hold_out_classes", ()))
    if one.needs_classes and not one.idle and spec.optimizer.batch_size < 2 * classes:
        raise InputError(
            f"--intervention {one.id} compares classes within a batch and would be silent at batch size "
            f"{spec.optimizer.batch_size}: it needs at least {2 * classes}, two samples for each of {classes} classes.",
            f"give --batch-size {2 * classes} or more",
        )


def network_spec(given: Mapping[str, Any], preset: str = "mlp") -> NetworkSpec:
    """The network that options ask for; raises InputError on an unknown name or an option it does not take."""
    chosen = {key: given[key] for key in ("width", "depth", "activation", "norm") if given.get(key) is not None}
    name = given.get("network") or preset
    if ":" not in name:
        _one_of("network", name, [*NETWORKS, "module:callable"])
    fixed = {"mlp": (), "resnet18": ("depth", "activation")}.get(name, ("width", "depth", "activation", "norm"))
    if given_in_vain := [f"--{key}" for key in fixed if key in chosen]:
        raise InputError(f"{' and '.join(given_in_vain)} cannot be chosen for --network {name}.")
    if name in DEFAULT_WIDTH:
        chosen.setdefault("width", DEFAULT_WIDTH[name])
    if name == "resnet18":
        chosen.setdefault("norm", "batch")
    _one_of("activation", chosen.get("activation", "relu"), ACTIVATIONS)
    _one_of("norm", chosen.get("norm", "none"), NORMS)
    for key in ("width", "depth"):
        if chosen.get(key, 1) < 1:
            raise InputError(f"--{key} must be at least 1.")
    return NetworkSpec(name=name, **chosen)


def _optimizer(presets: Mapping[str, Any], given: Mapping[str, Any], samples: int) -> OptimizerSpec:
    name = _one_of("optimizer", given.get("optimizer") or "sgd", OPTIMIZER_LR)
    preset: dict[str, Any] = {"lr": OPTIMIZER_LR[name], "batch_size": presets["batch_size"]}
    if name == "sgd":
        preset["lr"] = presets["lr"]
    keys = ("lr", "momentum", "weight_decay", "batch_size", "lr_schedule")
    settings = OptimizerSpec(name=name, **preset | {key: given[key] for key in keys if given.get(key) is not None})
    if settings.lr <= 0 or settings.weight_decay < 0 or not 0 <= settings.momentum < 1:
        raise InputError("--lr must be positive, --weight-decay not negative, --momentum in [0, 1).")
    if settings.momentum and name != "sgd":
        raise InputError(f"--momentum belongs to sgd; {name} has moments of its own.")
    if not 1 <= settings.batch_size <= samples:
        raise InputError(f"--batch-size {settings.batch_size} is impossible: allowed are 1 to {samples} samples.")
    _check_schedule(settings.lr_schedule)
    return settings


def _check_schedule(text: str) -> None:
    kind, *parts = text.split(":")
    if kind in ("constant", "cosine") and not parts:
        return
    try:
        if kind == "step" and len(parts) == 2 and int(parts[0]) > 0 and float(parts[1]) > 0:
            return
    except ValueError:
        pass
    raise InputError(
        f"--lr-schedule {text!r} is unknown.",
        "allowed: constant, cosine, step:EVERY:FACTOR (e.g. step:10:0.5), over the epochs of a task",
    )


def _measure(given: Mapping[str, Any]) -> MeasureSpec:
    metrics = tuple(given.get("metrics") or ("default",))
    check_names(metrics)
    if given.get("fresh_baseline") and "fresh_gap" not in chosen(metrics):
        metrics = (*metrics, "fresh_gap")
    every, samples = given.get("measure_every") or 1, given.get("measure_samples")
    if every < 1 or (samples is not None and samples < 1):
        raise InputError("--measure-every and --measure-samples must be at least 1.")
    return MeasureSpec(
        metrics=metrics,
        layers=_one_of("layers", given.get("layers") or "last", ("last", "all")),
        every=every,
        samples=samples,
        task_accuracy=_one_of("task-accuracy", given.get("task_accuracy") or "end", ("current", "end", "all", "every")),
    )


def _one_of(kind: str, name: str, known: Any) -> str:
    if name not in known:
        raise unknown(kind, name, known)
    return name


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")
