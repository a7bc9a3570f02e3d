"""From options, wherever they were written (command line, sweep file, Python), to run specs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from ncpl_cli.data import Dataset
from ncpl_cli.errors import InputError, unknown
from ncpl_cli.interventions import Intervention, parse_all
from ncpl_cli.metrics.catalogue import check_names
from ncpl_cli.networks import ACTIVATIONS, NETWORKS, NORMS
from ncpl_cli.scenarios import Scenario
from ncpl_cli.spec import DatasetSpec, MeasureSpec, NetworkSpec, OptimizerSpec, RunSpec

OPTIMIZER_LR = {"sgd": 0.01, "adam": 1e-3, "adamw": 1e-3}
"""Optimisers and their usual learning rates, used where neither the user nor the scenario's preset gives one."""

PRECISIONS = ("float32", "float64", "tf32", "bf16")


def dataset_spec(scenario: type[Scenario], given: Mapping[str, Any]) -> DatasetSpec:
    """Which data the options ask for; the scenario's preset names the default."""
    return DatasetSpec(
        name=str(given.get("dataset") or scenario.preset["dataset"]),
        **{key: given[key] for key in ("train_samples", "validation_fraction", "image_size") if given.get(key)},
    )


def specs(
    scenario: type[Scenario], given: Mapping[str, Any], data: Dataset, dataset: DatasetSpec, seeds: Sequence[int]
) -> list[RunSpec]:
    """One spec a seed. `given` holds only what was said: everything else takes its default.

    Raises InputError, with what is allowed, on an unknown name, an impossible value or an impossible combination.
    """
    own = {f.name: given[f.name] for f in fields(scenario) if given.get(f.name) is not None}
    for option in fields(scenario):
        choices = option.metadata.get("choices")
        if choices and own.get(option.name, option.default) not in choices:
            raise unknown(_dashed(option.name), own[option.name], choices)
    spec = RunSpec(
        scenario=scenario.of(own),
        dataset=dataset,
        dataset_digest=data.digest,
        network=_network(given),
        optimizer=_optimizer(scenario, given, len(data.train)),
        precision=_one_of("precision", given.get("precision") or "float32", PRECISIONS),
        measure=_measure(given),
        engine=given.get("engine") or "auto",
    )
    return [replace(spec, seed=seed) for seed in seeds]


def _network(given: Mapping[str, Any]) -> NetworkSpec:
    chosen = {key: given[key] for key in ("width", "depth", "activation", "norm") if given.get(key) is not None}
    name = _one_of("network", given.get("network") or "mlp", NETWORKS)
    _one_of("activation", chosen.get("activation", "relu"), ACTIVATIONS)
    _one_of("norm", chosen.get("norm", "none"), NORMS)
    for key in ("width", "depth"):
        if chosen.get(key, 1) < 1:
            raise InputError(f"--{key} must be at least 1.")
    return NetworkSpec(name=name, **chosen)


def _optimizer(scenario: type[Scenario], given: Mapping[str, Any], samples: int) -> OptimizerSpec:
    name = _one_of("optimizer", given.get("optimizer") or "sgd", OPTIMIZER_LR)
    preset: dict[str, Any] = {"lr": OPTIMIZER_LR[name], "batch_size": scenario.preset["batch_size"]}
    if name == "sgd":
        preset["lr"] = scenario.preset["lr"]
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
    every, samples = given.get("measure_every") or 1, given.get("measure_samples")
    if every < 1 or (samples is not None and samples < 1):
        raise InputError("--measure-every and --measure-samples must be at least 1.")
    return MeasureSpec(
        metrics=metrics,
        layers=_one_of("layers", given.get("layers") or "last", ("last", "all")),
        every=every,
        samples=samples,
        task_accuracy=_one_of("task-accuracy", given.get("task_accuracy") or "end", ("current", "end", "every")),
    )


def _one_of(kind: str, name: str, known: Any) -> str:
    if name not in known:
        raise unknown(kind, name, known)
    return name


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")
