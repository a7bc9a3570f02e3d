"""What a run is: frozen dataclasses, and the identity that follows from them.

Standard library only, so that the command line can show every option without loading a numerical library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, cast

from ncpl_cli import plugins, values
from ncpl_cli.values import Allowed

NETWORKS = ("mlp", "resnet18", "convnet", "wide_resnet")
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "sigmoid", "gelu", "elu", "silu", "crelu")
NORMS = ("none", "layer", "batch")
INITS = ("kaiming", "torch")
OPTIMIZER_LR = {"sgd": 0.01, "adam": 1e-3, "adamw": 1e-3}
PRECISIONS = ("float32", "float64", "tf32", "bf16")
ENGINES = ("online", "stacked", "captured")
"""Names that the registries of torch modules give, known without loading torch; a test holds them together.

OPTIMIZER_LR: the usual learning rates, used where neither the user nor the scenario's preset gives one.
"""

DEFAULT_WIDTH = {"mlp": 100, "resnet18": 64, "convnet": 16, "wide_resnet": 4}
FIXED = {
    "mlp": (),
    "resnet18": ("depth", "activation"),
    "convnet": ("depth", "activation"),
    "wide_resnet": ("activation",),
}
"""Settings that a network does not let choose."""


def _network(text: str, said: str) -> str:
    return (
        text
        if ":" in text
        else str(values.read(text, Allowed(choices=(*NETWORKS, *plugins.names("NETWORKS"), "module:callable")), said))
    )


ALLOWED: dict[str, Allowed] = {
    "seed": Allowed(int, least=0, most=values.SEEDS),
    "seeds": Allowed(tuple, form=values.ranges),
    "image_size": Allowed(int, most=4096),
    "normalisation": Allowed(choices=("own", "published")),
    "validation_fraction": Allowed(float, least=0, below=1),
    "network": Allowed(form=_network),
    "width": Allowed(int, most=65536),
    "depth": Allowed(int, most=1000),
    "activation": Allowed(choices=ACTIVATIONS),
    "norm": Allowed(choices=NORMS),
    "init": Allowed(choices=INITS),
    "optimizer": Allowed(choices=tuple(OPTIMIZER_LR)),
    "lr": Allowed(float, above=0),
    "momentum": Allowed(float, least=0, below=1),
    "beta1": Allowed(float, least=0, below=1),
    "beta2": Allowed(float, least=0, below=1),
    "eps": Allowed(float, above=0, most=1000),
    "lr_schedule": Allowed(form=values.schedule),
    "precision": Allowed(choices=PRECISIONS),
    "engine": Allowed(choices=("auto", *ENGINES)),
    "layers": Allowed(choices=("last", "all")),
    "measure_at": Allowed(form=values.numbers),
    "fresh_baseline_over": Allowed(choices=("first", "task")),
    "task_accuracy": Allowed(choices=("current", "end", "all", "every")),
    "keep_checkpoints": Allowed(form=values.keep),
    "probes": Allowed(choices=("now", "later")),
    "probe_every": Allowed(int, most=10**6),
    "probe_epochs": Allowed(int, most=10**6),
    "device": Allowed(form=values.device),
    "runs": Allowed(form=values.several),
    "x": Allowed(form=values.addresses),
    "y": Allowed(form=values.addresses),
    "control": Allowed(form=values.addresses),
    "method": Allowed(choices=("pearson", "spearman")),
    "across": Allowed(choices=("epochs", "tasks", "runs")),
    "pairs": Allowed(choices=("all",)),
    "resampling_seed": Allowed(int, least=0, most=values.SEEDS),
}
"""Options that say more of themselves than their type does, by their name in a sweep file; the others: values.py."""


def _newer(default: Any) -> Any:
    """A setting that came after the first stores: `flat` leaves it out at its default, as their runs do."""
    return field(default=default, metadata={"newer": True})


@dataclass(frozen=True)
class NetworkSpec:
    """Which network, and its shape: `depth` hidden layers of `width` units.

    init  kaiming: as the network's file says; torch: every layer as torch makes it
    """

    name: str = "mlp"
    width: int = 100
    depth: int = 3
    activation: str = "relu"
    norm: str = "none"
    init: str = _newer("kaiming")


@dataclass(frozen=True)
class OptimizerSpec:
    """How parameters change. `lr_schedule`: constant | cosine | step:EVERY:FACTOR, over the epochs of a task.

    beta1, beta2, eps  of Adam and AdamW
    """

    name: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 1
    lr_schedule: str = "constant"
    beta1: float = _newer(0.9)
    beta2: float = _newer(0.999)
    eps: float = _newer(1e-8)


@dataclass(frozen=True)
class DatasetSpec:
    """Which data, and how much of it. The content's digest, not the name, decides identity.

    normalisation  channels' own mean and deviation, or those of the data set's publication (which the digest includes)
    """

    name: str = "mnist"
    train_samples: int | None = None
    validation_fraction: float = 0.0
    image_size: int | None = None
    normalisation: str = _newer("own")


@dataclass(frozen=True)
class MeasureSpec:
    """What is measured and when. Never part of a run's identity: measuring changes nothing in training."""

    metrics: tuple[str, ...] = ("default",)
    layers: str = "last"
    every: int = 1
    samples: int | None = None
    task_accuracy: str = "end"
    task_accuracy_samples: int = 1000
    plan: str | None = None  # of the analysis, as canonical JSON: fixed before the first epoch
    at: tuple[int, ...] = ()
    """Epochs that get every chosen metric; the expensive ones are then left out elsewhere. None: all epochs do."""
    fresh_over: str = "first"
    """What `fresh_gap` covers: a task's `first` epoch, or the whole `task`."""


@dataclass(frozen=True)
class RunSpec:
    """One run: a scenario's options, the data, the network, the optimiser and a seed."""

    scenario: Any
    dataset: DatasetSpec
    dataset_digest: str
    network: NetworkSpec = NetworkSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    interventions: tuple[Any, ...] = ()
    objective: Any = None
    """What is asked of the outputs (an `objectives.Objective`); None = what the scenario asks."""
    precision: str = "float32"
    seed: int = 0
    measure: MeasureSpec = field(default=MeasureSpec(), compare=False)
    engine: str = field(default="auto", compare=False)
    probes: tuple[Any, ...] = field(default=(), compare=False)
    """Kinds of probes that branch off it (probes.Probe), beside those its scenario comes with; no part of identity."""
    probe_every: int | None = field(default=None, compare=False)
    """Epochs between two probes; None = after every task."""

    @cached_property
    def identity(self) -> str:
        """Canonical JSON of everything that decides the numbers; settings at their default are left out."""
        parts: dict[str, Any] = {
            "scenario": {"id": self.scenario.id, **_changed(self.scenario)},
            "data": self.dataset_digest,
            "network": _changed(self.network),
            "optimizer": _changed(self.optimizer),
            "interventions": [{"id": i.id, **_changed(i)} for i in self.interventions],
            "objective": {"id": self.objective.id, **_changed(self.objective)} if self.objective else None,
            "precision": self.precision if self.precision != "float32" else None,
            "seed": self.seed,
            "plugins": self.plugins,
        }
        horizon = self.scenario.horizon_field
        if self.optimizer.lr_schedule == "cosine" and horizon != "tasks":
            parts["horizon"] = getattr(self.scenario, horizon)  # the schedule depends on how long the task is
        kept = {key: value for key, value in parts.items() if value not in (None, {}, [])}
        return json.dumps(kept, sort_keys=True, separators=(",", ":"))

    @cached_property
    def plugins(self) -> dict[str, str]:
        """Digests of the files of the parts that are somebody's own; a data set's content speaks for itself."""
        parts = [("SCENARIOS", self.scenario.id), ("NETWORKS", self.network.name)]
        parts += [("PROBES", self.scenario.id.removesuffix("-probe"))]
        parts += [("INTERVENTIONS", one.id) for one in self.interventions]
        parts += [("OBJECTIVES", self.objective.id)] if self.objective else []
        return plugins.digests(parts)

    @cached_property
    def id(self) -> str:
        """The first 12 hexadecimal digits of the identity's SHA-256."""
        return hashlib.sha256(self.identity.encode()).hexdigest()[:12]


def _changed(settings: Any) -> dict[str, Any]:
    """Fields that differ from their default and belong to the identity (metadata `identity`, default True)."""
    return {
        f.name: getattr(settings, f.name)
        for f in fields(settings)
        if f.metadata.get("identity", True) and getattr(settings, f.name) != f.default
    }


PLUGINS, TREATMENT_PLUGINS = "plugins", "intervention_plugins"
"""Settings that hold `registry name digest` of parts of somebody's own; once the first held interventions' too."""


def flat(spec: RunSpec) -> dict[str, object]:
    """Every setting of a run in full, as flat keys: what people read and what groups are told apart by."""
    settings: dict[str, object] = _said(spec.scenario)
    settings |= {"dataset": spec.dataset.name, "dataset_digest": spec.dataset_digest}
    settings |= _said(spec.dataset)
    settings |= {"network": spec.network.name} | _said(spec.network)
    settings |= {"optimizer": spec.optimizer.name} | _said(spec.optimizer)
    settings |= {"objective": spec.objective.label} if spec.objective else {}
    for part, digest in spec.plugins.items():  # a treatment's beside the treatments: an arm differs from its plain arm
        key = TREATMENT_PLUGINS if part.startswith("interventions ") else PLUGINS
        settings[key] = [*cast("list[str]", settings.get(key, [])), f"{part} {digest}"]
    settings |= {"interventions": [i.label for i in spec.interventions], "precision": spec.precision}
    return settings


def _said(settings: Any) -> dict[str, Any]:
    """Every field but the name; a newer one only where it is not at its default."""
    found = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "name"}
    return {
        f.name: found[f.name] for f in fields(settings)
        if f.name in found and not (f.metadata.get("newer") and found[f.name] == f.default)
    }  # fmt: skip


def otherwise(spec: RunSpec, settings: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{option: (as stored, as asked for now)} of what is no part of a run's identity and yet decides what is compared.

    Where probes branch off, and how often and on how many samples is measured: a stored run keeps its own. The horizon
    is not among them (a longer one is trained), nor are metrics and layers (missing ones are replayed).
    """
    scenario = spec.scenario
    asked = {f.name: f for f in fields(scenario) if not f.metadata.get("identity", True)}
    asked.pop(scenario.horizon_field, None)
    found = {
        name: (settings.get(name, f.default if f.metadata.get("newer") else None), getattr(scenario, name))
        for name, f in asked.items()
    }
    measure = {"measure_every": "every", "measure_samples": "samples", "task_accuracy": "task_accuracy"}
    found |= {name: (recorded.get(key), getattr(spec.measure, key)) for name, key in measure.items() if key in recorded}
    return {name: (stored, now) for name, (stored, now) in found.items() if stored != now}


def otherwise_said(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """`probe_every: 10 as stored, 20 as asked for`."""
    return ", ".join(f"{name}: {stored} as stored, {now} as asked for" for name, (stored, now) in differences.items())
