"""What is left of earlier tasks: numbers of the forgetting matrix, and of the first task's features.

a_tk is the accuracy on task k at the last epoch of task t. Pure functions, and what a run must remember for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ncpl_cli.data.dataset import Dataset
from ncpl_cli.matrix import numbers_of_row
from ncpl_cli.metrics.forgetting import task_accuracy
from ncpl_cli.metrics.forward import view
from ncpl_cli.metrics.neural_collapse import collapse, means_of
from ncpl_cli.networks import Network
from ncpl_cli.records import Address
from ncpl_cli.scenarios.task import Task

OF_FIRST = ("drift_of_means", "readout_gap")
FIRST = "first"
"""The split of what is measured on the first task's images while later ones are trained."""

SAMPLES = 2000
"""Images of the first task, of either split, that its features are measured on."""

PREFIX = "task.retained."


@dataclass
class Retained:
    """What one run remembers of its earlier tasks.

    learned  a_kk; best: the largest a_tk of tasks t before the one at hand
    ahead    accuracy on task k >= 1 before its first step, minus the untrained network's
    means    class means of the first task's training features at its end, (K, d)
    """

    learned: dict[int, float] = field(default_factory=dict)
    best: dict[int, float] = field(default_factory=dict)
    ahead: list[float] = field(default_factory=list)
    means: Tensor | None = None

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        found = {} if self.means is None else {f"{PREFIX}means": self.means.cpu()}
        numbers = {"learned": self.learned, "best": self.best, "ahead": dict(enumerate(self.ahead))}
        for name, of in numbers.items():
            if of:
                found[f"{PREFIX}{name}"] = torch.tensor([[k, v] for k, v in of.items()], dtype=torch.float64)
        return found

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""

        def numbers(name: str) -> dict[int, float]:
            found = saved.get(f"{PREFIX}{name}")
            return {} if found is None else {int(k): float(v) for k, v in found.tolist()}

        self.learned, self.best = numbers("learned"), numbers("best")
        self.ahead, self.means = list(numbers("ahead").values()), saved.get(f"{PREFIX}means")

    def end(self, task: int, row: Mapping[int, float]) -> None:
        """A task has ended with this row of the matrix."""
        if task in row:
            self.learned[task] = row[task]
        for k, accuracy in row.items():
            self.best[k] = max(accuracy, self.best.get(k, accuracy))

    def of_matrix(self, task: int, row: Mapping[int, float]) -> tuple[dict[str, float], dict[str, str]]:
        """Numbers of a row of the matrix (before `end` has taken it), and why one is undefined."""
        return numbers_of_row(task, row, self.learned, self.best)

    def forward_transfer(self, task: int) -> tuple[dict[str, float], dict[str, str]]:
        """Mean over tasks 1 <= k <= t of the accuracy on k before its first step minus the untrained network's."""
        if task == 0:
            return {}, {"forward_transfer": "first task"}
        if len(self.ahead) != task:
            return {}, {"forward_transfer": "not every task was evaluated before it began"}
        return {"forward_transfer": sum(self.ahead) / task}, {}


def look_ahead(
    retained: Retained, network: Network, untrained: Network, data: Dataset, task: Task, samples: int, device: str
) -> None:
    """Before the first step of a task after the first: what the network can do of it, against the untrained one."""
    now, before = (task_accuracy(of, data, [task], samples, device)[task.index] for of in (network, untrained))
    retained.ahead.append(now - before)


def of_first(
    retained: Retained, network: Network, data: Dataset, seen: Sequence[Task], head: float | None, last: bool,
    device: str,
) -> tuple[dict[Address, float], dict[Address, str]]:  # fmt: skip
    """The first task's features under the network as it is, at split `first`; why something is undefined.

    nc1             of its training images, by its own labels
    drift_of_means  |M_t - M_0| / |M_0|, M the centred class means (Frobenius) at the end of the first task and now
    readout_gap     accuracy on its test images of the nearest class mean of its training images as they now are, minus
                    that of the head: what is forgotten by the head alone (shallow), not by the features (deep)
    """
    first = seen[0]
    shown, classes = first.measured(data), first.classes(data)
    views = {
        name: view(network, data, shown[name].split, shown[name].labels, first.pixel_order, device=device,
                   samples=SAMPLES)
        for name in ("train", "test")
    }  # fmt: skip
    train, test = (views[name].layers["last"] for name in ("train", "test"))
    means = means_of(train, views["train"].labels, classes)
    values, undefined = dict[str, float](), dict[str, str]()
    result = collapse(train, views["train"].labels, classes=classes, metrics=("nc1",))
    values |= {name: value for name, value in result.values.items() if name not in result.undefined}
    undefined |= result.undefined
    of_test = collapse(test, views["test"].labels, classes=classes, train_means=means, metrics=("ncc_error",))
    if head is not None and "ncc_error" not in of_test.undefined:
        values["readout_gap"] = 1 - of_test["ncc_error"] - head
    else:
        undefined["readout_gap"] = "the first task was not evaluated at this epoch"
    labels = torch.from_numpy(views["train"].labels).to(train.device)
    of_classes = torch.stack(
        [train[labels == label].double().mean(0) for label in first.classes_trained.tolist()]
    )  # K x d
    centred = of_classes - of_classes.mean(0)
    if len(seen) == 1:
        undefined["drift_of_means"] = "first task"
        if last:
            retained.means = centred.detach().cpu().clone()
    elif retained.means is None:
        undefined["drift_of_means"] = "the run was begun before this was measured"
    else:
        before = retained.means.to(centred)
        size = float(before.norm())
        if size > 0:
            values["drift_of_means"] = float((centred - before).norm()) / size
        else:
            undefined["drift_of_means"] = "no between-class scatter at the end of the first task"
    kept = ("nc1", *OF_FIRST)
    return (
        {Address(name, FIRST): value for name, value in values.items() if name in kept},
        {Address(name, FIRST): why for name, why in undefined.items() if name in kept},
    )
