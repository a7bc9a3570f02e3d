"""The forgetting matrix: which earlier tasks are tested again after an epoch, and how well they are still done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ncpl_cli.data.dataset import Dataset, Split
from ncpl_cli.data.sparse import largest, permuted_rows_times_matrix, sparse
from ncpl_cli.metrics.forward import LaterLayers, classified, evaluating, first_weights, rectified, view
from ncpl_cli.networks import MLP, Network
from ncpl_cli.scenarios.task import Task

TOGETHER = 1024
"""Images that go through the layers together: what a layer takes and gives stays in the second-level cache."""

RECENT, GRID = 10, 20
"""`end` looks at the task at hand and the nine before it, and at some 20 (at most 21) over all that were seen."""

CHOICES = ("current", "end", "all", "every")


def evaluated_tasks(which: str, index: int, last: bool) -> list[int]:
    """The tasks whose accuracy is taken after an epoch of task `index`, `last` of its epochs or not, in order.

    current  none (the task at hand is measured anyway)
    end      after its last epoch task 0, the last ten and every s-th, s the smallest power of two >= (index + 1) / 20:
             at most 31 of any number, the same ones whatever the horizon is; all of the first 20
    all      after its last epoch all that were seen
    every    after every epoch all that were seen
    """
    assert which in CHOICES
    if which == "current" or (which != "every" and not last):
        return []
    if which != "end":
        return list(range(index + 1))
    step = 1
    while step * GRID < index + 1:
        step *= 2
    return sorted({*range(0, index + 1, step), *range(max(0, index + 1 - RECENT), index + 1)})


def task_accuracy(
    network: Network, data: Dataset, tasks: Sequence[Task], samples: int, device: str, now: Task | None = None
) -> dict[int, float]:
    """Accuracy on `samples` of each task's test images, by task: a row of the matrix.

    Tasks that show the same images are done in one pass: in another pixel order, they differ in the first layer's
    rows alone; in the same order, only in their labels. `now`: the task at hand, which says how far a head has grown.
    """
    own = [task for task in tasks if "test" in task.parts]
    if own:  # each has test images of its own
        rest = task_accuracy(network, data, [task for task in tasks if "test" not in task.parts], samples, device)
        return rest | {task.index: _of_own_images(network, data, task, samples, device, now or task) for task in own}
    if not tasks:
        return {}
    split, rows = data.test.drawn(samples), data.test.draw(samples)
    shown: dict[int | None, int] = {}  # pixel orders, by what they are, and the place of their predictions
    places = [shown.setdefault(None if t.pixel_order is None else id(t.pixel_order), len(shown)) for t in tasks]
    orders = [tasks[places.index(place)].pixel_order for place in range(len(shown))]
    with evaluating(network):
        predicted = np.concatenate(
            [np.empty((0, len(split)), np.int64), *_predicted(network, data, split, orders, device)]
        )
    return {
        task.index: float((predicted[place] == task.test_labels[rows]).mean())
        for task, place in zip(tasks, places, strict=True)
    }


def _of_own_images(network: Network, data: Dataset, task: Task, samples: int, device: str, now: Task) -> float:
    part = task.parts["test"]
    seen = view(network, data, part, part.labels, task.pixel_order, device=device, samples=samples, layers=(),
                among=task.among_at(now))  # fmt: skip
    return seen.accuracy


def _predicted(
    network: Network, data: Dataset, split: Split, orders: Sequence[NDArray[np.int64] | None], device: str
) -> Iterator[NDArray[np.int64]]:
    """The classes (some orders, n) of a split's images in several pixel orders, some orders together."""
    if not isinstance(network, MLP) or device != "cpu":
        for order in orders:
            blocks = classified(network, data, split, len(split), order, device)
            yield torch.cat([logits for _, (logits, _, _) in blocks]).argmax(1).cpu().numpy()[None]
        return
    weight, bias, width = first_weights(network)
    # x[:, order] @ W: pixel p of an image meets the row of W that is the place of p in the order
    rows = np.empty((len(orders), data.pixels), np.uint32)
    for row, order in zip(rows, orders, strict=True):
        row[slice(None) if order is None else order] = np.arange(data.pixels, dtype=np.uint32)
    images = sparse(split, data.scale, weight.numpy().dtype)
    product = permuted_rows_times_matrix(len(bias))
    together = max(1, TOGETHER // len(split))
    layers = LaterLayers(network, together * len(split)) if rectified(network, device) else None
    memory = torch.empty(min(together, len(orders)), len(split), len(bias), dtype=weight.dtype)
    for start in range(0, len(orders), together):
        out = memory[: len(rows[start : start + together])]
        product(
            images.starts, images.pixels, images.values, rows[start : start + together], weight.numpy(), bias.numpy(),
            out.numpy(),
        )  # fmt: skip
        z = out.flatten(0, 1)
        logits = network.classify_from(z[:, :width])[0] if layers is None else layers(z)
        predicted = np.empty(len(logits), np.int64)
        largest(logits.numpy(), network.classifier.out_features, predicted)
        yield predicted.reshape(-1, len(split))
