"""From options, wherever they were written (command line, sweep file, Python), to run specs."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from ncpl_cli import objectives, plugins, probes, values
from ncpl_cli.callables import load_object
from ncpl_cli.errors import InputError, unknown
from ncpl_cli.interventions import Intervention, parse, parse_all
from ncpl_cli.interventions.decay import L2
from ncpl_cli.metrics.catalogue import METRICS, check_names, chosen
from ncpl_cli.objectives import Objective
from ncpl_cli.scenarios import SCENARIOS, Scenario, objective_of, objectives_of, outputs_of
from ncpl_cli.spec import (
    ALLOWED,
    DEFAULT_WIDTH,
    FIXED,
    NETWORKS,
    OPTIMIZER_LR,
    PLUGINS,
    TREATMENT_PLUGINS,
    DatasetSpec,
    MeasureSpec,
    NetworkSpec,
    OptimizerSpec,
    RunSpec,
)
from ncpl_cli.values import Allowed

if TYPE_CHECKING:
    from ncpl_cli.data import Dataset

MOST_PARAMETERS = 10**9
"""Above this an MLP is a slip of the hand: its weights alone would be gigabytes."""

_PLAIN: dict[str, Any] = {
    f.name: typing.get_type_hints(part)[f.name]
    for part in (DatasetSpec, NetworkSpec, OptimizerSpec) for f in fields(part) if f.name != "name"
}  # fmt: skip


def allowed(scenario: type[Scenario] | None, option: str, hint: Any = None) -> Allowed:
    """What an option may be: as its scenario says, as spec.ALLOWED says, or as its type says (`hint`, or known)."""
    for own in fields(scenario) if scenario is not None else ():
        if own.name == option:
            return Allowed.of(typing.get_type_hints(scenario)[option], own.metadata)
    if option in ALLOWED:
        return ALLOWED[option]
    return Allowed(values.kind_of(_PLAIN.get(option, str) if hint is None else hint))


def dataset_spec(scenario: type[Scenario], given: Mapping[str, Any]) -> DatasetSpec:
    """Which data the options ask for; the scenario's preset names the default. Raises InputError on unknown names."""
    from ncpl_cli.data import DATASETS

    asked_for, given = given, _read(scenario, given, ("dataset", *(f.name for f in fields(DatasetSpec)[1:])))
    name = str(given.get("dataset", scenario.presets("")["dataset"]))
    presets = _presets(scenario, asked_for, name)
    given = {key: presets[key] for key in ("train_samples", "validation_fraction") if key in presets} | given
    if (":" not in name and name not in DATASETS) or (not all(name.partition(":")[::2]) and ":" in name):
        raise unknown("data set", name, [*DATASETS, "folder:PATH", "module:callable"])
    if "image_size" in given and not name.startswith("folder:"):
        raise InputError(f"--image-size belongs to --dataset folder:PATH; {name} has images of one size.")
    return DatasetSpec(name, **{k: given[k] for k in given if k != "dataset"})


def _presets(scenario: type[Scenario], given: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """The scenario's defaults for a data set, under the protocol that is asked for where it has several."""
    if not hasattr(scenario, "presets_under"):
        return scenario.presets(dataset)
    return scenario.presets_under(_read(scenario, given, ("protocol",)).get("protocol", "auto"), dataset)


def _read(scenario: type[Scenario] | None, given: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """What was given of these options, each read as what it may be."""
    return {
        key: values.read(given[key], allowed(scenario, key), _dashed(key)) for key in keys if given.get(key) is not None
    }


def asked(scenario: type[Scenario], given: Mapping[str, Any]) -> RunSpec:
    """The spec that options ask for, with seed 0 and before any data: everything that can be checked without them.

    `given` holds what was said, None where nothing was: that takes its default. Loads neither data nor torch.
    Raises InputError, with what is allowed, on an unknown name, an impossible value or an impossible combination.
    """
    dataset = dataset_spec(scenario, given)
    presets = _presets(scenario, given, dataset.name)
    if given.get("network") in (None, presets["network"]):
        shape = {key: presets[key] for key in ("width", "depth") if key in presets}
        given = {**given, **{key: value for key, value in shape.items() if given.get(key) is None}}
    own: dict[str, Any] = {f.name: presets[f.name] for f in fields(scenario) if f.name in presets}
    own |= _read(scenario, given, [f.name for f in fields(scenario)])
    interventions, decay = _interventions(given)
    if decay is not None:
        given = {**given, "weight_decay": decay}
    rest = _read(None, given, ("precision", "engine"))
    made = scenario.of(own)
    spec = RunSpec(
        scenario=made, dataset=dataset, dataset_digest="", network=network_spec(given, str(presets["network"])),
        optimizer=_optimizer(presets, given), interventions=interventions, objective=_objective(made, given),
        measure=_measure(made, given), **rest, **_probes(made, given),
    )  # fmt: skip
    if dataset.normalisation != "own" and spec.network.name == "mlp":
        raise InputError(
            f"--normalisation {dataset.normalisation} is not for --network mlp, which takes pixels as they are.",
            "--network resnet18 or module:callable",
        )
    for one in interventions:
        if one.needs_classes and not one.idle and "cross_entropy" not in objectives_of(spec.scenario):
            raise InputError(f"--intervention {one.id} compares classes: {spec.scenario.id} asks for numbers.")
        if one.networks is not None and spec.network.name != one.networks:
            raise InputError(
                f"--intervention {one.id} knows the units of an {one.networks}, not of {spec.network.name}."
            )
    return spec


def find(spec: RunSpec) -> None:
    """Raise InputError where a network of the user's own cannot be found; imports the user's module."""
    if ":" in spec.network.name:
        load_object(spec.network.name)


def specs(
    scenario: type[Scenario], given: Mapping[str, Any], data: Dataset, dataset: DatasetSpec, seeds: Sequence[int]
) -> list[RunSpec]:
    """One spec a seed: what the options ask for, on these data; raises InputError where the two do not go together."""
    return on(asked(scenario, given), data, seeds)


def on(spec: RunSpec, data: Dataset, seeds: Sequence[int]) -> list[RunSpec]:
    """A spec that was asked for, on its data, once a seed; raises InputError where the two do not go together."""
    spec = replace(spec, dataset_digest=data.digest)
    if spec.optimizer.batch_size > len(data.train):
        raise InputError(
            f"--batch-size {spec.optimizer.batch_size} is impossible: allowed are 1 to {len(data.train)} samples."
        )
    if spec.network.name == "mlp":
        width, depth = spec.network.width, spec.network.depth
        if (count := (data.pixels + outputs_of(spec, data) + (depth - 1) * width) * width) > MOST_PARAMETERS:
            raise InputError(
                f"--width {width} --depth {depth} would be {count:.2g} parameters: allowed are {MOST_PARAMETERS:.0g}."
            )
    spec.scenario.check_data(data)
    if hasattr(spec.scenario, "fitted"):
        spec = replace(spec, scenario=spec.scenario.fitted(data))
    for one in spec.interventions:
        _check_classes(one, spec, data)
    for probe in probes.of(spec):
        run = probe.runs(spec, spec.scenario.task_epochs(0))[0]
        if (needs := outputs_of(run, data)) != (has := outputs_of(spec, data)):
            raise InputError(
                f"--probe {probe.id} learns {needs} outputs, and networks of {spec.scenario.id} have {has} here."
            )
    return [replace(spec, seed=seed) for seed in seeds]


def ready(specs: Sequence[RunSpec], data: Dataset, device: str) -> None:
    """Raise InputError where no engine carries a spec on this device, or a network of the user's own cannot be built.

    The last that can be known before a store is made.
    """
    from ncpl_cli.plan import choose_engine

    for spec in {replace(spec, seed=0): spec for spec in specs}.values():
        choose_engine(spec, device)
        if spec.network.name not in NETWORKS:
            from ncpl_cli.networks.hidden_units import unit_layers
            from ncpl_cli.trainer import build

            network = build(spec, data)
            if any(one.renews_units and not one.idle for one in spec.interventions):
                unit_layers(network)


def dataset_of(row: Any) -> DatasetSpec:
    """Which data a stored run (store.RunRow) was set up with."""
    given = {f.name: row.settings[f.name] for f in fields(DatasetSpec) if f.name in row.settings}
    return DatasetSpec(row.settings["dataset"], **given)


def _check_plugins(row: Any) -> None:
    """Raise InputError where a part that is not ncpl's is not here as the run was trained with it."""
    for text in (*row.settings.get(PLUGINS, ()), *row.settings.get(TREATMENT_PLUGINS, ())):
        registry, name, digest = text.split(" ")
        found = plugins.origin(registry.upper(), name)
        if found is None or found.digest != digest:
            what = "is not here" if found is None else f"is another now in {found.file}"
            raise InputError(f"run {row.id} was trained with {name}, a part of somebody's own, which {what}.",
                             "name the file it was trained with: --plugin FILE")  # fmt: skip


def from_row(row: Any, data: Dataset) -> RunSpec:
    """The spec of a stored run (store.RunRow), from its settings; raises InputError when it is not reproduced."""
    _check_plugins(row)
    known: dict[str, type[Any]] = {one.id: one for one in (*SCENARIOS, *probes.probe_runs())}
    if row.scenario not in known:
        raise InputError(f"run {row.id} is of {row.scenario}, which this ncpl cannot train.")
    stored, recorded = row.settings, {**row.recorded, "metrics": tuple(row.recorded["metrics"])}
    recorded["at"] = tuple(row.recorded.get("at", ()))
    check_names(recorded["metrics"])

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
        probes=probes.parse_all(recorded.get("probes", ())),
        probe_every=recorded.get("probe_every"),
    )  # fmt: skip
    if spec.id != row.id:
        raise InputError(
            f"run {row.id} cannot be set up again from its settings: {data.name} or this version of ncpl has changed.",
            f"it was trained on data with digest {stored['dataset_digest']}; here it is {data.digest}",
        )
    return spec


def _interventions(given: Mapping[str, Any]) -> tuple[tuple[Intervention, ...], float | None]:
    """The interventions, and the weight decay where it was written as one: the optimiser carries that."""
    texts = [] if given.get("intervention") is None else list(given["intervention"])
    decays = [text for text in texts if text.partition(":")[0] == "weight_decay"]
    if not decays:
        return parse_all(texts), None
    if given.get("weight_decay") is not None or len(decays) > 1:
        raise InputError("--weight-decay and --intervention weight_decay say the same thing: give one.")
    pull = parse("l2" + decays[0].removeprefix("weight_decay"))
    assert isinstance(pull, L2)
    if replace(pull, strength=0) != L2(strength=0):
        raise InputError("weight_decay acts throughout and on all; --intervention l2 takes phase, tasks and scope.")
    return parse_all([text for text in texts if text not in decays]), pull.strength


def _objective(scenario: Scenario, given: Mapping[str, Any]) -> Objective | None:
    """What the run asks in place of the scenario's own objective."""
    if given.get("objective") is None:
        return None
    found, known = objectives.parse(given["objective"]), objectives_of(scenario)
    if found.id not in known:
        raise InputError(
            f"--objective {found.id} cannot be asked in {scenario.id}.", f"allowed there: {', '.join(known)}"
        )
    if hasattr(scenario, "check_objective"):
        scenario.check_objective(found)
    return None if found == objective_of(scenario) else found


def _check_classes(one: Intervention, spec: RunSpec, data: Dataset) -> None:
    """Raise InputError where an intervention could do nothing, since a batch holds too few of a class."""
    asked = spec.scenario.outputs(data) if hasattr(spec.scenario, "outputs") else data.classes
    classes = asked - len(getattr(spec.scenario, "hold_out_classes", ()))
    if one.needs_classes and not one.idle and spec.optimizer.batch_size < 2 * classes:
        raise InputError(
            f"--intervention {one.id} compares classes within a batch and would be silent at batch size "
            f"{spec.optimizer.batch_size}: it needs at least {2 * classes}, two samples for each of {classes} classes.",
            f"give --batch-size {2 * classes} or more",
        )


def network_spec(given: Mapping[str, Any], preset: str = "mlp") -> NetworkSpec:
    """The network that options ask for; raises InputError on an unknown name or an option it does not take."""
    chosen = _read(None, given, ("network", "width", "depth", "activation", "norm", "init"))
    name = chosen.pop("network", preset)
    fixed = FIXED.get(name, ("width", "depth", "activation", "norm", "init"))
    if given_in_vain := [f"--{key}" for key in fixed if key in chosen]:
        raise InputError(f"{' and '.join(given_in_vain)} cannot be chosen for --network {name}.")
    if name in DEFAULT_WIDTH:
        chosen.setdefault("width", DEFAULT_WIDTH[name])
    if name in NETWORKS and name != "mlp":
        chosen.setdefault("norm", "batch")
    if name == "wide_resnet":
        chosen.setdefault("depth", 28)
        if chosen["depth"] < 10 or chosen["depth"] % 6 != 4:
            raise InputError(
                f"--depth {chosen['depth']} is impossible for --network wide_resnet: it is 6n + 4 (10, 16, ...)."
            )
    return NetworkSpec(name=name, **chosen)


def _optimizer(presets: Mapping[str, Any], given: Mapping[str, Any]) -> OptimizerSpec:
    keys = [f.name for f in fields(OptimizerSpec)[1:]]
    chosen = _read(None, given, ("optimizer", *keys))
    usual = presets.get("optimizer", "sgd")
    name = chosen.pop("optimizer", usual)
    preset = {key: presets[key] for key in keys if key in presets}
    if name != usual:
        preset = {**preset, "lr": OPTIMIZER_LR[name], "momentum": 0.0}
    settings = OptimizerSpec(name=name, **preset | chosen)
    if settings.momentum and name != "sgd":
        raise InputError(f"--momentum belongs to sgd; {name} has moments of its own.")
    if name == "sgd" and (given_in_vain := [f"--{key}" for key in ("beta1", "beta2", "eps") if key in chosen]):
        raise InputError(f"{' and '.join(given_in_vain)} belong to adam and adamw, not to sgd.", "--optimizer adam")
    return settings


def _measure(scenario: Scenario, given: Mapping[str, Any]) -> MeasureSpec:
    metrics = ("default",) if given.get("metrics") is None else given["metrics"]
    metrics = tuple(values.names(metrics, "--metrics") if isinstance(metrics, str) else metrics)
    check_names(metrics)
    metrics = measured_in(scenario, metrics)
    if given.get("fresh_baseline") and "fresh_gap" not in chosen(metrics):
        metrics = (*metrics, "fresh_gap")
    named = {"measure_every": "every", "measure_samples": "samples"}
    found = {named[key]: values.read(given[key], Allowed(int), _dashed(key))
             for key in named if given.get(key) is not None}  # fmt: skip
    read = _read(None, given, ("layers", "task_accuracy", "measure_at", "fresh_baseline_over"))
    at = tuple(sorted(values.ranges(read.pop("measure_at"), "--measure-at"))) if "measure_at" in read else ()
    over = read.pop("fresh_baseline_over", "first")
    if over != "first" and "fresh_gap" not in chosen(metrics):
        raise InputError(f"--fresh-baseline-over {over} says what --fresh-baseline covers: give that too.")
    return MeasureSpec(metrics=metrics, at=at, fresh_over=over, **found, **read)


def measured_in(scenario: Any, metrics: Sequence[str]) -> tuple[str, ...]:
    """The names of metrics; in a scenario with families of its own, `default` holds those too."""
    own = getattr(scenario, "measures", ()) if "default" in metrics else ()
    known = chosen(metrics)
    return (*metrics, *(name for name, one in METRICS.items() if one.family in own and name not in known))


def _probes(scenario: Scenario, given: Mapping[str, Any]) -> dict[str, Any]:
    """The probes that branch off it, beside those that the scenario comes with, and how often."""
    own = [f.name for f in fields(scenario)]
    known = {key: value for key, value in _read(None, given, ("probe_every", "probe_epochs")).items() if key not in own}
    texts = () if given.get("probe") is None else given["probe"]
    found = probes.parse_all(texts, known.get("probe_epochs"))
    if not found:
        if known:
            raise InputError(f"{_dashed(next(iter(known)))} needs --probe KIND.", f"known: {', '.join(probes.PROBES)}")
        return {}
    if not scenario.fixed_length:
        raise InputError("--probe needs to know which epoch ends a task: it does not go with --first-task-nc1.")
    if any(one.id == "next-task" for one in found) and (
        scenario.horizon_field != "tasks" or getattr(scenario, "bootstraps", False)
    ):
        why = "has no next task" if scenario.horizon_field != "tasks" else "asks each network for its own values"
        raise InputError(f"--probe next-task: {scenario.id} {why}.")
    if "cross_entropy" not in objectives_of(scenario) and (labels := [one.id for one in found if one.of_labels]):
        raise InputError(
            f"--probe {labels[0]} learns classes: {scenario.id} asks for numbers.", "--probe offset learns numbers"
        )
    return {"probes": found, "probe_every": known.get("probe_every")}


def _dashed(name: str) -> str:
    return "--" + name.replace("_", "-")
