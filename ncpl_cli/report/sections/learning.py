"""Learning curves and task accuracies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ncpl_cli.analysis import Series
from ncpl_cli.report import curves
from ncpl_cli.report.blocks import Block, Section, table
from ncpl_cli.report.curves import Array
from ncpl_cli.report.material import Material, Part

if TYPE_CHECKING:
    import pandas as pd

ID, TITLE = "learning", "Learning curves and task accuracies"

OVER_TASKS = ("online_accuracy", "test_accuracy", "train_accuracy", "train_loss")
OVER_EPOCHS = ("train_accuracy", "test_accuracy", "train_loss", "test_loss", "validation_accuracy")


def draw(material: Material) -> Section:
    """Accuracy over tasks or epochs, and how well earlier tasks are still known."""
    blocks: list[Block] = []
    for i, part in enumerate(material.parts):
        blocks += _of(part, material, f"{ID}-{i}")
    if not blocks:
        return Section.empty(ID, TITLE, "No chosen run has recorded an epoch.", "ncpl train permuted-digits")
    return Section(ID, TITLE, tuple(blocks))


def _of(part: Part, material: Material, id_: str) -> list[Block]:
    addresses = OVER_TASKS if part.several else OVER_EPOCHS
    numbers = curves.frame(part, curves.panels(part, material, addresses))
    if not len(numbers):
        return []
    online = "Online accuracy is that of a task's first epoch, all else is at the task's last epoch. "
    caption = f"{part.scenario}: learning. {online if part.several else ''}".rstrip()
    panel = str(numbers["panel"].iloc[0])
    blocks: list[Block] = [
        curves.figure(
            part.figure_id(f"accuracy-by-{part.unit}"), caption, numbers, part, alt=curves.ends(numbers, panel)
        )
    ]
    blocks.append(_first_and_last(part, f"{id_}-ends"))
    kept = _retention(part, material)
    if len(kept):
        blocks.append(
            curves.figure(
                part.figure_id("accuracy-on-earlier-tasks"),
                f"{part.scenario}: what is still known of a task, so many tasks later: test accuracy on earlier tasks, "
                f"read at the end of every task.",
                kept, part, alt=curves.ends(kept, RETENTION), x="tasks since", y="test accuracy on that task",
            )
        )  # fmt: skip
    return blocks


RETENTION = "accuracy on earlier tasks"


def _retention(part: Part, material: Material) -> pd.DataFrame:
    def read(series: Series) -> tuple[Array, Array]:
        found = material.retention.get(series.run.id, {})
        return np.array(list(found), dtype=float), np.array([mean for mean, _ in found.values()], dtype=float)

    numbers = curves.frame(part, {RETENTION: curves.Panel(read, 0.0, 1.0)})
    return numbers if len(numbers) and numbers["x"].max() > 0 else numbers.iloc[:0]


def _first_and_last(part: Part, id_: str) -> Block:
    """First and last values of every group, also of those that are not drawn."""
    names = [a for a in (OVER_TASKS if part.several else OVER_EPOCHS) if part.has(a)]
    rows = []
    for label, group in zip(part.labels, part.groups, strict=True):
        for name in names:
            lines = [curves.points(s, name, several=part.several) for s in group.series]
            summary = curves.over_runs([x for x, _ in lines], [y for _, y in lines])
            if len(summary["x"]):
                at = {key: (float(v[0]), float(v[-1])) for key, v in summary.items()}
                rows.append((label, name, len(group.series), *at["mean"], at["low"][1], at["high"][1], at["x"][1]))
    columns = ("group", "metric", "runs", "first", "last", "last: low", "last: high", f"last {part.unit}")
    return table(id_, f"{part.scenario}: first and last values, means over runs, 95 % t interval", columns, rows)
