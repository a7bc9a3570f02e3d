"""Coarse labels, then the finer ones (H22): does collapse on groups of classes cost what tells their members apart?

The network learns which group a class lies in. The classes themselves are the label set `fine`, of the same images and
the same forward pass: splits `fine_train`, `fine_test` and, of training images left over, `fine_fresh`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from ncpl_cli import values
from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.errors import InputError
from ncpl_cli.scenarios.choice import Index, check_per_class, class_order, of_class, relabelled
from ncpl_cli.scenarios.task import Task, TaskSequence, option, sample_order


def read_groups(text: str, said: str) -> str:
    """`2` or `0,1,8,9/2-7`: how many groups of classes, or which; in one form however it was written."""
    if "/" not in text:
        return str(values.read(text, values.Allowed(int, least=2, most=10**6), said))
    groups = [sorted(values.ranges(part, said)) for part in text.split("/")]
    named = [label for group in groups for label in group]
    if twice := sorted({label for label in named if named.count(label) > 1}):
        raise InputError(f"{said} {values.shown(text)} is impossible: class {twice[0]} lies in two groups.")
    return "/".join(",".join(map(str, group)) for group in groups)


@dataclass(frozen=True)
class CoarseLabels(TaskSequence):
    """Train on groups of classes; the classes themselves are measured as splits fine_train, fine_fresh, fine_test.

    Read-outs of the classes stand at fine_test: fitted on the training images or, `_fresh`, on others, which
    --per-class or --train-samples leaves over (as many of each class as are trained on). The network has an output
    for each group.
    """

    id: ClassVar[str] = "coarse-labels"
    preset: ClassVar[Mapping[str, object]] = {
        "dataset": "digits", "network": "mlp", "lr": 0.05, "momentum": 0.9, "batch_size": 100,
    }  # fmt: skip
    horizon_field: ClassVar[str] = "epochs"
    tasks: ClassVar[int] = 1
    measures: ClassVar[tuple[str, ...]] = ("readouts",)

    groups: str = option("2", "how many groups of classes, or which: 0,1,8,9/2-7", form=read_groups)
    grouping: str = option("order", "classes as they are numbered, or drawn by seed", choices=("order", "random"))
    per_class: int | None = option(None, "training images of each class; default all")
    epochs: int = option(100, "epochs", identity=False)

    @classmethod
    def of(cls, given: dict[str, Any]) -> Self:
        """The scenario with the options that were given; raises InputError on an impossible combination."""
        scenario = cls(**given)
        scenario = replace(scenario, groups=read_groups(scenario.groups, "--groups"))
        if "/" in scenario.groups and scenario.grouping == "random":
            raise InputError(
                "--grouping random draws the groups, and --groups names them: give one.",
                "with --grouping random, --groups says how many: --groups 2",
            )
        return scenario

    def check_data(self, data: Dataset) -> None:
        """Raise InputError where these options do not fit the data."""
        if "/" in self.groups:
            named = sorted(int(label) for group in self.groups.split("/") for label in group.split(","))
            if named != list(range(data.classes)):
                other = sorted(set(named) ^ set(range(data.classes)))
                what = "is no class" if other[0] >= data.classes else "lies in no group"
                raise InputError(
                    f"--groups {self.groups} is impossible: {other[0]} {what} of {data.name}, whose classes are 0 to "
                    f"{data.classes - 1}."
                )
        if self.outputs(data) >= data.classes:
            raise InputError(
                f"--groups {self.groups} is impossible: {data.name} has {data.classes} classes, and one group must "
                f"hold two of them.",
                f"--groups 2 to {data.classes - 1}" if data.classes > 2 else "",
            )
        if self.per_class is not None:
            check_per_class(self.per_class, data, f"--per-class {self.per_class}")

    def outputs(self, data: Dataset) -> int:
        """One for each group."""
        return int(self.groups) if "/" not in self.groups else self.groups.count("/") + 1

    def group_of(self, data: Dataset, seed: int) -> Index:
        """The group of each class, (classes,): as equal in size as can be, unless they are named."""
        if "/" in self.groups:
            groups = [[int(label) for label in group.split(",")] for group in self.groups.split("/")]
        else:
            drawn = self.grouping == "random"
            classes = class_order(seed, data.classes) if drawn else np.arange(data.classes)
            groups = [part.tolist() for part in np.array_split(classes, int(self.groups))]
        found = np.zeros(data.classes, np.int64)
        for place, group in enumerate(groups):
            found[group] = place
        return found

    def task(self, index: int, data: Dataset, seed: int) -> Task:
        """The groups as labels, the classes as the further label set `fine`."""
        group = self.group_of(data, seed)
        whole = np.arange(len(data.train))
        by_class = [of_class(seed, data.train, label) for label in range(data.classes)]
        chosen = whole if self.per_class is None else np.sort(np.concatenate([c[: self.per_class] for c in by_class]))
        parts: dict[str, Split] = {}
        fine = {"train": data.train.labels[chosen], "test": data.test.labels}
        if self.per_class is not None:
            parts["train"] = relabelled(data.train, chosen, group)
        if data.validation is not None:
            parts["validation"] = relabelled(data.validation, np.arange(len(data.validation)), group)
        fresh = self._fresh(data, by_class, seed)
        if fresh is not None:
            parts["fresh"], fine["fresh"] = fresh.under(group[fresh.labels]), fresh.labels
        order = sample_order(seed, index, len(chosen))
        return Task(
            index=index, epochs=self.epochs, order=lambda task_epoch: chosen[order(task_epoch)],
            train_labels=group[data.train.labels], test_labels=group[data.test.labels], outputs=self.outputs(data),
            parts=parts, label_sets={"fine": fine},
        )  # fmt: skip

    def _fresh(self, data: Dataset, by_class: list[Index], seed: int) -> Split | None:
        """Training images that are left over, as many of each class as are trained on, where there are so many; None
        where a class has none left: a read-out fitted on the others would not know it.
        """
        count, rest = self.per_class, data.left_over
        sizes = [len(rows) if count is None else count for rows in by_class]
        if count is not None and all(len(rows) > count for rows in by_class):
            split, left = data.train, [rows[count:] for rows in by_class]
        elif rest is not None:
            split, left = rest, [of_class(seed, rest, label) for label in range(data.classes)]
        else:
            return None
        if not all(map(len, left)):
            return None
        return split.take(np.sort(np.concatenate([rows[:most] for rows, most in zip(left, sizes, strict=True)])))
