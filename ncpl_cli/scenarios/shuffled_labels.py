"""Shuffled labels (K23, L24): the same images, a new labelling each task; of all of them, of a share, or gradually.

share EPS     each task relabels a fresh subset of so many of the samples; the first task all of them
soft:STEP     each task moves all labels by STEP from one labelling towards the next: (1-s) y_old + s y_new
clock change  `tasks` are units of equal total change: 1/share (or 1/STEP) tasks of a share of the unit's epochs each
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ncpl_cli import rng, values
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.errors import InputError
from ncpl_cli.objectives import Objective
from ncpl_cli.scenarios.task import MOST, Task, epochs_of, option, sample_order, shortest
from ncpl_cli.values import Allowed

Labels = NDArray[np.int64]


def _transition(text: str, said: str) -> str:
    """`abrupt` or `soft:STEP`; a step of 1 is abrupt."""
    kind, _, step = text.partition(":")
    if text == "abrupt":
        return text
    if kind != "soft":
        raise InputError(f"{said} {values.shown(text)} is unknown.", "allowed: abrupt, soft:STEP (e.g. soft:0.1)")
    number = float(values.read(step, Allowed(float, above=0, most=1), f"{said} soft: STEP"))
    return "abrupt" if number == 1 else f"soft:{number!r}"


@dataclass(frozen=True)
class ShuffledLabels:
    """Labels shuffled among the images (nothing to generalise: pure memorisation) or among the classes."""

    id: ClassVar[str] = "shuffled-labels"
    preset: ClassVar[dict[str, object]] = {"dataset": "digits", "network": "mlp", "lr": 0.01, "batch_size": 1}
    horizon_field: ClassVar[str] = "tasks"

    tasks: int = option(20, "number of tasks", identity=False)
    epochs: tuple[int, ...] = option((10,), "epochs of each task (the last one repeats)")
    relabel: str = option("samples", "what is shuffled each task", choices=("samples", "classes"))
    share: float = option(1.0, "share of the samples that a task relabels; 0: none", least=0, most=1, newer=True)
    draw: str = option(
        "permute", "labels change places or are drawn anew", choices=("permute", "uniform"), newer=True
    )  # fmt: skip
    clock: str = option(
        "shifts", "--tasks and --epochs are of shifts, or of units of equal total change", choices=("shifts", "change"),
        newer=True,
    )  # fmt: skip
    transition: str = option("abrupt", "abrupt, or soft:STEP: all labels move by STEP", form=_transition, newer=True)

    @classmethod
    def of(cls, given: dict[str, Any]) -> ShuffledLabels:
        """The scenario with the options that were given; raises InputError on an impossible combination.

        A clock of change is kept as the tasks that it means, so that one protocol has one identity.
        """
        scenario = cls(**given)
        if scenario.relabel == "classes":
            for name, changed in (
                ("share", scenario.share != 1), ("draw uniform", scenario.draw != "permute"),
                ("transition soft", scenario.step is not None),
            ):  # fmt: skip
                if changed:
                    raise InputError(f"--{name} relabels samples: it does not go with --relabel classes.")
        if scenario.step is not None and scenario.share != 1:
            raise InputError("--share and --transition soft both say how much a task changes: give one.")
        if scenario.step is not None:
            _whole(scenario.step, "--transition soft: STEP")
        if scenario.clock == "change":
            scenario = scenario._by_shifts()
        return replace(scenario, epochs=shortest(scenario.epochs))

    def _by_shifts(self) -> ShuffledLabels:
        """The same with `tasks` and `epochs` of shifts."""
        what = self.share if self.step is None else self.step
        shifts = 1 if what == 0 else _whole(what, "--clock change: --share" if self.step is None else "soft: STEP")
        if uneven := [epochs for epochs in self.epochs if epochs % shifts]:
            raise InputError(
                f"--clock change makes {shifts} shifts of a unit: its {uneven[0]} --epochs are no multiple of that.",
                f"give --epochs {shifts}, {2 * shifts}, ...",
            )
        if self.tasks * shifts > MOST:
            raise InputError(f"--clock change would be {self.tasks * shifts} shifts: allowed are {MOST}.")
        units = self.epochs if shifts == 1 or len(set(self.epochs)) == 1 else self.epochs[: self.tasks]
        listed = units if len(set(units)) == 1 else tuple(epochs for epochs in units for _ in range(shifts))
        return replace(
            self, tasks=self.tasks * shifts, epochs=tuple(epochs // shifts for epochs in listed), clock="shifts"
        )

    @property
    def step(self) -> float | None:
        """How far labels move in a task; None where they change at once."""
        return float(self.transition.partition(":")[2]) if self.transition != "abrupt" else None

    def check_objective(self, objective: Objective) -> None:
        """Raise InputError where shares of classes are asked in another way."""
        if self.step is not None and objective.id != "cross_entropy":
            raise InputError(f"--transition soft gives shares of classes, which {objective.id} does not take.")

    @property
    def carried_by(self) -> tuple[str, ...]:
        """The compiled loop knows one label a sample."""
        return ("stacked",) if self.step is not None else ("online", "stacked")

    def check_data(self, data: Dataset) -> None:
        """Raise InputError where a share of the samples would be none."""
        if self.share and round(self.share * len(data.train)) == 0:
            raise InputError(f"--share {self.share:g} of {len(data.train)} samples is none of them.", "--share 0")

    @classmethod
    def presets(cls, dataset: str) -> dict[str, object]:
        """Defaults for a data set: the same for all."""
        return dict(cls.preset)

    def task_epochs(self, index: int) -> int:
        """How many epochs task `index` has."""
        return epochs_of(self.epochs, index)

    @property
    def fixed_length(self) -> bool:
        """Whether all runs of these settings have the same number of epochs."""
        return True

    @property
    def lockstep(self) -> bool:
        """Whether runs that differ in seed can advance together."""
        return self.fixed_length

    @property
    def lockstep_key(self) -> ShuffledLabels:
        """What runs that can advance together have in common."""
        return self

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """Task `index` of the run with this seed.

        Of soft labels the shares are trained on; what is measured goes by the label of the larger share.
        """
        splits = {"train": data.train, "test": data.test}
        splits |= {} if data.validation is None else {"validation": data.validation}
        labels, soft = (self._labels(index, data, splits, seed), None) if self.step is None else self._moving(
            index, data, splits, seed
        )  # fmt: skip
        checked = data.validation
        return Task(
            index=index,
            epochs=self.task_epochs(index),
            changes=index > 0 and self.share > 0,
            order=sample_order(seed, index, len(data.train)),
            train_labels=labels["train"],
            test_labels=labels["test"],
            parts={} if checked is None else {"validation": replace(checked, labels=labels["validation"])},
            soft=soft,
        )

    def _labels(self, index: int, data: Dataset, splits: dict[str, Split], seed: int) -> dict[str, Labels]:
        """Labels of every split in a task, where they change at once."""
        if self.share == 1:
            return self._anew(index, data, splits, seed)
        key = (seed, self.share, self.draw)
        at, labels = _REACHED.setdefault(data.train, {}).get(key, (index + 1, {}))
        if at > index or labels.keys() != splits.keys():
            at, labels = 0, self._anew(0, data, splits, seed)
        for shift in range(at + 1, index + 1):
            labels = {name: self._relabelled(own, data, seed, name, shift) for name, own in labels.items()}
        _REACHED[data.train][key] = index, labels
        return labels

    def _anew(self, index: int, data: Dataset, splits: dict[str, Split], seed: int) -> dict[str, Labels]:
        """A labelling of all samples; `index` names its random stream."""
        if self.draw == "uniform":
            return {
                name: rng.stream(seed, "uniform labels", name, index).integers(0, data.classes, len(split))
                for name, split in splits.items()
            }
        draw = rng.stream(seed, "labels", index)
        if self.relabel == "classes":
            renamed = draw.permutation(data.classes)
            return {name: renamed[split.labels] for name, split in splits.items()}
        return {name: split.labels[draw.permutation(len(split))] for name, split in splits.items()}

    def _relabelled(self, labels: Labels, data: Dataset, seed: int, name: str, shift: int) -> Labels:
        """The labels after a shift: a fresh subset is relabelled."""
        draw = rng.stream(seed, "relabelled share", name, shift)
        chosen = draw.choice(len(labels), round(self.share * len(labels)), replace=False)
        found = labels.copy()
        anew = self.draw == "uniform"
        found[chosen] = draw.integers(0, data.classes, len(chosen)) if anew else labels[draw.permutation(chosen)]
        return found

    def _moving(
        self, index: int, data: Dataset, splits: dict[str, Split], seed: int
    ) -> tuple[dict[str, Labels], NDArray[np.float64] | None]:
        """Labels of every split by the larger share, and the training split's shares; None where they are whole."""
        assert self.step is not None
        steps = _whole(self.step, "soft: STEP")
        begun, moved = divmod(index, steps)
        old = self._anew(begun, data, splits, seed)
        if not moved:
            return old, None
        new, share = self._anew(begun + 1, data, splits, seed), moved / steps
        one_hot = np.eye(data.classes)
        soft = (1 - share) * one_hot[old["train"]] + share * one_hot[new["train"]]
        return (new if share >= 0.5 else old), soft


_REACHED: weakref.WeakKeyDictionary[Split, dict[Any, tuple[int, dict[str, Labels]]]] = weakref.WeakKeyDictionary()
"""By training split and stream: the last task whose labels were worked out, and these; the next one goes on there."""


def _whole(share: float, said: str) -> int:
    """1/share; raises InputError where that is no whole number."""
    count = round(1 / share)
    if abs(count * share - 1) > 1e-9:
        raise InputError(f"{said} {share:g} does not divide 1: allowed are 1, 0.5, 0.25, 0.2, 0.1, 0.05, 0.01, ...")
    return count
