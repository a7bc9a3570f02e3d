"""What all probes have: options, the run that each is, and what of it stands on the parent's row."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import parts, rng
from ncpl_cli.data.dataset import Dataset
from ncpl_cli.scenarios import scenario_named, shown_by
from ncpl_cli.scenarios.task import Task, option
from ncpl_cli.spec import OPTIMIZER_LR, MeasureSpec, RunSpec

EPOCHS = 10
"""The budget where none is named."""

Results = tuple[dict[int, dict[str, float]], dict[int, dict[str, str]]]
"""Values and reasons by the parent's epoch and the metric."""


@dataclass(frozen=True)
class Reached:
    """A probe that has ended: where it branched off, its settings, its epochs as the wide table has them."""

    branch_epoch: int
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    diverged: bool = False

    @property
    def last(self) -> Mapping[str, Any]:
        """Its last epoch."""
        return self.rows[-1]


@dataclass(frozen=True)
class ProbeRun:
    """A copy of a run's network (branch epoch 0: the network as initialised) that learns something new."""

    id: ClassVar[str]
    horizon_field: ClassVar[str] = "epochs"
    tasks: ClassVar[int] = 1
    fixed_length: ClassVar[bool] = True
    lockstep: ClassVar[bool] = True

    parent: str = option("", "the run it branches off")
    branch_epoch: int = option(0, "after which of its epochs")
    epochs: int = option(EPOCHS, "its budget")
    of_scenario: str = option("", "the parent's scenario and its options, as JSON, where they matter", identity=False)

    @property
    def lockstep_key(self) -> Self:
        """What runs that can advance together have in common: probes of any run, after any epoch."""
        return replace(self, parent="", branch_epoch=0)

    def task_epochs(self, index: int) -> int:
        """How many epochs it has."""
        return self.epochs

    @property
    def parents(self) -> Any:
        """The parent's scenario, where it is known."""
        given = json.loads(self.of_scenario)
        kind: Any = scenario_named(given.pop("id"))
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})

    def outputs(self, data: Dataset) -> int:
        """As many as the parent's, whose network it is."""
        if not self.of_scenario or not hasattr(self.parents, "outputs"):
            return data.classes
        return int(self.parents.outputs(data))

    def shown(self, data: Dataset) -> Dataset:
        """The images of the parent's tasks."""
        return shown_by(self.parents, data) if self.of_scenario else data

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """What it learns: all training images as they are, under labels or numbers of its kind."""
        raise NotImplementedError

    def order(self, seed: int, samples: int) -> Callable[[int], NDArray[np.int64]]:
        """A new random order each epoch, the same after every epoch of the parent, so that probes compare."""
        return lambda epoch: rng.stream(seed, "probe order", epoch).permutation(samples)

    @classmethod
    def pair(cls, settings: Mapping[str, Any]) -> Any:
        """What a probe shares with the fresh network beside it."""
        return None

    @classmethod
    def results(cls, reached: Sequence[Reached]) -> Results:
        """What probes of one kind put on their parent's rows, and why something is missing.

        probe_gap  train accuracy of the fresh network minus ours; of numbers our train loss minus the fresh one's
        """
        fresh = {cls.pair(one.settings): one for one in reached if one.branch_epoch == 0}
        values: dict[int, dict[str, float]] = {}
        undefined: dict[int, dict[str, str]] = {}
        for one in reached:
            found, why = values.setdefault(one.branch_epoch, {}), undefined.setdefault(one.branch_epoch, {})
            if found or why:  # several fresh networks: the first stands on the row of epoch 0
                continue
            if one.diverged:
                why |= dict.fromkeys((*METRICS, "probe_gap"), "the probe diverged")
                continue
            for name in METRICS:
                value = _value(one, name.removeprefix("probe_"))
                if value is None:
                    why[name] = "not to be had from this probe"
                else:
                    found[name] = value
            beside = fresh.get(cls.pair(one.settings))
            if one.branch_epoch == 0:
                why["probe_gap"] = "it is the fresh network"
            elif beside is None or beside.diverged:
                why["probe_gap"] = "the fresh network beside it " + ("diverged" if beside else "is not known")
            else:
                found["probe_gap"] = _gap(one, beside)
        return values, undefined


METRICS = (
    "probe_online_accuracy", "probe_online_loss", "probe_train_accuracy", "probe_train_loss", "probe_test_accuracy",
    "probe_unexplained_variance",
)  # fmt: skip
"""What stands on the parent's row beside `probe_gap`: means over the probe's epochs, and what its last epoch left."""


def _value(one: Reached, name: str) -> float | None:
    if name.startswith("online"):
        seen = [row[name] for row in one.rows if row["epoch"] > 0]
        return None if not seen or None in seen else float(sum(seen) / len(seen))
    value = one.last.get(name)
    return None if value is None else float(value)


def _gap(one: Reached, fresh: Reached) -> float:
    mine, theirs = _value(one, "train_accuracy"), _value(fresh, "train_accuracy")
    if mine is not None and theirs is not None:
        return theirs - mine
    return float(one.last["train_loss"]) - float(fresh.last["train_loss"])


@dataclass(frozen=True)
class Probe:
    """A kind of probe with its options. Its optimiser is a new one: the run's own kind unless another is named."""

    id: ClassVar[str]
    run: ClassVar[type[ProbeRun]]
    of_labels: ClassVar[bool] = True
    """Whether it asks for classes, and so for a head that knows them."""

    epochs: int = parts.option(0, f"its budget; default --probe-epochs, {EPOCHS}", least=0, most=10**6)
    optimizer: str = parts.option("own", "the run's own kind, or another", choices=("own", *OPTIMIZER_LR))
    lr: float = parts.option(0.0, "learning rate; default the run's, of another optimiser its usual one", least=0)

    @property
    def label(self) -> str:
        """As it is written."""
        return parts.written(self)

    def for_epochs(self, epochs: int | None) -> Self:
        """With a budget, where it names none."""
        return self if self.epochs else replace(self, epochs=epochs or EPOCHS)

    def runs(self, parent: RunSpec, epoch: int) -> list[RunSpec]:
        """The runs that probe a parent after an epoch."""
        return [self.spec(parent, self.run(parent.id, epoch, self.epochs or EPOCHS))]

    def spec(self, parent: RunSpec, scenario: ProbeRun) -> RunSpec:
        """A probe of a parent as a run: its network, data, interventions and seed; what it asks is the kind's own."""
        if hasattr(parent.scenario, "outputs"):
            scenario = replace(scenario, of_scenario=said(parent.scenario))
        return replace(
            parent, scenario=scenario, optimizer=self._optimizer(parent), objective=None, probes=(), probe_every=None,
            measure=MeasureSpec(metrics=PROBE_MEASURES, every=1 << 40, task_accuracy="current"),
        )  # fmt: skip

    def _optimizer(self, parent: RunSpec) -> Any:
        own = parent.optimizer
        if self.optimizer not in ("own", own.name):
            own = replace(own, name=self.optimizer, momentum=0.0, lr=OPTIMIZER_LR[self.optimizer])
        return replace(own, lr=self.lr) if self.lr else own


def said(scenario: Any) -> str:
    """A scenario and its options, as a probe keeps them."""
    return json.dumps({"id": scenario.id, **asdict(scenario)}, sort_keys=True)


PROBE_MEASURES = ("train_accuracy", "train_loss", "test_accuracy", "test_loss", "unexplained_variance")
"""What a probe is measured for, at its end."""
